//! How a proxy reaches a node.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use async_trait::async_trait;
use teleport_core::cert::UserIdentity;
use teleport_core::id::HostId;
use tokio::net::TcpStream;

use super::local::is_local;
use super::route::NodeRoute;
use crate::rpc::BoxedIo;

/// How long [`Direct`] tries, name lookup included.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a node was not reached. The user hears only that it was not; the texts are for the log and the audit event.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// The address that the node announced cannot be dialled.
    #[error("the node announced an address that cannot be dialled")]
    Address,
    /// The node is at an address that means another machine to everybody: the proxy's own, or one of its link.
    #[error(
        "the node announced a loopback, link-local or cloud metadata address, to which this proxy does not connect \
         (proxy_service.local_addresses)"
    )]
    Local,
    /// It listens nowhere, and has no tunnel here.
    #[error("the node has no tunnel to this proxy")]
    NoTunnel,
    /// Another proxy has its tunnel, and that one cannot be asked.
    #[error("proxy {proxy}, which has the node's tunnel, cannot be asked for it")]
    Peer {
        /// The other proxy.
        proxy: HostId,
        /// The reason.
        source: std::io::Error,
    },
    /// Nothing answers there, or it refuses.
    #[error("the node cannot be reached")]
    Unreachable {
        /// The reason.
        source: std::io::Error,
    },
    /// It took too long.
    #[error("the node did not answer within {} s", DIAL_TIMEOUT.as_secs())]
    Timeout,
}

/// Reaches nodes.
///
/// # Contract
/// The stream leads to the SSH server of the node that `route` names, and to nothing else. That the peer *is* that node is
/// proved to the user's client by the second handshake, which runs inside the stream. `dial` ends by itself within a
/// bounded time; dropping the future leaves nothing behind.
#[async_trait]
pub trait NodeDialer: fmt::Debug + Send + Sync + 'static {
    /// Opens a stream to a node on behalf of `by`.
    ///
    /// # Errors
    /// [`DialError`].
    async fn dial(&self, route: &NodeRoute, by: &UserIdentity) -> Result<BoxedIo, DialError>;
}

/// Over TCP, to the address that the node announced.
#[derive(Clone, Copy, Debug, Default)]
pub struct Direct {
    local_addresses: bool,
    own_node: Option<HostId>,
}

impl Direct {
    /// The dialer.
    pub const fn new() -> Self {
        Self { local_addresses: false, own_node: None }
    }

    /// Whether nodes may be at loopback and link-local addresses, and at those where clouds serve a machine its secrets. Not if not
    /// said: whoever may announce a node would choose to which service of the proxy's own machine, or of its link, the proxy connects.
    #[must_use]
    pub const fn local_addresses(mut self, may: bool) -> Self {
        self.local_addresses = may;
        self
    }

    /// The node of this very process, or of somebody else who is trusted as much: it may be at such an address in any case.
    #[must_use]
    pub const fn own_node(mut self, id: HostId) -> Self {
        self.own_node = Some(id);
        self
    }
}

#[async_trait]
impl NodeDialer for Direct {
    async fn dial(&self, route: &NodeRoute, _by: &UserIdentity) -> Result<BoxedIo, DialError> {
        let local = self.local_addresses || self.own_node == Some(route.host_id());
        let connecting = connect(route.address(), local);
        let stream =
            tokio::time::timeout(DIAL_TIMEOUT, connecting).await.map_err(|_| DialError::Timeout)??;
        Ok(Box::new(stream))
    }
}

/// Looks at the addresses that it connects to, and not at a name that may mean another one the next time.
async fn connect(address: &str, local: bool) -> Result<TcpStream, DialError> {
    let unreachable = |source| DialError::Unreachable { source };
    let mut last = DialError::Address;
    for address in tokio::net::lookup_host(address).await.map_err(unreachable)? {
        if !is_dialable(address) {
            continue;
        }
        if !local && is_local(address.ip()) {
            last = DialError::Local;
            continue;
        }
        match TcpStream::connect(address).await {
            Ok(stream) => {
                // Keystrokes and handshakes are many small packets.
                stream.set_nodelay(true).map_err(unreachable)?;
                return Ok(stream);
            }
            Err(error) => last = unreachable(error),
        }
    }
    Err(last)
}

/// An unspecified address would lead to this very machine, whatever the node meant by it.
fn is_dialable(address: SocketAddr) -> bool {
    !address.ip().to_canonical().is_unspecified() && !address.ip().is_multicast() && address.port() != 0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[tokio::test]
    async fn addresses_that_lead_to_the_proxy_itself_are_not_dialled() {
        for address in ["0.0.0.0:22", "[::]:22", "[::ffff:0.0.0.0]:22", "127.0.0.1:0", "224.0.0.1:22"] {
            assert!(matches!(connect(address, true).await, Err(DialError::Address)), "{address}");
        }
        assert!(matches!(connect("nonsense", true).await, Err(DialError::Unreachable { .. })));
    }

    #[tokio::test]
    async fn local_addresses_are_not_dialled_unless_they_may_be() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        for host in ["127.0.0.1", "127.1.2.3", "[::1]", "[::ffff:127.0.0.1]", "localhost", "[::127.0.0.1]"] {
            let address = format!("{host}:{port}");
            assert!(matches!(connect(&address, false).await, Err(DialError::Local)), "{host}");
        }
        connect(&format!("127.0.0.1:{port}"), true).await.unwrap();
    }
}
