//! The timeline of a replay: when to show what, without a clock.

use std::time::Duration;

/// How a recording is played.
#[derive(Clone, Copy, Debug, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "players build it")]
pub struct Pace {
    /// 2.0 is twice as fast. Values that are not positive count as 1.
    pub speed: f64,
    /// Silence is never longer than this, before the speed.
    pub max_idle: Option<Duration>,
}

impl Default for Pace {
    fn default() -> Self {
        Self { speed: 1.0, max_idle: None }
    }
}

/// Turns the times of events into waits, and waits into times.
#[derive(Clone, Copy, Debug)]
pub struct Timeline {
    pace: Pace,
    position: Duration,
}

impl Timeline {
    /// The beginning of a replay.
    pub const fn new(pace: Pace) -> Self {
        Self { pace, position: Duration::ZERO }
    }

    /// The pace.
    pub const fn pace(&self) -> Pace {
        self.pace
    }

    /// Changes the pace from here on.
    pub const fn set_pace(&mut self, pace: Pace) {
        self.pace = pace;
    }

    /// Where the replay is in the time of the session.
    pub const fn position(&self) -> Duration {
        self.position
    }

    /// Goes to a time, forwards or back.
    pub const fn move_to(&mut self, at: Duration) {
        self.position = at;
    }

    /// How long it takes from here to `at`, at the present pace; nothing if that is past.
    pub fn wait(&self, at: Duration) -> Duration {
        let silence = at.saturating_sub(self.position);
        let silence = self.pace.max_idle.map_or(silence, |most| silence.min(most));
        let speed = if self.pace.speed.is_finite() && self.pace.speed > 0.0 { self.pace.speed } else { 1.0 };
        Duration::try_from_secs_f64(silence.as_secs_f64() / speed).unwrap_or(silence)
    }

    /// Of the way to `at` so much was waited: goes as far.
    pub fn pass(&mut self, at: Duration, waited: Duration) {
        let (silence, wait) = (at.saturating_sub(self.position), self.wait(at));
        let share = if wait.is_zero() { 1.0 } else { (waited.as_secs_f64() / wait.as_secs_f64()).min(1.0) };
        self.position += silence.mul_f64(share);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn waits_as_long_as_the_session_did() {
        let mut timeline = Timeline::new(Pace::default());
        assert_eq!(timeline.wait(secs(2)), secs(2));
        timeline.move_to(secs(2));
        assert_eq!(timeline.wait(secs(1)), Duration::ZERO);
        timeline.set_pace(Pace { speed: 4.0, max_idle: Some(secs(8)) });
        assert_eq!(timeline.wait(secs(102)), secs(2));
        timeline.move_to(secs(102));
        timeline.set_pace(Pace { speed: -1.0, max_idle: None });
        assert_eq!(timeline.wait(secs(105)), secs(3));
    }

    #[test]
    fn what_was_waited_is_time_that_has_passed() {
        let mut timeline = Timeline::new(Pace { speed: 2.0, max_idle: None });
        timeline.pass(secs(100), secs(10));
        assert_eq!(timeline.position(), secs(20));
        assert_eq!(timeline.wait(secs(100)), secs(40));
        timeline.pass(secs(100), secs(1000));
        assert_eq!(timeline.position(), secs(100));
        timeline.pass(secs(50), secs(1));
        assert_eq!(timeline.position(), secs(100), "it does not go back");
        // A silence that is cut short passes faster.
        timeline.set_pace(Pace { speed: 1.0, max_idle: Some(secs(1)) });
        timeline.pass(secs(300), Duration::from_millis(500));
        assert_eq!(timeline.position(), secs(200));
    }
}
