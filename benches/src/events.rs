//! What the index of the audit log costs and gives: events a second with and without it, bytes for an event, and a search for one
//! user among a million events beside reading the files.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use futures_util::future::try_join_all;
use teleport_backend::audit::file::{Checkpoints, FileAuditConfig, FileAuditLog, SyncPolicy};
use teleport_backend::audit::index::IndexedAuditLog;
use teleport_core::audit::{AuditEvent, AuditLog, AuditQuery, AuditSink, EventKind, MAX_EVENTS};
use teleport_core::clock::{Clock, SystemClock, Timestamp};
use teleport_core::entropy::{Entropy, EntropyExt, SystemEntropy};
use teleport_core::storage::{Backend, Prefix};
use teleport_core::testing::KnownKeySigner;
use tokio::time::Instant;

use crate::Scale;
use crate::report::{Goal, Row, median};

const CALLERS: usize = 16;
/// Who is looked for: one of so many.
const USERS: usize = 10_000;

/// Rates, size, searches.
///
/// # Errors
/// What fails.
pub async fn run(scale: Scale) -> Result<Vec<Row>> {
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for _ in 0..scale.of(3, 1) {
        without.push(rate(scale, false).await?);
        with.push(rate(scale, true).await?);
    }
    let off = ("without", median(without));
    let mut rows = vec![Row::against(
        "audit events, 16 callers, with an index",
        "events/s",
        median(with),
        off,
        Goal::AtLeast(0.8),
    )];
    rows.extend(searched(scale).await?);
    Ok(rows)
}

/// A login that was refused, as there are many in a burst.
fn event(number: usize, time: Timestamp, entropy: &dyn Entropy) -> Result<AuditEvent> {
    let client: [u8; 6] = entropy.bytes()?;
    let [a, b, c, d, high, low] = client;
    let mut event = AuditEvent::new(EventKind::UserLoginFailure)
        .user(format!("user-{}", number * 7919 % USERS))
        .remote(Some(SocketAddr::from(([a, b, c, d], u16::from_be_bytes([high, low])))))
        .error("the password, the code or the name is wrong")
        .field("method", "local");
    (event.uid, event.time) = (entropy.uuid()?, time);
    "example.com".clone_into(&mut event.cluster_name);
    Ok(event)
}

async fn files(directory: &Path, backend: &Arc<dyn Backend>, sync: SyncPolicy) -> Result<Arc<FileAuditLog>> {
    let log = FileAuditLog::builder(
        directory.join("audit"),
        Arc::new(SystemClock::new()),
        Arc::new(SystemEntropy::new()),
    );
    let checkpoints = Checkpoints {
        service: None,
        cluster: "example.com".parse()?,
        signer: Arc::new(KnownKeySigner::new(1)),
        storage: Arc::clone(backend),
    };
    let config = FileAuditConfig { sync, ..FileAuditConfig::default() };
    Ok(Arc::new(log.config(config).checkpoints(checkpoints).open().await?))
}

async fn storage(directory: &Path) -> Result<Arc<dyn Backend>> {
    let url = format!("redb:{}", directory.join("backend.redb").display());
    Ok(teleport_backend::open(&url, Arc::new(SystemClock::new())).await?)
}

fn indexed(files: &Arc<FileAuditLog>, backend: &Arc<dyn Backend>) -> Result<IndexedAuditLog> {
    let key = teleport_core::secret::SecretBytes::new((0..32).collect::<Vec<u8>>());
    let sealer = teleport_ca::seal::Sealer::new(&key, Arc::new(SystemEntropy::new()))?;
    let (backend, clock) = (Arc::clone(backend), Arc::new(SystemClock::new()));
    Ok(IndexedAuditLog::start(Arc::clone(files), backend, Arc::new(sealer), clock))
}

/// Events a second, each of them durable before the next.
async fn rate(scale: Scale, with: bool) -> Result<f64> {
    let directory = tempfile::tempdir()?;
    let backend = storage(directory.path()).await?;
    let files = files(directory.path(), &backend, SyncPolicy::Always).await?;
    let index = with.then(|| indexed(&files, &backend)).transpose()?;
    let (clock, entropy) = (SystemClock::new(), SystemEntropy::new());
    let began = Instant::now();
    let time = Duration::from_millis(scale.of(5000, 200));
    let callers = (0..CALLERS).map(async |caller| {
        let mut count = 0_usize;
        while began.elapsed() < time {
            files.emit(vec![event(caller + count, clock.now(), &entropy)?]).await?;
            count += 1;
        }
        anyhow::Ok(count)
    });
    let count: usize = try_join_all(callers).await?.into_iter().sum();
    let rate = count as f64 / began.elapsed().as_secs_f64();
    match index {
        Some(index) => index.close().await,
        None => files.close().await,
    }
    backend.close().await;
    Ok(rate)
}

/// How many events a query finds, page by page, and how long that takes in milliseconds.
async fn find(log: &dyn AuditLog, mut query: AuditQuery) -> Result<(usize, f64)> {
    let (began, mut count) = (Instant::now(), 0);
    loop {
        let page = log.search(query.clone()).await?;
        ensure!(page.incomplete.is_none(), "{:?}", page.incomplete);
        count += page.events.len();
        query.after = page.next;
        if query.after.is_none() {
            return Ok((count, began.elapsed().as_secs_f64() * 1e3));
        }
    }
}

async fn searched(scale: Scale) -> Result<Vec<Row>> {
    let events = scale.of(1_000_000, 5_000);
    let directory = tempfile::tempdir()?;
    let backend = storage(directory.path()).await?;
    let files = files(directory.path(), &backend, SyncPolicy::Interval(Duration::from_millis(100))).await?;
    let entropy = SystemEntropy::new();
    // An hour of them.
    let first = SystemClock::new().now().saturating_sub(Duration::from_secs(3600));
    let time = |number: usize| {
        first.saturating_add(Duration::from_millis(
            (number * 3_600_000 / events).try_into().unwrap_or_default(),
        ))
    };
    for start in (0..events).step_by(500) {
        let batch: Result<_> =
            (start..start + 500).map(|number| event(number, time(number), &entropy)).collect();
        files.emit(batch?).await?;
    }
    // What is synced is indexed.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let began = Instant::now();
    let index = indexed(&files, &backend)?;
    index.indexed().await;
    let built = events as f64 / began.elapsed().as_secs_f64();
    let (mut stored, mut after) = (0, None);
    let collection = Prefix::new("audit/index")?;
    loop {
        let items = backend.range(&collection, after.as_ref(), 100).await?;
        stored += items.iter().map(|item| item.value.len() + item.key.as_str().len()).sum::<usize>();
        match items.last() {
            Some(last) => after = Some(last.key.clone()),
            None => break,
        }
    }
    let mut written = 0;
    for file in std::fs::read_dir(directory.path().join("audit"))? {
        written += file?.metadata()?.len();
    }
    let each = |bytes: f64| bytes / events as f64;
    let mut rows = vec![
        Row::against(
            "the index of an event",
            "bytes",
            each(stored as f64),
            ("its line", each(written as f64)),
            Goal::Free,
        ),
        Row::alone("events added to an index that was lost", "events/s", built, Goal::Free),
    ];
    let one = AuditQuery { user: Some("user-77".to_owned()), limit: MAX_EVENTS, ..AuditQuery::default() };
    let newest = AuditQuery { newest_first: true, limit: 100, ..AuditQuery::default() };
    let (mut ours, mut theirs, mut first_page) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..scale.of(5, 1) {
        let (by_index, took) = find(&index, one.clone()).await?;
        ours.push(took);
        let (by_files, took) = find(&*files, one.clone()).await?;
        theirs.push(took);
        ensure!(by_index == by_files && (by_index > 0 || events < USERS), "{by_index} and {by_files} events");
        let began = Instant::now();
        ensure!(index.search(newest.clone()).await?.events.len() == 100, "the newest");
        first_page.push(began.elapsed().as_secs_f64() * 1e3);
    }
    let base = ("the files", median(theirs));
    rows.push(Row::against("a user among a million events", "ms", median(ours), base, Goal::AtMost(1.0)));
    rows.push(Row::alone(
        "the newest 100 of a million events",
        "ms",
        median(first_page),
        Goal::AtMost(100.0),
    ));
    index.close().await;
    backend.close().await;
    Ok(rows)
}
