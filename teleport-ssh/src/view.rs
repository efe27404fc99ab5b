//! The node's view of whom to trust and which roles exist: followed as it changes, and used only while it is fresh enough.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use futures_util::StreamExt;
use teleport_core::access::Freshness;
use teleport_core::api::{AccessView, ApiError, ApiErrorKind, TrustApi};
use teleport_core::cert::MAX_USER_TTL;
use teleport_core::clock::Timestamp;
use teleport_core::entropy::{Entropy, EntropyExt};
use teleport_core::task::Shutdown;
use tokio::sync::watch;
use tokio::time::Instant;

/// How long decisions may rest on a view that is no longer followed: until the last certificate has ended that the silent auth
/// service can have issued. Who wants to be surer has [`LockMode::Strict`](teleport_core::resource::LockMode::Strict).
pub const DEFAULT_MAX_AGE: Duration = MAX_USER_TTL;

const FIRST_BACKOFF: Duration = Duration::from_millis(200);
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// Nothing can be decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoView {
    /// The host was removed from the cluster.
    #[error("this host was removed from the cluster by an administrator")]
    Evicted,
    /// The auth service has not been heard yet.
    #[error("whom to trust is not known yet: the auth service has not answered since the start")]
    Missing,
    /// The auth service has been silent for too long.
    #[error("whom to trust is not known any more: the auth service has been silent for {} s", age.as_secs())]
    Stale {
        /// For how long.
        age: Duration,
    },
}

/// The newest view. Clones share it.
///
/// Without a view nothing is allowed. While the stream of changes is open the view is fresh; when it breaks, the view may be
/// used for a bounded time ([`AccessCache::new`]), so that sessions are possible while the auth service restarts. When the auth
/// service says that this host was removed from the cluster the view is gone at once and for good.
#[derive(Clone)]
pub struct AccessCache(Arc<Shared>);

struct Shared {
    view: ArcSwapOption<AccessView>,
    /// Since when nobody tells us of changes; `None` while somebody does.
    alone_since: Mutex<Option<Instant>>,
    /// Whether the cluster has removed this host; then there is no view any more.
    evicted: watch::Sender<bool>,
    versions: watch::Sender<u64>,
    max_age: Duration,
}

impl AccessCache {
    /// An empty cache whose view may be used for `max_age` after the stream has broken; zero is strict.
    pub fn new(max_age: Duration) -> Self {
        Self(Arc::new(Shared {
            view: ArcSwapOption::empty(),
            alone_since: Mutex::new(None),
            evicted: watch::Sender::new(false),
            versions: watch::Sender::new(0),
            max_age,
        }))
    }

    /// The newest view, however old.
    pub fn current(&self) -> Option<Arc<AccessView>> {
        self.0.view.load_full()
    }

    /// How long nobody has told us of changes; zero while the view is followed.
    pub fn age(&self) -> Duration {
        self.alone().map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// How fresh the view is for a decision at `now`.
    pub fn freshness(&self, now: Timestamp) -> Freshness {
        Freshness { now, age: self.age() }
    }

    /// The view to decide by.
    ///
    /// # Errors
    /// [`NoView`]: nothing is allowed.
    pub fn usable(&self) -> Result<Arc<AccessView>, NoView> {
        if *self.0.evicted.borrow() {
            return Err(NoView::Evicted);
        }
        let view = self.current().ok_or(NoView::Missing)?;
        match self.alone() {
            Some(since) if since.elapsed() > self.0.max_age || self.0.max_age.is_zero() => {
                Err(NoView::Stale { age: since.elapsed() })
            }
            _ => Ok(view),
        }
    }

    /// Resolves when the auth service says that this host was removed from the cluster: whoever serves should stop. Cancel
    /// safe.
    pub async fn evicted(&self) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.0.evicted.subscribe().wait_for(|evicted| *evicted).await;
    }

    /// Waits for the first view; `None` once this host is removed from the cluster, for then there is none any more. Cancel safe.
    pub async fn ready(&self) -> Option<Arc<AccessView>> {
        self.wait_for(|_| true).await
    }

    /// Waits for a view that `wanted` accepts; `None` once this host is removed from the cluster. Cancel safe.
    pub async fn wait_for(&self, wanted: impl Fn(&AccessView) -> bool) -> Option<Arc<AccessView>> {
        let mut versions = self.0.versions.subscribe();
        loop {
            if *self.0.evicted.borrow() {
                return None;
            }
            if let Some(view) = self.current()
                && wanted(&view)
            {
                return Some(view);
            }
            // The sender lives in `self`, so waiting cannot fail.
            let _ = versions.changed().await;
        }
    }

    /// Calls `act` with each view, the present one first, for ever. Dropping the future ends it.
    pub(crate) async fn for_each(&self, act: impl Fn(&AccessView)) {
        let mut versions = self.0.versions.subscribe();
        loop {
            versions.mark_unchanged();
            if let Some(view) = self.current() {
                act(&view);
            }
            // The sender lives in `self`, so waiting cannot fail.
            let _ = versions.changed().await;
        }
    }

    /// Tells of each new view from now on.
    pub(crate) fn changes(&self) -> Changes {
        Changes { versions: self.0.versions.subscribe(), _cache: self.clone() }
    }

    fn alone(&self) -> Option<Instant> {
        *self.0.alone_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, view: AccessView) {
        *self.0.alone_since.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.0.view.store(Some(Arc::new(view)));
        self.0.versions.send_modify(|version| *version = version.wrapping_add(1));
    }

    fn lost(&self) {
        self.0.alone_since.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(Instant::now);
    }

    /// The host is no member any more: nothing is decided by what it knew.
    fn evict(&self) {
        self.0.evicted.send_replace(true);
        self.0.view.store(None);
        self.0.versions.send_modify(|version| *version = version.wrapping_add(1));
    }

    /// Follows `api` until `shutdown` aborts or the host is removed from the cluster; after each break it comes back with
    /// growing, jittered pauses.
    pub fn follow<A: TrustApi + ?Sized>(
        &self,
        api: Arc<A>,
        entropy: Arc<dyn Entropy>,
        shutdown: Shutdown,
    ) -> impl Future<Output = ()> + Send + 'static {
        let cache = self.clone();
        async move {
            let following = async {
                let mut backoff = FIRST_BACKOFF;
                loop {
                    let error = cache.follow_once(&*api, &mut backoff).await;
                    if let Some(error) = error.as_ref().filter(|error| error.kind() == ApiErrorKind::Evicted)
                    {
                        tracing::error!("{error}");
                        cache.evict();
                        return;
                    }
                    cache.lost();
                    let pause = jitter(backoff, &*entropy);
                    tracing::warn!(
                        error = error.as_ref().map(|error| error as &dyn std::error::Error),
                        ?pause,
                        "the auth service does not tell of changes of trust and roles"
                    );
                    tokio::time::sleep(pause).await;
                    backoff = (backoff * 2).min(MAX_BACKOFF);
                }
            };
            tokio::select! {
                () = following => {}
                () = shutdown.aborted() => {}
            }
        }
    }

    /// Follows one stream to its end. `None` if it ended without an error.
    async fn follow_once<A: TrustApi + ?Sized>(&self, api: &A, backoff: &mut Duration) -> Option<ApiError> {
        let mut views = match api.watch_access().await {
            Ok(views) => views,
            Err(error) => return Some(error),
        };
        while let Some(view) = views.next().await {
            match view {
                Ok(view) => {
                    *backoff = FIRST_BACKOFF;
                    self.put(view);
                }
                Err(error) => return Some(error),
            }
        }
        None
    }
}

/// When there is a new view.
pub(crate) struct Changes {
    versions: watch::Receiver<u64>,
    /// Keeps the sender alive.
    _cache: AccessCache,
}

impl Changes {
    /// Waits for the next one; several at once are one. Cancel safe.
    pub(crate) async fn next(&mut self) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.versions.changed().await;
    }
}

impl fmt::Debug for AccessCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessCache")
            .field("present", &self.current().is_some())
            .field("age", &self.age())
            .finish_non_exhaustive()
    }
}

/// Between half of `pause` and all of it, so that thousands do not come back at once.
pub(crate) fn jitter(pause: Duration, entropy: &dyn Entropy) -> Duration {
    // Without randomness the whole pause: only the spreading is lost.
    let part = entropy.bytes::<2>().map_or(u16::MAX, u16::from_le_bytes);
    pause / 2 + pause.mul_f64(f64::from(part) / f64::from(u16::MAX) / 2.0)
}

#[cfg(test)]
mod tests;
