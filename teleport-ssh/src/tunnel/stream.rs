//! One stream of a tunnel, as what reads and writes bytes.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::FRAME;

/// The most bytes that are handed over for sending at once: one frame.
pub(super) const PIECE: usize = FRAME as usize;

/// A stream of a tunnel. What was not read is not acknowledged, so a reader that stops stops its writer, and nobody else. Dropping it before
/// both sides have ended tells the other side that it broke off.
pub(super) struct TunnelStream {
    pub(super) incoming: RecvStream,
    pub(super) outgoing: SendStream<Bytes>,
    /// What came and is not read yet.
    read: Bytes,
    ended: bool,
    finished: bool,
}

impl TunnelStream {
    pub(super) fn new(incoming: RecvStream, outgoing: SendStream<Bytes>) -> Self {
        Self { incoming, outgoing, read: Bytes::new(), ended: false, finished: false }
    }

    /// Whether the other side takes nothing more, which is an end and no failure if it has said so without an error.
    fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        let reason = match ready!(self.outgoing.poll_reset(context)) {
            Ok(reason) => reason,
            Err(error) => return Poll::Ready(failure(error)),
        };
        Poll::Ready(io::Error::new(io::ErrorKind::BrokenPipe, format!("the stream broke off: {reason}")))
    }
}

impl fmt::Debug for TunnelStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TunnelStream").field("ended", &self.ended).finish_non_exhaustive()
    }
}

impl AsyncRead for TunnelStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.read.is_empty() && !this.ended {
            match ready!(this.incoming.poll_data(context)) {
                Some(Ok(data)) => this.read = data,
                // Whoever has said everything may say so in this way.
                Some(Err(error)) if error.reason() == Some(Reason::NO_ERROR) => this.ended = true,
                Some(Err(error)) => return Poll::Ready(Err(failure(error))),
                None => this.ended = true,
            }
        }
        let len = this.read.len().min(out.remaining());
        out.put_slice(this.read.get(..len).unwrap_or_default());
        this.read.advance(len);
        // Fails only when the stream is over, and then there is nobody to tell.
        let _ = this.incoming.flow_control().release_capacity(len);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TunnelStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let data = data.get(..PIECE).unwrap_or(data);
        this.outgoing.reserve_capacity(data.len());
        let mut room = this.outgoing.capacity();
        while room == 0 {
            room = match ready!(this.outgoing.poll_capacity(context)) {
                Some(Ok(room)) => room,
                Some(Err(error)) => return Poll::Ready(Err(failure(error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            };
        }
        let piece = data.get(..room).unwrap_or(data);
        this.outgoing.send_data(Bytes::copy_from_slice(piece), false).map_err(failure)?;
        Poll::Ready(Ok(piece.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The connection's task sends what it was given.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !std::mem::replace(&mut this.finished, true) {
            if let Poll::Ready(error) = this.poll_gone(context) {
                return Poll::Ready(Err(error));
            }
            this.outgoing.send_data(Bytes::new(), true).map_err(failure)?;
        }
        Poll::Ready(Ok(()))
    }
}

pub(super) fn failure(error: h2::Error) -> io::Error {
    match error.is_io() {
        true => error.into_io().unwrap_or_else(|| io::ErrorKind::ConnectionAborted.into()),
        false => io::Error::new(io::ErrorKind::ConnectionReset, error),
    }
}
