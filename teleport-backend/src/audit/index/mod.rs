//! The audit log in files, and an index of it in a [`Backend`]: so that events of every auth service of a cluster are found by each.
//!
//! The files stay the truth: what is acknowledged is in them, and what is verified are they. A task follows them and adds what is on
//! the disk to the index, blocks of events in the order of time, with how far it is in the same commit: nothing is left
//! out and nothing is there twice, whenever the process dies. An index that was deleted is made anew. Nothing waits for it: what is
//! not in it yet is found in the files of this service, and a page says when events of another one may be missing.

mod block;
mod follow;
mod place;
mod record;
mod search;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use teleport_core::audit::{AuditError, AuditEvent, AuditLog, AuditPage, AuditQuery, AuditSink};
use teleport_core::clock::Clock;
use teleport_core::secret::Sealer;
use teleport_core::storage::Backend;
use teleport_core::task::{Shutdown, TaskScope};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use self::follow::{Follower, Ports, Step};
use self::record::SEEN_EVERY;
use super::file::{FileAuditLog, Place};

/// How long events gather before they are added, while fewer come than one commit holds.
const GATHER: Duration = Duration::from_millis(500);
/// The longest pause after a failure; the first is [`GATHER`].
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long closing waits for the index.
const CLOSING: Duration = Duration::from_secs(5);

/// A [`FileAuditLog`] with an index in a backend, which other services share.
///
/// Dropping it ends the work on the index at once; it is continued when the log is opened again.
#[derive(Debug)]
pub struct IndexedAuditLog {
    files: Arc<FileAuditLog>,
    ports: Ports,
    doubt: Arc<Notify>,
    closing: Shutdown,
    progress: watch::Receiver<Place>,
    work: TaskScope,
}

impl IndexedAuditLog {
    /// Begins to follow the log `files`. Blocks are sealed with `sealer`, so every service of the cluster needs the same key. The
    /// index is kept as long as the files are. The log should have checkpoints: they name it, and one backend can tell logs by
    /// their names only.
    ///
    /// Must be called inside a tokio runtime with its timer enabled.
    pub fn start(
        files: Arc<FileAuditLog>,
        backend: Arc<dyn Backend>,
        sealer: Arc<dyn Sealer>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let ports = Ports { backend, sealer, clock };
        let (doubt, closing, work) = (Arc::new(Notify::new()), Shutdown::new(), TaskScope::new());
        let (sender, progress) = watch::channel(Place::default());
        let directory = Arc::clone(files.directory());
        let follower = Follower::new(ports.clone(), directory, files.retention(), files.synced(), sender);
        work.spawn(run(follower, Arc::clone(&doubt), closing.clone()));
        Self { files, ports, doubt, closing, progress, work }
    }

    /// Waits until everything that was acknowledged before the call is in the index. As long as storage fails, it is not. Cancel
    /// safe.
    pub async fn indexed(&self) {
        let Some(synced) = self.files.synced().borrow().clone() else { return };
        // An error means that the work has ended.
        let _ = self.progress.clone().wait_for(|place| *place >= synced.end).await;
    }

    /// Closes the files as [`FileAuditLog::close`] does, then adds what is new to the index, unless storage fails or is slow.
    pub async fn close(&self) {
        self.files.close().await;
        self.closing.drain();
        if tokio::time::timeout(CLOSING, self.work.join()).await.is_err() {
            tracing::warn!("not everything of the audit log is in its index yet; the next start adds it");
            self.work.abort().await;
        }
    }
}

/// Follows the log until it is closed.
async fn run(mut follower: Follower, doubt: Arc<Notify>, closing: Shutdown) {
    let mut failures: u32 = 0;
    loop {
        let began = Instant::now();
        let pause = match follower.step().await {
            // What is behind is not whole for that: two that take the index from each other get on as well, and never to its end.
            Ok(Step::More) => {
                // Half of the time is for others.
                began.elapsed()
            }
            Ok(Step::Done) => {
                failures = 0;
                if closing.is_draining() {
                    break;
                }
                tokio::select! {
                    changed = follower.changed() => if !changed {
                        closing.draining().await;
                    },
                    () = doubt.notified() => follower.doubt(),
                    () = closing.draining() => {}
                    () = tokio::time::sleep(SEEN_EVERY) => {}
                }
                GATHER
            }
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                if failures.is_power_of_two() || failures == 0 {
                    tracing::warn!(
                        error,
                        failures,
                        "events cannot be added to the index of the audit log now"
                    );
                }
                failures = failures.saturating_add(1);
                GATHER.saturating_mul(1 << failures.min(7)).min(LONGEST_PAUSE)
            }
        };
        if !closing.is_draining() {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = closing.draining() => {}
            }
        } else if failures > 0 {
            tokio::time::sleep(GATHER).await;
        }
    }
    if let Err(error) = follower.close().await {
        let error: &dyn std::error::Error = &error;
        tracing::warn!(error, "the index of the audit log does not say that its service has ended");
    }
}

#[async_trait]
impl AuditSink for IndexedAuditLog {
    async fn emit(&self, events: Vec<AuditEvent>) -> Result<(), AuditError> {
        self.files.emit(events).await
    }
}

#[async_trait]
impl AuditLog for IndexedAuditLog {
    /// Finds events of every log of the index, in the order of time, and of this log what is not in it yet. What one call reads is
    /// bounded: a page may be short, even empty, and still name a next one. Storage that fails or does not answer makes a page
    /// incomplete, not an error.
    async fn search(&self, query: AuditQuery) -> Result<AuditPage, AuditError> {
        search::search(self, query).await
    }
}
