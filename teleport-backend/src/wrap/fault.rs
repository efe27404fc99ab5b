//! Failures on demand.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use teleport_core::storage::{Backend, Batch, Item, Key, Prefix, Revision, StorageError, Watch};

/// A backend that fails when a test wants it to; see [`Faults`].
#[derive(Debug)]
pub struct FaultBackend {
    inner: Arc<dyn Backend>,
    faults: Faults,
}

/// The failure that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a fault was injected")]
#[non_exhaustive]
pub struct InjectedFault;

impl From<InjectedFault> for StorageError {
    fn from(fault: InjectedFault) -> Self {
        Self::unavailable(fault)
    }
}

/// The control of a [`FaultBackend`]; clones control the same one. Reads are `get`, `range` and `watch`, writes are
/// `commit`. Calls are counted from one, from the start of the backend.
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<Mutex<Plan>>);

#[derive(Debug, Default)]
struct Plan {
    failing_reads: Vec<u64>,
    failing_writes: Vec<u64>,
    read_delay: Duration,
    reads: u64,
    unanswered_writes: Vec<u64>,
    write_delay: Duration,
    writes: u64,
}

enum Fate {
    Answer,
    Fail,
    LoseAnswer,
}

impl Faults {
    fn lock(&self) -> MutexGuard<'_, Plan> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The `nth` read from now (1 is the next) fails.
    pub fn fail_read(&self, nth: u64) {
        let mut plan = self.lock();
        let call = plan.reads.saturating_add(nth);
        plan.failing_reads.push(call);
    }

    /// The `nth` write from now (1 is the next) fails and writes nothing; its caller cannot know that.
    pub fn fail_write(&self, nth: u64) {
        let mut plan = self.lock();
        let call = plan.writes.saturating_add(nth);
        plan.failing_writes.push(call);
    }

    /// The `nth` write from now (1 is the next) is committed, and its caller is told that storage is unavailable: the
    /// unknown outcome, which only reading again resolves.
    pub fn lose_answer(&self, nth: u64) {
        let mut plan = self.lock();
        let call = plan.writes.saturating_add(nth);
        plan.unanswered_writes.push(call);
    }

    /// Each read takes this much longer, in tokio's time, before it reaches the inner backend.
    pub fn delay_reads(&self, by: Duration) {
        self.lock().read_delay = by;
    }

    /// Each write takes this much longer, in tokio's time, before it reaches the inner backend.
    pub fn delay_writes(&self, by: Duration) {
        self.lock().write_delay = by;
    }

    /// How many reads there were, failed ones included.
    pub fn reads(&self) -> u64 {
        self.lock().reads
    }

    /// How many writes there were, failed ones included.
    pub fn writes(&self) -> u64 {
        self.lock().writes
    }

    async fn read(&self) -> Result<(), StorageError> {
        let (delay, fails) = {
            let mut plan = self.lock();
            plan.reads += 1;
            let call = plan.reads;
            (plan.read_delay, take(&mut plan.failing_reads, call))
        };
        wait(delay).await;
        if fails { Err(InjectedFault.into()) } else { Ok(()) }
    }

    async fn write(&self) -> Fate {
        let (delay, fate) = {
            let mut plan = self.lock();
            plan.writes += 1;
            let call = plan.writes;
            let (fails, unanswered) =
                (take(&mut plan.failing_writes, call), take(&mut plan.unanswered_writes, call));
            let fate = match (fails, unanswered) {
                (true, _) => Fate::Fail,
                (false, true) => Fate::LoseAnswer,
                (false, false) => Fate::Answer,
            };
            (plan.write_delay, fate)
        };
        wait(delay).await;
        fate
    }
}

fn take(calls: &mut Vec<u64>, call: u64) -> bool {
    let before = calls.len();
    calls.retain(|planned| *planned != call);
    calls.len() < before
}

async fn wait(delay: Duration) {
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
}

impl FaultBackend {
    /// Around `inner`; without orders nothing fails.
    pub fn new(inner: Arc<dyn Backend>) -> Self {
        Self { inner, faults: Faults::default() }
    }

    /// The control.
    pub fn faults(&self) -> Faults {
        self.faults.clone()
    }
}

impl fmt::Display for FaultBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} with faults", self.inner)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Backend for FaultBackend {
    async fn get(&self, key: &Key) -> Result<Option<Item>, StorageError> {
        self.faults.read().await?;
        self.inner.get(key).await
    }

    async fn range(
        &self,
        prefix: &Prefix,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<Item>, StorageError> {
        self.faults.read().await?;
        self.inner.range(prefix, after, limit).await
    }

    async fn commit(&self, batch: Batch) -> Result<Revision, StorageError> {
        match self.faults.write().await {
            Fate::Answer => self.inner.commit(batch).await,
            Fate::Fail => Err(InjectedFault.into()),
            Fate::LoseAnswer => {
                self.inner.commit(batch).await?;
                Err(InjectedFault.into())
            }
        }
    }

    async fn watch(&self, prefix: &Prefix) -> Result<Watch, StorageError> {
        self.faults.read().await?;
        self.inner.watch(prefix).await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}
