#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]
mod leaks;
mod places;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use teleport_core::cert::HostIdentity;
use teleport_core::clock::{SystemClock, Timestamp};
use teleport_core::id::HostRole;
use teleport_core::task::{Shutdown, TaskScope};
use teleport_core::testing::{host_identity, user_identity};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::agent::{self, Strings};
use super::health::Health;
use super::*;
use crate::proxy::route::{NodeRoute, resolve};
use crate::proxy::{DialError, Direct, NodeDialer, NodeView};
use crate::rpc::BoxedIo;

const NODE: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";
/// Longer than anything here takes on a busy machine.
const DEADLINE: Duration = Duration::from_secs(120);

fn host(role: HostRole) -> HostIdentity {
    host_identity(NODE, "web-1", "example.com", role, Timestamp::MAX)
}

/// The way to the node, of which the table says that it listens nowhere.
fn route() -> NodeRoute {
    use teleport_core::access::{AccessChecker, RoleSet};
    use teleport_core::resource::{Node, NodeKind, NodeRecord, builtin_roles};
    let now = Timestamp::from_unix_secs(1_000_000);
    let record = NodeRecord {
        host_id: NODE.parse().unwrap(),
        name: "web-1".parse().unwrap(),
        address: String::new(),
        labels: "a=b".parse().unwrap(),
        sub_kind: NodeKind::Teleport,
        proxy_ids: Vec::new(),
        version: "1".to_owned(),
    };
    let nodes = NodeView::new();
    nodes.apply(teleport_core::api::NodeEvent::Snapshot(vec![Node { record, last_seen: now }]));
    let roles = RoleSet::from(builtin_roles());
    let user = user_identity("alice", "example.com", &["access"], &["root"], Timestamp::MAX);
    let checker = AccessChecker::for_identity(&user, &roles);
    let target = teleport_core::target::DialTarget::from_host_port("web-1", 22).unwrap();
    nodes.read(|nodes| resolve(&target, nodes, &checker, &"example.com".parse().unwrap(), now)).unwrap()
}

/// A node and a proxy with a tunnel between them.
struct World {
    tunnels: Tunnels,
    /// What comes to the node.
    streams: mpsc::UnboundedReceiver<BoxedIo>,
    draining: CancellationToken,
    retired: CancellationToken,
    proxy: Shutdown,
    _tasks: TaskScope,
}

impl World {
    async fn start() -> Self {
        Self::on(Tunnels::new(Arc::new(Direct::new()))).await
    }

    async fn on(tunnels: Tunnels) -> Self {
        let (near, far) = tokio::io::duplex(256 << 10);
        let (accepted, streams) = mpsc::unbounded_channel();
        let (draining, retired) = (CancellationToken::new(), CancellationToken::new());
        let tasks = TaskScope::new();
        let strings = Strings {
            health: watch::Sender::new(Health::Good),
            draining: draining.clone(),
            retired: retired.clone(),
        };
        let at: SocketAddr = "192.0.2.1:1".parse().unwrap();
        tasks.spawn(async move {
            let accept = move |stream, _| drop(accepted.send(stream));
            let begun = agent::begin(far, (at, at)).await.unwrap();
            let _ = agent::attend(begun, &strings, &accept).await;
        });
        let proxy = Shutdown::new();
        let (hub, shutdown) = (tunnels.clone(), proxy.clone());
        tasks.spawn(async move {
            let _ = hub.serve(near, (&host(HostRole::Node), at), &SystemClock::new(), &shutdown).await;
        });
        let world = Self { tunnels, streams, draining, retired, proxy, _tasks: tasks };
        world.until(|tunnels| !tunnels.is_empty()).await;
        world
    }

    async fn until(&self, is: impl Fn(&Tunnels) -> bool) {
        let looking = async {
            while !is(&self.tunnels) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, looking).await.unwrap();
    }

    async fn dial(&self) -> Result<BoxedIo, DialError> {
        let by = user_identity("alice", "example.com", &["access"], &["root"], Timestamp::MAX);
        self.tunnels.dial(&route(), &by).await
    }

    /// Both ends of a new stream: the proxy's and the node's.
    async fn pair(&mut self) -> (BoxedIo, BoxedIo) {
        (self.dial().await.unwrap(), self.streams.recv().await.unwrap())
    }
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from(at.wrapping_mul(31) % 251).unwrap()).collect()
}

#[tokio::test]
async fn both_ways_carry_everything_to_their_end() {
    let mut world = World::start().await;
    for length in [0, 1, 16 << 10, (5 << 20) + 7] {
        let (mut proxy, mut node) = world.pair().await;
        let (asked, answered) = (bytes(length), bytes(length / 2 + 1));
        let proxy_side = async {
            proxy.write_all(&asked).await.unwrap();
            proxy.shutdown().await.unwrap();
            let mut got = Vec::new();
            proxy.read_to_end(&mut got).await.unwrap();
            got
        };
        let node_side = async {
            let mut got = Vec::new();
            node.read_to_end(&mut got).await.unwrap();
            node.write_all(&answered).await.unwrap();
            node.shutdown().await.unwrap();
            got
        };
        let both = async { tokio::join!(proxy_side, node_side) };
        let (at_proxy, at_node) = tokio::time::timeout(DEADLINE, both).await.unwrap();
        assert!(at_node == asked && at_proxy == answered, "{length}");
    }
}

#[tokio::test]
async fn a_stream_that_nobody_reads_stops_no_other() {
    let mut world = World::start().await;
    let mut stuck = Vec::new();
    for _ in 0..8 {
        let (proxy, mut node) = world.pair().await;
        // Into both ways, until there is no room.
        let piece = vec![0; 64 << 10];
        let mut room = 0;
        while let Ok(written) = tokio::time::timeout(Duration::from_millis(100), node.write(&piece)).await {
            room += written.unwrap();
            assert!(room < 8 << 20, "what nobody reads is bounded");
        }
        stuck.push((proxy, node));
    }
    let (mut proxy, mut node) = world.pair().await;
    let sent = bytes(3 << 20);
    let writing = async {
        node.write_all(&sent).await.unwrap();
        node.shutdown().await.unwrap();
    };
    let reading = async {
        let mut got = Vec::new();
        proxy.read_to_end(&mut got).await.unwrap();
        got
    };
    let both = async { tokio::join!(writing, reading) };
    let ((), got) = tokio::time::timeout(DEADLINE, both).await.unwrap();
    assert!(got == sent);
}

#[tokio::test]
async fn who_goes_away_is_heard_of() {
    let mut world = World::start().await;
    let (proxy, mut node) = world.pair().await;
    drop(proxy);
    let mut got = Vec::new();
    let read = tokio::time::timeout(DEADLINE, node.read_to_end(&mut got)).await.unwrap();
    assert!(read.is_err(), "it broke off, and did not end");
    let (mut proxy, node) = world.pair().await;
    drop(node);
    let read = tokio::time::timeout(DEADLINE, proxy.read_to_end(&mut got)).await.unwrap();
    assert!(read.is_err());
}

#[tokio::test]
async fn a_proxy_that_drains_says_so_and_leads_nobody_new_there() {
    let mut world = World::start().await;
    let (mut proxy, mut node) = world.pair().await;
    world.proxy.drain();
    tokio::time::timeout(DEADLINE, world.draining.cancelled()).await.unwrap();
    world.until(Tunnels::is_empty).await;
    assert!(matches!(world.dial().await, Err(DialError::NoTunnel)));
    // What runs goes on.
    proxy.write_all(b"still").await.unwrap();
    let mut got = [0; 5];
    tokio::time::timeout(DEADLINE, node.read_exact(&mut got)).await.unwrap().unwrap();
    assert_eq!(&got, b"still");
}

#[tokio::test]
async fn a_node_that_has_a_better_tunnel_lets_the_old_one_end() {
    let mut world = World::start().await;
    let (mut proxy, mut node) = world.pair().await;
    world.retired.cancel();
    proxy.write_all(b"x").await.unwrap();
    proxy.shutdown().await.unwrap();
    node.shutdown().await.unwrap();
    let mut got = Vec::new();
    tokio::time::timeout(DEADLINE, node.read_to_end(&mut got)).await.unwrap().unwrap();
    assert_eq!(got, b"x");
    drop((proxy, node));
    world.until(Tunnels::is_empty).await;
}

#[tokio::test]
async fn who_waits_for_a_tunnel_that_is_silent_gets_the_next_one() {
    let (tunnels, tasks) = (Tunnels::new(Arc::new(Direct::new())), TaskScope::new());
    let (near, _nobody_reads) = tokio::io::duplex(256 << 10);
    let hub = tunnels.clone();
    tasks.spawn(async move {
        let at = "192.0.2.1:1".parse().unwrap();
        let _ = hub.serve(near, (&host(HostRole::Node), at), &SystemClock::new(), &Shutdown::new()).await;
    });
    while tunnels.is_empty() {
        tokio::task::yield_now().await;
    }
    let waiting = tunnels.clone();
    let (dialled, asked) = (CancellationToken::new(), CancellationToken::new());
    let (answered, told) = (dialled.clone(), asked.clone());
    tasks.spawn(async move {
        let by = user_identity("alice", "example.com", &["access"], &["root"], Timestamp::MAX);
        let route = route();
        let mut dialling = std::pin::pin!(waiting.dial(&route, &by));
        assert!(futures_util::poll!(dialling.as_mut()).is_pending());
        told.cancel();
        dialling.await.unwrap();
        answered.cancel();
    });
    asked.cancelled().await;
    let _world = World::on(tunnels).await;
    tokio::time::timeout(DEADLINE, dialled.cancelled()).await.unwrap();
}

/// Rows C2 and C3: a tunnel leads to its node, whoever asks for what; without one nothing is dialled.
#[tokio::test]
async fn c2_without_a_tunnel_there_is_no_way() {
    let tunnels = Tunnels::new(Arc::new(Direct::new()));
    let by = user_identity("alice", "example.com", &["access"], &["root"], Timestamp::MAX);
    assert!(matches!(tunnels.dial(&route(), &by).await, Err(DialError::NoTunnel)));
}

/// Goal G-10: what one node can take of a proxy's places is bounded.
#[tokio::test]
async fn g10_the_oldest_of_too_many_tunnels_ends() {
    let tunnels = Tunnels::new(Arc::new(Direct::new()));
    let at: SocketAddr = "192.0.2.1:1".parse().unwrap();
    let tasks = TaskScope::new();
    let (over, mut ended) = mpsc::unbounded_channel();
    for number in 0..6_u32 {
        let (near, far) = tokio::io::duplex(64 << 10);
        let strings = Strings {
            health: watch::Sender::new(Health::Good),
            draining: CancellationToken::new(),
            retired: CancellationToken::new(),
        };
        tasks.spawn(async move {
            let begun = agent::begin(far, (at, at)).await.unwrap();
            let _ = agent::attend(begun, &strings, &|_, _| {}).await;
        });
        let (hub, over, before) = (tunnels.clone(), over.clone(), tunnels.entered());
        tasks.spawn(async move {
            let _ = hub.serve(near, (&host(HostRole::Node), at), &SystemClock::new(), &Shutdown::new()).await;
            let _ = over.send(number);
        });
        let entering = async {
            while tunnels.entered() == before {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, entering).await.unwrap();
    }
    for oldest in 0..2 {
        assert_eq!(tokio::time::timeout(DEADLINE, ended.recv()).await.unwrap(), Some(oldest));
    }
    assert!(ended.try_recv().is_err() && tunnels.has(NODE.parse().unwrap()));
}

#[tokio::test]
async fn only_nodes_have_tunnels() {
    let tunnels = Tunnels::new(Arc::new(Direct::new()));
    let at = "192.0.2.1:1".parse().unwrap();
    for role in [HostRole::Proxy, HostRole::Auth] {
        let (near, _far) = tokio::io::duplex(1024);
        let refused = tunnels.serve(near, (&host(role), at), &SystemClock::new(), &Shutdown::new()).await;
        assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::PermissionDenied, "{role}");
        assert!(tunnels.is_empty());
    }
}
