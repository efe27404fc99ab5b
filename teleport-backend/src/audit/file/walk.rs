//! Reading the log forwards, over its files, from a place and up to one.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use memchr::memmem;
use serde::{Deserialize, Serialize};
use teleport_core::audit::EventKind;
use teleport_core::audit::chain::{ChainHead, Checkpoint, Entry};
use uuid::Uuid;

use super::lines::Lines;
use super::{days_of, file_of};

/// A place between two lines of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(in crate::audit) struct Place {
    /// The file.
    pub(in crate::audit) day: String,
    pub(in crate::audit) offset: u64,
}

/// How much of the log is on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::audit) struct Synced {
    pub(in crate::audit) end: Place,
    /// The log, once a checkpoint has named it.
    pub(in crate::audit) log: Uuid,
}

/// Lines of a log, oldest first.
pub(in crate::audit) struct Walk {
    directory: Arc<Path>,
    /// Newest first.
    days: Vec<String>,
    end: Option<Place>,
    open: Option<Lines<File>>,
    place: Place,
    log: Uuid,
}

impl Walk {
    /// From `from` on, which belongs to `log`, and up to `end` or what there is.
    pub(in crate::audit) fn new(
        directory: Arc<Path>,
        from: Place,
        end: Option<Place>,
        log: Uuid,
    ) -> io::Result<Self> {
        let mut days = days_of(&directory)?;
        days.retain(|day| *day >= from.day && end.as_ref().is_none_or(|end| *day <= end.day));
        days.reverse();
        Ok(Self { directory, days, end, open: None, place: from, log })
    }

    /// Like [`Walk::new`], but at most about the newest `bytes`. Says whether some were left out.
    pub(in crate::audit) fn newest(
        directory: Arc<Path>,
        mut from: Place,
        log: Uuid,
        newest_log: Uuid,
        bytes: u64,
    ) -> io::Result<(Self, bool)> {
        let mut left = bytes;
        for day in days_of(&directory)?.into_iter().rev().take_while(|day| *day >= from.day) {
            let len = std::fs::metadata(file_of(&directory, &day))?.len();
            let low = if day == from.day { from.offset } else { 0 };
            if len.saturating_sub(low) > left {
                // It may be within a line: what is read of that is no entry.
                from = Place { day, offset: len - left };
                return Ok((Self::new(directory, from, None, newest_log)?, true));
            }
            left -= len.saturating_sub(low);
        }
        Ok((Self::new(directory, from, None, log)?, false))
    }

    /// The next line, whatever it is.
    pub(in crate::audit) fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(lines) = &mut self.open {
                if let Some(line) = lines.next()? {
                    self.place.offset = line.end;
                    self.note_log(&line.text);
                    return Ok(Some(line.text));
                }
                self.open = None;
            }
            let Some(day) = self.days.pop() else { return Ok(None) };
            let file = match File::open(file_of(&self.directory, &day)) {
                Ok(file) => file,
                // Retention removed it meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let len = file.metadata()?.len();
            let high = match &self.end {
                Some(end) if end.day == day => len.min(end.offset),
                _ => len,
            };
            let low = if day == self.place.day { self.place.offset } else { 0 };
            self.place = Place { day, offset: low };
            self.open = Some(Lines::new(file, low, high.max(low), false));
        }
    }

    fn note_log(&mut self, line: &[u8]) {
        let likely = memmem::find(line, EventKind::AuditCheckpoint.code().as_bytes()).is_some();
        if !likely && !line.starts_with(b"{\"index\":0,") {
            return;
        }
        let Some(entry) = Entry::parse(line) else { return };
        match Checkpoint::parse(&entry) {
            Some(checkpoint) => self.log = checkpoint.log,
            // A chain that begins without a checkpoint has no name yet.
            None if entry.head().index == 0 => self.log = Uuid::nil(),
            None => {}
        }
    }

    /// Behind the last line that was read.
    pub(in crate::audit) const fn place(&self) -> &Place {
        &self.place
    }

    /// The log that the last line belongs to.
    pub(in crate::audit) const fn log(&self) -> Uuid {
        self.log
    }
}

/// Whether the entry that ends at `place`, or the last one before, is `head`; also if retention has removed that file.
pub(in crate::audit) fn is_at(directory: &Path, place: &Place, head: Option<ChainHead>) -> io::Result<bool> {
    let Some(head) = head else { return Ok(*place == Place::default()) };
    let file = match File::open(file_of(directory, &place.day)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(days_of(directory)?.iter().all(|day| *day > place.day));
        }
        Err(error) => return Err(error),
    };
    if file.metadata()?.len() < place.offset {
        return Ok(false);
    }
    let mut lines = Lines::new(file, 0, place.offset, true);
    while let Some(line) = lines.next()? {
        if let Some(entry) = Entry::parse(&line.text) {
            return Ok(entry.head() == head);
        }
    }
    Ok(false)
}
