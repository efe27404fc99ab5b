//! The audit log as JSON lines, one file for each UTC day: `2026-11-21.jsonl`.
//!
//! One thread appends and syncs; what is queued meanwhile shares the next sync. Each line carries its number and the digest of
//! everything before it, across the files; at intervals one is signed ([`Checkpoints`]). The manual of `teleport-core` describes
//! the lines byte for byte and says what they prove; [`verify()`] reads them again.
//!
//! What a crash left unfinished was never acknowledged. It is kept, closed with a newline, left out of searches, and accounted for
//! by the next entry.

mod gaps;
mod ledger;
mod lines;
mod retention;
mod search;
mod tail;
mod verify;
mod walk;
mod writer;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use teleport_core::audit::chain::{CHAIN_FIELDS, CheckpointSigner, LogOwner, NotAnEntry, StoredCheckpoint};
use teleport_core::audit::{
    AuditError, AuditEvent, AuditForwarder, AuditLog, AuditPage, AuditQuery, AuditSink,
};
use teleport_core::clock::Clock;
use teleport_core::entropy::Entropy;
use teleport_core::id::ClusterName;
use teleport_core::storage::Backend;
use tokio::sync::{Semaphore, oneshot, watch};

pub(in crate::audit) use self::gaps::Place;
use self::ledger::{Ledger, Setup};
use self::search::SearchError;
pub use self::verify::{Observed, VerifyError, log_of, verify};
pub(in crate::audit) use self::walk::{Synced, Walk, is_at};
use self::writer::{Rendered, Submission, Writer};
use crate::shared::closed::Closed;
use crate::shared::files;

/// What queued events may hold together, in units of [`PERMIT_BYTES`]: callers beyond wait before they are queued.
const PERMITS: u32 = 2048;

/// What one permit stands for.
const PERMIT_BYTES: usize = 16 * 1024;

/// The extension of the log's files, with its dot.
const EXTENSION: &str = ".jsonl";

/// When what was written is made durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SyncPolicy {
    /// Before it is acknowledged.
    #[default]
    Always,
    /// So often. When the machine loses power, what was acknowledged since is lost; when only the process dies, nothing is.
    Interval(Duration),
}

/// How a log is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    clippy::exhaustive_structs,
    reason = "callers change what they mean and take the rest from the default"
)]
pub struct FileAuditConfig {
    /// When entries are made durable.
    pub sync: SyncPolicy,
    /// Files of days that are older are removed; `None` keeps them for ever.
    pub retention: Option<Duration>,
    /// The most entries between two checkpoints.
    pub checkpoint_entries: u32,
    /// How long an entry waits for a checkpoint.
    pub checkpoint_interval: Duration,
}

impl Default for FileAuditConfig {
    fn default() -> Self {
        Self {
            sync: SyncPolicy::Always,
            retention: None,
            checkpoint_entries: 1000,
            checkpoint_interval: Duration::from_secs(60),
        }
    }
}

/// What checkpoints need.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "programs build it")]
pub struct Checkpoints {
    /// What they say of which cluster they are.
    pub cluster: ClusterName,
    /// The key.
    pub signer: Arc<dyn CheckpointSigner>,
    /// Where the newest one is remembered, beside the log. A log whose files are gone has no name any more, so what is
    /// remembered here of this service without being in the files is taken for what was cut from its log.
    pub storage: Arc<dyn Backend>,
    /// Which of several services that share the storage this is; absent if there is one, whose is all that is remembered.
    pub service: Option<Service>,
}

/// One of several services that share a storage, each with a log of its own.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "programs build it")]
pub struct Service {
    /// Who it is.
    pub owner: LogOwner,
    /// Whether it is started for the first time. Then it has no log that could have been cut, and what is remembered without a name,
    /// by an older release, is of another one.
    pub is_new: bool,
}

impl Checkpoints {
    /// Whether something that is remembered is of this service.
    fn is_own(&self, stored: &StoredCheckpoint) -> bool {
        match (&self.service, &stored.owner) {
            (None, _) => true,
            (Some(own), Some(owner)) => own.owner.service == owner.service,
            (Some(own), None) => !own.is_new,
        }
    }

    fn owner(&self) -> Option<LogOwner> {
        self.service.as_ref().map(|service| service.owner.clone())
    }
}

/// Makes a [`FileAuditLog`].
#[derive(Debug)]
pub struct FileAuditLogBuilder {
    setup: Setup,
}

impl FileAuditLogBuilder {
    /// Signs checkpoints. Without them the log is a chain that nobody has signed, and retention removes nothing of it.
    #[must_use]
    pub fn checkpoints(mut self, checkpoints: Checkpoints) -> Self {
        self.setup.checkpoints = Some(checkpoints);
        self
    }

    /// How it is kept.
    #[must_use]
    pub const fn config(mut self, config: FileAuditConfig) -> Self {
        self.setup.config = config;
        self
    }

    /// Passes entries on as well.
    #[must_use]
    pub fn forwarder(mut self, forwarder: Arc<dyn AuditForwarder>) -> Self {
        self.setup.forwarders.push(forwarder);
        self
    }

    /// Opens the log: makes its directory with mode 0700 if it does not exist (its files have mode 0600), finds its end, and
    /// accounts for what a crash has left. When that cannot be written now, as on a full disk, the first event tries it again.
    ///
    /// # Errors
    /// [`AuditError`] if the directory cannot be made.
    pub async fn open(self) -> Result<FileAuditLog, AuditError> {
        let directory = Arc::clone(&self.setup.directory);
        let made = Arc::clone(&directory);
        tokio::task::spawn_blocking(move || files::create_directory(&made))
            .await
            .map_err(AuditError::new)?
            .map_err(AuditError::new)?;
        let (queue, submissions) = mpsc::channel();
        let (ready, opened) = oneshot::channel();
        let setup = self.setup;
        let retention = setup.config.retention;
        let (sender, synced) = watch::channel(None);
        let thread = std::thread::Builder::new()
            .name("audit-writer".to_owned())
            .spawn(move || {
                let mut ledger = match Ledger::new(setup, sender) {
                    Ok(ledger) => ledger,
                    Err(error) => return drop(ready.send(Err(error))),
                };
                ledger.start();
                // Whoever opens it may have gone away.
                let _ = ready.send(Ok(()));
                Writer::new(ledger, submissions).run();
            })
            .map_err(AuditError::new)?;
        opened.await.map_err(|_| AuditError::new(Closed))?.map_err(AuditError::new)?;
        Ok(FileAuditLog {
            directory,
            permits: Arc::new(Semaphore::new(PERMITS as usize)),
            queue: Mutex::new(Some(queue)),
            retention,
            synced,
            writer: Mutex::new(Some(thread)),
        })
    }
}

/// An [`AuditLog`] in a directory of a local file system. One process writes to it.
///
/// Dropping it waits until what was queued is durable, and signed.
pub struct FileAuditLog {
    directory: Arc<Path>,
    permits: Arc<Semaphore>,
    /// `None` when it is closed.
    queue: Mutex<Option<mpsc::Sender<Submission>>>,
    retention: Option<Duration>,
    /// How much of it is on the disk; `None` until its end was found.
    synced: watch::Receiver<Option<Synced>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl FileAuditLog {
    /// A log in `directory`. The clock and the randomness are for the entries that the log itself makes.
    pub fn builder(
        directory: impl AsRef<Path>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> FileAuditLogBuilder {
        FileAuditLogBuilder {
            setup: Setup {
                directory: directory.as_ref().into(),
                clock,
                entropy,
                config: FileAuditConfig::default(),
                checkpoints: None,
                forwarders: Vec::new(),
                sync_data: std::fs::File::sync_data,
            },
        }
    }
}

impl FileAuditLog {
    /// Ends the log: what was queued is made durable and signed, and storage remembers it. Events that come later are refused;
    /// searching goes on. If the future is dropped, that happens all the same.
    pub async fn close(&self) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).take();
        let thread = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        let directory = Arc::clone(&self.directory);
        let ended = tokio::task::spawn_blocking(move || join(thread, &directory));
        if let Err(error) = ended.await {
            tracing::error!(error = &error as &dyn std::error::Error, "the audit log was not closed");
        }
    }
}

impl FileAuditLog {
    pub(in crate::audit) const fn directory(&self) -> &Arc<Path> {
        &self.directory
    }

    pub(in crate::audit) const fn retention(&self) -> Option<Duration> {
        self.retention
    }

    /// Follows how much of it is on the disk. Ends when the log is closed.
    pub(in crate::audit) fn synced(&self) -> watch::Receiver<Option<Synced>> {
        self.synced.clone()
    }
}

fn join(thread: Option<JoinHandle<()>>, directory: &Path) {
    if thread.is_some_and(|thread| thread.join().is_err()) {
        tracing::error!(directory = %directory.display(), "the writer of the audit log panicked");
    }
}

impl fmt::Debug for FileAuditLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileAuditLog").field("directory", &self.directory).finish_non_exhaustive()
    }
}

impl Drop for FileAuditLog {
    fn drop(&mut self) {
        // Without a sender the writer ends after what is queued.
        self.queue.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        let thread = self.writer.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        join(thread, &self.directory);
    }
}

/// The events as JSON, each with the day of its file.
fn render(events: Vec<AuditEvent>) -> Result<Vec<Rendered>, AuditError> {
    let render = |mut event: AuditEvent| {
        // The writer gives the number.
        event.index = None;
        if CHAIN_FIELDS.iter().any(|field| event.fields.contains_key(*field)) {
            return Err(AuditError::new(NotAnEntry));
        }
        // JSON escapes line breaks, so an event is one line whatever is in it.
        let json = serde_json::to_vec(&event).map_err(AuditError::new)?;
        Ok(Rendered { day: files::day(event.time), json })
    };
    events.into_iter().map(render).collect()
}

fn file_of(directory: &Path, day: &str) -> PathBuf {
    directory.join(format!("{day}{EXTENSION}"))
}

/// The days of the log's files, oldest first.
fn days_of(directory: &Path) -> std::io::Result<Vec<String>> {
    let mut days = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let Ok(name) = entry?.file_name().into_string() else { continue };
        let Some(day) = name.strip_suffix(EXTENSION).filter(|day| files::is_day(day)) else { continue };
        days.push(day.to_owned());
    }
    days.sort_unstable();
    Ok(days)
}

#[async_trait]
impl AuditSink for FileAuditLog {
    /// Dropping the future leaves it open whether the events are written; they are not torn.
    async fn emit(&self, events: Vec<AuditEvent>) -> Result<(), AuditError> {
        if events.is_empty() {
            return Ok(());
        }
        let entries = render(events)?;
        let bytes: usize = entries.iter().map(|entry| entry.json.len()).sum();
        let weight = u32::try_from(1 + bytes / PERMIT_BYTES).unwrap_or(PERMITS).min(PERMITS);
        let permits = Arc::clone(&self.permits);
        let permit = permits.acquire_many_owned(weight).await.map_err(AuditError::new)?;
        let (reply, answer) = oneshot::channel();
        let submission = Submission { entries, reply, _permit: permit };
        {
            let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            let queue = queue.as_ref().ok_or(Closed).map_err(AuditError::new)?;
            queue.send(submission).map_err(|_| AuditError::new(Closed))?;
        }
        answer.await.map_err(|_| AuditError::new(Closed))?.map_err(AuditError::new)
    }
}

#[async_trait]
impl AuditLog for FileAuditLog {
    /// Reads the files of the days that the query spans, on the blocking pool. A page may be short, even empty, and still
    /// name a next one: the bytes that one call reads are bounded.
    async fn search(&self, query: AuditQuery) -> Result<AuditPage, AuditError> {
        let directory = Arc::clone(&self.directory);
        tokio::task::spawn_blocking(move || search::search(&directory, &query))
            .await
            .map_err(AuditError::new)?
            .map_err(|error| match error {
                SearchError::InvalidCursor => AuditError::invalid(error),
                SearchError::Io { .. } => AuditError::new(error),
            })
    }
}
