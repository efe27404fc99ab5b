//! Finding the end of the log again: the last entry that was written whole, and what a crash left behind it.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use teleport_core::audit::chain::{
    ChainHead, Checkpoint, CheckpointKey, Digest, Entry, Hasher, StoredCheckpoint,
};
use uuid::Uuid;

use super::file_of;
use super::lines::{BLOCK, Lines, MAX_LINE};

/// Among how many files the end is looked for. Older ones are read only on the way back to a checkpoint that is known.
const SEARCHED: usize = 2;

/// The end of a log.
#[derive(Debug, Default)]
pub(super) struct End {
    /// The newest entry; `None` if nothing is chained yet.
    pub(super) head: Option<ChainHead>,
    /// Whether it is a checkpoint.
    pub(super) signed: bool,
    /// The log, as its checkpoints say it.
    pub(super) log: Option<Uuid>,
    /// Bytes behind it that are no entry; the newline that will close them is not among them.
    pub(super) gap: Option<(u64, Hasher)>,
    /// Whether the newest file ends within a line.
    pub(super) unterminated: bool,
    /// What storage knows of and the files do not have: the log was cut, or changed.
    pub(super) lost: Option<StoredCheckpoint>,
}

/// A line that has the form of an entry.
struct Seen {
    head: ChainHead,
    line: Vec<u8>,
    /// The file, and the place behind it.
    place: (usize, u64),
}

impl Seen {
    fn new(line: Vec<u8>, place: (usize, u64)) -> Option<Self> {
        let head = Entry::parse(&line)?.head();
        Some(Self { head, line, place })
    }

    fn follows(&self, before: &Digest) -> bool {
        Entry::parse(&self.line).is_some_and(|entry| entry.follows(before))
    }

    /// A checkpoint that one of our keys has signed.
    fn checkpoint(&self, keys: &[CheckpointKey]) -> Option<Checkpoint> {
        let entry = Entry::parse(&self.line)?;
        let checkpoint = Checkpoint::parse(&entry)?;
        (entry.follows(&checkpoint.before) && keys.iter().any(|key| Checkpoint::is_signed_by(&entry, key)))
            .then_some(checkpoint)
    }
}

/// What has the form of an entry, newest first, over the files.
struct Backwards<'a> {
    directory: &'a Path,
    days: &'a [String],
    /// The number of the file that is read, and its lines.
    open: Option<(usize, Lines<File>)>,
    /// The next file to open is the one before this.
    next: usize,
}

impl<'a> Backwards<'a> {
    const fn new(directory: &'a Path, days: &'a [String]) -> Self {
        Self { directory, days, open: None, next: days.len() }
    }

    /// The next one, unless it is in a file before number `oldest`.
    fn next(&mut self, oldest: usize) -> io::Result<Option<Seen>> {
        loop {
            if let Some((number, lines)) = &mut self.open {
                while let Some(line) = lines.next()? {
                    if let Some(seen) = Seen::new(line.text, (*number, line.end)) {
                        return Ok(Some(seen));
                    }
                }
            }
            self.open = None;
            let Some(number) = self.next.checked_sub(1).filter(|number| *number >= oldest) else {
                return Ok(None);
            };
            let Some(day) = self.days.get(number) else { return Ok(None) };
            self.next = number;
            let file = File::open(file_of(self.directory, day))?;
            let len = file.metadata()?.len();
            let (begin, rest) = rest(&file, len)?;
            self.open = Some((number, Lines::new(file, 0, begin, true)));
            if let Some(seen) = Seen::new(rest, (number, len)) {
                return Ok(Some(seen));
            }
        }
    }
}

/// What stands behind the last newline of a file, and where; without its bytes if it is too long to be an entry.
fn rest(file: &File, len: u64) -> io::Result<(u64, Vec<u8>)> {
    let read = |low: u64, high: u64| {
        let mut bytes = vec![0; usize::try_from(high - low).unwrap_or_default()];
        std::os::unix::fs::FileExt::read_exact_at(file, &mut bytes, low).map(|()| bytes)
    };
    let mut high = len;
    let begin = loop {
        let low = high.saturating_sub(BLOCK as u64);
        match read(low, high)?.iter().rposition(|byte| *byte == b'\n') {
            Some(newline) => break low + newline as u64 + 1,
            None if low == 0 => break 0,
            None => high = low,
        }
    };
    let bytes = if len - begin > MAX_LINE as u64 { Vec::new() } else { read(begin, len)? };
    Ok((begin, bytes))
}

/// The end of the log in `days`, the files of `directory`. `keys` are those of this log's checkpoints, `stored` what storage
/// remembers of checkpoints.
pub(super) fn find(
    directory: &Path,
    days: &[String],
    keys: &[CheckpointKey],
    stored: &[StoredCheckpoint],
) -> io::Result<End> {
    let mut end = End::default();
    if let Some(day) = days.last() {
        let file = File::open(file_of(directory, day))?;
        let len = file.metadata()?.len();
        end.unterminated = rest(&file, len)?.0 < len;
    }
    let newest_known = || stored.iter().max_by_key(|known| known.time).cloned();
    let recent = days.len().saturating_sub(SEARCHED);
    let mut lines = Backwards::new(directory, days);
    let Some(mut newest) = lines.next(recent)? else {
        return no_entries(end, directory, days, newest_known());
    };
    // A line counts as an entry when it fits to the one before; then it was written whole, with everything before it.
    let mut oldest: Option<Seen> = None;
    let mut log = newest.checkpoint(keys).map(|checkpoint| checkpoint.log);
    loop {
        let current = oldest.as_ref().unwrap_or(&newest);
        let known = log.and_then(|log| stored.iter().find(|known| known.log == log));
        let enough = match known {
            Some(known) if newest.head.index < known.head.index => {
                end.lost = Some(known.clone());
                break;
            }
            // All the way back to what storage remembers: what is signed anew must be what was there.
            Some(known) if current.head.index <= known.head.index => {
                if current.head != known.head {
                    end.lost = Some(known.clone());
                }
                break;
            }
            Some(_) => false,
            None => (log.is_some() || keys.is_empty()) && oldest.is_some(),
        };
        if enough || (current.head.index == 0 && current.follows(&Digest::ZERO)) {
            break;
        }
        let reach = if known.is_some() { 0 } else { recent };
        let Some(before) = lines.next(reach)? else {
            // A checkpoint stands for itself; anything else is nothing without what it follows.
            if oldest.is_none() && newest.checkpoint(keys).is_none() {
                return no_entries(end, directory, days, newest_known());
            }
            break;
        };
        let fits = current.follows(&before.head.digest) && current.head.index == before.head.index + 1;
        if fits {
            if log.is_none() {
                log = before.checkpoint(keys).map(|checkpoint| checkpoint.log);
            }
            oldest = Some(before);
        } else if oldest.is_none() {
            newest = before;
            log = newest.checkpoint(keys).map(|checkpoint| checkpoint.log);
        } else {
            end.lost = known.cloned();
            break;
        }
    }
    if end.lost.is_none() && log.is_none() && !keys.is_empty() {
        // No checkpoint yet, although storage knows of one: of a log that is not here.
        end.lost = newest_known();
    }
    end.log = log;
    end.signed = newest.checkpoint(keys).is_some();
    end.head = Some(newest.head);
    end.gap = gap(directory, days, newest.place)?;
    Ok(end)
}

/// Nothing in the files is an entry: the log begins behind what is there.
fn no_entries(
    end: End,
    directory: &Path,
    days: &[String],
    lost: Option<StoredCheckpoint>,
) -> io::Result<End> {
    let gap = if lost.is_none() { gap(directory, days, (0, 0))? } else { None };
    Ok(End { gap, lost, ..end })
}

/// What follows a place, over the files.
fn gap(directory: &Path, days: &[String], place: (usize, u64)) -> io::Result<Option<(u64, Hasher)>> {
    let (mut bytes, mut digest) = (0, Hasher::new());
    let (number, mut start) = place;
    for day in days.iter().skip(number) {
        let mut file = File::open(file_of(directory, day))?;
        file.seek(SeekFrom::Start(start))?;
        start = 0;
        let mut block = vec![0; BLOCK];
        loop {
            let read = file.read(&mut block)?;
            if read == 0 {
                break;
            }
            digest.update(block.get(..read).unwrap_or_default());
            bytes += read as u64;
        }
    }
    Ok((bytes > 0).then_some((bytes, digest)))
}
