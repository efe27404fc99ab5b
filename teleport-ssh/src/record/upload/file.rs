//! The upload of one recording.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use teleport_core::api::{ApiError, ApiErrorKind};
use teleport_core::audit::{AuditEvent, EventKind};
use teleport_core::id::SessionId;
use teleport_core::recording::{Decoder, MAX_PART_LEN, RecordingMeta};

use super::{Spool, Uploader};
use crate::record::live::Live;
use crate::record::spool::CUT;

/// Where a recording is that is to be delivered.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// In a file that is closed.
    Closed(PathBuf),
    /// In one that is being written: whole parts of it.
    Live(Arc<Live>),
}

impl Source {
    pub(super) fn path(&self, spool: &Spool) -> PathBuf {
        match self {
            Self::Closed(path) => path.clone(),
            Self::Live(live) => spool.open_file(live.meta.session),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub(super) enum UploadError {
    #[error("the auth service does not answer")]
    Late,
    #[error("the recording cannot be read")]
    Read(#[source] io::Error),
    #[error("the file is not a recording")]
    NotARecording,
    #[error("the recording was not taken")]
    Store(#[source] ApiError),
}

impl UploadError {
    /// Whether trying again helps not before long.
    pub(super) fn is_lasting(&self) -> bool {
        matches!(self, Self::Store(error) if matches!(error.kind(), ApiErrorKind::Evicted | ApiErrorKind::TooMany))
    }

    /// Whether trying again cannot help.
    pub(super) fn is_final(&self) -> bool {
        match self {
            Self::NotARecording => true,
            Self::Late | Self::Read(_) => false,
            Self::Store(error) => {
                matches!(error.kind(), ApiErrorKind::Conflict | ApiErrorKind::Denied | ApiErrorKind::Invalid)
            }
        }
    }
}

impl Uploader {
    /// Delivers what is there, and says how many parts that are: of a closed recording all, and its end.
    pub(super) async fn upload(&self, source: &Source) -> Result<u64, UploadError> {
        let file = File::open(source.path(&self.spool)).map_err(UploadError::Read)?;
        let (meta, len) = match source {
            Source::Closed(_) => (read_meta(&file)?, file.metadata().map_err(UploadError::Read)?.len()),
            // What is behind them may be written in part, or change.
            Source::Live(live) => (live.meta.clone(), live.now().synced / PART * PART),
        };
        let session = meta.session;
        self.taken(self.store.create_recording(meta.clone())).await?;
        let mut part = self.taken(self.store.recording_parts(session)).await?;
        while u64::from(part) * PART < len {
            self.put(&file, session, part, len).await?;
            part += 1;
        }
        if let Source::Closed(path) = source {
            if path.extension().is_some_and(|extension| extension == CUT) {
                self.tell_end(&meta).await?;
            }
            self.taken(self.store.complete_recording(session, part)).await?;
        }
        Ok(part.into())
    }

    /// Tells the audit log of the end of a session that ended with the node, or perhaps just before: the auth service leaves it out if
    /// it knows of the end.
    async fn tell_end(&self, meta: &RecordingMeta) -> Result<(), UploadError> {
        let Some(audit) = &self.audit else { return Ok(()) };
        let event = AuditEvent::new(EventKind::SessionEnd)
            .user(&meta.user)
            .login(&meta.login)
            .session(meta.session)
            .server(meta.host_id, &meta.host_name)
            .field("interactive", meta.terminal.is_some())
            .field("reason", "the node was interrupted")
            .field("recovered", true)
            .field("session_start", meta.started.to_string());
        self.taken(audit.emit_events(vec![event])).await
    }

    /// Delivers one part of a file of `len` bytes.
    pub(super) async fn put(
        &self,
        file: &File,
        session: SessionId,
        part: u32,
        len: u64,
    ) -> Result<(), UploadError> {
        let offset = u64::from(part) * PART;
        let bytes = read(file, offset, (offset + PART).min(len)).map_err(UploadError::Read)?;
        self.taken(self.store.put_recording_part(session, part, bytes)).await
    }

    /// One call of the store.
    pub(super) async fn taken<T>(
        &self,
        call: impl Future<Output = Result<T, ApiError>>,
    ) -> Result<T, UploadError> {
        let answer = call.await.map_err(UploadError::Store)?;
        self.answered.fetch_add(1, Ordering::Relaxed);
        Ok(answer)
    }
}

/// A part, in bytes.
pub(super) const PART: u64 = MAX_PART_LEN as u64;

/// The bytes of a file from `from` to `to`.
pub(super) fn read(file: &File, from: u64, to: u64) -> io::Result<Bytes> {
    let len = usize::try_from(to.saturating_sub(from)).unwrap_or(MAX_PART_LEN);
    let mut bytes = vec![0; len.min(MAX_PART_LEN)];
    file.read_exact_at(&mut bytes, from)?;
    Ok(bytes.into())
}

/// What the recording in this file is of, if that can be read.
pub(in crate::record) fn meta_of(path: &Path) -> Option<RecordingMeta> {
    read_meta(&File::open(path).ok()?).ok()
}

/// What the recording is of, from its beginning.
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
