//! Whether the wall clock may be believed with what cannot be undone.

use std::time::Duration;

use super::Timestamp;

/// How far ahead of the time that has passed a clock may be at once and still be believed: more than any correction of a clock that runs.
const BELIEVED: Duration = Duration::from_secs(600);
/// How long a clock that jumped further ahead has to stay there before it is believed: enough to be noticed and set right.
const HOLD: Duration = Duration::from_secs(3600);

/// Compares the wall clock with the time that has passed.
///
/// What has expired is hidden by what the clock says, whatever it says. But what is removed because it has expired does not come back when the clock
/// does: marks of who was removed, tokens, recordings. So a clock that jumps far ahead removes nothing before it has stayed there for an hour. A machine that slept
/// looks the same, and loses nothing by it. Whoever may set the clock can lead it there in small steps: this is against mistakes.
///
/// A service that starts while its clock is wrong has nothing to compare with.
///
/// ```
/// use std::time::Duration;
/// use teleport_core::clock::{JumpGuard, Timestamp};
///
/// let noon = Timestamp::from_unix_secs(1_700_000_000);
/// let second = Duration::from_secs(1);
/// let mut guard = JumpGuard::new(noon, Duration::ZERO);
/// assert!(guard.look(noon.saturating_add(second), second).believed);
/// // A month in a second.
/// let later = noon.saturating_add(30 * 24 * 3600 * second);
/// assert!(!guard.look(later, 2 * second).believed);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct JumpGuard {
    /// The clock less the time that has passed, in milliseconds: when it was looked at last, and when it was believed last.
    last: i64,
    believed: i64,
    /// Since when it is too far ahead, and where it was then.
    ahead: Option<(Duration, i64)>,
}

/// What a look at the clock has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClockLook {
    /// By how many milliseconds the clock moved more than the time that has passed since the last look.
    pub moved: i64,
    /// Whether what has expired by it may be removed.
    pub believed: bool,
}

impl JumpGuard {
    /// Believes the clock as it is now. `running` is the time since any fixed moment, by a clock that nobody sets.
    pub fn new(wall: Timestamp, running: Duration) -> Self {
        let offset = offset(wall, running);
        Self { last: offset, believed: offset, ahead: None }
    }

    /// Looks at the clock again.
    pub fn look(&mut self, wall: Timestamp, running: Duration) -> ClockLook {
        let offset = offset(wall, running);
        let moved = offset.saturating_sub(self.last);
        self.last = offset;
        if offset.saturating_sub(self.believed) <= millis(BELIEVED) {
            self.ahead = None;
        } else {
            // Further ahead than it was: it has not stayed there.
            if self.ahead.is_none_or(|(_, at)| offset.saturating_sub(at) > millis(BELIEVED)) {
                self.ahead = Some((running, offset));
            }
            let since = self.ahead.map_or(running, |(since, _)| since);
            if running.saturating_sub(since) < HOLD {
                return ClockLook { moved, believed: false };
            }
            self.ahead = None;
        }
        self.believed = offset;
        ClockLook { moved, believed: true }
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn offset(wall: Timestamp, running: Duration) -> i64 {
    i64::try_from(wall.unix_millis()).unwrap_or(i64::MAX).saturating_sub(millis(running))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    const NOON: Timestamp = Timestamp::from_unix_secs(1_700_000_000);
    const DAY: u64 = 24 * 3600;

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    /// Looks with the clock so far off after so many seconds.
    fn look(guard: &mut JumpGuard, running: u64, off: i64) -> (i64, bool) {
        let wall = NOON.unix_millis().checked_add_signed(running as i64 * 1000 + off * 1000).unwrap();
        let ClockLook { moved, believed } = guard.look(Timestamp::from_unix_millis(wall), secs(running));
        (moved / 1000, believed)
    }

    #[test]
    fn a_clock_that_goes_is_believed_however_seldom_it_is_looked_at() {
        let mut guard = JumpGuard::new(NOON, Duration::ZERO);
        for (running, off) in [(1, 0), (DAY, 0), (10 * DAY, 2), (10 * DAY + 1, -3), (11 * DAY, 500)] {
            assert!(look(&mut guard, running, off).1, "{running} {off}");
        }
    }

    #[test]
    fn a_jump_ahead_is_believed_when_it_has_lasted() {
        let month = 30 * DAY as i64;
        let mut guard = JumpGuard::new(NOON, Duration::ZERO);
        assert_eq!(look(&mut guard, 10, month), (month, false));
        assert_eq!(look(&mut guard, 20, month), (0, false));
        assert_eq!(look(&mut guard, 3609, month), (0, false));
        assert_eq!(look(&mut guard, 3610, month), (0, true));
        assert_eq!(look(&mut guard, 3611, month), (0, true));
        // Further: again.
        assert_eq!(look(&mut guard, 3612, month + 3600), (3600, false));
    }

    #[test]
    fn a_clock_that_jumps_further_has_to_stay_there() {
        let month = 30 * DAY as i64;
        let mut guard = JumpGuard::new(NOON, Duration::ZERO);
        assert!(!look(&mut guard, 10, 700).1);
        assert_eq!(look(&mut guard, 3500, month), (month - 700, false));
        assert!(!look(&mut guard, 3620, month).1, "an hour after the first jump");
        assert!(!look(&mut guard, 7099, month).1);
        assert!(look(&mut guard, 7100, month).1);
    }

    #[test]
    fn a_clock_that_comes_back_is_believed_at_once_and_then_has_lasted_for_nothing() {
        let mut guard = JumpGuard::new(NOON, Duration::ZERO);
        assert!(!look(&mut guard, 10, 3600).1);
        assert_eq!(look(&mut guard, 3000, 0), (-3600, true));
        assert!(!look(&mut guard, 3020, 3600).1);
        assert!(!look(&mut guard, 4000, 3600).1, "the first hour does not count");
    }

    #[test]
    fn a_clock_that_goes_back_is_believed_and_its_return_is_a_jump_ahead() {
        let mut guard = JumpGuard::new(NOON, Duration::ZERO);
        assert_eq!(look(&mut guard, 10, -3600), (-3600, true));
        assert_eq!(look(&mut guard, 20, 0), (3600, false));
    }
}
