//! A file that is written: many writes on their way, sent in the file's order.

use std::collections::VecDeque;

use super::connection::Call;
use super::{RemoteFile, SftpError};
use crate::sftp::wire::kind;

/// The most writes of one file that are on their way.
const MAX_WRITES: usize = 64;
/// What stands around the data of a write, in bytes.
const HEAD: usize = 512;

/// Writes a file from some offset on.
#[derive(Debug)]
pub(crate) struct Writes {
    file: RemoteFile,
    next: u64,
    waiting: VecDeque<Call>,
}

impl Writes {
    pub(super) const fn new(file: RemoteFile, offset: u64) -> Self {
        Self { file, next: offset, waiting: VecDeque::new() }
    }

    /// Sends the next piece, as soon as there is room. When it is dropped early, a part may have been sent.
    ///
    /// # Errors
    /// Those of pieces sent before as well.
    pub(crate) async fn put(&mut self, piece: &[u8]) -> Result<(), SftpError> {
        let longest = usize::try_from(self.file.sftp.0.most.1).unwrap_or(usize::MAX);
        for data in piece.chunks(longest.max(1)) {
            let mut left = self.waiting.len();
            while let Some(call) = self.waiting.front_mut() {
                let answer = match call.now()? {
                    Some(answer) => answer,
                    None if left < MAX_WRITES => break,
                    None => call.answer().await?,
                };
                answer.done()?;
                self.waiting.pop_front();
                left = self.waiting.len();
            }
            let room = loop {
                if let Some(room) = self.file.sftp.room_now(data.len() + HEAD) {
                    break room;
                }
                // Room comes from those before, if they are our own, or from whoever has it.
                match self.waiting.front_mut() {
                    Some(call) => call.answer().await?.done()?,
                    None => break self.file.sftp.room(data.len() + HEAD).await?,
                }
                self.waiting.pop_front();
            };
            let call = self.file.sftp.begin(room, kind::WRITE, |packet| {
                packet.string(&self.file.handle).u64(self.next).string(data);
            });
            self.waiting.push_back(call);
            self.next = self.next.saturating_add(data.len() as u64);
        }
        Ok(())
    }

    /// Waits until everything is written, and gives the file back.
    ///
    /// # Errors
    /// Those of any piece.
    pub(crate) async fn finish(mut self) -> Result<RemoteFile, SftpError> {
        while let Some(mut call) = self.waiting.pop_front() {
            call.answer().await?.done()?;
        }
        Ok(self.file)
    }
}
