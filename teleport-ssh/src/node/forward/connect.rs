//! From a host and a port to a connection: names, addresses, each with its permit, and bounded times.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use teleport_core::access::{LocalForwarding, PermittedAddress};
use tokio::sync::Semaphore;

use super::NoForward;
use crate::rpc::BoxedIo;
use crate::session::Sockets;

/// How long all of it may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);
/// How long one address may take.
const ADDRESS_LIMIT: Duration = Duration::from_secs(10);
/// How long a name may take.
const NAME_LIMIT: Duration = Duration::from_secs(10);
/// The longest name, in bytes.
const MAX_HOST: usize = 255;
/// So many addresses of a name are tried.
const MAX_ADDRESSES: usize = 16;

/// Where a client wants to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::node) struct Target {
    /// A name or an address, without brackets.
    host: String,
    /// Not 0.
    port: u16,
}

impl Target {
    /// Reads what a client sends.
    ///
    /// # Errors
    /// [`NoForward::Target`].
    pub(in crate::node) fn new(host: &str, port: u32) -> Result<Self, NoForward> {
        let port = u16::try_from(port).ok().filter(|port| *port > 0);
        let port = port.ok_or(NoForward::Target("a port is 1 to 65535"))?;
        let host = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        if host.is_empty() || host.len() > MAX_HOST {
            return Err(NoForward::Target("a host is named by 1 to 255 bytes"));
        }
        if host.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(NoForward::Target("a host's name has no spaces and no control characters"));
        }
        Ok(Self { host: host.to_owned(), port })
    }

    /// Connects to the first address that answers, of those that are permitted. Dropping it leaves nothing but a lookup that ends by
    /// itself.
    ///
    /// # Errors
    /// [`NoForward`], after [`CONNECT_LIMIT`] at the latest.
    pub(super) async fn connect(
        &self,
        permit: &LocalForwarding,
        sockets: &dyn Sockets,
        lookups: &Arc<Semaphore>,
    ) -> Result<(BoxedIo, SocketAddr), NoForward> {
        let connecting = async {
            let mut why = NoForward::Name(io::Error::other("the name has no address"));
            for address in self.addresses(lookups).await? {
                match permit.to(&self.host, address) {
                    Ok(to) => match tokio::time::timeout(ADDRESS_LIMIT, dial(to, sockets)).await {
                        Ok(Ok(stream)) => return Ok((stream, to.get())),
                        Ok(Err(error)) => why = NoForward::Unreachable(error),
                        Err(_) => why = NoForward::Timeout,
                    },
                    // That one of several cannot be reached says more than that another is forbidden.
                    Err(denied) if matches!(why, NoForward::Name(_)) => why = denied.into(),
                    Err(_) => {}
                }
            }
            Err(why)
        };
        tokio::time::timeout(CONNECT_LIMIT, connecting).await.map_err(|_| NoForward::Timeout)?
    }

    async fn addresses(&self, lookups: &Arc<Semaphore>) -> Result<Vec<SocketAddr>, NoForward> {
        if let Ok(address) = self.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, self.port)]);
        }
        let (host, port) = (self.host.clone(), self.port);
        let lookups = Arc::clone(lookups);
        let lookup = async {
            let place = lookups.acquire_owned().await.map_err(io::Error::other)?;
            let found = tokio::task::spawn_blocking(move || {
                let found = (host.as_str(), port).to_socket_addrs().map(Iterator::collect::<Vec<_>>);
                // With the thread, which goes on when nobody waits for it any more.
                drop(place);
                found
            });
            found.await.map_err(io::Error::other)?
        };
        let mut addresses = tokio::time::timeout(NAME_LIMIT, lookup)
            .await
            .map_err(|_| NoForward::Timeout)?
            .map_err(NoForward::Name)?;
        addresses.dedup();
        addresses.truncate(MAX_ADDRESSES);
        Ok(addresses)
    }
}

async fn dial(to: PermittedAddress, sockets: &dyn Sockets) -> io::Result<BoxedIo> {
    sockets.connect_tcp(to.get()).await
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn targets_are_a_host_and_a_port() {
        for (host, port, shown) in [
            ("db.internal", 5432, "db.internal:5432"),
            ("127.0.0.1", 1, "127.0.0.1:1"),
            ("::1", 65535, "[::1]:65535"),
            ("[::1]", 80, "[::1]:80"),
            ("fe80::1%lo", 80, "[fe80::1%lo]:80"),
        ] {
            assert_eq!(Target::new(host, port).unwrap().to_string(), shown);
        }
        let long = "x".repeat(256);
        for (host, port) in [
            ("", 80),
            ("a b", 80),
            ("a\nb", 80),
            ("a\0", 80),
            ("[]", 80),
            (&long, 80),
            ("a", 0),
            ("a", 65536),
        ] {
            assert!(Target::new(host, port).is_err(), "{host:?} {port}");
        }
    }
}
