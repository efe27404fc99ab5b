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
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::peer::Peers;
use super::stream::{TunnelStream, failure};
use super::{NEXT, client, path};
use crate::proxy::route::NodeRoute;
use crate::proxy::{DIAL_TIMEOUT, DialError, NodeDialer};
use crate::rpc::BoxedIo;

/// The most tunnels of one node: it makes a new one before it gives up an old one.
const MAX_TUNNELS: usize = 4;
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
    /// The number of the newest tunnel of all.
    entered: watch::Sender<u64>,
    direct: Arc<dyn NodeDialer>,
    peers: Option<Peers>,
}

/// A tunnel that can be used.
struct Tunnel {
    number: u64,
    sender: SendRequest<Bytes>,
    /// Lets it end with its streams when it is not to be used any more.
    _used: DropGuard,
}

impl fmt::Debug for Tunnels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tunnels").field("nodes", &self.nodes().len()).finish_non_exhaustive()
    }
}

impl Tunnels {
    /// Without tunnels yet; nodes that listen somewhere are reached by `direct`.
    pub fn new(direct: Arc<dyn NodeDialer>) -> Self {
        Self::with(direct, None)
    }

    /// The same; nodes that have no tunnel here are asked of other proxies, which have one.
    pub fn with_peers(direct: Arc<dyn NodeDialer>, peers: Peers) -> Self {
        Self::with(direct, Some(peers))
    }

    fn with(direct: Arc<dyn NodeDialer>, peers: Option<Peers>) -> Self {
        let (nodes, next, entered) = (Mutex::default(), AtomicU64::new(0), watch::Sender::new(0));
        Self(Arc::new(Shared { nodes, next, entered, direct, peers }))
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

    /// How many tunnels there were so far.
    #[cfg(test)]
    pub(super) fn entered(&self) -> u64 {
        self.0.next.load(Ordering::Relaxed)
    }

    /// What can be asked, the newest first: a node makes another one when it doubts one.
    fn of(&self, node: HostId) -> Vec<SendRequest<Bytes>> {
        let nodes = self.nodes();
        nodes.get(&node).into_iter().flatten().rev().map(|tunnel| tunnel.sender.clone()).collect()
    }

    /// Opens a stream to a node by a tunnel that it has here, and in no other way.
    ///
    /// # Errors
    /// [`DialError`], [`NoTunnel`](DialError::NoTunnel) without one.
    pub(super) async fn open_here(&self, node: HostId) -> Result<TunnelStream, DialError> {
        tokio::time::timeout(DIAL_TIMEOUT, self.by_own(node)).await.map_err(|_| DialError::Timeout)?
    }

    async fn by_own(&self, node: HostId) -> Result<TunnelStream, DialError> {
        let newest = || self.nodes().get(&node).and_then(|tunnels| Some(tunnels.last()?.number));
        let mut entered = self.0.entered.subscribe();
        loop {
            let known = newest();
            tokio::select! {
                biased;
                opened = self.by_each(node) => return opened,
                // The node has doubts: whoever waits for it need not wait for the tunnel that it has given up.
                _ = entered.wait_for(|_| newest() > known) => {}
            }
        }
    }

    async fn by_each(&self, node: HostId) -> Result<TunnelStream, DialError> {
        let mut failed = DialError::NoTunnel;
        let mut tunnels = self.of(node).into_iter().peekable();
        while let Some(tunnel) = tunnels.next() {
            let opening = open(tunnel);
            let opened = match tunnels.peek() {
                Some(_) => tokio::time::timeout(NEXT, opening).await,
                None => Ok(opening.await),
            };
            match opened {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(source)) => failed = DialError::Unreachable { source },
                Err(_) => failed = DialError::Timeout,
            }
        }
        Err(failed)
    }

    /// Counts a tunnel from now on, until what is returned is dropped. The oldest of too many goes.
    fn enter(&self, node: HostId, sender: SendRequest<Bytes>) -> Entered {
        let unused = CancellationToken::new();
        let number = self.0.next.fetch_add(1, Ordering::Relaxed);
        let mut nodes = self.nodes();
        let tunnels = nodes.entry(node).or_default();
        tunnels.push(Tunnel { number, sender, _used: unused.clone().drop_guard() });
        if tunnels.len() > MAX_TUNNELS {
            tunnels.remove(0);
        }
        drop(nodes);
        self.0.entered.send_replace(number);
        Entered { tunnels: self.clone(), node, number, unused }
    }

    /// Serves the tunnel of `host`, whose TLS stands, until it ends. Users are led through it until `shutdown` drains or the certificate
    /// that was shown ends, or the node has newer ones enough; the streams that there are then go on.
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
        let (sender, mut connection) = client().handshake::<_, Bytes>(stream).await.map_err(failure)?;
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
            () = entered.unused.cancelled() => false,
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
pub(super) async fn keep_asking(mut pings: h2::PingPong) {
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
pub(super) async fn expired(host: &HostIdentity, clock: &dyn Clock) {
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
    /// Others have taken its place.
    unused: CancellationToken,
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
            let node = route.host_id();
            let elsewhere = self.0.peers.as_ref().is_some_and(|peers| peers.have(route.record()));
            let own = match elsewhere {
                // One that is silent is known to the node before it is known here.
                true => {
                    let own = tokio::time::timeout(NEXT, self.by_own(node)).await;
                    own.unwrap_or(Err(DialError::Timeout))
                }
                false => self.by_own(node).await,
            };
            let failed = match own {
                Ok(stream) => return Ok(stream),
                Err(error) => error,
            };
            let Some(peers) = &self.0.peers else { return Err(failed) };
            match peers.reach(route.record(), || self.has(node)).await {
                Ok(Some(stream)) => Ok(stream),
                Ok(None) => self.by_own(node).await,
                Err(DialError::NoTunnel) => Err(failed),
                Err(error) => Err(error),
            }
        };
        let stream = tokio::time::timeout(DIAL_TIMEOUT, dialling).await.map_err(|_| DialError::Timeout)??;
        Ok(Box::new(stream))
    }
}
