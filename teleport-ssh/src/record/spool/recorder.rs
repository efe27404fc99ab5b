//! A session's end of the spool. It never waits itself, and tells the session to wait when much is on its way to the spool's thread.
//! When a session has waited in vain, and may lose something, output for which there is no room is left out, with a gap that says so.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use teleport_core::recording::{Failure, Kept, OutputStream, RecordedEvent, Recorder, SessionEnd};

use super::Spool;
use super::worker::Message;
use crate::record::live::Live;

/// The most bytes on their way to the spool thread. What does not fit becomes a gap. At half of it sessions that have much in it
/// wait, so that it is reached by those who wait no more, or by hundreds at once.
const MAX_QUEUED: usize = 32 << 20;
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
        self.live.owe(cost(&event));
        self.told += 1;
        // The thread lives as long as the spool, which lives as long as this.
        let _ = self.spool.0.queue.send(Message::Event { session: self.live.meta.session, event });
    }

    /// Sessions race for the last bytes; the bound may be passed by a few events of each, which is all right. A strict one waits
    /// before it has more to tell.
    fn has_room(&self, event: &RecordedEvent) -> bool {
        self.is_strict() || self.spool.0.queued.load(Ordering::Relaxed) + cost(event) <= MAX_QUEUED
    }

    fn is_crowded(&self) -> bool {
        self.spool.0.queued.load(Ordering::Relaxed) > MAX_QUEUED / 2
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
        // Output waits; changes of the size cannot, and a client makes as many of them as it likes.
        if !self.has_room(&event) || self.live.is_ahead(self.is_crowded()) {
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
        if self.live.is_streamed() {
            return Some(Box::pin(live.acknowledged(self.told)));
        }
        let crowded = self.is_crowded();
        live.is_ahead(crowded).then(|| Box::pin(live.caught_up(crowded)) as Kept)
    }

    fn finish(&mut self, at: Duration, end: SessionEnd) {
        self.finished = true;
        self.close_gap();
        self.send(RecordedEvent::End { at, end });
    }

    fn failed(&self) -> bool {
        self.live.failed()
    }

    fn failure(&self) -> Option<Failure> {
        self.is_strict().then(|| Box::pin(self.live.failure().cancelled_owned()) as Failure)
    }
}

impl Drop for SpoolRecorder {
    fn drop(&mut self) {
        if !self.finished {
            self.finish(self.last, SessionEnd::Disconnected);
        }
        self.spool.release(self.live.meta.session);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]
    use std::path::PathBuf;
    use std::sync::mpsc::{Receiver, channel};

    use teleport_core::access::SessionRecording;

    use super::*;
    use crate::record::SpoolLimits;
    use crate::record::room::Room;
    use crate::record::spool::Inner;

    /// A thread that does not keep up, by standing still.
    fn recorder(mode: SessionRecording) -> (SpoolRecorder, Arc<Live>, Receiver<Message>) {
        let (queue, messages) = channel();
        let spool = Spool(Arc::new(Inner {
            dir: PathBuf::new(),
            limits: SpoolLimits::default(),
            queue,
            queued: Arc::default(),
            news: Arc::default(),
            room: Arc::new(Room::new(PathBuf::new(), 0)),
            sessions: Arc::default(),
            thread: None,
            looks: Default::default(),
        }));
        let live = Live::new(teleport_core::testing::recording_meta(), mode);
        (SpoolRecorder::new(spool, Arc::clone(&live)), live, messages)
    }

    /// The time of the test jumps when nothing else goes on.
    #[tokio::test(start_paused = true)]
    async fn many_small_events_are_bounded_like_a_few_large_ones() {
        let (mut recorder, _live, messages) = recorder(SessionRecording::BestEffort);
        let most = MAX_QUEUED / OVERHEAD;
        let mut waited = 0;
        for number in 0..most {
            recorder.output(Duration::ZERO, OutputStream::Stdout, &Bytes::from_static(b"x"));
            recorder.resize(Duration::ZERO, 80, u16::try_from(number % 1000).unwrap());
            if let Some(kept) = recorder.kept() {
                let began = tokio::time::Instant::now();
                assert!(kept.await, "the session goes on");
                assert!(began.elapsed() <= Duration::from_secs(2), "{:?}", began.elapsed());
                waited += 1;
            }
        }
        assert_eq!(waited, 1, "nobody waits again for a thread that stands still");
        recorder.resize(Duration::ZERO, 132, 43);
        recorder.finish(Duration::ZERO, SessionEnd::Exited(0));
        assert!(!recorder.failed(), "the session goes on");
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

    /// Nobody waits for them, so what a client sends of them must not gather while the disk takes nothing.
    #[tokio::test(start_paused = true)]
    async fn changes_of_the_size_do_not_gather_where_nothing_may_be_lost() {
        for mode in [SessionRecording::Strict, SessionRecording::Sync] {
            let (mut recorder, live, messages) = recorder(mode);
            recorder.resize(Duration::ZERO, 80, 24);
            recorder.output(Duration::ZERO, OutputStream::Stdout, &Bytes::from_static(b"x"));
            live.stalled(true);
            for number in 0..10_000 {
                recorder.resize(Duration::from_secs(1), 132, number);
            }
            recorder.finish(Duration::from_secs(2), SessionEnd::Exited(0));
            let events = messages.try_iter().filter_map(|message| match message {
                Message::Event { event, .. } => Some(event),
                _ => None,
            });
            let sizes: Vec<_> = events
                .filter_map(|event| match event {
                    RecordedEvent::Resize { columns, rows, .. } => Some((columns, rows)),
                    _ => None,
                })
                .collect();
            assert_eq!(sizes, [(80, 24), (132, 9_999)], "{mode:?}");
        }
    }

    /// Whoever prints faster than a busy machine records is slowed down, and nothing is left out.
    #[tokio::test(start_paused = true)]
    async fn a_session_waits_for_a_thread_that_gets_on() {
        for mode in [SessionRecording::BestEffort, SessionRecording::Strict] {
            let (mut recorder, live, messages) = recorder(mode);
            let much = Bytes::from(vec![0; 100_000]);
            let cost = much.len() + OVERHEAD;
            let (mut told, mut taken) = (0, 0);
            while told < 2 * MAX_QUEUED / cost {
                recorder.output(Duration::ZERO, OutputStream::Stdout, &much);
                told += 1;
                let Some(mut waits) = recorder.kept() else { continue };
                while futures_util::poll!(&mut waits).is_pending() {
                    assert!(taken < told, "it waits for nothing");
                    recorder.spool.0.queued.fetch_sub(cost, Ordering::Relaxed);
                    live.settle(cost);
                    taken += 1;
                }
            }
            assert!(taken > 0);
            recorder.finish(Duration::ZERO, SessionEnd::Exited(0));
            let gaps = messages
                .try_iter()
                .filter(|message| matches!(message, Message::Event { event: RecordedEvent::Gap { .. }, .. }));
            assert_eq!(gaps.count(), 0, "{mode:?}");
        }
    }

    /// When the disk takes nothing there are gaps at once, and nobody waits for it.
    #[tokio::test(start_paused = true)]
    async fn a_session_that_may_lose_something_does_not_wait_for_a_disk_that_takes_nothing() {
        let (mut recorder, live, _messages) = recorder(SessionRecording::BestEffort);
        live.stalled(true);
        for _ in 0..100 {
            recorder.output(Duration::ZERO, OutputStream::Stdout, &Bytes::from(vec![0; 100_000]));
            assert!(recorder.kept().is_none());
        }
        live.stalled(false);
        recorder.output(Duration::ZERO, OutputStream::Stdout, &Bytes::from_static(b"x"));
        let Some(mut waits) = recorder.kept() else { panic!("much is on its way") };
        assert!(futures_util::poll!(&mut waits).is_pending());
        live.stalled(true);
        assert!(waits.await, "it goes on when the disk fails meanwhile");
    }

    #[tokio::test(start_paused = true)]
    async fn when_the_queue_is_full_those_wait_who_have_much_in_it() {
        let (mut recorder, _live, _messages) = recorder(SessionRecording::BestEffort);
        recorder.spool.0.queued.fetch_add(MAX_QUEUED - (1 << 20), Ordering::Relaxed);
        let piece = Bytes::from(vec![0; 100_000]);
        recorder.output(Duration::ZERO, OutputStream::Stdout, &piece);
        assert!(recorder.kept().is_none(), "it has little there");
        for _ in 0..3 {
            recorder.output(Duration::ZERO, OutputStream::Stdout, &piece);
        }
        assert!(recorder.kept().is_some());
        recorder.spool.0.queued.fetch_sub(MAX_QUEUED / 2, Ordering::Relaxed);
        assert!(recorder.kept().is_none(), "there is room for all");
    }

    #[tokio::test(start_paused = true)]
    async fn a_strict_session_waits_for_the_disk_and_not_for_ever() {
        let (mut recorder, live, messages) = recorder(SessionRecording::Strict);
        let much = Bytes::from(vec![0; 100_000]);
        let mut told = 0;
        let waits = loop {
            recorder.output(Duration::ZERO, OutputStream::Stdout, &much);
            told += 1;
            if let Some(kept) = recorder.kept() {
                break kept;
            }
            assert!(told < 100, "there is an end to what is shown before it is written");
        };
        for _ in 0..told {
            live.settle(100_000 + OVERHEAD);
        }
        assert!(waits.await, "the disk has caught up");
        let waits = loop {
            recorder.output(Duration::ZERO, OutputStream::Stdout, &much);
            told += 1;
            if let Some(kept) = recorder.kept() {
                break kept;
            }
        };
        assert!(!waits.await && recorder.failed(), "the session ends");
        assert_eq!(messages.try_iter().count(), told, "nothing was left out");
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_is_streamed_shows_nothing_before_it_is_acknowledged() {
        let (mut recorder, live, _messages) = recorder(SessionRecording::Sync);
        let kept = |recorder: &SpoolRecorder| recorder.kept().unwrap();
        let mut begins = kept(&recorder);
        assert!(futures_util::poll!(&mut begins).is_pending(), "not before the auth service knows of it");
        live.advance(|progress| progress.acked = Some(0));
        assert!(begins.await);
        recorder.output(Duration::ZERO, OutputStream::Stdout, &Bytes::from_static(b"a"));
        recorder.resize(Duration::ZERO, 80, 24);
        let mut shows = kept(&recorder);
        live.advance(|progress| progress.acked = Some(1));
        assert!(futures_util::poll!(&mut shows).is_pending());
        live.advance(|progress| progress.acked = Some(2));
        assert!(shows.await);
        recorder.output(Duration::ZERO, OutputStream::Stdout, &Bytes::from_static(b"b"));
        assert!(!kept(&recorder).await && recorder.failed(), "nobody answers: the session ends");
    }
}
