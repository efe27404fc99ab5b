//! The spool: recordings on the node's own disk until they are uploaded.

mod recorder;
mod worker;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use teleport_core::access::SessionRecording;
use teleport_core::id::SessionId;
use teleport_core::recording::{Encoder, Recorder, RecordingMeta};
use tokio::sync::Notify;

use self::recorder::SpoolRecorder;
use self::worker::{Message, Worker};
use super::room::Room;
use super::{Recorders, upload};

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
        let worker = Worker::new(
            dir.clone(),
            messages,
            Arc::clone(&queued),
            Arc::clone(&closed),
            Arc::clone(&room),
            limits.max_recording_bytes,
        );
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
    fn start(&self, meta: RecordingMeta, mode: SessionRecording) -> Result<Box<dyn Recorder>, SpoolError> {
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
        Ok(Box::new(SpoolRecorder::new(self.clone(), session, mode, lost)))
    }
}
