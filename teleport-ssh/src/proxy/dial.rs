//! How a proxy reaches a node.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use async_trait::async_trait;
use teleport_core::cert::UserIdentity;
use teleport_core::resource::NodeKind;
use tokio::net::TcpStream;

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
    /// A registered SSH server is at an address that means another machine to everybody: the proxy's own, or one of its link.
    #[error(
        "the SSH server is registered with a loopback or link-local address, to which this proxy does not connect \
         (proxy_service.openssh_local_addresses)"
    )]
    Local,
    /// It listens nowhere, and has no tunnel here.
    #[error("the node has no tunnel to this proxy")]
    NoTunnel,
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
    openssh_local_addresses: bool,
}

impl Direct {
    /// The dialer.
    pub const fn new() -> Self {
        Self { openssh_local_addresses: false }
    }

    /// Whether registered SSH servers ([`NodeKind::OpenSsh`]) may be at loopback and link-local addresses. Not if not said: whoever may
    /// register a server would choose to which service of the proxy's own machine, or of its link, the proxy connects.
    #[must_use]
    pub const fn openssh_local_addresses(mut self, may: bool) -> Self {
        self.openssh_local_addresses = may;
        self
    }
}

#[async_trait]
impl NodeDialer for Direct {
    async fn dial(&self, route: &NodeRoute, _by: &UserIdentity) -> Result<BoxedIo, DialError> {
        let local = self.openssh_local_addresses || route.record().sub_kind != NodeKind::OpenSsh;
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
        if !local && is_local(address) {
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

/// Loopback, and what is of one link alone, where clouds serve the secrets of a machine. Also as IPv6 writes them.
fn is_local(address: SocketAddr) -> bool {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => {
            ip.is_loopback() || ip.is_link_local() || ip.is_broadcast() || ip.octets().first() == Some(&0)
        }
        IpAddr::V6(ip) => {
            // `::127.0.0.1`, which nobody uses and some systems connect to.
            let compatible = ip.to_ipv4().is_some_and(|ip| ip.is_loopback() || ip.is_link_local());
            ip.is_loopback() || ip.is_unicast_link_local() || compatible
        }
    }
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
        for host in ["169.254.169.254", "[fe80::1]", "[::ffff:169.254.169.254]", "255.255.255.255", "0.1.2.3"]
        {
            assert!(is_local(format!("{host}:22").parse().unwrap()), "{host}");
        }
        for host in ["10.0.0.1", "192.168.1.1", "198.51.100.1", "[2001:db8::1]", "[fd00::1]"] {
            assert!(!is_local(format!("{host}:22").parse().unwrap()), "{host}");
        }
        connect(&format!("127.0.0.1:{port}"), true).await.unwrap();
    }
}
