//! A whole conversation.

use std::io;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::io::{AsyncRead, BufReader};

use super::command::{Direction, ScpCommand};
use super::wire::{Output, Wire};
use super::{sink, source};
use crate::client::copy::Side;
use crate::session::{FileReporter, SessionOutput};
use crate::sftp::{FileAction, FileOperation, Sftp};

/// How much of the input is read at a time, in bytes.
const BUFFER: usize = 128 << 10;

#[async_trait]
impl Output for SessionOutput {
    async fn send(&self, bytes: Bytes) -> io::Result<()> {
        self.stdout(bytes).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// Serves a client with the files of `sftp` and tells of each. Returns the exit status.
///
/// Dropping the future ends it; what has been written stays.
pub(crate) async fn serve(
    command: &ScpCommand,
    input: impl AsyncRead + Unpin + Send,
    output: impl Output,
    sftp: Sftp,
    told: &FileReporter,
) -> u32 {
    let mut wire = Wire::new(BufReader::with_capacity(BUFFER, input), output);
    let files = Side::remote(sftp, "");
    let ended = match command.direction {
        Direction::Sink => sink::run(&mut wire, command, &files, told).await,
        Direction::Source => source::run(&mut wire, command, &files, told).await,
    };
    u32::from(ended.is_err() || wire.failed)
}

/// A path as it is told to people and to the audit log.
pub(super) fn text(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// Something that is being done. Whatever happens, the audit log hears of it: if nobody says how it ended, that nobody knows.
pub(super) struct Telling<'a> {
    told: &'a FileReporter,
    /// `None` once it was told.
    operation: Option<FileOperation>,
}

impl<'a> Telling<'a> {
    pub(super) fn begin(told: &'a FileReporter, action: FileAction, path: &[u8]) -> Self {
        let operation = FileOperation { action, path: text(path), target: None, error: None };
        Self { told, operation: Some(operation) }
    }

    /// So much of it has been carried.
    pub(super) fn carried(&mut self, more: u64) {
        if let Some(FileOperation {
            action: FileAction::Download { bytes } | FileAction::Upload { bytes },
            ..
        }) = &mut self.operation
        {
            *bytes += more;
        }
    }

    /// Tells how it ended: why not well, if it did not.
    pub(super) async fn end(mut self, error: Option<&str>) {
        if let Some(operation) = self.operation.clone() {
            let operation = match error {
                Some(error) => operation.failed(error),
                None => operation,
            };
            self.told.done(operation).await;
            self.operation = None;
        }
    }
}

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        if let Some(operation) = self.operation.take() {
            self.told.note(operation.failed("the session ended before the outcome was known"));
        }
    }
}
