//! Where a recording comes from: a file, or the auth service piece by piece.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use teleport_core::api::{ApiErrorKind, RecordingApi};
use teleport_core::id::SessionId;
use teleport_core::recording::{Decoder, RecordedEvent, RecordingMeta};
use tokio::fs::File;
use tokio::io::AsyncReadExt;

/// A recording that is read from its beginning to its end, and can begin anew. Holds one piece at a time.
#[derive(Debug)]
pub struct Source {
    origin: Origin,
    decoder: Decoder,
    ended: bool,
}

#[derive(Debug)]
enum Origin {
    File { path: PathBuf, file: File },
    Api { api: Arc<dyn RecordingApi>, session: SessionId, offset: u64 },
}

impl Source {
    /// A recording in a file.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub async fn file(path: &Path) -> Result<Self> {
        let file = File::open(path).await.with_context(|| format!("cannot open {}", path.display()))?;
        Ok(Self {
            origin: Origin::File { path: path.to_owned(), file },
            decoder: Decoder::new()?,
            ended: false,
        })
    }

    /// A recording of the cluster.
    ///
    /// # Errors
    /// When the reader cannot be made.
    pub fn api(api: Arc<dyn RecordingApi>, session: SessionId) -> Result<Self> {
        Ok(Self { origin: Origin::Api { api, session, offset: 0 }, decoder: Decoder::new()?, ended: false })
    }

    /// The same recording from its beginning.
    ///
    /// # Errors
    /// As when it was opened.
    pub async fn rewound(&self) -> Result<Self> {
        match &self.origin {
            Origin::File { path, .. } => Self::file(path).await,
            Origin::Api { api, session, .. } => Self::api(Arc::clone(api), *session),
        }
    }

    /// What the recording is of; known once an event was read.
    pub const fn meta(&self) -> Option<&RecordingMeta> {
        self.decoder.meta()
    }

    /// The next event; `None` at the end.
    ///
    /// # Errors
    /// When it cannot be read, or is damaged or cut at this place.
    pub async fn next(&mut self) -> Result<Option<RecordedEvent>> {
        loop {
            if let Some(event) = self.decoder.next_event()? {
                return Ok(Some(event));
            }
            if self.ended {
                return Ok(None);
            }
            let piece = self.origin.read().await?;
            if piece.is_empty() {
                self.ended = true;
                if self.decoder.is_cut() {
                    bail!("the recording ends in the middle: the node or the upload was interrupted here");
                }
                if self.decoder.intact() == 0 {
                    bail!("the recording is empty");
                }
            }
            self.decoder.feed(&piece);
        }
    }
}

impl Origin {
    async fn read(&mut self) -> Result<Bytes> {
        match self {
            Self::File { path, file } => {
                let mut piece = vec![0; 64 * 1024];
                let read =
                    file.read(&mut piece).await.with_context(|| format!("cannot read {}", path.display()))?;
                piece.truncate(read);
                Ok(piece.into())
            }
            Self::Api { api, session, offset } => match api.read_recording(*session, *offset).await {
                Ok(piece) => {
                    *offset += piece.len() as u64;
                    Ok(piece)
                }
                Err(error) if error.kind() == ApiErrorKind::NotFound => {
                    bail!("there is no recording {session} that you may see; `tsh recordings ls` lists them")
                }
                Err(error) => Err(error).context("cannot read the recording"),
            },
        }
    }
}
