//! What every driver must do, as a suite that authors of drivers run.
//!
//! Each function is one test of the contract in the documentation of [`Backend`]; it panics with an explanation where
//! the driver breaks it. [`run_all`] runs all of them, each on a fresh backend:
//!
//! ```
//! use std::sync::Arc;
//! use teleport_backend::conformance;
//! use teleport_backend::memory::MemoryBackend;
//! use teleport_core::clock::Clock;
//! use teleport_core::storage::Backend;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! conformance::run_all(&async |clock: Arc<dyn Clock>| Arc::new(MemoryBackend::new(clock)) as Arc<dyn Backend>).await;
//! # }
//! ```
//!
//! [`recordings`] and [`audit`] are the suites of the other two ports.
//!
//! The tests need a tokio runtime with its timer; time is not paused, because a driver may use threads of its own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a suite of tests reports by panicking"
)]

pub mod audit;
mod batch;
mod concurrency;
mod crud;
mod expiry;
mod range;
pub mod recordings;
mod watch;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use teleport_core::clock::{Clock, Timestamp};
use teleport_core::storage::{Backend, Key, Prefix};

pub use self::batch::{batches_are_atomic, conditions_hold_or_nothing_happens, limits_are_enforced};
pub use self::concurrency::{
    contended_creation_has_one_winner, increments_are_never_lost, readers_never_see_half_a_batch,
};
pub use self::crud::{closing_ends_everything, items_are_stored_and_revisions_grow, names_are_data};
pub use self::expiry::{expired_items_are_absent_at_once, expired_items_are_swept, expiry_can_be_moved};
pub use self::range::{ranges_are_ordered_and_bounded, ranges_page_through_large_collections};
pub use self::watch::{
    lagging_watches_are_cut, watches_end_when_closed, watches_follow_a_list, watches_report_in_order,
};

/// How long a test waits for something that must happen, such as the sweeping of an expired item.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Makes the backends to test: each call gives an empty one that decides with `clock` what has expired.
///
/// Implemented by async closures and functions from `Arc<dyn Clock>` to `Arc<dyn Backend>`.
pub trait Factory {
    /// A fresh, empty backend.
    fn open(&self, clock: Arc<dyn Clock>) -> impl Future<Output = Arc<dyn Backend>>;
}

impl<F: AsyncFn(Arc<dyn Clock>) -> Arc<dyn Backend>> Factory for F {
    async fn open(&self, clock: Arc<dyn Clock>) -> Arc<dyn Backend> {
        self(clock).await
    }
}

/// The clock of the suite: it stands still until a test moves it.
#[derive(Debug)]
pub struct SuiteClock(AtomicU64);

impl Default for SuiteClock {
    fn default() -> Self {
        Self::new()
    }
}

impl SuiteClock {
    /// A clock that stands at noon of 2026-11-21.
    pub const fn new() -> Self {
        Self(AtomicU64::new(1_795_262_400_000))
    }

    /// Moves the time forward.
    pub fn advance(&self, by: Duration) {
        self.0.store(self.now().saturating_add(by).unix_millis(), Ordering::SeqCst);
    }

    /// `by` after now.
    pub fn after(&self, by: Duration) -> Timestamp {
        self.now().saturating_add(by)
    }
}

impl Clock for SuiteClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_millis(self.0.load(Ordering::SeqCst))
    }
}

/// Runs every test of the suite, one after the other, each on a backend of its own.
///
/// # Panics
/// Where the driver breaks the contract.
pub async fn run_all(factory: &impl Factory) {
    items_are_stored_and_revisions_grow(factory).await;
    names_are_data(factory).await;
    closing_ends_everything(factory).await;
    ranges_are_ordered_and_bounded(factory).await;
    ranges_page_through_large_collections(factory).await;
    batches_are_atomic(factory).await;
    conditions_hold_or_nothing_happens(factory).await;
    limits_are_enforced(factory).await;
    expired_items_are_absent_at_once(factory).await;
    expired_items_are_swept(factory).await;
    expiry_can_be_moved(factory).await;
    watches_report_in_order(factory).await;
    watches_follow_a_list(factory).await;
    watches_end_when_closed(factory).await;
    lagging_watches_are_cut(factory).await;
    contended_creation_has_one_winner(factory).await;
    increments_are_never_lost(factory).await;
    readers_never_see_half_a_batch(factory).await;
}

/// A fresh backend under a fresh clock.
async fn subject(factory: &impl Factory) -> (Arc<dyn Backend>, Arc<SuiteClock>) {
    let clock = Arc::new(SuiteClock::new());
    let shared: Arc<dyn Clock> = Arc::<SuiteClock>::clone(&clock);
    (factory.open(shared).await, clock)
}

fn key(text: &str) -> Key {
    Key::new(text).expect("the suite uses valid keys")
}

fn prefix(text: &str) -> Prefix {
    Prefix::new(text).expect("the suite uses valid prefixes")
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

async fn patiently<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not happen within {PATIENCE:?}"),
    }
}
