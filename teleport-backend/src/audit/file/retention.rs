//! Removing old files.

use std::fs::File;
use std::io;
use std::sync::Arc;

use teleport_core::audit::chain::{Checkpoint, CheckpointReason, Entry, StoredCheckpoint};
use teleport_core::audit::{AuditEvent, EventKind};
use teleport_core::storage::Repo;

use super::ledger::{Ledger, Tail};
use super::lines::Lines;
use super::{days_of, file_of};
use crate::shared::files;

impl Ledger {
    /// Removes the files of days that are older than the configuration keeps, after an entry and a checkpoint that say so. What remains begins
    /// with a checkpoint, so that it can be verified without what is gone.
    pub(super) fn retain(&mut self, tail: &mut Tail) -> io::Result<()> {
        let Some(retention) = self.setup.config.retention else { return Ok(()) };
        let kept_from = self.setup.clock.now().saturating_sub(retention);
        let oldest_kept = files::day(kept_from);
        let days = days_of(&self.setup.directory)?;
        let mut old = days.iter().take_while(|day| **day < oldest_kept && **day < tail.day).count();
        let mut first = None;
        while old > 0 {
            let Some(day) = days.get(old) else { return Ok(()) };
            first = self.begins(day)?;
            if first.is_some() {
                break;
            }
            old -= 1;
        }
        let Some(first) = first else { return Ok(()) };
        let removed = days.get(..old).unwrap_or_default();
        let [oldest, ..] = removed else { return Ok(()) };
        let event = AuditEvent::new(EventKind::AuditRetention)
            .field("files", removed.len())
            .field("oldest", oldest.as_str())
            .field("newest", removed.last().map(String::as_str).unwrap_or_default());
        if !self.checkpoint(tail, CheckpointReason::Retention, |event| event.field("first", first))? {
            // Nobody would believe it. It is tried again when the next day begins.
            return Ok(());
        }
        self.note(tail, event)?;
        // Known to be removed before it is.
        self.flush(tail)?;
        for day in removed {
            match std::fs::remove_file(file_of(&self.setup.directory, day)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    let error: &dyn std::error::Error = &error;
                    tracing::warn!(day, error, "an old file of the audit log cannot be removed");
                    return Ok(());
                }
                _ => {}
            }
        }
        files::sync_directory(&self.setup.directory)?;
        tracing::info!(
            files = removed.len(),
            before = oldest_kept,
            "old files of the audit log were removed"
        );
        self.forget(tail, kept_from);
        Ok(())
    }

    /// With which checkpoint a file begins. One that does not begin with one may not be the first.
    fn begins(&self, day: &str) -> io::Result<Option<u64>> {
        let file = File::open(file_of(&self.setup.directory, day))?;
        let len = file.metadata()?.len();
        let line = Lines::new(&file, 0, len, false).next()?;
        let entry = line.as_ref().and_then(|line| Entry::parse(&line.text));
        Ok(entry.filter(|entry| Checkpoint::parse(entry).is_some()).map(|entry| entry.head().index))
    }

    /// Storage needs to remember no logs whose files are all gone.
    fn forget(&self, tail: &Tail, kept_from: teleport_core::clock::Timestamp) {
        let Some(checkpoints) = &self.setup.checkpoints else { return };
        let records = Repo::<StoredCheckpoint>::new(Arc::clone(&checkpoints.storage));
        let forgotten = self.runtime.block_on(async {
            for stored in records.list().await? {
                let known = stored.record;
                // Of others nothing is known here, neither which files they have nor how long they keep them.
                if checkpoints.is_own(&known) && Some(known.log) != tail.next.log && known.time < kept_from {
                    records.delete(&known.log.to_string()).await?;
                }
            }
            Ok::<(), teleport_core::storage::RepoError>(())
        });
        if let Err(error) = forgotten {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(error, "storage still remembers a log that was removed");
        }
    }
}
