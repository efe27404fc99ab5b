//! What can go wrong with storage, by what the caller can do.

use super::{Key, MAX_OPERATIONS, MAX_VALUE_LEN};

/// A batch that no driver accepts: a bug of the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidBatch {
    /// A key occurs in two operations.
    #[error("key {key} occurs twice in a batch")]
    DuplicateKey {
        /// The key.
        key: Key,
    },
    /// More than [`MAX_OPERATIONS`].
    #[error("a batch has at most {MAX_OPERATIONS} operations")]
    TooManyOperations,
    /// A value is longer than [`MAX_VALUE_LEN`].
    #[error("the value for {key} is longer than {MAX_VALUE_LEN} bytes")]
    ValueTooLong {
        /// The key.
        key: Key,
    },
}

/// Why an operation on storage failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// A condition did not hold; nothing was written. Read again and decide anew.
    #[error("the item at {key} is not as expected")]
    Conflict {
        /// The first key whose condition failed.
        key: Key,
    },
    /// The driver failed in a way that trying again does not mend (corrupt file, refused credentials).
    #[error("the storage driver failed")]
    Driver {
        /// The driver's error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The batch breaks a rule; nothing was written.
    #[error("the batch is not valid")]
    Invalid {
        /// The rule.
        source: InvalidBatch,
    },
    /// Storage cannot be reached now, or was closed. Trying later may work.
    #[error("storage is not available")]
    Unavailable {
        /// The driver's error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl StorageError {
    /// For drivers: a lasting failure.
    pub fn driver(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Driver { source: source.into() }
    }

    /// For drivers: a passing failure.
    pub fn unavailable(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Unavailable { source: source.into() }
    }

    /// Whether it is a [`StorageError::Conflict`].
    pub const fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict { .. })
    }
}

impl From<InvalidBatch> for StorageError {
    fn from(source: InvalidBatch) -> Self {
        Self::Invalid { source }
    }
}
