//! The policy table, as a whole.

use std::path::Path;

use teleport_core::api::{AdminApi, ApiErrorKind, CreateToken, CreateUser, TrustApi};
use teleport_core::audit::EventKind;
use teleport_core::auth::policy::{self, Operation};
use teleport_core::id::HostRole;
use teleport_core::label::Labels;
use teleport_core::resource::User;
use teleport_core::storage::{BackendExt, Repo};

use crate::cluster::Cluster;

/// A change of the table must be seen. To accept one: `UPDATE_GOLDEN=1 cargo test -p teleport-core`.
#[test]
fn the_table_is_the_golden_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/policy.txt");
    let table = policy::render();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &table).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(table, golden, "the policy table differs from {}", path.display());
}

#[tokio::test]
async fn a_refusal_is_generic_to_the_caller_and_precise_in_the_log() {
    let cluster = Cluster::new().await;
    let node = cluster.host("web-1", HostRole::Node);
    let error = cluster.as_host(&node).users().await.unwrap_err();
    assert_eq!(error.message(), "access denied");
    let event = cluster.audit.last(EventKind::ApiDenied).unwrap();
    assert_eq!(event.fields["operation"], Operation::Users.name());
    assert_eq!(event.server_id, Some(node.host_id));
    assert_eq!(event.error.as_deref(), Some("not for callers of this kind"));

    let person = cluster.user("alice", &["access"], &["root"]);
    assert_eq!(cluster.as_user(&person).users().await.unwrap_err().message(), "access denied");
    let event = cluster.audit.last(EventKind::ApiDenied).unwrap();
    assert_eq!(
        (event.user.as_deref(), event.error.as_deref()),
        (Some("alice"), Some("roles: no role allows it"))
    );
}

#[tokio::test]
async fn an_expired_or_foreign_identity_may_nothing() {
    let cluster = Cluster::new().await;
    let mut node = cluster.host("web-1", HostRole::Node);
    assert!(cluster.as_host(&node).trust().await.is_ok());
    node.expires = cluster.now();
    assert!(cluster.as_host(&node).trust().await.is_err());
    let mut foreign = cluster.user("alice", &["editor"], &["root"]);
    foreign.cluster = "other.example".parse().unwrap();
    assert!(cluster.as_user(&foreign).users().await.is_err());
    let event = cluster.audit.last(EventKind::ApiDenied).unwrap();
    assert_eq!(event.error.as_deref(), Some("the certificate is of another cluster"));
}

#[tokio::test]
async fn a_role_that_is_taken_away_is_gone_at_once() {
    let cluster = Cluster::new().await;
    let editor = cluster.member("alice", &["editor"]).await;
    assert!(cluster.as_user(&editor).users().await.is_ok());
    cluster.backend.delete(&"roles/editor".parse().unwrap()).await.unwrap();
    assert!(cluster.as_user(&editor).users().await.is_err());
    cluster.auth.bootstrap().await.unwrap();
    assert!(cluster.as_user(&editor).users().await.is_ok());
}

#[tokio::test]
async fn bootstrap_leaves_changed_roles_alone() {
    let cluster = Cluster::new().await;
    let mut access = cluster.admin().role("access".parse().unwrap()).await.unwrap();
    assert!(access.metadata.revision.take().is_some());
    access.spec.options.max_session_ttl = std::time::Duration::from_secs(60);
    let value = serde_json::to_vec(&access).unwrap();
    cluster.backend.put(&"roles/access".parse().unwrap(), value.into(), None).await.unwrap();
    cluster.auth.bootstrap().await.unwrap();
    assert_eq!(
        cluster.admin().role("access".parse().unwrap()).await.unwrap().spec.options.max_session_ttl,
        std::time::Duration::from_secs(60)
    );
    assert_eq!(cluster.admin().roles().await.unwrap().len(), 3);
}

/// The auth host may do everything, so a token for it is worth more than the right to make tokens.
#[tokio::test]
async fn c5_the_right_to_make_tokens_is_no_way_to_become_the_auth_host() {
    let cluster = Cluster::new().await;
    let request = |role| CreateToken {
        roles: vec![HostRole::Node, role],
        ttl: None,
        uses: None,
        labels: Labels::default(),
        value: None,
    };
    let editor = cluster.as_user(&cluster.member("alice", &["editor"]).await);
    assert!(editor.create_token(request(HostRole::Proxy)).await.is_ok());
    let error = editor.create_token(request(HostRole::Auth)).await.unwrap_err();
    assert_eq!(error.kind(), ApiErrorKind::Denied);
    assert!(
        cluster
            .audit
            .last(EventKind::ApiDenied)
            .unwrap()
            .error
            .unwrap()
            .contains("token of the auth service")
    );
    assert!(cluster.admin().create_token(request(HostRole::Auth)).await.is_ok());
}

/// The audit log names users, hosts and administrators in one field.
#[tokio::test]
async fn c4_no_user_is_named_like_a_caller_that_is_none() {
    let cluster = Cluster::new().await;
    let host = cluster.host("web-1", HostRole::Node);
    let create = async |name: &str| {
        let name = name.parse().unwrap();
        let user = CreateUser { name, roles: Vec::new(), logins: Vec::new(), ttl: None };
        cluster.admin().create_user(user).await
    };
    let as_host = format!("{}.{}", host.host_id, host.cluster);
    for taken in ["local-admin", "anonymous", as_host.as_str(), &host.host_id.to_string()] {
        assert_eq!(create(taken).await.unwrap_err().kind(), ApiErrorKind::Invalid, "{taken}");
    }
    for free in ["admin", "local-admin2", "a.example.com"] {
        assert!(create(free).await.is_ok(), "{free}");
    }
}

/// A certificate lasts for hours; the right to administer ends at once. Else who is deleted would make a new user with it.
#[tokio::test]
async fn c5_who_is_deleted_or_has_lost_a_role_administers_nothing() {
    let cluster = Cluster::new().await;
    let identity = cluster.member("mallory", &["access", "editor"]).await;
    let mallory = cluster.as_user(&identity);
    let create = |name: &str| CreateUser {
        name: name.parse().unwrap(),
        roles: vec!["editor".parse().unwrap()],
        logins: Vec::new(),
        ttl: None,
    };
    mallory.create_user(create("first")).await.unwrap();
    let reason = || cluster.audit.last(EventKind::ApiDenied).unwrap().error.unwrap();

    // Fewer roles than the certificate says.
    let key = "users/mallory".parse().unwrap();
    let users = Repo::<User>::new(cluster.backend.clone());
    let mut demoted = users.get("mallory").await.unwrap().unwrap();
    demoted.record.spec.roles.retain(|role| role.as_str() != "editor");
    users.update(&demoted.record, demoted.revision).await.unwrap();
    assert_eq!(mallory.create_user(create("second")).await.unwrap_err().kind(), ApiErrorKind::Denied);
    assert_eq!(reason(), "roles of today: no role allows it");

    // More roles than the certificate says do not help, either.
    let narrow = cluster.as_user(&cluster.user("first", &["access"], &["root"]));
    assert_eq!(narrow.create_user(create("second")).await.unwrap_err().kind(), ApiErrorKind::Denied);
    assert_eq!(reason(), "roles: no role allows it");

    cluster.backend.delete(&key).await.unwrap();
    assert_eq!(mallory.create_user(create("second")).await.unwrap_err().kind(), ApiErrorKind::Denied);
    assert_eq!(reason(), "the user does not exist any more");
    let names: Vec<String> =
        cluster.admin().users().await.unwrap().iter().map(|user| user.name.to_string()).collect();
    assert_eq!(names, ["first"]);
}
