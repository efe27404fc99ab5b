//! The spool: recordings on the node's own disk until they are uploaded.

mod recorder;
mod recover;
mod syncing;
mod worker;
mod writing;

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use teleport_core::access::SessionRecording;
use teleport_core::id::SessionId;
use teleport_core::recording::{Encoder, Recorder, RecordingMeta};
use tokio::sync::Notify;

use self::recorder::SpoolRecorder;
use self::syncing::Syncer;
use self::worker::{Message, Worker};
use super::live::Live;
use super::room::Room;
use super::{Recorders, upload};

/// Recordings that are being written.
const OPEN: &str = "part";
/// Recordings that wait for their upload.
pub(super) const CLOSED: &str = "tprec";
/// The same of sessions whose end perhaps nobody has told: the node ended before them, or soon after.
pub(super) const CUT: &str = "cut";

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

/// What becomes of recordings that could not be delivered for too long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum TooOld {
    /// They are deleted, each once the audit log has taken note of it.
    Delete,
    /// They stay, and are tried again; the audit log is told once.
    #[default]
    Keep,
}

/// How much a [`Spool`] may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "embedders build it")]
pub struct SpoolLimits {
    /// The most bytes on disk that wait for their upload, half of it of one user. Beyond it output of sessions that run is left
    /// out, with gaps that say so, and new sessions cannot be recorded. Recordings that were refused do not count: of them as
    /// much as half of this is kept, the newest.
    pub max_bytes: u64,
    /// How long a recording may wait for its upload before it is told of, and dealt with as [`too_old`](Self::too_old) says.
    pub max_age: Duration,
    /// What becomes of recordings that are too old.
    pub too_old: TooOld,
    /// The most bytes of one recording; beyond it output is left out, with a gap that says so. Less than what the auth service
    /// takes, so that no recording is refused for its length.
    pub max_recording_bytes: u64,
}

impl Default for SpoolLimits {
    /// 4 GiB, and 1 GiB of one recording; 7 days, and they are kept.
    fn default() -> Self {
        Self {
            max_bytes: 4 << 30,
            max_age: Duration::from_secs(7 * 86_400),
            too_old: TooOld::Keep,
            max_recording_bytes: 1 << 30,
        }
    }
}

/// A directory in which sessions are recorded. Clones share it; the last one to be dropped closes it.
#[derive(Clone)]
pub struct Spool(Arc<Inner>);

struct Inner {
    dir: PathBuf,
    limits: SpoolLimits,
    queue: Sender<Message>,
    queued: Arc<AtomicUsize>,
    news: Arc<Notify>,
    room: Arc<Room>,
    sessions: Arc<Sessions>,
    thread: Option<JoinHandle<()>>,
    #[cfg(test)]
    looks: AtomicUsize,
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

/// The recordings that are being made.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    live: Mutex<HashMap<SessionId, Arc<Live>>>,
    /// Those whose recorder somebody has: they are not delivered as a whole.
    held: Mutex<HashSet<SessionId>>,
    /// Those that nobody streams yet.
    begun: Mutex<Vec<Arc<Live>>>,
    streams: Notify,
}

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, HashMap<SessionId, Arc<Live>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, live: &Arc<Live>) {
        self.lock().insert(live.meta.session, Arc::clone(live));
        if live.mode == SessionRecording::Sync {
            self.begun.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(live));
            self.streams.notify_one();
        }
    }

    fn held(&self) -> MutexGuard<'_, HashSet<SessionId>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether somebody has the recorder of the recording in the file of this name.
    pub(super) fn is_held(&self, name: &str) -> bool {
        name.parse().is_ok_and(|session: SessionId| self.held().contains(&session))
    }

    /// The file is closed.
    fn end(&self, session: SessionId) {
        if let Some(live) = self.lock().remove(&session) {
            live.advance(|progress| progress.ended = true);
        }
    }

    /// Those that are being made now.
    pub(super) fn all(&self) -> Vec<Arc<Live>> {
        self.lock().values().cloned().collect()
    }

    /// Those that are to be streamed, each once. Cancel safe.
    pub(super) async fn streams(&self) -> Vec<Arc<Live>> {
        loop {
            let begun = std::mem::take(&mut *self.begun.lock().unwrap_or_else(PoisonError::into_inner));
            if !begun.is_empty() {
                return begun;
            }
            self.streams.notified().await;
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
        let entries: io::Result<Vec<_>> = fs::read_dir(&dir).and_then(Iterator::collect);
        for entry in entries.map_err(fail)? {
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == CLOSED) {
                // Whether its end was told before the node ended is not known.
                fs::rename(&path, path.with_extension(CUT)).map_err(fail)?;
            }
            if path.extension().is_some_and(|extension| extension == OPEN) {
                recover::close(&path).map_err(fail)?;
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
        let news = Arc::new(Notify::new());
        let sessions = Arc::new(Sessions::default());
        let worker = Worker {
            dir: dir.clone(),
            messages,
            queued: Arc::clone(&queued),
            syncer: Syncer::start(queue.clone()).map_err(fail)?,
            news: Arc::clone(&news),
            room: Arc::clone(&room),
            sessions: Arc::clone(&sessions),
            max_recording: limits.max_recording_bytes,
        };
        let thread = std::thread::Builder::new()
            .name("recording-spool".into())
            .spawn(|| worker.run())
            .map_err(fail)?;
        Ok(Self(Arc::new(Inner {
            dir,
            limits,
            queue,
            queued,
            news,
            room,
            sessions,
            thread: Some(thread),
            #[cfg(test)]
            looks: AtomicUsize::default(),
        })))
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    pub(super) fn limits(&self) -> SpoolLimits {
        self.0.limits
    }

    /// Resolves when there is more to upload since the last call: a recording was closed, or a part of one is whole. Cancel safe.
    pub(super) async fn news(&self) {
        self.0.news.notified().await;
    }

    /// Nobody has the recorder any more.
    fn release(&self, session: SessionId) {
        self.0.sessions.held().remove(&session);
        self.0.news.notify_one();
    }

    /// The file of a recording that is being made.
    pub(super) fn open_file(&self, session: SessionId) -> PathBuf {
        path(&self.0.dir, session, OPEN)
    }

    /// The recordings that are being made.
    pub(super) fn sessions(&self) -> &Sessions {
        &self.0.sessions
    }

    /// The recordings that wait for their upload.
    pub(super) fn waiting(&self) -> io::Result<Vec<PathBuf>> {
        #[cfg(test)]
        self.0.looks.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        waiting(&self.0.dir)
    }

    /// How often all that waits was looked at.
    #[cfg(test)]
    pub(super) fn looks(&self) -> usize {
        self.0.looks.load(std::sync::atomic::Ordering::Relaxed)
    }

    pub(super) fn room(&self) -> &Room {
        &self.0.room
    }
}

fn waiting(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == CLOSED || extension == CUT) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

impl Recorders for Spool {
    fn start(&self, meta: RecordingMeta, mode: SessionRecording) -> Result<Box<dyn Recorder>, SpoolError> {
        let session = meta.session;
        let path = path(&self.0.dir, session, OPEN);
        let room = &self.0.room;
        let open = || -> io::Result<(File, Encoder, u64)> {
            room.own(session, meta.user.clone());
            if room.is_full_for(session) {
                // Uploads may have made room.
                room.count()?;
                room.own(session, meta.user.clone());
                if room.is_full_for(session) {
                    room.tell_full(session);
                    let text =
                        "there is no room for more recordings until some are delivered to the auth service";
                    return Err(io::Error::new(io::ErrorKind::StorageFull, text));
                }
            }
            if room.is_failing() {
                let text = "the disk does not take recordings now";
                return Err(io::Error::new(io::ErrorKind::StorageFull, text));
            }
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            let mut encoder = Encoder::new(&meta)?;
            // The header is on disk before the session begins: no session without a trace.
            let header = encoder.take(true)?;
            let durable = file.write_all(&header).and_then(|()| file.sync_data());
            // The name as well.
            if let Err(error) = durable.and_then(|()| File::open(&self.0.dir)?.sync_all()) {
                // Nothing has begun, so there is nothing to deliver.
                let _ = fs::remove_file(&path);
                return Err(error);
            }
            // Again: whoever counted meanwhile has forgotten what had no file.
            room.own(session, meta.user.clone());
            room.add(session, header.len() as u64);
            Ok((file, encoder, header.len() as u64))
        };
        let (file, encoder, len) = open().map_err(|source| SpoolError { path: path.clone(), source })?;
        let live = Live::new(meta, mode);
        let begin = Message::Begin { live: Arc::clone(&live), encoder: Box::new(encoder), file, len };
        let gone = || SpoolError { path, source: io::ErrorKind::BrokenPipe.into() };
        self.0.queue.send(begin).map_err(|_| gone())?;
        self.0.sessions.held().insert(session);
        self.0.sessions.begin(&live);
        Ok(Box::new(SpoolRecorder::new(self.clone(), live)))
    }
}
