//! `max_connections`: two nodes and the auth service that counts, as the stock client sees them.

use std::sync::Arc;
use std::time::Duration;

use ssh_key::LineEnding;
use teleport_backend::memory::MemoryBackend;
use teleport_core::api::CONNECTION_LEASE;
use teleport_core::auth::{AuthConfig, AuthService, Caller, Ports};
use teleport_core::cert::Identity;
use teleport_core::clock::{SystemClock, Timestamp};
use teleport_core::entropy::SystemEntropy;
use teleport_core::id::{ClusterName, HostRole};
use teleport_core::storage::Backend;
use teleport_core::testing::{
    KnownKeySealer, ManualClock, MemoryAudit, MemoryRecordings, UnsignedIssuer, host_identity,
};
use teleport_ssh::client::{Credentials, SessionRequest, SshClient};
use teleport_ssh::keys::SshKeyPair;
use teleport_ssh::node::AuditPolicy;
use tokio::net::TcpStream;
use tokio::process::Child;

use super::commands::access;
use super::support::{PATIENCE, TestNode, UserCert, me, text};

const FULL: &str = "2 connections to nodes of the cluster are open, the most that the roles allow";

/// Who counts, with a clock that the test moves.
struct Counting {
    service: AuthService,
    backend: Arc<dyn Backend>,
    clock: Arc<ManualClock>,
}

impl Counting {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::default());
        let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new(clock.clone()));
        let cluster = ClusterName::new("example.com").unwrap();
        let ports = Ports {
            backend: backend.clone(),
            issuer: Arc::new(UnsignedIssuer::new(cluster.clone(), clock.clone())),
            sealer: Arc::new(KnownKeySealer),
            recordings: Arc::new(MemoryRecordings::new()),
            audit: Arc::new(MemoryAudit::new()),
            clock: clock.clone(),
            entropy: Arc::new(SystemEntropy::new()),
        };
        Self { service: AuthService::new(ports, AuthConfig::new(cluster)), backend, clock }
    }

    /// A node of the cluster, where alice may have two connections.
    async fn node(&self) -> TestNode {
        // So that sessions begin while the auth service is away.
        let node = TestNode::with(|builder| builder.audit_policy(AuditPolicy::BestEffort)).await;
        let id = node.auth.announced(1).await.host_id.to_string();
        let host = host_identity(&id, "node", "example.com", HostRole::Node, Timestamp::MAX);
        let caller = Caller::Identity(Identity::Host(host), None);
        assert!(node.auth.counting.set(Arc::new(self.service.acting_as(caller))).is_ok());
        node.roles(access(|spec| spec.options.max_connections = 2)).await;
        node
    }

    /// Waits until no place is taken.
    async fn empty(&self) {
        let key = "user-connections/alice".parse().unwrap();
        let empty = async {
            while self.backend.get(&key).await.unwrap().is_some() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, empty).await.expect("all places are given back");
    }
}

async fn over(child: &mut Child) {
    drop(child.stdin.take());
    tokio::time::timeout(PATIENCE, child.wait()).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_counted_over_all_nodes() {
    let counting = Counting::new();
    let (first, second) = (counting.node().await, counting.node().await);
    let control = format!("ControlPath={}", first.path("control").display());
    let mut one = first.hold(&["-o", "ControlMaster=yes", "-o", &control]).await;
    let mut two = second.hold(&[]).await;
    for node in [&first, &second] {
        let output = node.run(&[], &["echo in"]).await;
        assert_eq!((output.status.code(), output.stdout.len()), (Some(255), 0));
        assert!(text(&output.stderr).contains(FULL), "{}", text(&output.stderr));
        let event = node.auth.event("T1006W", |_| true).await;
        assert_eq!(event.event, "session.rejected");
        assert_eq!(
            (event.fields["reason"].as_str(), event.fields["max"].as_u64()),
            (Some("max_connections"), Some(2))
        );
        assert_eq!((event.user.as_deref(), event.error.as_deref()), (Some("alice"), Some(FULL)));
        assert!(event.login.is_some() && event.remote.is_some());
        // Nothing but that is told of it.
        assert_eq!((node.auth.count("T3007W"), node.auth.count("T1006W")), (0, 1));
    }
    // Sessions of a connection share its place.
    let output = first.run(&["-o", &control], &["echo in"]).await;
    assert_eq!(text(&output.stdout), "in\n", "{}", text(&output.stderr));

    over(&mut two).await;
    over(&mut one).await;
    counting.empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_places_of_a_node_that_is_gone_run_out() {
    let counting = Counting::new();
    let (first, second) = (counting.node().await, counting.node().await);
    let _one = first.hold(&[]).await;
    let _two = first.hold(&[]).await;
    // It cannot say any more that its connections have ended.
    first.auth.go_away(true);
    drop(first);
    let output = second.run(&[], &["true"]).await;
    assert!(text(&output.stderr).contains(FULL), "{}", text(&output.stderr));
    counting.clock.advance(CONNECTION_LEASE);
    let output = second.run(&[], &["echo in"]).await;
    assert_eq!(text(&output.stdout), "in\n", "{}", text(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn while_nobody_counts_only_who_has_no_limit_gets_in() {
    let counting = Counting::new();
    let node = counting.node().await;
    node.auth.go_away(true);
    let output = node.run(&[], &["echo in"]).await;
    assert_eq!((output.status.code(), output.stdout.len()), (Some(255), 0));
    let why = "how many connections are open is not known: the auth service cannot be asked";
    assert!(text(&output.stderr).contains(why), "{}", text(&output.stderr));
    node.auth.go_away(false);
    let event = node.auth.event("T1006W", |_| true).await;
    assert_eq!(
        (event.fields["reason"].as_str(), event.error.as_deref()),
        (Some("max_connections"), Some(why))
    );
    let output = node.run(&[], &["echo in"]).await;
    assert_eq!(text(&output.stdout), "in\n", "{}", text(&output.stderr));

    node.roles(access(|_| {})).await;
    node.auth.go_away(true);
    let output = node.run(&[], &["echo in"]).await;
    assert_eq!(text(&output.stdout), "in\n", "{}", text(&output.stderr));
}

/// Our own client says why, too.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_turned_away_reads_why() {
    let counting = Counting::new();
    let node = counting.node().await;
    let (_one, _two) = (node.hold(&[]).await, node.hold(&[]).await);
    let credentials = Credentials {
        user: "alice".parse().unwrap(),
        ssh: SshKeyPair::from_openssh(&node.user_key.to_openssh(LineEnding::LF).unwrap()).unwrap(),
        certificate: UserCert::new().sign(&node.user_key, &node.user_ca).to_openssh().unwrap(),
        trust: node.auth.view.borrow().trust.clone(),
    };
    let client = SshClient::new(credentials, Arc::new(SystemClock::new()));
    let stream = TcpStream::connect(node.address).await.unwrap();
    let connected = async {
        let connection = client.node_over(stream, "node-1", &me()).await?;
        connection.session(&SessionRequest::default()).await
    };
    let error = connected.await.err().unwrap();
    assert_eq!(error.to_string(), format!("node node-1 ended the connection: {FULL}"));
}

/// A node that ends gives its places back at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_leaves_no_places_behind() {
    let counting = Counting::new();
    let mut node = counting.node().await;
    let _one = node.hold(&[]).await;
    let _two = node.hold(&[]).await;
    node.shutdown.abort();
    tokio::time::timeout(PATIENCE, node.ended.wait_for(|ended| *ended)).await.unwrap().unwrap();
    let key = "user-connections/alice".parse().unwrap();
    assert_eq!(counting.backend.get(&key).await.unwrap(), None);
}
