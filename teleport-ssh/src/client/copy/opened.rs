//! A file that is open, here or at a node: its bytes in their order, out and in.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::task::JoinHandle;

use super::CopyError;
use crate::sftp::client::{Reads, RemoteFile, Writes};
use crate::sftp::files;
use crate::sftp::wire::Attributes;

/// How much is read from or written to a disk at a time, in bytes.
const BLOCK: usize = 1 << 20;

/// Runs what may wait for a disk.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, CopyError> {
    Ok(tokio::task::spawn_blocking(work).await.map_err(io::Error::other)??)
}

/// An open file.
#[derive(Debug)]
pub(crate) enum Opened {
    Local(Arc<File>),
    Remote(RemoteFile),
}

impl Opened {
    pub(crate) async fn stat(&self) -> Result<Attributes, CopyError> {
        match self {
            Self::Local(file) => {
                let file = Arc::clone(file);
                blocking(move || Ok(files::attributes(&file.metadata()?))).await
            }
            Self::Remote(file) => Ok(file.stat().await?),
        }
    }

    /// Makes it empty.
    pub(super) async fn clear(&self) -> Result<(), CopyError> {
        match self {
            Self::Local(file) => {
                let file = Arc::clone(file);
                blocking(move || file.set_len(0)).await
            }
            Self::Remote(file) => {
                Ok(file.set(&Attributes { size: Some(0), ..Attributes::default() }).await?)
            }
        }
    }

    /// The bytes from `offset` to `end`, fewer if it ends before that.
    pub(super) async fn read(self, offset: u64, end: u64) -> Result<(Self, Vec<u8>), CopyError> {
        let length = usize::try_from(end.saturating_sub(offset)).unwrap_or(BLOCK).min(BLOCK);
        match self {
            Self::Local(file) => {
                let reader = Arc::clone(&file);
                let read = blocking(move || {
                    let mut bytes = vec![0; length];
                    let mut filled = 0;
                    while let Some(rest @ [_, ..]) = bytes.get_mut(filled..) {
                        match reader.read_at(rest, offset + filled as u64)? {
                            0 => break,
                            read => filled += read,
                        }
                    }
                    bytes.truncate(filled);
                    Ok(bytes)
                });
                Ok((Self::Local(file), read.await?))
            }
            Self::Remote(file) => {
                let mut reads = file.reads(offset, Some(offset + length as u64));
                let mut bytes = Vec::with_capacity(length);
                while let Some(piece) = reads.next().await? {
                    bytes.extend_from_slice(&piece);
                }
                Ok((Self::Remote(reads.into_file()), bytes))
            }
        }
    }

    /// Its bytes from `offset` to `end`, or to its own end.
    pub(crate) fn into_outflow(self, offset: u64, end: Option<u64>) -> Outflow {
        match self {
            Self::Local(file) => {
                let left = end.map_or(u64::MAX, |end| end.saturating_sub(offset));
                Outflow::Local(LocalOutflow { file, start: Some(offset), left, reading: None })
            }
            Self::Remote(file) => Outflow::Remote(file.reads(offset, end)),
        }
    }

    /// Takes bytes from `offset` on.
    pub(crate) fn into_inflow(self, offset: u64) -> Inflow {
        match self {
            Self::Local(file) => Inflow::Local(LocalInflow {
                file,
                start: (offset > 0).then_some(offset),
                gathered: Vec::new(),
                bytes: 0,
                writing: None,
            }),
            Self::Remote(file) => Inflow::Remote(file.writes(offset)),
        }
    }
}

/// The bytes of a file, read ahead.
#[derive(Debug)]
pub(crate) enum Outflow {
    Local(LocalOutflow),
    Remote(Reads),
}

#[derive(Debug)]
pub(crate) struct LocalOutflow {
    file: Arc<File>,
    /// Where to begin, until it has begun.
    start: Option<u64>,
    left: u64,
    reading: Option<JoinHandle<io::Result<Bytes>>>,
}

impl Outflow {
    /// The next piece, never empty; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, CopyError> {
        match self {
            Self::Local(local) => Ok(local.next().await?),
            Self::Remote(reads) => Ok(reads.next().await?),
        }
    }
}

impl LocalOutflow {
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        if self.reading.is_none() {
            self.read();
        }
        let Some(reading) = &mut self.reading else { return Ok(None) };
        let block = reading.await.map_err(io::Error::other);
        self.reading = None;
        let block = block??;
        self.left = self.left.saturating_sub(block.len() as u64);
        // What is short of a block was the end.
        if block.len() < BLOCK {
            self.left = 0;
        }
        self.read();
        Ok(Some(block).filter(|block| !block.is_empty()))
    }

    /// Reads the next block, unless that was the last one.
    fn read(&mut self) {
        if self.left == 0 {
            return;
        }
        let (file, start) = (Arc::clone(&self.file), self.start.take());
        let most = self.left.min(BLOCK as u64);
        self.reading = Some(tokio::task::spawn_blocking(move || {
            let mut file = &*file;
            if let Some(start) = start {
                file.seek(SeekFrom::Start(start))?;
            }
            let mut block = Vec::with_capacity(usize::try_from(most).unwrap_or(BLOCK));
            file.take(most).read_to_end(&mut block)?;
            Ok(block.into())
        }));
    }
}

/// Takes the bytes of a file.
#[derive(Debug)]
pub(crate) enum Inflow {
    Local(LocalInflow),
    Remote(Writes),
}

/// Pieces are gathered while others are written. They are written in their order, so that what is there of a file is its beginning.
#[derive(Debug)]
pub(crate) struct LocalInflow {
    file: Arc<File>,
    /// Where to begin, if it is not the beginning, until it has begun.
    start: Option<u64>,
    gathered: Vec<Bytes>,
    bytes: usize,
    writing: Option<JoinHandle<io::Result<()>>>,
}

impl Inflow {
    /// Takes the next piece.
    pub(crate) async fn put(&mut self, piece: Bytes) -> Result<(), CopyError> {
        match self {
            Self::Local(local) => Ok(local.put(piece).await?),
            Self::Remote(writes) => Ok(writes.put(&piece).await?),
        }
    }

    /// Waits until everything is written, sets what is said, and closes the file.
    pub(crate) async fn finish(self, attributes: Option<Attributes>) -> Result<(), CopyError> {
        match self {
            Self::Local(local) => Ok(local.finish(attributes).await?),
            Self::Remote(writes) => {
                let file = writes.finish().await?;
                if let Some(attributes) = attributes {
                    file.set(&attributes).await?;
                }
                Ok(file.close().await?)
            }
        }
    }
}

impl LocalInflow {
    async fn put(&mut self, piece: Bytes) -> io::Result<()> {
        self.bytes += piece.len();
        self.gathered.push(piece);
        if self.bytes >= BLOCK {
            self.settle().await?;
            let write = self.write();
            self.writing = Some(tokio::task::spawn_blocking(write));
        }
        Ok(())
    }

    /// Waits for what is being written.
    async fn settle(&mut self) -> io::Result<()> {
        match self.writing.take() {
            Some(writing) => writing.await.map_err(io::Error::other)?,
            None => Ok(()),
        }
    }

    /// Writes what is gathered.
    fn write(&mut self) -> impl FnOnce() -> io::Result<()> + Send + 'static {
        let (file, start) = (Arc::clone(&self.file), self.start.take());
        let gathered = std::mem::take(&mut self.gathered);
        self.bytes = 0;
        move || {
            let mut file = &*file;
            if let Some(start) = start {
                file.seek(SeekFrom::Start(start))?;
            }
            gathered.iter().try_for_each(|piece| file.write_all(piece))
        }
    }

    async fn finish(mut self, attributes: Option<Attributes>) -> io::Result<()> {
        self.settle().await?;
        let (write, file) = (self.write(), self.file);
        let last = move || {
            write()?;
            attributes.map_or(Ok(()), |attributes| set(&file, &attributes))
        };
        tokio::task::spawn_blocking(last).await.map_err(io::Error::other)?
    }
}

/// Permissions and times.
pub(super) fn set(file: &File, attributes: &Attributes) -> io::Result<()> {
    if let Some(mode) = attributes.mode {
        file.set_permissions(PermissionsExt::from_mode(mode & 0o777))?;
    }
    if let Some((accessed, modified)) = attributes.times {
        let at = |seconds: u32| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.into());
        file.set_times(std::fs::FileTimes::new().set_accessed(at(accessed)).set_modified(at(modified)))?;
    }
    Ok(())
}
