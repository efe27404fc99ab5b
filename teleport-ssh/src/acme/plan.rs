//! How long to wait after what has failed.

use std::time::Duration;

use teleport_core::clock::Timestamp;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
/// The longest pause between attempts, and the longest that an authority can ask for.
const LONGEST: Duration = Duration::from_secs(6 * 3600);
pub(super) const LONGEST_ASKED: Duration = Duration::from_secs(7 * 24 * 3600);

/// What kind of failure it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// The authority could not be asked, and it counts no failure.
    Unreachable,
    /// It said no. So it counts failures, and takes few of them an hour: public ones five.
    Refused,
    /// It said when to come back, or at least that this was too often.
    Limited(Option<Duration>),
}

/// How long to wait after a failure when there were `before` others in a row. The caller takes between half of it and all of it.
pub(super) fn pause(class: Class, before: u32) -> Duration {
    match class {
        Class::Unreachable => MINUTE.saturating_mul(2_u32.saturating_pow(before)).min(HOUR),
        Class::Refused => (MINUTE * 2).saturating_mul(3_u32.saturating_pow(before)).min(LONGEST),
        // Twice: half of it may be taken.
        Class::Limited(Some(asked)) => (asked.min(LONGEST_ASKED) * 2).max(MINUTE * 2),
        Class::Limited(None) => HOUR.saturating_mul(2_u32.saturating_pow(before)).min(LONGEST),
    }
}

/// How long to wait in any case after a certificate of such a life: with a wrong clock each one would be due at once.
pub(super) fn rest(life: Duration) -> Duration {
    (life / 12).max(MINUTE)
}

/// Before when no attempt is to begin, by what was kept of the last one, after which there is a pause of `rest` if it has succeeded. What is further
/// ahead than any pause was written by a clock that was wrong.
pub(super) fn not_before(kept: Timestamp, now: Timestamp, rest: Duration) -> Timestamp {
    if kept > now.saturating_add(rest.max(LONGEST_ASKED * 2)) { Timestamp::EPOCH } else { kept }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_an_end() {
        let minutes = |class| (0..8).map(|before| pause(class, before).as_secs() / 60).collect::<Vec<_>>();
        assert_eq!(minutes(Class::Unreachable), [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(minutes(Class::Refused), [2, 6, 18, 54, 162, 360, 360, 360]);
        assert_eq!(minutes(Class::Limited(None)), [60, 120, 240, 360, 360, 360, 360, 360]);
        for class in [Class::Unreachable, Class::Refused, Class::Limited(None)] {
            assert!(pause(class, u32::MAX) <= LONGEST, "{class:?}");
        }
    }

    #[test]
    fn a_clock_that_was_ahead_keeps_nobody_waiting() {
        let (now, day) = (Timestamp::from_unix_secs(1_800_000_000), 24 * HOUR);
        let kept = |ahead: Duration, rest| not_before(now.saturating_add(ahead), now, rest);
        assert_eq!(kept(HOUR, HOUR), now.saturating_add(HOUR));
        assert_eq!(kept(14 * day, HOUR), now.saturating_add(14 * day), "the longest pause that is asked for");
        assert_eq!(kept(15 * day, HOUR), Timestamp::EPOCH);
        assert_eq!(kept(300 * day, 300 * day), now.saturating_add(300 * day), "certificates of ten years");
        assert_eq!(kept(3650 * day, 300 * day), Timestamp::EPOCH);
        assert_eq!(not_before(Timestamp::EPOCH, now, HOUR), Timestamp::EPOCH);
    }

    #[test]
    fn what_is_refused_stays_below_five_an_hour() {
        // The shortest that the pauses can be.
        let mut at = Duration::ZERO;
        let times: Vec<Duration> = (0..10)
            .map(|before| {
                let next = at + pause(Class::Refused, before) / 2;
                std::mem::replace(&mut at, next)
            })
            .collect();
        for (index, time) in times.iter().enumerate() {
            let within = times.iter().skip(index).filter(|later| **later < *time + HOUR).count();
            assert!(within <= 5, "{within} from {time:?} on");
        }
    }

    #[test]
    fn after_a_certificate_there_is_a_rest() {
        assert_eq!(rest(Duration::ZERO), MINUTE);
        assert_eq!(rest(HOUR * 24), HOUR * 2);
    }

    #[test]
    fn the_authority_may_ask_for_a_week() {
        let asked = |secs| pause(Class::Limited(Some(Duration::from_secs(secs))), 0) / 2;
        assert_eq!(asked(0), MINUTE);
        assert_eq!(asked(7200), HOUR * 2);
        assert_eq!(asked(u64::MAX), LONGEST_ASKED);
    }
}
