//! How many may be connected at once, and how often one address may ask.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use teleport_core::clock::Timestamp;

use crate::listener::limits::Source;

/// Counts connections for as long as they last: in all and for each source.
#[derive(Clone, Debug)]
pub(crate) struct Guests(Arc<Mutex<Counts>>);

#[derive(Debug)]
struct Counts {
    per_source: usize,
    total: usize,
    all: usize,
    by_source: HashMap<Source, usize>,
}

impl Guests {
    pub(crate) fn new(per_source: usize, total: usize) -> Self {
        Self(Arc::new(Mutex::new(Counts { per_source, total, all: 0, by_source: HashMap::new() })))
    }

    /// Lets one more in, until the guest is dropped.
    pub(crate) fn admit(&self, address: IpAddr) -> Option<Guest> {
        let source = Source::of(address);
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let here = counts.by_source.get(&source).copied().unwrap_or(0);
        if counts.all >= counts.total || here >= counts.per_source {
            return None;
        }
        counts.all = counts.all.saturating_add(1);
        counts.by_source.insert(source, here.saturating_add(1));
        Some(Guest { source, counts: Arc::clone(&self.0) })
    }
}

/// The place of one connection. Dropping it gives the place back.
#[derive(Debug)]
pub(crate) struct Guest {
    source: Source,
    counts: Arc<Mutex<Counts>>,
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.all = counts.all.saturating_sub(1);
        match counts.by_source.get_mut(&self.source) {
            Some(here) if *here > 1 => *here = here.saturating_sub(1),
            _ => _ = counts.by_source.remove(&self.source),
        }
    }
}

/// How often a source may ask: `burst` at once, and then one every `every`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "two numbers")]
pub struct Rate {
    /// So many at once.
    pub burst: u32,
    /// One more after so long.
    pub every: Duration,
}

impl Rate {
    const NEVER: Self = Self { burst: 0, every: Duration::ZERO };

    /// `burst` at once, `count` a minute on average. No burst or no count means never.
    pub const fn per_minute(count: u32, burst: u32) -> Self {
        match 60_000_u32.checked_div(count) {
            Some(millis) if burst > 0 => Self { burst, every: Duration::from_millis(millis as u64) },
            _ => Self::NEVER,
        }
    }
}

/// The most sources that are remembered. Beyond it those are forgotten that have their whole burst again, and if there are none,
/// strangers wait: memory is bounded, and nobody gains by coming from many addresses.
const MAX_SOURCES: usize = 65_536;

/// Token buckets, one for each key. A pure machine: it is told the time.
#[derive(Debug)]
pub(crate) struct Buckets<K> {
    rate: Rate,
    /// The time at which the bucket is (or was) full again.
    full_at: HashMap<K, Timestamp>,
    max: usize,
}

impl<K: Hash + Eq> Buckets<K> {
    pub(crate) fn new(rate: Rate) -> Self {
        Self { rate, full_at: HashMap::new(), max: MAX_SOURCES }
    }

    /// Takes a token from the bucket of `key` if there is one.
    pub(crate) fn take(&mut self, key: K, now: Timestamp) -> bool {
        if self.rate == Rate::NEVER {
            return false;
        }
        let window = self.rate.every.saturating_mul(self.rate.burst);
        if self.full_at.len() >= self.max && !self.full_at.contains_key(&key) {
            self.full_at.retain(|_, full_at| *full_at > now);
            if self.full_at.len() >= self.max {
                return false;
            }
        }
        let full_at = self.full_at.get(&key).copied().unwrap_or(Timestamp::EPOCH);
        // A clock that was set back must not lock anybody out for longer than an empty bucket does.
        let owed = full_at.saturating_since(now).min(window);
        let after = owed.saturating_add(self.rate.every);
        if after > window {
            return false;
        }
        self.full_at.insert(key, now.saturating_add(after));
        true
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    const START: Timestamp = Timestamp::from_unix_secs(1_800_000_000);

    #[test]
    fn a_burst_and_then_the_average() {
        let mut buckets = Buckets::new(Rate::per_minute(20, 40));
        assert_eq!((0..100).filter(|_| buckets.take("a", START)).count(), 40);
        assert!(buckets.take("b", START), "each source has its own");
        assert!(!buckets.take("a", START.saturating_add(Duration::from_millis(2999))));
        assert!(buckets.take("a", START.saturating_add(Duration::from_secs(3))));
        let later = START.saturating_add(Duration::from_secs(60));
        assert_eq!((0..100).filter(|_| buckets.take("a", later)).count(), 19);
        let much_later = START.saturating_add(Duration::from_secs(86_400));
        assert_eq!((0..100).filter(|_| buckets.take("a", much_later)).count(), 40);
    }

    #[test]
    fn a_clock_that_goes_back_does_not_lock_out() {
        let mut buckets = Buckets::new(Rate::per_minute(60, 2));
        assert!(buckets.take("a", START) && buckets.take("a", START) && !buckets.take("a", START));
        let before = START.saturating_sub(Duration::from_secs(3600));
        assert!(!buckets.take("a", before));
        assert!(buckets.take("b", before));
    }

    #[test]
    fn nothing_is_never() {
        assert!(!Buckets::new(Rate::per_minute(0, 10)).take((), START));
        assert!(!Buckets::new(Rate::per_minute(10, 0)).take((), START));
    }

    #[test]
    fn memory_is_bounded() {
        let mut buckets = Buckets { max: 3, ..Buckets::new(Rate::per_minute(60, 2)) };
        assert!((0..3).all(|source| buckets.take(source, START)));
        assert!(!buckets.take(9, START));
        assert!(buckets.take(2, START), "who is known is served");
        assert!(buckets.take(9, START.saturating_add(Duration::from_secs(2))));
        assert!(buckets.full_at.len() <= 3);
    }

    #[test]
    fn guests_are_counted_by_source_and_in_all() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let guests = Guests::new(2, 3);
        let first = guests.admit(address("192.0.2.1"));
        let second = guests.admit(address("::ffff:192.0.2.1"));
        assert!(first.is_some() && second.is_some());
        assert!(guests.admit(address("192.0.2.1")).is_none());
        let third = guests.admit(address("2001:db8::1"));
        assert!(third.is_some() && guests.admit(address("192.0.2.2")).is_none());
        drop(third);
        let third = guests.admit(address("2001:db8::2"));
        assert!(third.is_some());
        drop((first, second, third));
        let counts = guests.0.lock().unwrap();
        assert!(counts.all == 0 && counts.by_source.is_empty());
    }
}
