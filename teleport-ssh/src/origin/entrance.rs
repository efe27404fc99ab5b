//! A stream that takes the statement off its beginning without making anybody wait.
//!
//! In SSH both sides speak first, and some clients (`ssh-keyscan`) wait for the server's word: so nothing may be read before the SSH library
//! begins. What it reads passes here, and what it writes goes out at once.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use teleport_core::origin::{Beginning, OriginRejected, beginning};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Decides about a statement, and keeps what it says.
type Judge = Box<dyn FnOnce(&[u8]) -> Result<(), OriginRejected> + Send>;

/// How much is read at once until it is known how the connection begins.
const CHUNK: usize = 2048;

/// The stream, from whose reader the statement is hidden. After one that is not believed every read fails.
pub(crate) struct Entrance<S> {
    stream: S,
    state: State,
}

enum State {
    Beginning {
        read: Vec<u8>,
        judge: Judge,
    },
    /// What was read too much comes first.
    Open(Bytes),
    Shut,
}

impl<S> Entrance<S> {
    /// `judge` is called when there is a statement.
    pub(crate) fn new(
        stream: S,
        judge: impl FnOnce(&[u8]) -> Result<(), OriginRejected> + Send + 'static,
    ) -> Self {
        Self { stream, state: State::Beginning { read: Vec::new(), judge: Box::new(judge) } }
    }
}

impl<S> fmt::Debug for Entrance<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entrance")
            .field("open", &matches!(self.state, State::Open(_)))
            .finish_non_exhaustive()
    }
}

impl State {
    /// Looks at what was read, which is more than before.
    fn advance(self) -> Self {
        let Self::Beginning { read, judge } = self else { return self };
        let end = match beginning(&read) {
            Ok(Beginning::Partial) => return Self::Beginning { read, judge },
            Ok(Beginning::Other) => return Self::Open(read.into()),
            Ok(Beginning::Header(len)) => len,
            Err(_) => {
                // The judge says the same of it, in words for the log.
                let _ = judge(&read);
                return Self::Shut;
            }
        };
        let mut rest = Bytes::from(read);
        let header = rest.split_to(end);
        match judge(&header) {
            Ok(()) => Self::Open(rest),
            Err(_) => Self::Shut,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Entrance<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            match &mut this.state {
                State::Open(first) if first.has_remaining() => {
                    let len = first.len().min(out.remaining());
                    out.put_slice(&first.split_to(len));
                    return Poll::Ready(Ok(()));
                }
                State::Open(_) => return Pin::new(&mut this.stream).poll_read(context, out),
                State::Shut => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
                State::Beginning { read, .. } => {
                    let mut chunk = [0; CHUNK];
                    let mut chunk = ReadBuf::new(&mut chunk);
                    ready!(Pin::new(&mut this.stream).poll_read(context, &mut chunk))?;
                    if chunk.filled().is_empty() {
                        return Poll::Ready(Ok(()));
                    }
                    read.extend_from_slice(chunk.filled());
                    this.state = std::mem::replace(&mut this.state, State::Shut).advance();
                }
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Entrance<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
