//! A file that is read: many reads on their way, their data in the file's order.

use std::collections::VecDeque;

use bytes::Bytes;

use super::answer::DATA_HEAD;
use super::connection::{Call, Room};
use super::{RemoteFile, SftpError};
use crate::sftp::wire::kind;

/// The most reads of one file that are on their way.
const MAX_READS: usize = 64;

/// Reads a file from some offset on.
#[derive(Debug)]
pub(crate) struct Reads {
    file: RemoteFile,
    /// Where the next read begins.
    next: u64,
    /// Where the last one ends; `None` if only the server knows.
    end: Option<u64>,
    waiting: VecDeque<Read>,
    /// How many may be on their way: where the end is not known, more with every full answer.
    most: usize,
    ended: bool,
}

#[derive(Debug)]
struct Read {
    offset: u64,
    length: u32,
    call: Call,
}

impl Reads {
    pub(super) const fn new(file: RemoteFile, offset: u64, end: Option<u64>) -> Self {
        let most = if end.is_some() { MAX_READS } else { 1 };
        Self { file, next: offset, end, waiting: VecDeque::new(), most, ended: false }
    }

    /// The file itself, when nothing more is to be read.
    pub(crate) fn into_file(self) -> RemoteFile {
        self.file
    }

    /// The next piece, never empty; `None` at the end. When it is dropped early, nothing is lost.
    ///
    /// # Errors
    /// [`SftpError`].
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, SftpError> {
        self.ask().await?;
        let Some(head) = self.waiting.front_mut() else { return Ok(None) };
        let answer = head.call.answer().await?;
        let Some(Read { offset, length, .. }) = self.waiting.pop_front() else { return Ok(None) };
        let Some(data) = answer.data(length)? else {
            // What else was asked for is behind the end.
            self.ended = true;
            self.waiting.clear();
            return Ok(None);
        };
        let read = u32::try_from(data.len()).unwrap_or(length);
        match length.checked_sub(read) {
            None | Some(0) => self.most = (2 * self.most).min(MAX_READS),
            // Less than was asked for: the rest of it comes before everything else, which has the room.
            Some(rest) => {
                let room = Room::beyond(cost(rest));
                let read = self.read(room, offset.saturating_add(read.into()), rest);
                self.waiting.push_front(read);
            }
        }
        Ok(Some(data))
    }

    /// Asks for as much as there is room for, and for something in any case.
    async fn ask(&mut self) -> Result<(), SftpError> {
        while !self.ended && self.waiting.len() < self.most {
            let longest = self.file.sftp.0.most.0;
            let length = match self.end.map(|end| end.saturating_sub(self.next)) {
                Some(0) => break,
                Some(left) => u32::try_from(left).unwrap_or(u32::MAX).min(longest),
                None => longest,
            };
            let room = match self.file.sftp.room_now(cost(length)) {
                Some(room) => room,
                None if self.waiting.is_empty() => self.file.sftp.room(cost(length)).await?,
                None => break,
            };
            let read = self.read(room, self.next, length);
            self.waiting.push_back(read);
            // A file that is longer than numbers go ends there.
            match self.next.checked_add(length.into()) {
                Some(next) => self.next = next,
                None => self.ended = true,
            }
        }
        Ok(())
    }

    fn read(&self, room: Room, offset: u64, length: u32) -> Read {
        let call = self.file.sftp.begin(room, kind::READ, |packet| {
            packet.string(&self.file.handle).u64(offset).u32(length);
        });
        Read { offset, length, call }
    }
}

fn cost(length: u32) -> usize {
    DATA_HEAD + usize::try_from(length).unwrap_or(usize::MAX / 2)
}
