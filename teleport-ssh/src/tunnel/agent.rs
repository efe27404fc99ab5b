//! The node's end of one tunnel.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::{Connection, SendResponse};
use hyper::{Method, Request, Response, StatusCode};
use teleport_core::cert::HostIdentity;
use teleport_core::clock::Clock;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use super::health::{self, Health};
use super::stream::{TunnelStream, failure};
use super::tls::{self, HANDSHAKE};
use super::{ALPN, MAX_STREAMS, path, server};
use crate::identity::HostMaterial;
use crate::rpc::{BoxedIo, ReadAhead};

/// The two ends of the connection that a stream came by: the proxy's and ours.
pub(super) type Ends = (SocketAddr, SocketAddr);

/// A tunnel whose TLS stands, and whose proxy is known.
pub(super) struct Dialled {
    pub(super) proxy: HostIdentity,
    tls: TlsStream<ReadAhead<TcpStream>>,
    ends: Ends,
}

/// How the pool and a tunnel speak with each other.
#[derive(Debug)]
pub(super) struct Strings {
    pub(super) health: watch::Sender<Health>,
    /// The proxy goes away.
    pub(super) draining: CancellationToken,
    /// There is a better one: no streams any more, and an end with the last.
    pub(super) retired: CancellationToken,
}

/// Connects to a proxy, as `material` says who we are and whom we trust.
pub(super) async fn connect(
    tcp: TcpStream,
    material: &HostMaterial,
    clock: Arc<dyn Clock>,
) -> io::Result<Dialled> {
    let ends = (tcp.peer_addr()?, tcp.local_addr()?);
    let (proxy, tls) = tls::connect(tcp, material, ALPN, clock).await?;
    Ok(Dialled { proxy, tls, ends })
}

impl Dialled {
    /// The tunnel, once the proxy has begun to speak in it. Before, it may refuse the node although TLS stands: it has no place.
    pub(super) async fn begin(self) -> io::Result<Begun<TlsStream<ReadAhead<TcpStream>>>> {
        begin(self.tls, self.ends).await
    }
}

/// The same over any stream.
pub(super) async fn begin<S: AsyncRead + AsyncWrite + Unpin>(stream: S, ends: Ends) -> io::Result<Begun<S>> {
    let beginning = server(MAX_STREAMS).handshake(stream);
    let connection = tokio::time::timeout(HANDSHAKE, beginning).await?.map_err(failure)?;
    Ok(Begun { connection, ends })
}

/// A tunnel that the proxy has taken in.
pub(super) struct Begun<S> {
    connection: Connection<S, Bytes>,
    ends: Ends,
}

/// Serves a tunnel to its end: each stream goes to `accept`, which returns soon.
pub(super) async fn attend(
    begun: Begun<impl AsyncRead + AsyncWrite + Send + Unpin>,
    strings: &Strings,
    accept: &(dyn Fn(BoxedIo, Ends) + Send + Sync),
) -> io::Result<()> {
    let Begun { mut connection, ends } = begun;
    let pings = connection.ping_pong();
    let mut silent = std::pin::pin!(async {
        match pings {
            Some(pings) => health::watch(pings, &strings.health).await,
            None => std::future::pending().await,
        }
    });
    let mut retired = false;
    loop {
        tokio::select! {
            asked = connection.accept() => match asked {
                Some(Ok((request, answer))) => on_request(request, answer, ends, strings, accept)?,
                Some(Err(error)) => return Err(failure(error)),
                None => return Ok(()),
            },
            () = silent.as_mut() => return Err(io::ErrorKind::TimedOut.into()),
            () = strings.retired.cancelled(), if !retired => {
                retired = true;
                connection.graceful_shutdown();
            }
        }
    }
}

fn on_request(
    request: Request<RecvStream>,
    mut answer: SendResponse<Bytes>,
    ends: Ends,
    strings: &Strings,
    accept: &(dyn Fn(BoxedIo, Ends) + Send + Sync),
) -> io::Result<()> {
    let path = request.uri().path();
    let (status, is_ssh) = match () {
        () if request.method() != Method::POST => (StatusCode::METHOD_NOT_ALLOWED, false),
        () if path == path::SSH => (StatusCode::OK, true),
        () if path == path::DRAIN => {
            strings.draining.cancel();
            (StatusCode::NO_CONTENT, false)
        }
        () => (StatusCode::NOT_FOUND, false),
    };
    let mut head = Response::new(());
    *head.status_mut() = status;
    // What fails is this stream; whether the tunnel lives will be seen.
    if let Ok(outgoing) = answer.send_response(head, !is_ssh)
        && is_ssh
    {
        accept(Box::new(TunnelStream::new(request.into_body(), outgoing)), ends);
    }
    Ok(())
}
