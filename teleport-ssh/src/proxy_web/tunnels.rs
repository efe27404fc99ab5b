//! Tunnels of nodes at the web port.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use teleport_core::clock::Clock;
use teleport_core::id::HostRole;
use teleport_core::task::Shutdown;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::identity::HostIdentityHandle;
use crate::listener::Admitted;
use crate::listener::limits::Outcome;
use crate::rpc::tls::TlsServer;
use crate::tunnel::{ALPN, Tunnels};

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
        let (tls, host) =
            match tokio::time::timeout(patience, self.tls.accept_host(stream, peer, HostRole::Node)).await {
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
}
