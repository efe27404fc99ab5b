//! When to announce, when to keep alive, how long to wait: pure.

use std::time::Duration;

use tokio::time::Instant;

/// Between two signs of life. Three may be lost before a node counts as offline.
const INTERVAL: Duration = Duration::from_secs(60);
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The cluster does not know the node, or not as it is now.
    Unknown,
    /// The cluster knows the node.
    Known,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Say everything.
    Announce,
    /// Say that the node lives.
    KeepAlive,
    /// Nothing until then.
    Wait(Instant),
}

/// How an action went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Done,
    Failed,
    Forgotten,
}

/// The state of one node's signs of life.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heartbeat {
    state: State,
    due: Instant,
    backoff: Duration,
}

impl Heartbeat {
    pub(super) fn new(now: Instant) -> Self {
        Self { state: State::Unknown, due: now, backoff: FIRST_BACKOFF }
    }

    /// The next action. After an action the outcome is due.
    pub(super) fn poll(&self, now: Instant) -> Action {
        match self.state {
            _ if now < self.due => Action::Wait(self.due),
            State::Unknown => Action::Announce,
            State::Known => Action::KeepAlive,
        }
    }

    /// The outcome of the last action; `dice` is any random number.
    pub(super) fn handle(&mut self, outcome: Outcome, now: Instant, dice: u16) {
        let wait = match outcome {
            Outcome::Done => {
                self.state = State::Known;
                self.backoff = FIRST_BACKOFF;
                INTERVAL
            }
            Outcome::Failed => {
                let wait = self.backoff;
                self.backoff = (self.backoff * 2).min(MAX_BACKOFF);
                wait
            }
            // At once; but when even that is forgotten, not in a tight loop.
            Outcome::Forgotten if self.state == State::Known => Duration::ZERO,
            Outcome::Forgotten => self.backoff,
        };
        if outcome == Outcome::Forgotten {
            self.state = State::Unknown;
        }
        // Up to a quarter earlier, so that thousands of nodes do not speak at once.
        let earlier = wait.mul_f64(f64::from(dice) / f64::from(u16::MAX) / 4.0);
        self.due = now + wait.saturating_sub(earlier);
    }

    /// What is to be announced has changed.
    pub(super) fn changed(&mut self, now: Instant) {
        if self.state == State::Known {
            self.state = State::Unknown;
            self.due = now.min(self.due);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every outcome in every state.
    #[test]
    fn transitions() {
        let now = Instant::now();
        let unknown = Heartbeat::new(now);
        let mut known = unknown;
        known.handle(Outcome::Done, now, 0);
        assert_eq!(unknown.poll(now), Action::Announce);
        assert_eq!(known.poll(now), Action::Wait(now + INTERVAL));
        for (name, from, outcome, wait, then) in [
            ("announced", unknown, Outcome::Done, INTERVAL, Action::KeepAlive),
            ("not announced", unknown, Outcome::Failed, FIRST_BACKOFF, Action::Announce),
            ("not known yet", unknown, Outcome::Forgotten, FIRST_BACKOFF, Action::Announce),
            ("kept alive", known, Outcome::Done, INTERVAL, Action::KeepAlive),
            ("not kept alive", known, Outcome::Failed, FIRST_BACKOFF, Action::KeepAlive),
            ("forgotten", known, Outcome::Forgotten, Duration::ZERO, Action::Announce),
        ] {
            let mut machine = from;
            machine.handle(outcome, now, 0);
            if !wait.is_zero() {
                assert_eq!(machine.poll(now), Action::Wait(now + wait), "{name}");
            }
            assert_eq!(machine.poll(now + wait), then, "{name}");
        }
    }

    #[test]
    fn failures_back_off_and_success_forgets_them() {
        let mut now = Instant::now();
        let mut machine = Heartbeat::new(now);
        let mut waits = Vec::new();
        for _ in 0..8 {
            machine.handle(Outcome::Failed, now, 0);
            waits.push((machine.due - now).as_secs());
            now = machine.due;
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        machine.handle(Outcome::Done, now, 0);
        machine.handle(Outcome::Failed, now, 0);
        assert_eq!(machine.due, now + FIRST_BACKOFF);
    }

    #[test]
    fn jitter_comes_earlier_never_later() {
        let now = Instant::now();
        for dice in [0, 1, 30_000, u16::MAX] {
            let mut machine = Heartbeat::new(now);
            machine.handle(Outcome::Done, now, dice);
            let wait = machine.due - now;
            assert!(wait <= INTERVAL && wait >= INTERVAL * 3 / 4, "{wait:?}");
        }
    }

    #[test]
    fn a_change_is_announced_at_once() {
        let now = Instant::now();
        let mut machine = Heartbeat::new(now);
        machine.handle(Outcome::Done, now, 0);
        machine.changed(now);
        assert_eq!(machine.poll(now), Action::Announce);
    }
}
