//! The one thread that writes: group commit.

use std::sync::{Arc, PoisonError, mpsc};
use std::time::Duration;

use ::redb::{Database, Durability};
use teleport_core::clock::Timestamp;
use teleport_core::storage::{Batch, Key, Revision, StorageError, WatchEvent};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::apply::Tables;
use super::schema::Failure;
use super::{NotOpen, Shared, batch_bytes, open, schema};
use crate::shared::pace::Pace;

/// The most batches of one transaction.
const MAX_GROUP: usize = 256;

/// About the most bytes of one transaction, so that a large one does not delay the others for long.
const MAX_GROUP_BYTES: usize = 8 << 20;

/// How long the writer waits for the next batch while it expects more. The callers of the last group have just been
/// answered; with the first of their next batches committed alone they would share every second transaction only.
const GATHER: Duration = Duration::from_micros(150);

pub(super) enum Command {
    Close(Option<oneshot::Sender<()>>),
    Commit(Submission),
    Sweep,
}

pub(super) struct Submission {
    pub(super) batch: Batch,
    pub(super) reply: oneshot::Sender<Result<Revision, StorageError>>,
    /// Given back when the batch is answered.
    pub(super) _permit: OwnedSemaphorePermit,
}

struct Committed {
    events: Vec<WatchEvent>,
    /// The newest commit; `None` if nothing was written.
    newest: Option<Revision>,
    results: Vec<Result<Revision, Key>>,
}

pub(super) struct Writer {
    commands: mpsc::Receiver<Command>,
    expected: usize,
    pace: Pace,
    shared: Arc<Shared>,
}

/// How a round ends.
enum Next {
    Close(Option<oneshot::Sender<()>>),
    Continue,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, commands: mpsc::Receiver<Command>) -> Self {
        let pace = Pace::new(shared.clock.now());
        Self { commands, expected: 1, pace, shared }
    }

    pub(super) fn run(mut self) {
        let done = loop {
            let mut group = Vec::new();
            let next = self.gather(&mut group);
            self.expected = group.len();
            self.commit(group);
            if let Next::Close(done) = next {
                break done;
            }
        };
        // Waits for the readers; from here on everyone is told that the backend is closed.
        let database = self.shared.database.write().unwrap_or_else(PoisonError::into_inner).take();
        self.shared.hub.close();
        drop(database);
        // Batches and requests to close that came too late are answered by dropping them.
        drop(self.commands);
        if let Some(done) = done {
            // Nobody listens if the future of `close` was dropped.
            let _ = done.send(());
        }
    }

    /// Waits for something to do and takes what else is there, in the order of submission.
    fn gather(&self, group: &mut Vec<Submission>) -> Next {
        let mut bytes = 0;
        let Ok(mut command) = self.commands.recv() else { return Next::Close(None) };
        loop {
            match command {
                Command::Close(done) => return Next::Close(done),
                Command::Commit(submission) => {
                    bytes += batch_bytes(&submission.batch);
                    group.push(submission);
                }
                // Every transaction sweeps first.
                Command::Sweep => {}
            }
            if group.len() >= MAX_GROUP || bytes >= MAX_GROUP_BYTES {
                return Next::Continue;
            }
            let more = if group.len() < self.expected {
                self.commands.recv_timeout(GATHER).ok()
            } else {
                self.commands.try_recv().ok()
            };
            match more {
                Some(more) => command = more,
                None => return Next::Continue,
            }
        }
    }

    fn commit(&mut self, mut group: Vec<Submission>) {
        let now = self.shared.clock.now();
        let sweeps = self.pace.may_remove(now);
        if group.is_empty() && !sweeps {
            return;
        }
        let batches = group.iter_mut().map(|submission| std::mem::take(&mut submission.batch)).collect();
        let outcome = {
            let database = self.shared.database.read().unwrap_or_else(PoisonError::into_inner);
            match database.as_ref() {
                Some(database) => transact(database, batches, now, sweeps).map_err(StorageFailure::Failed),
                None => Err(StorageFailure::NotOpen(NotOpen)),
            }
        };
        match outcome {
            Ok(Committed { events, newest, results }) => {
                if let Some(newest) = newest {
                    self.shared.hub.publish(newest, &events);
                }
                for (submission, result) in group.into_iter().zip(results) {
                    let result = result.map_err(|key| StorageError::Conflict { key });
                    // Nobody listens if the future of `commit` was dropped.
                    let _ = submission.reply.send(result);
                }
            }
            Err(failure) => {
                tracing::error!(path = %self.shared.path.display(), error = %failure, "a transaction failed");
                self.recover(&failure);
                for submission in group {
                    let _ = submission.reply.send(Err(failure.clone().into()));
                }
            }
        }
    }

    /// After a failure of the disk redb refuses everything until the file is opened anew. If that fails too, the next batch
    /// tries again. Whether the failed transaction became durable is known only then; it was not reported to the
    /// watches, so they end and whoever watches lists again.
    fn recover(&self, failure: &StorageFailure) {
        let mut database = self.shared.database.write().unwrap_or_else(PoisonError::into_inner);
        if failure.needs_reopening() {
            drop(database.take());
            match open::existing(&self.shared.path) {
                Ok(opened) => *database = Some(opened),
                Err(error) => {
                    let error: &dyn std::error::Error = &error;
                    tracing::error!(path = %self.shared.path.display(), error, "the database cannot be opened again");
                }
            }
        }
        if let Some(revision) = database.as_ref().and_then(|database| schema::revision(database).ok()) {
            self.shared.hub.restart(revision);
        }
    }
}

/// Evaluates the batches in order in one transaction and makes it durable. Removes some of what has expired before, if it may.
fn transact(
    database: &Database,
    batches: Vec<Batch>,
    now: Timestamp,
    sweeps: bool,
) -> Result<Committed, Failure> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    // Both phases are synced: a torn first phase is never taken for a commit, not even with crafted values.
    transaction.set_two_phase_commit(true);
    let mut events = Vec::new();
    let mut results = Vec::with_capacity(batches.len());
    let mut tables = Tables::open(&transaction)?;
    if sweeps {
        tables.sweep(now, &mut events)?;
    }
    for batch in batches {
        results.push(tables.apply(batch, now, &mut events)?);
    }
    let newest = tables.finish()?;
    if newest.is_some() {
        transaction.commit()?;
    } else {
        transaction.abort()?;
    }
    Ok(Committed { events, newest, results })
}

#[derive(Clone, Debug, thiserror::Error)]
enum StorageFailure {
    #[error(transparent)]
    NotOpen(NotOpen),
    #[error(transparent)]
    Failed(Failure),
}

impl StorageFailure {
    fn needs_reopening(&self) -> bool {
        match self {
            Self::NotOpen(_) => true,
            Self::Failed(failure) => failure.is_io(),
        }
    }
}

impl From<StorageFailure> for StorageError {
    fn from(failure: StorageFailure) -> Self {
        match failure {
            StorageFailure::NotOpen(reason) => Self::unavailable(reason),
            StorageFailure::Failed(failure) => failure.into(),
        }
    }
}
