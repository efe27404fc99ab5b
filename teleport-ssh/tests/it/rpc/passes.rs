//! Strangers whom a proxy passes on to the auth service, and those who come the same way and are known.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use teleport_core::api::TrustApi as _;
use teleport_core::id::HostRole;
use teleport_ssh::identity::HostIdentityHandle;
use teleport_ssh::listener::limits::Limits;
use teleport_ssh::proxy_web::{PassLimits, ProxyWeb};
use teleport_ssh::rpc::{AuthClient, BoxedIo, ClientIdentity, Connector, ProxyConnector, TcpConnector};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::hostile::client_hello;
use super::world::{World, cluster, soon};

/// The auth service, whose every client is at the address of a known proxy.
fn behind_a_proxy(per_exempt: u32) -> Limits {
    let exempt = vec![Ipv4Addr::LOCALHOST.into()];
    Limits { per_source: 1, per_exempt, exempt, penalties: false, ..Limits::default() }
}

async fn proxy(world: &World, own: AuthClient, to: Arc<dyn Connector>, limits: PassLimits) -> SocketAddr {
    let identity = HostIdentityHandle::new(world.host(HostRole::Proxy, "proxy-1").await);
    let web = ProxyWeb::builder(Arc::new(own), identity, world.clock());
    world.serve_web(web.pass_to(to).pass_limits(limits)).await
}

async fn node_behind(world: &World, proxy: SocketAddr, name: &str) -> AuthClient {
    let connector = ProxyConnector::new([proxy.to_string()], cluster());
    let identity = HostIdentityHandle::new(world.host(HostRole::Node, name).await);
    AuthClient::builder(Arc::new(connector), ClientIdentity::Host(identity), world.clock()).build()
}

#[tokio::test]
async fn strangers_behind_a_proxy_leave_room_for_the_proxy() {
    let world = World::start_with(behind_a_proxy(8)).await;
    let (own, _) = world.as_host(HostRole::Proxy, "proxy-1").await;
    let few = PassLimits { per_source: 4, ..PassLimits::default() };
    let web = proxy(&world, own, world.connector(), few).await;
    let node = node_behind(&world, web, "web-1").await;
    let mut views = node.watch_access().await.unwrap();
    soon("the first view", views.next()).await.unwrap().unwrap();

    let mut crowd = Vec::new();
    let mut turned_away = 0;
    for _ in 0..40 {
        let mut stream = TcpStream::connect(web).await.unwrap();
        stream.write_all(&client_hello(&world, &[b"teleport-auth@example.com"])).await.unwrap();
        // The auth service answers those who are passed on; then it waits for them, and they do not go on.
        match soon("an answer or the end", stream.read(&mut [0; 1])).await {
            Ok(1) => crowd.push(stream),
            _ => turned_away += 1,
        }
    }
    assert_eq!((crowd.len(), turned_away), (3, 37), "the node is a stranger, too, for a while");
    assert_eq!(world.door.counts().refused, 0, "none of them came so far as to be refused there");
    // The proxy itself comes anew, from the same address, and others of the cluster.
    let (again, _) = world.as_host(HostRole::Proxy, "proxy-1").await;
    soon("an answer for the proxy", again.trust()).await.unwrap();
    node.trust().await.unwrap();
}

/// A way that leads nowhere until it is opened.
#[derive(Debug)]
struct Switch {
    to: Arc<TcpConnector>,
    on: AtomicBool,
    used: AtomicUsize,
}

impl Switch {
    fn new(to: Arc<TcpConnector>, on: bool) -> Arc<Self> {
        Arc::new(Self { to, on: AtomicBool::new(on), used: AtomicUsize::new(0) })
    }
}

#[async_trait]
impl Connector for Switch {
    async fn connect(&self) -> io::Result<BoxedIo> {
        self.used.fetch_add(1, Ordering::SeqCst);
        if !self.on.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        self.to.connect().await
    }
}

/// Strangers do not compete with a proxy whose address the auth service does not know yet.
#[tokio::test]
async fn the_proxys_own_connection_comes_first() {
    let world = World::start().await;
    let (own_way, way) = (Switch::new(world.connector(), false), Switch::new(world.connector(), true));
    let identity = HostIdentityHandle::new(world.host(HostRole::Proxy, "proxy-1").await);
    let own_connector = Arc::clone(&own_way);
    let own = AuthClient::builder(own_connector, ClientIdentity::Host(identity), world.clock()).build();
    let web = proxy(&world, own, Arc::clone(&way) as _, PassLimits::default()).await;
    let mut stranger = TcpStream::connect(web).await.unwrap();
    stranger.write_all(&client_hello(&world, &[b"teleport-auth@example.com"])).await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(300), stranger.read(&mut [0; 1])).await;
    assert!(early.is_err() && way.used.load(Ordering::SeqCst) == 0, "passed on too early");
    own_way.on.store(true, Ordering::SeqCst);
    assert_eq!(soon("an answer", stranger.read(&mut [0; 1])).await.unwrap(), 1);
}
