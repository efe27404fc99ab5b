//! Finding events.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;
use std::str::FromStr;

use teleport_core::audit::chain::Entry;
use teleport_core::audit::{AuditEvent, AuditPage, AuditQuery, EventKind, MAX_EVENTS};

use super::gaps::{self, Place};
use super::lines::{Line, Lines};
use super::{days_of, file_of};
use crate::audit::matching::{DEFAULT_LIMIT, MAX_PAGE_BYTES, Probe};
use crate::shared::files;

/// The most bytes that one search reads; a rare event in a large log takes several pages to find.
const MAX_SCANNED: u64 = 64 << 20;

#[derive(Debug, thiserror::Error)]
pub(in crate::audit) enum SearchError {
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

/// Everything before this place (in the direction of the search) was searched.
type Cursor = Place;

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
    let mut found = Found { limit, page: AuditPage::default(), places: Vec::new(), bytes: 0, unreadable: 0 };
    let mut scanned = 0;
    // Backwards: what is behind this place, up to what was read, is no part of the log.
    let mut gap: Option<Place> = None;
    for day in days(directory, query, after.as_ref())? {
        if gap.as_ref().is_some_and(|begin| day > begin.day) {
            continue;
        }
        let file = match File::open(file_of(directory, &day)) {
            Ok(file) => file,
            // Retention removed it meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error.into()),
        };
        let len = file.metadata()?.len();
        let from = gap.take().or_else(|| after.clone());
        let place = from.filter(|from| from.day == day).map(|from| from.offset.min(len));
        let (low, high) =
            if query.newest_first { (0, place.unwrap_or(len)) } else { (place.unwrap_or(0), len) };
        let mut lines = Lines::new(&file, low, high, query.newest_first);
        while let Some(line) = lines.next()? {
            let at = |offset| Place { day: day.clone(), offset };
            let (before, behind) =
                if query.newest_first { (line.end, line.start) } else { (line.start, line.end) };
            let probe = serde_json::from_slice::<Probe<'_>>(&line.text).ok();
            let is_recovery =
                probe.as_ref().is_some_and(|probe| probe.code == EventKind::AuditRecovered.code());
            match if is_recovery { gaps::before(directory, &day, &line)? } else { None } {
                None => {}
                Some(begin) if !query.newest_first => found.forget_from(&begin),
                Some(begin) if begin.day == day => lines = Lines::new(&file, 0, begin.offset, true),
                Some(begin) => {
                    lines = Lines::new(&file, 0, 0, true);
                    gap = Some(begin);
                }
            }
            scanned += line.end - line.start;
            if !found.take(&line, probe, at(line.start), query) {
                // Only a match beyond the page shows that there is a next one.
                found.page.next = Some(at(before).to_string());
            } else if scanned >= MAX_SCANNED {
                found.page.next = Some(gap.take().unwrap_or_else(|| at(behind)).to_string());
            }
            if found.page.next.is_some() {
                if !query.newest_first {
                    found.settle(directory, &day, &mut lines, line)?;
                }
                break;
            }
        }
        if found.page.next.is_some() {
            break;
        }
    }
    if found.unreadable > 0 {
        tracing::warn!(
            unreadable = found.unreadable,
            "lines of the audit log are no entries, or cannot be read, and were left out"
        );
    }
    Ok(found.page)
}

/// What was found so far.
struct Found {
    limit: usize,
    page: AuditPage,
    /// Where each of the events stands.
    places: Vec<Place>,
    bytes: usize,
    unreadable: u64,
}

impl Found {
    /// Takes the event of a line if it is wanted; `false` if it is and there is no room for it.
    fn take(&mut self, line: &Line, probe: Option<Probe<'_>>, place: Place, query: &AuditQuery) -> bool {
        match probe {
            Some(probe) if !probe.matches(query) => return true,
            Some(_) if Entry::parse(&line.text).is_some() => {}
            _ => {
                self.unreadable += 1;
                return true;
            }
        }
        let len = line.text.len();
        if self.page.events.len() >= self.limit || (self.bytes + len > MAX_PAGE_BYTES && self.bytes > 0) {
            return false;
        }
        match serde_json::from_slice::<AuditEvent>(&line.text) {
            Ok(event) if query.node.as_ref().is_some_and(|node| !event.is_of_node(node)) => {}
            Ok(mut event) => {
                // Of the line, not of the event.
                event.fields.remove("chain");
                self.bytes += len;
                self.page.events.push(event);
                self.places.push(place);
            }
            Err(_) => self.unreadable += 1,
        }
        true
    }

    /// What stands there or behind turns out to be no part of the log.
    fn forget_from(&mut self, begin: &Place) {
        let kept = self.places.partition_point(|place| place < begin);
        self.places.truncate(kept);
        self.page.events.truncate(kept);
    }

    /// Looks behind the page, whose last line this is, until it is certain that no entry there says that what was found is no part of the log.
    fn settle(
        &mut self,
        directory: &Path,
        day: &str,
        lines: &mut Lines<&File>,
        mut line: Line,
    ) -> io::Result<()> {
        let mut looked_at = 0;
        while looked_at < MAX_SCANNED {
            if let Some(begin) = gaps::before(directory, day, &line)? {
                self.forget_from(&begin);
                return Ok(());
            }
            let Some(next) = lines.next()? else { return Ok(()) };
            if let (Some(this), Some(behind)) = (Entry::parse(&line.text), Entry::parse(&next.text))
                && behind.follows(&this.head().digest)
            {
                return Ok(());
            }
            looked_at += next.end - next.start;
            line = next;
        }
        Ok(())
    }
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
