//! The state in a [PostgreSQL](https://www.postgresql.org) database, version 13 or newer, which several auth services share.
//!
//! Plain tables in a schema of their own; no extension, no logical replication, no special right.
//!
//! * **Commits** count on the number in one row, the newest revision: they happen one after the other, and whoever sees a revision sees
//!   all before it. A commit is one statement, and if it depends on something, a read before it: it is written only if nothing was
//!   committed since, and otherwise decided again while that row is locked. Batches that wait together share a transaction.
//! * **Watches** are told from a table of changes, whose newest part is kept. `NOTIFY` says when to look, and is not needed for being
//!   right. After a lost connection the feed goes on behind the last revision; if those changes are gone, all watches end, and
//!   whoever watches lists again.
//! * **Expiry** is a column that reads look at; one of the services, by an advisory lock, removes what has expired.
//! * **No guessing.** A commit whose answer was lost is told as [`PostgresError::UnknownOutcome`] and never repeated. The server may still do it within
//!   the timeout of the URL, as it does not look whether its client is there while a statement waits.
//!
//! Between it and the server may be no pool that gives connections away between transactions.

mod apply;
mod config;
mod error;
mod feed;
mod link;
mod schema;
mod session;
mod transaction;
mod writer;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use teleport_core::clock::Clock;
use teleport_core::storage::{Backend, Batch, Item, Key, MAX_PAGE, Prefix, Revision, StorageError, Watch};
use teleport_core::task::TaskScope;
use tokio::sync::{mpsc, oneshot};

pub use self::config::PostgresConfig;
use self::error::Failure;
pub use self::error::PostgresError;
use self::link::Link;
use self::writer::Submission;
use crate::network::Remote;
use crate::shared::closed::Closed;
use crate::shared::described::describe;
use crate::shared::hub::Hub;

/// How many connections serve reads.
const READERS: usize = 2;

/// How many batches may wait; callers beyond wait before they are queued.
const QUEUE: usize = 256;

/// How long closing waits for what was committed to reach the watches.
const FAREWELL: Duration = Duration::from_secs(2);

const GET: &str = "select key, value, expires, revision from {}.items where key = $1";
const RANGE: &str = "select key, value, expires, revision from {}.items \
    where key > $1 and key < $2 and (expires is null or expires > $3) order by key limit $4";
const NEWEST: &str = "select revision from {}.meta";

/// A [`Backend`] in a schema of a PostgreSQL database.
#[derive(Debug)]
pub struct PostgresBackend {
    shared: Arc<Shared>,
    /// Until it is closed.
    queue: Mutex<Option<mpsc::Sender<Submission>>>,
    /// Ends when the queue was closed and all in it is written.
    writer: TaskScope,
    feed: TaskScope,
}

/// What the backend and its tasks have in common.
struct Shared {
    config: Arc<PostgresConfig>,
    clock: Arc<dyn Clock>,
    closed: Arc<AtomicBool>,
    hub: Hub,
    readers: Vec<Link>,
    turn: AtomicUsize,
    /// The connections of the writer and of the feed.
    others: [Arc<Link>; 2],
    /// The newest revision that we committed.
    newest: AtomicU64,
    /// The newest revision that was published.
    published: tokio::sync::watch::Sender<u64>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("config", &self.config).finish_non_exhaustive()
    }
}

impl PostgresBackend {
    /// Connects, and makes the tables if the schema is empty or not there. `clock` decides what has expired.
    ///
    /// Must be called inside a tokio runtime with its timer enabled; the backend belongs to it. Cancelling leaves either nothing or
    /// empty tables.
    ///
    /// # Errors
    /// [`PostgresError`] tells a person what is wrong.
    pub async fn open(
        config: PostgresConfig,
        clock: Arc<dyn Clock>,
        remote: Remote,
    ) -> Result<Self, PostgresError> {
        let config = Arc::new(config);
        let closed = Arc::new(AtomicBool::new(false));
        let link = || Link::new(&config, &remote, &closed);
        let writer = Arc::new(link());
        let claimed = writer.read(|session| {
            let config = Arc::clone(&config);
            async move { schema::claim(&session, &config).await }
        });
        let revision = claimed.await.map_err(|failure| match failure {
            Failure::Postgres(error) => error,
            other => PostgresError::Unreachable { servers: config.to_string(), reason: describe(&other) },
        })?;
        let feed = Arc::new(link());
        let shared = Arc::new(Shared {
            clock,
            hub: Hub::new(revision),
            readers: (0..READERS).map(|_| link()).collect(),
            turn: AtomicUsize::new(0),
            others: [Arc::clone(&writer), Arc::clone(&feed)],
            newest: AtomicU64::new(revision.as_u64()),
            published: tokio::sync::watch::channel(revision.as_u64()).0,
            closed,
            config,
        });
        let (queue, submissions) = mpsc::channel(QUEUE);
        let scopes = (TaskScope::new(), TaskScope::new());
        scopes.0.spawn(writer::run(Arc::downgrade(&shared), writer, submissions));
        scopes.1.spawn(feed::run(Arc::clone(&shared), feed));
        Ok(Self { shared, queue: Mutex::new(Some(queue)), writer: scopes.0, feed: scopes.1 })
    }

    async fn rows(
        &self,
        statement: &'static str,
        parameters: &schema::Parameters<'_>,
    ) -> Result<Vec<tokio_postgres::Row>, Failure> {
        let shared = &self.shared;
        if shared.closed.load(Ordering::Acquire) {
            return Err(Closed.into());
        }
        let turn = shared.turn.fetch_add(1, Ordering::Relaxed);
        let Some(link) = shared.readers.get(turn % READERS) else { return Err(Closed.into()) };
        link.read(async |session| {
            let statement = session.statement(&shared.config, statement).await?;
            Ok(session.client.query(&statement, parameters).await?)
        })
        .await
    }
}

impl fmt::Display for PostgresBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shared.config.fmt(f)
    }
}

#[async_trait]
impl Backend for PostgresBackend {
    async fn get(&self, key: &Key) -> Result<Option<Item>, StorageError> {
        let rows = self.rows(GET, &[&key.as_str()]).await?;
        let item = rows.first().map(schema::item).transpose()?;
        Ok(item.filter(|item| !item.is_expired(self.shared.clock.now())))
    }

    async fn range(
        &self,
        prefix: &Prefix,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<Item>, StorageError> {
        let start =
            after.map(Key::as_str).filter(|after| *after >= prefix.as_str()).unwrap_or(prefix.as_str());
        // Behind every key below the prefix: keys have no such character.
        let end = format!("{}\u{7f}", prefix.as_str());
        let now = schema::millis(self.shared.clock.now());
        let limit = i64::try_from(limit.min(MAX_PAGE)).unwrap_or(0);
        let rows = self.rows(RANGE, &[&start, &end, &now, &limit]).await?;
        Ok(rows.iter().map(schema::item).collect::<Result<_, _>>()?)
    }

    async fn commit(&self, batch: Batch) -> Result<Revision, StorageError> {
        batch.validate()?;
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(queue) = queue else { return Err(Closed.into()) };
        let (reply, answer) = oneshot::channel();
        // What is before us in the queue has its own time.
        let patience = self.shared.config.timeout() * 2;
        let end = tokio::time::Instant::now() + patience;
        match tokio::time::timeout_at(end, queue.send(Submission { batch, reply })).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(Closed.into()),
            Err(_) => return Err(PostgresError::Timeout { timeout: patience }.into()),
        }
        drop(queue);
        match tokio::time::timeout_at(end, answer).await {
            Ok(Ok(result)) => result,
            // It was not begun.
            Ok(Err(_)) => Err(Closed.into()),
            Err(elapsed) => Err(PostgresError::UnknownOutcome { source: elapsed.into() }.into()),
        }
    }

    async fn watch(&self, prefix: &Prefix) -> Result<Watch, StorageError> {
        let (ticket, watch) = self.shared.hub.begin(prefix)?;
        let rows = self.rows(NEWEST, &[]).await?;
        let newest = rows.first().map(|row| schema::revision(row, 0)).transpose()?.unwrap_or_default();
        if self.shared.hub.ready(prefix, ticket, newest) {
            Ok(watch)
        } else {
            Err(StorageError::unavailable("the stream of changes was interrupted"))
        }
    }

    async fn close(&self) {
        // Nothing more comes into the queue; what is in it is written, unless the server is away.
        drop(self.queue.lock().unwrap_or_else(PoisonError::into_inner).take());
        if tokio::time::timeout(self.shared.config.timeout(), self.writer.join()).await.is_err() {
            tracing::debug!("closed before all was written");
        }
        // What was committed here is still told to the watches, unless the server is away.
        let newest = self.shared.newest.load(Ordering::Acquire);
        let mut published = self.shared.published.subscribe();
        let told = published.wait_for(|published| *published >= newest);
        if !self.shared.closed.load(Ordering::Acquire) && tokio::time::timeout(FAREWELL, told).await.is_err()
        {
            tracing::debug!("closed before all was told to the watches");
        }
        self.shared.closed.store(true, Ordering::Release);
        self.shared.hub.close();
        self.writer.abort().await;
        self.feed.abort().await;
        for link in self.shared.readers.iter().chain(self.shared.others.iter().map(|link| &**link)) {
            link.close().await;
        }
    }
}
