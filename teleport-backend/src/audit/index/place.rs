//! The order of events over several logs, and the part of it that a page needs.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use teleport_core::clock::Timestamp;
use uuid::Uuid;

use crate::audit::matching::MAX_PAGE_BYTES;

/// An event's place among those of all logs: by time, then log, then number. Nothing ever changes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    pub(super) millis: u64,
    pub(super) log: Uuid,
    pub(super) index: u64,
}

/// The place where a page begins is not one that an earlier page named.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the place where the page begins is not one that an earlier page named")]
pub(super) struct InvalidRank;

impl Rank {
    /// Before everything of this second and of later ones.
    pub(super) const fn before_second(second: u64) -> Self {
        Self { millis: second.saturating_mul(1000), log: Uuid::nil(), index: 0 }
    }

    /// Behind everything of earlier seconds than this.
    pub(super) const fn behind_earlier(second: u64) -> Self {
        let millis = second.saturating_mul(1000).saturating_sub(1);
        Self { millis, log: Uuid::max(), index: u64::MAX }
    }

    pub(super) const fn second(&self) -> u64 {
        self.millis / 1000
    }
}

impl fmt::Display for Rank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.millis, self.log.simple(), self.index)
    }
}

impl FromStr for Rank {
    type Err = InvalidRank;

    fn from_str(text: &str) -> Result<Self, InvalidRank> {
        let mut parts = text.split('.');
        let (Some(millis), Some(log), Some(index), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(InvalidRank);
        };
        let number = |text: &str| text.parse::<u64>().map_err(|_| InvalidRank);
        let millis = number(millis)?;
        if millis > Timestamp::MAX.unix_millis() {
            return Err(InvalidRank);
        }
        Ok(Self { millis, log: Uuid::try_parse(log).map_err(|_| InvalidRank)?, index: number(index)? })
    }
}

/// The first events, in the direction of the search, of all that are offered in any order; bounded in number and bytes.
#[derive(Debug)]
pub(super) struct First {
    newest_first: bool,
    after: Option<Rank>,
    limit: usize,
    lines: BTreeMap<Rank, Vec<u8>>,
    bytes: usize,
    /// The first that had no room: nothing from there on is of the page.
    beyond: Option<Rank>,
}

impl First {
    /// At most `limit` of those behind `after`.
    pub(super) const fn new(limit: usize, newest_first: bool, after: Option<Rank>) -> Self {
        Self { newest_first, after, limit, lines: BTreeMap::new(), bytes: 0, beyond: None }
    }

    fn is_before(&self, one: &Rank, other: &Rank) -> bool {
        if self.newest_first { one > other } else { one < other }
    }

    /// Adds an event if it is of the page. One that is there already is the same one.
    pub(super) fn offer(&mut self, rank: Rank, line: &[u8]) {
        let behind = self.after.is_none_or(|after| self.is_before(&after, &rank));
        let has_room = self.beyond.is_none_or(|beyond| self.is_before(&rank, &beyond));
        if !behind || !has_room {
            return;
        }
        self.bytes += line.len();
        if let Some(same) = self.lines.insert(rank, line.to_vec()) {
            self.bytes -= same.len();
        }
        while self.lines.len() > self.limit || (self.bytes > MAX_PAGE_BYTES && self.lines.len() > 1) {
            let last = if self.newest_first { self.lines.pop_first() } else { self.lines.pop_last() };
            let Some((rank, line)) = last else { return };
            self.bytes -= line.len();
            self.beyond = Some(rank);
        }
    }

    /// Whether nothing of this second can be of the page.
    pub(super) fn is_beyond(&self, second: u64) -> bool {
        self.beyond.is_some_and(|beyond| {
            if self.newest_first { second < beyond.second() } else { second > beyond.second() }
        })
    }

    /// Whether nothing behind `seen` can be of the page, when everything before it was offered.
    pub(super) fn is_settled(&self, seen: &Rank) -> bool {
        self.beyond.is_some_and(|beyond| !self.is_before(seen, &beyond))
    }

    /// The lines of the page, in order, and where the next one begins. With `seen`, only what is before it was offered.
    pub(super) fn finish(mut self, seen: Option<Rank>) -> (Vec<Vec<u8>>, Option<Rank>) {
        let mut next = None;
        if let Some(seen) = seen.filter(|seen| !self.is_settled(seen)) {
            let newest_first = self.newest_first;
            self.lines.retain(|rank, _| if newest_first { *rank > seen } else { *rank < seen });
            next = Some(seen);
        } else if self.beyond.is_some() {
            next = if self.newest_first { self.lines.first_key_value() } else { self.lines.last_key_value() }
                .map(|(rank, _)| *rank);
        }
        let mut lines: Vec<_> = self.lines.into_values().collect();
        if self.newest_first {
            lines.reverse();
        }
        (lines, next)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    fn rank(millis: u64, log: u128, index: u64) -> Rank {
        Rank { millis, log: Uuid::from_u128(log), index }
    }

    #[test]
    fn a_rank_is_read_as_it_is_written() {
        for rank in [rank(0, 0, 0), rank(1_795_262_400_123, u128::MAX, u64::MAX), Rank::behind_earlier(5)] {
            assert_eq!(rank.to_string().parse::<Rank>().unwrap(), rank);
        }
        let log = Uuid::nil();
        for bad in ["", "1", "1.2.3", &format!("1.{log}"), &format!("1.{log}.2.3"), &format!("-1.{log}.2")] {
            assert!(bad.parse::<Rank>().is_err(), "{bad}");
        }
        assert!(format!("{}.{log}.0", u64::MAX).parse::<Rank>().is_err(), "behind the end of time");
    }

    /// Whatever the order in which they are offered, pages are those of the sorted list.
    #[test]
    fn pages_are_those_of_the_sorted_list() {
        let mut all: Vec<Rank> = (0..60).map(|n| rank(n * 7 % 13, u128::from(n % 3), n)).collect();
        let offered = all.clone();
        all.sort_unstable();
        for newest_first in [false, true] {
            for limit in [1, 7, 59, 60, 61] {
                let (mut found, mut after) = (Vec::new(), None);
                loop {
                    let mut first = First::new(limit, newest_first, after);
                    for rank in offered.iter().chain(&offered) {
                        first.offer(*rank, rank.to_string().as_bytes());
                    }
                    let (lines, next) = first.finish(None);
                    assert!(lines.len() <= limit);
                    found.extend(lines.into_iter().map(|line| String::from_utf8(line).unwrap()));
                    after = next;
                    if after.is_none() {
                        break;
                    }
                }
                let mut expected: Vec<String> = all.iter().map(Rank::to_string).collect();
                if newest_first {
                    expected.reverse();
                }
                assert_eq!(found, expected, "{limit} {newest_first}");
            }
        }
    }

    #[test]
    fn what_was_not_searched_is_of_the_next_page() {
        for (newest_first, seen, before) in
            [(false, Rank::behind_earlier(2), [0, 1]), (true, Rank::before_second(2), [3, 2])]
        {
            let mut first = First::new(10, newest_first, None);
            (0..4).for_each(|n| first.offer(rank(n * 1000, 1, n), n.to_string().as_bytes()));
            let (lines, next) = first.finish(Some(seen));
            assert_eq!(lines, before.map(|n| n.to_string().into_bytes()));
            assert_eq!(next, Some(seen));
            let mut rest = First::new(10, newest_first, next);
            (0..4).for_each(|n| rest.offer(rank(n * 1000, 1, n), n.to_string().as_bytes()));
            assert_eq!(rest.finish(None).0.len(), 2);
        }
    }

    #[test]
    fn a_page_has_a_bounded_number_of_bytes() {
        let line = vec![b'x'; 1 << 20];
        let mut first = First::new(1000, false, None);
        (0..50).for_each(|n| first.offer(rank(n, 1, n), &line));
        let (lines, next) = first.finish(None);
        assert_eq!((lines.len(), next), (8, Some(rank(7, 1, 7))));
        let mut alone = First::new(1000, false, None);
        alone.offer(rank(1, 1, 1), &vec![b'x'; MAX_PAGE_BYTES + 1]);
        assert_eq!(alone.finish(None).0.len(), 1, "one is always of the page");
    }
}
