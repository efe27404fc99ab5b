//! Tunnels of nodes at the web port.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use teleport_core::clock::Clock;
use teleport_core::id::HostRole;
use teleport_core::task::Shutdown;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use crate::identity::HostIdentityHandle;
use crate::listener::limits::{Limits, Outcome};
use crate::listener::{Admitted, Door};
use crate::rpc::tls::TlsServer;
use crate::tunnel::{ALPN, Tunnels};

/// How often it is told that there are too many.
const PACE: Duration = Duration::from_secs(60);

/// Lets nodes in that show their certificates.
#[derive(Debug)]
pub(super) struct TunnelDoor {
    tunnels: Tunnels,
    tls: TlsServer,
    clock: Arc<dyn Clock>,
    /// Counts tunnels, if the port where they come in does not because it takes others as well.
    within: Option<Door>,
    refusals: Refusals,
}

/// Refusals for lack of a place, told at a pace: nodes that are refused come again.
#[derive(Debug, Default)]
struct Refusals(Mutex<(Option<Instant>, u64)>);

impl Refusals {
    /// There is one more. How many there were since it was last told, itself included, if it is to be told now.
    fn tell(&self, now: Instant) -> Option<u64> {
        let mut refusals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (told, count) = &mut *refusals;
        *count = count.saturating_add(1);
        if told.is_some_and(|told| now.saturating_duration_since(told) < PACE) {
            return None;
        }
        *told = Some(now);
        Some(std::mem::take(count))
    }
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
        Self { tunnels, tls, clock, within, refusals: Refusals::default() }
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

    /// Those of a port of their own: of `ports`, but whoever has not shown a certificate takes half of the places at most.
    pub(super) fn limits_apart(ports: Limits, most: u32) -> Limits {
        let full = ports.startup_full.min((most / 2).max(1));
        Limits {
            startup_begin: ports.startup_begin.min(full.div_ceil(2)),
            startup_full: full,
            connections: most,
            ..ports
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
                match self.refusals.tell(Instant::now()) {
                    Some(refused) => {
                        tracing::warn!(node = %host.host_id, %peer, refused, "tunnels were refused: there are as many as there may be");
                    }
                    None => {
                        tracing::debug!(node = %host.host_id, %peer, "a tunnel was refused: there are too many")
                    }
                }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_once_a_minute_with_their_number() {
        let (refusals, start) = (Refusals::default(), Instant::now());
        assert_eq!(refusals.tell(start), Some(1));
        for _ in 0..3 {
            assert_eq!(refusals.tell(start + PACE / 2), None);
        }
        assert_eq!(refusals.tell(start + PACE), Some(4));
        assert_eq!(refusals.tell(start + PACE), None);
    }

    #[test]
    fn strangers_do_not_take_all_places_of_a_port_for_tunnels() {
        let of = |most| {
            let ports = Limits { startup_begin: 200, startup_full: 1000, ..Limits::default() };
            let Limits { startup_begin, startup_full, connections, .. } =
                TunnelDoor::limits_apart(ports, most);
            (startup_begin, startup_full, connections)
        };
        assert_eq!(of(100_000), (200, 1000, 100_000));
        assert_eq!(of(512), (128, 256, 512));
        // The only place can be had.
        assert_eq!(of(1), (1, 1, 1));
    }
}
