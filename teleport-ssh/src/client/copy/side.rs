//! Where files are: on this machine, or on a node.

use std::fs::{DirBuilder, File, OpenOptions, ReadDir};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;

use super::opened::{Opened, blocking, set};
use super::{CopyError, CopyFailure, is_dir};
use crate::sftp::Sftp;
use crate::sftp::client::{Entry, RemoteDir};
use crate::sftp::files;
use crate::sftp::wire::{Attributes, OpenFlags};

/// How many entries of a directory are looked at together.
const AT_ONCE: usize = 256;

/// Where files are.
#[derive(Clone, Debug)]
pub struct Side(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Local,
    Remote { sftp: Sftp, name: Arc<str> },
}

impl Side {
    /// This machine.
    pub const fn local() -> Self {
        Self(Kind::Local)
    }

    /// A node, and how its files are called in messages. Two sides of one copy must not be the same connection: each would wait for
    /// the other.
    pub fn remote(sftp: Sftp, name: &str) -> Self {
        Self(Kind::Remote { sftp, name: name.into() })
    }

    pub(super) const fn remote_files(&self) -> Option<&Sftp> {
        match &self.0 {
            Kind::Local => None,
            Kind::Remote { sftp, .. } => Some(sftp),
        }
    }

    /// A path as it is shown to people.
    pub(super) fn show(&self, path: &[u8]) -> String {
        let path = String::from_utf8_lossy(path);
        let path: String = path.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        match &self.0 {
            Kind::Local => path,
            Kind::Remote { name, .. } => format!("{name}:{path}"),
        }
    }

    pub(super) fn failure(&self, path: &[u8], cause: impl Into<CopyError>) -> CopyFailure {
        CopyFailure { path: self.show(path), cause: cause.into() }
    }

    /// Links followed.
    pub(crate) async fn stat(&self, path: &[u8]) -> Result<Attributes, CopyError> {
        match &self.0 {
            Kind::Local => {
                let path = local(path);
                blocking(move || Ok(files::attributes(&path.metadata()?))).await
            }
            Kind::Remote { sftp, .. } => Ok(sftp.stat(path).await?),
        }
    }

    /// Makes a directory, unless there is one.
    pub(crate) async fn make_dir(&self, path: &[u8], mode: u32) -> Result<(), CopyError> {
        let made = match &self.0 {
            Kind::Local => {
                let path = local(path);
                blocking(move || DirBuilder::new().mode(mode).create(path)).await
            }
            Kind::Remote { sftp, .. } => Ok(sftp.make_dir(path, mode).await?),
        };
        let Err(error) = made else { return Ok(()) };
        match self.stat(path).await {
            Ok(there) if is_dir(&there) => Ok(()),
            Ok(_) => Err(CopyError::NotDirectory),
            Err(_) => Err(error),
        }
    }

    /// Permissions and times of a directory.
    pub(crate) async fn set(&self, path: &[u8], attributes: Attributes) -> Result<(), CopyError> {
        match &self.0 {
            Kind::Local => {
                let path = local(path);
                blocking(move || set(&File::open(path)?, &attributes)).await
            }
            Kind::Remote { sftp, .. } => Ok(sftp.set(path, &attributes).await?),
        }
    }

    /// Opens a file to be read.
    pub(crate) async fn open(&self, path: &[u8]) -> Result<Opened, CopyError> {
        Ok(match &self.0 {
            Kind::Local => {
                let path = local(path);
                // A pipe that has taken the file's place must not make us wait for somebody to write.
                let open = || OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
                Opened::Local(Arc::new(blocking(open).await?))
            }
            Kind::Remote { sftp, .. } => Opened::Remote(sftp.open(path, OpenFlags::READ, None).await?),
        })
    }

    /// Opens a file to be written; `keep` what is in it, to be read too.
    pub(crate) async fn create(&self, path: &[u8], mode: u32, keep: bool) -> Result<Opened, CopyError> {
        Ok(match &self.0 {
            Kind::Local => {
                let path = local(path);
                let open = move || {
                    let mut options = OpenOptions::new();
                    options.read(keep).write(true).create(true).truncate(!keep).mode(mode).open(path)
                };
                Opened::Local(Arc::new(blocking(open).await?))
            }
            Kind::Remote { sftp, .. } => {
                let flags = OpenFlags::WRITE
                    | OpenFlags::CREATE
                    | if keep { OpenFlags::READ } else { OpenFlags::TRUNCATE };
                Opened::Remote(sftp.open(path, flags, Some(mode)).await?)
            }
        })
    }

    /// Begins to list a directory.
    pub(crate) async fn list(&self, path: &[u8]) -> Result<Listing, CopyError> {
        Ok(match &self.0 {
            Kind::Local => {
                let path = local(path);
                Listing::Local(Some(blocking(move || path.read_dir()).await?))
            }
            Kind::Remote { sftp, .. } => Listing::Remote(sftp.open_dir(path).await?),
        })
    }
}

fn local(path: &[u8]) -> PathBuf {
    files::path(path).to_owned()
}

/// A directory that is being listed.
#[derive(Debug)]
pub(crate) enum Listing {
    /// `None` at the end.
    Local(Option<ReadDir>),
    Remote(RemoteDir),
}

impl Listing {
    /// The next entries; `None` at the end. Those of a server are not checked yet.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<Entry>>, CopyError> {
        match self {
            Self::Local(dir) => {
                let Some(mut entries) = dir.take() else { return Ok(None) };
                let look = move || {
                    let mut found = Vec::new();
                    for entry in entries.by_ref().take(AT_ONCE) {
                        found.push(look(&entry?));
                    }
                    Ok::<_, io::Error>((entries, found))
                };
                let (entries, found) = blocking(look).await?;
                *dir = Some(entries);
                Ok(Some(found).filter(|found| !found.is_empty()))
            }
            Self::Remote(dir) => Ok(dir.next().await?),
        }
    }
}

/// Of what cannot be looked at, nothing is told but the name.
fn look(entry: &std::fs::DirEntry) -> Entry {
    let attributes = std::fs::metadata(entry.path()).map(|metadata| files::attributes(&metadata));
    Entry { name: entry.file_name().as_bytes().to_vec(), attributes: attributes.unwrap_or_default() }
}
