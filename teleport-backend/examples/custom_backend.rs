//! A storage backend of your own, complete: keys and bytes in a vector.
//!
//! It passes the suite that the drivers of this crate pass:
//!
//! ```sh
//! cargo run -p teleport-backend --example custom_backend --features conformance
//! ```
//!
//! A driver for a real database replaces the vector; everything around it stays: validate, evaluate the conditions and
//! apply the actions in one transaction, publish to the watches in the order of commits.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use teleport_core::clock::{Clock, Timestamp};
use teleport_core::storage::{
    Action, Backend, Batch, Item, Key, MAX_PAGE, Operation, Prefix, Revision, StorageError, Watch,
    WatchEvent, WatchSender,
};
use teleport_core::task::TaskScope;

/// Items in a vector, sorted by their keys.
#[derive(Debug)]
pub struct VecBackend {
    clock: Arc<dyn Clock>,
    state: Arc<Mutex<State>>,
    _sweeper: TaskScope,
}

#[derive(Debug, Default)]
struct State {
    closed: bool,
    items: Vec<Item>,
    revision: u64,
    watches: Vec<(Prefix, WatchSender)>,
}

#[derive(Debug)]
struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the vector was closed")
    }
}

impl std::error::Error for Closed {}

impl VecBackend {
    /// An empty backend. Must be called inside a tokio runtime, where its sweeper lives.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let sweeper = TaskScope::new();
        sweeper.spawn(sweep(Arc::downgrade(&state), Arc::clone(&clock)));
        Self { clock, state, _sweeper: sweeper }
    }

    fn open(&self) -> Result<MutexGuard<'_, State>, StorageError> {
        let state = lock(&self.state);
        if state.closed { Err(StorageError::unavailable(Closed)) } else { Ok(state) }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes what has expired and tells the watches. Reads do not depend on it: they look at the clock themselves.
async fn sweep(state: Weak<Mutex<State>>, clock: Arc<dyn Clock>) {
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let Some(state) = state.upgrade() else { return };
        let mut state = lock(&state);
        let now = clock.now();
        let expired: Vec<Key> =
            state.items.iter().filter(|item| item.is_expired(now)).map(|item| item.key.clone()).collect();
        if !expired.is_empty() {
            let revision = state.next_revision();
            let events: Vec<_> = expired.iter().filter_map(|key| state.remove(key, revision)).collect();
            state.publish(&events);
        }
    }
}

impl State {
    fn position(&self, key: &Key) -> Result<usize, usize> {
        self.items.binary_search_by(|item| item.key.as_str().cmp(key.as_str()))
    }

    fn live(&self, key: &Key, now: Timestamp) -> Option<&Item> {
        let position = self.position(key).ok()?;
        self.items.get(position).filter(|item| !item.is_expired(now))
    }

    fn next_revision(&mut self) -> Revision {
        self.revision += 1;
        Revision::from_u64(self.revision)
    }

    fn insert(&mut self, item: Item) -> WatchEvent {
        match self.position(&item.key) {
            Ok(position) => drop(self.items.splice(position..=position, [item.clone()])),
            Err(position) => self.items.insert(position, item.clone()),
        }
        WatchEvent::Put(item)
    }

    fn remove(&mut self, key: &Key, revision: Revision) -> Option<WatchEvent> {
        let item = self.items.remove(self.position(key).ok()?);
        Some(WatchEvent::Deleted { key: item.key, revision })
    }

    fn apply(&mut self, operation: Operation, now: Timestamp, revision: Revision) -> Option<WatchEvent> {
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

    /// Sending never waits: a watch whose queue is full is cut, and forgotten here.
    fn publish(&mut self, events: &[WatchEvent]) {
        let concerns = |prefix: &Prefix, event: &WatchEvent| match event {
            WatchEvent::Deleted { key, .. } => prefix.contains(key),
            WatchEvent::Put(item) => prefix.contains(&item.key),
            _ => false,
        };
        self.watches.retain_mut(|(prefix, watch)| {
            events.iter().filter(|event| concerns(prefix, event)).all(|event| watch.send(event.clone()))
        });
    }
}

impl fmt::Display for VecBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("vector:")
    }
}

#[async_trait]
impl Backend for VecBackend {
    async fn get(&self, key: &Key) -> Result<Option<Item>, StorageError> {
        Ok(self.open()?.live(key, self.clock.now()).cloned())
    }

    async fn range(
        &self,
        prefix: &Prefix,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<Item>, StorageError> {
        let now = self.clock.now();
        let state = self.open()?;
        let below = state.items.iter().filter(|item| prefix.contains(&item.key) && !item.is_expired(now));
        let behind = below.filter(|item| after.is_none_or(|after| item.key > *after));
        Ok(behind.take(limit.min(MAX_PAGE)).cloned().collect())
    }

    async fn commit(&self, batch: Batch) -> Result<Revision, StorageError> {
        batch.validate()?;
        let now = self.clock.now();
        // The lock is the transaction.
        let mut state = self.open()?;
        for operation in batch.operations() {
            let current = state.live(&operation.key, now).map(|item| item.revision);
            if !operation.condition.holds(current) {
                return Err(StorageError::Conflict { key: operation.key.clone() });
            }
        }
        let revision = state.next_revision();
        let operations = batch.into_operations().into_iter();
        let events: Vec<_> =
            operations.filter_map(|operation| state.apply(operation, now, revision)).collect();
        state.publish(&events);
        Ok(revision)
    }

    async fn watch(&self, prefix: &Prefix) -> Result<Watch, StorageError> {
        let mut state = self.open()?;
        let (mut sender, watch) = Watch::channel(1024);
        sender.send(WatchEvent::Ready { revision: Revision::from_u64(state.revision) });
        state.watches.push((prefix.clone(), sender));
        Ok(watch)
    }

    async fn close(&self) {
        *lock(&self.state) = State { closed: true, ..State::default() };
    }
}

/// The suite makes a fresh backend for each of its tests, with a clock that it controls.
pub async fn conforms() {
    let factory = async |clock: Arc<dyn Clock>| Arc::new(VecBackend::new(clock)) as Arc<dyn Backend>;
    teleport_backend::conformance::run_all(&factory).await;
}

#[tokio::main]
async fn main() {
    conforms().await;
    println!("the backend keeps the whole contract");
}
