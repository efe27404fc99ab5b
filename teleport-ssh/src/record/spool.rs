//! The spool: recordings on the node's own disk until they are uploaded.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use teleport_core::id::SessionId;
use teleport_core::recording::{Encoder, OutputStream, RecordedEvent, Recorder, RecordingMeta, SessionEnd};
use teleport_core::resource::RecordingMode;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::room::Room;
use super::{Recorders, upload};

/// The most bytes on their way to the spool thread. What does not fit becomes a gap.
const MAX_QUEUED: usize = 16 << 20;
/// What each message takes beside its output, about: many small ones are bounded as well.
const OVERHEAD: usize = 128;
/// After some events the spool's thread lets more of them gather: to wake it for each would cost more than to write them.
const GATHER_FOR: Duration = Duration::from_millis(2);
/// How long output may wait in memory: what a `kill -9` can lose.
const FLUSH_EVERY: Duration = Duration::from_millis(500);
/// Recordings that are being written.
const OPEN: &str = "part";
/// Recordings that wait for their upload.
pub(super) const CLOSED: &str = "tprec";

/// The spool cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the spool of recordings {} cannot be used", path.display())]
#[non_exhaustive]
pub struct SpoolError {
    /// What was to be used.
    pub path: PathBuf,
    /// Why it cannot.
    pub source: io::Error,
}

/// How much a [`Spool`] may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "embedders build it")]
pub struct SpoolLimits {
    /// The most bytes on disk that wait for their upload, half of it of one user. Beyond it output of sessions that run is left
    /// out, with gaps that say so, and new sessions cannot be recorded. Recordings that were refused do not count: of them as
    /// much as half of this is kept, the newest.
    pub max_bytes: u64,
    /// The most bytes of one recording; beyond it output is left out, with a gap that says so. Less than what the auth service
    /// takes, so that no recording is refused for its length.
    pub max_recording_bytes: u64,
}

impl Default for SpoolLimits {
    /// 4 GiB, and 1 GiB of one recording.
    fn default() -> Self {
        Self { max_bytes: 4 << 30, max_recording_bytes: 1 << 30 }
    }
}

enum Message {
    Begin { session: SessionId, encoder: Box<Encoder>, file: File, incomplete: Arc<AtomicBool> },
    Event { session: SessionId, event: RecordedEvent },
    Close,
}

/// A directory in which sessions are recorded. Clones share it; the last one to be dropped closes it.
#[derive(Clone)]
pub struct Spool(Arc<Inner>);

struct Inner {
    dir: PathBuf,
    queue: Sender<Message>,
    queued: Arc<AtomicUsize>,
    closed: Arc<Notify>,
    room: Arc<Room>,
    thread: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Spool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spool").field("dir", &self.0.dir).finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let _ = self.queue.send(Message::Close);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn path(dir: &Path, session: SessionId, extension: &str) -> PathBuf {
    dir.join(format!("{session}.{extension}"))
}

impl Spool {
    /// Opens a spool, makes its directory (mode 0700) and closes what a crash left open.
    ///
    /// # Errors
    /// [`SpoolError`] when the directory cannot be made or read.
    pub fn open(dir: impl Into<PathBuf>, limits: SpoolLimits) -> Result<Self, SpoolError> {
        let dir = dir.into();
        let fail = |source| SpoolError { path: dir.clone(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(fail)?;
        let room = Arc::new(Room::new(dir.clone(), limits.max_bytes));
        for entry in fs::read_dir(&dir).map_err(fail)? {
            let path = entry.map_err(fail)?.path();
            if path.extension().is_some_and(|extension| extension == OPEN) {
                fs::rename(&path, path.with_extension(CLOSED)).map_err(fail)?;
            }
        }
        for path in waiting(&dir).map_err(fail)? {
            // One that cannot be read counts for all, and is set aside by the upload.
            if let Some(meta) = upload::meta_of(&path) {
                room.own(meta.session, meta.user);
            }
        }
        room.count().map_err(fail)?;
        room.trim_refused();
        let (queue, messages) = channel();
        let queued = Arc::new(AtomicUsize::new(0));
        let closed = Arc::new(Notify::new());
        let worker = Worker {
            dir: dir.clone(),
            messages,
            queued: Arc::clone(&queued),
            closed: Arc::clone(&closed),
            files: HashMap::new(),
            room: Arc::clone(&room),
            counted: true,
            max_recording: limits.max_recording_bytes,
        };
        let thread = std::thread::Builder::new()
            .name("recording-spool".into())
            .spawn(|| worker.run())
            .map_err(fail)?;
        Ok(Self(Arc::new(Inner { dir, queue, queued, closed, room, thread: Some(thread) })))
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    /// Resolves when a recording was closed since the last call. Cancel safe.
    pub(super) async fn closed(&self) {
        self.0.closed.notified().await;
    }

    /// The recordings that wait for their upload.
    pub(super) fn waiting(&self) -> io::Result<Vec<PathBuf>> {
        waiting(&self.0.dir)
    }

    pub(super) fn room(&self) -> &Room {
        &self.0.room
    }
}

fn waiting(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == CLOSED) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

impl Recorders for Spool {
    fn start(&self, meta: RecordingMeta, mode: RecordingMode) -> Result<Box<dyn Recorder>, SpoolError> {
        let session = meta.session;
        let path = path(&self.0.dir, session, OPEN);
        let room = &self.0.room;
        let open = || -> io::Result<(File, Encoder)> {
            room.own(session, meta.user.clone());
            if room.is_full_for(session) {
                // Uploads may have made room.
                room.count()?;
                room.own(session, meta.user.clone());
                if room.is_full_for(session) {
                    room.tell(session);
                    let text =
                        "there is no room for more recordings until some are delivered to the auth service";
                    return Err(io::Error::new(io::ErrorKind::StorageFull, text));
                }
            }
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            let mut encoder = Encoder::new(&meta)?;
            // The header is on disk before the session begins: no session without a trace.
            let header = encoder.take(true)?;
            file.write_all(&header)?;
            file.sync_data()?;
            // Again: whoever counted meanwhile has forgotten what had no file.
            room.own(session, meta.user.clone());
            room.add(session, header.len() as u64);
            Ok((file, encoder))
        };
        let (file, encoder) = open().map_err(|source| SpoolError { path: path.clone(), source })?;
        let lost = Arc::new(AtomicBool::new(false));
        let begin =
            Message::Begin { session, encoder: Box::new(encoder), file, incomplete: Arc::clone(&lost) };
        let gone = || SpoolError { path, source: io::ErrorKind::BrokenPipe.into() };
        self.0.queue.send(begin).map_err(|_| gone())?;
        Ok(Box::new(SpoolRecorder {
            session,
            strict: mode == RecordingMode::Strict,
            incomplete: lost,
            lost: 0,
            resized: None,
            last: Duration::ZERO,
            spool: self.clone(),
            finished: false,
        }))
    }
}

/// Records one session into a [`Spool`].
struct SpoolRecorder {
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
fn cost(event: &RecordedEvent) -> usize {
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

struct Worker {
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
    fn run(mut self) {
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
    use super::*;

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
        let (lost, last) = (0, Duration::ZERO);
        let incomplete = Arc::<AtomicBool>::default();
        let mut recorder = SpoolRecorder {
            session,
            strict: true,
            incomplete,
            lost,
            resized: None,
            last,
            spool,
            finished: false,
        };
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
