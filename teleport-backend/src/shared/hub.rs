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
    watches: Vec<Subscriber>,
    #[cfg(any(feature = "etcd", feature = "postgres"))]
    next_ticket: u64,
}

#[derive(Debug)]
struct Subscriber {
    prefix: Prefix,
    sender: WatchSender,
    /// Only later commits are for it.
    after: Revision,
    /// What has been published before it was ready, by the ticket that makes it ready.
    #[cfg(any(feature = "etcd", feature = "postgres"))]
    early: Option<(u64, Vec<(Revision, WatchEvent)>)>,
}

impl Subscriber {
    /// `false` when the watch is over.
    fn take(&mut self, revision: Revision, event: &WatchEvent) -> bool {
        if revision <= self.after || !key(event).is_some_and(|key| self.prefix.contains(key)) {
            return true;
        }
        #[cfg(any(feature = "etcd", feature = "postgres"))]
        if let Some((_, early)) = &mut self.early {
            early.push((revision, event.clone()));
            return early.len() < WATCH_CAPACITY;
        }
        self.sender.send(event.clone())
    }
}

impl Hub {
    /// A hub whose newest commit is `revision`.
    pub(crate) fn new(revision: Revision) -> Self {
        Self(Mutex::new(State {
            closed: false,
            revision,
            watches: Vec::new(),
            #[cfg(any(feature = "etcd", feature = "postgres"))]
            next_ticket: 0,
        }))
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
        let after = state.revision;
        sender.send(WatchEvent::Ready { revision: after });
        state.watches.retain(|subscriber| !subscriber.sender.is_closed());
        state.watches.push(Subscriber {
            prefix: prefix.clone(),
            sender,
            after,
            #[cfg(any(feature = "etcd", feature = "postgres"))]
            early: None,
        });
        Ok(watch)
    }

    /// Opens a watch of a store whose commits come from elsewhere, and later than they are acknowledged. From now on nothing is
    /// missed; [`ready`](Self::ready) with the ticket says from which commit on there is something to tell.
    #[cfg(any(feature = "etcd", feature = "postgres"))]
    pub(crate) fn begin(&self, prefix: &Prefix) -> Result<(u64, Watch), Closed> {
        let mut state = self.lock();
        if state.closed {
            return Err(Closed);
        }
        let (sender, watch) = Watch::channel(WATCH_CAPACITY);
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.watches.retain(|subscriber| !subscriber.sender.is_closed());
        state.watches.push(Subscriber {
            prefix: prefix.clone(),
            sender,
            after: Revision::ZERO,
            early: Some((ticket, Vec::new())),
        });
        Ok((ticket, watch))
    }

    /// Makes a watch ready that was begun before the store was asked for its newest commit, which is `revision`. `false` if it was
    /// ended meanwhile.
    #[cfg(any(feature = "etcd", feature = "postgres"))]
    pub(crate) fn ready(&self, ticket: u64, revision: Revision) -> bool {
        let mut state = self.lock();
        let found = state
            .watches
            .iter_mut()
            .find(|subscriber| subscriber.early.as_ref().is_some_and(|(own, _)| *own == ticket));
        let Some(subscriber) = found else { return false };
        let (_, early) = subscriber.early.take().unwrap_or_default();
        subscriber.after = revision;
        subscriber.sender.send(WatchEvent::Ready { revision })
            && early.iter().all(|(revision, event)| subscriber.take(*revision, event))
    }

    /// The newest commit that was published.
    #[cfg(any(feature = "etcd", feature = "postgres"))]
    pub(crate) fn revision(&self) -> Revision {
        self.lock().revision
    }

    /// Delivers the events of a commit. Never waits: a watch without room is cut.
    pub(crate) fn publish(&self, revision: Revision, events: &[WatchEvent]) {
        let mut state = self.lock();
        state.revision = revision;
        state.watches.retain_mut(|subscriber| {
            events.iter().all(|event| subscriber.take(revision, event)) && !subscriber.sender.is_closed()
        });
    }

    /// Ends all watches, because changes may have happened that nobody can report; later ones start at `revision`.
    #[cfg(any(feature = "etcd", feature = "postgres", feature = "redb"))]
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

    #[cfg(any(feature = "etcd", feature = "postgres"))]
    #[tokio::test]
    async fn what_comes_before_ready_is_kept_or_known() {
        let deleted = |name: &str, revision| WatchEvent::Deleted {
            key: Key::new(name).unwrap(),
            revision: Revision::from_u64(revision),
        };
        let publish = |hub: &Hub, name: &str, revision| {
            hub.publish(Revision::from_u64(revision), &[deleted(name, revision)]);
        };
        let hub = Hub::new(Revision::from_u64(3));
        let (ticket, mut watch) = hub.begin(&Prefix::root()).unwrap();
        publish(&hub, "a", 4);
        publish(&hub, "b", 6);
        assert!(hub.ready(ticket, Revision::from_u64(5)));
        assert!(!hub.ready(ticket, Revision::from_u64(5)), "once");
        assert_eq!(watch.next().await, Ok(WatchEvent::Ready { revision: Revision::from_u64(5) }));
        assert_eq!(watch.next().await, Ok(deleted("b", 6)));

        // The store was ahead of what is published.
        let (ticket, mut watch) = hub.begin(&Prefix::root()).unwrap();
        assert!(hub.ready(ticket, Revision::from_u64(8)));
        publish(&hub, "c", 7);
        publish(&hub, "d", 8);
        publish(&hub, "e", 9);
        assert_eq!(watch.next().await, Ok(WatchEvent::Ready { revision: Revision::from_u64(8) }));
        assert_eq!(watch.next().await, Ok(deleted("e", 9)));

        let (ticket, _watch) = hub.begin(&Prefix::root()).unwrap();
        hub.restart(Revision::from_u64(9));
        assert!(!hub.ready(ticket, Revision::from_u64(9)), "a gap ends it");
        let (ticket, _watch) = hub.begin(&Prefix::root()).unwrap();
        for revision in 10..=10 + WATCH_CAPACITY as u64 {
            publish(&hub, "f", revision);
        }
        assert!(!hub.ready(ticket, Revision::from_u64(9)), "nothing is kept for ever");
    }
}
