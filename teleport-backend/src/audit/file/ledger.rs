//! The files and the chain: what the writer's thread owns.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use teleport_core::audit::chain::{
    Chain, CheckpointDraft, CheckpointKey, CheckpointReason, Hasher, StoredCheckpoint,
};
use teleport_core::audit::{AuditEvent, AuditForwarder, EventKind};
use teleport_core::clock::{Clock, Timestamp};
use teleport_core::entropy::{Entropy, EntropyExt};
use teleport_core::storage::{Condition, Repo};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

use super::writer::Rendered;
use super::{Checkpoints, FileAuditConfig, Place, SyncPolicy, Synced, days_of, file_of, tail};
use crate::shared::files;

/// How long the key and the storage may take. The log does not wait longer; it tries again later.
const PATIENCE: Duration = Duration::from_secs(5);

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
    /// With [`SyncPolicy::Interval`]: when something was written that is not synced.
    unsynced_since: Option<Instant>,
    /// Whoever follows the log reads no further: what is not on the disk may be taken back.
    synced: watch::Sender<Option<Synced>>,
}

impl Ledger {
    pub(super) fn new(setup: Setup, synced: watch::Sender<Option<Synced>>) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let dropped = vec![0; setup.forwarders.len()];
        let noted = dropped.clone();
        Ok(Self { setup, runtime, tail: None, dropped, noted, unstored: None, unsynced_since: None, synced })
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

    /// A checkpoint, by itself.
    fn conclude(&mut self, reason: CheckpointReason) {
        let Some(mut tail) = self.tail.take() else { return };
        let result =
            self.checkpoint(&mut tail, reason, std::convert::identity).and_then(|_| self.flush(&mut tail));
        let result = result.map_err(|error| WriteError::new(&tail.day, error));
        if let Err(error) = self.keep(tail, result) {
            let error: &dyn std::error::Error = &error;
            tracing::error!(error, "a checkpoint of the audit log was not written");
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
            SyncPolicy::Always => file.sync_data()?,
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

    /// What is written is on the disk.
    fn publish(&self, tail: &Tail) {
        let end = Place { day: tail.day.clone(), offset: tail.written.len };
        self.synced.send_replace(Some(Synced { end, log: tail.written.log.unwrap_or_default() }));
    }

    /// Says whether what is in the file is on the disk.
    fn sync(&mut self) -> bool {
        if self.unsynced_since.take().is_none() {
            return true;
        }
        let file = self.tail.as_ref().and_then(|tail| tail.file.as_ref());
        if let Some(Err(error)) = file.map(File::sync_data) {
            // What was acknowledged cannot be taken back; the interval is the promise that was broken.
            let error: &dyn std::error::Error = &error;
            tracing::error!(error, "audit events of the last interval may not be durable");
            return false;
        }
        if let Some(tail) = &self.tail {
            self.publish(tail);
        }
        true
    }

    /// Begins the file of `day`.
    fn roll(&mut self, tail: &mut Tail, day: &str, lost: Option<&StoredCheckpoint>) -> io::Result<()> {
        self.sync_file(tail)?;
        let (file, len) = self.open_file(day)?;
        tail.file = Some(file);
        day.clone_into(&mut tail.day);
        tail.next.len = len;
        tail.written.len = len;
        let begins = tail.next.chain.head().is_none();
        let reason = if begins { CheckpointReason::Begin } else { CheckpointReason::Day };
        self.checkpoint(tail, reason, naming(lost))?;
        self.retain(tail)
    }

    fn sync_file(&mut self, tail: &Tail) -> io::Result<()> {
        if self.unsynced_since.take().is_some()
            && let Some(file) = &tail.file
        {
            file.sync_data()?;
        }
        Ok(())
    }

    fn open_file(&self, day: &str) -> io::Result<(File, u64)> {
        let path = file_of(&self.setup.directory, day);
        let is_new = !path.exists();
        let file = files::private().read(true).append(true).open(&path)?;
        if is_new {
            files::sync_directory(&self.setup.directory)?;
        }
        let len = file.metadata()?.len();
        Ok((file, len))
    }

    /// Finds the end of the log, and makes it one that can be continued.
    fn open(&mut self) -> io::Result<Tail> {
        self.forget_noted();
        let days = days_of(&self.setup.directory)?;
        let keys: Vec<CheckpointKey> =
            self.setup.checkpoints.iter().map(|checkpoints| checkpoints.signer.key()).collect();
        let stored = self.stored()?;
        let end = tail::find(&self.setup.directory, &days, &keys, &stored)?;
        let now = self.setup.clock.now();
        let chain = match (&end.head, &end.lost) {
            (Some(head), None) => Chain::after(*head),
            _ => Chain::new(),
        };
        let log = end.log.filter(|_| end.lost.is_none());
        let mark = Mark {
            chain,
            log,
            len: 0,
            unsigned: u32::from(!end.signed && chain.head().is_some()),
            unsigned_since: now,
        };
        let mut tail = Tail {
            day: days.last().cloned().unwrap_or_default(),
            file: None,
            written: mark,
            next: mark,
            pending: Vec::new(),
        };
        let mut empty = true;
        if let Some(day) = days.last() {
            let (file, len) = self.open_file(day)?;
            empty = len == 0;
            tail.file = Some(file);
            tail.next.len = len;
            tail.written.len = len;
        }
        if end.unterminated {
            tail.pending.push(b'\n');
        }
        if let Some(lost) = &end.lost {
            tracing::error!(
                log = %lost.log,
                entries = lost.head.index.saturating_add(1),
                "THE AUDIT LOG WAS CUT OR CHANGED: entries that storage knows of are not in its files; a new chain begins"
            );
            if tail.file.is_none() {
                let today = files::day(self.setup.clock.now());
                self.roll(&mut tail, &today, Some(lost))?;
            } else {
                self.checkpoint(&mut tail, CheckpointReason::Begin, naming(Some(lost)))?;
            }
        } else if let Some((bytes, digest)) = end.gap {
            self.recovered(&mut tail, bytes, digest, end.unterminated)?;
        }
        if tail.file.is_some() && (tail.next.unsigned > 0 || empty || tail.next.chain.head().is_none()) {
            let reason = if end.head.is_some() { CheckpointReason::Start } else { CheckpointReason::Begin };
            self.checkpoint(&mut tail, reason, std::convert::identity)?;
        }
        self.retain(&mut tail)?;
        self.flush(&mut tail)?;
        if let Some(file) = &tail.file
            && self.unsynced_since.is_none()
        {
            // Of what an earlier process has left, nobody knows whether it is on the disk.
            file.sync_data()?;
        }
        if self.unsynced_since.is_none() {
            self.publish(&tail);
        }
        Ok(tail)
    }

    /// Accounts for what a crash has left.
    fn recovered(
        &self,
        tail: &mut Tail,
        mut bytes: u64,
        mut digest: Hasher,
        unterminated: bool,
    ) -> io::Result<()> {
        if unterminated {
            digest.update(b"\n");
            bytes += 1;
        }
        tracing::warn!(
            bytes,
            day = tail.day,
            "the audit log ends with something that is no entry; the next one says so"
        );
        let event = AuditEvent::new(EventKind::AuditRecovered)
            .field("bytes", bytes)
            .field("sha256", digest.finish().to_string());
        self.note(tail, event)
    }

    /// Adds a checkpoint, if they are signed. One that cannot be made now is made later.
    /// Writes a checkpoint, with what `says` adds to it. If it cannot be signed now, the log goes on without: `false`.
    pub(super) fn checkpoint(
        &mut self,
        tail: &mut Tail,
        reason: CheckpointReason,
        says: impl FnOnce(AuditEvent) -> AuditEvent,
    ) -> io::Result<bool> {
        let Some(checkpoints) = self.setup.checkpoints.clone() else { return Ok(false) };
        self.note_dropped(tail)?;
        let log = match tail.next.log {
            Some(log) => log,
            None => self.setup.entropy.uuid().map_err(io::Error::other)?,
        };
        let key = checkpoints.signer.key();
        let event = self.stamped(says(CheckpointDraft::event(&tail.next.chain, log, &key, reason)))?;
        let draft = CheckpointDraft::new(&tail.next.chain, &event).map_err(io::Error::other)?;
        let signing =
            async { tokio::time::timeout(PATIENCE, checkpoints.signer.sign(draft.message())).await };
        let signature: Result<_, Box<dyn std::error::Error>> = match self.runtime.block_on(signing) {
            Ok(Ok(signature)) => {
                draft.finish(&signature).ok_or_else(|| "the signature has a wrong form".into())
            }
            Ok(Err(error)) => Err(error.into()),
            Err(late) => Err(late.into()),
        };
        let (line, chain) = match signature {
            Ok(signed) => signed,
            Err(error) => {
                tracing::error!(
                    error,
                    "a checkpoint of the audit log was not signed; the log goes on without it"
                );
                // Not with every event again.
                tail.next.unsigned = 1;
                tail.next.unsigned_since = self.setup.clock.now();
                return Ok(false);
            }
        };
        tail.pending.extend_from_slice(&line);
        tail.next.chain = chain;
        tail.next.log = Some(log);
        tail.next.unsigned = 0;
        self.unstored = chain.head().map(|head| StoredCheckpoint::new(log, head, event.time));
        Ok(true)
    }

    fn note_dropped(&mut self, tail: &mut Tail) -> io::Result<()> {
        let drops = self.setup.forwarders.iter().zip(&mut self.dropped).zip(&mut self.noted);
        let mut events = Vec::new();
        for ((forwarder, dropped), noted) in drops.filter(|((_, dropped), _)| **dropped > 0) {
            let event = AuditEvent::new(EventKind::AuditForwardDropped).field("forwarder", forwarder.name());
            events.push(event.field("dropped", *dropped));
            *noted = noted.saturating_add(std::mem::take(dropped));
        }
        events.into_iter().try_for_each(|event| self.note(tail, event))
    }

    /// What storage remembers.
    fn stored(&self) -> io::Result<Vec<StoredCheckpoint>> {
        let Some(checkpoints) = &self.setup.checkpoints else { return Ok(Vec::new()) };
        let records = Repo::<StoredCheckpoint>::new(Arc::clone(&checkpoints.storage));
        let listed = async { tokio::time::timeout(PATIENCE, records.list()).await };
        // Without it a log that was cut would be continued as if it were whole.
        let listed = self.runtime.block_on(listed).map_err(io::Error::other)?.map_err(io::Error::other)?;
        Ok(listed.into_iter().map(|stored| stored.record).collect())
    }

    /// Lets storage remember the newest checkpoint that is written.
    fn store(&mut self) {
        let written = self.tail.as_ref().map(|tail| tail.written.chain.next_index()).unwrap_or_default();
        let Some(checkpoint) = self.unstored.take_if(|checkpoint| checkpoint.head.index < written) else {
            return;
        };
        // Storage must not know what a loss of power can take from the file.
        if !self.sync() {
            return;
        }
        let Some(checkpoints) = &self.setup.checkpoints else { return };
        let records = Repo::<StoredCheckpoint>::new(Arc::clone(&checkpoints.storage));
        let write =
            async { tokio::time::timeout(PATIENCE, records.write(&checkpoint, Condition::Any)).await };
        let error: Option<Box<dyn std::error::Error>> = match self.runtime.block_on(write) {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(error.into()),
            Err(error) => Some(error.into()),
        };
        if let Some(error) = error {
            tracing::warn!(error, "the newest checkpoint of the audit log is not in storage yet");
            self.unstored = Some(checkpoint);
        }
    }
}

/// Says in the checkpoint of a new chain which log was lost before it.
fn naming(lost: Option<&StoredCheckpoint>) -> impl FnOnce(AuditEvent) -> AuditEvent {
    let lost = lost.map(|lost| (lost.log.to_string(), lost.head.index.saturating_add(1)));
    move |event| match lost {
        Some((log, entries)) => event.field("lost_log", log).field("lost_entries", entries),
        None => event,
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
