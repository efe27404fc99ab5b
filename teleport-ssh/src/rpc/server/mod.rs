//! The auth service on a port.

mod connection;
mod dispatch;
mod watch;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use teleport_core::api::AuthApi;
use teleport_core::auth::{AuthService, Caller};
use teleport_core::clock::Clock;
use teleport_core::entropy::{Entropy, SystemEntropy};
use teleport_core::task::{Shutdown, TaskScope};
use tokio::net::TcpListener;

use self::connection::{Connections, Place};
pub(crate) use self::dispatch::{PartsBody, SecretBody};
use super::PipeListener;
use super::tls::TlsServer;
use crate::identity::HostIdentityHandle;
use crate::listener::limits::Limits;
use crate::listener::{self, BindError, Door};

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
            pipes: Vec::new(),
            limits: default_limits(),
        }
    }
}

/// Strangers are those who joined nothing yet: there are few of them. Who is behind a proxy comes from the proxy's address.
fn default_limits() -> Limits {
    Limits { per_source: 128, penalties: false, ..Limits::default() }
}

/// Where and within which limits an [`AuthServer`] listens.
#[derive(Debug)]
pub struct AuthServerBuilder {
    service: Arc<dyn Services>,
    identity: HostIdentityHandle,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    addresses: Vec<SocketAddr>,
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

    /// Serves the connections of a pipe as well.
    #[must_use]
    pub fn listen_pipe(mut self, pipe: PipeListener) -> Self {
        self.pipes.push(pipe);
        self
    }

    /// Other limits. Connections without a client certificate count as unauthenticated for as long as they last.
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
        let mut listeners = Vec::with_capacity(self.addresses.len());
        for address in self.addresses {
            let listener = listener::bind(address)?;
            let local = listener.local_addr().map_err(|source| BindError { address, source })?;
            listeners.push((listener, local));
        }
        let tls = TlsServer::new(self.identity, Arc::clone(&self.clock));
        let connections = Connections::new(self.service, tls, self.clock, self.limits.login_grace);
        let door = Door::new(self.limits, self.entropy);
        Ok(BoundAuth { listeners, pipes: self.pipes, door, connections: Arc::new(connections) })
    }
}

/// An auth server whose ports are open.
#[derive(Debug)]
pub struct BoundAuth {
    listeners: Vec<(TcpListener, SocketAddr)>,
    pipes: Vec<PipeListener>,
    door: Door,
    connections: Arc<Connections>,
}

impl BoundAuth {
    /// The address of the first port.
    ///
    /// # Errors
    /// [`io::ErrorKind::AddrNotAvailable`] if it listens to pipes only.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.local_addrs().next().ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
    }

    /// The addresses of all ports.
    pub fn local_addrs(&self) -> impl Iterator<Item = SocketAddr> {
        self.listeners.iter().map(|(_, address)| *address)
    }

    /// What happens at its ports, also while it serves.
    pub fn door(&self) -> Door {
        self.door.clone()
    }

    /// Serves until `shutdown` drains: then nobody new is let in, requests are finished and watches end; on abort
    /// everything ends. Dropping the future ends everything at once.
    pub async fn serve(self, shutdown: Shutdown) {
        let scope = TaskScope::new();
        for (listener, _) in self.listeners {
            let connections = Arc::clone(&self.connections);
            let (door, ending) = (self.door.clone(), shutdown.clone());
            scope.spawn(async move {
                let handler = |accepted: listener::Accepted| {
                    let (connections, ending) = (Arc::clone(&connections), ending.clone());
                    async move {
                        let listener::Accepted { stream, peer, admitted, .. } = accepted;
                        connections.serve(stream, peer, Place::Door(admitted), ending).await;
                    }
                };
                listener::serve(listener, door, ending.clone(), handler).await;
            });
        }
        for pipe in self.pipes {
            let (connections, ending) = (Arc::clone(&self.connections), shutdown.clone());
            scope.spawn(async move {
                let inner = TaskScope::new();
                loop {
                    let (stream, peer) = tokio::select! {
                        accepted = pipe.accept() => accepted,
                        () = ending.draining() => break,
                    };
                    let (connections, ending) = (Arc::clone(&connections), ending.clone());
                    inner.spawn(async move { connections.serve(stream, peer, Place::Pipe, ending).await });
                }
                drop(pipe);
                inner.join().await;
            });
        }
        tokio::select! {
            () = scope.join() => {}
            () = shutdown.aborted() => scope.abort().await,
        }
    }
}
