//! The timeline of a replay: when to show what, without a clock.

use std::time::Duration;

use super::RecordedEvent;

/// How a recording is played.
#[derive(Clone, Copy, Debug, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "players build it")]
pub struct Pace {
    /// 2.0 is twice as fast. Values that are not positive count as 1.
    pub speed: f64,
    /// Silence is never longer than this.
    pub max_idle: Option<Duration>,
}

impl Default for Pace {
    fn default() -> Self {
        Self { speed: 1.0, max_idle: None }
    }
}

/// Turns the times of events into waits.
#[derive(Clone, Copy, Debug)]
pub struct Timeline {
    pace: Pace,
    last: Duration,
}

impl Timeline {
    /// The beginning of a replay.
    pub const fn new(pace: Pace) -> Self {
        Self { pace, last: Duration::ZERO }
    }

    /// Changes the pace from here on.
    pub const fn set_pace(&mut self, pace: Pace) {
        self.pace = pace;
    }

    /// Where the replay is in the time of the session.
    pub const fn position(&self) -> Duration {
        self.last
    }

    /// How long to wait before `event` is shown, at the present pace.
    pub fn wait(&mut self, event: &RecordedEvent) -> Duration {
        let silence = event.at().saturating_sub(self.last);
        self.last = self.last.max(event.at());
        let silence = self.pace.max_idle.map_or(silence, |most| silence.min(most));
        let speed = if self.pace.speed.is_finite() && self.pace.speed > 0.0 { self.pace.speed } else { 1.0 };
        Duration::try_from_secs_f64(silence.as_secs_f64() / speed).unwrap_or(silence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_as_long_as_the_session_did() {
        let at = |secs| RecordedEvent::Gap { at: Duration::from_secs(secs), lost: 0 };
        let mut timeline = Timeline::new(Pace::default());
        assert_eq!(timeline.wait(&at(2)), Duration::from_secs(2));
        assert_eq!(timeline.wait(&at(1)), Duration::ZERO);
        timeline.set_pace(Pace { speed: 4.0, max_idle: Some(Duration::from_secs(8)) });
        assert_eq!(timeline.wait(&at(102)), Duration::from_secs(2));
        timeline.set_pace(Pace { speed: -1.0, max_idle: None });
        assert_eq!(timeline.wait(&at(105)), Duration::from_secs(3));
        assert_eq!(timeline.position(), Duration::from_secs(105));
    }
}
