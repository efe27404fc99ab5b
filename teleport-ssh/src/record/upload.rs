//! The upload: recordings from the spool to the auth service, in parts, resumed where they were interrupted.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use teleport_core::api::{ApiError, ApiErrorKind, AuditApi, RecordingApi};
use teleport_core::audit::{AuditEvent, EventKind};
use teleport_core::recording::{Decoder, MAX_PART_LEN, RecordingMeta};
use teleport_core::task::Shutdown;

use super::Spool;
use super::room::REFUSED;

/// The first and the longest pause after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(90));
/// How long a drain waits for a store that takes nothing. Nothing is lost by leaving: the spool is on disk.
const STUCK: Duration = Duration::from_secs(3);

/// Uploads what a [`Spool`] has closed.
#[derive(Clone, Debug)]
pub struct Uploader {
    spool: Spool,
    store: Arc<dyn RecordingApi>,
    audit: Option<Arc<dyn AuditApi>>,
    /// How many calls the store has answered well.
    answered: Arc<AtomicU64>,
}

#[derive(Debug, thiserror::Error)]
enum UploadError {
    #[error("the recording cannot be read")]
    Read(#[source] io::Error),
    #[error("the file is not a recording")]
    NotARecording,
    #[error("the recording was not taken")]
    Store(#[source] ApiError),
}

impl Uploader {
    /// For this spool, to this store.
    pub fn new(spool: Spool, store: Arc<dyn RecordingApi>) -> Self {
        Self { spool, store, audit: None, answered: Arc::default() }
    }

    /// Reports to this audit log when the spool is full, at most once an hour.
    #[must_use]
    pub fn audit(mut self, audit: Arc<dyn AuditApi>) -> Self {
        self.audit = Some(audit);
        self
    }

    /// Reports what the spool has to say. Never ends.
    async fn report(&self) {
        loop {
            let text = self.spool.room().news().await;
            let Some(audit) = &self.audit else { continue };
            let event = AuditEvent::new(EventKind::SessionUploadFailure).error(text);
            if let Err(error) = audit.emit_events(vec![event]).await {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "that the spool is full could not be audited"
                );
            }
        }
    }

    /// Uploads until shutdown: what waits now, and whatever is closed later. During a drain it finishes what is closed, and
    /// leaves, with a line in the log, once the store has taken nothing for some seconds. What it cannot deliver stays in the
    /// spool for the next start. Dropping the future is safe at any moment.
    pub async fn run(self, shutdown: Shutdown) {
        tokio::select! {
            () = self.deliver(&shutdown) => {}
            () = self.report() => {}
            () = self.stuck(&shutdown) => {
                let recordings = self.spool.waiting().map_or(0, |waiting| waiting.len());
                tracing::warn!(
                    recordings,
                    "the auth service takes no recordings now: they stay in the spool and are delivered after the next start"
                );
            }
        }
    }

    /// Resolves when a drain makes no progress.
    async fn stuck(&self, shutdown: &Shutdown) {
        shutdown.draining().await;
        loop {
            let before = self.answered.load(Ordering::Relaxed);
            tokio::time::sleep(STUCK).await;
            if self.answered.load(Ordering::Relaxed) == before {
                return;
            }
        }
    }

    async fn deliver(&self, shutdown: &Shutdown) {
        let mut pause = BACKOFF.0;
        loop {
            let done = tokio::select! {
                done = self.round() => done,
                () = shutdown.aborted() => return,
            };
            if done {
                pause = BACKOFF.0;
                if shutdown.is_draining() {
                    return;
                }
                tokio::select! {
                    () = self.spool.closed() => {}
                    // One more round: sessions may have ended in the last moment.
                    () = shutdown.draining() => {}
                }
            } else {
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = shutdown.aborted() => return,
                }
                pause = (pause * 2).min(BACKOFF.1);
            }
        }
    }

    /// Uploads everything that waits; `false` if something has to be tried again.
    async fn round(&self) -> bool {
        let waiting = match self.spool.waiting() {
            Ok(waiting) => waiting,
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "the spool cannot be read");
                return false;
            }
        };
        let mut done = true;
        let count = waiting.len();
        // Whose recordings are not taken today; asking for each would be of no use.
        let mut beyond = HashSet::new();
        for (delivered, path) in waiting.into_iter().enumerate() {
            let user = meta_of(&path).map(|meta| meta.user);
            if user.as_ref().is_some_and(|user| beyond.contains(user)) {
                continue;
            }
            match self.upload(&path).await {
                Ok(()) => {
                    if let Err(error) = std::fs::remove_file(&path) {
                        tracing::error!(path = %path.display(), error = &error as &dyn std::error::Error, "an uploaded recording cannot be removed");
                    }
                }
                Err(error) if is_final(&error) => {
                    set_aside(&path, &error);
                    self.spool.room().trim_refused();
                }
                Err(UploadError::Store(error)) if error.kind() == ApiErrorKind::TooMany => {
                    tracing::error!(
                        recordings = count - delivered,
                        user = user.as_ref().map(tracing::field::display),
                        spool = %self.spool.dir().display(),
                        error = &error as &dyn std::error::Error,
                        "the auth service takes no more recordings of this user or host today; they stay in the spool"
                    );
                    done = false;
                    beyond.extend(user);
                }
                Err(UploadError::Store(error)) if error.kind() == ApiErrorKind::Evicted => {
                    tracing::error!(
                        recordings = count - delivered,
                        spool = %self.spool.dir().display(),
                        error = &error as &dyn std::error::Error,
                        "the auth service takes no more recordings of this host; they stay in the spool"
                    );
                    // The others are of the same host.
                    return false;
                }
                Err(error) => {
                    tracing::warn!(path = %path.display(), error = &error as &dyn std::error::Error, "a recording waits for its upload");
                    done = false;
                }
            }
        }
        done
    }

    async fn upload(&self, path: &Path) -> Result<(), UploadError> {
        let file = File::open(path).map_err(UploadError::Read)?;
        let len = file.metadata().map_err(UploadError::Read)?.len();
        let meta = read_meta(&file)?;
        let session = meta.session;
        self.taken(self.store.create_recording(meta)).await?;
        let mut part = self.taken(self.store.recording_parts(session)).await?;
        loop {
            let offset = u64::from(part) * MAX_PART_LEN as u64;
            if offset >= len {
                break;
            }
            let size = usize::try_from(len - offset).unwrap_or(MAX_PART_LEN).min(MAX_PART_LEN);
            let mut bytes = vec![0; size];
            file.read_exact_at(&mut bytes, offset).map_err(UploadError::Read)?;
            self.taken(self.store.put_recording_part(session, part, Bytes::from(bytes))).await?;
            part += 1;
        }
        self.taken(self.store.complete_recording(session, part)).await
    }

    /// One call of the store.
    async fn taken<T>(&self, call: impl Future<Output = Result<T, ApiError>>) -> Result<T, UploadError> {
        let answer = call.await.map_err(UploadError::Store)?;
        self.answered.fetch_add(1, Ordering::Relaxed);
        Ok(answer)
    }
}

/// What the recording in this file is of, if that can be read.
pub(super) fn meta_of(path: &Path) -> Option<RecordingMeta> {
    read_meta(&File::open(path).ok()?).ok()
}

/// What the recording is of, from its first frame.
fn read_meta(file: &File) -> Result<RecordingMeta, UploadError> {
    let mut decoder = Decoder::new().map_err(UploadError::Read)?;
    let mut bytes = [0; 4096];
    let mut offset = 0;
    while decoder.meta().is_none() {
        let read = file.read_at(&mut bytes, offset).map_err(UploadError::Read)?;
        if read == 0 {
            return Err(UploadError::NotARecording);
        }
        offset += read as u64;
        decoder.feed(bytes.get(..read).unwrap_or_default());
        decoder.next_event().map_err(|_| UploadError::NotARecording)?;
    }
    decoder.meta().cloned().ok_or(UploadError::NotARecording)
}

/// Whether trying again cannot help.
fn is_final(error: &UploadError) -> bool {
    match error {
        UploadError::NotARecording => true,
        UploadError::Read(_) => false,
        UploadError::Store(error) => {
            matches!(error.kind(), ApiErrorKind::Conflict | ApiErrorKind::Denied | ApiErrorKind::Invalid)
        }
    }
}

/// Keeps a recording that nobody takes, under a name that is not tried again: an operator may look at it.
fn set_aside(path: &Path, error: &UploadError) {
    tracing::error!(path = %path.display(), error = error as &dyn std::error::Error, "a recording was refused and is set aside");
    let aside: PathBuf = path.with_extension(REFUSED);
    if let Err(error) = std::fs::rename(path, aside) {
        tracing::error!(path = %path.display(), error = &error as &dyn std::error::Error, "a refused recording cannot be set aside");
    }
}
