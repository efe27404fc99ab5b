//! What the audit log's chain costs: events a second with sixteen callers who share syncs, and reading a log again.
#![allow(
    clippy::expect_used,
    missing_docs,
    reason = "a bench fails by panicking; its functions are named by a macro"
)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use teleport_backend::audit::file::{Checkpoints, FileAuditConfig, FileAuditLog, SyncPolicy, verify};
use teleport_backend::memory::MemoryBackend;
use teleport_core::audit::chain::{Chain, CheckpointSigner, Verifier};
use teleport_core::audit::{AuditEvent, AuditSink, EventKind};
use teleport_core::clock::{Clock, SystemClock};
use teleport_core::entropy::SystemEntropy;
use teleport_core::id::ClusterName;
use teleport_core::testing::KnownKeySigner;

const CALLERS: usize = 16;

fn event() -> AuditEvent {
    let mut event = AuditEvent::new(EventKind::Exec)
        .user("alice@example.com")
        .field("command", "/usr/bin/rsync --server -logDtpre.iLsfxCIvu . /srv/data");
    event.time = SystemClock::new().now();
    event
}

async fn open(directory: &std::path::Path, sync: SyncPolicy, signed: bool) -> FileAuditLog {
    let clock = Arc::new(SystemClock::new());
    let config = FileAuditConfig { sync, ..FileAuditConfig::default() };
    let mut log =
        FileAuditLog::builder(directory, clock.clone(), Arc::new(SystemEntropy::new())).config(config);
    if signed {
        log = log.checkpoints(Checkpoints {
            service: None,
            cluster: ClusterName::new("example.com").expect("a name"),
            signer: Arc::new(KnownKeySigner::new(1)),
            storage: Arc::new(MemoryBackend::new(clock)),
        });
    }
    log.open().await.expect("a log")
}

fn chain(c: &mut Criterion) {
    let json = serde_json::to_vec(&event()).expect("an event");
    let mut group = c.benchmark_group("an audit event");
    group
        .bench_function("as JSON", |b| b.iter(|| serde_json::to_vec(black_box(&event())).expect("an event")));
    group.bench_function("number and digest", |b| {
        let (mut chain, mut out) = (Chain::new(), Vec::new());
        b.iter(|| {
            out.clear();
            chain.append(black_box(&json), &mut out).expect("an entry");
        });
    });
    group.finish();
}

fn emit(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("a runtime");
    let mut group = c.benchmark_group("audit events, 16 parallel callers");
    group
        .throughput(Throughput::Elements(CALLERS as u64))
        .sample_size(20)
        .measurement_time(Duration::from_secs(5));
    for (name, sync, signed) in [
        ("always, chain", SyncPolicy::Always, false),
        ("always, chain and checkpoints", SyncPolicy::Always, true),
        ("interval, chain and checkpoints", SyncPolicy::Interval(Duration::from_secs(1)), true),
    ] {
        let directory = tempfile::tempdir().expect("a directory");
        let log = runtime.block_on(open(directory.path(), sync, signed));
        group.bench_function(name, |b| {
            b.iter(|| {
                runtime.block_on(async {
                    let all = (0..CALLERS).map(|_| log.emit(vec![event()]));
                    for result in futures_util::future::join_all(all).await {
                        result.expect("an entry");
                    }
                });
            });
        });
    }
    group.finish();
}

fn read(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let directory = tempfile::tempdir().expect("a directory");
    runtime.block_on(async {
        let log = open(directory.path(), SyncPolicy::Interval(Duration::from_secs(1)), true).await;
        for _ in 0..200 {
            log.emit(vec![event(); 100]).await.expect("entries");
        }
        log.close().await;
    });
    let bytes: u64 = std::fs::read_dir(directory.path())
        .expect("files")
        .map(|entry| entry.and_then(|entry| entry.metadata()).expect("a file").len())
        .sum();
    let mut group = c.benchmark_group("verify 20,000 entries");
    group.throughput(Throughput::Bytes(bytes)).sample_size(10);
    group.bench_function("stream", |b| {
        b.iter(|| {
            let verifier = Verifier::new([CheckpointSigner::key(&KnownKeySigner::new(1))]);
            verify(directory.path(), verifier, None, &mut |_| Ok(())).expect("a whole log")
        });
    });
    group.finish();
}

criterion_group!(benches, chain, emit, read);
criterion_main!(benches);
