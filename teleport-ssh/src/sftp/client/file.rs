//! What is open at the server.

use super::connection::{ENTRIES, SHORT};
use super::{Entry, Reads, Sftp, SftpError, Writes};
use crate::sftp::wire::{Attributes, kind};

/// A file that is open. Dropping it closes it without waiting to hear whether that went well.
#[derive(Debug)]
pub(crate) struct RemoteFile {
    pub(super) sftp: Sftp,
    /// Empty when it was closed.
    pub(super) handle: Vec<u8>,
}

impl RemoteFile {
    pub(super) const fn new(sftp: Sftp, handle: Vec<u8>) -> Self {
        Self { sftp, handle }
    }

    pub(crate) async fn stat(&self) -> Result<Attributes, SftpError> {
        let answer = self.sftp.call(SHORT, kind::FSTAT, |packet| {
            packet.string(&self.handle);
        });
        answer.await?.attributes()
    }

    pub(crate) async fn set(&self, attributes: &Attributes) -> Result<(), SftpError> {
        let answer = self.sftp.call(SHORT, kind::FSETSTAT, |packet| {
            packet.string(&self.handle).attributes(attributes);
        });
        answer.await?.done()
    }

    /// Reads from `offset` to `end`, or to the end of the file.
    pub(crate) fn reads(self, offset: u64, end: Option<u64>) -> Reads {
        Reads::new(self, offset, end)
    }

    /// Writes from `offset` on.
    pub(crate) fn writes(self, offset: u64) -> Writes {
        Writes::new(self, offset)
    }

    /// Closes it. The server may say only now that something was not written.
    pub(crate) async fn close(mut self) -> Result<(), SftpError> {
        let handle = std::mem::take(&mut self.handle);
        let mut call = self.sftp.begin_at_once(kind::CLOSE, |packet| {
            packet.string(&handle);
        });
        call.answer().await?.done()
    }
}

impl Drop for RemoteFile {
    fn drop(&mut self) {
        if !self.handle.is_empty() {
            // Its answer is thrown away. Bounded by what is open.
            drop(self.sftp.begin_at_once(kind::CLOSE, |packet| {
                packet.string(&self.handle);
            }));
        }
    }
}

/// A directory that is being listed.
#[derive(Debug)]
pub(crate) struct RemoteDir {
    dir: RemoteFile,
}

impl RemoteDir {
    pub(super) const fn new(dir: RemoteFile) -> Self {
        Self { dir }
    }

    /// The next entries, `.` and `..` among them; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<Entry>>, SftpError> {
        let answer = self.dir.sftp.call(ENTRIES, kind::READDIR, |packet| {
            packet.string(&self.dir.handle);
        });
        answer.await?.entries()
    }
}
