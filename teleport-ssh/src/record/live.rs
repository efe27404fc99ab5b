//! What a session, the spool's thread and the upload share about a recording that is being made.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use teleport_core::access::SessionRecording;
use teleport_core::recording::RecordingMeta;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The most bytes that a session shows before the spool's thread has dealt with them. More wait for it, and the program for them.
const AHEAD: usize = 4 << 20;
/// The same while all sessions together have much in the queue: who has little there does not wait for those who have much.
const AHEAD_CROWDED: usize = AHEAD / 16;
/// Who waits hears of it whenever so many bytes more were dealt with.
const STEP: usize = AHEAD_CROWDED / 2;
/// How long a strict session waits for the disk, and one that is streamed for the auth service, before it ends. The stream itself
/// gives up earlier.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);
/// How long one that may lose something waits, until it has caught up again. Enough for a machine that is busy, and not for a disk
/// that hangs.
const BRIEFLY: Duration = Duration::from_secs(1);

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
    /// What was told and is not dealt with, with what each event takes beside its bytes. Of a strict session only what is written
    /// is dealt with.
    behind: AtomicUsize,
    /// Whether the disk, or the bound of the spool, takes nothing now.
    stalled: AtomicBool,
    /// Whether a session that may lose something has waited in vain.
    in_vain: AtomicBool,
    failed: AtomicBool,
    /// Tells so to whoever waits for it.
    failure: CancellationToken,
    progress: watch::Sender<Progress>,
}

impl Live {
    pub(super) fn new(meta: RecordingMeta, mode: SessionRecording) -> Arc<Self> {
        Arc::new(Self {
            meta,
            mode,
            behind: AtomicUsize::new(0),
            stalled: AtomicBool::new(false),
            in_vain: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            failure: CancellationToken::new(),
            progress: watch::Sender::new(Progress::default()),
        })
    }

    /// Something must not be lost and is, or cannot be kept in time: the session is to end.
    pub(super) fn fail(&self, why: &str) {
        if !self.failed.swap(true, Ordering::Relaxed) {
            tracing::error!(session = %self.meta.session, "a session that must be recorded cannot be any longer: {why}");
        }
        self.failure.cancel();
        self.progress.send_modify(|_| {});
    }

    /// Cancelled when the session is to end.
    pub(super) fn failure(&self) -> CancellationToken {
        self.failure.clone()
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
        self.behind.fetch_add(bytes, Ordering::Relaxed);
    }

    /// So much of it is dealt with.
    pub(super) fn settle(&self, bytes: usize) {
        let before = self.behind.fetch_sub(bytes, Ordering::Relaxed);
        if before / STEP != before.saturating_sub(bytes) / STEP {
            self.progress.send_modify(|_| {});
        }
    }

    /// How much was told and is not dealt with.
    pub(super) fn behind(&self) -> usize {
        self.behind.load(Ordering::Relaxed)
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

    /// Whether the session has to wait by [`Live::caught_up`], of which the queue of all sessions says whether it is `crowded`.
    pub(super) fn is_ahead(&self, crowded: bool) -> bool {
        let stalled = self.stalled.load(Ordering::Relaxed);
        let most = match stalled {
            true if self.mode.is_strict() => 0,
            // What is lost now is lost.
            true => return false,
            false if crowded => AHEAD_CROWDED,
            false => AHEAD,
        };
        let behind = self.behind();
        if behind <= STEP {
            self.in_vain.store(false, Ordering::Relaxed);
        }
        behind > most && !self.in_vain.load(Ordering::Relaxed)
    }

    /// Resolves when the spool's thread has caught up by half; `false` if a strict session waits in vain. One that may lose
    /// something goes on after a moment, and waits no more before it has caught up. Cancel safe.
    pub(super) async fn caught_up(self: Arc<Self>, crowded: bool) -> bool {
        let enough = if crowded { AHEAD_CROWDED } else { AHEAD } / 2;
        let strict = self.mode.is_strict();
        let done = |live: &Self| match live.stalled.load(Ordering::Relaxed) {
            true if strict => live.behind() == 0,
            stalled => stalled || live.behind() <= enough,
        };
        if strict {
            return self.reached(|live, _| done(live), "the disk does not take it").await;
        }
        let mut progress = self.progress();
        // The sender is in `self`, so that waiting does not fail.
        if tokio::time::timeout(BRIEFLY, progress.wait_for(|_| done(&self))).await.is_err() {
            self.in_vain.store(true, Ordering::Relaxed);
        }
        true
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
