//! What a crash left in the log and an entry behind it accounts for: it was never acknowledged, it is no part of the log, and whoever can
//! write files could have put it there.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use teleport_core::audit::EventKind;
use teleport_core::audit::chain::{Digest, Entry};

use super::lines::{Line, Lines};
use super::{days_of, file_of};

/// A place in the log; they are ordered. The first is before every file.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(in crate::audit) struct Place {
    /// The file.
    pub(in crate::audit) day: String,
    pub(in crate::audit) offset: u64,
}

#[derive(Deserialize)]
struct Recovered<'a> {
    #[serde(borrow)]
    code: Cow<'a, str>,
    #[serde(default)]
    bytes: u64,
}

/// Where the bytes begin that this line accounts for. `None` if it accounts for none, also if it says so and does not follow the entry
/// that would be before them: a line that anybody wrote hides nothing.
pub(super) fn before(directory: &Path, day: &str, line: &Line) -> io::Result<Option<Place>> {
    let Ok(Recovered { code, bytes: mut left @ 1.. }) = serde_json::from_slice(&line.text) else {
        return Ok(None);
    };
    let Some(entry) = Entry::parse(&line.text).filter(|_| code == EventKind::AuditRecovered.code()) else {
        return Ok(None);
    };
    let days = days_of(directory)?;
    let Some(mut number) = days.iter().position(|known| known == day) else { return Ok(None) };
    let mut end = line.start;
    while left > end {
        left -= end;
        let Some(earlier) = number.checked_sub(1) else { return Ok(None) };
        number = earlier;
        let Some(day) = days.get(number) else { return Ok(None) };
        end = std::fs::metadata(file_of(directory, day))?.len();
    }
    let begin = end - left;
    let head = head_before(directory, days.get(..=number).unwrap_or_default(), begin)?;
    let Some(day) = days.get(number).filter(|_| entry.follows(&head)) else { return Ok(None) };
    Ok(Some(Place { day: day.clone(), offset: begin }))
}

/// The digest of the last line before a place of the last of these files.
fn head_before(directory: &Path, days: &[String], offset: u64) -> io::Result<Digest> {
    let mut end = Some(offset);
    for day in days.iter().rev() {
        let file = File::open(file_of(directory, day))?;
        let end = match end.take() {
            Some(end) => end,
            None => file.metadata()?.len(),
        };
        if let Some(line) = Lines::new(&file, 0, end, true).next()? {
            return Ok(Entry::parse(&line.text).map_or(Digest::ZERO, |entry| entry.head().digest));
        }
    }
    Ok(Digest::ZERO)
}
