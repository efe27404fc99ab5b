//! The answer of a backend after `close`.

use teleport_core::storage::StorageError;

/// The backend was closed by its owner.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the backend was closed")]
pub(crate) struct Closed;

impl From<Closed> for StorageError {
    fn from(closed: Closed) -> Self {
        Self::unavailable(closed)
    }
}
