//! The index of audit logs: events of every service are found by each, whatever fails, and the files stay the truth.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use teleport_backend::audit::file::{Checkpoints, FileAuditConfig, FileAuditLog, SyncPolicy};
use teleport_backend::audit::index::IndexedAuditLog;
use teleport_backend::conformance;
use teleport_backend::memory::MemoryBackend;
use teleport_backend::redb::RedbBackend;
use teleport_backend::wrap::FaultBackend;
use teleport_core::audit::{
    AuditError, AuditEvent, AuditLog, AuditPage, AuditQuery, AuditSink, EventKind, MAX_EVENTS,
};
use teleport_core::clock::{Clock, SystemClock, Timestamp};
use teleport_core::entropy::SystemEntropy;
use teleport_core::id::ClusterName;
use teleport_core::storage::{
    Backend, BackendExt, Batch, Item, Key, Prefix, Revision, StorageError, Watch, WatchEvent,
};
use teleport_core::task::TaskScope;
use teleport_core::testing::{KnownKeySealer, KnownKeySigner, ManualClock};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::child::{self, CYCLE};

const DAY: Duration = Duration::from_secs(86_400);
const PATIENCE: Duration = Duration::from_secs(30);

fn memory() -> Arc<dyn Backend> {
    Arc::new(MemoryBackend::new(Arc::new(SystemClock::new())))
}

/// One auth service's log.
#[derive(Clone)]
struct Service {
    directory: std::path::PathBuf,
    /// What remembers its checkpoints.
    storage: Arc<dyn Backend>,
    index: Arc<dyn Backend>,
    clock: Arc<dyn Clock>,
    config: FileAuditConfig,
}

impl Service {
    fn new(directory: impl AsRef<Path>, index: &Arc<dyn Backend>) -> Self {
        Self {
            directory: directory.as_ref().to_owned(),
            storage: memory(),
            index: Arc::clone(index),
            clock: Arc::new(SystemClock::new()),
            config: FileAuditConfig::default(),
        }
    }

    async fn files(&self) -> FileAuditLog {
        FileAuditLog::builder(&self.directory, Arc::clone(&self.clock), Arc::new(SystemEntropy::new()))
            .config(self.config)
            .checkpoints(Checkpoints {
                service: None,
                cluster: ClusterName::new("example.com").unwrap(),
                signer: Arc::new(KnownKeySigner::new(1)),
                storage: Arc::clone(&self.storage),
            })
            .open()
            .await
            .unwrap()
    }

    async fn open(&self) -> IndexedAuditLog {
        let (index, sealer) = (Arc::clone(&self.index), Arc::new(KnownKeySealer));
        IndexedAuditLog::start(Arc::new(self.files().await), index, sealer, Arc::clone(&self.clock))
    }

    /// The lines of the files as events, checkpoints and all.
    fn lines(&self) -> Vec<String> {
        let mut files: Vec<_> =
            std::fs::read_dir(&self.directory).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort_unstable();
        let text = files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect::<String>();
        let without_digest = |line: &str| format!("{}}}", line.rsplit_once(",\"chain\":").unwrap().0);
        text.lines().map(without_digest).collect()
    }
}

/// All kinds, checkpoints as well.
fn every_kind() -> AuditQuery {
    let events = EventKind::ALL.iter().map(|kind| kind.code().to_owned()).collect();
    AuditQuery { events, ..AuditQuery::default() }
}

fn event(service: &str, number: u64, time: Timestamp) -> AuditEvent {
    let mut event =
        AuditEvent::new(EventKind::UserLogin).user(format!("{service}-{number}")).field("number", number);
    event.time = time;
    event
}

async fn pages(log: &dyn AuditLog, mut query: AuditQuery) -> Vec<AuditPage> {
    let mut pages = Vec::new();
    loop {
        let page = log.search(query.clone()).await.unwrap();
        query.after.clone_from(&page.next);
        pages.push(page);
        if query.after.is_none() {
            return pages;
        }
    }
}

async fn everything(log: &dyn AuditLog, query: AuditQuery) -> Vec<AuditEvent> {
    let pages = pages(log, query).await;
    assert!(pages.iter().all(|page| page.incomplete.is_none()), "{:?}", pages[0].incomplete);
    pages.into_iter().flat_map(|page| page.events).collect()
}

fn users(events: &[AuditEvent]) -> Vec<&str> {
    events.iter().filter_map(|event| event.user.as_deref()).collect()
}

/// What a search at `log` finds is what stands in the files of all of `services`, each line once, in the order of time.
async fn assert_as_in_the_files(log: &dyn AuditLog, services: &[&Service], what: &str) {
    let query = AuditQuery { limit: 1000, ..every_kind() };
    let found = everything(log, query).await;
    assert!(found.is_sorted_by_key(|event| event.time), "{what}: in the order of time");
    let mut found: Vec<String> = found.iter().map(|event| serde_json::to_string(event).unwrap()).collect();
    let mut expected: Vec<String> = services.iter().flat_map(|service| service.lines()).collect();
    found.sort_unstable();
    expected.sort_unstable();
    let (is, should) = (found.iter().collect::<BTreeSet<_>>(), expected.iter().collect::<BTreeSet<_>>());
    let missing: Vec<_> = should.difference(&is).take(3).collect();
    let foreign: Vec<_> = is.difference(&should).take(3).collect();
    assert_eq!(found.len(), expected.len(), "{what}: missing {missing:?}, foreign {foreign:?}");
    assert!(found == expected, "{what}: missing {missing:?}, foreign {foreign:?}");
}

async fn indexed(log: &IndexedAuditLog) {
    tokio::time::timeout(PATIENCE, log.indexed()).await.expect("everything is in the index soon");
}

async fn eventually(what: &str, mut is: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is().await {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Searches find what is in the index, not what is in the files.
#[derive(Debug)]
struct Settled(IndexedAuditLog);

#[async_trait]
impl AuditSink for Settled {
    async fn emit(&self, events: Vec<AuditEvent>) -> Result<(), AuditError> {
        self.0.emit(events).await
    }
}

#[async_trait]
impl AuditLog for Settled {
    async fn search(&self, query: AuditQuery) -> Result<AuditPage, AuditError> {
        indexed(&self.0).await;
        self.0.search(query).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms_by_its_index_and_by_what_is_not_in_it_yet() {
    let directory = tempfile::tempdir().unwrap();
    let count = AtomicUsize::new(0);
    let service = || {
        let number = count.fetch_add(1, Ordering::Relaxed);
        Service::new(directory.path().join(number.to_string()), &memory())
    };
    conformance::audit::run_all(&async || Arc::new(service().open().await) as Arc<dyn AuditLog>).await;
    conformance::audit::run_all(&async || Arc::new(Settled(service().open().await)) as Arc<dyn AuditLog>)
        .await;
}

/// Thousands of events of two services, at the same times, of different times, in files of several days.
#[tokio::test(flavor = "multi_thread")]
async fn each_service_finds_the_events_of_both() {
    let (directory, shared) = (tempfile::tempdir().unwrap(), memory());
    let services = ["a", "b"].map(|name| Service::new(directory.path().join(name), &shared));
    let (a, b) = (services[0].open().await, services[1].open().await);
    let start = SystemClock::new().now().saturating_sub(DAY);
    for round in 0..40_u64 {
        // Bursts, with pauses between of up to hours.
        let time = start.saturating_add(Duration::from_secs(round * round * 50));
        let batch = |name, late: u64| {
            let event = |n| {
                event(name, round * 100 + n, time.saturating_add(Duration::from_millis(n / 7 * 50 + late)))
            };
            (0..100).map(event).collect()
        };
        a.emit(batch("a", 0)).await.unwrap();
        b.emit(batch("b", 25)).await.unwrap();
    }
    indexed(&a).await;
    indexed(&b).await;
    for log in [&a, &b] {
        assert_as_in_the_files(log, &[&services[0], &services[1]], "both").await;
        let mut whole = everything(log, AuditQuery { limit: MAX_EVENTS, ..AuditQuery::default() }).await;
        assert_eq!(whole.len(), 8000);
        for limit in [1, 97, 1000] {
            // One event a page takes long: of the last only.
            let from = (limit == 1).then(|| whole[7900].time);
            let query = AuditQuery { limit, from, ..AuditQuery::default() };
            let expected: Vec<_> =
                whole.iter().filter(|event| from.is_none_or(|from| event.time >= from)).collect();
            let found = everything(log, query.clone()).await;
            assert!(found.iter().eq(expected.iter().copied()), "oldest first, {limit} a page");
            let found = everything(log, AuditQuery { newest_first: true, ..query }).await;
            assert!(found.iter().eq(expected.into_iter().rev()), "newest first, {limit} a page");
        }
        let one = AuditQuery { user: Some("b-1234".to_owned()), newest_first: true, ..AuditQuery::default() };
        assert_eq!(users(&everything(log, one).await), ["b-1234"]);
        whole.retain(|event| event.time >= whole_middle(start) && event.user.as_deref() < Some("b"));
        let span = AuditQuery { from: Some(whole_middle(start)), limit: MAX_EVENTS, ..AuditQuery::default() };
        let found = everything(log, span).await;
        assert_eq!(found.iter().filter(|event| event.user.as_deref() < Some("b")).count(), whole.len());
    }
}

fn whole_middle(start: Timestamp) -> Timestamp {
    start.saturating_add(Duration::from_secs(20 * 20 * 50))
}

/// What was just emitted is found at once where it was, and soon elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_emitted_is_found_at_once() {
    let (directory, shared) = (tempfile::tempdir().unwrap(), memory());
    let (a, b) = (
        Service::new(directory.path().join("a"), &shared),
        Service::new(directory.path().join("b"), &shared),
    );
    let (a, b) = (a.open().await, b.open().await);
    for number in 0..50 {
        a.emit(vec![event("a", number, SystemClock::new().now())]).await.unwrap();
        let user = Some(format!("a-{number}"));
        let query = AuditQuery { user, newest_first: true, ..AuditQuery::default() };
        assert_eq!(everything(&a, query).await.len(), 1, "{number}");
    }
    eventually("the other service finds it", async || {
        let query = AuditQuery { user: Some("a-49".to_owned()), ..AuditQuery::default() };
        b.search(query).await.unwrap().events.len() == 1
    })
    .await;
}

/// No watch of another collection hears of it, and what is stored tells nothing without the key.
#[tokio::test(flavor = "multi_thread")]
async fn blocks_are_few_and_sealed_and_nobody_elses_business() {
    let (directory, shared) = (tempfile::tempdir().unwrap(), memory());
    let mut watches = Vec::new();
    for collection in ["roles", "locks", "users", "nodes", "audit/checkpoints"] {
        let mut watch = shared.watch(&Prefix::new(collection).unwrap()).await.unwrap();
        assert!(matches!(watch.next().await.unwrap(), WatchEvent::Ready { .. }));
        watches.push(watch);
    }
    let service = Service::new(directory.path(), &shared);
    let log = service.open().await;
    let now = SystemClock::new().now();
    for round in 0..50_u64 {
        log.emit((0..200).map(|n| event("alice", round * 200 + n, now)).collect()).await.unwrap();
    }
    indexed(&log).await;
    let items = shared.list(&Prefix::new("audit/index").unwrap()).await.unwrap();
    assert!(items.len() < 100, "{} items for 10,000 events", items.len());
    let stored: usize = items.iter().map(|item| item.value.len()).sum();
    let written: usize = service.lines().iter().map(String::len).sum();
    assert!(stored * 5 < written, "{stored} bytes of {written}");
    let blocks: Vec<_> = items.iter().filter(|item| item.key.as_str().contains("/events/")).collect();
    assert!(!blocks.is_empty());
    for item in &blocks {
        assert!(!item.value.windows(5).any(|window| window == b"alice"));
        assert!(!item.value.windows(4).any(|window| window == [0x28, 0xb5, 0x2f, 0xfd]), "not even packed");
    }
    for mut watch in watches {
        let heard = futures_util::FutureExt::now_or_never(watch.next());
        assert!(heard.is_none(), "{heard:?}");
    }
    // A block that was exchanged for another is not believed, and a page says so.
    let (start, last) = blocks[0].key.as_str().split_at(blocks[0].key.as_str().len() - 1);
    let other = Key::new(&format!("{start}{}", if last == "0" { "1" } else { "0" })).unwrap();
    shared.put(&other, blocks[0].value.clone(), None).await.unwrap();
    let page = log.search(AuditQuery::default()).await.unwrap();
    assert!(page.incomplete.unwrap().contains("cannot be read"));
    shared.delete(&other).await.unwrap();
    assert_as_in_the_files(&log, &[&service], "the rest").await;
}

/// An index that is gone is made anew: by a service that runs, and by one that starts.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_was_deleted_is_made_anew() {
    let (directory, shared) = (tempfile::tempdir().unwrap(), memory());
    let service = Service::new(directory.path().join("a"), &shared);
    let other = Service::new(directory.path().join("b"), &shared).open().await;
    let index = Prefix::new("audit/index").unwrap();
    let now = SystemClock::new().now();
    let mut log = service.open().await;
    for round in 0..3 {
        log.emit((0..500).map(|n| event("a", round * 500 + n, now)).collect()).await.unwrap();
        indexed(&log).await;
        if round == 1 {
            log.close().await;
        }
        shared.delete_range(&index).await.unwrap();
        if round == 1 {
            log = service.open().await;
        }
        // That it is gone is seen at once, and nothing is missing meanwhile.
        assert_as_in_the_files(&log, &[&service], "of the files").await;
        eventually("the other service finds them", async || {
            let query = AuditQuery { limit: MAX_EVENTS, ..AuditQuery::default() };
            other.search(query).await.unwrap().events.len() as u64 == (round + 1) * 500
        })
        .await;
        assert_as_in_the_files(&log, &[&service], "of the index").await;
    }
}

/// As good as for ever.
const NEVER: Duration = Duration::from_secs(86_400);

/// Storage that does not answer delays no event; a search says that it may be incomplete, and later it is not.
#[tokio::test(flavor = "multi_thread")]
async fn storage_that_does_not_answer_delays_nothing_and_is_told_of() {
    let (directory, shared) = (tempfile::tempdir().unwrap(), memory());
    let index = FaultBackend::new(Arc::clone(&shared));
    let faults = index.faults();
    let index: Arc<dyn Backend> = Arc::new(index);
    let service = Service::new(directory.path().join("a"), &index);
    let log = service.open().await;
    let now = SystemClock::new().now();
    log.emit(vec![event("a", 0, now)]).await.unwrap();
    indexed(&log).await;
    faults.delay_reads(NEVER);
    faults.delay_writes(NEVER);
    let emitting = async {
        for number in 1..500 {
            log.emit(vec![event("a", number, now)]).await.unwrap();
        }
    };
    // Far less than the patience with storage.
    tokio::time::timeout(Duration::from_secs(8), emitting).await.expect("nothing waits for the index");
    let page = log.search(AuditQuery { limit: MAX_EVENTS, ..AuditQuery::default() }).await.unwrap();
    assert!(page.incomplete.unwrap().contains("cannot be read now"));
    assert_eq!(page.events.len(), 500, "of the files alone");
    faults.delay_reads(Duration::ZERO);
    faults.delay_writes(Duration::ZERO);
    indexed(&log).await;
    assert_as_in_the_files(&log, &[&service], "afterwards").await;
}

/// Commits that fail, and commits whose answer is lost, change nothing about what is found.
#[tokio::test(flavor = "multi_thread")]
async fn commits_that_fail_or_lose_their_answer_cost_nothing() {
    let (directory, shared) = (tempfile::tempdir().unwrap(), memory());
    let backend = FaultBackend::new(Arc::clone(&shared));
    let faults = backend.faults();
    let index: Arc<dyn Backend> = Arc::new(backend);
    let service = Service::new(directory.path(), &index);
    let log = service.open().await;
    let now = SystemClock::new().now();
    for round in 0..6_u64 {
        match round % 3 {
            0 => faults.lose_answer(1),
            1 => faults.fail_write(1),
            _ => faults.fail_read(1),
        }
        log.emit((0..100).map(|n| event("a", round * 100 + n, now)).collect()).await.unwrap();
        indexed(&log).await;
    }
    let items = shared.list(&Prefix::new("audit/index/events").unwrap()).await.unwrap();
    log.close().await;
    // By another service that has no files of it.
    let reader = Service::new(directory.path().join("reader"), &shared).open().await;
    let found = everything(&reader, AuditQuery { limit: MAX_EVENTS, ..AuditQuery::default() }).await;
    assert_eq!(found.len(), 600);
    assert!(items.len() < 40, "{}", items.len());
}

/// Storage in which somebody else is always faster.
#[derive(Debug)]
struct Contested {
    inner: Arc<dyn Backend>,
    commits: watch::Sender<u32>,
}

#[async_trait]
impl Backend for Contested {
    async fn commit(&self, batch: Batch) -> Result<Revision, StorageError> {
        self.commits.send_modify(|commits| *commits += 1);
        Err(StorageError::Conflict { key: batch.operations().first().unwrap().key.clone() })
    }

    async fn get(&self, key: &Key) -> Result<Option<Item>, StorageError> {
        self.inner.get(key).await
    }

    async fn range(
        &self,
        prefix: &Prefix,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<Item>, StorageError> {
        self.inner.range(prefix, after, limit).await
    }

    async fn watch(&self, prefix: &Prefix) -> Result<Watch, StorageError> {
        self.inner.watch(prefix).await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

impl std::fmt::Display for Contested {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, contested", self.inner)
    }
}

/// Two services with copies of one log take its place in the index from each other. They do not do that as fast as they can.
#[tokio::test(start_paused = true)]
async fn a_log_that_two_services_have_does_not_keep_storage_busy() {
    let directory = tempfile::tempdir().unwrap();
    let (commits, mut counted) = watch::channel(0);
    let contested: Arc<dyn Backend> = Arc::new(Contested { inner: memory(), commits });
    let service = Service::new(directory.path().join("a"), &contested);
    let log = service.open().await;
    log.emit(vec![event("a", 1, SystemClock::new().now())]).await.unwrap();
    let began = Instant::now();
    counted.wait_for(|commits| *commits >= 8).await.unwrap();
    // 1 s, 2 s, 4 s, and so on.
    assert!(began.elapsed() > Duration::from_secs(60), "{:?}", began.elapsed());
}

/// A service that fell silent is told of by the others; one that ended in good order is not.
#[tokio::test(flavor = "multi_thread")]
async fn services_that_fell_silent_are_told_of() {
    let (directory, shared) = (tempfile::tempdir().unwrap(), memory());
    let clock = Arc::new(ManualClock::new(SystemClock::new().now()));
    let with_clock =
        |name| Service { clock: clock.clone(), ..Service::new(directory.path().join(name), &shared) };
    let (a, b) = (with_clock("a").open().await, with_clock("b").open().await);
    a.emit(vec![event("a", 1, clock.now())]).await.unwrap();
    b.emit(vec![event("b", 1, clock.now())]).await.unwrap();
    indexed(&a).await;
    indexed(&b).await;
    b.close().await;
    clock.advance(Duration::from_secs(300));
    assert_eq!(a.search(AuditQuery::default()).await.unwrap().incomplete, None, "it ended in good order");
    let b = with_clock("b").open().await;
    b.emit(vec![event("b", 2, clock.now())]).await.unwrap();
    indexed(&b).await;
    // As a process that was killed: it says nothing.
    drop(b);
    clock.advance(Duration::from_secs(300));
    let page = a.search(AuditQuery::default()).await.unwrap();
    assert!(page.incomplete.unwrap().contains("nothing was heard"));
    let b = with_clock("b").open().await;
    eventually("it is there again", async || {
        a.search(AuditQuery::default()).await.unwrap().incomplete.is_none()
    })
    .await;
    drop(b);
}

/// What retention removes of the files is removed of the index, of services as well that are not there any more; and does not come
/// back when the index is made anew.
#[tokio::test(flavor = "multi_thread")]
async fn retention_removes_both() {
    let (directory, shared) = (tempfile::tempdir().unwrap(), memory());
    let clock = Arc::new(ManualClock::new(SystemClock::new().now()));
    let config = FileAuditConfig { retention: Some(DAY * 10), ..FileAuditConfig::default() };
    let service =
        Service { clock: clock.clone(), config, ..Service::new(directory.path().join("a"), &shared) };
    let gone = Service { clock: clock.clone(), ..Service::new(directory.path().join("b"), &shared) };
    let log = gone.open().await;
    log.emit(vec![event("gone", 0, clock.now())]).await.unwrap();
    indexed(&log).await;
    drop(log);
    let log = service.open().await;
    for day in 0..30 {
        // Of a day more blocks than a page.
        let time = |n| clock.now().saturating_add(Duration::from_secs(n));
        log.emit((0..40).map(|n| event("a", day * 40 + n, time(n))).collect()).await.unwrap();
        indexed(&log).await;
        clock.advance(DAY);
    }
    log.emit(vec![event("a", 9999, clock.now())]).await.unwrap();
    indexed(&log).await;
    let oldest_file = || {
        let mut days: Vec<_> =
            std::fs::read_dir(&service.directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        days.sort_unstable();
        days[0].clone().into_string().unwrap()
    };
    eventually("the index has the days of the files", async || {
        let found = everything(&log, AuditQuery { limit: MAX_EVENTS, ..AuditQuery::default() }).await;
        users(&found).iter().all(|user| user.starts_with("a-"))
            && found.first().is_some_and(|first| first.time.to_string()[..10] == oldest_file()[..10])
    })
    .await;
    assert_as_in_the_files(&log, &[&service], "what is left").await;
    assert!(service.lines().len() > 400 && service.lines().len() < 520, "{}", service.lines().len());
    let records = shared.list(&Prefix::new("audit/index/logs").unwrap()).await.unwrap();
    assert_eq!(records.len(), 1, "of the log that is gone nothing is left");
    shared.delete_range(&Prefix::new("audit/index").unwrap()).await.unwrap();
    assert_as_in_the_files(&log, &[&service], "of the files").await;
    eventually("it is made anew", async || {
        !shared.list(&Prefix::new("audit/index/logs").unwrap()).await.unwrap().is_empty()
    })
    .await;
    indexed(&log).await;
    assert_as_in_the_files(&log, &[&service], "made anew").await;
}

/// Wherever a page ends, among blocks of a second as well, and wherever a read of storage does; with events of the service's own that
/// are not in the index.
#[tokio::test(flavor = "multi_thread")]
async fn pages_end_anywhere() {
    let (directory, shared) = (tempfile::tempdir().unwrap(), memory());
    let start = SystemClock::new().now().saturating_sub(DAY);
    let mut expected = Vec::new();
    let mut some = |name: &str, late| {
        let time = |n| start.saturating_add(Duration::from_millis(n * 1000 + late));
        let events: Vec<_> = (0..40).map(|n| event(name, n, time(n))).collect();
        expected.extend(events.iter().map(|event| (event.time, event.user.clone().unwrap())));
        events
    };
    for (late, name) in (0..).step_by(10).zip(["a", "b", "c", "d", "e"]) {
        let log = Service::new(directory.path().join(name), &shared).open().await;
        log.emit(some(name, late)).await.unwrap();
        log.close().await;
    }
    let reads = FaultBackend::new(shared);
    reads.faults().delay_writes(NEVER);
    let reads: Arc<dyn Backend> = Arc::new(reads);
    let reader = Service::new(directory.path().join("reader"), &reads).open().await;
    reader.emit(some("f", 25)).await.unwrap();
    reader.emit(some("g", 27)).await.unwrap();
    expected.sort_unstable();
    let mut expected: Vec<&str> = expected.iter().map(|(_, user)| user.as_str()).collect();
    for newest_first in [false, true] {
        for limit in (1..=14).chain(40..=52).chain([97, 190, 191, 192, 193, 279, 280, 281]) {
            let query = AuditQuery { limit, newest_first, ..AuditQuery::default() };
            let found = everything(&reader, query).await;
            assert_eq!(users(&found), expected, "{limit} a page, newest first: {newest_first}");
        }
        expected.reverse();
    }
}

/// A call does not look through more than it may, and the next one goes on where it ended.
#[tokio::test(flavor = "multi_thread")]
async fn a_rare_event_is_found_over_several_calls() {
    let (directory, shared) = (tempfile::tempdir().unwrap(), memory());
    let service = Service::new(directory.path().join("a"), &shared);
    let log = service.open().await;
    let start = SystemClock::new().now().saturating_sub(DAY);
    let large = "x".repeat(400 << 10);
    // 320 MiB of lines.
    for number in 0..800 {
        let time = start.saturating_add(Duration::from_secs(number / 2));
        let user = if number % 100 == 50 { "rare" } else { "others" };
        let mut event = event(user, number, time);
        event.fields.insert("command".to_owned(), large.clone().into());
        log.emit(vec![event]).await.unwrap();
    }
    log.close().await;
    let reader = Service::new(directory.path().join("reader"), &shared).open().await;
    for newest_first in [false, true] {
        let mut found = Vec::new();
        for number in [50, 750] {
            let user = Some(format!("rare-{number}"));
            let pages = pages(&reader, AuditQuery { user, newest_first, ..AuditQuery::default() }).await;
            assert_eq!(pages.len(), 2, "one call is not enough");
            found.extend(pages.iter().map(|page| page.events.len()));
        }
        let expected = if newest_first { [0, 1, 1, 0] } else { [1, 0, 0, 1] };
        assert_eq!(found, expected);
    }
}

/// Longer ones than a block can hold are there without the fields of their kind.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_too_long_is_shortened() {
    let (directory, shared) = (tempfile::tempdir().unwrap(), memory());
    let log = Service::new(directory.path().join("a"), &shared).open().await;
    let mut long = event("a", 1, SystemClock::new().now());
    long.fields.insert("command".to_owned(), "x".repeat(600 << 10).into());
    log.emit(vec![long]).await.unwrap();
    log.close().await;
    let reader = Service::new(directory.path().join("reader"), &shared).open().await;
    let found = everything(&reader, AuditQuery::default()).await;
    assert_eq!(users(&found), ["a-1"]);
    assert!(found[0].fields["left_out_bytes"].as_u64().unwrap() > 600 << 10 && found[0].fields.len() == 1);
}

/// Whoever cuts the files does not cut the index; the new chain is found beside the old one.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_cut_from_the_files_is_still_found() {
    // What remembers checkpoints tells that they were cut, and a new chain begins; without it the old one goes on.
    for remembers in [true, false] {
        let (directory, shared) = (tempfile::tempdir().unwrap(), memory());
        let mut service = Service::new(directory.path().join("a"), &shared);
        let log = service.open().await;
        let now = SystemClock::new().now();
        log.emit((0..10).map(|n| event("a", n, now)).collect()).await.unwrap();
        log.close().await;
        let file = std::fs::read_dir(&service.directory).unwrap().next().unwrap().unwrap().path();
        let text = std::fs::read_to_string(&file).unwrap();
        let kept: Vec<&str> = text.split_inclusive('\n').take(5).collect();
        std::fs::write(&file, kept.concat()).unwrap();
        if !remembers {
            service.storage = memory();
        }
        let log = service.open().await;
        log.emit(vec![event("a", 99, now.saturating_add(Duration::from_millis(1)))]).await.unwrap();
        indexed(&log).await;
        log.close().await;
        let reader = Service::new(directory.path().join("b"), &shared).open().await;
        let found = everything(&reader, AuditQuery { limit: MAX_EVENTS, ..AuditQuery::default() }).await;
        let expected: Vec<String> = (0..10).chain([99]).map(|n| format!("a-{n}")).collect();
        assert_eq!(users(&found), expected, "{remembers}");
    }
}

/// What a crash left was never acknowledged: an entry behind it accounts for it, and neither the index nor the files find it.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_left_is_not_in_the_index() {
    let (directory, shared) = (tempfile::tempdir().unwrap(), memory());
    let service = Service::new(directory.path().join("a"), &shared);
    let now = SystemClock::new().now();
    let log = service.open().await;
    log.emit((0..5).map(|n| event("a", n, now)).collect()).await.unwrap();
    log.close().await;
    let file = std::fs::read_dir(&service.directory).unwrap().next().unwrap().unwrap().path();
    let mut text = std::fs::read_to_string(&file).unwrap();
    // Whole lines that follow nothing, one of them twice, and one that is torn.
    let line = text.lines().nth(2).unwrap().replace("a-1", "never");
    text.push_str(&format!("{line}\n{line}\n{}", &line[..line.len() / 2]));
    std::fs::write(&file, text).unwrap();
    let log = service.open().await;
    log.emit(vec![event("a", 5, now)]).await.unwrap();
    let expected: Vec<String> = (0..6).map(|n| format!("a-{n}")).collect();
    let query = || AuditQuery { events: vec!["user.login".to_owned()], ..AuditQuery::default() };
    assert_eq!(users(&everything(&log, query()).await), expected, "of the files");
    log.close().await;
    let reader = Service::new(directory.path().join("b"), &shared).open().await;
    assert_eq!(users(&everything(&reader, query()).await), expected, "of the index");
    assert_eq!(users(&everything(&service.files().await, query()).await), expected, "as without an index");
}

/// With an interval, nothing is in the index that a loss of power can take from the files.
#[tokio::test(flavor = "multi_thread")]
async fn the_index_is_not_ahead_of_the_disk() {
    let (directory, shared) = (tempfile::tempdir().unwrap(), memory());
    let config = FileAuditConfig {
        sync: SyncPolicy::Interval(Duration::from_secs(3600)),
        ..FileAuditConfig::default()
    };
    let service = Service { config, ..Service::new(directory.path().join("a"), &shared) };
    let log = service.open().await;
    let now = SystemClock::new().now();
    // The file begins with a checkpoint that storage remembers; until then all of it is synced. What follows waits.
    log.emit(vec![event("a", 1, now)]).await.unwrap();
    let reader = Service::new(directory.path().join("b"), &shared).open().await;
    let query = AuditQuery::default;
    eventually("the first is in the index", async || users(&everything(&reader, query()).await) == ["a-1"])
        .await;
    log.emit(vec![event("a", 2, now)]).await.unwrap();
    assert_eq!(users(&everything(&log, query()).await), ["a-1", "a-2"], "found where it was emitted");
    indexed(&log).await;
    assert_eq!(users(&everything(&reader, query()).await), ["a-1"], "not what is not on the disk");
    log.close().await;
    assert_eq!(users(&everything(&reader, query()).await), ["a-1", "a-2"], "closing syncs, and adds it");
}

/// How many events [`log_and_index_until_killed`] hands over at a time.
const PER_CALL: u64 = 50;

/// In a child: two services on one storage write numbered events, and say which were acknowledged and when the index has come to their
/// end for the first time.
pub(crate) async fn log_and_index_until_killed(directory: &Path) {
    let life = std::env::var(CYCLE).unwrap();
    let shared = RedbBackend::open(directory.join("index.redb"), Arc::new(SystemClock::new())).await.unwrap();
    let shared: Arc<dyn Backend> = Arc::new(shared);
    let scope = TaskScope::new();
    for name in ["a", "b"] {
        // Checkpoints now and then, so that they are interrupted as well.
        let config = FileAuditConfig { checkpoint_entries: 70, ..FileAuditConfig::default() };
        let service = Service { config, ..Service::new(directory.join(name), &shared) };
        let log = Arc::new(service.open().await);
        let (writing, life) = (Arc::clone(&log), format!("{name}-{life}"));
        scope.spawn(async move {
            for call in 0.. {
                let now = SystemClock::new().now();
                let batch = (0..PER_CALL).map(|n| event(&life, call * PER_CALL + n, now)).collect();
                writing.emit(batch).await.unwrap();
                println!("\nACK {name}");
            }
        });
        scope.spawn(async move {
            log.indexed().await;
            println!("\nINDEXED {name}");
        });
    }
    scope.join().await;
}

/// Runs [`log_and_index_until_killed`] until it has acknowledged so many calls, perhaps only counted from when the index had come to
/// the end, and kills it. How many calls were acknowledged to each service.
fn life(directory: &Path, number: usize, calls: u64, is_indexed: bool) -> BTreeMap<String, u64> {
    let child = child::command("log_and_index_until_killed", directory).with(CYCLE, &number.to_string());
    let mut child = child.spawn();
    let output = std::io::BufReader::new(child.stdout.take().unwrap());
    let (mut acknowledged, mut left, mut counts) = (BTreeMap::new(), calls, !is_indexed);
    let mut is_killed = false;
    // What is in the pipe by the time of the kill was acknowledged.
    for line in std::io::BufRead::lines(output) {
        let line = line.unwrap();
        counts |= line.starts_with("INDEXED");
        if let Some(name) = line.strip_prefix("ACK ") {
            *acknowledged.entry(name.to_owned()).or_default() += 1;
            left = left.saturating_sub(u64::from(counts));
        }
        if counts && left == 0 && !is_killed {
            // SIGKILL.
            child.kill().unwrap();
            is_killed = true;
        }
    }
    let output = child.wait_with_output().unwrap();
    assert!(is_killed, "the service ended by itself: {}", String::from_utf8_lossy(&output.stderr));
    acknowledged
}

/// G-23: no gap and no repetition among many events of two services that are killed at any moment: within a write, a checkpoint, a
/// commit of the index. The number of events is that of the variable `TELEPORT_G23_EVENTS`.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn g23_no_gap_and_no_repetition_over_two_services_with_kills() {
    let events = std::env::var("TELEPORT_G23_EVENTS").ok().and_then(|n| n.parse().ok()).unwrap_or(20_000_u64);
    let directory = tempfile::tempdir().unwrap();
    let began = Instant::now();
    let mut lives = Vec::new();
    let total =
        |lives: &[BTreeMap<String, u64>]| lives.iter().flat_map(BTreeMap::values).sum::<u64>() * PER_CALL;
    while total(&lives) < events || lives.len() < 8 {
        let number = lives.len();
        let calls = (number as u64 * 7919 + 13) % (events / 10 / PER_CALL).max(2);
        let path = directory.path().to_owned();
        let ended = tokio::task::spawn_blocking(move || life(&path, number, calls, number % 3 == 2));
        lives.push(ended.await.unwrap());
    }
    let written = began.elapsed();
    let shared = RedbBackend::open(directory.path().join("index.redb"), Arc::new(SystemClock::new()));
    let shared: Arc<dyn Backend> = Arc::new(shared.await.unwrap());
    let services = ["a", "b"].map(|name| Service::new(directory.path().join(name), &shared));
    let logs = [services[0].open().await, services[1].open().await];
    for log in &logs {
        tokio::time::timeout(Duration::from_secs(600), log.indexed()).await.unwrap();
    }
    let caught_up = began.elapsed() - written;
    let searching = Instant::now();
    let mut next: BTreeMap<String, u64> = BTreeMap::new();
    let mut query = AuditQuery { limit: MAX_EVENTS, ..AuditQuery::default() };
    loop {
        let page = logs[1].search(query.clone()).await.unwrap();
        assert_eq!(page.incomplete, None);
        for event in page.events.iter().filter(|event| event.code == EventKind::UserLogin) {
            let (life, number) = event.user.as_ref().unwrap().rsplit_once('-').unwrap();
            let next = next.entry(life.to_owned()).or_default();
            assert_eq!(
                number,
                next.to_string(),
                "of each life of each service every event, once, in its order"
            );
            *next += 1;
        }
        query.after = page.next;
        if query.after.is_none() {
            break;
        }
    }
    for (number, acknowledged) in lives.iter().enumerate() {
        for (name, calls) in acknowledged {
            let found = next.get(&format!("{name}-{number}")).copied().unwrap_or_default();
            assert!(found >= calls * PER_CALL, "{name} in life {number}: {found} of {calls} calls");
        }
    }
    let records = shared.list(&Prefix::new("audit/index/logs").unwrap()).await.unwrap();
    assert_eq!(records.len(), 2, "of each log one: {records:?}");
    let (all, found) = (searching.elapsed(), next.values().sum::<u64>());
    let searching = Instant::now();
    let (life, some) = next.iter().max_by_key(|(_, some)| **some).unwrap();
    let one = AuditQuery {
        user: Some(format!("{life}-{}", some / 2)),
        newest_first: true,
        ..AuditQuery::default()
    };
    assert_eq!(everything(&logs[0], one).await.len(), 1);
    let of_a_user = searching.elapsed();
    let items = shared.list(&Prefix::new("audit/index").unwrap()).await.unwrap();
    let bytes: usize = items.iter().map(|item| item.value.len() + item.key.as_str().len()).sum();
    println!(
        "{found} events, {} kills: written in {written:?}, in the index {caught_up:?} later, all read in {all:?}, \
         one user of all in {of_a_user:?}; {} items, {bytes} bytes",
        lives.len(),
        items.len(),
    );
}
