//! Open ports that have their limits in common.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use teleport_core::entropy::Entropy;
use teleport_core::task::{Shutdown, TaskScope};
use tokio::net::TcpListener;

use super::limits::Limits;
use super::{Accepted, BindError, Door, Lobby, bind, serve_behind};
use crate::mux::ProxyProtocol;

/// Ports that are open. Connections wait until [`Ports::serve`].
#[derive(Debug)]
pub(crate) struct Ports {
    listeners: Vec<(TcpListener, SocketAddr)>,
    lobby: Lobby,
    door: Door,
}

impl Ports {
    /// Opens a port at each address; port 0 is a free one. Before them stand load balancers, as `protocol` says.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O enabled.
    pub(crate) fn open(
        addresses: Vec<SocketAddr>,
        protocol: ProxyProtocol,
        limits: Limits,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, BindError> {
        let mut listeners = Vec::with_capacity(addresses.len());
        for address in addresses {
            let listener = bind(address)?;
            let local = listener.local_addr().map_err(|source| BindError { address, source })?;
            listeners.push((listener, local));
        }
        let lobby = Lobby::new(protocol, Arc::clone(&entropy));
        Ok(Self { listeners, lobby, door: Door::new(limits, entropy) })
    }

    /// The addresses, in the order in which they were given.
    pub(crate) fn local_addrs(&self) -> impl Iterator<Item = SocketAddr> {
        self.listeners.iter().map(|(_, address)| *address)
    }

    /// The first address.
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.local_address().ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
    }

    /// The same, if it listens anywhere.
    pub(crate) fn local_address(&self) -> Option<SocketAddr> {
        self.local_addrs().next()
    }

    /// The limits, and what has happened so far.
    pub(crate) fn door(&self) -> Door {
        self.door.clone()
    }

    /// Accepts at every port, as [`serve`] does at one.
    pub(crate) async fn serve<H, F>(self, shutdown: Shutdown, handler: H)
    where
        H: Fn(Accepted) -> F + Clone + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let scope = TaskScope::new();
        for (listener, _) in self.listeners {
            let doors = (self.lobby.clone(), self.door.clone());
            scope.spawn(serve_behind(listener, doors, shutdown.clone(), handler.clone()));
        }
        scope.join().await;
    }
}
