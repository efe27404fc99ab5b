//! Reads ahead of TLS, which asks for 4 KiB at a time: four system calls for each record.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

/// How much is read at once, in bytes: a frame with all that is around it.
const AHEAD: usize = 72 << 10;

/// A stream that is read in large pieces. It has a buffer only while there is something to read: most tunnels are idle.
#[derive(Debug)]
pub(crate) struct ReadAhead<S> {
    stream: S,
    buffer: BytesMut,
}

impl<S> ReadAhead<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, buffer: BytesMut::new() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ReadAhead<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.buffer.is_empty() {
            this.buffer.reserve(AHEAD);
            match poll_read_buf(Pin::new(&mut this.stream), context, &mut this.buffer) {
                Poll::Ready(read) => drop(read?),
                Poll::Pending => {
                    this.buffer = BytesMut::new();
                    return Poll::Pending;
                }
            }
        }
        let len = this.buffer.len().min(out.remaining());
        out.put_slice(this.buffer.get(..len).unwrap_or_default());
        this.buffer.advance(len);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ReadAhead<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, data)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn what_comes_is_read_in_order_to_its_end_and_no_buffer_is_kept() {
        let (mut far, near) = tokio::io::duplex(200 << 10);
        let mut near = ReadAhead::new(near);
        let sent: Vec<u8> = (0..150_000_u32).map(|at| (at % 251) as u8).collect();
        far.write_all(&sent).await.unwrap();
        let (mut got, mut piece) = (Vec::new(), [0; 4096]);
        while got.len() < sent.len() {
            let read = near.read(&mut piece).await.unwrap();
            got.extend_from_slice(piece.get(..read).unwrap());
        }
        assert!(got == sent);
        let nothing = futures_util::poll!(std::pin::pin!(near.read(&mut piece)));
        assert!(nothing.is_pending());
        assert_eq!(near.buffer.capacity(), 0);
        near.write_all(b"back").await.unwrap();
        let mut back = [0; 4];
        far.read_exact(&mut back).await.unwrap();
        assert_eq!(&back, b"back");
        drop(far);
        assert_eq!(near.read(&mut piece).await.unwrap(), 0);
    }
}
