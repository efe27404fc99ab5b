//! How a proxy reaches a node.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use async_trait::async_trait;
use teleport_core::cert::UserIdentity;
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
#[non_exhaustive]
pub struct Direct;

impl Direct {
    /// The dialer.
    pub const fn new() -> Self {
        Self
    }
}

#[async_trait]
impl NodeDialer for Direct {
    async fn dial(&self, route: &NodeRoute, _by: &UserIdentity) -> Result<BoxedIo, DialError> {
        let connecting = connect(route.address());
        let stream =
            tokio::time::timeout(DIAL_TIMEOUT, connecting).await.map_err(|_| DialError::Timeout)??;
        Ok(Box::new(stream))
    }
}

async fn connect(address: &str) -> Result<TcpStream, DialError> {
    let unreachable = |source| DialError::Unreachable { source };
    let mut last = None;
    for address in tokio::net::lookup_host(address).await.map_err(unreachable)? {
        if !is_dialable(address) {
            continue;
        }
        match TcpStream::connect(address).await {
            Ok(stream) => {
                // Keystrokes and handshakes are many small packets.
                stream.set_nodelay(true).map_err(unreachable)?;
                return Ok(stream);
            }
            Err(error) => last = Some(error),
        }
    }
    Err(last.map_or(DialError::Address, unreachable))
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
            assert!(matches!(connect(address).await, Err(DialError::Address)), "{address}");
        }
        assert!(matches!(connect("nonsense").await, Err(DialError::Unreachable { .. })));
    }
}
