//! Fan-out of committed changes to the watches of one backend.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use teleport_core::storage::{Key, Prefix, Revision, Watch, WatchEvent, WatchSender};

use super::closed::Closed;

/// How many events one watch may have outstanding before it is cut. A full batch is 128 events; a consumer that is eight
/// batches behind lists again more cheaply than it catches up.
pub(crate) const WATCH_CAPACITY: usize = 1024;

/// From how many watches of one prefix on it is looked for those that nobody holds.
const LOOK_AT: usize = 64;

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
    /// By what they watch: most of a cluster's watches are of collections that hardly ever change, and a sign of life of a node is not
    /// to cost anything for each of them.
    watches: HashMap<Prefix, Group>,
    #[cfg(any(feature = "etcd", feature = "postgres"))]
    next_ticket: u64,
}

/// The watches of one prefix.
#[derive(Debug, Default)]
struct Group {
    subscribers: Vec<Subscriber>,
    /// From so many on it is looked whether some are held by nobody any more: twice as many as there were then.
    look_at: usize,
}

impl Group {
    fn add(&mut self, subscriber: Subscriber) {
        if self.subscribers.len() >= self.look_at {
            self.subscribers.retain(|subscriber| !subscriber.sender.is_closed());
            self.look_at = (self.subscribers.len() * 2).max(LOOK_AT);
        }
        self.subscribers.push(subscriber);
    }
}

#[derive(Debug)]
struct Subscriber {
    sender: WatchSender,
    /// Only later commits are for it.
    after: Revision,
    /// What has been published before it was ready, by the ticket that makes it ready.
    #[cfg(any(feature = "etcd", feature = "postgres"))]
    early: Option<(u64, Vec<(Revision, WatchEvent)>)>,
}

impl Subscriber {
    /// Takes an event of its prefix; `false` when the watch is over.
    fn take(&mut self, revision: Revision, event: &WatchEvent) -> bool {
        if revision <= self.after {
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

impl State {
    fn add(&mut self, prefix: &Prefix, subscriber: Subscriber) {
        self.watches.entry(prefix.clone()).or_default().add(subscriber);
    }
}

impl Hub {
    /// A hub whose newest commit is `revision`.
    pub(crate) fn new(revision: Revision) -> Self {
        Self(Mutex::new(State {
            closed: false,
            revision,
            watches: HashMap::new(),
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
        state.add(
            prefix,
            Subscriber {
                sender,
                after,
                #[cfg(any(feature = "etcd", feature = "postgres"))]
                early: None,
            },
        );
        Ok(watch)
    }

    /// Opens a watch of a store whose commits come from elsewhere, and later than they are acknowledged. From now on nothing is
    /// missed; [`ready`](Self::ready) with the prefix and the ticket says from which commit on there is something to tell.
    #[cfg(any(feature = "etcd", feature = "postgres"))]
    pub(crate) fn begin(&self, prefix: &Prefix) -> Result<(u64, Watch), Closed> {
        let mut state = self.lock();
        if state.closed {
            return Err(Closed);
        }
        let (sender, watch) = Watch::channel(WATCH_CAPACITY);
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.add(prefix, Subscriber { sender, after: Revision::ZERO, early: Some((ticket, Vec::new())) });
        Ok((ticket, watch))
    }

    /// Makes a watch ready that was begun before the store was asked for its newest commit, which is `revision`. `false` if it was
    /// ended meanwhile.
    #[cfg(any(feature = "etcd", feature = "postgres"))]
    pub(crate) fn ready(&self, prefix: &Prefix, ticket: u64, revision: Revision) -> bool {
        let mut state = self.lock();
        let Some(group) = state.watches.get_mut(prefix) else { return false };
        // It is one of the last.
        let found = group
            .subscribers
            .iter_mut()
            .rev()
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
        for event in events {
            let Some(key) = key(event) else { continue };
            for prefix in prefixes_of(key) {
                let Some(group) = state.watches.get_mut(prefix) else { continue };
                group.subscribers.retain_mut(|subscriber| {
                    subscriber.take(revision, event) && !subscriber.sender.is_closed()
                });
                if group.subscribers.is_empty() {
                    state.watches.remove(prefix);
                }
            }
        }
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

/// Every prefix that `key` is below, the root first.
fn prefixes_of(key: &Key) -> impl Iterator<Item = &str> {
    let text = key.as_str();
    let below = text.char_indices().filter(|(_, letter)| *letter == '/');
    std::iter::once("").chain(below.filter_map(|(at, _)| text.get(..=at)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    fn deleted(name: &str, revision: u64) -> WatchEvent {
        WatchEvent::Deleted { key: Key::new(name).unwrap(), revision: Revision::from_u64(revision) }
    }

    #[test]
    fn a_watch_that_nobody_holds_is_forgotten() {
        let hub = Hub::new(Revision::ZERO);
        drop(hub.watch(&Prefix::root()).unwrap());
        hub.publish(Revision::from_u64(1), &[deleted("a", 1)]);
        assert!(hub.lock().watches.is_empty());
        // Nor are they kept where nothing changes.
        for _ in 0..10 * LOOK_AT {
            drop(hub.watch(&Prefix::root()).unwrap());
        }
        let kept = hub.lock().watches.values().map(|group| group.subscribers.len()).sum::<usize>();
        assert!(kept <= LOOK_AT, "{kept}");
    }

    #[tokio::test]
    async fn each_hears_of_what_it_watches() {
        let hub = Hub::new(Revision::ZERO);
        let mut watches = Vec::new();
        for prefix in ["", "a", "a/b", "a/b/c", "ab", "b"] {
            let watched = if prefix.is_empty() { Prefix::root() } else { Prefix::new(prefix).unwrap() };
            watches.push((watched.clone(), hub.watch(&watched).unwrap()));
        }
        let keys = ["a", "a/b", "a/b/c", "a/b/c/d", "ab/c", "b/a", "c"];
        for (revision, name) in (1..).zip(keys) {
            hub.publish(Revision::from_u64(revision), &[deleted(name, revision)]);
        }
        hub.close();
        for (prefix, mut watch) in watches {
            let mut told = Vec::new();
            while let Ok(event) = watch.next().await {
                told.extend(key(&event).map(|key| key.as_str().to_owned()));
            }
            let meant: Vec<_> =
                keys.into_iter().filter(|name| prefix.contains(&Key::new(name).unwrap())).collect();
            assert_eq!(told, meant, "{prefix}");
        }
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
        let publish = |hub: &Hub, name: &str, revision| {
            hub.publish(Revision::from_u64(revision), &[deleted(name, revision)]);
        };
        let hub = Hub::new(Revision::from_u64(3));
        let (ticket, mut watch) = hub.begin(&Prefix::root()).unwrap();
        publish(&hub, "a", 4);
        publish(&hub, "b", 6);
        assert!(hub.ready(&Prefix::root(), ticket, Revision::from_u64(5)));
        assert!(!hub.ready(&Prefix::root(), ticket, Revision::from_u64(5)), "once");
        assert_eq!(watch.next().await, Ok(WatchEvent::Ready { revision: Revision::from_u64(5) }));
        assert_eq!(watch.next().await, Ok(deleted("b", 6)));

        // The store was ahead of what is published.
        let (ticket, mut watch) = hub.begin(&Prefix::root()).unwrap();
        assert!(hub.ready(&Prefix::root(), ticket, Revision::from_u64(8)));
        publish(&hub, "c", 7);
        publish(&hub, "d", 8);
        publish(&hub, "e", 9);
        assert_eq!(watch.next().await, Ok(WatchEvent::Ready { revision: Revision::from_u64(8) }));
        assert_eq!(watch.next().await, Ok(deleted("e", 9)));

        let (ticket, _watch) = hub.begin(&Prefix::root()).unwrap();
        hub.restart(Revision::from_u64(9));
        assert!(!hub.ready(&Prefix::root(), ticket, Revision::from_u64(9)), "a gap ends it");
        let (ticket, _watch) = hub.begin(&Prefix::root()).unwrap();
        for revision in 10..=10 + WATCH_CAPACITY as u64 {
            publish(&hub, "f", revision);
        }
        assert!(!hub.ready(&Prefix::root(), ticket, Revision::from_u64(9)), "nothing is kept for ever");
    }
}
