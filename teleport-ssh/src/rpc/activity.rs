//! Connections on which nothing happens.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// When a connection last had something to do.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    running: AtomicUsize,
    begun: AtomicUsize,
    last: Mutex<Option<Instant>>,
}

/// One request that runs.
pub(crate) struct Busy(Arc<Activity>);

impl Activity {
    pub(crate) fn begin(self: &Arc<Self>) -> Busy {
        self.running.fetch_add(1, Ordering::Relaxed);
        self.begun.fetch_add(1, Ordering::Relaxed);
        Busy(Arc::clone(self))
    }

    /// Resolves when the first request does not come within `first`, or when nothing was done for `limit`. Cancel safe.
    pub(crate) async fn idle_for(&self, limit: Option<Duration>, first: Duration) {
        let mut since = Instant::now();
        tokio::time::sleep_until(since + first).await;
        if self.begun.load(Ordering::Relaxed) == 0 {
            return;
        }
        let Some(limit) = limit else { return std::future::pending().await };
        loop {
            if self.running.load(Ordering::Relaxed) > 0 {
                since = Instant::now();
            } else if let Some(last) = *self.last.lock().unwrap_or_else(PoisonError::into_inner) {
                since = since.max(last);
            }
            if since.elapsed() >= limit {
                return;
            }
            tokio::time::sleep_until(since + limit).await;
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
        *self.0.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }
}
