//! Moving from one backend to another.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use teleport_backend::conformance::SuiteClock;
use teleport_backend::memory::MemoryBackend;
use teleport_backend::migrate::{MigrateError, Migrated, Stage, migrate};
use teleport_backend::redb::RedbBackend;
use teleport_core::clock::Clock;
use teleport_core::storage::{
    Backend, BackendExt, Batch, Item, Key, MAX_VALUE_LEN, Prefix, Revision, StorageError, Watch,
};

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn mark() -> Key {
    key("mark")
}

fn memory(clock: &Arc<SuiteClock>) -> MemoryBackend {
    MemoryBackend::new(Arc::clone(clock) as Arc<dyn Clock>)
}

async fn run(
    source: &dyn Backend,
    target: &dyn Backend,
    clock: &SuiteClock,
) -> Result<Migrated, MigrateError> {
    migrate(source, target, &mark(), clock, &mut |_, _, _| {}).await
}

async fn contents(backend: &dyn Backend) -> Vec<(String, Bytes, Option<u64>)> {
    let items = backend.list(&Prefix::root()).await.unwrap();
    let row = |item: Item| (item.key.to_string(), item.value, item.expires.map(|time| time.unix_millis()));
    items.into_iter().map(row).collect()
}

/// More than a page of items, long values, expiries: all of it arrives, and what has expired does not.
#[tokio::test(flavor = "multi_thread")]
async fn everything_is_moved() {
    let clock = Arc::new(SuiteClock::new());
    let source = memory(&clock);
    for number in 0..2_500 {
        let expires = (number % 3 == 0).then(|| clock.after(Duration::from_secs(60)));
        source.put(&key(&format!("n/{number}")), number.to_string().into(), expires).await.unwrap();
    }
    source.put(&key("long"), vec![7; MAX_VALUE_LEN].into(), None).await.unwrap();
    source.put(&key("past"), Bytes::new(), Some(clock.after(Duration::ZERO))).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("to.redb");
    let target = RedbBackend::open(&path, Arc::clone(&clock) as Arc<dyn Clock>).await.unwrap();
    let mut stages = Vec::new();
    let done = migrate(&source, &target, &mark(), &*clock, &mut |stage, done, all| {
        assert!(done <= all);
        stages.push(stage);
    })
    .await
    .unwrap();
    assert_eq!(done.items, 2_501);
    stages.dedup();
    assert_eq!(stages, [Stage::Count, Stage::Copy, Stage::Verify]);
    assert_eq!(contents(&target).await, contents(&source).await);
    let again = run(&source, &target, &clock).await;
    assert!(matches!(again, Err(MigrateError::NotEmpty { .. })), "{again:?}");
    let back = memory(&clock);
    run(&target, &back, &clock).await.unwrap();
    assert_eq!(contents(&back).await, contents(&source).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_that_hold_something_are_left_alone() {
    let clock = Arc::new(SuiteClock::new());
    let (source, target) = (memory(&clock), memory(&clock));
    assert!(matches!(run(&source, &target, &clock).await, Err(MigrateError::Empty)));
    source.put(&key("a"), Bytes::new(), None).await.unwrap();
    target.put(&key("theirs"), Bytes::new(), None).await.unwrap();
    let refused = run(&source, &target, &clock).await;
    assert!(matches!(refused, Err(MigrateError::NotEmpty { key: at }) if at == key("theirs")));
    assert_eq!(contents(&target).await.len(), 1);
    // What was interrupted may be begun again, and leaves nothing of the first time.
    target.put(&mark(), Bytes::new(), None).await.unwrap();
    run(&source, &target, &clock).await.unwrap();
    assert_eq!(contents(&target).await, contents(&source).await);
    source.put(&mark(), Bytes::new(), None).await.unwrap();
    let fresh = memory(&clock);
    assert!(matches!(run(&source, &fresh, &clock).await, Err(MigrateError::Unfinished)));
    assert!(contents(&fresh).await.is_empty());
}

/// A service that was not stopped: what it writes would be lost, so the target stays marked.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_in_use_is_noticed() {
    let clock = Arc::new(SuiteClock::new());
    for stage in [Stage::Copy, Stage::Verify] {
        let (source, target) = (Arc::new(memory(&clock)), memory(&clock));
        for number in 0..5 {
            source.put(&key(&format!("n/{number}")), Bytes::new(), None).await.unwrap();
        }
        let mut written = false;
        let handle = tokio::runtime::Handle::current();
        let writer = Arc::clone(&source);
        let result = migrate(&*source, &target, &mark(), &*clock, &mut |now, _, _| {
            if now == stage && !std::mem::replace(&mut written, true) {
                tokio::task::block_in_place(|| {
                    handle.block_on(writer.put(&key("n/0"), Bytes::from_static(b"new"), None)).unwrap();
                });
            }
        })
        .await;
        assert!(
            matches!(result, Err(MigrateError::Changed { .. } | MigrateError::Differs { .. })),
            "{stage:?}: {result:?}"
        );
        assert!(target.get(&mark()).await.unwrap().is_some(), "nobody starts on it");
        run(&*source, &target, &clock).await.unwrap();
        assert_eq!(contents(&target).await, contents(&*source).await);
    }
}

/// A store that does something when it is listed for the nth time, before it answers.
struct Interposed<F> {
    store: Arc<MemoryBackend>,
    at: usize,
    count: std::sync::atomic::AtomicUsize,
    act: F,
}

impl<F> std::fmt::Debug for Interposed<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Interposed")
    }
}

impl<F> std::fmt::Display for Interposed<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interposed")
    }
}

#[async_trait::async_trait]
impl<F, W> Backend for Interposed<F>
where
    F: Fn(Arc<MemoryBackend>) -> W + Send + Sync + 'static,
    W: Future<Output = ()> + Send + 'static,
{
    async fn get(&self, key: &Key) -> Result<Option<Item>, StorageError> {
        self.store.get(key).await
    }

    async fn range(
        &self,
        prefix: &Prefix,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<Item>, StorageError> {
        if self.count.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == self.at {
            (self.act)(Arc::clone(&self.store)).await;
        }
        self.store.range(prefix, after, limit).await
    }

    async fn commit(&self, batch: Batch) -> Result<Revision, StorageError> {
        self.store.commit(batch).await
    }

    async fn watch(&self, prefix: &Prefix) -> Result<Watch, StorageError> {
        self.store.watch(prefix).await
    }

    async fn close(&self) {
        self.store.close().await;
    }
}

/// A service that began to write while the source was counted: what it has written stays, and the target is as it was.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_filled_meanwhile_is_left_alone() {
    let clock = Arc::new(SuiteClock::new());
    let source = memory(&clock);
    source.put(&key("a"), Bytes::from_static(b"ours"), None).await.unwrap();
    let store = Arc::new(memory(&clock));
    let target = Interposed {
        store: Arc::clone(&store),
        // The second look, when the mark is there.
        at: 1,
        count: Default::default(),
        act: |store: Arc<MemoryBackend>| async move {
            assert!(store.get(&mark()).await.unwrap().is_some());
            store.put(&key("a"), Bytes::from_static(b"theirs"), None).await.unwrap();
        },
    };
    let refused = run(&source, &target, &clock).await;
    assert!(matches!(refused, Err(MigrateError::NotEmpty { .. })), "{refused:?}");
    let found = contents(&*store).await;
    assert_eq!(found, [("a".to_owned(), Bytes::from_static(b"theirs"), None)]);
    // Interrupted just then, it is still theirs for the next one.
    store.put(&mark(), Bytes::from_static(b"\"claimed\""), None).await.unwrap();
    let refused = run(&source, &*store, &clock).await;
    assert!(matches!(refused, Err(MigrateError::NotEmpty { .. })), "{refused:?}");
    assert_eq!(contents(&*store).await, found);
}

/// Of two migrations to one target the one that began later goes on, and the other one writes nothing more.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_migrations_one_stops() {
    let clock = Arc::new(SuiteClock::new());
    let (first, second) = (memory(&clock), Arc::new(memory(&clock)));
    for number in 0..250 {
        first.put(&key(&format!("first/{number}")), Bytes::new(), None).await.unwrap();
        second.put(&key(&format!("second/{number}")), Bytes::new(), None).await.unwrap();
    }
    let target = Arc::new(memory(&clock));
    let handle = tokio::runtime::Handle::current();
    let mut is_begun = false;
    let result = migrate(&first, &*target, &mark(), &*clock, &mut |stage, done, _| {
        if stage == Stage::Copy && done == 120 && !std::mem::replace(&mut is_begun, true) {
            tokio::task::block_in_place(|| handle.block_on(run(&*second, &*target, &clock))).unwrap();
        }
    })
    .await;
    assert!(matches!(result, Err(MigrateError::Overtaken)), "{result:?}");
    assert_eq!(contents(&*target).await, contents(&*second).await);
}
