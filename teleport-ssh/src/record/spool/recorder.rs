//! A session's end of the spool. It never waits itself: where that does, output for which there is no room is left out, with a gap
//! that says so; a session that must not lose anything is told to wait.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use teleport_core::access::SessionRecording;
use teleport_core::recording::{Kept, OutputStream, RecordedEvent, Recorder, SessionEnd};

use super::Spool;
use super::worker::Message;
use crate::record::live::Live;

/// The most bytes on their way to the spool thread. What does not fit becomes a gap.
const MAX_QUEUED: usize = 16 << 20;
/// What each message takes beside its output, about: many small ones are bounded as well.
const OVERHEAD: usize = 128;

/// Records one session into a [`Spool`].
pub(super) struct SpoolRecorder {
    live: Arc<Live>,
    /// How many events the thread was told.
    told: u64,
    lost: u64,
    /// The size of the terminal for which there was no room.
    resized: Option<RecordedEvent>,
    last: Duration,
    spool: Spool,
    finished: bool,
}

impl std::fmt::Debug for SpoolRecorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SpoolRecorder").field("session", &self.live.meta.session).finish_non_exhaustive()
    }
}

impl SpoolRecorder {
    /// Of a session that was begun.
    pub(super) fn new(spool: Spool, live: Arc<Live>) -> Self {
        Self { live, told: 0, lost: 0, resized: None, last: Duration::ZERO, spool, finished: false }
    }

    fn is_strict(&self) -> bool {
        self.live.mode.is_strict()
    }

    fn send(&mut self, event: RecordedEvent) {
        self.last = self.last.max(event.at());
        self.spool.0.queued.fetch_add(cost(&event), Ordering::Relaxed);
        if self.is_strict() {
            self.live.owe(cost(&event));
        }
        self.told += 1;
        // The thread lives as long as the spool, which lives as long as this.
        let _ = self.spool.0.queue.send(Message::Event { session: self.live.meta.session, event });
    }

    /// Sessions race for the last bytes; the bound may be passed by a few events of each, which is all right. A strict one waits
    /// before it has more to tell.
    fn has_room(&self, event: &RecordedEvent) -> bool {
        self.is_strict() || self.spool.0.queued.load(Ordering::Relaxed) + cost(event) <= MAX_QUEUED
    }

    /// Sends what there was no room for: how much is missing, and the newest size.
    fn close_gap(&mut self) {
        match std::mem::take(&mut self.lost) {
            0 => {}
            lost => self.send(RecordedEvent::Gap { at: self.last, lost }),
        }
        if let Some(resize) = self.resized.take() {
            self.send(resize);
        }
    }
}

/// What an event takes of the queue.
pub(super) fn cost(event: &RecordedEvent) -> usize {
    match event {
        RecordedEvent::Output { data, .. } => OVERHEAD + data.len(),
        _ => OVERHEAD,
    }
}

impl Recorder for SpoolRecorder {
    fn output(&mut self, at: Duration, stream: OutputStream, data: &Bytes) {
        let event = RecordedEvent::Output { at, stream, data: data.clone() };
        if !self.has_room(&event) {
            if self.lost == 0 {
                tracing::warn!(session = %self.live.meta.session, "the disk does not keep up with a session; its recording gets a gap");
            }
            self.lost += data.len() as u64;
            return;
        }
        self.close_gap();
        self.send(event);
    }

    fn resize(&mut self, at: Duration, columns: u16, rows: u16) {
        let event = RecordedEvent::Resize { at, columns, rows };
        if !self.has_room(&event) {
            // The newest stands for all of them.
            self.resized = Some(event);
            return;
        }
        self.resized = None;
        self.close_gap();
        self.send(event);
    }

    fn kept(&self) -> Option<Kept> {
        let live = Arc::clone(&self.live);
        match self.live.mode {
            SessionRecording::Sync => Some(Box::pin(live.acknowledged(self.told))),
            SessionRecording::Strict if !live.is_written() => Some(Box::pin(live.written())),
            _ => None,
        }
    }

    fn finish(&mut self, at: Duration, end: SessionEnd) {
        self.finished = true;
        self.close_gap();
        self.send(RecordedEvent::End { at, end });
    }

    fn failed(&self) -> bool {
        self.live.failed()
    }
}

impl Drop for SpoolRecorder {
    fn drop(&mut self) {
        if !self.finished {
            self.finish(self.last, SessionEnd::Disconnected);
        }
    }
}
