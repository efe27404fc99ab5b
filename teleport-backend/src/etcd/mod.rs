//! The state in an [etcd](https://etcd.io) cluster, version 3.3 or newer, which several auth services share.
//!
//! * **Revisions are etcd's own.** Every commit is one transaction, whose conditions compare revisions, or a `Put` if that is all of it;
//!   nothing depends on a lock or a lease for being right. Batches of several callers do not share a transaction, as they would a revision.
//! * **Expiry is ours.** It stands with the value and is compared with the injected clock, as everywhere; etcd's leases run on the
//!   clock of its own, end late or, after a restart, much later, and cost more than what they would be attached to. A lease
//!   decides which of several services removes what has expired: should there be two by mistake, each item is still removed once.
//! * **One watch for all.** A stream follows the prefix and is fanned out here. When the connection breaks it goes on behind the last
//!   revision; if etcd does not know that any more (it was compacted), all watches end, and whoever watches lists again.
//! * **No guessing.** A write whose answer was lost is told as [`EtcdError::UnknownOutcome`] and never repeated.

mod client;
mod config;
mod feed;
mod grpc;
mod layout;
mod messages;
mod plan;
mod proto;
mod sweeper;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use teleport_core::clock::Clock;
use teleport_core::storage::{Backend, Batch, Item, Key, MAX_PAGE, Prefix, Revision, StorageError, Watch};
use teleport_core::task::TaskScope;
use tokio::sync::RwLock;

pub use self::client::EtcdError;
use self::client::{Client, Failure};
pub use self::config::EtcdConfig;
use self::layout::{FORMAT, Layout};
use self::messages::{Header, RangeAnswer, Txn, TxnAnswer, has_revision, put_step};
use self::plan::Seen;
use crate::network::Remote;
use crate::shared::closed::Closed;
use crate::shared::hub::Hub;

/// Reads a stream of answers as each of the kinds that are used, and returns how many could be read. For the fuzz targets.
#[doc(hidden)]
pub fn read_answers(stream: &[u8]) -> usize {
    let layout = Layout::new("/t/");
    let mut frames = grpc::Frames::default();
    let mut read = 0;
    for chunk in stream.chunks(7) {
        frames.push(chunk);
        while let Ok(Some(answer)) = frames.next() {
            let items = messages::range_answer(answer.clone()).map(|range| range.items).unwrap_or_default();
            let events = messages::watch_answer(answer.clone()).map(|watch| watch.events).unwrap_or_default();
            let ranges = messages::txn_answer(answer.clone()).map(|txn| txn.ranges).unwrap_or_default();
            let items = items.into_iter().chain(events.into_iter().map(|event| event.item));
            let items = items.chain(ranges.into_iter().flat_map(|range| range.items));
            read += items.filter(|item| layout.parse(item.clone()).is_ok()).count();
            read += usize::from(messages::header_of(answer.clone()).is_ok());
            read += usize::from(messages::lease_answer(answer.clone()).is_ok());
            read += usize::from(messages::token_answer(answer).is_ok());
        }
    }
    read
}

/// How long closing waits for what was committed to reach the watches.
const FAREWELL: Duration = Duration::from_secs(2);

/// A [`Backend`] below a prefix of an etcd cluster.
#[derive(Debug)]
pub struct EtcdBackend {
    shared: Arc<Shared>,
    tasks: TaskScope,
}

/// What the backend and its tasks have in common.
struct Shared {
    client: Client,
    clock: Arc<dyn Clock>,
    hub: Hub,
    layout: Layout,
    /// Shared by the commits that are on their way.
    commits: RwLock<()>,
    /// The newest revision that we committed.
    newest: AtomicU64,
    /// The newest revision that was published.
    published: tokio::sync::watch::Sender<u64>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("config", &self.client.config).finish_non_exhaustive()
    }
}

impl EtcdBackend {
    /// Connects, and marks the prefix as ours if nothing is below it. `clock` decides what has expired.
    ///
    /// Must be called inside a tokio runtime with its timer enabled; the backend belongs to it. Cancelling leaves either nothing or
    /// the mark.
    ///
    /// # Errors
    /// [`EtcdError`] tells a person what is wrong.
    pub async fn open(config: EtcdConfig, clock: Arc<dyn Clock>, remote: Remote) -> Result<Self, EtcdError> {
        let layout = Layout::new(&config.prefix);
        let client = Client::new(config, remote);
        let revision = claim(&client, &layout).await?;
        let shared = Arc::new(Shared {
            client,
            clock,
            hub: Hub::new(Revision::from_u64(revision)),
            layout,
            commits: RwLock::new(()),
            newest: AtomicU64::new(revision),
            published: tokio::sync::watch::channel(revision).0,
        });
        let tasks = TaskScope::new();
        tasks.spawn(feed::run(Arc::clone(&shared)));
        tasks.spawn(sweeper::run(Arc::clone(&shared)));
        Ok(Self { shared, tasks })
    }
}

/// Makes sure that what is below the prefix is ours. Returns the revision of the store.
async fn claim(client: &Client, layout: &Layout) -> Result<u64, EtcdError> {
    let told = |failure| match failure {
        Failure::Etcd(error) => error,
        other => EtcdError::Answer { source: other.into() },
    };
    let foreign = |reason: String| EtcdError::Foreign { prefix: layout.prefix().to_owned(), reason };
    let (start, end) = layout.all();
    // A second look: another service may have been quicker.
    for _ in 0..2 {
        let answer = client.call(&messages::range(&layout.format(), b"", 1, 0)).await.map_err(told)?;
        let found = messages::range_answer(answer)?;
        if let Some(format) = found.items.first() {
            return if format.value == FORMAT {
                Ok(found.header.revision)
            } else {
                let format = String::from_utf8_lossy(&format.value).into_owned();
                Err(foreign(format!(
                    "is storage of the format {format:?}, made by a newer version; this one knows {FORMAT}"
                )))
            };
        }
        let answer = client.call(&messages::range(&start, &end, 1, 0)).await.map_err(told)?;
        if let Some(stranger) = messages::range_answer(answer)?.items.first()
            && stranger.key != layout.format()
        {
            let name = String::from_utf8_lossy(&stranger.key).into_owned();
            return Err(foreign(format!("are keys of something else, such as {name:?}; use another prefix")));
        }
        let mark = Txn {
            conditions: vec![has_revision(&layout.format(), 0)],
            then: vec![put_step(&layout.format(), FORMAT.as_bytes(), 0)],
            otherwise: Vec::new(),
        };
        let answer = messages::txn_answer(client.call(&mark.call()).await.map_err(told)?)?;
        if answer.succeeded {
            return Ok(answer.header.revision);
        }
    }
    Err(foreign("somebody makes and removes the mark of the format".to_owned()))
}

impl fmt::Display for EtcdBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shared.client.config.fmt(f)
    }
}

impl Shared {
    async fn range(
        &self,
        start: &[u8],
        end: &[u8],
        limit: u64,
        revision: u64,
    ) -> Result<RangeAnswer, Failure> {
        let answer = self.client.call(&messages::range(start, end, limit, revision)).await?;
        Ok(messages::range_answer(answer)?)
    }

    async fn transact(&self, txn: &Txn) -> Result<TxnAnswer, Failure> {
        Ok(messages::txn_answer(self.client.call(&txn.call()).await?)?)
    }

    /// Live items from one revision of the store, in as many pages as it takes.
    async fn items(&self, below: &Prefix, after: Option<&Key>, limit: usize) -> Result<Vec<Item>, Failure> {
        let now = self.clock.now();
        let mut found: Vec<Item> = Vec::new();
        let (mut start, end) = self.layout.items(below, after);
        let mut revision = 0;
        let mut page = limit as u64;
        while found.len() < limit {
            let answer = match self.range(&start, &end, page, revision).await {
                Err(Failure::AnswerTooLong) if page > 1 => {
                    page = (page / 8).max(1);
                    continue;
                }
                // It took so long that the revision is gone: from the beginning, at a newer one.
                Err(Failure::Compacted) if revision != 0 => {
                    found.clear();
                    start = self.layout.items(below, after).0;
                    revision = 0;
                    continue;
                }
                answer => answer?,
            };
            revision = answer.header.revision;
            let Some(last) = answer.items.last() else { break };
            start = [&last.key[..], &[0]].concat();
            for stored in answer.items {
                let item = self.layout.parse(stored)?;
                if !item.is_expired(now) && found.len() < limit {
                    found.push(item);
                }
            }
            if !answer.more {
                break;
            }
        }
        Ok(found)
    }

    fn seen(&self, answer: TxnAnswer) -> Result<Seen, EtcdError> {
        let items = answer.ranges.into_iter().flat_map(|range| range.items);
        items.map(|stored| self.layout.parse(stored).map(|item| (item.key.clone(), item))).collect()
    }

    async fn commit(&self, batch: &Batch) -> Result<Revision, StorageError> {
        let done = |header: Header| {
            self.newest.fetch_max(header.revision, Ordering::AcqRel);
            Revision::from_u64(header.revision)
        };
        if let Some(put) = plan::put(&self.layout, batch) {
            let answer = self.client.call(&put).await?;
            return Ok(done(messages::header_of(answer).map_err(EtcdError::from)?));
        }
        let mut seen = match plan::blind(&self.layout, batch) {
            Some(txn) => {
                let answer = self.transact(&txn).await?;
                if answer.succeeded {
                    return Ok(done(answer.header));
                }
                self.seen(answer)?
            }
            None if batch.operations().is_empty() => Seen::new(),
            None => {
                let mut call = plan::reading(&self.layout, batch).call();
                call.repeatable = true;
                self.seen(messages::txn_answer(self.client.call(&call).await?).map_err(EtcdError::from)?)?
            }
        };
        // Each round that fails is somebody else's success. Time bounds it, and nothing was written when it is over.
        let timeout = self.client.config.timeout();
        let end = tokio::time::Instant::now() + timeout;
        loop {
            let txn = plan::informed(&self.layout, batch, &seen, self.clock.now())
                .map_err(|key| StorageError::Conflict { key })?;
            let answer = self.transact(&txn).await?;
            if answer.succeeded {
                return Ok(done(answer.header));
            }
            if tokio::time::Instant::now() > end {
                return Err(EtcdError::Timeout { timeout }.into());
            }
            seen = self.seen(answer)?;
        }
    }
}

#[async_trait]
impl Backend for EtcdBackend {
    async fn get(&self, key: &Key) -> Result<Option<Item>, StorageError> {
        let found = self.shared.range(&self.shared.layout.item(key), b"", 1, 0).await?;
        let item =
            found.items.into_iter().next().map(|stored| self.shared.layout.parse(stored)).transpose()?;
        Ok(item.filter(|item| !item.is_expired(self.shared.clock.now())))
    }

    async fn range(
        &self,
        prefix: &Prefix,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<Item>, StorageError> {
        if self.shared.client.is_closed() {
            return Err(Closed.into());
        }
        Ok(self.shared.items(prefix, after, limit.min(MAX_PAGE)).await?)
    }

    async fn commit(&self, batch: Batch) -> Result<Revision, StorageError> {
        batch.validate()?;
        let _commit = self.shared.commits.read().await;
        self.shared.commit(&batch).await
    }

    async fn watch(&self, prefix: &Prefix) -> Result<Watch, StorageError> {
        let (ticket, watch) = self.shared.hub.begin(prefix)?;
        let newest = self.shared.range(&self.shared.layout.format(), b"", 1, 0).await?;
        if self.shared.hub.ready(prefix, ticket, Revision::from_u64(newest.header.revision)) {
            Ok(watch)
        } else {
            Err(StorageError::unavailable("the stream of changes was interrupted"))
        }
    }

    async fn close(&self) {
        // Those that come meanwhile wait, and are refused.
        let commits =
            tokio::time::timeout(self.shared.client.config.timeout(), self.shared.commits.write()).await;
        if commits.is_err() {
            tracing::debug!("closed before all was written");
        }
        // What was committed here is still told to the watches, unless the server is away.
        let newest = self.shared.newest.load(Ordering::Acquire);
        let mut published = self.shared.published.subscribe();
        let told = published.wait_for(|published| *published >= newest);
        if !self.shared.client.is_closed() && tokio::time::timeout(FAREWELL, told).await.is_err() {
            tracing::debug!("closed before all was told to the watches");
        }
        self.shared.client.refuse();
        drop(commits);
        self.shared.hub.close();
        self.tasks.abort().await;
        self.shared.client.close().await;
    }
}
