//! A session's end of the spool: never waits, leaves out what there is no room for, and says so.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use teleport_core::access::SessionRecording;
use teleport_core::id::SessionId;
use teleport_core::recording::{OutputStream, RecordedEvent, Recorder, SessionEnd};

use super::Spool;
use super::worker::Message;

/// The most bytes on their way to the spool thread. What does not fit becomes a gap.
const MAX_QUEUED: usize = 16 << 20;
/// What each message takes beside its output, about: many small ones are bounded as well.
const OVERHEAD: usize = 128;

/// Records one session into a [`Spool`].
pub(super) struct SpoolRecorder {
    session: SessionId,
    /// Whether the session is to end when something is lost.
    strict: bool,
    /// Whether something was, here or on the way to the disk.
    incomplete: Arc<AtomicBool>,
    lost: u64,
    /// The size of the terminal for which there was no room.
    resized: Option<RecordedEvent>,
    last: Duration,
    spool: Spool,
    finished: bool,
}

impl std::fmt::Debug for SpoolRecorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SpoolRecorder").field("session", &self.session).finish_non_exhaustive()
    }
}

impl SpoolRecorder {
    /// Of a session that was begun; `incomplete` is also the thread's word.
    pub(super) fn new(
        spool: Spool,
        session: SessionId,
        mode: SessionRecording,
        incomplete: Arc<AtomicBool>,
    ) -> Self {
        Self {
            session,
            strict: mode.is_strict(),
            incomplete,
            lost: 0,
            resized: None,
            last: Duration::ZERO,
            spool,
            finished: false,
        }
    }

    fn send(&mut self, event: RecordedEvent) {
        self.last = self.last.max(event.at());
        self.spool.0.queued.fetch_add(cost(&event), Ordering::Relaxed);
        // The thread lives as long as the spool, which lives as long as this.
        let _ = self.spool.0.queue.send(Message::Event { session: self.session, event });
    }

    /// Sessions race for the last bytes; the bound may be passed by a few events of each, which is all right.
    fn has_room(&self, event: &RecordedEvent) -> bool {
        self.spool.0.queued.load(Ordering::Relaxed) + cost(event) <= MAX_QUEUED
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
                tracing::warn!(session = %self.session, "the disk does not keep up with a session; its recording gets a gap");
            }
            self.lost += data.len() as u64;
            self.incomplete.store(true, Ordering::Relaxed);
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

    fn finish(&mut self, at: Duration, end: SessionEnd) {
        self.finished = true;
        self.close_gap();
        self.send(RecordedEvent::End { at, end });
    }

    fn failed(&self) -> bool {
        // Else the spool does its best: what it must leave out is a gap in the record, not the end of the session.
        self.strict && self.incomplete.load(Ordering::Relaxed)
    }
}

impl Drop for SpoolRecorder {
    fn drop(&mut self) {
        if !self.finished {
            self.finish(self.last, SessionEnd::Disconnected);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use std::path::PathBuf;
    use std::sync::mpsc::channel;

    use super::*;
    use crate::record::room::Room;
    use crate::record::spool::Inner;

    /// A thread that does not keep up, by standing still.
    #[test]
    fn many_small_events_are_bounded_like_a_few_large_ones() {
        let (queue, messages) = channel();
        let spool = Spool(Arc::new(Inner {
            dir: PathBuf::new(),
            queue,
            queued: Arc::default(),
            closed: Arc::default(),
            room: Arc::new(Room::new(PathBuf::new(), 0)),
            thread: None,
        }));
        let session = "6f0e1a3c-7d1f-4b5e-9a53-5d5a1f9f3f01".parse().unwrap();
        let mut recorder = SpoolRecorder::new(spool, session, SessionRecording::Strict, Arc::default());
        let most = MAX_QUEUED / OVERHEAD;
        for number in 0..most {
            recorder.output(Duration::ZERO, OutputStream::Stdout, &Bytes::from_static(b"x"));
            recorder.resize(Duration::ZERO, 80, u16::try_from(number % 1000).unwrap());
        }
        assert!(recorder.failed(), "something was left out");
        recorder.resize(Duration::ZERO, 132, 43);
        recorder.finish(Duration::ZERO, SessionEnd::Exited(0));
        let events = messages.try_iter().filter_map(|message| match message {
            Message::Event { event, .. } => Some(event),
            _ => None,
        });
        let events: Vec<_> = events.collect();
        assert!(events.len() <= most + 3, "{}", events.len());
        let [.., gap, resize, end] = &events[..] else { unreachable!("there are thousands") };
        assert!(matches!(gap, RecordedEvent::Gap { lost, .. } if *lost > 0), "{gap:?}");
        assert!(matches!(resize, RecordedEvent::Resize { columns: 132, rows: 43, .. }), "{resize:?}");
        assert!(matches!(end, RecordedEvent::End { .. }), "{end:?}");
    }
}
