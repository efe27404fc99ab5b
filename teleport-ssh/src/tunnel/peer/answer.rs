//! The port where a proxy is asked for the nodes whose tunnels it has.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use hyper::{Method, Request, Response, StatusCode};
use teleport_core::cert::HostIdentity;
use teleport_core::clock::Clock;
use teleport_core::entropy::Entropy;
use teleport_core::id::{HostId, HostRole};
use teleport_core::task::{Shutdown, TaskScope};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{ALPN, MAX_STREAMS, NODE};
use crate::identity::HostIdentityHandle;
use crate::listener::limits::{Limits, Outcome};
use crate::listener::{Accepted, BindError, Door, Ports};
use crate::mux::ProxyProtocol;
use crate::proxy::DialError;
use crate::rpc::tls::TlsServer;
use crate::tunnel::hub::{Tunnels, expired, keep_asking};
use crate::tunnel::stream::{TunnelStream, failure};
use crate::tunnel::tls::HANDSHAKE;
use crate::tunnel::{carry, server, unwelcome};
use crate::view::AccessCache;

/// Where other proxies ask this one for the nodes whose tunnels it has. Only proxies of the cluster are answered.
#[derive(Debug)]
pub struct PeerPort {
    tunnels: Tunnels,
    tls: TlsServer,
    identity: HostIdentityHandle,
    view: AccessCache,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    limits: Limits,
}

impl PeerPort {
    /// Leads to `tunnels`; `view` says who is locked or was removed, and nobody is answered before it is known.
    pub fn new(
        tunnels: Tunnels,
        identity: HostIdentityHandle,
        view: AccessCache,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Self {
        let tls = TlsServer::new(identity.clone(), Arc::clone(&clock), |_| vec![ALPN.to_vec()]);
        Self { tunnels, tls, identity, view, clock, entropy, limits: Limits::default() }
    }

    /// How many strangers may knock.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Opens the port; port 0 is a free one. Connections wait until [`BoundPeerPort::serve`].
    ///
    /// # Errors
    /// [`BindError`].
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O enabled.
    pub fn bind(self, address: SocketAddr) -> Result<BoundPeerPort, BindError> {
        let ports = Ports::open(
            vec![address],
            ProxyProtocol::default(),
            self.limits.clone(),
            Arc::clone(&self.entropy),
        )?;
        Ok(BoundPeerPort { port: Arc::new(self), ports })
    }
}

/// The port for other proxies, open.
#[derive(Debug)]
pub struct BoundPeerPort {
    port: Arc<PeerPort>,
    ports: Ports,
}

impl BoundPeerPort {
    /// Where it listens.
    ///
    /// # Errors
    /// None that is known.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.ports.local_addr()
    }

    /// What happens at the port, also while it serves.
    pub fn door(&self) -> Door {
        self.ports.door()
    }

    /// Serves until `shutdown` drains; the streams that there are then go on until they end or it aborts. Dropping the future ends everything
    /// at once.
    pub async fn serve(self, shutdown: Shutdown) {
        let (port, ending) = (self.port, shutdown.clone());
        let handler = move |accepted| Arc::clone(&port).handle(accepted, ending.clone());
        self.ports.serve(shutdown, handler).await;
    }
}

impl PeerPort {
    async fn handle(self: Arc<Self>, accepted: Accepted, shutdown: Shutdown) {
        let Accepted { stream, peer, mut admitted, .. } = accepted;
        let shaking = async {
            let (tls, host) = self.tls.accept_host(stream, peer, HostRole::Proxy).await?;
            self.check(&host)?;
            Ok::<_, io::Error>((tls, host))
        };
        let (tls, host) = match tokio::time::timeout(HANDSHAKE, shaking).await {
            Ok(Ok(begun)) => begun,
            Ok(Err(error)) => {
                tracing::info!(%peer, error = &error as &dyn std::error::Error, "who asked for nodes was refused");
                return admitted.record(Outcome::Failed);
            }
            Err(_) => return admitted.record(Outcome::GraceExceeded),
        };
        admitted.record(Outcome::Authenticated);
        tracing::info!(proxy = %host.host_id, name = %host.name, %peer, "a proxy asks this one for nodes");
        let ended = self.serve(tls, &host, &shutdown).await;
        let error = ended.as_ref().err().map(|error| error as &dyn std::error::Error);
        tracing::info!(proxy = %host.host_id, %peer, error, "the connection of a proxy that asked for nodes has ended");
    }

    fn check(&self, proxy: &HostIdentity) -> io::Result<()> {
        let refused = |why: String| Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        if proxy.host_id == self.identity.current().host_id {
            return refused("it is this proxy itself".to_owned());
        }
        match self.view.usable() {
            Err(error) => refused(error.to_string()),
            Ok(view) => view.keep_way(proxy, self.clock.now()).or_else(|error| refused(error.to_string())),
        }
    }

    /// Answers one proxy, whose TLS stands.
    pub(super) async fn serve(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin,
        proxy: &HostIdentity,
        shutdown: &Shutdown,
    ) -> io::Result<()> {
        let beginning = server(MAX_STREAMS).handshake::<_, Bytes>(stream);
        let mut connection = tokio::time::timeout(HANDSHAKE, beginning).await?.map_err(failure)?;
        let pings = connection.ping_pong();
        let mut silent = std::pin::pin!(async {
            match pings {
                Some(pings) => keep_asking(pings).await,
                None => std::future::pending().await,
            }
        });
        let mut unwelcome = std::pin::pin!(unwelcome(&self.view, proxy, &*self.clock));
        let mut leaving = std::pin::pin!(async {
            tokio::select! {
                () = shutdown.draining() => {}
                () = expired(proxy, &*self.clock) => {}
            }
        });
        // Ends with this future, and what it leads with it.
        let streams = TaskScope::new();
        let mut left = false;
        loop {
            tokio::select! {
                asked = connection.accept() => match asked {
                    // Those that were reset while a node is asked are tasks yet.
                    Some(Ok((_, mut answer))) if streams.len() >= MAX_STREAMS as usize => {
                        answer.send_reset(Reason::REFUSED_STREAM);
                    }
                    Some(Ok((request, answer))) => {
                        streams.spawn(lead(self.tunnels.clone(), request, answer));
                    }
                    Some(Err(error)) => return Err(failure(error)),
                    None => return Ok(()),
                },
                () = silent.as_mut() => return Err(io::ErrorKind::TimedOut.into()),
                () = unwelcome.as_mut() => {
                    return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the proxy is locked or was removed"));
                }
                () = leaving.as_mut(), if !left => {
                    left = true;
                    connection.graceful_shutdown();
                }
            }
        }
    }
}

/// The node that is asked for: an id, and nothing else.
fn asked(request: &Request<RecvStream>) -> Result<HostId, StatusCode> {
    if request.method() != Method::POST {
        return Err(StatusCode::METHOD_NOT_ALLOWED);
    }
    let id = request.uri().path().strip_prefix(NODE).ok_or(StatusCode::NOT_FOUND)?;
    id.parse().map_err(|_| StatusCode::BAD_REQUEST)
}

/// Leads a stream to a node that has a tunnel here.
async fn lead(tunnels: Tunnels, request: Request<RecvStream>, mut answer: SendResponse<Bytes>) {
    let opened = match asked(&request) {
        Ok(node) => tunnels.open_here(node).await.map_err(|error| {
            tracing::debug!(%node, error = &error as &dyn std::error::Error, "a node that a proxy asks for cannot be reached");
            match error {
                DialError::NoTunnel => StatusCode::NOT_FOUND,
                _ => StatusCode::BAD_GATEWAY,
            }
        }),
        Err(status) => Err(status),
    };
    let mut head = Response::new(());
    // What fails below is this stream, and whoever asked sees it.
    match opened {
        Ok(node) => {
            if let Ok(outgoing) = answer.send_response(head, false) {
                let stream = TunnelStream::new(request.into_body(), outgoing);
                if let Err(error) = carry::join(stream, node).await {
                    tracing::debug!(
                        error = &error as &dyn std::error::Error,
                        "a way between proxies broke off"
                    );
                }
            }
        }
        Err(status) => {
            *head.status_mut() = status;
            let _ = answer.send_response(head, true);
        }
    }
}
