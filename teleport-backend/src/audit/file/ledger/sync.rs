//! What of the log is on the disk.

use std::fs::File;
use std::io;
use std::path::Path;

use tokio::time::Instant;

use super::{Ledger, Tail};
use crate::audit::file::{Place, Synced, file_of};

/// So many bytes of a file are written again at a time.
const REWRITTEN_AT_ONCE: usize = 1 << 16;

impl Ledger {
    /// What is written is on the disk.
    pub(super) fn publish(&self, tail: &Tail) {
        let end = Place { day: tail.day.clone(), offset: tail.written.len };
        self.synced.send_replace(Some(Synced { end, log: tail.written.log.unwrap_or_default() }));
    }

    /// Says whether what is in the file is on the disk.
    pub(super) fn sync(&mut self) -> bool {
        if self.unsynced_since.is_none() {
            return true;
        }
        let Some(tail) = self.tail.take() else { return false };
        let result = self.sync_file(&tail);
        match &result {
            Ok(()) => self.publish(&tail),
            Err(error) => {
                // What was acknowledged cannot be taken back; the interval is the promise that was broken.
                let error: &dyn std::error::Error = error;
                tracing::error!(error, "audit events of the last interval may not be durable");
            }
        }
        self.tail = Some(tail);
        result.is_ok()
    }

    pub(super) fn sync_file(&mut self, tail: &Tail) -> io::Result<()> {
        if self.unsynced_since.is_none() {
            return Ok(());
        }
        // Should it fail, it is still not synced, and tried again when the interval is over.
        self.unsynced_since = Some(Instant::now());
        if let Some(file) = &tail.file {
            self.settle(&tail.day, file)?;
        }
        self.unsynced_since = None;
        Ok(())
    }

    /// Waits until the file of `day` is on the disk.
    pub(super) fn settle(&mut self, day: &str, file: &File) -> io::Result<()> {
        // The system says only once that the disk did not take something, and then calls it written: what is to be tried again has to
        // be written again.
        if std::mem::replace(&mut self.sync_failed, true) {
            let durable = self
                .synced
                .borrow()
                .as_ref()
                .filter(|synced| synced.end.day == day)
                .map(|synced| synced.end.offset);
            rewrite(&file_of(&self.setup.directory, day), durable.unwrap_or_default())?;
        }
        (self.setup.sync_data)(file)?;
        self.sync_failed = false;
        Ok(())
    }
}

/// Writes what is in a file from `offset` on again, in its place.
fn rewrite(path: &Path, mut offset: u64) -> io::Result<()> {
    use std::os::unix::fs::FileExt;

    let file = File::options().read(true).write(true).open(path)?;
    let mut block = vec![0; REWRITTEN_AT_ONCE];
    loop {
        let read = file.read_at(&mut block, offset)?;
        if read == 0 {
            return Ok(());
        }
        file.write_all_at(block.get(..read).unwrap_or_default(), offset)?;
        offset += read as u64;
    }
}
