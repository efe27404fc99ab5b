//! Reading a whole log again.

use std::fs::File;
use std::io;
use std::path::Path;

use teleport_core::audit::chain::{Checkpoint, Entry, Finding, Proven, Verifier};
use teleport_core::clock::Timestamp;
use uuid::Uuid;

use super::lines::{BLOCK, Lines};
use super::{EXTENSION, days_of, file_of};
use crate::shared::files;

/// Why a log is not proven.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// Something is wrong with it.
    #[error(transparent)]
    Found(#[from] Finding),
    /// It cannot be read.
    #[error("the audit files cannot be read")]
    Io(#[source] io::Error),
}

impl From<io::Error> for VerifyError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// What [`verify()`] lets its caller see on the way.
#[derive(Debug)]
#[non_exhaustive]
pub enum Observed<'a> {
    /// An entry that is in order, so far.
    Entry(Entry<'a>),
    /// So many bytes were read, of so many.
    Progress(u64, u64),
}

/// Reads the files of `directory` and lets `verifier` check every line, in constant memory. The log may be written meanwhile. With
/// `from`, the files of earlier days are left out; the log then has to begin with a checkpoint.
///
/// Blocks: call it where that is fine.
///
/// # Errors
/// [`VerifyError`]: the first thing that is wrong.
pub fn verify(
    directory: &Path,
    mut verifier: Verifier,
    from: Option<Timestamp>,
    observe: &mut dyn FnMut(Observed<'_>) -> Result<(), Finding>,
) -> Result<Proven, VerifyError> {
    let mut days = days_of(directory)?;
    if let Some(from) = from.map(files::day) {
        days.retain(|day| *day >= from);
        verifier.begin_anywhere();
    }
    let mut total = 0;
    for day in &days {
        total += std::fs::metadata(file_of(directory, day))?.len();
    }
    let mut done = 0;
    for day in &days {
        verifier.file(format!("{day}{EXTENSION}"));
        let file = File::open(file_of(directory, day))?;
        let mut high = file.metadata()?.len();
        let mut low = 0;
        loop {
            let mut lines = Lines::new(&file, low, high, false);
            while let Some(line) = lines.next()? {
                if line.is_too_long() {
                    foreign(&mut verifier, &file, line.start, line.end)?;
                } else if let Some(entry) = verifier.line(&line.text)? {
                    observe(Observed::Entry(entry)).map_err(|finding| verifier.placed(finding))?;
                }
                done += line.end - line.start;
                observe(Observed::Progress(done, total.max(done)))?;
            }
            low = lines.place();
            let now = file.metadata()?.len();
            if low == high || now <= high {
                break;
            }
            // The line was being written.
            high = now;
        }
        if low < high {
            foreign(&mut verifier, &file, low, high)?;
        }
    }
    Ok(verifier.finish()?)
}

/// Which log the newest files of `directory` say they are, by the first checkpoint in them: `None` if there is none. Nothing of it
/// is checked.
///
/// Blocks: call it where that is fine.
///
/// # Errors
/// Those of reading.
pub fn log_of(directory: &Path) -> io::Result<Option<Uuid>> {
    for day in days_of(directory)?.iter().rev() {
        let file = File::open(file_of(directory, day))?;
        let len = file.metadata()?.len();
        let mut lines = Lines::new(&file, 0, len, false);
        while let Some(line) = lines.next()? {
            let entry = Entry::parse(&line.text).filter(Checkpoint::is_likely);
            if let Some(checkpoint) = entry.as_ref().and_then(Checkpoint::parse) {
                return Ok(Some(checkpoint.log));
            }
        }
    }
    Ok(None)
}

/// A line that is too long to be an entry, or that has no end.
fn foreign(verifier: &mut Verifier, file: &File, mut low: u64, high: u64) -> io::Result<()> {
    verifier.no_entry();
    let mut block = vec![0; BLOCK];
    while low < high {
        let len = usize::try_from(high - low).unwrap_or(BLOCK).min(BLOCK);
        let bytes = block.get_mut(..len).unwrap_or_default();
        std::os::unix::fs::FileExt::read_exact_at(file, bytes, low)?;
        verifier.foreign(bytes);
        low += len as u64;
    }
    Ok(())
}
