//! Reading the log forwards, over its files, from a place and up to one.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use memchr::memmem;
use teleport_core::audit::EventKind;
use teleport_core::audit::chain::{ChainHead, Checkpoint, Entry};
use uuid::Uuid;

use super::gaps::{self, Place};
use super::lines::{Line, Lines};
use super::{days_of, file_of};

/// How many bytes are looked at to see that a line is part of the log.
const MAX_AHEAD: u64 = 4 << 20;

/// How much of the log is on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::audit) struct Synced {
    pub(in crate::audit) end: Place,
    /// The log, once a checkpoint has named it.
    pub(in crate::audit) log: Uuid,
}

/// Entries of a log, oldest first: what a crash left and an entry behind it accounts for is none.
pub(in crate::audit) struct Walk {
    directory: Arc<Path>,
    /// Newest first.
    days: Vec<String>,
    end: Option<Place>,
    open: Option<(String, Lines<File>)>,
    /// What was read, behind the last line that was returned.
    ahead: VecDeque<Ahead>,
    ahead_bytes: u64,
    /// Of `ahead`, how many are part of the log for certain.
    settled: usize,
    /// Behind what was read.
    read: Place,
    place: Place,
    log: Uuid,
}

/// A line that has the form of an entry.
struct Ahead {
    day: String,
    line: Line,
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
        let (ahead, read) = (VecDeque::new(), from.clone());
        Ok(Self {
            directory,
            days,
            end,
            open: None,
            ahead,
            ahead_bytes: 0,
            settled: 0,
            read,
            place: from,
            log,
        })
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

    /// The line of the next entry.
    pub(in crate::audit) fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        while self.settled == 0 {
            let Some(next) = self.read()? else {
                self.settled = self.ahead.len();
                break;
            };
            self.look(next)?;
        }
        let Some(Ahead { day, line }) = self.ahead.pop_front() else {
            self.place = self.read.clone();
            return Ok(None);
        };
        self.settled = self.settled.saturating_sub(1);
        self.ahead_bytes = self.ahead_bytes.saturating_sub(line.end - line.start);
        self.place = Place { day, offset: line.end };
        self.note_log(&line.text);
        Ok(Some(line.text))
    }

    /// Takes a line, and sees what it says of those before.
    fn look(&mut self, next: Ahead) -> io::Result<()> {
        let Some(entry) = Entry::parse(&next.line.text) else { return Ok(()) };
        let before = self.ahead.back().and_then(|before| Entry::parse(&before.line.text));
        let follows = before.is_some_and(|before| entry.follows(&before.head().digest));
        if !follows && let Some(begin) = gaps::before(&self.directory, &next.day, &next.line)? {
            self.ahead
                .retain(|ahead| (ahead.day.as_str(), ahead.line.start) < (begin.day.as_str(), begin.offset));
        }
        if follows || self.ahead_bytes >= MAX_AHEAD {
            self.settled = self.ahead.len();
        }
        self.ahead_bytes += next.line.end - next.line.start;
        self.ahead.push_back(next);
        Ok(())
    }

    /// The next line, whatever it is.
    fn read(&mut self) -> io::Result<Option<Ahead>> {
        loop {
            if let Some((day, lines)) = &mut self.open {
                if let Some(line) = lines.next()? {
                    self.read.offset = line.end;
                    return Ok(Some(Ahead { day: day.clone(), line }));
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
            let low = if day == self.read.day { self.read.offset } else { 0 };
            self.read = Place { day: day.clone(), offset: low };
            self.open = Some((day, Lines::new(file, low, high.max(low), false)));
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

    /// Behind the last line that was returned; when none is left, behind all.
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
