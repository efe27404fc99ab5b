//! The proxy's HTTPS: the small part that the public may see, and the way to the auth service.
//!
//! It decides nothing. Login, join and invites are passed on to the auth service with the client's address; how often one address may ask
//! is limited here ([`WebRates`]). Connections that ask for the protocol `teleport-auth@<cluster>` are passed through, byte for byte: their
//! TLS ends at the auth service. How often one address may connect so is limited here as well ([`PassLimits`]), and what one may ask
//! for there without a certificate by the auth service: a few calls, of which only joining tries a secret. With the name of the cluster's services in SNI the proxy presents its own identity, so that clients can
//! verify it by a CA pin even when browsers are shown a certificate of a public authority.

mod certificate;
mod certificates;
mod client;
mod connection;
pub mod danger;
mod key_files;
mod pages;
mod pass;
mod peek;
mod plain;
mod public;
mod routes;
mod shares;
mod tunnels;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use teleport_core::api::ProxyAccess;
use teleport_core::clock::Clock;
use teleport_core::entropy::{Entropy, SystemEntropy};
use teleport_core::task::{Shutdown, TaskScope};

pub use self::certificate::{CertificateError, WebCertificate};
pub use self::certificates::WebCertificates;
pub(crate) use self::client::{Exchange, from_json, to_json};
pub use self::client::{WebClient, WebError, WebTrust};
use self::connection::Connections;
pub use self::connection::SSH_ALPN;
pub use self::key_files::{KeyFiles, KeyFilesError};
pub(crate) use self::pages::Page;
pub use self::pages::pages;
pub use self::pass::PassLimits;
use self::pass::Passes;
pub(crate) use self::peek::hello;
use self::routes::{Routes, Throttle};
use self::shares::Shares;
use self::tunnels::TunnelDoor;
use crate::identity::HostIdentityHandle;
use crate::listener::limits::Limits;
use crate::listener::{BindError, Door, Ports};
use crate::mux::ProxyProtocol;
use crate::outgoing;
use crate::proxy::Entrance;
use crate::rpc::{Connector, Rate};
use crate::tunnel::Tunnels;

/// How often one address may ask on the routes of the proxy itself. For what is passed on to the auth service see [`PassLimits`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "configuration; see `Default`")]
pub struct WebRates {
    /// What tries secrets that people choose or type: login and invites. 20 a minute, 40 at once.
    pub secrets: Rate,
    /// The rest: ping and join. 120 a minute, 480 at once.
    pub others: Rate,
}

impl Default for WebRates {
    fn default() -> Self {
        Self { secrets: Rate::per_minute(20, 40), others: Rate::per_minute(120, 480) }
    }
}

/// The proxy's HTTPS. Made by [`ProxyWeb::builder`].
#[derive(Debug)]
#[non_exhaustive]
pub struct ProxyWeb;

impl ProxyWeb {
    /// A server that passes requests on to `api` and presents `identity` (of the role proxy).
    pub fn builder(
        api: Arc<dyn ProxyAccess>,
        identity: HostIdentityHandle,
        clock: Arc<dyn Clock>,
    ) -> ProxyWebBuilder {
        ProxyWebBuilder {
            api,
            identity,
            clock,
            entropy: Arc::new(SystemEntropy::new()),
            addresses: Vec::new(),
            auth: None,
            tunnels: None,
            tunnels_at: None,
            max_tunnels: Shares::of_this_process().tunnels,
            ssh: None,
            protocol: ProxyProtocol::default(),
            certificates: WebCertificates::default(),
            ssh_address: None,
            rates: WebRates::default(),
            limits: default_limits(),
            pass_limits: PassLimits::default(),
        }
    }
}

/// Nobody authenticates before a request, so all are strangers for as long as they stay, which is not long.
fn default_limits() -> Limits {
    let base = Limits::default();
    Limits { per_source: 64, startup_begin: 1000, startup_full: 2000, penalties: false, ..base }
}

/// Settings of a [`ProxyWeb`].
pub struct ProxyWebBuilder {
    api: Arc<dyn ProxyAccess>,
    identity: HostIdentityHandle,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    addresses: Vec<SocketAddr>,
    auth: Option<Arc<dyn Connector>>,
    tunnels: Option<Tunnels>,
    /// Where they are taken in, if not at the other ports, and the host by which that is reached.
    tunnels_at: Option<(SocketAddr, String)>,
    max_tunnels: u32,
    ssh: Option<Entrance>,
    protocol: ProxyProtocol,
    certificates: WebCertificates,
    ssh_address: Option<String>,
    rates: WebRates,
    limits: Limits,
    pass_limits: PassLimits,
}

impl fmt::Debug for ProxyWebBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyWebBuilder").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

impl ProxyWebBuilder {
    /// Listens at `address` as well; port 0 is a free one.
    #[must_use]
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.addresses.push(address);
        self
    }

    /// Where connections for the auth service are passed on to. Without it they are closed.
    #[must_use]
    pub fn pass_to(mut self, auth: Arc<dyn Connector>) -> Self {
        self.auth = Some(auth);
        self
    }

    /// Takes in tunnels of nodes, which show their certificates. Without it they are refused.
    #[must_use]
    pub fn tunnels(mut self, tunnels: Tunnels) -> Self {
        self.tunnels = Some(tunnels);
        self
    }

    /// Takes tunnels in at `address`, where nothing else is spoken, and not at the other ports. A node that comes there is told by a ping that
    /// they are at this port of `host`.
    #[must_use]
    pub fn tunnels_at(mut self, address: SocketAddr, host: impl Into<String>) -> Self {
        self.tunnels_at = Some((address, host.into()));
        self
    }

    /// The most tunnels. They have these places for themselves, and take none of the ports'. At a port of their own
    /// ([`ProxyWebBuilder::tunnels_at`]) whoever has not shown a certificate takes half of them at most. Default: half of the files that the process may have
    /// open when this is made.
    #[must_use]
    pub const fn max_tunnels(mut self, tunnels: u32) -> Self {
        self.max_tunnels = tunnels;
        self
    }

    /// Leads whoever speaks SSH to the proxy's SSH server, also within TLS ([`SSH_ALPN`]). Without it they are refused.
    #[must_use]
    pub fn ssh(mut self, entrance: Entrance) -> Self {
        self.ssh = Some(entrance);
        self
    }

    /// Which load balancers stand before the ports and say where clients are; none if not said.
    #[must_use]
    pub fn proxy_protocol(mut self, protocol: ProxyProtocol) -> Self {
        self.protocol = protocol;
        self
    }

    /// What browsers and others are shown who do not ask for the cluster's own name. It may change later.
    #[must_use]
    pub fn certificates(mut self, certificates: WebCertificates) -> Self {
        self.certificates = certificates;
        self
    }

    /// Where this proxy accepts SSH, `host:port`; part of the answer to a ping. The port 0 means the first one of these.
    #[must_use]
    pub fn ssh_address(mut self, address: impl Into<String>) -> Self {
        self.ssh_address = Some(address.into());
        self
    }

    /// How often one address may ask.
    #[must_use]
    pub const fn rates(mut self, rates: WebRates) -> Self {
        self.rates = rates;
        self
    }

    /// Other limits. All connections count as unauthenticated but tunnels and those that are passed on to the auth service, which have
    /// limits of their own and no places of these.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Other limits for those who are passed on to the auth service.
    #[must_use]
    pub const fn pass_limits(mut self, limits: PassLimits) -> Self {
        self.pass_limits = limits;
        self
    }

    /// Other dice for the random early drop of strangers.
    #[must_use]
    pub fn entropy(mut self, entropy: Arc<dyn Entropy>) -> Self {
        self.entropy = entropy;
        self
    }

    /// Opens the ports. Connections wait until [`BoundWeb::serve`].
    ///
    /// # Errors
    /// [`BindError`].
    #[expect(
        clippy::unused_async,
        reason = "opening a port may have to wait one day; callers are async anyway"
    )]
    pub async fn bind(self) -> Result<BoundWeb, BindError> {
        let grace = self.limits.login_grace;
        let open = |addresses, limits| {
            Ports::open(addresses, self.protocol.clone(), limits, Arc::clone(&self.entropy))
        };
        let ports = open(self.addresses, self.limits.clone())?;
        let (tunnel_ports, tunnel_host) = match self.tunnels_at {
            Some((address, host)) => {
                let limits = TunnelDoor::limits_apart(self.limits, self.max_tunnels);
                (Some(open(vec![address], limits)?), Some(host))
            }
            None => (None, None),
        };
        let within = tunnel_ports
            .is_none()
            .then(|| Door::new(TunnelDoor::limits(self.max_tunnels), Arc::clone(&self.entropy)));
        let ssh_address =
            self.ssh_address.map(|text| match (text.strip_suffix(":0"), ports.local_address()) {
                (Some(host), Some(bound)) => format!("{host}:{}", bound.port()),
                _ => text,
            });
        let tunnel_address = tunnel_ports.as_ref().and_then(Ports::local_address).zip(tunnel_host);
        let tunnel_address = tunnel_address.map(|(bound, host)| outgoing::authority(&host, bound.port()));
        #[cfg(feature = "acme")]
        let proofs = self.certificates.proofs(Arc::clone(&self.clock));
        let tls =
            certificates::server_config(self.identity.clone(), self.certificates, Arc::clone(&self.clock));
        let clock = Arc::clone(&self.clock);
        let throttle = Throttle::new(self.rates, Arc::clone(&self.clock));
        let connections = Connections {
            routes: Arc::new(Routes::new(Arc::clone(&self.api), throttle, (ssh_address, tunnel_address))),
            tunnels: self.tunnels.map(|tunnels| {
                TunnelDoor::new(tunnels, self.identity.clone(), Arc::clone(&self.clock), within)
            }),
            tunnels_apart: tunnel_ports.is_some(),
            tls_ssh: tls.as_deref().map(|tls| {
                let mut tls = tls.clone();
                tls.alpn_protocols = vec![SSH_ALPN.to_vec()];
                Arc::new(tls)
            }),
            tls,
            ssh: self.ssh,
            #[cfg(feature = "acme")]
            proofs,
            passes: self
                .auth
                .map(|auth| Passes::new(auth, self.pass_limits, self.identity.clone(), clock, self.entropy)),
            identity: self.identity,
            grace,
        };
        Ok(BoundWeb { api: self.api, ports, tunnel_ports, connections: Arc::new(connections) })
    }
}

/// The proxy's HTTPS with its ports open.
pub struct BoundWeb {
    api: Arc<dyn ProxyAccess>,
    ports: Ports,
    tunnel_ports: Option<Ports>,
    connections: Arc<Connections>,
}

impl fmt::Debug for BoundWeb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundWeb").field("ports", &self.ports).finish_non_exhaustive()
    }
}

impl BoundWeb {
    /// The address of the first port.
    ///
    /// # Errors
    /// [`io::ErrorKind::AddrNotAvailable`] if it listens nowhere.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.ports.local_addr()
    }

    /// What happens at its ports, also while it serves.
    pub fn door(&self) -> Door {
        self.ports.door()
    }

    /// Where tunnels are taken in, if that is a port of its own.
    pub fn tunnel_addr(&self) -> Option<SocketAddr> {
        self.tunnel_ports.as_ref().and_then(Ports::local_address)
    }

    /// What happens to tunnels, also while it serves: at their port, if they have one, and where those count that came to another.
    pub fn tunnel_door(&self) -> Option<Door> {
        let apart = self.tunnel_ports.as_ref().map(Ports::door);
        apart.or_else(|| self.connections.tunnels.as_ref()?.door())
    }

    /// What happens to connections that are passed on to the auth service, also while it serves.
    pub fn pass_door(&self) -> Option<Door> {
        self.connections.passes.as_ref().map(Passes::door)
    }

    /// Serves until `shutdown` drains: then nobody new is let in and requests are finished; connections that are passed on
    /// to the auth service end a few seconds later. Dropping the future ends everything at once.
    pub async fn serve(self, shutdown: Shutdown) {
        let followers = TaskScope::new();
        let (connections, api) = (Arc::clone(&self.connections), self.api);
        followers.spawn(async move { connections.open_passes(api.as_ref()).await });
        let (connections, ending) = (Arc::clone(&self.connections), shutdown.clone());
        let handler = move |accepted| Arc::clone(&connections).serve(accepted, ending.clone());
        let (connections, ending) = (self.connections, shutdown.clone());
        let of_tunnels = move |accepted| Arc::clone(&connections).serve_tunnel(accepted, ending.clone());
        let tunnels = async {
            if let Some(ports) = self.tunnel_ports {
                ports.serve(shutdown.clone(), of_tunnels).await;
            }
        };
        tokio::join!(self.ports.serve(shutdown.clone(), handler), tunnels);
    }
}
