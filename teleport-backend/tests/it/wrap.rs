//! The wrappers under the suite, and what each adds.

use std::sync::Arc;
use std::time::Duration;

use teleport_backend::conformance::{self, SuiteClock};
use teleport_backend::memory::MemoryBackend;
use teleport_backend::redb::RedbBackend;
use teleport_backend::wrap::{FaultBackend, InjectedFault, KeyTooLong, MetricsBackend, PrefixBackend};
use teleport_core::clock::Clock;
use teleport_core::storage::{
    Backend, BackendExt, Batch, Condition, Key, MAX_KEY_LEN, Prefix, Revision, StorageError,
};
use tokio::time::Instant;

fn memory() -> Arc<dyn Backend> {
    Arc::new(MemoryBackend::new(Arc::new(SuiteClock::new())))
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn prefix_conforms() {
    let factory = async |clock: Arc<dyn Clock>| {
        let inner = Arc::new(MemoryBackend::new(clock));
        // Neighbours on both sides must neither be seen nor be touched.
        for outside in ["tenant", "tenant-/x", "tenant0/x", "t/x"] {
            inner.put(&key(outside), "outside".into(), None).await.unwrap();
        }
        Arc::new(PrefixBackend::new(inner, Prefix::new("tenant/one").unwrap())) as Arc<dyn Backend>
    };
    conformance::run_all(&factory).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_conforms_without_faults() {
    let factory = async |clock: Arc<dyn Clock>| {
        Arc::new(FaultBackend::new(Arc::new(MemoryBackend::new(clock)))) as Arc<dyn Backend>
    };
    conformance::run_all(&factory).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_around_redb_conforms() {
    let directory = tempfile::tempdir().unwrap();
    let count = std::sync::atomic::AtomicUsize::new(0);
    let factory = async |clock: Arc<dyn Clock>| {
        let number = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = directory.path().join(format!("{number}.redb"));
        let inner = RedbBackend::open(path, clock).await.unwrap();
        Arc::new(MetricsBackend::new(Arc::new(inner))) as Arc<dyn Backend>
    };
    conformance::run_all(&factory).await;
}

#[tokio::test]
async fn prefixes_keep_tenants_apart() {
    let inner = memory();
    let one = PrefixBackend::new(Arc::clone(&inner), Prefix::new("one").unwrap());
    let two = PrefixBackend::new(Arc::clone(&inner), Prefix::new("two").unwrap());
    one.put(&key("a"), "1".into(), None).await.unwrap();
    assert!(two.get(&key("a")).await.unwrap().is_none());
    assert!(two.list(&Prefix::root()).await.unwrap().is_empty());
    assert_eq!(inner.get(&key("one/a")).await.unwrap().unwrap().value, "1");

    let long = key(&"k".repeat(MAX_KEY_LEN - 3));
    match one.put(&long, "1".into(), None).await {
        Err(StorageError::Driver { source }) => assert!(source.is::<KeyTooLong>()),
        other => panic!("a key that does not fit is refused, not {other:?}"),
    }
    let twice =
        Batch::new().put(key("a"), Condition::Any, "1", None).put(key("a"), Condition::Any, "1", None);
    let error = one.commit(twice).await.unwrap_err();
    assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "key a occurs twice in a batch");
}

#[tokio::test(start_paused = true)]
async fn faults_hit_the_call_that_was_named() {
    let inner = memory();
    let backend = FaultBackend::new(Arc::clone(&inner));
    let faults = backend.faults();
    let injected = |result: Result<(), StorageError>| match result {
        Err(StorageError::Unavailable { source }) => assert!(source.is::<InjectedFault>()),
        other => panic!("expected the fault, not {other:?}"),
    };
    backend.put(&key("a"), "1".into(), None).await.unwrap();
    faults.fail_write(2);
    backend.put(&key("a"), "2".into(), None).await.unwrap();
    injected(backend.put(&key("a"), "3".into(), None).await.map(drop));
    assert_eq!(backend.get(&key("a")).await.unwrap().unwrap().value, "2", "a failed write writes nothing");

    faults.lose_answer(1);
    injected(backend.put(&key("a"), "4".into(), None).await.map(drop));
    assert_eq!(backend.get(&key("a")).await.unwrap().unwrap().value, "4", "the outcome was success");
    backend.put(&key("a"), "5".into(), None).await.unwrap();

    faults.fail_read(1);
    injected(backend.get(&key("a")).await.map(drop));
    faults.fail_read(1);
    injected(backend.watch(&Prefix::root()).await.map(drop));
    assert_eq!((faults.reads(), faults.writes()), (4, 5));

    faults.delay_writes(Duration::from_secs(7));
    faults.delay_reads(Duration::from_secs(5));
    let start = Instant::now();
    backend.put(&key("a"), "6".into(), None).await.unwrap();
    backend.get(&key("a")).await.unwrap();
    assert_eq!(start.elapsed(), Duration::from_secs(12));
}

#[tokio::test(start_paused = true)]
async fn metrics_count_by_outcome_and_latency() {
    let slow = FaultBackend::new(memory());
    let faults = slow.faults();
    let backend = MetricsBackend::new(Arc::new(slow));
    backend.put(&key("a"), "1".into(), None).await.unwrap();
    backend.update(&key("a"), Revision::ZERO, "2".into(), None).await.unwrap_err();
    faults.fail_write(1);
    backend.put(&key("a"), "3".into(), None).await.unwrap_err();
    faults.delay_writes(Duration::from_millis(3));
    backend.put(&key("a"), "4".into(), None).await.unwrap();
    faults.delay_writes(Duration::from_secs(3));
    backend.put(&key("a"), "5".into(), None).await.unwrap();
    backend.get(&key("a")).await.unwrap();

    let stats = backend.stats();
    assert_eq!((stats.commit.calls(), stats.commit.conflicts, stats.commit.failures), (5, 1, 1));
    assert_eq!(stats.commit.latencies, [3, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1]);
    assert_eq!(stats.commit.total, Duration::from_millis(3003));
    assert_eq!((stats.get.calls(), stats.range.calls(), stats.watch.calls()), (1, 0, 0));
}
