//! Finding events.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;
use std::str::FromStr;

use teleport_core::audit::{AuditEvent, AuditPage, AuditQuery, MAX_EVENTS};

use super::lines::Lines;
use super::{days_of, file_of};
use crate::audit::matching::{DEFAULT_LIMIT, MAX_PAGE_BYTES, Probe};
use crate::shared::files;

/// The most bytes that one search reads; a rare event in a large log takes several pages to find.
const MAX_SCANNED: u64 = 64 << 20;

#[derive(Debug, thiserror::Error)]
pub(super) enum SearchError {
    #[error("the place where the page begins is not one that an earlier page named")]
    InvalidCursor,
    #[error("the audit files cannot be read")]
    Io { source: io::Error },
}

impl From<io::Error> for SearchError {
    fn from(source: io::Error) -> Self {
        Self::Io { source }
    }
}

/// A place in the log: everything before it (in the direction of the search) was searched.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Cursor {
    day: String,
    offset: u64,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.day, self.offset)
    }
}

impl FromStr for Cursor {
    type Err = SearchError;

    fn from_str(text: &str) -> Result<Self, SearchError> {
        let (day, offset) = text.split_once(':').ok_or(SearchError::InvalidCursor)?;
        match offset.parse() {
            Ok(offset) if files::is_day(day) => Ok(Self { day: day.to_owned(), offset }),
            _ => Err(SearchError::InvalidCursor),
        }
    }
}

pub(super) fn search(directory: &Path, query: &AuditQuery) -> Result<AuditPage, SearchError> {
    let limit = match query.limit {
        0 => DEFAULT_LIMIT,
        limit => limit.min(MAX_EVENTS),
    };
    let after: Option<Cursor> = query.after.as_deref().map(str::parse).transpose()?;
    let mut page = AuditPage::default();
    let (mut bytes, mut scanned, mut unreadable) = (0, 0, 0_u64);
    for day in days(directory, query, after.as_ref())? {
        let file = match File::open(file_of(directory, &day)) {
            Ok(file) => file,
            // Retention removed it meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error.into()),
        };
        let len = file.metadata()?.len();
        let place = after.as_ref().filter(|after| after.day == day).map(|after| after.offset.min(len));
        let (low, high) =
            if query.newest_first { (0, place.unwrap_or(len)) } else { (place.unwrap_or(0), len) };
        let mut lines = Lines::new(&file, low, high, query.newest_first);
        while let Some(line) = lines.next()? {
            let (before, behind) =
                if query.newest_first { (line.end, line.start) } else { (line.start, line.end) };
            let place = |offset| Some(Cursor { day: day.clone(), offset }.to_string());
            match serde_json::from_slice::<Probe<'_>>(&line.text) {
                Ok(probe) if probe.matches(query) => {
                    // Only a match beyond the page shows that there is a next one.
                    if page.events.len() >= limit || (bytes + line.text.len() > MAX_PAGE_BYTES && bytes > 0) {
                        page.next = place(before);
                        break;
                    }
                    match serde_json::from_slice::<AuditEvent>(&line.text) {
                        Ok(event) if query.node.as_ref().is_some_and(|node| !event.is_of_node(node)) => {}
                        Ok(mut event) => {
                            // Of the line, not of the event.
                            event.fields.remove("chain");
                            bytes += line.text.len();
                            page.events.push(event);
                        }
                        Err(_) => unreadable += 1,
                    }
                }
                Ok(_) => {}
                Err(_) => unreadable += 1,
            }
            scanned += line.end - line.start;
            if scanned >= MAX_SCANNED {
                page.next = place(behind);
                break;
            }
        }
        if page.next.is_some() {
            break;
        }
    }
    if unreadable > 0 {
        tracing::warn!(unreadable, "lines of the audit log cannot be read and were left out");
    }
    Ok(page)
}

/// The days to search, in the order of the search.
fn days(directory: &Path, query: &AuditQuery, after: Option<&Cursor>) -> Result<Vec<String>, SearchError> {
    let (from, to) = (query.from.map(files::day), query.to.map(files::day));
    let mut days = days_of(directory)?;
    if let Some(to) = &to {
        // An event that came late stands in the file behind that of its day.
        let behind = days.partition_point(|day| day <= to);
        days.truncate(behind.saturating_add(1));
    }
    days.retain(|day| {
        let in_time = from.as_ref().is_none_or(|from| day >= from);
        let unsearched =
            after.is_none_or(|after| if query.newest_first { *day <= after.day } else { *day >= after.day });
        in_time && unsearched
    });
    if query.newest_first {
        days.reverse();
    }
    Ok(days)
}
