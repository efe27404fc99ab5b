//! Proxies that ask each other for nodes: real TLS and real tunnels between three of them, and a node that answers with what it hears.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hyper::{Request, Response, StatusCode};
use teleport_core::access::{AccessChecker, RoleSet};
use teleport_core::api::{NodeEvent, PresenceApi as _, ProxyAccess, ProxyRecord, ResourceApi as _};
use teleport_core::auth::{AuthConfig, Caller};
use teleport_core::clock::{Clock as _, Timestamp};
use teleport_core::entropy::SystemEntropy;
use teleport_core::id::{HostId, HostRole};
use teleport_core::peering::TunnelStrategy;
use teleport_core::resource::{Lock, LockSpec, LockTarget, LockedNode, NodeKind, NodeRecord, builtin_roles};
use teleport_core::target::DialTarget;
use teleport_core::task::{Shutdown, TaskScope};
use teleport_core::testing::user_identity;
use teleport_ssh::identity::{HostIdentityHandle, HostMaterial, HostName};
use teleport_ssh::keys::TlsKeyPair;
use teleport_ssh::listener::limits::Limits;
use teleport_ssh::proxy::route::{NodeRoute, resolve};
use teleport_ssh::proxy::{DialError, Direct, NodeDialer as _, NodeView};
use teleport_ssh::proxy_web::ProxyWeb;
use teleport_ssh::rpc::{AuthClient, BoxedIo};
use teleport_ssh::tunnel::{PeerPort, Peers, Tunnels};
use teleport_ssh::view::AccessCache;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::hostile::{tls, tls_as};
use super::world::{World, authority, cluster, host, issued, user};

const TUNNEL: &[u8] = b"teleport-reversetunnel";
const PEER: &[u8] = b"teleport-proxy-peer";

/// Waits for a state, with an end that a busy machine does not reach.
async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(120), future).await {
        Ok(value) => value,
        Err(_) => panic!("waited in vain for: {what}"),
    }
}

async fn until(what: &str, is: impl Fn() -> bool) {
    soon(what, async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// A cluster whose proxies ask each other.
async fn world() -> World {
    let mut config = AuthConfig::new(cluster());
    config.tunnel_strategy = TunnelStrategy::ProxyPeering { agent_connection_count: 1.try_into().unwrap() };
    World::start_as(config, Limits { penalties: false, ..Limits::default() }, |audit| audit).await
}

struct Proxy {
    api: AuthClient,
    identity: HostIdentityHandle,
    view: AccessCache,
    nodes: NodeView,
    tunnels: Tunnels,
    web: SocketAddr,
    peer: SocketAddr,
    port: Shutdown,
    door: teleport_ssh::listener::Door,
    tasks: TaskScope,
}

impl Proxy {
    async fn start(world: &World, name: &str) -> Self {
        let (api, identity) = world.as_host(HostRole::Proxy, name).await;
        let access: Arc<dyn ProxyAccess> = Arc::new(api.clone());
        let entropy = || Arc::new(SystemEntropy::new());
        let (view, nodes) = (AccessCache::new(Duration::from_secs(3600)), NodeView::new());
        let tasks = TaskScope::new();
        tasks.spawn(view.follow(Arc::clone(&access), entropy(), Shutdown::new()));
        tasks.spawn({
            let (nodes, access) = (nodes.clone(), Arc::clone(&access));
            async move { nodes.follow(access, entropy()).await }
        });
        let peers = Peers::new(identity.clone(), view.clone(), nodes.clone(), world.clock(), entropy());
        let tunnels = Tunnels::with_peers(Arc::new(Direct::new()), peers);
        let web = ProxyWeb::builder(access, identity.clone(), world.clock()).tunnels(tunnels.clone());
        let bound = web.listen("127.0.0.1:0".parse().unwrap()).bind().await.unwrap();
        let web = bound.local_addr().unwrap();
        tasks.spawn(bound.serve(Shutdown::new()));
        let port = PeerPort::new(tunnels.clone(), identity.clone(), view.clone(), world.clock(), entropy());
        let port = port.limits(Limits { penalties: false, ..Limits::default() });
        let bound = port.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let (peer, door, port) = (bound.local_addr().unwrap(), bound.door(), Shutdown::new());
        tasks.spawn(bound.serve(port.clone()));
        let proxy = Self { api, identity, view, nodes, tunnels, web, peer, port, door, tasks };
        proxy.announce(Some(peer)).await;
        proxy
    }

    fn id(&self) -> HostId {
        self.identity.current().host_id
    }

    async fn announce(&self, peer: Option<SocketAddr>) {
        let material = self.identity.current();
        let record = ProxyRecord {
            host_id: material.host_id,
            name: material.name.clone(),
            web_address: "127.0.0.1:3080".to_owned(),
            ssh_address: "127.0.0.1:3023".to_owned(),
            peer_address: peer.map(|address| address.to_string()),
            tunnels: 0,
            version: "1".to_owned(),
        };
        self.api.announce_proxy(record).await.unwrap();
    }

    /// Waits until it knows where these can be asked.
    async fn knows(&self, others: &[&Self]) {
        let known = self.view.wait_for(|view| {
            let peering = view.peering.as_ref();
            others.iter().all(|other| peering.is_some_and(|now| now.proxies.contains_key(&other.id())))
        });
        soon("the other proxies", known).await.unwrap();
    }

    fn route(&self, node: HostId, now: Timestamp) -> NodeRoute {
        let roles = RoleSet::from(builtin_roles());
        let alice = user_identity("alice", "example.com", &["access"], &["root"], Timestamp::MAX);
        let checker = AccessChecker::for_identity(&alice, &roles);
        let target = DialTarget::from_host_port(&node.to_string(), 22).unwrap();
        self.nodes.read(|nodes| resolve(&target, nodes, &checker, &cluster(), now)).unwrap()
    }

    async fn dial(&self, world: &World, node: HostId) -> Result<BoxedIo, DialError> {
        let alice = user_identity("alice", "example.com", &["access"], &["root"], Timestamp::MAX);
        let route = self.route(node, world.clock.now());
        soon("an answer", self.tunnels.dial(&route, &alice)).await
    }
}

/// A node that says back what it hears on each stream, once it has heard all of it.
struct Node {
    material: HostMaterial,
    api: AuthClient,
    tasks: TaskScope,
}

impl Node {
    async fn start(world: &World) -> Self {
        let (api, identity) = world.as_host(HostRole::Node, "web-1").await;
        let material = HostMaterial::clone(&identity.current());
        Self { material, api, tasks: TaskScope::new() }
    }

    fn id(&self) -> HostId {
        self.material.host_id
    }

    async fn tunnel(&self, world: &World, proxy: &Proxy) {
        self.slow_tunnel(world, proxy, watch::channel(true).1).await;
    }

    /// One that answers once it may.
    async fn slow_tunnel(&self, world: &World, proxy: &Proxy, may: watch::Receiver<bool>) {
        let shown = (&self.material.tls_certificate[..], &self.material.tls);
        let tls = tls_as(world, proxy.web, &[TUNNEL], shown).await.unwrap();
        let mut connection = h2::server::Builder::new()
            .initial_window_size(2 << 20)
            .initial_connection_window_size(1 << 30)
            .handshake::<_, Bytes>(tls)
            .await
            .unwrap();
        self.tasks.spawn(async move {
            let streams = TaskScope::new();
            while let Some(Ok((request, mut answer))) = connection.accept().await {
                let mut may = may.clone();
                streams.spawn(async move {
                    let mut body = request.into_body();
                    // Fails when nothing can change any more.
                    let _ = may.wait_for(|may| *may).await;
                    let Ok(mut out) = answer.send_response(Response::new(()), false) else { return };
                    let mut heard = Vec::new();
                    while let Some(Ok(data)) = body.data().await {
                        let _ = body.flow_control().release_capacity(data.len());
                        // Something at once, and then all of it.
                        if heard.is_empty() {
                            let _ = out.send_data(Bytes::from_static(b"!"), false);
                        }
                        heard.extend_from_slice(&data);
                    }
                    let _ = out.send_data(heard.into(), true);
                    let _ = std::future::poll_fn(|context| out.poll_reset(context)).await;
                });
            }
        });
        until("the tunnel", || proxy.tunnels.has(self.id())).await;
    }

    async fn announce(&self, proxies: &[HostId], seen_by: &[&Proxy]) {
        let record = NodeRecord {
            host_id: self.id(),
            name: self.material.name.clone(),
            address: String::new(),
            labels: teleport_core::label::Labels::default(),
            sub_kind: NodeKind::Teleport,
            proxy_ids: proxies.to_vec(),
            version: "1".to_owned(),
        };
        self.api.announce_node(record).await.unwrap();
        for proxy in seen_by {
            let told = proxy.nodes.wait_for(|nodes| {
                nodes.by_id(self.id()).is_some_and(|node| node.record.proxy_ids == proxies)
            });
            soon("the news of the node", told).await;
        }
    }
}

/// All that is sent comes back, whole.
async fn echoes(mut stream: BoxedIo, length: usize) {
    let sent: Vec<u8> = (0..length).map(|at| u8::try_from(at.wrapping_mul(31) % 251).unwrap()).collect();
    let mut got = Vec::new();
    soon("the echo", async {
        stream.write_all(&sent).await.unwrap();
        stream.shutdown().await.unwrap();
        stream.read_to_end(&mut got).await.unwrap();
    })
    .await;
    assert_eq!(got.first(), Some(&b'!'));
    assert!(got.get(1..) == Some(&sent[..]), "{} of {length}", got.len());
}

async fn two_and_a_node(world: &World) -> (Proxy, Proxy, Node) {
    let (here, there) = (Proxy::start(world, "here").await, Proxy::start(world, "there").await);
    here.knows(&[&there]).await;
    let node = Node::start(world).await;
    node.tunnel(world, &there).await;
    node.announce(&[there.id()], &[&here, &there]).await;
    (here, there, node)
}

#[tokio::test]
async fn each_proxy_leads_to_a_node_that_has_a_tunnel_to_one() {
    let world = world().await;
    let (here, there, node) = two_and_a_node(&world).await;
    let third = Proxy::start(&world, "third").await;
    third.knows(&[&there]).await;
    soon("the node", third.nodes.wait_for(|nodes| nodes.len() == 1)).await;
    for length in [1, 3 << 20] {
        for proxy in [&here, &there, &third] {
            echoes(proxy.dial(&world, node.id()).await.unwrap(), length).await;
        }
    }
    assert!(here.tunnels.is_empty() && third.tunnels.is_empty());
    assert_eq!(there.door.counts().accepted, 2, "one connection of each proxy, whatever it carries");
}

#[tokio::test]
async fn the_connection_by_an_old_certificate_ends_with_its_last_stream() {
    let world = world().await;
    let (here, there, node) = two_and_a_node(&world).await;
    let old = here.dial(&world, node.id()).await.unwrap();
    let was = here.identity.current();
    let name = HostName { host_id: was.host_id, name: was.name.clone(), role: was.role };
    here.identity.replace(issued(&world.ca, name).await);
    for _ in 0..2 {
        echoes(here.dial(&world, node.id()).await.unwrap(), 10).await;
    }
    assert_eq!(there.door.counts().accepted, 2);
    echoes(old, 10).await;
    until("its end", || there.door.counts().connections == 1).await;
    echoes(here.dial(&world, node.id()).await.unwrap(), 10).await;
    assert_eq!(there.door.counts().accepted, 2, "the other one is there");
}

#[tokio::test]
async fn a_stream_between_proxies_that_nobody_reads_stops_no_other() {
    let world = world().await;
    let (here, _there, node) = two_and_a_node(&world).await;
    let mut stuck = Vec::new();
    for _ in 0..4 {
        let mut stream = here.dial(&world, node.id()).await.unwrap();
        // What the node says back is more than there is room for, and nobody reads it.
        soon("room", async {
            stream.write_all(&vec![0; 6 << 20]).await.unwrap();
            stream.shutdown().await.unwrap();
        })
        .await;
        stuck.push(stream);
    }
    echoes(here.dial(&world, node.id()).await.unwrap(), 3 << 20).await;
    drop(stuck);
    echoes(here.dial(&world, node.id()).await.unwrap(), 1).await;
}

/// Whether the port ends a connection that shows this, without a word of what is inside TLS.
async fn is_refused(world: &World, at: SocketAddr, shown: Option<(&[u8], &TlsKeyPair)>) -> bool {
    let stream = match shown {
        Some(identity) => tls_as(world, at, &[PEER], identity).await,
        None => tls(world, at, &[PEER]).await,
    };
    let Ok(mut stream) = stream else { return true };
    // What every client of HTTP/2 begins with.
    let _ = stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    let mut sink = [0; 64];
    !matches!(soon("an answer", stream.read(&mut sink)).await, Ok(1..))
}

/// Rows B12 and C2 of who comes to the port: nobody but another proxy of this cluster, by a certificate that holds.
#[tokio::test]
async fn b12_only_proxies_of_the_cluster_are_answered() {
    let world = world().await;
    let proxy = Proxy::start(&world, "proxy-1").await;
    soon("the view", proxy.view.ready()).await.unwrap();
    let alice = user(&world.ca, "alice", &["access", "proxy"], Duration::from_secs(3600)).await;
    let (node, of_auth) = (world.host(HostRole::Node, "n").await, world.host(HostRole::Auth, "a").await);
    let elsewhere = host(&*authority(&world.clock).await, HostRole::Proxy, "proxy-2").await;
    let (own, other) = (proxy.identity.current(), world.host(HostRole::Proxy, "proxy-2").await);
    for (who, shown) in [
        ("nobody", None),
        ("a user", Some((&alice.certificate[..], &alice.tls))),
        ("a node", Some((&node.tls_certificate[..], &node.tls))),
        ("the auth service", Some((&of_auth.tls_certificate[..], &of_auth.tls))),
        ("a proxy of another cluster", Some((&elsewhere.tls_certificate[..], &elsewhere.tls))),
        ("itself", Some((&own.tls_certificate[..], &own.tls))),
    ] {
        assert!(is_refused(&world, proxy.peer, shown).await, "{who}");
    }
    let shown = (&other.tls_certificate[..], &other.tls);
    assert!(!is_refused(&world, proxy.peer, Some(shown)).await);
    // And not when it has ended.
    world.clock.advance(Duration::from_secs(400 * 24 * 3600));
    assert!(is_refused(&world, proxy.peer, Some(shown)).await);
}

/// Asks a proxy as another one would.
async fn ask(world: &World, proxy: &Proxy, method: &str, path: &str) -> StatusCode {
    let asker = world.host(HostRole::Proxy, "asker").await;
    let shown = (&asker.tls_certificate[..], &asker.tls);
    let tls = tls_as(world, proxy.peer, &[PEER], shown).await.unwrap();
    let (sender, connection) = h2::client::handshake(tls).await.unwrap();
    let scope = TaskScope::new();
    scope.spawn(async move { drop(connection.await) });
    let mut sender = sender.ready().await.unwrap();
    let request = Request::builder().method(method).uri(format!("https://proxy{path}")).body(()).unwrap();
    let (answer, _stream) = sender.send_request(request, false).unwrap();
    soon("an answer", answer).await.unwrap().status()
}

/// Row C2: what is asked for is a node with a tunnel, by its id; never an address, and never what another proxy could reach.
#[tokio::test]
async fn c2_a_proxy_is_asked_for_its_own_tunnels_and_for_nothing_else() {
    let world = world().await;
    let (here, there, node) = two_and_a_node(&world).await;
    let id = node.id();
    assert_eq!(ask(&world, &there, "POST", &format!("/v1/node/{id}")).await, StatusCode::OK);
    let unknown = world.host(HostRole::Node, "unknown").await.host_id;
    for (method, path, status) in [
        ("POST", format!("/v1/node/{unknown}"), StatusCode::NOT_FOUND),
        ("POST", format!("/v1/node/{}", there.id()), StatusCode::NOT_FOUND),
        ("POST", "/v1/node/127.0.0.1:22".to_owned(), StatusCode::BAD_REQUEST),
        ("POST", "/v1/node/169.254.169.254".to_owned(), StatusCode::BAD_REQUEST),
        ("POST", "/v1/node/web-1".to_owned(), StatusCode::BAD_REQUEST),
        ("POST", format!("/v1/node/{id}/"), StatusCode::BAD_REQUEST),
        ("POST", format!("/v1/node//{id}"), StatusCode::BAD_REQUEST),
        ("POST", "/v1/ssh".to_owned(), StatusCode::NOT_FOUND),
        ("POST", "/v1/drain".to_owned(), StatusCode::NOT_FOUND),
        ("POST", "/".to_owned(), StatusCode::NOT_FOUND),
        ("GET", format!("/v1/node/{id}"), StatusCode::METHOD_NOT_ALLOWED),
    ] {
        assert_eq!(ask(&world, &there, method, &path).await, status, "{method} {path}");
    }
    // It knows who has the tunnel, and says no all the same: there are no loops.
    assert_eq!(ask(&world, &here, "POST", &format!("/v1/node/{id}")).await, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_node_that_names_proxies_without_its_tunnel_is_not_reached_and_no_proxy_asks_on() {
    let world = world().await;
    let (here, there, node) = two_and_a_node(&world).await;
    let third = Proxy::start(&world, "third").await;
    here.knows(&[&third]).await;
    third.knows(&[&there]).await;
    // Each names the next: a circle.
    node.announce(&[third.id(), here.id()], &[&here, &third]).await;
    let failed = here.dial(&world, node.id()).await.err().unwrap();
    assert!(matches!(failed, DialError::NoTunnel), "{failed:?}");
    assert_eq!(there.door.counts().accepted, 0, "nobody asked for it");
    node.announce(&[there.id()], &[&here]).await;
    echoes(here.dial(&world, node.id()).await.unwrap(), 10).await;
}

#[tokio::test]
async fn a_node_that_gets_another_tunnel_meanwhile_is_reached_by_that_one() {
    let world = world().await;
    let (here, there, node) = two_and_a_node(&world).await;
    let third = Proxy::start(&world, "third").await;
    node.announce(&[third.id()], &[&here]).await;
    let dialled = async { here.dial(&world, node.id()).await };
    let moved = async {
        until("the question", || third.door.counts().accepted > 0).await;
        node.announce(&[there.id()], &[]).await;
    };
    let (dialled, ()) = tokio::join!(dialled, moved);
    echoes(dialled.unwrap(), 10).await;
}

/// A way to a proxy's port on which everything waits until it is opened. Says how many have come.
struct Slow {
    address: SocketAddr,
    come: Arc<AtomicUsize>,
    open: watch::Sender<bool>,
    _tasks: TaskScope,
}

impl Slow {
    async fn before(proxy: &Proxy) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, to) = (listener.local_addr().unwrap(), proxy.peer);
        let (come, open, tasks) =
            (Arc::new(AtomicUsize::new(0)), watch::Sender::new(false), TaskScope::new());
        let (counted, opened) = (Arc::clone(&come), open.subscribe());
        tasks.spawn(async move {
            let ways = TaskScope::new();
            while let Ok((mut near, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                let mut opened = opened.clone();
                ways.spawn(async move {
                    let Ok(_) = opened.wait_for(|open| *open).await else { return };
                    let Ok(mut far) = TcpStream::connect(to).await else { return };
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                });
            }
        });
        Self { address, come, open, _tasks: tasks }
    }

    fn come(&self) -> usize {
        self.come.load(Ordering::SeqCst)
    }
}

/// `asker` knows that `proxy` is asked by that way.
async fn reached_by(asker: &Proxy, proxy: &Proxy, way: &Slow) {
    proxy.announce(Some(way.address)).await;
    let known = asker.view.wait_for(|view| {
        let peering = view.peering.as_ref();
        peering.is_some_and(|now| now.proxies.get(&proxy.id()) == Some(&way.address.to_string()))
    });
    soon("the news", known).await.unwrap();
}

#[tokio::test]
async fn who_does_not_wait_for_a_slow_connection_any_longer_leaves_it_to_the_next() {
    let world = world().await;
    let (here, there, node) = two_and_a_node(&world).await;
    let slow = Slow::before(&there).await;
    reached_by(&here, &there, &slow).await;
    tokio::select! {
        _ = here.dial(&world, node.id()) => panic!("there is no way yet"),
        () = until("the attempt", || slow.come() == 1) => {}
    }
    let opening = async { slow.open.send_replace(true) };
    let (dialled, _) = tokio::join!(here.dial(&world, node.id()), opening);
    echoes(dialled.unwrap(), 10).await;
    assert_eq!(slow.come(), 1, "it was not begun anew");
}

#[tokio::test]
async fn a_node_that_gets_a_tunnel_here_meanwhile_is_reached_by_that_one_at_once() {
    let world = world().await;
    let (here, there, node) = two_and_a_node(&world).await;
    let slow = Slow::before(&there).await;
    reached_by(&here, &there, &slow).await;
    let dialled = async { here.dial(&world, node.id()).await };
    // Nothing is told of it, and the other proxy does not answer.
    let tunnel = async {
        until("the attempt", || slow.come() == 1).await;
        node.tunnel(&world, &here).await;
    };
    let (dialled, ()) = tokio::join!(dialled, tunnel);
    echoes(dialled.unwrap(), 10).await;
}

#[tokio::test]
async fn a_tunnel_here_that_is_slow_and_lives_is_good_enough_when_no_other_proxy_leads_there() {
    let world = world().await;
    let (here, there) = (Proxy::start(&world, "here").await, Proxy::start(&world, "there").await);
    here.knows(&[&there]).await;
    let node = Node::start(&world).await;
    let (answers, may) = watch::channel(false);
    node.slow_tunnel(&world, &here, may).await;
    // The other one has lost its tunnel.
    node.announce(&[here.id(), there.id()], &[&here]).await;
    let dialled = async { here.dial(&world, node.id()).await };
    let slow = async {
        until("the question", || there.door.counts().accepted > 0).await;
        answers.send_replace(true);
    };
    let (dialled, ()) = tokio::join!(dialled, slow);
    echoes(dialled.unwrap(), 10).await;
}

#[tokio::test]
async fn g18_of_two_proxies_with_its_tunnel_one_is_enough() {
    let world = world().await;
    let (here, there, node) = two_and_a_node(&world).await;
    let gone = Proxy::start(&world, "gone").await;
    here.knows(&[&gone]).await;
    node.tunnel(&world, &gone).await;
    node.announce(&[gone.id(), there.id()], &[&here]).await;
    let ways = [gone.id(), there.id()];
    // By chance by either; both are tried while the one is away.
    gone.tasks.abort().await;
    for _ in 0..8 {
        echoes(here.dial(&world, node.id()).await.unwrap(), 10).await;
    }
    // Both away: the user is told which one could not be asked.
    there.tasks.abort().await;
    match here.dial(&world, node.id()).await {
        Err(DialError::Peer { proxy, .. }) => assert!(ways.contains(&proxy)),
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("nobody is there"),
    }
}

#[tokio::test]
async fn a_proxy_that_goes_away_finishes_what_it_leads_and_takes_nothing_new() {
    let world = world().await;
    let (here, there, node) = two_and_a_node(&world).await;
    let mut stream = here.dial(&world, node.id()).await.unwrap();
    stream.write_all(b"before").await.unwrap();
    let mut first = [0];
    soon("the first word", stream.read_exact(&mut first)).await.unwrap();
    there.port.drain();
    soon("its end", async {
        loop {
            // Until it has heard of it, it takes some.
            match here.dial(&world, node.id()).await {
                Err(DialError::Peer { .. }) => return,
                Err(other) => panic!("{other:?}"),
                Ok(_) => {}
            }
        }
    })
    .await;
    stream.write_all(b" and after").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut got = String::new();
    soon("the rest", stream.read_to_string(&mut got)).await.unwrap();
    assert_eq!(got, "before and after");
}

/// A proxy that is locked leads nobody, whichever side it is on, and what it leads ends.
#[tokio::test]
async fn a_locked_proxy_asks_nobody_and_is_not_asked() {
    let world = world().await;
    let (here, there, node) = two_and_a_node(&world).await;
    let admin = world.service.acting_as(Caller::LocalAdmin);
    for (locked, name) in [(&there, "there"), (&here, "here")] {
        let mut stream = here.dial(&world, node.id()).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        let mut first = [0];
        soon("the first word", stream.read_exact(&mut first)).await.unwrap();
        let target = LockTarget { node: Some(LockedNode::Id(locked.id())), ..LockTarget::default() };
        let lock = Lock::new(name, LockSpec { target, message: String::new() });
        admin.create_lock(lock).await.unwrap();
        let mut sink = Vec::new();
        assert!(soon("the end", stream.read_to_end(&mut sink)).await.is_err(), "{name}");
        for proxy in [&here, &there] {
            soon("the lock", proxy.view.wait_for(|view| !view.locks.is_empty())).await.unwrap();
        }
        let failed = here.dial(&world, node.id()).await.err().unwrap();
        assert!(matches!(failed, DialError::Peer { .. }), "{name}: {failed:?}");
        admin.delete_lock(name.parse().unwrap()).await.unwrap();
        for proxy in [&here, &there] {
            soon("no lock", proxy.view.wait_for(|view| view.locks.is_empty())).await.unwrap();
        }
    }
    echoes(here.dial(&world, node.id()).await.unwrap(), 10).await;
}

/// Who answers at the address of a proxy must be that proxy.
#[tokio::test]
async fn c2_a_proxy_that_announces_the_address_of_another_one_is_not_taken_for_it() {
    let world = world().await;
    let (here, there, node) = two_and_a_node(&world).await;
    let liar = Proxy::start(&world, "liar").await;
    liar.announce(Some(there.peer)).await;
    let known = here.view.wait_for(|view| {
        let peering = view.peering.as_ref();
        peering.is_some_and(|now| now.proxies.get(&liar.id()) == Some(&there.peer.to_string()))
    });
    soon("the news", known).await.unwrap();
    node.announce(&[liar.id()], &[&here]).await;
    let failed = here.dial(&world, node.id()).await.err().unwrap();
    assert!(matches!(failed, DialError::Peer { proxy, .. } if proxy == liar.id()), "{failed:?}");
}

/// Where nodes have a tunnel to each proxy, nobody asks.
#[tokio::test]
async fn without_peering_a_proxy_leads_through_its_own_tunnels_only() {
    let world = World::start().await;
    let (here, there) = (Proxy::start(&world, "here").await, Proxy::start(&world, "there").await);
    let node = Node::start(&world).await;
    node.tunnel(&world, &there).await;
    node.announce(&[there.id()], &[&here, &there]).await;
    let view = soon("the view", here.view.wait_for(|view| view.proxy_ids.len() == 2)).await.unwrap();
    assert_eq!(view.peering, None);
    assert!(matches!(here.dial(&world, node.id()).await, Err(DialError::NoTunnel)));
    assert_eq!(there.door.counts().accepted, 0);
    echoes(there.dial(&world, node.id()).await.unwrap(), 10).await;
    here.nodes.apply(NodeEvent::Gone(node.id()));
}
