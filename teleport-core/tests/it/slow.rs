//! A storage whose answers take a while.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use teleport_backend::memory::MemoryBackend;
use teleport_core::storage::{Backend, Batch, Item, Key, Prefix, Revision, StorageError, Watch};
use teleport_core::testing::ManualClock;

/// Between what was read and what is written others come.
#[derive(Debug)]
pub(crate) struct Slow(MemoryBackend);

impl Slow {
    pub(crate) fn new(clock: Arc<ManualClock>) -> Self {
        Self(MemoryBackend::new(clock))
    }
}

impl fmt::Display for Slow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[async_trait]
impl Backend for Slow {
    async fn get(&self, key: &Key) -> Result<Option<Item>, StorageError> {
        let item = self.0.get(key).await;
        tokio::task::yield_now().await;
        item
    }

    async fn range(
        &self,
        prefix: &Prefix,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<Item>, StorageError> {
        let items = self.0.range(prefix, after, limit).await;
        tokio::task::yield_now().await;
        items
    }

    async fn commit(&self, batch: Batch) -> Result<Revision, StorageError> {
        let revision = self.0.commit(batch).await;
        tokio::task::yield_now().await;
        revision
    }

    async fn watch(&self, prefix: &Prefix) -> Result<Watch, StorageError> {
        self.0.watch(prefix).await
    }

    async fn close(&self) {
        self.0.close().await;
    }
}
