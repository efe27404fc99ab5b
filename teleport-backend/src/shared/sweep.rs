//! The pace of removing expired items.
//!
//! Reads hide expired items by themselves, so sweeping is only about space and about telling watches. The pace is
//! tokio's time, which tests can pause; what is expired is decided by the injected clock.

use std::sync::Weak;
use std::time::Duration;

use teleport_core::clock::{JumpGuard, Timestamp};
use teleport_core::task::TaskScope;
use tokio::time::Instant;

/// How long an expired item may stay unnoticed by watches if nothing else is written.
pub(crate) const INTERVAL: Duration = Duration::from_millis(500);

/// The most items that one sweep removes in one commit, so that a mass expiry does not stall the writers behind it.
pub(crate) const MAX_PER_COMMIT: usize = 256;

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

/// Something that can be swept.
pub(crate) trait Sweep: Send + Sync + 'static {
    /// Removes what has expired, or has it removed. `false` ends the sweeping for good.
    fn sweep(&self) -> bool;
}

/// Sweeps `target` until it is gone. The task belongs to `scope`.
pub(crate) fn start<T: Sweep>(scope: &TaskScope, target: Weak<T>) {
    scope.spawn(async move {
        loop {
            tokio::time::sleep(INTERVAL).await;
            match target.upgrade() {
                Some(target) if target.sweep() => {}
                _ => return,
            }
        }
    });
}
