//! Tunnels of nodes at the web port.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use teleport_core::cert::{HostIdentity, Identity};
use teleport_core::clock::Clock;
use teleport_core::id::HostRole;
use teleport_core::task::Shutdown;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::identity::HostIdentityHandle;
use crate::listener::Admitted;
use crate::listener::limits::Outcome;
use crate::rpc::tls::TlsServer;
use crate::tunnel::{ALPN, ReadAhead, Tunnels};

/// Lets nodes in that show their certificates.
#[derive(Debug)]
pub(super) struct TunnelDoor {
    tunnels: Tunnels,
    tls: TlsServer,
    clock: Arc<dyn Clock>,
}

impl TunnelDoor {
    pub(super) fn new(tunnels: Tunnels, identity: HostIdentityHandle, clock: Arc<dyn Clock>) -> Self {
        let tls = TlsServer::new(identity, Arc::clone(&clock), |_| vec![ALPN.to_vec()]);
        Self { tunnels, tls, clock }
    }

    /// Serves a tunnel to its end, if it is one of a node of this cluster.
    pub(super) async fn serve<S>(
        &self,
        stream: S,
        peer: SocketAddr,
        (admitted, patience): (&mut Admitted, Duration),
        shutdown: &Shutdown,
    ) where
        S: AsyncRead + AsyncWrite + Send + Unpin,
    {
        let (tls, host) = match tokio::time::timeout(patience, self.identify(stream, peer)).await {
            Ok(Ok(begun)) => begun,
            Ok(Err(error)) => {
                tracing::info!(%peer, error = &error as &dyn std::error::Error, "a tunnel was refused");
                return admitted.record(Outcome::Failed);
            }
            Err(_) => return admitted.record(Outcome::GraceExceeded),
        };
        admitted.record(Outcome::Authenticated);
        match self.tunnels.serve(tls, (&host, peer), &*self.clock, shutdown).await {
            Ok(()) => tracing::info!(node = %host.host_id, %peer, "a tunnel has ended"),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::info!(node = %host.host_id, %peer, error, "a tunnel broke off");
            }
        }
    }

    async fn identify<S>(
        &self,
        stream: S,
        peer: SocketAddr,
    ) -> io::Result<(TlsStream<ReadAhead<S>>, HostIdentity)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let built = self.tls.current().map_err(io::Error::other)?;
        let tls = TlsAcceptor::from(Arc::clone(&built.config)).accept(ReadAhead::new(stream)).await?;
        let refused = |why: &str| io::Error::new(io::ErrorKind::PermissionDenied, why.to_owned());
        let leaf = tls.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let leaf = leaf.ok_or_else(|| refused("no certificate was shown"))?;
        let identity = built.authenticator.identify(leaf, Some(peer.ip()), &*self.clock);
        match identity.map_err(|error| io::Error::new(io::ErrorKind::PermissionDenied, error))? {
            Identity::Host(host) if host.role == HostRole::Node => Ok((tls, host)),
            _ => Err(refused("the certificate is none of a node")),
        }
    }
}
