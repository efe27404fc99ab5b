//! The parts that can be measured in one process: certificates, the form of recordings.
#![allow(
    clippy::expect_used,
    missing_docs,
    reason = "a bench fails by panicking; its functions are named by a macro"
)]

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ring::signature::Ed25519KeyPair;
use teleport_benches::certificates::authority;
use teleport_core::clock::Timestamp;
use teleport_core::entropy::SystemEntropy;
use teleport_core::id::{ClusterName, HostId, NodeName, OsLogin, SessionId, UserName};
use teleport_core::recording::{Decoder, Encoder, OutputStream, RecordingMeta};

fn certificates(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let (ca, grant, key) = runtime.block_on(authority()).expect("an authority");
    let raw = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("a key");
    let mut group = c.benchmark_group("user certificate");
    group.bench_function("ring signature of 500 bytes", |b| b.iter(|| raw.sign(black_box(&[7; 500]))));
    group.bench_function("signed by the authority", |b| {
        b.iter(|| runtime.block_on(ca.sign_user_ssh(&grant, &key)).expect("a certificate"));
    });
    group.finish();
}

fn meta() -> RecordingMeta {
    let entropy = SystemEntropy::new();
    RecordingMeta {
        session: SessionId::random(&entropy).expect("randomness"),
        cluster: ClusterName::new("example.com").expect("a name"),
        host_id: HostId::random(&entropy).expect("randomness"),
        host_name: NodeName::new("web-1").expect("a name"),
        user: UserName::new("alice").expect("a name"),
        login: OsLogin::new("root").expect("a name"),
        started: Timestamp::from_unix_secs(1_800_000_000),
        command: None,
        terminal: Some((80, 25)),
    }
}

/// What a build writes: lines that resemble each other.
fn log(len: usize) -> Vec<u8> {
    let line = |number: usize| {
        format!("[{number:6}] Compiling crate-{} v0.{}.{}\r\n", number % 97, number % 7, number)
    };
    (0..).flat_map(|number| line(number).into_bytes()).take(len).collect()
}

fn encode(data: &[u8]) -> Vec<u8> {
    let mut encoder = Encoder::new(&meta()).expect("memory");
    let mut file = Vec::new();
    for (index, piece) in data.chunks(32 << 10).enumerate() {
        let at = Duration::from_millis(index as u64);
        encoder.output(at, OutputStream::Stdout, piece).expect("memory");
        file.extend(encoder.take(false).expect("memory"));
    }
    file.extend(encoder.take(true).expect("memory"));
    file
}

fn recordings(c: &mut Criterion) {
    let data = log(4 << 20);
    let file = encode(&data);
    let mut group = c.benchmark_group("recording of 4 MiB");
    group.throughput(Throughput::Bytes(data.len() as u64));
    group.bench_function("write", |b| b.iter(|| encode(black_box(&data))));
    group.bench_function("read", |b| {
        b.iter(|| {
            let mut decoder = Decoder::new().expect("memory");
            let mut events = 0;
            for piece in file.chunks(1 << 20) {
                decoder.feed(piece);
                while decoder.next_event().expect("sound").is_some() {
                    events += 1;
                }
            }
            events
        });
    });
    group.finish();
}

criterion_group!(benches, certificates, recordings);
criterion_main!(benches);
