//! Convenience over every [`Backend`].

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    Action, Backend, Batch, Condition, Item, Key, MAX_OPERATIONS, MAX_PAGE, Prefix, Revision, StorageError,
};
use crate::clock::Timestamp;

/// Single writes and whole listings, derived from [`Backend`]'s primitives.
#[async_trait]
pub trait BackendExt: Backend {
    /// Writes an item that must not exist yet.
    ///
    /// # Errors
    /// [`StorageError::Conflict`] if it exists.
    async fn create(
        &self,
        key: &Key,
        value: Bytes,
        expires: Option<Timestamp>,
    ) -> Result<Revision, StorageError> {
        self.commit(Batch::new().put(key.clone(), Condition::Absent, value, expires)).await
    }

    /// Writes an item, whether or not it exists.
    ///
    /// # Errors
    /// Those of [`Backend::commit`].
    async fn put(
        &self,
        key: &Key,
        value: Bytes,
        expires: Option<Timestamp>,
    ) -> Result<Revision, StorageError> {
        self.commit(Batch::new().put(key.clone(), Condition::Any, value, expires)).await
    }

    /// Replaces the item that has this revision.
    ///
    /// # Errors
    /// [`StorageError::Conflict`] if it was changed or deleted since.
    async fn update(
        &self,
        key: &Key,
        revision: Revision,
        value: Bytes,
        expires: Option<Timestamp>,
    ) -> Result<Revision, StorageError> {
        self.commit(Batch::new().put(key.clone(), Condition::Is(revision), value, expires)).await
    }

    /// Deletes an item that must exist.
    ///
    /// # Errors
    /// [`StorageError::Conflict`] if there is none.
    async fn delete(&self, key: &Key) -> Result<Revision, StorageError> {
        self.commit(Batch::new().with(key.clone(), Condition::Exists, Action::Delete)).await
    }

    /// Extends the life of an item that must exist.
    ///
    /// # Errors
    /// [`StorageError::Conflict`] if there is none.
    async fn touch(&self, key: &Key, expires: Option<Timestamp>) -> Result<Revision, StorageError> {
        self.commit(Batch::new().with(key.clone(), Condition::Exists, Action::Touch { expires })).await
    }

    /// All items below `prefix`, page by page; items written meanwhile may or may not be among them. Meant for
    /// collections that fit in memory.
    ///
    /// # Errors
    /// Those of [`Backend::range`].
    async fn list(&self, prefix: &Prefix) -> Result<Vec<Item>, StorageError> {
        let mut items = Vec::new();
        loop {
            let page = self.range(prefix, items.last().map(|item: &Item| &item.key), MAX_PAGE).await?;
            let whole = page.len() < MAX_PAGE;
            items.extend(page);
            if whole {
                return Ok(items);
            }
        }
    }

    /// Deletes everything below `prefix` in batches (each atomic, the whole is not); returns how many.
    ///
    /// # Errors
    /// Those of [`Backend::range`] and [`Backend::commit`].
    async fn delete_range(&self, prefix: &Prefix) -> Result<usize, StorageError> {
        let mut deleted = 0;
        loop {
            let page = self.range(prefix, None, MAX_OPERATIONS).await?;
            if page.is_empty() {
                return Ok(deleted);
            }
            deleted += page.len();
            let batch = page
                .into_iter()
                .fold(Batch::new(), |batch, item| batch.with(item.key, Condition::Any, Action::Delete));
            self.commit(batch).await?;
        }
    }
}

impl<T: Backend + ?Sized> BackendExt for T {}
