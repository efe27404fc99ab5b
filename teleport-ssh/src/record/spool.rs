//! The spool: recordings on the node's own disk until they are uploaded.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use teleport_core::id::SessionId;
use teleport_core::recording::{Encoder, OutputStream, RecordedEvent, Recorder, RecordingMeta, SessionEnd};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Recorders;

/// The most bytes on their way to the spool thread. What does not fit becomes a gap.
const MAX_QUEUED: usize = 16 << 20;
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
    /// The most bytes on disk; beyond it output is left out, with gaps that say so.
    pub max_bytes: u64,
}

impl Default for SpoolLimits {
    /// 4 GiB.
    fn default() -> Self {
        Self { max_bytes: 4 << 30 }
    }
}

enum Message {
    Begin { session: SessionId, encoder: Box<Encoder>, file: File },
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
        let mut used = 0;
        for entry in fs::read_dir(&dir).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let path = entry.path();
            used += entry.metadata().map(|data| data.len()).unwrap_or_default();
            if path.extension().is_some_and(|extension| extension == OPEN) {
                fs::rename(&path, path.with_extension(CLOSED)).map_err(fail)?;
            }
        }
        let (queue, messages) = channel();
        let queued = Arc::new(AtomicUsize::new(0));
        let closed = Arc::new(Notify::new());
        let worker = Worker {
            dir: dir.clone(),
            messages,
            queued: Arc::clone(&queued),
            closed: Arc::clone(&closed),
            files: HashMap::new(),
            used,
            counted: true,
            max: limits.max_bytes,
        };
        let thread = std::thread::Builder::new()
            .name("recording-spool".into())
            .spawn(|| worker.run())
            .map_err(fail)?;
        Ok(Self(Arc::new(Inner { dir, queue, queued, closed, thread: Some(thread) })))
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
        let mut paths = Vec::new();
        for entry in fs::read_dir(&self.0.dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == CLOSED) {
                paths.push(path);
            }
        }
        paths.sort();
        Ok(paths)
    }
}

impl Recorders for Spool {
    fn start(&self, meta: RecordingMeta) -> Result<Box<dyn Recorder>, SpoolError> {
        let session = meta.session;
        let path = path(&self.0.dir, session, OPEN);
        let open = || -> io::Result<(File, Encoder)> {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            let mut encoder = Encoder::new(&meta)?;
            // The header is on disk before the session begins: no session without a trace.
            file.write_all(&encoder.take(true)?)?;
            file.sync_data()?;
            Ok((file, encoder))
        };
        let (file, encoder) = open().map_err(|source| SpoolError { path: path.clone(), source })?;
        let begin = Message::Begin { session, encoder: Box::new(encoder), file };
        let gone = || SpoolError { path, source: io::ErrorKind::BrokenPipe.into() };
        self.0.queue.send(begin).map_err(|_| gone())?;
        Ok(Box::new(SpoolRecorder {
            session,
            lost: 0,
            last: Duration::ZERO,
            spool: self.clone(),
            finished: false,
        }))
    }
}

/// Records one session into a [`Spool`].
struct SpoolRecorder {
    session: SessionId,
    lost: u64,
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
        // The thread lives as long as the spool, which lives as long as this.
        let _ = self.spool.0.queue.send(Message::Event { session: self.session, event });
    }

    fn close_gap(&mut self) {
        match std::mem::take(&mut self.lost) {
            0 => {}
            lost => self.send(RecordedEvent::Gap { at: self.last, lost }),
        }
    }
}

impl Recorder for SpoolRecorder {
    fn output(&mut self, at: Duration, stream: OutputStream, data: &Bytes) {
        let queued = &self.spool.0.queued;
        // Sessions race for the last bytes; the bound may be passed by one output of each, which is all right.
        if queued.load(Ordering::Relaxed) + data.len() > MAX_QUEUED {
            if self.lost == 0 {
                tracing::warn!(session = %self.session, "the disk does not keep up with a session; its recording gets a gap");
            }
            self.lost += data.len() as u64;
            return;
        }
        queued.fetch_add(data.len(), Ordering::Relaxed);
        self.close_gap();
        self.send(RecordedEvent::Output { at, stream, data: data.clone() });
    }

    fn resize(&mut self, at: Duration, columns: u16, rows: u16) {
        self.close_gap();
        self.send(RecordedEvent::Resize { at, columns, rows });
    }

    fn finish(&mut self, at: Duration, end: SessionEnd) {
        self.finished = true;
        self.close_gap();
        self.send(RecordedEvent::End { at, end });
    }

    fn failed(&self) -> bool {
        // The spool does its best: what it must leave out is a gap in the record, not the end of the session.
        false
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
}

struct Worker {
    dir: PathBuf,
    messages: Receiver<Message>,
    queued: Arc<AtomicUsize>,
    closed: Arc<Notify>,
    files: HashMap<SessionId, Writing>,
    /// Never less than what is there: uploads take away without saying so.
    used: u64,
    /// Whether `used` was counted since the last flush; counting looks at every file.
    counted: bool,
    max: u64,
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
        let used = &mut self.used;
        self.files.retain(|session, writing| {
            keep(*session, writing.write(true, used).and_then(|()| writing.sync()))
        });
    }

    fn handle(&mut self, message: Message) {
        match message {
            Message::Begin { session, encoder, file } => {
                self.used += file.metadata().map(|data| data.len()).unwrap_or_default();
                self.files.insert(session, Writing { encoder, file, dirty: false, lost: 0 });
            }
            Message::Event { session, event } => self.event(session, &event),
            Message::Close => {}
        }
    }

    fn event(&mut self, session: SessionId, event: &RecordedEvent) {
        if let RecordedEvent::Output { data, .. } = event {
            self.queued.fetch_sub(data.len(), Ordering::Relaxed);
        }
        let end = matches!(event, RecordedEvent::End { .. });
        if self.used >= self.max && !self.counted {
            self.count();
        }
        if let Some(writing) = self.files.get_mut(&session) {
            let full = self.used >= self.max;
            let mut result = writing.event(event, full).and_then(|()| writing.write(end, &mut self.used));
            if end {
                result = result.and_then(|()| writing.sync());
            }
            if !keep(session, result) || end {
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

    /// Uploads made room meanwhile.
    fn count(&mut self) {
        let sizes =
            |dir| -> io::Result<u64> { fs::read_dir(dir)?.map(|entry| Ok(entry?.metadata()?.len())).sum() };
        self.used = sizes(&self.dir).unwrap_or(self.used);
        self.counted = true;
    }
}

/// Logs a failure; `false` if the recording cannot go on.
fn keep(session: SessionId, result: io::Result<()>) -> bool {
    if let Err(error) = &result {
        tracing::error!(%session, error = error as &dyn std::error::Error, "a session cannot be recorded any longer");
    }
    result.is_ok()
}

impl Writing {
    fn event(&mut self, event: &RecordedEvent, full: bool) -> io::Result<()> {
        if let RecordedEvent::Output { data, .. } = event
            && full
        {
            self.lost += data.len() as u64;
            return Ok(());
        }
        match std::mem::take(&mut self.lost) {
            0 => {}
            lost => self.encoder.event(&RecordedEvent::Gap { at: event.at(), lost })?,
        }
        self.encoder.event(event)
    }

    fn write(&mut self, flush: bool, used: &mut u64) -> io::Result<()> {
        let bytes = self.encoder.take(flush)?;
        if !bytes.is_empty() {
            self.file.write_all(&bytes)?;
            *used += bytes.len() as u64;
            self.dirty = true;
        }
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.dirty) { self.file.sync_data() } else { Ok(()) }
    }
}
