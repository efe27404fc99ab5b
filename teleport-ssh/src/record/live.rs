//! What a session, the spool's thread and the upload share about a recording that is being made.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use teleport_core::access::SessionRecording;
use teleport_core::recording::RecordingMeta;
use tokio::sync::watch;

/// The most bytes that a strict session shows before they are written. More wait for the disk, and the program for them.
const STRICT_AHEAD: usize = 1 << 20;
/// How long a strict session waits for the disk, and one that is streamed for the auth service, before it ends. The stream itself
/// gives up earlier.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);

/// How far a recording has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// How many of the events that were told are in the first `len` bytes of the file.
    pub(super) written: u64,
    /// Bytes of whole frames in the file.
    pub(super) len: u64,
    /// How many of them survive a loss of power.
    pub(super) synced: u64,
    /// How many events the auth service has taken; `None` before it knows of the recording.
    pub(super) acked: Option<u64>,
    /// Whether the file is closed.
    pub(super) ended: bool,
}

/// A recording that is being made.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) meta: RecordingMeta,
    pub(super) mode: SessionRecording,
    /// Of a strict session: what was told and is not written, with what each event takes beside its bytes.
    unwritten: AtomicUsize,
    /// Whether the disk, or the bound of the spool, takes nothing now.
    stalled: AtomicBool,
    failed: AtomicBool,
    progress: watch::Sender<Progress>,
}

impl Live {
    pub(super) fn new(meta: RecordingMeta, mode: SessionRecording) -> Arc<Self> {
        Arc::new(Self {
            meta,
            mode,
            unwritten: AtomicUsize::new(0),
            stalled: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            progress: watch::Sender::new(Progress::default()),
        })
    }

    /// Something must not be lost and is, or cannot be kept in time: the session is to end.
    pub(super) fn fail(&self, why: &str) {
        if !self.failed.swap(true, Ordering::Relaxed) {
            tracing::error!(session = %self.meta.session, "a session that must be recorded cannot be any longer: {why}");
        }
        self.progress.send_modify(|_| {});
    }

    pub(super) fn failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Whether the auth service gets it while it is made.
    pub(super) fn is_streamed(&self) -> bool {
        self.mode == SessionRecording::Sync
    }

    /// More was told.
    pub(super) fn owe(&self, bytes: usize) {
        self.unwritten.fetch_add(bytes, Ordering::Relaxed);
    }

    /// So much of it is written.
    pub(super) fn settle(&self, bytes: usize) {
        let before = self.unwritten.fetch_sub(bytes, Ordering::Relaxed);
        if before > STRICT_AHEAD {
            self.progress.send_modify(|_| {});
        }
    }

    pub(super) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    pub(super) fn now(&self) -> Progress {
        *self.progress.borrow()
    }

    pub(super) fn advance(&self, change: impl FnOnce(&mut Progress)) {
        self.progress.send_modify(change);
    }

    /// The disk takes nothing, or does again.
    pub(super) fn stalled(&self, stalled: bool) {
        self.stalled.store(stalled, Ordering::Relaxed);
        self.progress.send_modify(|_| {});
    }

    fn is_ahead(&self) -> bool {
        let most = if self.stalled.load(Ordering::Relaxed) { 0 } else { STRICT_AHEAD };
        self.unwritten.load(Ordering::Relaxed) > most
    }

    /// Whether the disk keeps up, without a wait.
    pub(super) fn is_written(&self) -> bool {
        !self.is_ahead()
    }

    /// Resolves when the disk has caught up; `false` if it does not in time. Cancel safe.
    pub(super) async fn written(self: Arc<Self>) -> bool {
        self.reached(|live, _| !live.is_ahead(), "the disk does not take it").await
    }

    /// Resolves when the auth service has taken the first `events`; `false` if it does not in time. Cancel safe.
    pub(super) async fn acknowledged(self: Arc<Self>, events: u64) -> bool {
        self.reached(
            |_, progress| progress.acked.is_some_and(|acked| acked >= events),
            "the auth service does not take it",
        )
        .await
    }

    async fn reached(&self, done: impl Fn(&Self, &Progress) -> bool, else_why: &str) -> bool {
        let mut progress = self.progress();
        let reached = progress.wait_for(|progress| self.failed() || done(self, progress));
        // The sender is in `self`, so that waiting does not fail.
        if tokio::time::timeout(PATIENCE, reached).await.is_err() {
            self.fail(else_why);
        }
        !self.failed()
    }
}
