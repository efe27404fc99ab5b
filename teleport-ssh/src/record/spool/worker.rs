//! The disk's end of the spool: one thread writes what all sessions send.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::Duration;

use teleport_core::id::SessionId;
use teleport_core::recording::{Encoder, RecordedEvent};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::recorder::cost;
use super::{CLOSED, OPEN, path};
use crate::record::room::Room;

/// After some events the spool's thread lets more of them gather: to wake it for each would cost more than to write them.
const GATHER_FOR: Duration = Duration::from_millis(2);
/// How long output may wait in memory: what a `kill -9` can lose.
const FLUSH_EVERY: Duration = Duration::from_millis(500);

/// What sessions tell the spool's thread.
pub(super) enum Message {
    Begin { session: SessionId, encoder: Box<Encoder>, file: File, incomplete: Arc<AtomicBool> },
    Event { session: SessionId, event: RecordedEvent },
    Close,
}

/// A recording that is being written.
struct Writing {
    encoder: Box<Encoder>,
    file: File,
    /// Written, but perhaps not on the disk yet.
    dirty: bool,
    /// Bytes of output left out since the last event that was written.
    lost: u64,
    /// The newest size of the terminal of those that were left out.
    resized: Option<RecordedEvent>,
    /// Bytes of the file.
    len: u64,
    /// Told to the session's recorder.
    incomplete: Arc<AtomicBool>,
}

/// The thread of a spool: whatever touches the disk while sessions run.
pub(super) struct Worker {
    dir: PathBuf,
    messages: Receiver<Message>,
    queued: Arc<AtomicUsize>,
    closed: Arc<Notify>,
    files: HashMap<SessionId, Writing>,
    room: Arc<Room>,
    /// Whether the room was counted since the last flush; counting looks at every file.
    counted: bool,
    max_recording: u64,
}

impl Worker {
    /// Over the files of `dir`, for what comes by `messages` and is counted in `queued`.
    pub(super) fn new(
        dir: PathBuf,
        messages: Receiver<Message>,
        queued: Arc<AtomicUsize>,
        closed: Arc<Notify>,
        room: Arc<Room>,
        max_recording: u64,
    ) -> Self {
        Self { dir, messages, queued, closed, files: HashMap::new(), room, counted: true, max_recording }
    }

    /// Until the spool is closed.
    pub(super) fn run(mut self) {
        let mut flush_at: Option<Instant> = None;
        let mut busy = false;
        loop {
            let now = Instant::now();
            if flush_at.is_some_and(|at| at <= now) {
                flush_at = None;
                self.flush();
            }
            // With nothing to flush there is nothing to wake up for.
            let wait = flush_at.map_or(Duration::from_secs(3600), |at| at - now);
            let message = match self.messages.try_recv() {
                Err(TryRecvError::Empty) => {
                    if std::mem::take(&mut busy) {
                        std::thread::sleep(GATHER_FOR);
                        continue;
                    }
                    self.messages.recv_timeout(wait)
                }
                Err(TryRecvError::Disconnected) => break,
                Ok(message) => Ok(message),
            };
            match message {
                Ok(Message::Close) | Err(RecvTimeoutError::Disconnected) => break,
                Ok(message) => {
                    self.handle(message);
                    busy = true;
                    flush_at.get_or_insert(now + FLUSH_EVERY);
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
        // What is here is written; recordings without an end stay open for the next start to close.
        self.flush();
    }

    fn flush(&mut self) {
        self.counted = false;
        let room = &self.room;
        self.files.retain(|session, writing| {
            let written = writing.write(*session, true, room).and_then(|()| writing.sync());
            keep(*session, written, &writing.incomplete)
        });
    }

    fn handle(&mut self, message: Message) {
        match message {
            Message::Begin { session, encoder, file, incomplete } => {
                let len = file.metadata().map(|data| data.len()).unwrap_or_default();
                self.files.insert(
                    session,
                    Writing { encoder, file, dirty: false, lost: 0, resized: None, len, incomplete },
                );
            }
            Message::Event { session, event } => self.event(session, &event),
            Message::Close => {}
        }
    }

    fn event(&mut self, session: SessionId, event: &RecordedEvent) {
        self.queued.fetch_sub(cost(event), Ordering::Relaxed);
        let end = matches!(event, RecordedEvent::End { .. });
        let mut full = self.room.is_full_for(session);
        if full && !self.counted {
            self.counted = true;
            if let Err(error) = self.room.count() {
                tracing::error!(error = &error as &dyn std::error::Error, "the spool cannot be read");
            }
            full = self.room.is_full_for(session);
        }
        if full && matches!(event, RecordedEvent::Output { .. }) {
            self.room.tell(session);
        }
        if let Some(writing) = self.files.get_mut(&session) {
            let full = full || writing.len >= self.max_recording;
            let room = &self.room;
            let mut result = writing.event(event, full).and_then(|()| writing.write(session, end, room));
            if end {
                result = result.and_then(|()| writing.sync());
            }
            if !keep(session, result, &writing.incomplete) || end {
                self.files.remove(&session);
            }
        }
        if end {
            self.close(session);
        }
    }

    fn close(&mut self, session: SessionId) {
        let from = path(&self.dir, session, OPEN);
        if let Err(error) = fs::rename(&from, from.with_extension(CLOSED)) {
            tracing::error!(%session, error = &error as &dyn std::error::Error, "a recording cannot be closed");
        }
        self.closed.notify_one();
    }
}

/// Logs a failure; `false` if the recording cannot go on.
fn keep(session: SessionId, result: io::Result<()>, incomplete: &AtomicBool) -> bool {
    if let Err(error) = &result {
        incomplete.store(true, Ordering::Relaxed);
        tracing::error!(%session, error = error as &dyn std::error::Error, "a session cannot be recorded any longer");
    }
    result.is_ok()
}

impl Writing {
    /// When it is full only the end is written, and how much is missing.
    fn event(&mut self, event: &RecordedEvent, full: bool) -> io::Result<()> {
        match event {
            RecordedEvent::Output { data, .. } if full => {
                self.lost += data.len() as u64;
                self.incomplete.store(true, Ordering::Relaxed);
                return Ok(());
            }
            // As of output, a user can make as many of them as there is time.
            RecordedEvent::Resize { .. } if full => {
                self.resized = Some(event.clone());
                return Ok(());
            }
            RecordedEvent::Gap { lost, .. } if full => {
                self.lost += lost;
                return Ok(());
            }
            _ => {}
        }
        // Before anything else is shown; another size or the end makes it worthless.
        let resized = self.resized.take().filter(|_| matches!(event, RecordedEvent::Output { .. }));
        if let Some(resized) = resized {
            self.encoder.event(&resized)?;
        }
        match std::mem::take(&mut self.lost) {
            0 => {}
            lost => self.encoder.event(&RecordedEvent::Gap { at: event.at(), lost })?,
        }
        self.encoder.event(event)
    }

    fn write(&mut self, session: SessionId, flush: bool, room: &Room) -> io::Result<()> {
        let bytes = self.encoder.take(flush)?;
        if !bytes.is_empty() {
            self.file.write_all(&bytes)?;
            self.len += bytes.len() as u64;
            room.add(session, bytes.len() as u64);
            self.dirty = true;
        }
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.dirty) { self.file.sync_data() } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use bytes::Bytes;
    use teleport_core::recording::{OutputStream, RecordingMeta, SessionEnd};

    use super::*;

    /// Whoever turns the size of the window about writes no more than whoever prints.
    #[test]
    fn when_it_is_full_sizes_are_left_out_and_the_newest_comes_before_what_is_shown_next() {
        let session: SessionId = "6f0e1a3c-7d1f-4b5e-9a53-5d5a1f9f3f02".parse().unwrap();
        let meta = RecordingMeta {
            session,
            cluster: "example.com".parse().unwrap(),
            host_id: "0f8fad5b-d9cb-469f-a165-70867728950e".parse().unwrap(),
            host_name: "web-1".parse().unwrap(),
            user: "alice".parse().unwrap(),
            login: "root".parse().unwrap(),
            started: teleport_core::clock::Timestamp::EPOCH,
            command: None,
            terminal: None,
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("recording");
        let mut writing = Writing {
            encoder: Box::new(Encoder::new(&meta).unwrap()),
            file: File::create(&path).unwrap(),
            dirty: false,
            lost: 0,
            incomplete: Arc::default(),
            resized: None,
            len: 0,
        };
        let room = Room::new(dir.path().to_owned(), u64::MAX);
        let at = Duration::from_millis;
        let output = |millis, text: &'static str| RecordedEvent::Output {
            at: at(millis),
            stream: OutputStream::Stdout,
            data: Bytes::from_static(text.as_bytes()),
        };
        let resize = |millis, columns| RecordedEvent::Resize { at: at(millis), columns, rows: 24 };
        let end = RecordedEvent::End { at: at(9), end: SessionEnd::Exited(0) };
        writing.event(&output(1, "a"), false).unwrap();
        for columns in 0..60_000 {
            writing.event(&resize(2, columns), true).unwrap();
        }
        writing.event(&RecordedEvent::Gap { at: at(3), lost: 5 }, true).unwrap();
        writing.event(&output(4, "bc"), true).unwrap();
        writing.event(&output(5, "d"), false).unwrap();
        writing.event(&resize(6, 80), true).unwrap();
        writing.event(&resize(7, 90), false).unwrap();
        writing.event(&resize(8, 100), true).unwrap();
        writing.event(&end, true).unwrap();
        writing.write(session, true, &room).unwrap();
        let mut decoder = teleport_core::recording::Decoder::new().unwrap();
        decoder.feed(&fs::read(path).unwrap());
        let events: Vec<_> = std::iter::from_fn(|| decoder.next_event().unwrap()).collect();
        let gap = RecordedEvent::Gap { at: at(5), lost: 7 };
        let expected = [output(1, "a"), resize(2, 59_999), gap, output(5, "d"), resize(7, 90), end];
        assert_eq!(events, expected);
    }
}
