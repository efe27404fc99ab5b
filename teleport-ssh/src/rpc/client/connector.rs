//! Ways to the auth service.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use teleport_core::id::ClusterName;
use tokio::net::TcpStream;

use crate::outgoing;
use crate::rpc::BoxedIo;
use crate::rpc::tls::{ALPN_H2, auth_alpn};

/// How long connecting to one address may take.
const CONNECT: Duration = Duration::from_secs(5);

/// How long what is sent may stay without an acknowledgement of the other side's system, or wait because that has no room, before the
/// connection is over. A network that was away for a shorter time goes on; a service that is slow acknowledges, but one that reads nothing for so long
/// is given up as well.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED: Duration = Duration::from_secs(8);

/// Makes connections on which the auth service answers with TLS.
///
/// # Contract
/// Whoever is reached proves in TLS that it is the auth service: a connector that leads elsewhere does no harm but that of being
/// useless. Dropping a future leaves no connection behind.
#[async_trait]
pub trait Connector: fmt::Debug + Send + Sync + 'static {
    /// Connects.
    ///
    /// # Errors
    /// Those of the way.
    async fn connect(&self) -> io::Result<BoxedIo>;

    /// How many different places it leads to. Whoever gets nothing but a connection from one tries that many.
    fn ways(&self) -> usize {
        1
    }

    /// Where the last connection led to, nobody answered as the auth service should: the next one is to lead elsewhere, if there is
    /// another place.
    fn pass_over(&self) {}

    /// The protocol name (ALPN) under which the auth service is asked for on this way.
    fn protocol(&self) -> Vec<u8> {
        ALPN_H2.to_vec()
    }
}

/// To one of several addresses. It stays with one that works and goes on to the next when it fails.
#[derive(Debug)]
pub struct TcpConnector {
    addresses: Vec<String>,
    next: AtomicUsize,
}

impl TcpConnector {
    /// To `addresses`, each `host:port`.
    pub fn new(addresses: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { addresses: addresses.into_iter().map(Into::into).collect(), next: AtomicUsize::new(0) }
    }

    /// Begins with another address than the first: clients that have different numbers spread over all of them.
    #[must_use]
    pub fn beginning_at(mut self, number: usize) -> Self {
        self.next = AtomicUsize::new(number);
        self
    }

    pub(crate) async fn tcp(&self) -> io::Result<TcpStream> {
        let mut failure = io::Error::new(io::ErrorKind::NotFound, "no address is known");
        let first = self.next.load(Ordering::Relaxed);
        for offset in 0..self.addresses.len() {
            let index = first.wrapping_add(offset);
            let Some(address) = index.checked_rem(self.addresses.len()).and_then(|at| self.addresses.get(at))
            else {
                break;
            };
            match dial(address).await {
                Ok(stream) => {
                    self.next.store(index, Ordering::Relaxed);
                    return Ok(stream);
                }
                Err(error) => failure = io::Error::new(error.kind(), format!("{address}: {error}")),
            }
        }
        Err(failure)
    }
}

/// Connects to `host:port` within the time for one address, by the HTTP proxy of the environment if there is one for it.
pub(crate) async fn dial(address: &str) -> io::Result<TcpStream> {
    let (host, port) = parts(address)?;
    kept_alive(outgoing::open(host, port, CONNECT).await?)
}

/// The same without any HTTP proxy, as proxies of the cluster reach nodes and each other.
pub(crate) async fn dial_straight(address: &str) -> io::Result<TcpStream> {
    let (host, port) = parts(address)?;
    kept_alive(outgoing::straight(host, port, CONNECT).await?)
}

fn parts(address: &str) -> io::Result<(&str, u16)> {
    outgoing::split(address)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no address; write it like host:port"))
}

fn kept_alive(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    let keepalive = socket2::TcpKeepalive::new().with_time(Duration::from_secs(60));
    socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    Ok(stream)
}

/// A call over a connection that leads nowhere any more need not wait for all of its time. An idle connection sends nothing for this. Other
/// systems than Linux have no such option, or another one; without it calls take longer to fail.
fn give_up_in_time(stream: &TcpStream) {
    #[cfg(target_os = "linux")]
    {
        let time = u32::try_from(UNACKNOWLEDGED.as_millis()).unwrap_or(u32::MAX);
        let set = nix::sys::socket::setsockopt(stream, nix::sys::socket::sockopt::TcpUserTimeout, &time);
        if let Err(error) = set {
            tracing::debug!(%error, "the time for an acknowledgement cannot be set");
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = stream;
}

#[async_trait]
impl Connector for TcpConnector {
    async fn connect(&self) -> io::Result<BoxedIo> {
        let stream = self.tcp().await?;
        give_up_in_time(&stream);
        Ok(Box::new(stream))
    }

    fn ways(&self) -> usize {
        self.addresses.len()
    }

    fn pass_over(&self) {
        self.next.fetch_add(1, Ordering::Relaxed);
    }
}

/// Through the web port of a proxy, which passes the bytes on and sees none of what is in them.
#[derive(Debug)]
pub struct ProxyConnector {
    tcp: TcpConnector,
    cluster: ClusterName,
}

impl ProxyConnector {
    /// Through one of `addresses` (each `host:port`) to the auth service of `cluster`.
    pub fn new(addresses: impl IntoIterator<Item = impl Into<String>>, cluster: ClusterName) -> Self {
        Self { tcp: TcpConnector::new(addresses), cluster }
    }

    /// [`TcpConnector::beginning_at`].
    #[must_use]
    pub fn beginning_at(mut self, number: usize) -> Self {
        self.tcp = self.tcp.beginning_at(number);
        self
    }
}

#[async_trait]
impl Connector for ProxyConnector {
    async fn connect(&self) -> io::Result<BoxedIo> {
        self.tcp.connect().await
    }

    fn ways(&self) -> usize {
        self.tcp.ways()
    }

    fn pass_over(&self) {
        self.tcp.pass_over();
    }

    fn protocol(&self) -> Vec<u8> {
        auth_alpn(&self.cluster)
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use nix::sys::socket::{getsockopt, sockopt};

    use super::*;

    #[tokio::test]
    async fn the_time_for_an_acknowledgement_is_set_where_calls_are_made_and_nowhere_else() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpConnector::new([listener.local_addr().unwrap().to_string()]).tcp().await.unwrap();
        assert_eq!(getsockopt(&stream, sockopt::TcpUserTimeout).unwrap(), 0);
        give_up_in_time(&stream);
        assert_eq!(getsockopt(&stream, sockopt::TcpUserTimeout).unwrap(), 8000);
    }
}
