//! A connection to the server for one channel.
//!
//! The SSH library grants window by itself and hands over what comes through bounded queues, so one channel that nobody reads stops all of
//! its connection. Each channel has one for itself: what a user does not read waits at the server, and no other session or forward
//! waits with it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use russh::ChannelStream;
use russh::client::Msg;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;

use super::far::Far;
use crate::client::NodeConnection;
use crate::engine::transport::CutOnDrop;

/// How long the last words to a server may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// A connection that nobody uses.
pub(super) struct Idle {
    connection: NodeConnection,
    /// The last to go: whatever the server does, its connection ends.
    cut: CutOnDrop,
}

impl Idle {
    pub(super) const fn new(connection: NodeConnection, cut: CutOnDrop) -> Self {
        Self { connection, cut }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.connection.is_closed()
    }

    /// Says good-bye to the server, if it listens.
    pub(super) async fn end(self) {
        let Self { connection, cut } = self;
        let _ = tokio::time::timeout(GOODBYE, connection.end()).await;
        drop(cut);
    }
}

/// A connection that one channel has. When it is dropped the connection ends, and with it whatever the channel still runs.
pub(super) struct Leased {
    idle: Option<Idle>,
    far: Arc<Far>,
    /// Whether others had it before.
    pub(super) reused: bool,
    _place: OwnedSemaphorePermit,
}

impl Leased {
    pub(super) const fn new(idle: Idle, far: Arc<Far>, reused: bool, place: OwnedSemaphorePermit) -> Self {
        Self { idle: Some(idle), far, reused, _place: place }
    }

    /// The connection; none after it was given back, which takes this.
    pub(super) fn connection(&self) -> Option<&NodeConnection> {
        self.idle.as_ref().map(|idle| &idle.connection)
    }

    /// The channel has ended as it should: the next one may have the connection.
    pub(super) fn give_back(mut self) {
        if let Some(idle) = self.idle.take() {
            self.far.keep(idle);
        }
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        if let Some(idle) = self.idle.take() {
            self.far.end(idle);
        }
    }
}

/// What goes through a channel to where the server connected, and the connection that carries it.
pub(super) struct FarStream {
    stream: ChannelStream<Msg>,
    leased: Option<Leased>,
}

impl FarStream {
    pub(super) const fn new(stream: ChannelStream<Msg>, leased: Leased) -> Self {
        Self { stream, leased: Some(leased) }
    }
}

impl Drop for FarStream {
    fn drop(&mut self) {
        // The stream closes its channel. What the server still has for it is thrown away, so nobody waits for it.
        if let Some(leased) = self.leased.take() {
            leased.give_back();
        }
    }
}

impl AsyncRead for FarStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for FarStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
