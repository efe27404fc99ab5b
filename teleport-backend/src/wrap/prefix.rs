//! A namespace inside another backend.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use teleport_core::storage::{
    Backend, Batch, Item, Key, MAX_KEY_LEN, Prefix, Revision, StorageError, Watch, WatchEvent,
};

/// The part of a backend below a prefix, seen as a backend of its own.
///
/// Keys are shorter than elsewhere by the length of the prefix. Revisions are those of the whole: they grow, but
/// not by one.
#[derive(Clone, Debug)]
pub struct PrefixBackend {
    inner: Arc<dyn Backend>,
    prefix: Prefix,
}

/// With the prefix before it the key is longer than any key may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("with its prefix the key is longer than {MAX_KEY_LEN} bytes")]
#[non_exhaustive]
pub struct KeyTooLong;

impl PrefixBackend {
    /// What `inner` stores below `prefix`.
    pub fn new(inner: Arc<dyn Backend>, prefix: Prefix) -> Self {
        Self { inner, prefix }
    }

    fn outward(&self, key: &Key) -> Result<Key, StorageError> {
        // The prefix and the key are valid, so only their length can be wrong.
        self.prefix.key(key.as_str()).map_err(|_| StorageError::driver(KeyTooLong))
    }
}

/// The key without the prefix. Keys that the inner backend reports are below the prefix, else it is broken.
fn inward(prefix: &Prefix, key: &Key) -> Option<Key> {
    Key::new(key.as_str().strip_prefix(prefix.as_str())?).ok()
}

fn item_inward(prefix: &Prefix, item: Item) -> Item {
    match inward(prefix, &item.key) {
        Some(key) => Item::new(key, item.value, item.expires, item.revision),
        None => item,
    }
}

fn event_inward(prefix: &Prefix, event: WatchEvent) -> WatchEvent {
    match event {
        WatchEvent::Deleted { key, revision } => {
            WatchEvent::Deleted { key: inward(prefix, &key).unwrap_or(key), revision }
        }
        WatchEvent::Put(item) => WatchEvent::Put(item_inward(prefix, item)),
        other => other,
    }
}

impl fmt::Display for PrefixBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} below {}", self.inner, self.prefix)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Backend for PrefixBackend {
    async fn get(&self, key: &Key) -> Result<Option<Item>, StorageError> {
        let item = self.inner.get(&self.outward(key)?).await?;
        Ok(item.map(|item| item_inward(&self.prefix, item)))
    }

    async fn range(
        &self,
        prefix: &Prefix,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<Item>, StorageError> {
        let after = after.map(|after| self.outward(after)).transpose()?;
        let items = self.inner.range(&self.below(prefix)?, after.as_ref(), limit).await?;
        Ok(items.into_iter().map(|item| item_inward(&self.prefix, item)).collect())
    }

    async fn commit(&self, batch: Batch) -> Result<Revision, StorageError> {
        // Before the keys change, so that an error names the caller's key.
        batch.validate()?;
        let mut outward = Batch::new();
        for operation in batch.into_operations() {
            outward = outward.with(self.outward(&operation.key)?, operation.condition, operation.action);
        }
        self.inner.commit(outward).await.map_err(|error| match error {
            StorageError::Conflict { key } => {
                StorageError::Conflict { key: inward(&self.prefix, &key).unwrap_or(key) }
            }
            other => other,
        })
    }

    async fn watch(&self, prefix: &Prefix) -> Result<Watch, StorageError> {
        let watch = self.inner.watch(&self.below(prefix)?).await?;
        let own = self.prefix.clone();
        Ok(watch.map(move |event| event_inward(&own, event)))
    }

    /// Closes the inner backend, for all who use it.
    async fn close(&self) {
        self.inner.close().await;
    }
}

impl PrefixBackend {
    fn below(&self, prefix: &Prefix) -> Result<Prefix, StorageError> {
        match prefix.as_str().strip_suffix('/') {
            None => Ok(self.prefix.clone()),
            Some(text) => self.prefix.join(text).map_err(|_| StorageError::driver(KeyTooLong)),
        }
    }
}
