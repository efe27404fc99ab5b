//! Every operation of the auth API as everybody: a table, measured over the wire.
//!
//! The rows are those of the service's own list of operations: what is added there has no row in the golden file, and the test
//! fails until somebody has looked at it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use teleport_core::api::{
    AdminApi as _, ApiError, ApiErrorKind, AuthApi, CreateUser, PresenceApi as _, RecordingApi as _,
    ResourceApi,
};
use teleport_core::auth::Caller;
use teleport_core::auth::policy::Operation;
use teleport_core::clock::Clock as _;
use teleport_core::entropy::SystemEntropy;
use teleport_core::id::{HostId, HostRole, OsLogin, SessionId, UserName};
use teleport_core::label::Labels;
use teleport_core::recording::RecordingMeta;
use teleport_core::resource::{Lock, NodeRecord};
use teleport_core::secret::SecretString;
use teleport_core::testing::api_suite::{ApiFixture as _, CallTarget, call};
use teleport_ssh::rpc::{AuthClient, ClientIdentity};

use super::conformance::Wire;
use super::world::{World, authority, cluster, soon, user};
use crate::golden::Table;

/// Who calls: the columns.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Who {
    Anonymous,
    /// Without a certificate, with a good join token and a good invite. So have all but `Anonymous`.
    Secrets,
    NoRole,
    User,
    Other,
    Editor,
    Auditor,
    Auth,
    Node,
    OtherNode,
    Removed,
    Proxy,
    Expired,
    Foreign,
    Locked,
}

impl Who {
    const ALL: [(Self, &str); 15] = [
        (Self::Anonymous, "anon"),
        (Self::Secrets, "anon+tokens"),
        (Self::NoRole, "no-role"),
        (Self::User, "user"),
        (Self::Other, "other-user"),
        (Self::Editor, "editor"),
        (Self::Auditor, "auditor"),
        (Self::Auth, "auth-host"),
        (Self::Node, "node"),
        (Self::OtherNode, "other-node"),
        (Self::Removed, "removed"),
        (Self::Proxy, "proxy"),
        (Self::Expired, "expired"),
        (Self::Foreign, "foreign"),
        (Self::Locked, "locked"),
    ];
}

const LEGEND: [&str; 10] = [
    "Every operation of the auth API, called over mutually authenticated TLS by everybody.",
    "  ok        done",
    "  invalid   the caller may; the arguments of this test are wrong on purpose, so that nothing changes",
    "  none      there is no such thing, or the caller may not know of it",
    "  conflict  it exists, or has changed",
    "  -         refused",
    "  removed   refused: the host was removed from the cluster",
    "  tls       no connection: the certificate is refused in the handshake",
    "`user` and `node` are those whose session was recorded; the target of every call about a session or a host is theirs.",
    "All but `anon` show a good join token and a good invite where one is asked for.",
];

/// A cluster with something in it that can be asked for, and a client for each of those who ask.
struct Matrix {
    wire: Wire,
    node: HostId,
    session: SessionId,
}

impl Matrix {
    async fn new() -> (Self, Vec<(Who, Arc<dyn AuthApi>)>) {
        let wire = Wire::new().await;
        let world = &wire.world;
        let foreign = authority(&world.clock).await;
        let hour = Duration::from_secs(3600);
        let expired = user(&world.ca, "alice", &["access", "editor"], Duration::from_secs(60)).await;
        world.clock.advance(Duration::from_secs(120));
        let (node, identity) = world.as_host(HostRole::Node, "web-1").await;
        let material = identity.current();
        let session = SessionId::random(&SystemEntropy::new()).unwrap();
        let mut clients: Vec<(Who, Arc<dyn AuthApi>)> = Vec::new();
        for (who, _) in Who::ALL {
            let client: AuthClient = match who {
                Who::Anonymous | Who::Secrets => world.client(ClientIdentity::Anonymous(world.trust())),
                Who::NoRole => world.as_user("nobody", &[]).await,
                Who::User => world.as_user("alice", &["access"]).await,
                Who::Other => world.as_user("bob", &["access"]).await,
                Who::Editor => world.as_user("erin", &["editor"]).await,
                Who::Auditor => world.as_user("audrey", &["auditor"]).await,
                Who::Auth => world.client(ClientIdentity::Host(world.identity.clone())),
                Who::Node => world.client(ClientIdentity::Host(identity.clone())),
                Who::OtherNode => world.as_host(HostRole::Node, "web-2").await.0,
                Who::Removed => {
                    let (client, handle) = world.as_host(HostRole::Node, "web-3").await;
                    let material = handle.current();
                    client.announce_node(record(material.host_id, "web-3")).await.unwrap();
                    world.service.acting_as(Caller::LocalAdmin).delete_node(material.host_id).await.unwrap();
                    client
                }
                Who::Proxy => world.as_host(HostRole::Proxy, "proxy-1").await.0,
                Who::Expired => world.client(ClientIdentity::User(expired.clone())),
                Who::Foreign => {
                    let mut stranger = user(&foreign, "alice", &["access", "editor"], hour).await;
                    stranger.trust = world.trust();
                    world.client(ClientIdentity::User(stranger))
                }
                Who::Locked => {
                    let client = world.as_user("larry", &["access", "editor"]).await;
                    let spec = serde_json::from_value(serde_json::json!({"target": {"user": "larry"}}));
                    let lock = Lock::new("larry", spec.unwrap());
                    world.service.acting_as(Caller::LocalAdmin).create_lock(lock).await.unwrap();
                    client
                }
            };
            clients.push((who, Arc::new(client)));
        }
        node.announce_node(record(material.host_id, "web-1")).await.unwrap();
        let meta = RecordingMeta {
            session,
            cluster: cluster(),
            host_id: material.host_id,
            host_name: material.name.clone(),
            user: UserName::new("alice").unwrap(),
            login: OsLogin::new("root").unwrap(),
            started: world.clock.now(),
            command: None,
            terminal: None,
        };
        node.create_recording(meta).await.unwrap();
        node.put_recording_part(session, 0, Bytes::from_static(b"part")).await.unwrap();
        node.complete_recording(session, 1).await.unwrap();
        (Self { node: material.host_id, session, wire }, clients)
    }

    /// What a call of this caller is about.
    async fn target(&self, who: Who) -> CallTarget {
        let mut target = CallTarget::of_host(&self.wire, self.node);
        target.session = self.session;
        // Good ones for everybody: that they are not refused for what they show.
        if who != Who::Anonymous {
            target.join_token = self.wire.world.token(HostRole::Node).await;
            target.invite = invite(&self.wire.world, &format!("invited-{}", self.wire.unique())).await;
        }
        target
    }
}

fn record(host_id: HostId, name: &str) -> NodeRecord {
    NodeRecord {
        host_id,
        name: name.parse().unwrap(),
        address: "127.0.0.1:3022".to_owned(),
        labels: Labels::default(),
        sub_kind: teleport_core::resource::NodeKind::Teleport,
        proxy_ids: Vec::new(),
        version: "1".to_owned(),
    }
}

async fn invite(world: &World, name: &str) -> SecretString {
    let user = CreateUser {
        name: UserName::new(name).unwrap(),
        roles: vec!["access".parse().unwrap()],
        logins: Vec::new(),
        ttl: None,
    };
    world.service.acting_as(Caller::LocalAdmin).create_user(user).await.unwrap().token
}

fn cell(outcome: Result<(), ApiError>) -> &'static str {
    let Err(error) = outcome else { return "ok" };
    match error.kind() {
        ApiErrorKind::Denied => "-",
        ApiErrorKind::Evicted => "removed",
        ApiErrorKind::Invalid => "invalid",
        ApiErrorKind::NotFound => "none",
        ApiErrorKind::Conflict => "conflict",
        // The service is there: what it does not answer, it refused in the handshake.
        ApiErrorKind::Unavailable => "tls",
        _ => panic!("{error:?}"),
    }
}

#[tokio::test]
async fn c6_matrix_of_the_auth_api() {
    let (matrix, clients) = Matrix::new().await;
    let names: Vec<_> = Who::ALL.iter().map(|(_, name)| *name).collect();
    let mut table = Table::new(&LEGEND, "operation", 20, &names);
    for operation in Operation::ALL.iter().copied() {
        let mut cells = Vec::new();
        for (who, api) in &clients {
            let target = matrix.target(*who).await;
            cells.push(cell(soon("an answer", call(&matrix.wire, api, &target, operation)).await));
        }
        table.row(operation.name(), &cells);
    }
    table.is_golden("matrix-auth-api.txt");
}
