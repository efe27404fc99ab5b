//! Wall-clock time as a port.
//!
//! Decisions take `now: Timestamp`; long-lived objects hold an `Arc<dyn Clock>`. Nothing else in this
//! crate reads the time of the operating system.

mod guard;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use self::guard::{ClockLook, JumpGuard};

/// A point in time: whole milliseconds since the Unix epoch, UTC.
///
/// Displayed and serialised as RFC 3339 with milliseconds, `2026-11-21T02:40:45.123Z`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The first instant that can be expressed: 1970-01-01T00:00:00Z.
    pub const EPOCH: Self = Self(0);
    /// 9999-12-30T00:00:00Z: the end of time for every format that we write.
    pub const MAX: Self = Self(253_402_128_000_000);

    /// From milliseconds since the epoch; later than [`Timestamp::MAX`] becomes `MAX`.
    pub const fn from_unix_millis(millis: u64) -> Self {
        if millis > Self::MAX.0 { Self::MAX } else { Self(millis) }
    }

    /// From seconds since the epoch; later than [`Timestamp::MAX`] becomes `MAX`.
    pub const fn from_unix_secs(secs: u64) -> Self {
        Self::from_unix_millis(secs.saturating_mul(1000))
    }

    /// Milliseconds since the epoch.
    pub const fn unix_millis(self) -> u64 {
        self.0
    }

    /// Whole seconds since the epoch, rounded down.
    pub const fn unix_secs(self) -> u64 {
        self.0 / 1000
    }

    /// This instant moved forward; stops at [`Timestamp::MAX`].
    pub fn saturating_add(self, by: Duration) -> Self {
        let millis = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        Self::from_unix_millis(self.0.saturating_add(millis))
    }

    /// This instant moved back; stops at the epoch.
    pub fn saturating_sub(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)))
    }

    /// Time from `earlier` to `self`; zero if `earlier` is later.
    pub fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = i64::try_from(self.0).unwrap_or(i64::MAX);
        match jiff::Timestamp::from_millisecond(millis) {
            Ok(time) => write!(f, "{time:.3}"),
            Err(_) => write!(f, "@{}ms", self.0),
        }
    }
}

/// The text is not an RFC 3339 instant between 1970 and 9999.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an RFC 3339 time between 1970 and 9999")]
#[non_exhaustive]
pub struct InvalidTimestamp;

impl FromStr for Timestamp {
    type Err = InvalidTimestamp;

    fn from_str(text: &str) -> Result<Self, InvalidTimestamp> {
        let time: jiff::Timestamp = text.parse().map_err(|_| InvalidTimestamp)?;
        let millis = u64::try_from(time.as_millisecond()).map_err(|_| InvalidTimestamp)?;
        Ok(Self::from_unix_millis(millis))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The source of wall-clock time.
///
/// Contract: `now` never blocks and never panics. It may jump, forwards and backwards, as the clock of a
/// machine does; whoever needs a duration uses tokio's timers instead.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// The current time.
    fn now(&self) -> Timestamp;
}

/// The clock of the operating system.
#[cfg(feature = "os")]
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct SystemClock;

#[cfg(feature = "os")]
impl SystemClock {
    /// The clock of this machine.
    pub const fn new() -> Self {
        Self
    }
}

#[cfg(feature = "os")]
impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the system's time")]
    fn now(&self) -> Timestamp {
        // A clock set before 1970 reads as the epoch: every certificate is then not yet valid, which fails closed.
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_unix_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn writes_and_reads_rfc3339_with_milliseconds() {
        let time = Timestamp::from_unix_millis(1_795_228_845_123);
        let text = time.to_string();
        assert_eq!(text, "2026-11-21T02:40:45.123Z");
        assert_eq!(text.parse::<Timestamp>().unwrap(), time);
        assert_eq!(Timestamp::MAX.to_string(), "9999-12-30T00:00:00.000Z");
        assert_eq!("2026-11-21T03:40:45.123+01:00".parse::<Timestamp>().unwrap(), time);
    }

    #[test]
    fn refuses_other_texts() {
        for text in ["", "now", "2026-11-21", "1969-12-31T23:59:59Z", "2026-13-01T00:00:00Z"] {
            assert!(text.parse::<Timestamp>().is_err(), "{text}");
        }
    }

    #[test]
    fn arithmetic_stops_at_the_ends() {
        assert_eq!(Timestamp::MAX.saturating_add(Duration::MAX), Timestamp::MAX);
        assert_eq!(Timestamp::EPOCH.saturating_sub(Duration::from_secs(1)), Timestamp::EPOCH);
        assert_eq!(Timestamp::EPOCH.saturating_since(Timestamp::MAX), Duration::ZERO);
    }
}
