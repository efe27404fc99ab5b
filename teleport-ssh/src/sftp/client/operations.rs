//! Single requests.

use super::connection::{PATH, SHORT};
use super::{RemoteDir, RemoteFile, Sftp, SftpError};
use crate::sftp::wire::{Attributes, OpenFlags, kind};

impl Sftp {
    /// What is told of what a name leads to, links followed.
    pub(crate) async fn stat(&self, path: &[u8]) -> Result<Attributes, SftpError> {
        let answer = self.call(SHORT, kind::STAT, |packet| {
            packet.string(path);
        });
        answer.await?.attributes()
    }

    /// Opens a file.
    pub(crate) async fn open(
        &self,
        path: &[u8],
        flags: u32,
        mode: Option<u32>,
    ) -> Result<RemoteFile, SftpError> {
        let attributes = Attributes { mode, ..Attributes::default() };
        let answer = self.call(SHORT, kind::OPEN, |packet| {
            packet.string(path).u32(OpenFlags(flags).0).attributes(&attributes);
        });
        Ok(RemoteFile::new(self.clone(), answer.await?.handle()?))
    }

    /// Begins to list a directory.
    pub(crate) async fn open_dir(&self, path: &[u8]) -> Result<RemoteDir, SftpError> {
        let answer = self.call(SHORT, kind::OPENDIR, |packet| {
            packet.string(path);
        });
        Ok(RemoteDir::new(RemoteFile::new(self.clone(), answer.await?.handle()?)))
    }

    /// Makes a directory.
    pub(crate) async fn make_dir(&self, path: &[u8], mode: u32) -> Result<(), SftpError> {
        let attributes = Attributes { mode: Some(mode), ..Attributes::default() };
        let answer = self.call(SHORT, kind::MKDIR, |packet| {
            packet.string(path).attributes(&attributes);
        });
        answer.await?.done()
    }

    /// Sets what is said.
    pub(crate) async fn set(&self, path: &[u8], attributes: &Attributes) -> Result<(), SftpError> {
        let answer = self.call(SHORT, kind::SETSTAT, |packet| {
            packet.string(path).attributes(attributes);
        });
        answer.await?.done()
    }

    /// The path with `~name` at its beginning replaced by a home directory.
    pub(crate) async fn expand(&self, path: &[u8]) -> Result<Vec<u8>, SftpError> {
        if !self.0.can.expand_path {
            return Err(SftpError::Unsupported("home directories of others (~name)"));
        }
        let answer = self.call(PATH, kind::EXTENDED, |packet| {
            packet.string("expand-path@openssh.com").string(path);
        });
        answer.await?.name()
    }
}
