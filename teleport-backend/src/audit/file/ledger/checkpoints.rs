//! Checkpoints: signed, written, and remembered by storage.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use teleport_core::audit::chain::{CheckpointDraft, CheckpointReason, StoredCheckpoint};
use teleport_core::audit::{AuditEvent, EventKind};
use teleport_core::entropy::EntropyExt;
use teleport_core::storage::{Condition, Repo};

use super::{Ledger, Tail, WriteError};

/// How long the key and the storage may take. The log does not wait longer; it tries again later.
const PATIENCE: Duration = Duration::from_secs(5);

impl Ledger {
    /// A checkpoint, by itself.
    pub(super) fn conclude(&mut self, reason: CheckpointReason) {
        let Some(mut tail) = self.tail.take() else { return };
        let result =
            self.checkpoint(&mut tail, reason, std::convert::identity).and_then(|_| self.flush(&mut tail));
        let result = result.map_err(|error| WriteError::new(&tail.day, error));
        if let Err(error) = self.keep(tail, result) {
            let error: &dyn std::error::Error = &error;
            tracing::error!(error, "a checkpoint of the audit log was not written");
        }
    }

    /// Adds a checkpoint, with what `says` adds to it, if they are signed. One that cannot be signed now is made later, and the log goes
    /// on without: `false`.
    pub(in crate::audit::file) fn checkpoint(
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
        let owner = checkpoints.owner();
        self.unstored = chain.head().map(|head| StoredCheckpoint::new(log, head, event.time).of(owner));
        Ok(true)
    }

    pub(super) fn note_dropped(&mut self, tail: &mut Tail) -> io::Result<()> {
        let drops = self.setup.forwarders.iter().zip(&mut self.dropped).zip(&mut self.noted);
        let mut events = Vec::new();
        for ((forwarder, dropped), noted) in drops.filter(|((_, dropped), _)| **dropped > 0) {
            let event = AuditEvent::new(EventKind::AuditForwardDropped).field("forwarder", forwarder.name());
            events.push(event.field("dropped", *dropped));
            *noted = noted.saturating_add(std::mem::take(dropped));
        }
        events.into_iter().try_for_each(|event| self.note(tail, event))
    }

    /// What storage remembers of this service.
    pub(super) fn stored(&self) -> io::Result<Vec<StoredCheckpoint>> {
        let Some(checkpoints) = &self.setup.checkpoints else { return Ok(Vec::new()) };
        let records = Repo::<StoredCheckpoint>::new(Arc::clone(&checkpoints.storage));
        let listed = async { tokio::time::timeout(PATIENCE, records.list()).await };
        // Without it a log that was cut would be continued as if it were whole.
        let listed = self.runtime.block_on(listed).map_err(io::Error::other)?.map_err(io::Error::other)?;
        let listed = listed.into_iter().map(|stored| stored.record);
        Ok(listed.filter(|stored| checkpoints.is_own(stored)).collect())
    }

    /// Lets storage remember the newest checkpoint that is written.
    pub(super) fn store(&mut self) {
        let written = self.tail.as_ref().map(|tail| tail.written.chain.next_index()).unwrap_or_default();
        let is_written = self.unstored.as_ref().is_some_and(|checkpoint| checkpoint.head.index < written);
        // Storage must not know what a loss of power can take from the file. A disk that took nothing is asked when it is due.
        if !is_written || self.sync_failed || !self.sync() {
            return;
        }
        let (Some(checkpoints), Some(checkpoint)) = (&self.setup.checkpoints, self.unstored.take()) else {
            return;
        };
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
pub(super) fn naming(lost: Option<&StoredCheckpoint>) -> impl FnOnce(AuditEvent) -> AuditEvent {
    let lost = lost.map(|lost| (lost.log.to_string(), lost.head.index.saturating_add(1)));
    move |event| match lost {
        Some((log, entries)) => event.field("lost_log", log).field("lost_entries", entries),
        None => event,
    }
}
