//! The suite can fail: drivers that break one promise each are found out.

use std::collections::HashMap;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures_util::FutureExt;
use teleport_backend::conformance;
use teleport_backend::memory::MemoryBackend;
use teleport_core::clock::Clock;
use teleport_core::storage::{
    Action, Backend, Batch, Condition, Item, Key, Prefix, Revision, StorageError, Watch, WatchEvent,
};

#[derive(Clone, Copy, Debug)]
enum Defect {
    AcceptsAnyCondition,
    ClosesNothing,
    CountsNoRevisions,
    IgnoresAfter,
    IgnoresExpiry,
    IgnoresLimits,
    IgnoresPrefixSegments,
    LosesTouches,
    ReadsStaleItems,
    ReportsDeletionsAsWrites,
    ReversesBatches,
    SplitsBatches,
    StartsWithoutReady,
}

const DEFECTS: [Defect; 13] = [
    Defect::AcceptsAnyCondition,
    Defect::ClosesNothing,
    Defect::CountsNoRevisions,
    Defect::IgnoresAfter,
    Defect::IgnoresExpiry,
    Defect::IgnoresLimits,
    Defect::IgnoresPrefixSegments,
    Defect::LosesTouches,
    Defect::ReadsStaleItems,
    Defect::ReportsDeletionsAsWrites,
    Defect::ReversesBatches,
    Defect::SplitsBatches,
    Defect::StartsWithoutReady,
];

#[derive(Debug)]
struct Broken {
    defect: Defect,
    inner: MemoryBackend,
    seen: Mutex<HashMap<Key, Item>>,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.defect)
    }
}

#[async_trait]
impl Backend for Broken {
    async fn get(&self, key: &Key) -> Result<Option<Item>, StorageError> {
        let item = self.inner.get(key).await?;
        Ok(match (self.defect, item) {
            (Defect::ReadsStaleItems, Some(item)) => {
                Some(self.seen.lock().unwrap().entry(key.clone()).or_insert(item).clone())
            }
            (_, item) => item,
        })
    }

    async fn range(
        &self,
        prefix: &Prefix,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<Item>, StorageError> {
        match self.defect {
            Defect::IgnoresAfter if limit < 10 => self.inner.range(prefix, None, limit).await,
            Defect::IgnoresLimits => self.inner.range(prefix, after, usize::MAX).await,
            Defect::IgnoresPrefixSegments => {
                let text = prefix.as_str().trim_end_matches('/');
                let items = self.inner.range(&Prefix::root(), after, usize::MAX).await?;
                Ok(items.into_iter().filter(|item| item.key.as_str().starts_with(text)).take(limit).collect())
            }
            _ => self.inner.range(prefix, after, limit).await,
        }
    }

    async fn commit(&self, batch: Batch) -> Result<Revision, StorageError> {
        batch.validate()?;
        let mut operations = batch.into_operations();
        for operation in &mut operations {
            match (self.defect, &mut operation.action) {
                (Defect::AcceptsAnyCondition, _) => operation.condition = Condition::Any,
                (Defect::IgnoresExpiry, Action::Put { expires, .. } | Action::Touch { expires }) => {
                    *expires = None
                }
                (Defect::LosesTouches, action @ Action::Touch { .. }) => *action = Action::Keep,
                _ => {}
            }
        }
        let join = |operations: Vec<teleport_core::storage::Operation>| {
            operations.into_iter().fold(Batch::new(), |batch, operation| {
                batch.with(operation.key, operation.condition, operation.action)
            })
        };
        match self.defect {
            Defect::SplitsBatches => {
                let mut revision = self.inner.commit(Batch::new()).await?;
                for operation in operations {
                    revision = self.inner.commit(join(vec![operation])).await?;
                }
                Ok(revision)
            }
            Defect::ReversesBatches => {
                operations.reverse();
                self.inner.commit(join(operations)).await
            }
            Defect::CountsNoRevisions => {
                self.inner.commit(join(operations)).await?;
                Ok(Revision::from_u64(1))
            }
            _ => self.inner.commit(join(operations)).await,
        }
    }

    async fn watch(&self, prefix: &Prefix) -> Result<Watch, StorageError> {
        let watch = self.inner.watch(prefix).await?;
        Ok(match self.defect {
            Defect::StartsWithoutReady => watch.map(|event| match event {
                WatchEvent::Ready { revision } => WatchEvent::Deleted { key: "x".parse().unwrap(), revision },
                other => other,
            }),
            Defect::ReportsDeletionsAsWrites => watch.map(|event| match event {
                WatchEvent::Deleted { key, revision } => {
                    WatchEvent::Put(Item::new(key, Vec::new().into(), None, revision))
                }
                other => other,
            }),
            _ => watch,
        })
    }

    async fn close(&self) {
        if !matches!(self.defect, Defect::ClosesNothing) {
            self.inner.close().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_defect_is_found() {
    for defect in DEFECTS {
        let factory = async |clock: Arc<dyn Clock>| {
            let inner = MemoryBackend::new(clock);
            Arc::new(Broken { defect, inner, seen: Mutex::default() }) as Arc<dyn Backend>
        };
        let verdict = AssertUnwindSafe(conformance::run_all(&factory)).catch_unwind().await;
        assert!(verdict.is_err(), "{defect:?} was not found");
    }
}
