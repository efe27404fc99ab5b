//! When expired items may be removed for good.

use std::time::Duration;

use teleport_core::clock::{JumpGuard, Timestamp};
use tokio::time::Instant;

/// Whether what has expired may be removed: not by a clock that has just jumped far ahead, because it would not come back with the clock.
#[derive(Debug)]
pub(crate) struct Pace {
    since: Instant,
    guard: JumpGuard,
    held: bool,
}

impl Pace {
    /// Believes the clock as it is now.
    pub(crate) fn new(now: Timestamp) -> Self {
        Self { since: Instant::now(), guard: JumpGuard::new(now, Duration::ZERO), held: false }
    }

    /// To be asked before each removal, with what the clock says.
    pub(crate) fn may_remove(&mut self, now: Timestamp) -> bool {
        let believed = self.guard.look(now, self.since.elapsed()).believed;
        match (self.held, believed) {
            (false, false) => tracing::warn!(
                %now,
                "the clock has jumped far ahead: what has expired by it is hidden, and not removed before it has stayed there for an hour"
            ),
            (true, true) => tracing::info!(%now, "what has expired is removed again"),
            _ => {}
        }
        self.held = !believed;
        believed
    }
}
