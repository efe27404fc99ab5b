//! Typed collections over a [`Backend`].

use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{
    Backend, BackendExt, Batch, Condition, InvalidKey, Item, Key, Prefix, Revision, StorageError, Watch,
};
use crate::clock::Timestamp;

/// A type that is stored as JSON in a collection of its own.
pub trait Record: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The collection, a key prefix such as `users`.
    const COLLECTION: &'static str;

    /// The key below the collection.
    fn key(&self) -> String;

    /// When the stored record disappears.
    fn expires(&self) -> Option<Timestamp> {
        None
    }
}

/// A record as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stored<R> {
    /// The record.
    pub record: R,
    /// Its version, for [`Repo::update`].
    pub revision: Revision,
}

/// Why an operation on a collection failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepoError {
    /// The stored bytes are not a record of this type, or not the one of this key: a newer version wrote them, or the
    /// storage is damaged.
    #[error("the record at {key} cannot be read")]
    Corrupt {
        /// Its key.
        key: Key,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The record's key is not a valid one, or the record cannot be serialised.
    #[error("the record has no valid key or form")]
    Invalid {
        /// The reason.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Storage failed.
    #[error("the collection cannot be used")]
    Storage {
        /// The reason.
        #[from]
        source: StorageError,
    },
}

impl RepoError {
    /// Whether a condition failed: the record exists already, is missing, or was changed meanwhile.
    pub const fn is_conflict(&self) -> bool {
        matches!(self, Self::Storage { source: StorageError::Conflict { .. } })
    }
}

impl From<InvalidKey> for RepoError {
    fn from(source: InvalidKey) -> Self {
        Self::Invalid { source: source.into() }
    }
}

/// The collection of one [`Record`] type.
#[derive(Debug)]
pub struct Repo<R> {
    backend: Arc<dyn Backend>,
    records: PhantomData<fn() -> R>,
}

impl<R> Clone for Repo<R> {
    fn clone(&self) -> Self {
        Self { backend: Arc::clone(&self.backend), records: PhantomData }
    }
}

impl<R: Record> Repo<R> {
    /// The collection in `backend`.
    pub fn new(backend: Arc<dyn Backend>) -> Self {
        Self { backend, records: PhantomData }
    }

    /// Where the collection lives.
    ///
    /// # Errors
    /// [`RepoError::Invalid`] if [`Record::COLLECTION`] is not a valid prefix.
    pub fn prefix(&self) -> Result<Prefix, RepoError> {
        Ok(Prefix::new(R::COLLECTION)?)
    }

    /// The full key of the record `name`.
    ///
    /// # Errors
    /// [`RepoError::Invalid`] if it would not be a valid key.
    pub fn key(&self, name: &str) -> Result<Key, RepoError> {
        Ok(self.prefix()?.key(name)?)
    }

    /// Reads a stored item. A record that belongs to another key is not read: one that was copied or restored to the wrong
    /// place must not speak for somebody else.
    ///
    /// # Errors
    /// [`RepoError::Corrupt`].
    pub fn decode(item: &Item) -> Result<Stored<R>, RepoError> {
        let corrupt = |source| RepoError::Corrupt { key: item.key.clone(), source };
        let record: R = serde_json::from_slice(&item.value).map_err(corrupt)?;
        let name = item.key.as_str().strip_prefix(R::COLLECTION).and_then(|name| name.strip_prefix('/'));
        if name != Some(record.key().as_str()) {
            return Err(corrupt(serde::de::Error::custom("the record is that of another key")));
        }
        Ok(Stored { record, revision: item.revision })
    }

    /// The record `name`.
    ///
    /// # Errors
    /// [`RepoError::Corrupt`], [`RepoError::Storage`].
    pub async fn get(&self, name: &str) -> Result<Option<Stored<R>>, RepoError> {
        let Ok(key) = self.key(name) else { return Ok(None) };
        self.backend.get(&key).await?.as_ref().map(Self::decode).transpose()
    }

    /// All records, in the order of their keys. One that cannot be read is left out with a warning in the log: a
    /// single damaged record must not hide the others.
    ///
    /// # Errors
    /// [`RepoError::Storage`].
    pub async fn list(&self) -> Result<Vec<Stored<R>>, RepoError> {
        let items = self.backend.list(&self.prefix()?).await?;
        let mut records = Vec::with_capacity(items.len());
        for item in &items {
            match Self::decode(item) {
                Ok(stored) => records.push(stored),
                Err(error) => {
                    tracing::warn!(key = %item.key, error = &error as &dyn std::error::Error, "unreadable record left out");
                }
            }
        }
        Ok(records)
    }

    /// Adds writing `record` to a batch, for changes that span collections.
    ///
    /// # Errors
    /// [`RepoError::Invalid`].
    pub fn write_in(&self, batch: Batch, record: &R, condition: Condition) -> Result<Batch, RepoError> {
        let value =
            serde_json::to_vec(record).map_err(|source| RepoError::Invalid { source: source.into() })?;
        Ok(batch.put(self.key(&record.key())?, condition, Bytes::from(value), record.expires()))
    }

    /// Writes a record under a condition.
    ///
    /// # Errors
    /// [`RepoError::is_conflict`] if the condition does not hold.
    pub async fn write(&self, record: &R, condition: Condition) -> Result<Revision, RepoError> {
        Ok(self.backend.commit(self.write_in(Batch::new(), record, condition)?).await?)
    }

    /// Writes a record that must not exist yet.
    ///
    /// # Errors
    /// [`RepoError::is_conflict`] if it exists.
    pub async fn create(&self, record: &R) -> Result<Revision, RepoError> {
        self.write(record, Condition::Absent).await
    }

    /// Replaces the version that was read.
    ///
    /// # Errors
    /// [`RepoError::is_conflict`] if it was changed since.
    pub async fn update(&self, record: &R, revision: Revision) -> Result<Revision, RepoError> {
        self.write(record, Condition::Is(revision)).await
    }

    /// Deletes the record `name`; `false` if there was none.
    ///
    /// # Errors
    /// [`RepoError::Storage`].
    pub async fn delete(&self, name: &str) -> Result<bool, RepoError> {
        let Ok(key) = self.key(name) else { return Ok(false) };
        match self.backend.delete(&key).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_conflict() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Watches the collection; read the items with [`Repo::decode`].
    ///
    /// # Errors
    /// [`RepoError::Storage`].
    pub async fn watch(&self) -> Result<Watch, RepoError> {
        Ok(self.backend.watch(&self.prefix()?).await?)
    }
}
