//! Asks other proxies: one connection to each, made when it is needed.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use hyper::{Request, StatusCode};
use teleport_core::api::AccessView;
use teleport_core::cert::HostIdentity;
use teleport_core::clock::Clock;
use teleport_core::entropy::{Entropy, EntropyExt as _};
use teleport_core::id::HostId;
use teleport_core::resource::NodeRecord;
use teleport_core::task::TaskScope;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use super::{ALPN, NODE};
use crate::identity::{HostIdentityHandle, HostMaterial};
use crate::proxy::{DialError, NodeView};
use crate::rpc::{ReadAhead, dial_straight};
use crate::tunnel::health::{self, Health};
use crate::tunnel::stream::{TunnelStream, failure};
use crate::tunnel::tls::{self, HANDSHAKE};
use crate::tunnel::{NEXT, client, unwelcome};
use crate::view::AccessCache;

/// How long a node that has lost its tunnels has to tell of another one, before its user is told that it cannot be reached.
const ELSEWHERE: Duration = Duration::from_secs(5);

/// The other proxies, as this one asks them. Clones share the connections.
#[derive(Clone)]
pub struct Peers(Arc<Shared>);

struct Shared {
    identity: HostIdentityHandle,
    view: AccessCache,
    nodes: NodeView,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    places: Mutex<HashMap<HostId, Attempt>>,
    /// The connections end with the last clone.
    tasks: TaskScope,
}

/// The connection to one proxy, or the attempt to make it. It is made by a task of its own, for all who ask meanwhile: one who does not wait for
/// it any longer does not take it along.
struct Attempt {
    material: Arc<HostMaterial>,
    made: watch::Receiver<Made>,
}

/// What has become of an attempt; at first, nothing.
type Made = Option<Result<Link, Arc<io::Error>>>;

#[derive(Clone)]
struct Link {
    sender: SendRequest<Bytes>,
    health: watch::Receiver<Health>,
    over: CancellationToken,
}

impl Attempt {
    /// Whether it can be waited for, or used.
    fn is_good(&self, material: &HostMaterial) -> bool {
        // Of a renewed identity only the newest certificate is shown.
        self.material.tls_certificate == material.tls_certificate
            && match &*self.made.borrow() {
                None => self.made.has_changed().is_ok(),
                Some(Ok(link)) => *link.health.borrow() == Health::Good && !link.over.is_cancelled(),
                Some(Err(_)) => false,
            }
    }
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peers").field("connections", &self.0.tasks.len()).finish_non_exhaustive()
    }
}

impl Peers {
    /// Without connections yet. `view` says which proxies can be asked, and where, and `nodes` which have the tunnels of a node: the same
    /// that the proxy's SSH server follows ([`ProxyBuilder::views`](crate::proxy::ProxyBuilder::views)).
    pub fn new(
        identity: HostIdentityHandle,
        view: AccessCache,
        nodes: NodeView,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Self {
        let (places, tasks) = (Mutex::default(), TaskScope::new());
        Self(Arc::new(Shared { identity, view, nodes, clock, entropy, places, tasks }))
    }

    /// Opens a stream to a node by one of the proxies that have its tunnels. If none leads there, waits for a while until the node has told of
    /// another one, or until `here` resolves, because it has a new one here; then there is no stream. Cancel safe.
    pub(in crate::tunnel) async fn reach(
        &self,
        node: &NodeRecord,
        here: impl Future<Output = ()>,
    ) -> Result<Option<TunnelStream>, DialError> {
        let host = node.host_id;
        let mut proxies = node.proxy_ids.clone();
        let news = tokio::time::sleep(ELSEWHERE);
        tokio::pin!(news, here);
        let mut views = self.0.view.changes();
        // Without peering nodes have no tunnels of which they tell.
        let is_asked = || self.0.view.current().is_some_and(|view| view.peering.is_some());
        while is_asked() {
            let mut changed = Box::pin(
                self.0
                    .nodes
                    .wait_for(|nodes| nodes.by_id(host).is_none_or(|node| node.record.proxy_ids != proxies)),
            );
            let failed = tokio::select! {
                biased;
                opened = self.by_one_of(&proxies, host) => match opened {
                    Ok(stream) => return Ok(Some(stream)),
                    Err(error) => Some(error),
                },
                () = here.as_mut() => return Ok(None),
                () = &mut changed => None,
            };
            if let Some(failed) = failed {
                tokio::select! {
                    // However often views change, the time ends.
                    biased;
                    () = here.as_mut() => return Ok(None),
                    () = &mut changed => {}
                    () = news.as_mut() => return Err(failed),
                    // It may be known by now where a proxy can be asked.
                    () = views.next() => {}
                }
            }
            drop(changed);
            let told = self.0.nodes.read(|nodes| nodes.by_id(host).map(|node| node.record.proxy_ids.clone()));
            proxies = told.ok_or(DialError::NoTunnel)?;
        }
        Err(DialError::NoTunnel)
    }

    /// The nodes that this proxy knows.
    pub(in crate::tunnel) fn nodes(&self) -> &NodeView {
        &self.0.nodes
    }

    async fn by_one_of(&self, proxies: &[HostId], node: HostId) -> Result<TunnelStream, DialError> {
        let own = self.0.identity.current().host_id;
        let mut proxies: Vec<HostId> = proxies.iter().copied().filter(|proxy| *proxy != own).collect();
        // Any of them, so that all have as much to do. Without randomness the first.
        let first = self.0.entropy.bytes::<1>().map_or(0, |[dice]| usize::from(dice));
        let first = first.checked_rem(proxies.len()).unwrap_or_default();
        proxies.rotate_left(first);
        let mut failed = DialError::NoTunnel;
        let mut proxies = proxies.into_iter().peekable();
        while let Some(proxy) = proxies.next() {
            let opening = self.open(proxy, node);
            let opened = match proxies.peek() {
                Some(_) => tokio::time::timeout(NEXT, opening).await,
                None => Ok(opening.await),
            };
            match opened.unwrap_or_else(|late| Err(DialError::Peer { proxy, source: late.into() })) {
                Ok(stream) => return Ok(stream),
                Err(error) => {
                    tracing::debug!(%proxy, %node, error = &error as &dyn std::error::Error, "a proxy does not lead to a node");
                    failed = error;
                }
            }
        }
        Err(failed)
    }

    async fn open(&self, proxy: HostId, node: HostId) -> Result<TunnelStream, DialError> {
        let lost = |source| DialError::Peer { proxy, source };
        let view = self.0.view.usable().map_err(|error| lost(io::Error::other(error)))?;
        let known = view.peering.as_ref().and_then(|peering| peering.proxies.get(&proxy));
        let unknown = || io::Error::new(io::ErrorKind::NotFound, "it is not online, or cannot be asked");
        let address = known.ok_or_else(unknown).map_err(lost)?;
        let mut is_again = false;
        loop {
            let Link { mut sender, over, .. } = self.link(proxy, address, &view).await.map_err(lost)?;
            // One that goes away takes nothing new; another may be in its place.
            match std::future::poll_fn(|context| sender.poll_ready(context)).await {
                Ok(()) => {}
                Err(error) if is_again => return Err(lost(failure(error))),
                Err(_) => {
                    over.cancel();
                    is_again = true;
                    continue;
                }
            }
            let request = Request::post(format!("https://proxy{NODE}{node}")).body(());
            let request = request.map_err(|error| lost(io::Error::other(error)))?;
            let (answer, outgoing) =
                sender.send_request(request, false).map_err(|error| lost(failure(error)))?;
            let answer = answer.await.map_err(|error| lost(failure(error)))?;
            return match answer.status() {
                StatusCode::OK => Ok(TunnelStream::new(answer.into_body(), outgoing)),
                StatusCode::NOT_FOUND => Err(DialError::NoTunnel),
                status => {
                    let source = io::Error::other(format!("proxy {proxy} answers {status}"));
                    Err(DialError::Unreachable { source })
                }
            };
        }
    }

    /// The connection to a proxy, once there is one. Cancel safe: the attempt goes on.
    async fn link(&self, proxy: HostId, address: &str, view: &AccessView) -> io::Result<Link> {
        let mut made = self.attempt(proxy, address, view);
        let made = made.wait_for(Option::is_some).await.map(|made| made.clone());
        match made {
            Ok(Some(Ok(link))) => Ok(link),
            Ok(Some(Err(error))) => Err(io::Error::new(error.kind(), error)),
            Ok(None) | Err(_) => Err(io::ErrorKind::ConnectionAborted.into()),
        }
    }

    /// The attempt that goes on or has succeeded, or a new one.
    fn attempt(&self, proxy: HostId, address: &str, view: &AccessView) -> watch::Receiver<Made> {
        let material = self.0.identity.current();
        let mut places = self.0.places.lock().unwrap_or_else(PoisonError::into_inner);
        match places.get(&proxy) {
            Some(attempt) if attempt.is_good(&material) => return attempt.made.clone(),
            // What runs by the old one goes on.
            Some(_) => {}
            None => {
                let known = view.peering.as_ref().map(|peering| &peering.proxies);
                places.retain(|proxy, _| known.is_some_and(|known| known.contains_key(proxy)));
            }
        }
        let (told, made) = watch::channel(None);
        let attempt = Attempt { material: Arc::clone(&material), made: made.clone() };
        places.insert(proxy, attempt);
        let asking = Asking { proxy, material, view: self.0.view.clone(), clock: Arc::clone(&self.0.clock) };
        self.0.tasks.spawn(asking.run(address.to_owned(), told));
        made
    }
}

/// What makes one connection, and drives it.
struct Asking {
    proxy: HostId,
    material: Arc<HostMaterial>,
    view: AccessCache,
    clock: Arc<dyn Clock>,
}

impl Asking {
    async fn run(self, address: String, told: watch::Sender<Made>) {
        let proxy = self.proxy;
        let (host, sender, mut connection) = match self.connect(&address).await {
            Ok(connected) => connected,
            Err(error) => return drop(told.send(Some(Err(Arc::new(error))))),
        };
        let pings = connection.ping_pong();
        let (health, watched) = watch::channel(Health::Good);
        let over = CancellationToken::new();
        // However this ends.
        let _ended = over.clone().drop_guard();
        tracing::info!(%proxy, name = %host.name, "this proxy asks another one for nodes");
        told.send_replace(Some(Ok(Link { sender, health: watched, over })));
        // It has a way to ask as well, and would keep the connection when nobody else does.
        drop(told);
        let silent = async {
            match pings {
                Some(pings) => health::watch(pings, &health).await,
                None => std::future::pending().await,
            }
        };
        let outcome = tokio::select! {
            outcome = connection => outcome.map_err(failure),
            () = silent => Err(io::ErrorKind::TimedOut.into()),
            () = unwelcome(&self.view, &host, &*self.clock) => Err(refused("it is locked or was removed")),
        };
        let error = outcome.as_ref().err().map(|error| error as &dyn std::error::Error);
        tracing::info!(%proxy, error, "the connection to a proxy that was asked for nodes has ended");
    }

    async fn connect(&self, address: &str) -> io::Result<(HostIdentity, SendRequest<Bytes>, Driven)> {
        let tcp = dial_straight(address).await?;
        let (host, stream) = tls::connect(tcp, &self.material, ALPN, Arc::clone(&self.clock)).await?;
        if host.host_id != self.proxy {
            return Err(refused("another proxy answers at its address"));
        }
        if self.view.usable().map_err(io::Error::other)?.keep_way(&host, self.clock.now()).is_err() {
            return Err(refused("it is locked or was removed"));
        }
        let beginning = client().handshake::<_, Bytes>(stream);
        let (sender, connection) = tokio::time::timeout(HANDSHAKE, beginning).await?.map_err(failure)?;
        Ok((host, sender, connection))
    }
}

/// What has to run for a connection to live.
type Driven = h2::client::Connection<TlsStream<ReadAhead<TcpStream>>, Bytes>;

fn refused(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, why)
}
