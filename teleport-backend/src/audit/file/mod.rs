//! The audit log as JSON lines, one file for each UTC day: `2026-11-21.jsonl`.
//!
//! One thread appends and syncs; what is queued meanwhile shares the next sync. A line that a crash cut short was never
//! acknowledged; it is kept, closed with a newline, and left out of searches.

mod lines;
mod search;
mod writer;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;

use async_trait::async_trait;
use teleport_core::audit::{AuditError, AuditEvent, AuditLog, AuditPage, AuditQuery, AuditSink};
use tokio::sync::{Semaphore, oneshot};

use self::writer::{Submission, Writer};
use crate::shared::closed::Closed;
use crate::shared::files;

/// What queued events may hold together, in units of [`PERMIT_BYTES`]: callers beyond wait before they are queued.
const PERMITS: u32 = 2048;

/// What one permit stands for.
const PERMIT_BYTES: usize = 16 * 1024;

/// The extension of the log's files, with its dot.
const EXTENSION: &str = ".jsonl";

/// An [`AuditLog`] in a directory of a local file system. One process writes to it.
///
/// Dropping it waits until what was queued is durable.
#[derive(Debug)]
pub struct FileAuditLog {
    directory: Arc<Path>,
    permits: Arc<Semaphore>,
    /// `None` only while it is dropped.
    queue: Option<mpsc::Sender<Submission>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl FileAuditLog {
    /// The log in `directory`, which is made with mode 0700 if it does not exist; its files have mode 0600.
    ///
    /// # Errors
    /// [`AuditError`] if the directory cannot be made.
    pub async fn open(directory: impl AsRef<Path>) -> Result<Self, AuditError> {
        let directory: Arc<Path> = directory.as_ref().into();
        let made = Arc::clone(&directory);
        tokio::task::spawn_blocking(move || files::create_directory(&made))
            .await
            .map_err(AuditError::new)?
            .map_err(AuditError::new)?;
        let (queue, submissions) = mpsc::channel();
        let writer = Writer::new(Arc::clone(&directory), submissions);
        let thread = std::thread::Builder::new()
            .name("audit-writer".to_owned())
            .spawn(move || writer.run())
            .map_err(AuditError::new)?;
        Ok(Self {
            directory,
            permits: Arc::new(Semaphore::new(PERMITS as usize)),
            queue: Some(queue),
            writer: Mutex::new(Some(thread)),
        })
    }
}

impl Drop for FileAuditLog {
    fn drop(&mut self) {
        // Without a sender the writer ends after what is queued.
        self.queue = None;
        let thread = self.writer.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!(directory = %self.directory.display(), "the writer of the audit log panicked");
        }
    }
}

/// The lines of a submission, by the day of their file.
fn render(events: &[AuditEvent]) -> Result<BTreeMap<String, Vec<u8>>, serde_json::Error> {
    let mut days: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for event in events {
        let lines = days.entry(files::day(event.time)).or_default();
        // JSON escapes line breaks, so an event is one line whatever is in it.
        serde_json::to_writer(&mut *lines, event)?;
        lines.push(b'\n');
    }
    Ok(days)
}

fn file_of(directory: &Path, day: &str) -> PathBuf {
    directory.join(format!("{day}{EXTENSION}"))
}

#[async_trait]
impl AuditSink for FileAuditLog {
    /// Dropping the future leaves it open whether the events are written; they are not torn.
    async fn emit(&self, events: Vec<AuditEvent>) -> Result<(), AuditError> {
        if events.is_empty() {
            return Ok(());
        }
        let days = render(&events).map_err(AuditError::new)?;
        let bytes: usize = days.values().map(Vec::len).sum();
        let weight = u32::try_from(1 + bytes / PERMIT_BYTES).unwrap_or(PERMITS).min(PERMITS);
        let permits = Arc::clone(&self.permits);
        let permit = permits.acquire_many_owned(weight).await.map_err(AuditError::new)?;
        let (reply, answer) = oneshot::channel();
        let queue = self.queue.as_ref().ok_or(Closed).map_err(AuditError::new)?;
        let submission = Submission { days, reply, _permit: permit };
        queue.send(submission).map_err(|_| AuditError::new(Closed))?;
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
            .map_err(AuditError::new)
    }
}
