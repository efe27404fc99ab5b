//! Copies in memory that follow the backend, so that a decision costs no read.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use futures_util::FutureExt;
use tokio::sync::Mutex;

use crate::api::ApiResult;
use crate::cert::CLOCK_SKEW;
use crate::clock::Timestamp;
use crate::resource::{Resource, Spec};
use crate::storage::{Backend, BackendExt, Item, Repo, RepoError, Revision, Watch, WatchEvent};

/// A kind of resource that decisions are made by.
///
/// One that exists and cannot be read is not left out as in lists: something stands for it.
pub(super) trait Followed: Clone + fmt::Debug + Send + Sized + 'static {
    /// All of them, as decisions are made by.
    type Set: Clone + Default + fmt::Debug + Send + FromIterator<Self>;

    /// What is stored, or what stands for it.
    fn decode(item: &Item) -> Self;

    fn expires(&self) -> Option<Timestamp>;
}

/// What a stored item is; `Err` says why it cannot be read.
pub(super) fn read<S: Spec>(item: &Item) -> Result<Resource<S>, String> {
    match Repo::<Resource<S>>::decode(item) {
        Ok(stored) if stored.record.kind == S::KIND && stored.record.version == S::VERSION => {
            Ok(stored.record)
        }
        Ok(stored) => Err(format!("its version {:?} is not known here", stored.record.version)),
        Err(error @ RepoError::Corrupt { .. }) => {
            Err(std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string))
        }
        Err(error) => Err(error.to_string()),
    }
}

/// The change that an event tells of; nothing of one that tells of none.
pub(super) fn change(event: &WatchEvent) -> Revision {
    match event {
        WatchEvent::Deleted { revision, .. } => *revision,
        WatchEvent::Put(item) => item.revision,
        _ => Revision::ZERO,
    }
}

/// A collection in memory.
///
/// No task keeps it up to date: whoever asks first takes what the watch has queued. A change that was acknowledged before
/// by the same backend is therefore always seen; one of another auth service as soon as the backend reports it.
#[derive(Debug)]
pub(super) struct Cache<T: Followed> {
    backend: Arc<dyn Backend>,
    collection: &'static str,
    state: Mutex<Option<State<T>>>,
}

#[derive(Debug)]
struct State<T: Followed> {
    watch: Watch,
    /// The newest commit of the collection that the watch has told of.
    seen: Revision,
    by_name: BTreeMap<String, T>,
    snapshot: T::Set,
    /// When the first of the snapshot expires.
    until: Option<Timestamp>,
    /// What had expired by this time was left out.
    at: Timestamp,
}

impl<T: Followed> Cache<T> {
    pub(super) fn new(backend: Arc<dyn Backend>, collection: &'static str) -> Self {
        Self { backend, collection, state: Mutex::new(None) }
    }

    /// All that exist at `now`.
    pub(super) async fn current(&self, now: Timestamp) -> ApiResult<T::Set> {
        self.current_since(now, Revision::ZERO).await
    }

    /// The same, at least as new as the commit that another watch of the collection has told of: nothing says that the one here
    /// hears of it first, and whoever was woken by it would look too early and not again.
    pub(super) async fn current_since(&self, now: Timestamp, since: Revision) -> ApiResult<T::Set> {
        let mut state = self.state.lock().await;
        if let Some(followed) = state.as_mut()
            && followed.catch_up(now)
            && followed.seen >= since
        {
            return Ok(followed.snapshot.clone());
        }
        // First use, or the watch has ended or is behind: watch anew, then list, so that nothing falls between.
        *state = None;
        let prefix = crate::storage::Prefix::new(self.collection).map_err(RepoError::from)?;
        let watch = self.backend.watch(&prefix).await?;
        let items = self.backend.list(&prefix).await?;
        let by_name = items.iter().map(|item| (item.key.leaf().to_owned(), T::decode(item))).collect();
        let mut followed =
            State { watch, seen: since, by_name, snapshot: T::Set::default(), until: None, at: now };
        followed.publish(now);
        let snapshot = followed.snapshot.clone();
        *state = Some(followed);
        Ok(snapshot)
    }
}

impl<T: Followed> State<T> {
    /// Applies what the watch has queued; `false` if it has ended, or if the clock has gone back: what was left out by it is there again.
    fn catch_up(&mut self, now: Timestamp) -> bool {
        if now.saturating_add(CLOCK_SKEW) < self.at {
            return false;
        }
        let mut changed = false;
        // Unconstrained: a task that has done much without a pause is told by tokio that nothing is there, and would decide by what
        // was true before.
        while let Some(event) = tokio::task::unconstrained(self.watch.next()).now_or_never() {
            if let Ok(event) = &event {
                self.seen = self.seen.max(change(event));
            }
            match event {
                Ok(WatchEvent::Put(item)) => {
                    changed = true;
                    self.by_name.insert(item.key.leaf().to_owned(), T::decode(&item));
                }
                Ok(WatchEvent::Deleted { key, .. }) => {
                    changed = true;
                    self.by_name.remove(key.leaf());
                }
                Ok(_) => {}
                Err(_) => return false,
            }
        }
        // A backend sweeps what has expired at its own pace; decisions do not wait for it.
        if changed || self.until.is_some_and(|until| until <= now) {
            self.publish(now);
        }
        true
    }

    fn publish(&mut self, now: Timestamp) {
        self.at = self.at.max(now);
        let alive = |found: &&T| found.expires().is_none_or(|expires| now < expires);
        self.until = self.by_name.values().filter(alive).filter_map(T::expires).min();
        self.snapshot = self.by_name.values().filter(alive).cloned().collect();
    }
}
