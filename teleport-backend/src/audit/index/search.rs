//! Searching the index, and what is not in it yet.

use std::path::Path;
use std::sync::Arc;

use teleport_core::audit::chain::Entry;
use teleport_core::audit::{AuditError, AuditEvent, AuditPage, AuditQuery, MAX_EVENTS};
use teleport_core::clock::Timestamp;
use teleport_core::storage::{Item, Key, Repo};
use uuid::Uuid;

use super::IndexedAuditLog;
use super::block::{self, BlockId};
use super::follow::{FollowError, PAGE, PATIENCE, Ports};
use super::place::{First, Rank};
use super::record::Indexed;
use crate::audit::file::Walk;
use crate::audit::matching::{DEFAULT_LIMIT, Filter};

/// About the most bytes of lines that one call looks through in the index.
const MAX_SCANNED: usize = 256 << 20;
/// The most bytes of files that one call reads.
const MAX_TAIL: u64 = 64 << 20;
/// How many blocks a window of time should have.
const FEW: usize = PAGE / 4;
const MANY: usize = PAGE * 2;
const TOO_MANY: usize = PAGE * 4;

/// A search on its way.
struct Search<'a> {
    ports: &'a Ports,
    filter: Arc<Filter>,
    first: First,
    doubts: Vec<String>,
    scanned: usize,
    unreadable: usize,
}

pub(super) async fn search(log: &IndexedAuditLog, query: AuditQuery) -> Result<AuditPage, AuditError> {
    let limit = if query.limit == 0 { DEFAULT_LIMIT } else { query.limit.min(MAX_EVENTS) };
    let after: Option<Rank> =
        query.after.as_deref().map(str::parse).transpose().map_err(AuditError::invalid)?;
    let newest_first = query.newest_first;
    let mut search = Search {
        ports: &log.ports,
        first: First::new(limit, newest_first, after),
        filter: Arc::new(Filter::new(query)),
        doubts: Vec::new(),
        scanned: 0,
        unreadable: 0,
    };
    // How far the index is, before it is read: what is added meanwhile is found in the files as well.
    let records = Repo::<Indexed>::new(Arc::clone(&log.ports.backend));
    let records = match tokio::time::timeout(PATIENCE, records.list()).await {
        Ok(Ok(records)) => Some(records),
        Ok(Err(error)) => search.cannot_read(&error),
        Err(error) => search.cannot_read(&error),
    };
    let own = log.files.synced().borrow().as_ref().map(|synced| synced.log);
    search.files(log.files.directory(), records.as_deref(), own).await.map_err(AuditError::new)?;
    let mut seen = None;
    if let Some(records) = records {
        let now = log.ports.clock.now();
        let others = records.iter().map(|stored| &stored.record).filter(|record| Some(record.log) != own);
        search.doubts.extend(others.filter_map(|record| record.doubt(now)));
        if records.iter().all(|stored| Some(stored.record.log) != own) {
            // Never made, or deleted.
            log.doubt.notify_one();
        }
        let stopped = if newest_first { search.backwards(after).await } else { search.forwards(after).await };
        match stopped {
            Ok(stopped) => seen = stopped,
            Err(error) => {
                search.cannot_read::<()>(&error);
            }
        }
    }
    Ok(search.finish(seen))
}

impl Search<'_> {
    fn cannot_read<T>(&mut self, error: &(dyn std::error::Error + 'static)) -> Option<T> {
        tracing::warn!(error, "the index of the audit log cannot be read");
        let text =
            "the index cannot be read now: only events that this auth service logged lately were searched";
        self.doubts.push(text.to_owned());
        None
    }

    fn finish(mut self, seen: Option<Rank>) -> AuditPage {
        let (lines, next) = self.first.finish(seen);
        let mut events = Vec::with_capacity(lines.len());
        for line in lines {
            match serde_json::from_slice::<AuditEvent>(&line) {
                Ok(event) => events.push(event),
                Err(_) => self.unreadable += 1,
            }
        }
        if self.unreadable > 0 {
            self.doubts.push(format!("{} blocks or events of the index cannot be read", self.unreadable));
        }
        self.doubts.dedup();
        let incomplete = (!self.doubts.is_empty()).then(|| self.doubts.join("; "));
        AuditPage { events, next: next.map(|next| next.to_string()), incomplete }
    }

    /// Looks through what is in the files and not in the index.
    async fn files(
        &mut self,
        directory: &Arc<Path>,
        records: Option<&[teleport_core::storage::Stored<Indexed>]>,
        own: Option<Uuid>,
    ) -> Result<(), FollowError> {
        let known = records.unwrap_or_default().iter().map(|stored| &stored.record);
        let known = known.filter(|record| Some(record.log) == own).max_by(|a, b| a.place.cmp(&b.place));
        let from = known.map(|known| known.place.clone()).unwrap_or_default();
        let (directory, own) = (Arc::clone(directory), own.unwrap_or_default());
        let filter = Arc::clone(&self.filter);
        let mut first = std::mem::replace(&mut self.first, First::new(0, false, None));
        let read = move || {
            let (mut walk, left_out) = Walk::newest(directory, from, own, own, MAX_TAIL)?;
            while let Some(line) = walk.next()? {
                let Some(entry) = Entry::parse(&line) else { continue };
                if !filter.may_match(&line) {
                    continue;
                }
                let event = [entry.body(), b"}"].concat();
                if let Some(time) = filter.matches(&event) {
                    let rank =
                        Rank { millis: time.unix_millis(), log: walk.log(), index: entry.head().index };
                    first.offer(rank, &event);
                }
            }
            Ok::<_, std::io::Error>((first, left_out))
        };
        let (first, left_out) = tokio::task::spawn_blocking(read).await??;
        self.first = first;
        if left_out {
            self.doubts
                .push("older events of this auth service are still being added to the index".to_owned());
        }
        Ok(())
    }

    /// Reads blocks from `after` on and of no later second than `high`, one page.
    async fn page(&self, after: &Key, high: u64) -> Result<(Vec<Item>, bool), FollowError> {
        let prefix = block::prefix()?;
        let read = self.ports.backend.range(&prefix, Some(after), PAGE);
        let mut items = tokio::time::timeout(PATIENCE, read).await??;
        let whole = items.len();
        items.retain(|item| BlockId::parse(&item.key).is_none_or(|id| id.second <= high));
        let is_end = whole < PAGE || items.len() < whole;
        Ok((items, is_end))
    }

    /// In the order of the items: what is looked through first may show that the others need not be.
    async fn look_through(&mut self, items: Vec<Item>) -> Result<(), FollowError> {
        if items.is_empty() {
            return Ok(());
        }
        let (filter, sealer) = (Arc::clone(&self.filter), Arc::clone(&self.ports.sealer));
        let mut first = std::mem::replace(&mut self.first, First::new(0, false, None));
        let read = move || {
            let (mut scanned, mut unreadable) = (0, 0);
            for item in items {
                let id = BlockId::parse(&item.key);
                if id.is_some_and(|id| first.is_beyond(id.second)) {
                    continue;
                }
                let opened =
                    id.and_then(|id| Some((id, block::open(&item.key, &item.value, &*sealer).ok()?)));
                let Some((id, lines)) = opened else {
                    tracing::warn!(key = %item.key, "a block of the index of the audit log cannot be read");
                    unreadable += 1;
                    continue;
                };
                scanned += lines.len();
                if !filter.may_match(&lines) {
                    continue;
                }
                for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                    let Some(time) = filter.matches(line) else { continue };
                    if let Some(rank) = block::rank(id.log, time.unix_millis(), line) {
                        first.offer(rank, line);
                    }
                }
            }
            (first, scanned, unreadable)
        };
        let (first, scanned, unreadable) = tokio::task::spawn_blocking(read).await?;
        self.first = first;
        self.scanned += scanned;
        self.unreadable += unreadable;
        Ok(())
    }

    /// From the oldest on. Returns up to where everything was looked through, if that is not the end.
    async fn forwards(&mut self, after: Option<Rank>) -> Result<Option<Rank>, FollowError> {
        let query = self.filter.query();
        let from = query.from.map_or(0, Timestamp::unix_secs).max(after.map_or(0, |after| after.second()));
        let high = query.to.map_or(u64::MAX, Timestamp::unix_secs);
        let mut key = block::before(from)?;
        loop {
            let (items, is_end) = self.page(&key, high).await?;
            let last = items.last().map(|item| item.key.clone());
            let second = items.iter().rev().find_map(|item| BlockId::parse(&item.key)).map(|id| id.second);
            self.look_through(items).await?;
            if is_end {
                return Ok(None);
            }
            // Of the last second there may be more.
            let seen = second.filter(|second| *second > from).map(Rank::behind_earlier);
            if let Some(seen) = seen
                && (self.first.is_settled(&seen) || self.scanned >= MAX_SCANNED)
            {
                return Ok(Some(seen));
            }
            let Some(last) = last else { return Ok(None) };
            key = last;
        }
    }

    /// From the newest on: windows of time, one before the other, as long as they have about a page of blocks. Returns as
    /// [`Search::forwards`] does.
    async fn backwards(&mut self, after: Option<Rank>) -> Result<Option<Rank>, FollowError> {
        let query = self.filter.query();
        let to = query.to.map_or(u64::MAX, Timestamp::unix_secs);
        let mut high = to.min(after.map_or(u64::MAX, |after| after.second()));
        let prefix = block::prefix()?;
        let oldest = self.ports.backend.range(&prefix, None, 1);
        let oldest = tokio::time::timeout(PATIENCE, oldest).await??;
        let Some(oldest) = oldest.first() else { return Ok(None) };
        let oldest = BlockId::parse(&oldest.key).map_or(0, |id| id.second);
        let from = query.from.map_or(0, Timestamp::unix_secs).max(oldest);
        let (mut width, mut top) = (1, self.ports.clock.now().unix_secs().min(high));
        loop {
            let low = top.saturating_sub(width - 1).max(from.min(top));
            let mut key = block::before(low)?;
            let mut window = Vec::new();
            let is_whole = loop {
                let (items, is_end) = self.page(&key, high).await?;
                window.extend(items);
                match window.last() {
                    Some(last) if !is_end => key = last.key.clone(),
                    _ => break true,
                }
                if window.len() > TOO_MANY && width > 1 {
                    break false;
                }
                if window.len() > TOO_MANY {
                    // Of one second, or of what is to come: in parts, so that the memory is bounded.
                    self.look_through(std::mem::take(&mut window)).await?;
                }
            };
            if !is_whole {
                // A burst behind a quiet time.
                width = (width / 8).max(1);
                continue;
            }
            let blocks = window.len();
            window.reverse();
            self.look_through(window).await?;
            let seen = Rank::before_second(low);
            if low <= from {
                return Ok(None);
            }
            if self.first.is_settled(&seen) || self.scanned >= MAX_SCANNED {
                return Ok(Some(seen));
            }
            if blocks < FEW {
                width = width.saturating_mul(4);
            } else if blocks > MANY {
                width = (width / 2).max(1);
            }
            high = low - 1;
            top = high;
        }
    }
}
