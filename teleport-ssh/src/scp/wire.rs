//! The client's side of a conversation: lines, answers and bytes.

use std::io;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::io::{AsyncBufRead, AsyncBufReadExt};

use super::record::MAX_LINE;

/// Where what is said to the client goes.
#[async_trait]
pub(crate) trait Output: Send + Sync {
    /// Sends bytes; `Err` if the client is gone.
    async fn send(&self, bytes: Bytes) -> io::Result<()>;
}

/// A client.
pub(super) struct Wire<R, O> {
    pub(super) input: R,
    output: O,
    /// Whether something was not copied.
    pub(super) failed: bool,
}

/// What a client answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Good,
    /// This one is not wanted.
    Skip,
}

impl<R: AsyncBufRead + Unpin + Send, O: Output> Wire<R, O> {
    pub(super) const fn new(input: R, output: O) -> Self {
        Self { input, output, failed: false }
    }

    pub(super) async fn send(&self, bytes: impl Into<Bytes> + Send) -> io::Result<()> {
        self.output.send(bytes.into()).await
    }

    /// Says that it went well.
    pub(super) async fn good(&self) -> io::Result<()> {
        self.send(&b"\0"[..]).await
    }

    /// Says what failed. Everything else goes on.
    pub(super) async fn warn(&mut self, what: &str) -> io::Result<()> {
        self.failed = true;
        let what: String = what.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        self.send(format!("\x01scp: {what}\n").into_bytes()).await
    }

    /// The next line, without its end; `None` if there is none.
    pub(super) async fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        loop {
            let here = self.input.fill_buf().await?;
            if here.is_empty() {
                return if line.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
            let end = here.iter().position(|byte| *byte == b'\n');
            let part = here.get(..end.unwrap_or(here.len())).unwrap_or(here);
            if line.len() + part.len() > MAX_LINE {
                return Err(io::ErrorKind::InvalidData.into());
            }
            line.extend_from_slice(part);
            let taken = part.len() + usize::from(end.is_some());
            self.input.consume(taken);
            if end.is_some() {
                return Ok(Some(line));
            }
        }
    }

    /// Waits for the client's answer: a zero, or a line that says why not.
    pub(super) async fn answer(&mut self) -> io::Result<Answer> {
        match self.input.fill_buf().await?.first() {
            Some(0) => {
                self.input.consume(1);
                Ok(Answer::Good)
            }
            Some(1) => {
                self.line().await?;
                self.failed = true;
                Ok(Answer::Skip)
            }
            // It ends, or does not keep to the protocol.
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}
