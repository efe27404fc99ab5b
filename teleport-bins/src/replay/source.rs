//! Where a recording comes from: a file, or the auth service piece by piece.

use std::io::SeekFrom;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use teleport_core::api::{ApiErrorKind, RecordingApi};
use teleport_core::id::SessionId;
use teleport_core::recording::{
    Encoding, Ending, Index, MAX_PART_LEN, Missing, Reader, RecordedEvent, RecordingInfo, RecordingMeta, Step,
};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

/// A recording that can be read from any time on. Holds one piece at a time.
#[derive(Debug)]
pub struct Source {
    origin: Origin,
    reader: Reader,
    running: bool,
}

#[derive(Debug)]
enum Origin {
    File { path: PathBuf, file: File },
    Api { api: Arc<dyn RecordingApi>, session: SessionId },
}

/// What a recording has next.
#[derive(Debug)]
pub(super) enum Item {
    End(Ending),
    Event(RecordedEvent),
    Jump,
    Missing(Missing),
}

impl Source {
    /// A recording in a file.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub async fn file(path: &Path) -> Result<Self> {
        let open = async {
            let file = File::open(path).await?;
            let data = file.metadata().await?;
            // Of a pipe there is no length, nor an end to read first.
            Ok::<_, std::io::Error>((file, data.is_file().then_some(data.len())))
        };
        let (file, len) = open.await.with_context(|| format!("cannot open {}", path.display()))?;
        let origin = Origin::File { path: path.to_owned(), file };
        Ok(Self { origin, reader: Reader::new(len)?, running: false })
    }

    /// A recording of the cluster.
    ///
    /// # Errors
    /// When there is none that the caller may see, or the auth service does not answer.
    pub async fn api(api: Arc<dyn RecordingApi>, session: SessionId) -> Result<Self> {
        let info = match api.recording(session).await {
            Ok(info) => info,
            Err(error) if error.kind() == ApiErrorKind::NotFound => {
                bail!("there is no recording {session} that you may see; `tsh recordings ls` lists them")
            }
            Err(error) => return Err(error).context("cannot read the recording"),
        };
        let mut origin = Origin::Api { api, session };
        let len = origin.len(&info).await?;
        Ok(Self { origin, reader: Reader::new(Some(len))?, running: info.completed.is_none() })
    }

    /// What the recording is of; known once something was read.
    pub const fn meta(&self) -> Option<&RecordingMeta> {
        self.reader.meta()
    }

    /// What its end says about all of it; known once something was read, if it was asked for.
    pub(super) const fn index(&self) -> Option<&Index> {
        self.reader.index()
    }

    /// Whether more of it is to come.
    pub(super) const fn is_running(&self) -> bool {
        self.running
    }

    /// See [`Reader::want_index`].
    pub(super) const fn want_index(&mut self) {
        self.reader.want_index();
    }

    /// See [`Reader::seek`].
    pub(super) fn seek(&mut self, time: Duration, lead: u64) {
        self.reader.seek(time, lead);
    }

    /// See [`Reader::redraw`].
    pub(super) fn redraw(&mut self, time: Duration, lead: u64) {
        self.reader.redraw(time, lead);
    }

    /// What comes next. If it is dropped half way nothing is lost.
    ///
    /// # Errors
    /// When it cannot be read, or is no recording.
    pub(super) async fn next(&mut self) -> Result<Item> {
        loop {
            match self.reader.step()? {
                Step::End(ending) => return Ok(Item::End(ending)),
                Step::Event(event) => return Ok(Item::Event(event)),
                Step::Jump => return Ok(Item::Jump),
                Step::Missing(missing) => return Ok(Item::Missing(missing)),
                Step::Read { offset, len } => {
                    let piece = self.origin.read(offset, len).await?;
                    self.reader.feed(&piece);
                }
                _ => bail!("this program is older than its library"),
            }
        }
    }
}

impl Origin {
    async fn read(&mut self, offset: u64, len: usize) -> Result<Bytes> {
        match self {
            Self::File { path, file } => {
                let read = async {
                    // A pipe is read in order, and knows no places.
                    if file.metadata().await?.is_file() {
                        file.seek(SeekFrom::Start(offset)).await?;
                    }
                    let mut piece = vec![0; len];
                    let read = file.read(&mut piece).await?;
                    piece.truncate(read);
                    Ok::<_, std::io::Error>(piece.into())
                };
                read.await.with_context(|| format!("cannot read {}", path.display()))
            }
            Self::Api { api, session } => {
                api.read_recording(*session, offset).await.context("cannot read the recording")
            }
        }
    }

    /// How long a recording of the cluster is. Of one that is stored encrypted only about that is known: its end is looked for.
    async fn len(&mut self, info: &RecordingInfo) -> Result<u64> {
        if info.encoding == Encoding::Plain {
            return Ok(info.len);
        }
        let part = MAX_PART_LEN as u64;
        let mut end = info.len / (part + 512) * part;
        while end > 0 && self.read(end, MAX_PART_LEN).await?.is_empty() {
            end -= part;
        }
        loop {
            match self.read(end, MAX_PART_LEN).await?.len() as u64 {
                0 => return Ok(end),
                more => end += more,
            }
        }
    }
}
