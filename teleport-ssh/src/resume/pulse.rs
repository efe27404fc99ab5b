//! Whether the other side is there: pure, given the time.

use std::time::Duration;

use tokio::time::Instant;

/// Silence after which a client asks for a sign of life.
const PING_AFTER: Duration = Duration::from_secs(15);
/// The same if something was said to which nothing was heard.
const PING_UNANSWERED: Duration = Duration::from_secs(3);
/// How long an answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Silence after which a node gives up a wire: a client that is there asks before.
const NODE_PATIENCE: Duration = Duration::from_secs(45);

/// Which side this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Asks.
    Client,
    /// Answers, and waits.
    Node,
}

/// What is known of a wire.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pulse {
    side: Side,
    heard: Instant,
    /// The first time that something was said since.
    said: Option<Instant>,
    asked: Option<Instant>,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beat {
    /// Nobody is there any more.
    Dead,
    /// Ask for a sign of life, now.
    Ping,
    /// Look again, then at the latest.
    Wait(Instant),
}

impl Pulse {
    pub(super) const fn new(side: Side, now: Instant) -> Self {
        Self { side, heard: now, said: None, asked: None }
    }

    /// Something came.
    pub(super) const fn heard(&mut self, now: Instant) {
        *self = Self::new(self.side, now);
    }

    /// Data was sent.
    pub(super) fn said(&mut self, now: Instant) {
        self.said.get_or_insert(now);
    }

    /// What is to be done now. After [`Beat::Ping`] it counts as asked.
    pub(super) fn beat(&mut self, now: Instant) -> Beat {
        if self.side == Side::Node {
            let dead = self.heard + NODE_PATIENCE;
            return if now >= dead { Beat::Dead } else { Beat::Wait(dead) };
        }
        if let Some(asked) = self.asked {
            let dead = asked + ANSWER_WITHIN;
            return if now >= dead { Beat::Dead } else { Beat::Wait(dead) };
        }
        let ask =
            (self.heard + PING_AFTER).min(self.said.map_or(now + PING_AFTER, |said| said + PING_UNANSWERED));
        if now >= ask {
            self.asked = Some(now);
            return Beat::Ping;
        }
        // Something may be said meanwhile.
        Beat::Wait(ask.min(now + PING_UNANSWERED))
    }
}
