//! The storage port: keys, bytes, one atomic write, watches.
//!
//! A driver implements [`Backend`], six methods; [`BackendExt`] adds the convenience, [`Repo`] the types.
//! The suite `teleport_backend::conformance` checks everything that is promised here.

mod batch;
mod error;
mod ext;
mod key;
mod repo;
mod watch;

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use self::batch::{Action, Batch, Condition, MAX_OPERATIONS, MAX_VALUE_LEN, Operation};
pub use self::error::{InvalidBatch, StorageError};
pub use self::ext::BackendExt;
pub use self::key::{InvalidKey, Key, MAX_KEY_LEN, Prefix};
pub use self::repo::{Record, Repo, RepoError, Stored};
pub use self::watch::{Watch, WatchEnd, WatchEvent, WatchSender};

use crate::clock::Timestamp;

/// The most items one [`Backend::range`] returns, whatever was asked.
pub const MAX_PAGE: usize = 1000;

/// The version of an item: grows with every commit of one backend, is never used twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(u64);

impl Revision {
    /// The revision of a backend that was never written.
    pub const ZERO: Self = Self(0);

    /// For drivers: a revision from its number.
    pub const fn from_u64(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A stored value.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Item {
    /// Where it is stored.
    pub key: Key,
    /// What is stored.
    pub value: Bytes,
    /// When it disappears; `None` is never.
    pub expires: Option<Timestamp>,
    /// The commit that last changed it (put or touched).
    pub revision: Revision,
}

impl Item {
    /// For drivers.
    pub const fn new(key: Key, value: Bytes, expires: Option<Timestamp>, revision: Revision) -> Self {
        Self { key, value, expires, revision }
    }

    /// Whether it has expired at `now`. An item is gone from the very instant of its expiry.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }
}

/// Where the platform keeps its state.
///
/// # Contract
/// * **Atomicity.** [`commit`](Self::commit) applies the whole batch or nothing. Conditions are evaluated against
///   the state just before the batch. Every item written by one batch carries the returned revision, which is
///   greater than any revision returned before.
/// * **Isolation.** Commits are linearizable. `get` and `range` see every commit that was acknowledged before
///   they were called, and never a part of one.
/// * **Durability.** For a driver that persists, an acknowledged commit survives the death of the process
///   (`kill -9`) and, as far as the disk keeps its word, of the machine.
/// * **Expiry.** An item whose `expires` is not after the injected clock's `now` is absent for `get`, `range` and
///   conditions at once, whether or not it was swept. Sweeping emits [`WatchEvent::Deleted`], in time at the
///   driver's pace.
/// * **Watches** start with [`WatchEvent::Ready`]; every commit after it is delivered in order, each batch's events
///   in the order of its operations. A consumer that lags is cut with [`WatchEnd::Lagged`] and must list again.
/// * **Cancellation.** Dropping the future of a `commit` leaves it unknown whether it was applied; it is still
///   atomic. All other futures may be dropped freely.
/// * **Failures.** [`StorageError::Conflict`] and [`StorageError::Invalid`] promise that nothing was written. After
///   any other error of `commit` the outcome is unknown: read before you repeat.
#[async_trait]
pub trait Backend: fmt::Debug + fmt::Display + Send + Sync + 'static {
    /// The item at `key`.
    ///
    /// # Errors
    /// [`StorageError::Unavailable`] or [`StorageError::Driver`].
    async fn get(&self, key: &Key) -> Result<Option<Item>, StorageError>;

    /// Items below `prefix` in the order of their keys (by bytes), those after `after` only, at most `limit` and
    /// at most [`MAX_PAGE`].
    ///
    /// # Errors
    /// [`StorageError::Unavailable`] or [`StorageError::Driver`].
    async fn range(
        &self,
        prefix: &Prefix,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<Item>, StorageError>;

    /// Applies a batch, all or nothing: the only way to write.
    ///
    /// # Errors
    /// [`StorageError::Conflict`] names the first key (in the order of the batch) whose condition failed.
    async fn commit(&self, batch: Batch) -> Result<Revision, StorageError>;

    /// Watches all keys below `prefix`.
    ///
    /// # Errors
    /// [`StorageError::Unavailable`] or [`StorageError::Driver`].
    async fn watch(&self, prefix: &Prefix) -> Result<Watch, StorageError>;

    /// Ends all watches, waits for commits in progress and releases what is held (files, locks). Later calls fail with
    /// [`StorageError::Unavailable`]. May be called more than once.
    async fn close(&self);
}
