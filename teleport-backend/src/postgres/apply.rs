//! Batches on top of what was read: pure decisions. They are written only if nothing was committed since it was read.

use std::collections::BTreeMap;

use teleport_core::clock::Timestamp;
use teleport_core::storage::{Action, Batch, Item, Key, Operation, Revision};

use super::schema::{Change, Known};

/// A transaction that is being composed.
pub(super) struct Composer {
    known: Known,
    now: Timestamp,
    pub(super) newest: Revision,
    pub(super) changes: Vec<Change>,
    /// The last change of each key, by its place in `changes`.
    pub(super) last: BTreeMap<Key, usize>,
}

impl Composer {
    /// On top of what was read when the newest commit was `newest`.
    pub(super) fn new(known: Known, newest: Revision, now: Timestamp) -> Self {
        Self { known, now, newest, changes: Vec::new(), last: BTreeMap::new() }
    }

    /// Applies a batch, or returns the first key whose condition does not hold and leaves everything as it was.
    pub(super) fn apply(&mut self, batch: &Batch) -> Result<Revision, Key> {
        for operation in batch.operations() {
            let current = self.live(&operation.key).map(|item| item.revision);
            if !operation.condition.holds(current) {
                return Err(operation.key.clone());
            }
        }
        let revision = self.next_revision();
        let mut position = 0;
        for operation in batch.operations() {
            if self.perform(operation, revision, position) {
                position += 1;
            }
        }
        Ok(revision)
    }

    /// Removes those that have expired, as a commit of its own. Some may have been changed meanwhile.
    pub(super) fn sweep(&mut self, candidates: &[Key]) {
        let now = self.now;
        let is_expired = |key: &&Key| {
            self.known.get(*key).and_then(Option::as_ref).is_some_and(|item| item.is_expired(now))
        };
        let expired: Vec<Key> = candidates.iter().filter(is_expired).cloned().collect();
        if expired.is_empty() {
            return;
        }
        let revision = self.next_revision();
        for (position, key) in (0..).zip(expired) {
            self.change(Change { revision, position, key, put: None });
        }
    }

    fn live(&self, key: &Key) -> Option<&Item> {
        self.known.get(key)?.as_ref().filter(|item| !item.is_expired(self.now))
    }

    fn next_revision(&mut self) -> Revision {
        self.newest = Revision::from_u64(self.newest.as_u64() + 1);
        self.newest
    }

    /// Whether something changed.
    fn perform(&mut self, operation: &Operation, revision: Revision, position: i32) -> bool {
        let key = operation.key.clone();
        let put = match &operation.action {
            Action::Delete if self.known.get(&key).is_some_and(Option::is_some) => None,
            Action::Put { value, expires } => Some((value.clone(), *expires)),
            Action::Touch { expires } => match self.live(&key) {
                Some(item) => Some((item.value.clone(), *expires)),
                None => return false,
            },
            _ => return false,
        };
        self.change(Change { revision, position, key, put });
        true
    }

    fn change(&mut self, change: Change) {
        let key = change.key.clone();
        let item = change
            .put
            .as_ref()
            .map(|(value, expires)| Item::new(key.clone(), value.clone(), *expires, change.revision));
        self.known.insert(key.clone(), item);
        self.last.insert(key, self.changes.len());
        self.changes.push(change);
    }
}
