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
use teleport_core::resource::NodeRecord;
use teleport_core::task::Shutdown;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::peer::Peers;
use super::stream::{TunnelStream, failure};
use super::{NEXT, client, path};
use crate::proxy::route::NodeRoute;
use crate::proxy::{DIAL_TIMEOUT, DialError, NodeDialer, NodeView};
use crate::rpc::BoxedIo;

/// The most tunnels of one node: it makes a new one before it gives up an old one.
const MAX_TUNNELS: usize = 4;
/// How often a node is asked whether it is there, and how long it may take to answer.
const PING: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(60));
/// How long a node has to hear that the proxy goes away.
const FAREWELL: Duration = Duration::from_secs(2);
/// The longest time until the clock and the table of nodes are looked at again.
const LOOK: Duration = Duration::from_secs(60);
/// How long a node keeps its tunnel that nobody knows: one that is new has yet to announce itself, and after a restart of the auth service all have.
const UNKNOWN: Duration = Duration::from_secs(600);

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

    /// The number of the newest tunnel that a node has here.
    fn newest(&self, node: HostId) -> Option<u64> {
        self.nodes().get(&node).and_then(|tunnels| Some(tunnels.last()?.number))
    }

    /// Resolves when a node has a newer tunnel here than `known`. Cancel safe.
    async fn newer(&self, node: HostId, known: Option<u64>) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.0.entered.subscribe().wait_for(|_| self.newest(node) > known).await;
    }

    async fn by_own(&self, node: HostId) -> Result<TunnelStream, DialError> {
        loop {
            let known = self.newest(node);
            tokio::select! {
                biased;
                opened = self.by_each(node) => return opened,
                // The node has doubts: whoever waits for it need not wait for the tunnel that it has given up.
                () = self.newer(node, known) => {}
            }
        }
    }

    /// Opens a stream to a node by a tunnel here or, if it has none that answers soon, by a proxy that has one.
    async fn reach(&self, record: &NodeRecord) -> Result<TunnelStream, DialError> {
        let node = record.host_id;
        let Some(peers) = &self.0.peers else { return self.by_own(node).await };
        // One that is silent is known to the node before it is known here, and what the record says of others may be told meanwhile. But one
        // may be only slow, and be the first to answer all the same.
        loop {
            let known = self.newest(node);
            let mut own = std::pin::pin!(self.by_own(node));
            let mut failed = match tokio::time::timeout(NEXT, own.as_mut()).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => Some(error),
                Err(_) => None,
            };
            let mut elsewhere = std::pin::pin!(peers.reach(record, self.newer(node, known)));
            let reached = loop {
                tokio::select! {
                    opened = own.as_mut(), if failed.is_none() => match opened {
                        Ok(stream) => return Ok(stream),
                        Err(error) => failed = Some(error),
                    },
                    reached = elsewhere.as_mut() => break reached,
                }
            };
            let error = match reached {
                Ok(Some(stream)) => return Ok(stream),
                // There is a new one here.
                Ok(None) => continue,
                Err(error) => error,
            };
            let failed = match failed {
                Some(failed) => failed,
                None => match own.await {
                    Ok(stream) => return Ok(stream),
                    Err(failed) => failed,
                },
            };
            return Err(if matches!(error, DialError::NoTunnel) { failed } else { error });
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
    /// that was shown ends, or the node has newer ones enough, or it is not known for a while; the streams that there are then go on.
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
            () = forgotten(host.host_id, self.0.peers.as_ref().map(Peers::nodes)) => {
                tracing::info!(node = %host.host_id, %peer, "the tunnel of a node that was removed, or does not announce itself, ends with its last stream");
                false
            }
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

/// Resolves when nobody has known of a node for a time: it was removed, or gives no signs of life. Looks seldom: there are as many of these
/// as nodes, and each sign of life of any of them is a change of the table.
async fn forgotten(node: HostId, nodes: Option<&NodeView>) {
    let Some(nodes) = nodes else { return std::future::pending().await };
    let mut known = Instant::now();
    while known.elapsed() < UNKNOWN {
        tokio::time::sleep(LOOK).await;
        if nodes.read(|nodes| nodes.by_id(node).is_some()) {
            known = Instant::now();
        }
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
        let stream = tokio::time::timeout(DIAL_TIMEOUT, self.reach(route.record()))
            .await
            .map_err(|_| DialError::Timeout)??;
        Ok(Box::new(stream))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use teleport_core::api::NodeEvent;
    use teleport_core::clock::Timestamp;
    use teleport_core::resource::{Node, NodeKind};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_node_that_was_removed_keeps_its_tunnel_for_a_while_and_one_that_is_there_for_ever() {
        let id: HostId = "0f8fad5b-d9cb-469f-a165-70867728950e".parse().unwrap();
        let nodes = NodeView::new();
        let left = async |time: u64| {
            tokio::time::timeout(Duration::from_secs(time), forgotten(id, Some(&nodes))).await.is_ok()
        };
        // It has not announced itself yet.
        assert!(!left(590).await && left(700).await);
        let record = NodeRecord {
            host_id: id,
            name: "web-1".parse().unwrap(),
            address: String::new(),
            labels: teleport_core::label::Labels::default(),
            sub_kind: NodeKind::Teleport,
            proxy_ids: Vec::new(),
            version: "1".to_owned(),
        };
        nodes.apply(NodeEvent::Put(Node { record, last_seen: Timestamp::from_unix_secs(1) }));
        assert!(!left(7 * 24 * 3600).await);
        nodes.apply(NodeEvent::Gone(id));
        assert!(!left(590).await && left(700).await);
        // Who follows no nodes knows nothing.
        let never = tokio::time::timeout(Duration::from_secs(7 * 24 * 3600), forgotten(id, None));
        assert!(never.await.is_err());
    }
}
