//! A role whose document exists and cannot be read: it may hold denials, so it refuses whoever holds it, and nobody else.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use teleport_core::access::{AccessChecker, Denied};
use teleport_core::api::{
    AccessView, AdminApi, ApiErrorKind, CreateUser, IdentityApi, PresenceApi, PublicApi, ReissueRequest,
    ResourceApi, TrustApi, UpdateUser, UserInfo,
};
use teleport_core::audit::EventKind;
use teleport_core::auth::Backup;
use teleport_core::id::{HostRole, OsLogin};
use teleport_core::resource::{Document, NodeRecord, Role, RoleConditions, RoleSpec, Spec};
use teleport_core::storage::{BackendExt, Key};
use teleport_core::testing::{ManualClock, subject_keys};

use crate::cluster::{Cluster, PASSWORD};
use crate::slow::Slow;

/// What is stored of a role that denies, written by a newer version or damaged.
const UNREADABLE: [&str; 4] = [
    "{\"kind\":\"role\",\"version\":\"v1\",\"metadata\":{\"name\":\"guarded\"},\"spec\":{\"deny\":{\"logins\":[\"root\"],\"hosts\":[\"x\"]}}}",
    "{\"kind\":\"role\",\"version\":\"v2\",\"metadata\":{\"name\":\"guarded\"},\"spec\":{}}",
    "{\"kind\":\"role\",\"version\":\"v1\",\"metadata\":{\"name\":\"another\"},\"spec\":{}}",
    "\u{0}",
];

fn key() -> Key {
    "roles/guarded".parse().unwrap()
}

async fn damage(cluster: &Cluster, document: &'static str) {
    cluster.backend.put(&key(), document.into(), None).await.unwrap();
}

async fn create(cluster: &Cluster) {
    let value = serde_json::to_vec(&Role::new("guarded", RoleSpec::default())).unwrap();
    cluster.backend.put(&key(), value.into(), None).await.unwrap();
}

fn node(cluster: &Cluster) -> NodeRecord {
    let host = cluster.host("web-1", HostRole::Node);
    NodeRecord {
        host_id: host.host_id,
        name: host.name,
        address: "192.0.2.7:3022".to_owned(),
        labels: "env=prod".parse().unwrap(),
        sub_kind: teleport_core::resource::NodeKind::Teleport,
        proxy_ids: Vec::new(),
        version: "1".to_owned(),
    }
}

#[tokio::test]
async fn who_holds_an_unreadable_role_is_refused_by_nodes_and_others_are_not() {
    let cluster = Cluster::new().await;
    create(&cluster).await;
    let mut views = cluster.as_host(&cluster.host("web-1", HostRole::Node)).watch_access().await.unwrap();
    let mut next = async || {
        let view = tokio::time::timeout(Duration::from_secs(20), views.next()).await.expect("a view comes");
        view.unwrap().unwrap()
    };
    let holder = cluster.user("alice", &["access", "guarded"], &["root"]);
    let other = cluster.user("bob", &["access"], &["root"]);
    let mut holder_traits = holder.clone();
    holder_traits.traits.insert("logins".to_owned(), vec!["root".to_owned()]);
    let mut other_traits = other.clone();
    other_traits.traits.insert("logins".to_owned(), vec!["root".to_owned()]);
    let root = OsLogin::new("root").unwrap();
    let login = |view: &AccessView, who| {
        AccessChecker::for_identity(who, &view.roles).check_login(who, &node(&cluster), &root)
    };
    let view = next().await;
    assert!(login(&view, &holder_traits).is_ok() && login(&view, &other_traits).is_ok());
    for document in UNREADABLE {
        damage(&cluster, document).await;
        let view = next().await;
        let denied = Denied::Unreadable { role: "guarded".to_owned() };
        assert_eq!(login(&view, &holder_traits), Err(denied), "{document}");
        assert!(login(&view, &other_traits).is_ok(), "{document}");
        assert!(
            !AccessChecker::for_identity(&holder_traits, &view.roles).can_see(&node(&cluster)),
            "{document}"
        );
        create(&cluster).await;
        assert!(login(&next().await, &holder_traits).is_ok());
    }
    // A service that starts with the damaged document says the same as one that saw it come.
    damage(&cluster, UNREADABLE[0]).await;
    let fresh = cluster.second();
    let caller = teleport_core::auth::Caller::LocalAdmin;
    let view = fresh.acting_as(caller).watch_access().await.unwrap().next().await.unwrap().unwrap();
    assert!(login(&view, &holder_traits).is_err() && login(&view, &other_traits).is_ok());
    // A role that is deleted is deleted.
    cluster.backend.delete(&key()).await.unwrap();
    loop {
        let view = next().await;
        if view.roles.len() == 3 {
            assert!(login(&view, &holder_traits).is_ok());
            break;
        }
    }
}

#[tokio::test]
async fn who_holds_an_unreadable_role_gets_no_certificate_and_administers_nothing() {
    let cluster = Cluster::new().await;
    create(&cluster).await;
    let secret = cluster.sign_up("alice").await;
    let users = teleport_core::storage::Repo::<teleport_core::resource::User>::new(cluster.backend.clone());
    let mut alice = users.get("alice").await.unwrap().unwrap();
    for role in ["editor", "guarded"] {
        alice.record.spec.roles.push(role.parse().unwrap());
    }
    users.update(&alice.record, alice.revision).await.unwrap();
    let identity = cluster.user("alice", &["access", "editor", "guarded"], &["root"]);
    let reissue = || ReissueRequest { keys: subject_keys(1), ttl: None };
    assert!(cluster.as_user(&identity).users().await.is_ok());
    assert!(cluster.as_user(&identity).reissue_user(reissue()).await.is_ok());

    damage(&cluster, UNREADABLE[0]).await;
    cluster.next_step();
    let login = cluster.login("alice", PASSWORD, cluster.code(&secret));
    assert_eq!(cluster.web().login(login).await.unwrap_err().kind(), ApiErrorKind::Denied);
    let logged = cluster.audit.last(EventKind::UserLoginFailure).unwrap().error.unwrap();
    assert!(logged.contains("role guarded cannot be read"), "{logged}");
    for error in [
        cluster.as_user(&identity).reissue_user(reissue()).await.map(drop).unwrap_err(),
        cluster.as_user(&identity).users().await.map(drop).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ApiErrorKind::Denied);
        let logged = cluster.audit.last(EventKind::ApiDenied).unwrap().error.unwrap();
        assert!(logged.contains("role guarded cannot be read"), "{logged}");
    }
    assert!(cluster.as_user(&identity).nodes().await.unwrap().is_empty());
    let editor = cluster.member("carol", &["editor"]).await;
    assert!(cluster.as_user(&editor).users().await.is_ok(), "others are unaffected");

    // It is listed as what it is, and nobody is given it.
    let shown = cluster.admin().role("guarded".parse().unwrap()).await.unwrap();
    assert!(!shown.is_readable() && shown.metadata.description.contains("cannot be read"));
    assert!(cluster.admin().roles().await.unwrap().contains(&shown));
    let request = CreateUser {
        name: "dave".parse().unwrap(),
        roles: vec!["guarded".parse().unwrap()],
        logins: Vec::new(),
        ttl: None,
    };
    let error = cluster.admin().create_user(request).await.unwrap_err();
    assert!(error.kind() == ApiErrorKind::Invalid && error.message().contains("cannot be read"), "{error}");
}

/// What a node understands of a newer auth service's view.
#[tokio::test]
async fn a_role_of_another_version_refuses_its_holders_and_leaves_the_view() {
    let cluster = Cluster::new().await;
    let caller = teleport_core::auth::Caller::LocalAdmin;
    let view = cluster.auth.acting_as(caller).watch_access().await.unwrap().next().await.unwrap().unwrap();
    let mut json = serde_json::to_value(&view).unwrap();
    assert_eq!(serde_json::from_value::<AccessView>(json.clone()).unwrap(), view);
    json["roles"].as_array_mut().unwrap().push(serde_json::json!({
        "kind": "role", "version": RoleSpec::VERSION, "metadata": {"name": "guarded"}, "spec": {"forbid": {}}
    }));
    let read: AccessView = serde_json::from_value(json.clone()).unwrap();
    assert_eq!(read.roles.get("guarded").unwrap().role(), &Role::unreadable("guarded"));
    assert_eq!(read.roles.len(), view.roles.len() + 1);
    assert!(view.roles.iter().all(|role| read.roles.get(&role.metadata.name).unwrap().role() == role));
    json["roles"].as_array_mut().unwrap().push(serde_json::json!({"spec": {}}));
    assert!(serde_json::from_value::<AccessView>(json).is_err(), "nobody knows whom it refuses");
}

/// A role is deleted and given at the same moment: one of the two is refused.
#[tokio::test]
async fn a_role_that_is_being_deleted_is_given_to_nobody() {
    let clock = Arc::new(ManualClock::default());
    let cluster = Arc::new(Cluster::over(Arc::new(Slow::new(clock.clone())), clock, |_| {}).await);
    cluster.member("alice", &["access"]).await;
    let (mut deleted, mut given) = (0, 0);
    for turn in 0..48 {
        cluster.admin().create_role(Role::new("passing", RoleSpec::default())).await.unwrap();
        // Now the one has a start and then the other.
        let deleting = async {
            for _ in 0..turn % 12 {
                tokio::task::yield_now().await;
            }
            cluster.admin().delete_role("passing".parse().unwrap()).await
        };
        let giving = async {
            for _ in 0..6 {
                tokio::task::yield_now().await;
            }
            let roles = vec!["access".parse().unwrap(), "passing".parse().unwrap()];
            let (admin, name) = (cluster.admin(), format!("new-{turn}").parse().unwrap());
            if turn < 24 {
                let change = UpdateUser { roles: Some(roles), ..UpdateUser::default() };
                admin.update_user("alice".parse().unwrap(), change).await
            } else {
                let user = CreateUser { name, roles, logins: Vec::new(), ttl: None };
                admin.create_user(user).await.map(drop)
            }
        };
        let outcome = tokio::join!(deleting, giving);
        let holders = cluster.admin().users().await.unwrap();
        let passing = |user: &UserInfo| user.roles.iter().any(|role| role.as_str() == "passing");
        match outcome {
            (Ok(()), Err(error)) => {
                assert_eq!(
                    (error.kind(), error.message()),
                    (ApiErrorKind::Invalid, "there is no role passing")
                );
                assert!(!holders.iter().any(passing));
                deleted += 1;
            }
            (Err(error), Ok(())) => {
                assert_eq!(error.kind(), ApiErrorKind::Conflict, "{error:?}");
                assert!(holders.iter().any(passing));
                let none = UpdateUser { roles: Some(Vec::new()), ..UpdateUser::default() };
                for user in holders.into_iter().filter(passing) {
                    cluster.admin().update_user(user.name, none.clone()).await.unwrap();
                }
                cluster.admin().delete_role("passing".parse().unwrap()).await.unwrap();
                given += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(deleted > 0 && given > 0, "{deleted} {given}");
}

/// Every server holds all roles: what is too much for them is refused when it is written, with the largest named.
#[tokio::test]
async fn roles_that_are_too_much_for_servers_are_not_written() {
    let cluster = Cluster::new().await;
    let with = |name: &str| {
        let node_labels = serde_json::from_value(serde_json::json!({"env": "x".repeat(1_000_000)})).unwrap();
        let allow = RoleConditions { node_labels, ..RoleConditions::default() };
        Role::new(name, RoleSpec { allow, ..RoleSpec::default() })
    };
    for number in 0..15 {
        let role = serde_json::to_vec(&with(&format!("r{number}"))).unwrap();
        cluster.backend.put(&format!("roles/r{number}").parse().unwrap(), role.into(), None).await.unwrap();
    }
    cluster.admin().create_role(with("last")).await.unwrap();
    let error = cluster.admin().create_role(with("more")).await.unwrap_err();
    assert_eq!(error.kind(), ApiErrorKind::Invalid);
    assert!(error.message().contains("the documents of all roles together would take"), "{error}");
    assert!(error.message().contains("last (976 KiB)"), "{error}");
    // What replaces itself is counted once.
    cluster.admin().replace_role(with("last")).await.unwrap();
    let mut small = Role::new("more", RoleSpec::default());
    cluster.admin().create_role(small.clone()).await.unwrap();
    small.spec = with("more").spec;
    assert_eq!(cluster.admin().replace_role(small).await.unwrap_err().kind(), ApiErrorKind::Invalid);
    let all = (0..17).map(|number| Document::Role(with(&format!("r{number}"))));
    assert!(Backup::new(all).unwrap_err().to_string().contains("the documents of all roles"));
}
