//! The files and the chain: what the writer's thread owns.

mod checkpoints;
mod open;
mod sync;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use teleport_core::audit::chain::{Chain, CheckpointReason, StoredCheckpoint};
use teleport_core::audit::{AuditEvent, AuditForwarder};
use teleport_core::clock::{Clock, Timestamp};
use teleport_core::entropy::{Entropy, EntropyExt};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

use super::writer::Rendered;
use super::{Checkpoints, FileAuditConfig, SyncPolicy, Synced};
use crate::shared::files;

/// How often it is looked whether a checkpoint is due, while entries wait for one.
const TICK: Duration = Duration::from_secs(1);

/// What a log works with.
#[derive(Debug)]
pub(super) struct Setup {
    pub(super) directory: Arc<Path>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) entropy: Arc<dyn Entropy>,
    pub(super) config: FileAuditConfig,
    pub(super) checkpoints: Option<Checkpoints>,
    pub(super) forwarders: Vec<Arc<dyn AuditForwarder>>,
    /// Waits until what was written is on the disk: [`File::sync_data`].
    pub(super) sync_data: fn(&File) -> io::Result<()>,
}

/// The log could not be written. Cloned to everyone whose events were in the group.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the audit file of {day} cannot be written")]
pub(super) struct WriteError {
    day: String,
    source: Arc<io::Error>,
}

impl WriteError {
    fn new(day: &str, error: io::Error) -> Self {
        Self { day: day.to_owned(), source: Arc::new(error) }
    }
}

/// How far the log is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    pub(super) chain: Chain,
    /// The log's id, once a checkpoint has one.
    pub(super) log: Option<Uuid>,
    /// The length of the file.
    len: u64,
    /// Entries behind the last checkpoint, and when the first of them came.
    unsigned: u32,
    unsigned_since: Timestamp,
}

/// The end of the log.
#[derive(Debug)]
pub(super) struct Tail {
    /// Of the newest file; empty if there is none.
    pub(super) day: String,
    file: Option<File>,
    /// What is in the file, synced unless the policy says otherwise.
    written: Mark,
    /// What will be, with `pending`.
    pub(super) next: Mark,
    pending: Vec<u8>,
}

pub(super) struct Ledger {
    pub(super) setup: Setup,
    /// Drives the key and the storage, which are asynchronous; this thread waits for them.
    pub(super) runtime: Runtime,
    /// `None` until the end of the log is found, and when it has to be found again.
    tail: Option<Tail>,
    /// Of each forwarder, what it did not take.
    dropped: Vec<u64>,
    /// How much of that an entry says that is not written yet.
    noted: Vec<u64>,
    /// A checkpoint that storage is to remember.
    unstored: Option<StoredCheckpoint>,
    /// With [`SyncPolicy::Interval`]: when something was written that is not synced, or when that failed the last time.
    unsynced_since: Option<Instant>,
    /// The disk did not take what was written.
    sync_failed: bool,
    /// Whoever follows the log reads no further: what is not on the disk may be taken back.
    synced: watch::Sender<Option<Synced>>,
}

impl Ledger {
    pub(super) fn new(setup: Setup, synced: watch::Sender<Option<Synced>>) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let dropped = vec![0; setup.forwarders.len()];
        let noted = dropped.clone();
        Ok(Self {
            setup,
            runtime,
            tail: None,
            dropped,
            noted,
            unstored: None,
            unsynced_since: None,
            sync_failed: false,
            synced,
        })
    }

    /// Finds the end of the log.
    pub(super) fn start(&mut self) {
        if let Err(error) = self.ready() {
            let error: &dyn std::error::Error = &error;
            tracing::error!(error, "the audit log is not ready; the next event tries again");
        }
        self.store();
    }

    /// Writes entries: all of them, or, with an error, perhaps some.
    pub(super) fn write<'a>(
        &mut self,
        entries: impl Iterator<Item = &'a Rendered>,
    ) -> Result<(), WriteError> {
        let mut tail = match self.tail.take() {
            Some(tail) => tail,
            None => {
                self.open().map_err(|error| WriteError::new(&files::day(self.setup.clock.now()), error))?
            }
        };
        let result = self.append(&mut tail, entries);
        self.keep(tail, result)
    }

    /// What is due: syncs, checkpoints, what storage shall remember.
    pub(super) fn tick(&mut self) {
        let due = self.tail.as_ref().is_some_and(|tail| {
            let waits = self.setup.clock.now().saturating_since(tail.next.unsigned_since);
            tail.next.unsigned > 0 && waits >= self.setup.config.checkpoint_interval
        });
        if due && self.setup.checkpoints.is_some() {
            self.conclude(CheckpointReason::Time);
        }
        if let SyncPolicy::Interval(interval) = self.setup.config.sync
            && self.unsynced_since.is_some_and(|since| since.elapsed() >= interval)
        {
            self.sync();
        }
        self.store();
    }

    /// When [`Ledger::tick`] has something to do, if nothing else happens.
    pub(super) fn wakes_after(&self) -> Option<Duration> {
        let waiting = self.setup.checkpoints.is_some()
            && (self.unstored.is_some() || self.tail.as_ref().is_some_and(|tail| tail.next.unsigned > 0));
        match (self.setup.config.sync, self.unsynced_since) {
            (SyncPolicy::Interval(interval), Some(_)) => Some(interval.min(TICK)),
            _ => waiting.then_some(TICK),
        }
    }

    /// The log is closed.
    pub(super) fn stop(&mut self) {
        if self.tail.as_ref().is_some_and(|tail| tail.next.unsigned > 0) {
            self.conclude(CheckpointReason::Stop);
        }
        self.sync();
        self.store();
    }

    fn ready(&mut self) -> io::Result<()> {
        if self.tail.is_none() {
            let tail = self.open()?;
            self.tail = Some(tail);
        }
        Ok(())
    }

    /// Takes back what was not written, so that the log is where it was.
    fn keep(&mut self, mut tail: Tail, result: Result<(), WriteError>) -> Result<(), WriteError> {
        if result.is_err() {
            self.unstored.take_if(|checkpoint| checkpoint.head.index >= tail.written.chain.next_index());
            self.forget_noted();
        }
        if result.is_err() && tail.roll_back().is_err() {
            // The end of the log has to be found again.
            return result;
        }
        self.tail = Some(tail);
        result
    }

    /// The entries that tell of what was dropped were not written.
    fn forget_noted(&mut self) {
        for (dropped, noted) in self.dropped.iter_mut().zip(&mut self.noted) {
            *dropped = dropped.saturating_add(std::mem::take(noted));
        }
    }

    fn append<'a>(
        &mut self,
        tail: &mut Tail,
        entries: impl Iterator<Item = &'a Rendered>,
    ) -> Result<(), WriteError> {
        for entry in entries {
            // The order of the log is that of its files: an event of the day before, or of a clock that was set back, stands in
            // the newest one.
            if entry.day > tail.day {
                self.flush(tail).map_err(|error| WriteError::new(&tail.day, error))?;
                self.roll(tail, &entry.day, None).map_err(|error| WriteError::new(&entry.day, error))?;
            }
            self.add(tail, &entry.json).map_err(|error| WriteError::new(&tail.day, error))?;
        }
        let concluded = if tail.next.unsigned >= self.setup.config.checkpoint_entries {
            self.checkpoint(tail, CheckpointReason::Entries, std::convert::identity)
        } else {
            Ok(false)
        };
        concluded.and_then(|_| self.flush(tail)).map_err(|error| WriteError::new(&tail.day, error))
    }

    fn add(&self, tail: &mut Tail, json: &[u8]) -> io::Result<()> {
        let added = tail.next.chain.append(json, &mut tail.pending);
        added.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        if tail.next.unsigned == 0 {
            tail.next.unsigned_since = self.setup.clock.now();
        }
        tail.next.unsigned = tail.next.unsigned.saturating_add(1);
        Ok(())
    }

    /// Adds an entry of the log's own.
    pub(super) fn note(&self, tail: &mut Tail, event: AuditEvent) -> io::Result<()> {
        let event = self.stamped(event)?;
        self.add(tail, &serde_json::to_vec(&event)?)
    }

    fn stamped(&self, mut event: AuditEvent) -> io::Result<AuditEvent> {
        event.uid = self.setup.entropy.uuid().map_err(io::Error::other)?;
        event.time = self.setup.clock.now();
        if let Some(checkpoints) = &self.setup.checkpoints {
            checkpoints.cluster.as_str().clone_into(&mut event.cluster_name);
        }
        Ok(event)
    }

    /// Writes and syncs what is pending.
    pub(super) fn flush(&mut self, tail: &mut Tail) -> io::Result<()> {
        if tail.pending.is_empty() {
            return Ok(());
        }
        let file = tail.file.as_mut().ok_or(io::ErrorKind::NotFound)?;
        file.write_all(&tail.pending)?;
        match self.setup.config.sync {
            SyncPolicy::Always => (self.setup.sync_data)(file)?,
            SyncPolicy::Interval(_) => {
                self.unsynced_since.get_or_insert_with(Instant::now);
            }
        }
        self.noted.fill(0);
        for (forwarder, dropped) in self.setup.forwarders.iter().zip(&mut self.dropped) {
            for line in tail.pending.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                *dropped = dropped.saturating_add(forwarder.forward(line));
            }
        }
        tail.next.len += tail.pending.len() as u64;
        tail.pending.clear();
        tail.written = tail.next;
        if self.unsynced_since.is_none() {
            self.publish(tail);
        }
        Ok(())
    }
}

impl Tail {
    /// Takes back what is not written whole.
    fn roll_back(&mut self) -> io::Result<()> {
        if let Some(file) = &self.file {
            file.set_len(self.written.len)?;
            file.sync_data()?;
        }
        self.pending.clear();
        self.next = self.written;
        Ok(())
    }
}
