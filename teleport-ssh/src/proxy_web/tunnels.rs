//! Tunnels of nodes at the web port.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use teleport_core::clock::Clock;
use teleport_core::id::HostRole;
use teleport_core::task::Shutdown;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::identity::HostIdentityHandle;
use crate::listener::limits::{Limits, Outcome};
use crate::listener::{Admitted, Door};
use crate::rpc::tls::TlsServer;
use crate::tunnel::{ALPN, Tunnels};

/// Lets nodes in that show their certificates.
#[derive(Debug)]
pub(super) struct TunnelDoor {
    tunnels: Tunnels,
    tls: TlsServer,
    clock: Arc<dyn Clock>,
    /// Counts tunnels, if the port where they come in does not because it takes others as well.
    within: Option<Door>,
}

impl TunnelDoor {
    /// Those that come to ports of others count by `within`; without it, at their port.
    pub(super) fn new(
        tunnels: Tunnels,
        identity: HostIdentityHandle,
        clock: Arc<dyn Clock>,
        within: Option<Door>,
    ) -> Self {
        let tls = TlsServer::new(identity, Arc::clone(&clock), |_| vec![ALPN.to_vec()]);
        Self { tunnels, tls, clock, within }
    }

    /// The limits of tunnels that stand: their number, for strangers do not come so far.
    pub(super) fn limits(most: u32) -> Limits {
        Limits {
            per_source: u32::MAX,
            startup_begin: u32::MAX,
            startup_full: u32::MAX,
            connections: most,
            penalties: false,
            ..Limits::default()
        }
    }

    /// What happens where tunnels that came to ports of others count.
    pub(super) fn door(&self) -> Option<Door> {
        self.within.clone()
    }

    /// Serves a tunnel to its end, if it is one of a node of this cluster and there is a place for it.
    pub(super) async fn serve<S>(
        &self,
        stream: S,
        peer: SocketAddr,
        (mut admitted, patience): (Admitted, Duration),
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
        if let Some(door) = &self.within {
            // From here on it counts among the tunnels, and no longer at its port: tunnels last, and are not to keep users out.
            drop(admitted);
            let Some(place) = door.admit(peer.ip()) else {
                tracing::warn!(node = %host.host_id, %peer, "a tunnel was refused: there are as many as there may be, half of the files that this process may have open");
                return;
            };
            admitted = place;
            admitted.record(Outcome::Authenticated);
        }
        match self.tunnels.serve(tls, (&host, peer), &*self.clock, shutdown).await {
            Ok(()) => tracing::info!(node = %host.host_id, %peer, "a tunnel has ended"),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::info!(node = %host.host_id, %peer, error, "a tunnel broke off");
            }
        }
    }
}
