//! The wall clock of the machine: the log says when it was set, and nothing is removed for good by a clock that has just jumped ahead.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use teleport_core::cert::CLOCK_SKEW;
use teleport_core::clock::{Clock, JumpGuard};
use teleport_core::task::Shutdown;
use tokio::time::Instant;

/// How often it is looked at.
const LOOK: Duration = Duration::from_secs(5);

/// What is known of the clock. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct WallClock(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    clock: Arc<dyn Clock>,
    since: Instant,
    guard: Mutex<JumpGuard>,
}

impl WallClock {
    /// Believes the clock as it is now.
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        let guard = Mutex::new(JumpGuard::new(clock.now(), Duration::ZERO));
        Self(Arc::new(Shared { clock, since: Instant::now(), guard }))
    }

    /// Looks at the clock, and says in the log if it was set. Whether what is old by it may be removed.
    pub(super) fn is_believed(&self) -> bool {
        let mut guard = self.0.guard.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.0.clock.now();
        let look = guard.look(now, self.0.since.elapsed());
        drop(guard);
        if u128::from(look.moved.unsigned_abs()) >= CLOCK_SKEW.as_millis() {
            let seconds = look.moved / 1000;
            tracing::warn!(
                %now,
                seconds,
                "the clock of this machine has jumped: was it set, or did the machine sleep? Certificates, tokens and locks begin and end by it, and hosts \
                 whose clocks are more than a minute apart may refuse each other"
            );
        }
        look.believed
    }

    /// Looks until the process ends.
    pub(super) async fn watch(self, shutdown: Shutdown) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = shutdown.draining() => return,
            }
            self.is_believed();
        }
    }
}
