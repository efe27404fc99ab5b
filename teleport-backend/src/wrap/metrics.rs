//! Counts and latencies.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use teleport_core::storage::{Backend, Batch, Item, Key, Prefix, Revision, StorageError, Watch};
use tokio::time::Instant;
use tracing::Instrument;

/// The upper bounds of the latency buckets; what takes longer is in one more bucket at the end.
pub const LATENCY_BOUNDS: [Duration; BUCKETS - 1] = [
    Duration::from_micros(10),
    Duration::from_micros(50),
    Duration::from_micros(100),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(1),
];

/// How many latency buckets there are.
pub const BUCKETS: usize = 12;

/// A backend that counts what is asked of it: a few relaxed atomic additions for each call. A commit is a span, `commit`, as well.
#[derive(Debug)]
pub struct MetricsBackend {
    inner: Arc<dyn Backend>,
    commit: Counters,
    get: Counters,
    range: Counters,
    watch: Counters,
}

/// What a [`MetricsBackend`] has counted since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackendStats {
    /// Calls of [`Backend::commit`].
    pub commit: OperationStats,
    /// Calls of [`Backend::get`].
    pub get: OperationStats,
    /// Calls of [`Backend::range`].
    pub range: OperationStats,
    /// Calls of [`Backend::watch`].
    pub watch: OperationStats,
}

/// The calls of one method that have returned. Calls whose future was dropped are not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct OperationStats {
    /// Those that failed with [`StorageError::Conflict`]: contention, not failure.
    pub conflicts: u64,
    /// Those that failed otherwise.
    pub failures: u64,
    /// How many took at most the [bound](LATENCY_BOUNDS) of the same index and more than the one before.
    pub latencies: [u64; BUCKETS],
    /// The sum of all latencies.
    pub total: Duration,
}

impl OperationStats {
    /// All calls.
    pub fn calls(&self) -> u64 {
        self.latencies.iter().sum()
    }
}

#[derive(Debug, Default)]
struct Counters {
    conflicts: AtomicU64,
    failures: AtomicU64,
    latencies: [AtomicU64; BUCKETS],
    micros: AtomicU64,
}

impl Counters {
    async fn count<T>(&self, call: impl Future<Output = Result<T, StorageError>>) -> Result<T, StorageError> {
        let start = Instant::now();
        let result = call.await;
        let took = start.elapsed();
        let bucket = LATENCY_BOUNDS.partition_point(|bound| *bound < took);
        if let Some(latency) = self.latencies.get(bucket) {
            latency.fetch_add(1, Ordering::Relaxed);
        }
        self.micros.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        match &result {
            Ok(_) => {}
            Err(StorageError::Conflict { .. }) => {
                self.conflicts.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
            }
        }
        result
    }

    fn stats(&self) -> OperationStats {
        OperationStats {
            conflicts: self.conflicts.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
            latencies: std::array::from_fn(|bucket| {
                self.latencies.get(bucket).map_or(0, |count| count.load(Ordering::Relaxed))
            }),
            total: Duration::from_micros(self.micros.load(Ordering::Relaxed)),
        }
    }
}

impl MetricsBackend {
    /// Around `inner`.
    pub fn new(inner: Arc<dyn Backend>) -> Self {
        Self {
            inner,
            commit: Counters::default(),
            get: Counters::default(),
            range: Counters::default(),
            watch: Counters::default(),
        }
    }

    /// What was counted so far. The figures of calls that end meanwhile may be in part of it.
    pub fn stats(&self) -> BackendStats {
        BackendStats {
            commit: self.commit.stats(),
            get: self.get.stats(),
            range: self.range.stats(),
            watch: self.watch.stats(),
        }
    }
}

impl fmt::Display for MetricsBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.inner, f)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Backend for MetricsBackend {
    async fn get(&self, key: &Key) -> Result<Option<Item>, StorageError> {
        self.get.count(self.inner.get(key)).await
    }

    async fn range(
        &self,
        prefix: &Prefix,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<Item>, StorageError> {
        self.range.count(self.inner.range(prefix, after, limit)).await
    }

    async fn commit(&self, batch: Batch) -> Result<Revision, StorageError> {
        let span = tracing::info_span!("commit", operations = batch.operations().len());
        self.commit.count(self.inner.commit(batch)).instrument(span).await
    }

    async fn watch(&self, prefix: &Prefix) -> Result<Watch, StorageError> {
        self.watch.count(self.inner.watch(prefix)).await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}
