//! The node's end of one tunnel.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::{Connection, SendResponse};
use hyper::{Method, Request, Response, StatusCode};
use rustls::pki_types::ServerName;
use teleport_core::cert::SERVICE_DNS_NAME;
use teleport_core::clock::Clock;
use teleport_core::id::HostId;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use super::ahead::ReadAhead;
use super::health::{self, Health};
use super::stream::{TunnelStream, failure};
use super::{ALL_WINDOWS, ALPN, FRAME, MAX_HEADERS, MAX_STREAMS, SEND_BUFFER, WINDOW, path};
use crate::identity::HostMaterial;
use crate::rpc::BoxedIo;
use crate::rpc::tls::{ServerTrust, TlsIdentity, client_config, server_roles};
use crate::rpc::x509::named_host;

/// How long TLS and the beginning of HTTP/2 may take, each.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// The two ends of the connection that a stream came by: the proxy's and ours.
pub(super) type Ends = (SocketAddr, SocketAddr);

/// A tunnel whose TLS stands, and whose proxy is known.
pub(super) struct Dialled {
    pub(super) proxy: HostId,
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

/// Connects to a proxy by `dial`, as `material` says who we are and whom we trust.
pub(super) async fn connect(
    tcp: TcpStream,
    material: &HostMaterial,
    clock: Arc<dyn Clock>,
) -> io::Result<Dialled> {
    let identity =
        TlsIdentity { certificate: material.tls_certificate.clone(), key: material.tls.to_rustls() };
    let trust = ServerTrust::Bundle(material.trust.clone());
    let config = client_config(trust, server_roles::PROXY, Some(identity), vec![ALPN.to_vec()], clock, None)
        .map_err(io::Error::other)?;
    let ends = (tcp.peer_addr()?, tcp.local_addr()?);
    let name = ServerName::try_from(SERVICE_DNS_NAME).map_err(io::Error::other)?;
    let shaking = TlsConnector::from(Arc::new(config)).connect(name, ReadAhead::new(tcp));
    let tls = tokio::time::timeout(HANDSHAKE, shaking).await??;
    let (_, session) = tls.get_ref();
    if session.alpn_protocol() != Some(ALPN) {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "the proxy takes no tunnels"));
    }
    let leaf = session.peer_certificates().and_then(|chain| chain.first());
    let proxy = leaf.and_then(|leaf| named_host(leaf)).ok_or(io::ErrorKind::InvalidData)?;
    Ok(Dialled { proxy, tls, ends })
}

/// Serves a tunnel to its end: each stream goes to `accept`, which returns soon.
pub(super) async fn attend(
    dialled: Dialled,
    strings: &Strings,
    accept: &(dyn Fn(BoxedIo, Ends) + Send + Sync),
) -> io::Result<()> {
    let Dialled { tls, ends, .. } = dialled;
    speak(tls, ends, strings, accept).await
}

/// The same over any stream.
pub(super) async fn speak(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin,
    ends: Ends,
    strings: &Strings,
    accept: &(dyn Fn(BoxedIo, Ends) + Send + Sync),
) -> io::Result<()> {
    let beginning = h2::server::Builder::new()
        .initial_window_size(WINDOW)
        .initial_connection_window_size(ALL_WINDOWS)
        .max_frame_size(FRAME)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADERS)
        .max_send_buffer_size(SEND_BUFFER)
        .header_table_size(0)
        .handshake::<_, Bytes>(stream);
    let mut connection: Connection<_, Bytes> =
        tokio::time::timeout(HANDSHAKE, beginning).await?.map_err(failure)?;
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
