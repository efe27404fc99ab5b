//! Fan-out of committed changes to the watches of one backend.

use std::sync::{Mutex, MutexGuard, PoisonError};

use teleport_core::storage::{Key, Prefix, Revision, Watch, WatchEvent, WatchSender};

use super::closed::Closed;

/// How many events one watch may have outstanding before it is cut. A full batch is 128 events; a consumer that is eight
/// batches behind lists again more cheaply than it catches up.
pub(crate) const WATCH_CAPACITY: usize = 1024;

/// All watches of one backend.
///
/// `publish` must be called in the order of commits, before they are acknowledged: then a watch that is established
/// after an acknowledgement starts at or after that commit.
#[derive(Debug)]
pub(crate) struct Hub(Mutex<State>);

#[derive(Debug)]
struct State {
    closed: bool,
    revision: Revision,
    watches: Vec<(Prefix, WatchSender)>,
}

impl Hub {
    /// A hub whose newest commit is `revision`.
    pub(crate) fn new(revision: Revision) -> Self {
        Self(Mutex::new(State { closed: false, revision, watches: Vec::new() }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a watch whose first event is `Ready`.
    pub(crate) fn watch(&self, prefix: &Prefix) -> Result<Watch, Closed> {
        let mut state = self.lock();
        if state.closed {
            return Err(Closed);
        }
        let (mut sender, watch) = Watch::channel(WATCH_CAPACITY);
        sender.send(WatchEvent::Ready { revision: state.revision });
        state.watches.retain(|(_, sender)| !sender.is_closed());
        state.watches.push((prefix.clone(), sender));
        Ok(watch)
    }

    /// Delivers the events of a commit. Never waits: a watch without room is cut.
    pub(crate) fn publish(&self, revision: Revision, events: &[WatchEvent]) {
        let mut state = self.lock();
        state.revision = revision;
        state.watches.retain_mut(|(prefix, sender)| {
            events
                .iter()
                .filter(|event| key(event).is_some_and(|key| prefix.contains(key)))
                .all(|event| sender.send(event.clone()))
                && !sender.is_closed()
        });
    }

    /// Ends all watches, because changes may have happened that nobody can report; later ones start at `revision`.
    #[cfg(feature = "redb")]
    pub(crate) fn restart(&self, revision: Revision) {
        let mut state = self.lock();
        state.revision = revision;
        state.watches.clear();
    }

    /// Ends all watches; later ones are refused.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.watches.clear();
    }
}

fn key(event: &WatchEvent) -> Option<&Key> {
    match event {
        WatchEvent::Deleted { key, .. } => Some(key),
        WatchEvent::Put(item) => Some(&item.key),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn a_watch_that_nobody_holds_is_forgotten() {
        let hub = Hub::new(Revision::ZERO);
        drop(hub.watch(&Prefix::root()).unwrap());
        hub.publish(Revision::from_u64(1), &[]);
        assert!(hub.lock().watches.is_empty());
    }

    #[tokio::test]
    async fn ready_names_the_newest_commit() {
        let hub = Hub::new(Revision::from_u64(6));
        hub.publish(Revision::from_u64(7), &[]);
        let ready = hub.watch(&Prefix::root()).unwrap().next().await.unwrap();
        assert_eq!(ready, WatchEvent::Ready { revision: Revision::from_u64(7) });
        hub.close();
        assert!(hub.watch(&Prefix::root()).is_err());
    }
}
