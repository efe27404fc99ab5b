//! The proxy's end: who has a tunnel here, and how a node is reached through it.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use h2::client::SendRequest;
use hyper::{Request, StatusCode};
use teleport_core::cert::{HostIdentity, UserIdentity};
use teleport_core::clock::Clock;
use teleport_core::id::{HostId, HostRole};
use teleport_core::task::Shutdown;
use tokio::io::{AsyncRead, AsyncWrite};

use super::stream::{TunnelStream, failure};
use super::{ALL_WINDOWS, FRAME, MAX_HEADERS, SEND_BUFFER, WINDOW, path};
use crate::proxy::route::NodeRoute;
use crate::proxy::{DIAL_TIMEOUT, DialError, NodeDialer};
use crate::rpc::BoxedIo;

/// The most tunnels of one node: it makes a new one before it gives up an old one.
const MAX_TUNNELS: usize = 4;
/// How long one of several tunnels has to answer before the next is tried.
const NEXT: Duration = Duration::from_secs(3);
/// How often a node is asked whether it is there, and how long it may take to answer.
const PING: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(60));
/// How long a node has to hear that the proxy goes away.
const FAREWELL: Duration = Duration::from_secs(2);
/// The longest time until the clock is looked at again.
const LOOK: Duration = Duration::from_secs(60);

/// The tunnels of a proxy, through which it reaches the nodes that listen nowhere. Clones share them.
///
/// It is made for both of the proxy's doors: [`ProxyWebBuilder::tunnels`](crate::proxy_web::ProxyWebBuilder::tunnels) takes tunnels in, and as
/// the [`NodeDialer`] of [`ProxyBuilder::dialer`](crate::proxy::ProxyBuilder::dialer) it leads users through them. Nodes that listen somewhere are reached by another dialer.
#[derive(Clone)]
pub struct Tunnels(Arc<Shared>);

struct Shared {
    nodes: Mutex<HashMap<HostId, Vec<Tunnel>>>,
    next: AtomicU64,
    direct: Arc<dyn NodeDialer>,
}

/// A tunnel that can be used.
struct Tunnel {
    number: u64,
    sender: SendRequest<Bytes>,
}

impl fmt::Debug for Tunnels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tunnels").field("nodes", &self.nodes().len()).finish_non_exhaustive()
    }
}

impl Tunnels {
    /// Without tunnels yet; nodes that listen somewhere are reached by `direct`.
    pub fn new(direct: Arc<dyn NodeDialer>) -> Self {
        Self(Arc::new(Shared { nodes: Mutex::default(), next: AtomicU64::new(0), direct }))
    }

    fn nodes(&self) -> MutexGuard<'_, HashMap<HostId, Vec<Tunnel>>> {
        self.0.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many nodes have a tunnel here.
    pub fn len(&self) -> usize {
        self.nodes().len()
    }

    /// Whether no node has one.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a node has a tunnel here.
    pub fn has(&self, node: HostId) -> bool {
        self.nodes().contains_key(&node)
    }

    /// What can be asked, the newest first: a node makes another one when it doubts one.
    fn of(&self, node: HostId) -> Vec<SendRequest<Bytes>> {
        let nodes = self.nodes();
        nodes.get(&node).into_iter().flatten().rev().map(|tunnel| tunnel.sender.clone()).collect()
    }

    /// Counts a tunnel from now on, until what is returned is dropped. The oldest of too many goes.
    fn enter(&self, node: HostId, sender: SendRequest<Bytes>) -> Entered {
        let number = self.0.next.fetch_add(1, Ordering::Relaxed);
        let mut nodes = self.nodes();
        let tunnels = nodes.entry(node).or_default();
        tunnels.push(Tunnel { number, sender });
        if tunnels.len() > MAX_TUNNELS {
            tunnels.remove(0);
        }
        Entered { tunnels: self.clone(), node, number }
    }

    /// Serves the tunnel of `host`, whose TLS stands, until it ends. Users are led through it until `shutdown` drains or the certificate
    /// that was shown ends; the streams that there are then go on.
    ///
    /// Dropping the future ends it at once.
    pub(crate) async fn serve(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin,
        (host, peer): (&HostIdentity, SocketAddr),
        clock: &dyn Clock,
        shutdown: &Shutdown,
    ) -> io::Result<()> {
        if host.role != HostRole::Node {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "only nodes have tunnels"));
        }
        let (sender, mut connection) = h2::client::Builder::new()
            .initial_window_size(WINDOW)
            .initial_connection_window_size(ALL_WINDOWS)
            .max_frame_size(FRAME)
            .max_header_list_size(MAX_HEADERS)
            .max_send_buffer_size(SEND_BUFFER)
            .header_table_size(0)
            .enable_push(false)
            .handshake::<_, Bytes>(stream)
            .await
            .map_err(failure)?;
        let pings = connection.ping_pong();
        let entered = self.enter(host.host_id, sender.clone());
        tracing::info!(node = %host.host_id, name = %host.name, %peer, "a node has a tunnel to this proxy");
        let mut connection = std::pin::pin!(connection);
        let mut answers = std::pin::pin!(async {
            match pings {
                Some(pings) => keep_asking(pings).await,
                None => std::future::pending().await,
            }
        });
        let gone = tokio::select! {
            ended = connection.as_mut() => return ended.map_err(failure),
            () = answers.as_mut() => return Err(io::ErrorKind::TimedOut.into()),
            () = shutdown.draining() => true,
            () = expired(host, clock) => false,
        };
        drop(entered);
        let farewell = async {
            if gone {
                let _ = tokio::time::timeout(FAREWELL, drain(sender)).await;
            }
        };
        // It ends by itself when the last stream has.
        let (_, ended) = tokio::join!(farewell, async {
            tokio::select! {
                ended = connection => ended.map_err(failure),
                () = answers => Err(io::ErrorKind::TimedOut.into()),
            }
        });
        ended
    }
}

/// Resolves when the node does not answer any more.
async fn keep_asking(mut pings: h2::PingPong) {
    loop {
        tokio::time::sleep(PING.0).await;
        match tokio::time::timeout(PING.1, pings.ping(h2::Ping::opaque())).await {
            Ok(Ok(_)) => {}
            // What failed with the connection is told by the connection.
            Ok(Err(_)) => std::future::pending().await,
            Err(_) => return,
        }
    }
}

/// Resolves when the certificate of a host has ended.
async fn expired(host: &HostIdentity, clock: &dyn Clock) {
    loop {
        let rest = host.expires.saturating_since(clock.now());
        if rest.is_zero() {
            return;
        }
        // The clock may be set, or stand still while the machine sleeps.
        tokio::time::sleep(rest.min(LOOK)).await;
    }
}

/// A tunnel that counts.
struct Entered {
    tunnels: Tunnels,
    node: HostId,
    number: u64,
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut nodes = self.tunnels.nodes();
        let Some(tunnels) = nodes.get_mut(&self.node) else { return };
        tunnels.retain(|tunnel| tunnel.number != self.number);
        if tunnels.is_empty() {
            nodes.remove(&self.node);
        }
    }
}

fn request(path: &'static str) -> io::Result<Request<()>> {
    Request::post(format!("https://node{path}")).body(()).map_err(io::Error::other)
}

async fn open(sender: SendRequest<Bytes>) -> io::Result<TunnelStream> {
    let mut sender = sender.ready().await.map_err(failure)?;
    let (answer, outgoing) = sender.send_request(request(path::SSH)?, false).map_err(failure)?;
    let answer = answer.await.map_err(failure)?;
    match answer.status() {
        StatusCode::OK => Ok(TunnelStream::new(answer.into_body(), outgoing)),
        status => Err(io::Error::other(format!("the node does not take it: {status}"))),
    }
}

/// Tells a node that this proxy goes away.
async fn drain(sender: SendRequest<Bytes>) -> io::Result<()> {
    let mut sender = sender.ready().await.map_err(failure)?;
    let (answer, _) = sender.send_request(request(path::DRAIN)?, true).map_err(failure)?;
    drop(sender);
    answer.await.map(drop).map_err(failure)
}

#[async_trait]
impl NodeDialer for Tunnels {
    async fn dial(&self, route: &NodeRoute, by: &UserIdentity) -> Result<BoxedIo, DialError> {
        if !route.record().is_tunnelled() {
            return self.0.direct.dial(route, by).await;
        }
        let dialling = async {
            let mut failed = DialError::NoTunnel;
            let mut tunnels = self.of(route.host_id()).into_iter().peekable();
            while let Some(tunnel) = tunnels.next() {
                let opening = open(tunnel);
                let opened = match tunnels.peek() {
                    Some(_) => tokio::time::timeout(NEXT, opening).await,
                    None => Ok(opening.await),
                };
                match opened {
                    Ok(Ok(stream)) => return Ok(Box::new(stream) as BoxedIo),
                    Ok(Err(source)) => failed = DialError::Unreachable { source },
                    Err(_) => failed = DialError::Timeout,
                }
            }
            Err(failed)
        };
        tokio::time::timeout(DIAL_TIMEOUT, dialling).await.map_err(|_| DialError::Timeout)?
    }
}
