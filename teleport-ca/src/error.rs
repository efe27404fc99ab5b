//! Why an authority cannot be opened.

use teleport_core::id::ClusterName;
use teleport_core::storage::{RepoError, StorageError};

use crate::key::KeyError;

/// Why an authority cannot be opened or created.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaError {
    /// The stored record of the authority is damaged, of a newer version, or does not fit its keys: somebody changed it.
    #[error("the stored record of the certificate authority cannot be used: {reason}")]
    Corrupt {
        /// What does not fit.
        reason: String,
    },
    /// A key cannot be made or read. With [`KeyError::Unreadable`] the master key is probably another one.
    #[error("a key of the certificate authority cannot be used")]
    Key {
        /// The reason.
        #[from]
        source: KeyError,
    },
    /// The storage holds the authority of another cluster. A cluster's name is in its certificates and cannot be changed.
    #[error("this storage belongs to the cluster {stored}, not to {asked}")]
    OtherCluster {
        /// The cluster that was asked for.
        asked: ClusterName,
        /// The cluster whose authority is stored.
        stored: ClusterName,
    },
    /// Storage failed.
    #[error("the storage of the certificate authority cannot be used")]
    Storage {
        /// The reason.
        source: StorageError,
    },
}

impl CaError {
    pub(crate) fn corrupt(reason: impl Into<String>) -> Self {
        Self::Corrupt { reason: reason.into() }
    }
}

impl From<RepoError> for CaError {
    fn from(error: RepoError) -> Self {
        match error {
            RepoError::Corrupt { key, source } => Self::corrupt(format!("{key}: {source}")),
            RepoError::Storage { source } => Self::Storage { source },
            other => Self::Storage { source: StorageError::driver(other) },
        }
    }
}
