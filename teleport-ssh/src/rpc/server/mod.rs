//! The auth service on a port.

mod calls;
mod connection;
mod dispatch;
mod figures;
mod strangers;
mod watch;

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use teleport_core::api::AuthApi;
use teleport_core::auth::{AuthService, Caller};
use teleport_core::clock::Clock;
use teleport_core::entropy::{Entropy, SystemEntropy};
use teleport_core::task::{Shutdown, TaskScope};

pub(crate) use self::connection::STRANGERS_GONE;
use self::connection::{Connections, Place};
pub(crate) use self::dispatch::{NameBody, PartsBody, ReasonBody, RewrapBody, SecretBody};
pub use self::figures::{ApiFigures, CALL_BOUNDS, CallFigures};
use super::PipeListener;
use super::tls::TlsServer;
use crate::identity::HostIdentityHandle;
use crate::listener::limits::Limits;
use crate::listener::{Accepted, BindError, Door, Ports};
use crate::mux::ProxyProtocol;
use crate::view::AccessCache;

/// Gives each caller the API as it is for them.
pub trait Services: fmt::Debug + Send + Sync + 'static {
    /// The API for one connection. Its every call must be authorised as the caller's.
    fn acting_as(&self, caller: Caller) -> Arc<dyn AuthApi>;
}

impl Services for AuthService {
    fn acting_as(&self, caller: Caller) -> Arc<dyn AuthApi> {
        Arc::new(Self::acting_as(self, caller))
    }
}

/// Offers an auth service to the network. Made by [`AuthServer::builder`].
#[derive(Debug)]
#[non_exhaustive]
pub struct AuthServer;

impl AuthServer {
    /// A server of `service`, which presents `identity` (of the role auth) and trusts whom that trusts.
    pub fn builder(
        service: Arc<dyn Services>,
        identity: HostIdentityHandle,
        clock: Arc<dyn Clock>,
    ) -> AuthServerBuilder {
        AuthServerBuilder {
            service,
            identity,
            clock,
            entropy: Arc::new(SystemEntropy::new()),
            addresses: Vec::new(),
            protocol: ProxyProtocol::default(),
            pipes: Vec::new(),
            limits: default_limits(),
        }
    }
}

/// Strangers are those who joined nothing yet: there are few of them. Whoever is behind a proxy comes from the proxy's address:
/// that of a proxy that is known is exempt, and so is this machine, where one may be. How many strangers a proxy passes on is
/// limited by the proxy, for it alone sees where they come from; what is left here, [`Limits::per_exempt`], is twice that.
fn default_limits() -> Limits {
    let exempt = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let connections = most_connections(Limits::default().connections, crate::sys::limits::open_files());
    Limits { per_source: 128, connections, penalties: false, exempt, ..Limits::default() }
}

/// Every member keeps a connection: there may be as many as there may be files, but for those that the service itself needs. `least` is
/// what may be anyway.
fn most_connections(least: u32, open_files: Option<u64>) -> u32 {
    let files = open_files.unwrap_or(0).saturating_sub(OWN_FILES);
    u32::try_from(files).unwrap_or(u32::MAX).max(least)
}

/// The store, the audit log, recordings that arrive.
const OWN_FILES: u64 = 1024;

/// Where and within which limits an [`AuthServer`] listens.
#[derive(Debug)]
pub struct AuthServerBuilder {
    service: Arc<dyn Services>,
    identity: HostIdentityHandle,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    addresses: Vec<SocketAddr>,
    protocol: ProxyProtocol,
    pipes: Vec<PipeListener>,
    limits: Limits,
}

impl AuthServerBuilder {
    /// Listens at `address` as well; port 0 is a free one. At least one address or pipe is needed.
    #[must_use]
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.addresses.push(address);
        self
    }

    /// Which load balancers stand before the ports and say where clients are; none if not said.
    #[must_use]
    pub fn proxy_protocol(mut self, protocol: ProxyProtocol) -> Self {
        self.protocol = protocol;
        self
    }

    /// Serves the connections of a pipe as well.
    #[must_use]
    pub fn listen_pipe(mut self, pipe: PipeListener) -> Self {
        self.pipes.push(pipe);
        self
    }

    /// Other limits. Connections without a client certificate count as unauthenticated for as long as they last, which is not longer
    /// than [`Limits::login_grace`] or a quarter of a minute. The addresses of the proxies that the service knows are exempt.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Other dice for the random early drop of strangers.
    #[must_use]
    pub fn entropy(mut self, entropy: Arc<dyn Entropy>) -> Self {
        self.entropy = entropy;
        self
    }

    /// Opens the ports. Connections wait until [`BoundAuth::serve`].
    ///
    /// # Errors
    /// [`BindError`].
    #[expect(
        clippy::unused_async,
        reason = "opening a port may have to wait one day; callers are async anyway"
    )]
    pub async fn bind(self) -> Result<BoundAuth, BindError> {
        let grace = self.limits.login_grace;
        let ports = Ports::open(self.addresses, self.protocol, self.limits, Arc::clone(&self.entropy))?;
        let tls = TlsServer::auth(self.identity, Arc::clone(&self.clock));
        let connections = Connections::new(Arc::clone(&self.service), tls, self.clock, grace);
        Ok(BoundAuth {
            service: self.service,
            entropy: self.entropy,
            ports,
            pipes: self.pipes,
            connections: Arc::new(connections),
        })
    }
}

/// An auth server whose ports are open.
#[derive(Debug)]
pub struct BoundAuth {
    service: Arc<dyn Services>,
    entropy: Arc<dyn Entropy>,
    ports: Ports,
    pipes: Vec<PipeListener>,
    connections: Arc<Connections>,
}

impl BoundAuth {
    /// The address of the first port.
    ///
    /// # Errors
    /// [`io::ErrorKind::AddrNotAvailable`] if it listens to pipes only.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.ports.local_addr()
    }

    /// The addresses of all ports.
    pub fn local_addrs(&self) -> impl Iterator<Item = SocketAddr> {
        self.ports.local_addrs()
    }

    /// What happens at its ports, also while it serves.
    pub fn door(&self) -> Door {
        self.ports.door()
    }

    /// What it is asked, also while it serves.
    pub fn figures(&self) -> ApiFigures {
        self.connections.figures.clone()
    }

    /// Serves until `shutdown` drains: then nobody new is let in, calls are finished, whether or not somebody still waits for
    /// their answers, and watches end; on abort everything ends. Dropping the future ends everything at once.
    pub async fn serve(self, shutdown: Shutdown) {
        let (scope, calls) = (TaskScope::new(), TaskScope::new());
        let view = self.connections.view.clone();
        let followers =
            exempt_proxies(view, self.service.as_ref(), self.door(), self.entropy, shutdown.clone());
        let (connections, running, ending) = (Arc::clone(&self.connections), calls.clone(), shutdown.clone());
        scope.spawn(self.ports.serve(shutdown.clone(), move |accepted| {
            let (connections, running, ending) = (Arc::clone(&connections), running.clone(), ending.clone());
            async move {
                let Accepted { stream, peer, admitted, .. } = accepted;
                connections.serve(stream, peer, Place::Door(admitted), running, ending).await;
            }
        }));
        for pipe in self.pipes {
            let (connections, running, ending) =
                (Arc::clone(&self.connections), calls.clone(), shutdown.clone());
            scope.spawn(async move {
                let inner = TaskScope::new();
                loop {
                    let stream = tokio::select! {
                        stream = pipe.accept() => stream,
                        () = ending.draining() => break,
                    };
                    let (connections, running, ending) =
                        (Arc::clone(&connections), running.clone(), ending.clone());
                    let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
                    inner.spawn(async move {
                        connections.serve(stream, nowhere, Place::Member, running, ending).await;
                    });
                }
                drop(pipe);
                inner.join().await;
            });
        }
        let finished = async {
            scope.join().await;
            calls.join().await;
        };
        tokio::select! {
            () = finished => {}
            () = shutdown.aborted() => {
                scope.abort().await;
                calls.abort().await;
            }
        }
        followers.abort().await;
    }
}

/// Follows the service with `view`, and keeps the addresses of known proxies exempt at `door`, from the first moment after a start on: the
/// service remembers them.
fn exempt_proxies(
    view: AccessCache,
    service: &dyn Services,
    door: Door,
    entropy: Arc<dyn Entropy>,
    shutdown: Shutdown,
) -> TaskScope {
    let followers = TaskScope::new();
    // The service in this process, asked by the server that offers it.
    let api = service.acting_as(Caller::LocalAdmin);
    followers.spawn(view.follow(api, entropy, shutdown));
    followers.spawn(async move { view.for_each(|view| door.exempt(&view.proxies)).await });
    followers
}

#[cfg(test)]
mod tests;
