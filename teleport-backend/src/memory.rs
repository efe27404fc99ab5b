//! The driver without a disk, and the executable specification of the port.
//!
//! One map under one lock: what another driver does must look like this.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use async_trait::async_trait;
use teleport_core::clock::{Clock, Timestamp};
use teleport_core::storage::{
    Action, Backend, Batch, Item, Key, MAX_PAGE, Operation, Prefix, Revision, StorageError, Watch, WatchEvent,
};
use teleport_core::task::TaskScope;

use crate::shared::closed::Closed;
use crate::shared::hub::Hub;
use crate::shared::sweep::{self, Sweep};

/// A [`Backend`] in the memory of this process: for tests, trials and as the reference of the contract.
///
/// Expired items are swept with the commits and, inside a tokio runtime with its timer enabled, in the background.
#[derive(Debug)]
pub struct MemoryBackend {
    inner: Arc<Inner>,
    sweeper: OnceLock<TaskScope>,
}

#[derive(Debug)]
struct Inner {
    clock: Arc<dyn Clock>,
    hub: Hub,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    closed: bool,
    revision: u64,
    items: BTreeMap<Box<str>, Item>,
    expiries: BTreeSet<(Timestamp, Key)>,
}

impl MemoryBackend {
    /// An empty backend; `clock` decides what has expired.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let inner = Inner { clock, hub: Hub::new(Revision::ZERO), state: Mutex::default() };
        Self { inner: Arc::new(inner), sweeper: OnceLock::new() }
    }

    /// The constructor cannot do this: it need not be called inside a runtime.
    fn ensure_sweeper(&self) {
        if self.sweeper.get().is_none() && tokio::runtime::Handle::try_current().is_ok() {
            self.sweeper.get_or_init(|| {
                let scope = TaskScope::new();
                sweep::start(&scope, Arc::downgrade(&self.inner));
                scope
            });
        }
    }
}

impl fmt::Display for MemoryBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("memory:")
    }
}

#[async_trait]
impl Backend for MemoryBackend {
    async fn get(&self, key: &Key) -> Result<Option<Item>, StorageError> {
        let now = self.inner.clock.now();
        Ok(self.inner.open()?.live(key, now).cloned())
    }

    async fn range(
        &self,
        prefix: &Prefix,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<Item>, StorageError> {
        let now = self.inner.clock.now();
        let start = match after.map(Key::as_str) {
            Some(after) if after >= prefix.as_str() => Bound::Excluded(after),
            _ => Bound::Included(prefix.as_str()),
        };
        let state = self.inner.open()?;
        let items = state.items.range::<str, _>((start, Bound::Unbounded)).map(|(_, item)| item);
        Ok(items
            .take_while(|item| prefix.contains(&item.key))
            .filter(|item| !item.is_expired(now))
            .take(limit.min(MAX_PAGE))
            .cloned()
            .collect())
    }

    async fn commit(&self, batch: Batch) -> Result<Revision, StorageError> {
        batch.validate()?;
        self.ensure_sweeper();
        let now = self.inner.clock.now();
        let mut state = self.inner.open()?;
        self.inner.sweep(&mut state, now);
        for operation in batch.operations() {
            let current = state.live(&operation.key, now).map(|item| item.revision);
            if !operation.condition.holds(current) {
                return Err(StorageError::Conflict { key: operation.key.clone() });
            }
        }
        let revision = state.next_revision();
        let events: Vec<_> = batch
            .into_operations()
            .into_iter()
            .filter_map(|operation| state.apply(operation, revision, now))
            .collect();
        self.inner.hub.publish(revision, &events);
        Ok(revision)
    }

    async fn watch(&self, prefix: &Prefix) -> Result<Watch, StorageError> {
        self.ensure_sweeper();
        // Under the lock no commit can be between its change and its publication.
        let _state = self.inner.open()?;
        Ok(self.inner.hub.watch(prefix)?)
    }

    async fn close(&self) {
        let mut state = self.inner.lock();
        *state = State { closed: true, ..State::default() };
        self.inner.hub.close();
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> Result<MutexGuard<'_, State>, Closed> {
        let state = self.lock();
        if state.closed { Err(Closed) } else { Ok(state) }
    }

    /// Removes some of what has expired, as a commit of its own.
    fn sweep(&self, state: &mut State, now: Timestamp) {
        let expired: Vec<_> = state
            .expiries
            .iter()
            .take_while(|(expires, _)| *expires <= now)
            .take(sweep::MAX_PER_COMMIT)
            .cloned()
            .collect();
        if expired.is_empty() {
            return;
        }
        let revision = state.next_revision();
        let events: Vec<_> = expired.iter().filter_map(|(_, key)| state.remove(key, revision)).collect();
        self.hub.publish(revision, &events);
    }
}

impl Sweep for Inner {
    fn sweep(&self) -> bool {
        let now = self.clock.now();
        let Ok(mut state) = self.open() else { return false };
        Self::sweep(self, &mut state, now);
        true
    }
}

impl State {
    fn live(&self, key: &Key, now: Timestamp) -> Option<&Item> {
        self.items.get(key.as_str()).filter(|item| !item.is_expired(now))
    }

    fn next_revision(&mut self) -> Revision {
        self.revision += 1;
        Revision::from_u64(self.revision)
    }

    fn apply(&mut self, operation: Operation, revision: Revision, now: Timestamp) -> Option<WatchEvent> {
        let Operation { key, action, .. } = operation;
        match action {
            Action::Delete => self.remove(&key, revision),
            Action::Put { value, expires } => Some(self.insert(Item::new(key, value, expires, revision))),
            Action::Touch { expires } => {
                let value = self.live(&key, now)?.value.clone();
                Some(self.insert(Item::new(key, value, expires, revision)))
            }
            _ => None,
        }
    }

    fn insert(&mut self, item: Item) -> WatchEvent {
        if let Some(expires) = item.expires {
            self.expiries.insert((expires, item.key.clone()));
        }
        let old = self.items.insert(item.key.as_str().into(), item.clone());
        if let Some(Item { key, expires: Some(expires), .. }) = old
            && item.expires != Some(expires)
        {
            self.expiries.remove(&(expires, key));
        }
        WatchEvent::Put(item)
    }

    fn remove(&mut self, key: &Key, revision: Revision) -> Option<WatchEvent> {
        let item = self.items.remove(key.as_str())?;
        if let Some(expires) = item.expires {
            self.expiries.remove(&(expires, item.key.clone()));
        }
        Some(WatchEvent::Deleted { key: item.key, revision })
    }
}
