//! Finding the end of the log, and beginning its files.

use std::fs::File;
use std::io;

use teleport_core::audit::chain::{Chain, CheckpointKey, CheckpointReason, Hasher, StoredCheckpoint};
use teleport_core::audit::{AuditEvent, EventKind};

use super::checkpoints::naming;
use super::{Ledger, Mark, Tail};
use crate::audit::file::{Checkpoints, days_of, file_of, tail};
use crate::shared::files;

impl Ledger {
    /// Finds the end of the log, and makes it one that can be continued.
    pub(super) fn open(&mut self) -> io::Result<Tail> {
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
        // What an older release remembered without a name is of this service from now on.
        let unnamed = |known: &&StoredCheckpoint| known.owner.is_none() && Some(known.log) == tail.next.log;
        if self.unstored.is_none()
            && let Some(owner) = self.setup.checkpoints.as_ref().and_then(Checkpoints::owner)
            && let Some(known) = stored.iter().find(unnamed)
        {
            self.unstored = Some(known.clone().of(Some(owner)));
        }
        if let Some(file) = &tail.file
            && self.unsynced_since.is_none()
        {
            // Of what an earlier process has left, nobody knows whether it is on the disk.
            self.settle(&tail.day, file)?;
        }
        if self.unsynced_since.is_none() {
            self.publish(&tail);
        }
        Ok(tail)
    }

    /// Accounts for what a crash has left.
    pub(super) fn recovered(
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

    /// Begins the file of `day`.
    pub(super) fn roll(
        &mut self,
        tail: &mut Tail,
        day: &str,
        lost: Option<&StoredCheckpoint>,
    ) -> io::Result<()> {
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

    pub(super) fn open_file(&self, day: &str) -> io::Result<(File, u64)> {
        let path = file_of(&self.setup.directory, day);
        let is_new = !path.exists();
        let file = files::private().read(true).append(true).open(&path)?;
        if is_new {
            files::sync_directory(&self.setup.directory)?;
        }
        let len = file.metadata()?.len();
        Ok((file, len))
    }
}
