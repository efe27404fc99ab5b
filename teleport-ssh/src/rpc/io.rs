//! Byte streams and who runs their tasks.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use async_trait::async_trait;
use bytes::{Buf as _, Bytes};
use teleport_core::task::TaskScope;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::{Mutex, mpsc};

use super::Connector;

/// Reads and writes bytes.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + ?Sized> Io for T {}

/// Any connection.
pub type BoxedIo = Box<dyn Io>;

/// Runs hyper's tasks in a scope, which ends them.
#[derive(Clone, Debug)]
pub(crate) struct ScopeExecutor(pub(crate) TaskScope);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for ScopeExecutor {
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}

/// A stream some of whose bytes were read already, for a look at them; they come first.
#[derive(Debug)]
pub(crate) struct Prefixed<S> {
    first: Bytes,
    stream: S,
}

impl<S> Prefixed<S> {
    pub(crate) fn new(first: impl Into<Bytes>, stream: S) -> Self {
        Self { first: first.into(), stream }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Prefixed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.first.has_remaining() {
            let len = self.first.len().min(out.remaining());
            out.put_slice(&self.first.split_to(len));
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(context, out)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prefixed<S> {
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

/// Connects an auth service and its clients within one process: TLS and all, without a socket.
pub fn pipe() -> (PipeConnector, PipeListener) {
    let (sender, receiver) = mpsc::channel(16);
    (PipeConnector(sender), PipeListener(Mutex::new(receiver)))
}

/// How long a pipe's buffer is in each direction.
const PIPE_LEN: usize = 64 << 10;

/// The clients' end of [`pipe`]: services of this process, and proxies of it for those whom they pass on.
#[derive(Clone)]
pub struct PipeConnector(mpsc::Sender<DuplexStream>);

impl fmt::Debug for PipeConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PipeConnector")
    }
}

#[async_trait]
impl Connector for PipeConnector {
    async fn connect(&self) -> io::Result<BoxedIo> {
        let (ours, theirs) = tokio::io::duplex(PIPE_LEN);
        self.0.send(theirs).await.map_err(|_| io::ErrorKind::ConnectionRefused)?;
        Ok(Box::new(ours))
    }
}

/// The server's end of [`pipe`].
pub struct PipeListener(Mutex<mpsc::Receiver<DuplexStream>>);

impl PipeListener {
    /// The next connection; pending for ever when all connectors are gone. Cancel safe.
    pub(super) async fn accept(&self) -> DuplexStream {
        match self.0.lock().await.recv().await {
            Some(accepted) => accepted,
            None => std::future::pending().await,
        }
    }
}

impl fmt::Debug for PipeListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PipeListener")
    }
}
