//! Watches: a bounded queue between a driver and one consumer.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::sync::mpsc;

use super::{Item, Key, Revision};

/// What a [`Watch`] reports.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WatchEvent {
    /// An item was deleted or has expired and was swept.
    Deleted {
        /// Its key.
        key: Key,
        /// The commit that removed it.
        revision: Revision,
    },
    /// An item was written or touched.
    Put(Item),
    /// The watch is established: every commit after `revision` will be reported. Always the first event.
    Ready {
        /// The newest commit at that moment, or a later revision that is nobody's here: a server that others use as well counts theirs.
        revision: Revision,
    },
}

/// Why a [`Watch`] has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WatchEnd {
    /// The backend was closed or lost its connection. Watch again, then list again.
    #[error("the watch was closed")]
    Closed,
    /// The consumer was too slow and events were dropped. Watch again, then list again.
    #[error("the watch fell behind and was cut")]
    Lagged,
}

/// The consumer's end of a watch.
#[derive(Debug)]
pub struct Watch {
    events: mpsc::Receiver<WatchEvent>,
    lagged: Arc<AtomicU8>,
    maps: Vec<Map>,
}

struct Map(Box<dyn Fn(WatchEvent) -> WatchEvent + Send + Sync>);

impl fmt::Debug for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Map")
    }
}

impl Watch {
    /// For drivers: both ends of a watch that holds at most `capacity` undelivered events.
    pub fn channel(capacity: usize) -> (WatchSender, Self) {
        let (sender, events) = mpsc::channel(capacity.max(1));
        let lagged = Arc::new(AtomicU8::new(0));
        (
            WatchSender { events: Some(sender), lagged: Arc::clone(&lagged) },
            Self { events, lagged, maps: Vec::new() },
        )
    }

    /// For wrappers of drivers: the same watch, with `map` applied to each event as it is taken.
    #[must_use]
    pub fn map(mut self, map: impl Fn(WatchEvent) -> WatchEvent + Send + Sync + 'static) -> Self {
        self.maps.push(Map(Box::new(map)));
        self
    }

    /// The next event, after all that were delivered before. Cancel safe.
    ///
    /// # Errors
    /// [`WatchEnd`] once the events that were queued are consumed; from then on always the same.
    pub async fn next(&mut self) -> Result<WatchEvent, WatchEnd> {
        match self.events.recv().await {
            Some(event) => Ok(self.maps.iter().fold(event, |event, map| (map.0)(event))),
            None if self.lagged.load(Ordering::Acquire) != 0 => Err(WatchEnd::Lagged),
            None => Err(WatchEnd::Closed),
        }
    }
}

/// The driver's end of a watch. Dropping it ends the watch with [`WatchEnd::Closed`].
#[derive(Debug)]
pub struct WatchSender {
    events: Option<mpsc::Sender<WatchEvent>>,
    lagged: Arc<AtomicU8>,
}

impl WatchSender {
    /// Queues an event without waiting. Returns `false` when the watch is over: the consumer is gone, or its queue was
    /// full and it has just been cut.
    pub fn send(&mut self, event: WatchEvent) -> bool {
        let Some(events) = &self.events else { return false };
        match events.try_send(event) {
            Ok(()) => true,
            Err(error) => {
                if matches!(error, mpsc::error::TrySendError::Full(_)) {
                    self.lagged.store(1, Ordering::Release);
                }
                self.events = None;
                false
            }
        }
    }

    /// Whether the consumer is gone or was cut.
    pub fn is_closed(&self) -> bool {
        self.events.as_ref().is_none_or(mpsc::Sender::is_closed)
    }
}
