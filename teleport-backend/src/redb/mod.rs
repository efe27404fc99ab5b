//! The default driver: one [redb](https://docs.rs/redb) file, embedded in the process.
//!
//! * **Durable.** A commit is acknowledged after redb's two-phase commit with an fsync in each phase; killing the process
//!   or the machine at any moment loses nothing that was acknowledged.
//! * **Group commit.** One thread writes. Whatever is queued while a transaction is on its way to the disk shares
//!   the next one, so sixteen callers cost about as many fsyncs as one.
//! * **Reads do not wait for the disk to sync.** They run on a snapshot, inline for single items because they take
//!   microseconds, on the blocking pool for longer pages.
//! * **Private.** The directories and the file that are created have the modes 0700 and 0600, whatever the umask.

mod apply;
mod holder;
mod open;
mod schema;
#[cfg(test)]
mod tests;
mod writer;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock, mpsc};
use std::thread::JoinHandle;

use ::redb::{Database, ReadableDatabase};
use async_trait::async_trait;
use teleport_core::clock::Clock;
use teleport_core::storage::{
    Action, Backend, Batch, Item, Key, MAX_PAGE, Prefix, Revision, StorageError, Watch,
};
use teleport_core::task::TaskScope;
use tokio::sync::{Semaphore, oneshot};

pub use self::open::OpenError;
use self::writer::{Command, Submission, Writer};
use crate::shared::closed::Closed;
use crate::shared::hub::Hub;
use crate::shared::sweep::{self, Sweep};

/// What queued batches may hold together, in units of [`PERMIT_BYTES`]: callers beyond wait before they are queued.
const PERMITS: u32 = 4096;

/// What one permit stands for.
const PERMIT_BYTES: usize = 16 * 1024;

/// Longer pages than this are read on the blocking pool.
const INLINE_PAGE: usize = 64;

/// A [`Backend`] in one file on a local disk.
///
/// Dropping it waits for the commit in progress and releases the file, as [`close`](Backend::close) does.
#[derive(Debug)]
pub struct RedbBackend {
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
    _sweeper: TaskScope,
}

/// The disk failed, and the file could not be opened again so far.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the database is not open after an earlier failure")]
struct NotOpen;

/// What the backend, its writer and its sweeper have in common.
#[derive(Debug)]
struct Shared {
    clock: Arc<dyn Clock>,
    /// `None` once closed, and while it cannot be opened again after a failure of the disk.
    database: RwLock<Option<Database>>,
    hub: Hub,
    path: PathBuf,
    permits: Arc<Semaphore>,
    queue: mpsc::Sender<Command>,
}

impl RedbBackend {
    /// Opens the database file `path`, or creates it and the directories above it. `clock` decides what has expired.
    ///
    /// Must be called inside a tokio runtime with its timer enabled; the backend belongs to it. Cancelling leaves either
    /// no file or a complete one.
    ///
    /// # Errors
    /// [`OpenError`] tells a person what is wrong with the file.
    pub async fn open(path: impl AsRef<Path>, clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        let path = path.as_ref().to_owned();
        let opening = path.clone();
        let database = tokio::task::spawn_blocking(move || open::open(&opening))
            .await
            .map_err(|source| OpenError::Damaged { path: path.clone(), source: source.into() })??;
        Self::start(database, path, clock)
    }

    /// Starts the writer and the sweeper of an open database.
    fn start(database: Database, path: PathBuf, clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        let revision = schema::revision(&database)
            .map_err(|source| OpenError::Damaged { path: path.clone(), source: source.into() })?;
        let (queue, commands) = mpsc::channel();
        let shared = Arc::new(Shared {
            clock,
            database: RwLock::new(Some(database)),
            hub: Hub::new(revision),
            path,
            permits: Arc::new(Semaphore::new(PERMITS as usize)),
            queue,
        });
        let writer = Writer::new(Arc::clone(&shared), commands);
        let thread = std::thread::Builder::new()
            .name("redb-writer".to_owned())
            .spawn(move || writer.run())
            .map_err(|source| OpenError::io("start the writer of", &shared.path, source))?;
        let sweeper = TaskScope::new();
        sweep::start(&sweeper, Arc::downgrade(&shared));
        Ok(Self { shared, writer: Mutex::new(Some(thread)), _sweeper: sweeper })
    }
}

impl Drop for RedbBackend {
    fn drop(&mut self) {
        self.shared.permits.close();
        // An error means that the writer has ended already.
        let _ = self.shared.queue.send(Command::Close(None));
        let thread = self.writer.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!(path = %self.shared.path.display(), "the writer of the database panicked");
        }
    }
}

impl fmt::Display for RedbBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "redb:{}", self.shared.path.display())
    }
}

#[async_trait]
impl Backend for RedbBackend {
    async fn get(&self, key: &Key) -> Result<Option<Item>, StorageError> {
        let item = self.shared.read(|database| schema::get(database, key))?;
        Ok(item.filter(|item| !item.is_expired(self.shared.clock.now())))
    }

    async fn range(
        &self,
        prefix: &Prefix,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<Item>, StorageError> {
        let now = self.shared.clock.now();
        let limit = limit.min(MAX_PAGE);
        if limit <= INLINE_PAGE {
            return self.shared.read(|database| schema::range(database, prefix, after, limit, now));
        }
        let (shared, prefix, after) = (Arc::clone(&self.shared), prefix.clone(), after.cloned());
        tokio::task::spawn_blocking(move || {
            shared.read(|database| schema::range(database, &prefix, after.as_ref(), limit, now))
        })
        .await
        .map_err(StorageError::unavailable)?
    }

    async fn commit(&self, batch: Batch) -> Result<Revision, StorageError> {
        batch.validate()?;
        let permits = Arc::clone(&self.shared.permits);
        let permit = permits.acquire_many_owned(weight(&batch)).await.map_err(|_| Closed)?;
        let (reply, answer) = oneshot::channel();
        let submission = Submission { batch, reply, _permit: permit };
        self.shared.queue.send(Command::Commit(submission)).map_err(|_| Closed)?;
        answer.await.map_err(|_| Closed)?
    }

    async fn watch(&self, prefix: &Prefix) -> Result<Watch, StorageError> {
        Ok(self.shared.hub.watch(prefix)?)
    }

    async fn close(&self) {
        self.shared.permits.close();
        let (done, closed) = oneshot::channel();
        if self.shared.queue.send(Command::Close(Some(done))).is_ok() {
            // An error means that the writer ended on an earlier request.
            let _ = closed.await;
        }
    }
}

/// The permits that a batch needs while it is queued; the greatest batch takes them all.
fn weight(batch: &Batch) -> u32 {
    let permits = 1 + batch_bytes(batch) / PERMIT_BYTES;
    u32::try_from(permits).unwrap_or(PERMITS).min(PERMITS)
}

fn batch_bytes(batch: &Batch) -> usize {
    let bytes = |action: &Action| match action {
        Action::Put { value, .. } => value.len(),
        _ => 0,
    };
    batch.operations().iter().map(|operation| bytes(&operation.action)).sum()
}

impl Shared {
    /// Runs `read` on the database. It stays open meanwhile.
    fn read<T>(&self, read: impl FnOnce(&Database) -> Result<T, schema::Failure>) -> Result<T, StorageError> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let database = database.as_ref().ok_or_else(|| self.absence())?;
        read(database).map_err(StorageError::from)
    }

    /// Why there is no database.
    fn absence(&self) -> StorageError {
        if self.permits.is_closed() { Closed.into() } else { StorageError::unavailable(NotOpen) }
    }
}

impl Sweep for Shared {
    fn sweep(&self) -> bool {
        let now = self.clock.now();
        match self.read(|database| schema::has_expired(&database.begin_read()?, now)) {
            Ok(true) => self.queue.send(Command::Sweep).is_ok(),
            Ok(false) => true,
            // A failing disk may come back; a closed backend does not.
            Err(_) => !self.permits.is_closed(),
        }
    }
}
