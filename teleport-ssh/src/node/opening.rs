//! How a connection begins: the node says its name, a proxy says where the client is, and the client speaks SSH, or wants to be able to go on
//! with its connection later, or goes on with one that it has.
//!
//! In SSH both sides speak first, and some clients (`ssh-keyscan`) wait for the server's word: so the node's name goes out before anything
//! is read, and the SSH library, which would say it as well, is not heard with it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes, BytesMut};
use teleport_core::audit::EventKind;
use teleport_core::origin::{Malformed, OriginRejected};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};

use super::Shared;
use super::authorize::{self, Refusal, chain};
use super::connection::Begun;
use super::lifetime::Tether;
use crate::engine::greeting;
use crate::listener::limits::Outcome;
use crate::origin::{Arrival, Whence, take_header};
use crate::resume::{Again, Hello, NotResumed, Opening};
use crate::rpc::BoxedIo;

/// A connection whose client has spoken.
pub(super) struct Opened {
    pub(super) stream: BoxedIo,
    /// What was read, and is for others.
    pub(super) read: BytesMut,
    pub(super) hello: Option<Hello>,
}

/// Says the node's name, and hears the client's first word. A proxy's statement before it is judged by the newest view; where it has to be
/// `stated`, there must be one.
///
/// # Errors
/// Those of the stream, and `InvalidData` for a statement that is not believed; `whence` knows why.
pub(super) async fn open(
    node: &Arc<Shared>,
    config: &russh::server::Config,
    mut stream: BoxedIo,
    (whence, stated): (&Whence, bool),
) -> io::Result<Opened> {
    stream.write_all(&greeting(config)).await?;
    let (header, mut read) = take_header(&mut stream).await.inspect_err(|error| {
        if let Some(malformed) = error.get_ref().and_then(|error| error.downcast_ref::<Malformed>()) {
            // What is heard is the reason already.
            let _ = whence.hear(Err((*malformed).into()));
        }
    })?;
    if let Some(header) = header {
        let arrival = || {
            let view = node.view.usable().map_err(|_| OriginRejected::Trust)?;
            let origin = node.origins.verify(&header, &view.trust)?;
            Ok(Arrival::carried(whence.peer(), origin, &view, node.clock.now()))
        };
        whence.hear(arrival()).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    } else if stated {
        let missing = whence.hear(Err(OriginRejected::Missing));
        missing.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    }
    let hello = loop {
        match Hello::read(&read) {
            Opening::Hello(hello, len) if node.resumable.offers() => {
                read.advance(len);
                break Some(hello);
            }
            Opening::Hello(..) | Opening::Other => break None,
            Opening::Partial => {}
        }
        if stream.read_buf(&mut read).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    };
    Ok(Opened { stream, read, hello })
}

/// Who has a connection that can be resumed.
#[derive(Debug)]
pub(super) struct Owner {
    pub(super) tether: Tether,
    pub(super) whence: Whence,
}

/// Why a client does not get its connection again. For the log and the audit event.
#[derive(Debug, thiserror::Error)]
enum NotBack {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Resume(#[from] NotResumed),
}

/// Hands a connection to the one that it goes on with, if its client proves that it is its own and may come from where it is.
pub(super) async fn resume(node: &Arc<Shared>, begun: Begun, again: Again, stream: BoxedIo, read: BytesMut) {
    let Begun { mut admitted, whence, local, .. } = begun;
    let arrival = whence.arrival();
    let peer = arrival.client();
    let event = node.event(EventKind::ClientResume).remote(Some(peer)).field("addr.local", local.to_string());
    let mut told = None;
    let permit = |owner: &Owner| {
        let entry = owner.tether.entry().ok_or(NotResumed::Unknown)?;
        let before = owner.whence.arrival().client();
        let event = entry.pass.name_in(event).field("addr.before", before.to_string());
        told = Some((event, before));
        let record = node.record.borrow().clone();
        authorize::resume(entry, &arrival, node.clock.now(), &node.view, &record)?;
        owner.whence.moves(arrival.clone());
        Ok::<_, NotBack>(())
    };
    let resumed = node.resumable.resume(stream, read, again, &*node.entropy, permit).await;
    match (resumed, told) {
        (Ok(()), Some((event, before))) => {
            admitted.record(Outcome::Authenticated);
            tracing::info!(%peer, %before, "a connection goes on");
            node.audit.note(event);
        }
        (Err(why), told) => {
            let reason = chain(&why);
            tracing::info!(%peer, %reason, "a connection was not resumed");
            if let (NotBack::Refused(_), Some((event, _))) = (&why, told) {
                admitted.record(Outcome::Unblamed);
                node.audit.note(event.of_kind(EventKind::ClientResumeFailure).error(reason));
            } else if let NotBack::Resume(NotResumed::Proof) = why {
                admitted.record(Outcome::Failed);
            }
        }
        (Ok(()), None) => {}
    }
}

/// A stream over which this node has said its name and heard what the other side began with. To the SSH library it looks as if neither
/// had happened.
pub(super) struct Greeted<S> {
    /// What of the greeting the library still has to say.
    greeting: Bytes,
    first: Bytes,
    stream: S,
}

impl<S> Greeted<S> {
    pub(super) fn new(config: &russh::server::Config, first: Bytes, stream: S) -> Self {
        Self { greeting: greeting(config).into(), first, stream }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Greeted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.first.is_empty() {
            let len = self.first.len().min(out.remaining());
            out.put_slice(&self.first.split_to(len));
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(context, out)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Greeted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.greeting.is_empty() {
            return Pin::new(&mut self.stream).poll_write(context, data);
        }
        let len = self.greeting.len().min(data.len());
        if self.greeting.split_to(len) != data.get(..len).unwrap_or_default() {
            return Poll::Ready(Err(io::Error::other(
                "the SSH library says another name than the node has said",
            )));
        }
        Poll::Ready(Ok(len))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
