//! The pace of removing expired items.
//!
//! Reads hide expired items by themselves, so sweeping is only about space and about telling watches. The pace is
//! tokio's time, which tests can pause; what is expired is decided by the injected clock.

use std::sync::Weak;
use std::time::Duration;

use teleport_core::task::TaskScope;

/// How long an expired item may stay unnoticed by watches if nothing else is written.
pub(crate) const INTERVAL: Duration = Duration::from_millis(500);

/// The most items that one sweep removes in one commit, so that a mass expiry does not stall the writers behind it.
pub(crate) const MAX_PER_COMMIT: usize = 256;

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
