//! `max_connections`: never more places than roles allow, whoever asks, and none that stays taken for ever.

use std::sync::Arc;
use std::time::Duration;

use teleport_core::api::{
    ApiErrorKind, CONNECTION_LEASE, ConnectionApi, ConnectionClaim, HoldConnections, ReleaseConnections,
};
use teleport_core::auth::{AuthHandle, Caller};
use teleport_core::cert::{HostIdentity, Identity};
use teleport_core::id::{ConnectionId, HostRole, RunId, UserName};
use teleport_core::testing::ManualClock;

use crate::cluster::Cluster;
use crate::slow::Slow;

/// A run of a node.
#[derive(Clone)]
struct Node {
    api: AuthHandle,
    run: RunId,
    cluster: Arc<Cluster>,
}

impl Node {
    fn start(cluster: &Arc<Cluster>, host: &HostIdentity) -> Self {
        let run = RunId::from_uuid(uuid(cluster));
        Self { api: cluster.as_host(host), run, cluster: Arc::clone(cluster) }
    }

    fn new(cluster: &Arc<Cluster>, name: &str) -> Self {
        let mut host = cluster.host(name, HostRole::Node);
        host.expires = cluster.now().saturating_add(Duration::from_secs(86_400));
        Self::start(cluster, &host)
    }

    async fn hold(&self, id: ConnectionId, most: u64) -> bool {
        let claim = ConnectionClaim { id, user: alice(), most };
        let request = HoldConnections { run: self.run, connections: vec![claim] };
        self.api.hold_connections(request).await.unwrap().refused.is_empty()
    }

    /// A new connection, if there is a place for it.
    async fn connect(&self, most: u64) -> Option<ConnectionId> {
        let id = ConnectionId::from_uuid(uuid(&self.cluster));
        self.hold(id, most).await.then_some(id)
    }

    async fn release(&self, id: ConnectionId) {
        self.api.release_connections(ReleaseConnections { connections: vec![(alice(), id)] }).await.unwrap();
    }
}

fn uuid(cluster: &Cluster) -> uuid::Uuid {
    uuid::Uuid::from_u64_pair(0x1234_5678_4000_8000, cluster.unique())
}

fn alice() -> UserName {
    "alice".parse().unwrap()
}

#[tokio::test]
async fn places_of_a_node_that_crashed_run_out() {
    let cluster = Arc::new(Cluster::new().await);
    let (first, second) = (Node::new(&cluster, "web-1"), Node::new(&cluster, "web-2"));
    let kept = first.connect(2).await.unwrap();
    second.connect(2).await.unwrap();
    assert_eq!(first.connect(2).await, None);
    // The second node is gone; the first goes on.
    let half = CONNECTION_LEASE / 2;
    cluster.clock.advance(half);
    assert!(first.hold(kept, 2).await);
    cluster.clock.advance(half - Duration::from_millis(1));
    assert_eq!(first.connect(2).await, None, "it may be alive still");
    cluster.clock.advance(Duration::from_millis(1));
    assert!(first.connect(2).await.is_some());
    assert_eq!(first.connect(2).await, None, "what was prolonged is no place for others");
    // Nothing is left in the storage when all have run out.
    cluster.clock.advance(CONNECTION_LEASE);
    let key = "user-connections/alice".parse().unwrap();
    assert_eq!(cluster.backend.get(&key).await.unwrap(), None);
}

#[tokio::test]
async fn a_node_that_starts_anew_need_not_wait_for_its_own_places() {
    let cluster = Arc::new(Cluster::new().await);
    let host = cluster.host("web-1", HostRole::Node);
    let crashed = Node::start(&cluster, &host);
    crashed.connect(1).await.unwrap();
    let other = Node::new(&cluster, "web-2");
    assert_eq!(other.connect(1).await, None);
    let anew = Node::start(&cluster, &host);
    let id = anew.connect(1).await.unwrap();
    assert_eq!(other.connect(1).await, None, "those of other nodes stay");
    anew.release(id).await;
    let key = "user-connections/alice".parse().unwrap();
    assert_eq!(cluster.backend.get(&key).await.unwrap(), None);
    assert!(other.connect(1).await.is_some());
}

#[tokio::test]
async fn a_lower_limit_counts_for_what_comes_and_leaves_what_is() {
    let cluster = Arc::new(Cluster::new().await);
    let node = Node::new(&cluster, "web-1");
    let all =
        [node.connect(3).await.unwrap(), node.connect(3).await.unwrap(), node.connect(3).await.unwrap()];
    assert!(node.hold(all[0], 1).await, "a connection that is open keeps its place");
    node.release(all[1]).await;
    assert_eq!(node.connect(2).await, None);
    node.release(all[2]).await;
    assert!(node.connect(2).await.is_some());
    assert_eq!(node.connect(0).await, None);
}

/// Two auth services on one storage, many nodes at the same moment.
#[tokio::test]
async fn however_many_come_at_once_no_more_get_in() {
    const MOST: u64 = 7;
    let clock = Arc::new(ManualClock::default());
    let backend = Arc::new(Slow::new(clock.clone()));
    let cluster = Arc::new(Cluster::over(backend, clock, |_| {}).await);
    let second = cluster.second();
    let nodes: Vec<Node> = (0..8)
        .map(|number| {
            let mut node = Node::new(&cluster, &format!("web-{number}"));
            if number % 2 == 1 {
                let Caller::Identity(Identity::Host(host), _) = node.api.caller().clone() else {
                    unreachable!()
                };
                node.api = second.acting_as(Caller::Identity(Identity::Host(host), None));
            }
            node
        })
        .collect();
    for _ in 0..5 {
        let mut coming = tokio::task::JoinSet::new();
        for number in 0..64 {
            let node = nodes[number % nodes.len()].clone();
            coming.spawn(async move { node.connect(MOST).await.map(|id| (node, id)) });
        }
        let inside: Vec<_> = coming.join_all().await.into_iter().flatten().collect();
        assert_eq!(inside.len() as u64, MOST);
        let mut going = tokio::task::JoinSet::new();
        for (node, id) in inside {
            going.spawn(async move { node.release(id).await });
        }
        going.join_all().await;
    }
}

#[tokio::test]
async fn a_host_that_was_removed_takes_no_places() {
    use teleport_core::api::{AdminApi, PresenceApi};
    use teleport_core::resource::NodeRecord;
    let cluster = Arc::new(Cluster::new().await);
    let host = cluster.host("web-1", HostRole::Node);
    let node = Node::start(&cluster, &host);
    node.api
        .announce_node(NodeRecord {
            host_id: host.host_id,
            name: host.name.clone(),
            address: "192.0.2.7:3022".to_owned(),
            labels: Default::default(),
            sub_kind: teleport_core::resource::NodeKind::Teleport,
            proxy_ids: Vec::new(),
            version: String::new(),
        })
        .await
        .unwrap();
    cluster.admin().delete_node(host.host_id).await.unwrap();
    let request = HoldConnections { run: node.run, connections: Vec::new() };
    let error = node.api.hold_connections(request).await.unwrap_err();
    assert_eq!(error.kind(), ApiErrorKind::Evicted);
}
