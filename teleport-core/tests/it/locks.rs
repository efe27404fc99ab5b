//! Locks, and users who were deleted: rows A8 and C8 of the threat list, as far as the auth service decides.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use serde_json::{Value, json};
use teleport_backend::redb::RedbBackend;
use teleport_core::api::{
    AdminApi, ApiError, ApiErrorKind, AuditApi, CreateToken, IdentityApi, JoinRequest, PresenceApi,
    ProxyRecord, PublicApi, ReissueRequest, RenewRequest, ResourceApi, TrustApi, UpdateUser,
};
use teleport_core::audit::EventKind;
use teleport_core::cert::{CLOCK_SKEW, HostIdentity, UserIdentity};
use teleport_core::clock::Clock as _;
use teleport_core::id::HostRole;
use teleport_core::label::Labels;
use teleport_core::resource::{Lock, LockMode, LockSpec, NodeRecord, RoleOptions};
use teleport_core::secret::SecretString;
use teleport_core::storage::BackendExt;
use teleport_core::testing::{ManualClock, UnsignedIssuer, subject_keys};

use crate::cluster::{Cluster, PASSWORD};

async fn lock(cluster: &Cluster, name: &str, target: Value) {
    let spec = LockSpec { target: serde_json::from_value(target).unwrap(), message: "By order".to_owned() };
    cluster.admin().create_lock(Lock::new(name, spec)).await.unwrap();
}

async fn unlock(cluster: &Cluster, name: &str) {
    cluster.admin().delete_lock(name.parse().unwrap()).await.unwrap();
}

fn record(host: &HostIdentity) -> NodeRecord {
    NodeRecord {
        host_id: host.host_id,
        name: host.name.clone(),
        address: "192.0.2.7:3022".to_owned(),
        labels: Labels::default(),
        sub_kind: teleport_core::resource::NodeKind::Teleport,
        proxy_ids: Vec::new(),
        version: "1".to_owned(),
    }
}

/// A login with the next code, and what the certificate says.
async fn login(cluster: &Cluster, secret: &SecretString) -> Result<Value, ApiError> {
    cluster.next_step();
    let request = cluster.login("alice", PASSWORD, cluster.code(secret));
    let response = cluster.web().login(request).await?;
    Ok(UnsignedIssuer::read(&response.certificates))
}

/// Who shows the certificate of that login.
fn holder(cluster: &Cluster, said: &Value) -> UserIdentity {
    let mut identity = cluster.user("alice", &["access"], &["root"]);
    identity.serial = 77;
    identity.mfa_device = serde_json::from_value(said["mfa_device"].clone()).unwrap();
    identity
}

#[track_caller]
fn denied<T>(outcome: Result<T, ApiError>, text: &str) {
    match outcome {
        Ok(_) => panic!("succeeded, but {text:?} was expected"),
        Err(error) => assert_eq!((error.kind(), error.message()), (ApiErrorKind::Denied, text)),
    }
}

#[tokio::test]
async fn a8_whoever_is_locked_gets_no_certificate_and_may_not_call() {
    let cluster = Cluster::new().await;
    let secret = cluster.sign_up("alice").await;
    let said = login(&cluster, &secret).await.unwrap();
    let device = said["mfa_device"].as_str().expect("the certificate names the second factor").to_owned();
    let event = cluster.audit.last(EventKind::UserLogin).unwrap();
    assert_eq!(event.fields["mfa_device_uuid"], device);
    let alice = cluster.as_user(&holder(&cluster, &said));
    let reissue = || ReissueRequest { keys: subject_keys(9), ttl: None };
    alice.reissue_user(reissue()).await.unwrap();
    for (target, key, value, by_login) in [
        (json!({"user": "alice"}), "user", "alice", true),
        (json!({"role": "access"}), "role", "access", true),
        (json!({"mfa_device": device}), "mfa_device", device.as_str(), true),
        // A new certificate has a new number.
        (json!({"serial": "77"}), "serial", "77", false),
    ] {
        lock(&cluster, "l", target).await;
        let text = format!("lock targeting {key}:\"{value}\" is in force: By order");
        if by_login {
            denied(login(&cluster, &secret).await, &text);
            let event = cluster.audit.last(EventKind::UserLoginFailure).unwrap();
            assert!(event.error.unwrap().starts_with(&text));
            assert_eq!((event.user.as_deref(), event.code.code()), (Some("alice"), "T1000W"));
        } else {
            login(&cluster, &secret).await.unwrap();
        }
        let issued = cluster.issuer.issued();
        denied(alice.reissue_user(reissue()).await, &text);
        assert_eq!(cluster.issuer.issued(), issued);
        denied(alice.nodes().await, &text);
        let event = cluster.audit.last(EventKind::ApiDenied).unwrap();
        assert_eq!((event.user.as_deref(), event.error), (Some("alice"), Some(text)));
        unlock(&cluster, "l").await;
        login(&cluster, &secret).await.unwrap();
        alice.nodes().await.unwrap();
    }
    // A wrong password learns nothing of locks.
    lock(&cluster, "l", json!({"user": "alice"})).await;
    cluster.next_step();
    let wrong = cluster.login("alice", "not the password at all", cluster.code(&secret));
    assert_eq!(cluster.web().login(wrong).await.unwrap_err().message(), "access denied");
}

#[tokio::test]
async fn a8_a_locked_login_is_in_no_new_certificate() {
    let cluster = Cluster::new().await;
    let secret = cluster.sign_up("alice").await;
    let said = login(&cluster, &secret).await.unwrap();
    assert_eq!(said["logins"], json!(["root"]));
    let alice = cluster.as_user(&holder(&cluster, &said));
    for (target, logins) in [
        (json!({"login": "root"}), json!([])),
        (json!({"login": "root", "user": "alice"}), json!([])),
        (json!({"login": "root", "user": "bob"}), json!(["root"])),
        // Where it is used is seen there.
        (json!({"login": "root", "node": "web-1"}), json!(["root"])),
        (json!({"login": "deploy"}), json!(["root"])),
    ] {
        lock(&cluster, "l", target.clone()).await;
        assert_eq!(login(&cluster, &secret).await.unwrap()["logins"], logins, "{target}");
        let request = ReissueRequest { keys: subject_keys(9), ttl: None };
        let reissued = alice.reissue_user(request).await.unwrap();
        assert_eq!(json!(reissued.logins), logins, "{target}");
        unlock(&cluster, "l").await;
    }
}

#[tokio::test]
async fn a8_a_locked_host_stays_out_and_gives_no_sign_of_life() {
    let cluster = Cluster::new().await;
    let token = CreateToken {
        roles: vec![HostRole::Node, HostRole::Proxy],
        ttl: None,
        uses: None,
        labels: Labels::default(),
        value: None,
    };
    let token = cluster.admin().create_token(token).await.unwrap().token;
    let (node, proxy) = (cluster.host("web-1", HostRole::Node), cluster.host("edge-1", HostRole::Proxy));
    let join = |host: &HostIdentity| JoinRequest {
        token: token.clone(),
        host_id: host.host_id,
        name: host.name.clone(),
        role: host.role,
        keys: subject_keys(1),
        addresses: Vec::new(),
        client_ip: None,
    };
    let record = NodeRecord {
        host_id: node.host_id,
        name: node.name.clone(),
        address: "192.0.2.7:3022".to_owned(),
        labels: Labels::default(),
        sub_kind: teleport_core::resource::NodeKind::Teleport,
        proxy_ids: Vec::new(),
        version: String::new(),
    };
    let at_proxy = ProxyRecord {
        host_id: proxy.host_id,
        name: proxy.name.clone(),
        web_address: "192.0.2.8:3080".to_owned(),
        ssh_address: "192.0.2.8:3023".to_owned(),
        peer_address: None,
        tunnels: 0,
        version: String::new(),
    };
    let (of_node, of_proxy) = (cluster.as_host(&node), cluster.as_host(&proxy));
    of_node.announce_node(record.clone()).await.unwrap();
    for target in [node.host_id.to_string(), node.name.to_string()] {
        lock(&cluster, "l", json!({"node": target})).await;
        let text = format!("lock targeting node:\"{target}\" is in force: By order");
        denied(cluster.anonymous().join(join(&node)).await, &text);
        let event = cluster.audit.last(EventKind::InstanceJoinFailure).unwrap();
        assert_eq!((event.code.code(), event.error.as_deref()), ("TJ002E", Some(&*text)));
        denied(of_node.announce_node(record.clone()).await, &text);
        denied(of_node.keep_alive().await, &text);
        let renew = || RenewRequest { keys: subject_keys(1), addresses: Vec::new() };
        denied(of_node.renew_host(renew()).await, &text);
        // One line a minute, however often it calls.
        let told = |event: &teleport_core::audit::AuditEvent| {
            event.code == EventKind::ApiDenied && event.server_id == Some(node.host_id)
        };
        let before = cluster.audit.events().iter().filter(|event| told(event)).count();
        denied(of_node.keep_alive().await, &text);
        assert_eq!(cluster.audit.events().iter().filter(|event| told(event)).count(), before);
        cluster.clock.advance(Duration::from_secs(61));
        // It hears that it is locked, and hands in what it saw.
        let mut views = of_node.watch_access().await.unwrap();
        assert_eq!(views.next().await.unwrap().unwrap().locks.len(), 1);
        of_node.emit_events(Vec::new()).await.unwrap();
        // Another host is not concerned.
        of_proxy.announce_proxy(at_proxy.clone()).await.unwrap();
        unlock(&cluster, "l").await;
        of_node.keep_alive().await.unwrap();
        cluster.anonymous().join(join(&node)).await.unwrap();
    }

    // A proxy's streams of nodes end, and it logs nobody in.
    let mut nodes = of_proxy.watch_nodes().await.unwrap();
    nodes.next().await.unwrap().unwrap();
    lock(&cluster, "l", json!({"node": "edge-1"})).await;
    let text = "lock targeting node:\"edge-1\" is in force: By order";
    denied(nodes.next().await.unwrap(), text);
    assert!(nodes.next().await.is_none());
    denied(of_proxy.watch_nodes().await.map(drop), text);
    denied(of_proxy.announce_proxy(at_proxy).await, text);
    let request = cluster.login("alice", PASSWORD, SecretString::new("000000"));
    denied(of_proxy.login(request).await, text);
}

#[tokio::test]
async fn every_view_has_the_locks_at_once() {
    let cluster = Cluster::with(|config| config.lock_mode = LockMode::Strict).await;
    let node = cluster.host("web-1", HostRole::Node);
    let mut views = cluster.as_host(&node).watch_access().await.unwrap();
    let first = views.next().await.unwrap().unwrap();
    assert!(first.locks.is_empty());
    assert_eq!(first.lock_mode, LockMode::Strict);
    assert!(views.next().now_or_never().is_none());
    lock(&cluster, "l", json!({"user": "alice"})).await;
    let second = views.next().await.unwrap().unwrap();
    assert_eq!(second.locks.iter().map(|lock| lock.metadata.name.as_str()).collect::<Vec<_>>(), ["l"]);
    unlock(&cluster, "l").await;
    assert!(views.next().await.unwrap().unwrap().locks.is_empty());
}

#[tokio::test]
async fn locks_end_by_themselves_and_are_written_down() {
    let cluster = Cluster::new().await;
    let alice = cluster.as_user(&cluster.user("alice", &["access"], &["root"]));
    let mut ending = Lock::new("l", LockSpec::default());
    ending.spec.target.user = Some("alice".parse().unwrap());
    ending.metadata.expires = Some(cluster.now().saturating_add(Duration::from_secs(60)));
    let editor = cluster.as_user(&cluster.member("eve", &["editor"]).await);
    editor.create_lock(ending).await.unwrap();
    let event = cluster.audit.last(EventKind::LockCreate).unwrap();
    assert_eq!((event.event.as_str(), event.code.code()), ("lock.created", "TLK00I"));
    assert_eq!((event.user.as_deref(), &event.fields["target"]), (Some("eve"), &json!("user:\"alice\"")));
    assert!(alice.nodes().await.is_err());
    cluster.clock.advance(Duration::from_secs(60));
    alice.nodes().await.unwrap();
    lock(&cluster, "m", json!({"user": "alice"})).await;
    editor.delete_lock("m".parse().unwrap()).await.unwrap();
    let event = cluster.audit.last(EventKind::LockDelete).unwrap();
    assert_eq!((event.event.as_str(), event.code.code()), ("lock.deleted", "TLK01I"));
    assert_eq!((event.user.as_deref(), &event.fields["name"]), (Some("eve"), &json!("m")));
}

/// What has expired by a clock that was ahead is in force again when the clock is right again.
#[tokio::test]
async fn a8_locks_come_back_with_the_clock() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::default());
    let right = clock.now();
    let backend = RedbBackend::open(directory.path().join("state"), clock.clone()).await.unwrap();
    let cluster = Cluster::over(Arc::new(backend), clock, |_| {}).await;
    let alice = cluster.as_user(&cluster.user("alice", &["access"], &["root"]));
    let mut ending = Lock::new("l", LockSpec::default());
    ending.spec.target.user = Some("alice".parse().unwrap());
    ending.metadata.expires = Some(right.saturating_add(Duration::from_secs(7200)));
    cluster.admin().create_lock(ending).await.unwrap();
    assert!(alice.nodes().await.is_err());

    cluster.clock.advance(Duration::from_secs(30 * 24 * 3600));
    let then = cluster.as_user(&cluster.user("alice", &["access"], &["root"]));
    then.nodes().await.expect("by this clock the lock has ended");
    cluster.clock.set(right);
    assert!(alice.nodes().await.is_err(), "by the right one it has not");
}

/// What cannot be read may target anybody.
#[tokio::test]
async fn a8_unreadable_locks_refuse_where_they_are_strict() {
    let cluster = Cluster::new().await;
    let secret = cluster.sign_up("alice").await;
    let mut role = cluster.admin().role("access".parse().unwrap()).await.unwrap();
    role.metadata.name = "careful".to_owned();
    role.metadata.revision = None;
    role.spec.options = RoleOptions { lock: Some(LockMode::Strict), ..RoleOptions::default() };
    cluster.admin().create_role(role).await.unwrap();
    let (easy, careful) = (
        cluster.as_user(&cluster.user("alice", &["access"], &["root"])),
        cluster.as_user(&cluster.user("alice", &["access", "careful"], &["root"])),
    );
    careful.nodes().await.unwrap();
    let key = teleport_core::storage::Key::new("locks/later").unwrap();
    cluster.backend.put(&key, bytes::Bytes::from_static(b"{\"kind\":\"lock\"}"), None).await.unwrap();
    easy.nodes().await.unwrap();
    login(&cluster, &secret).await.unwrap();
    let error = careful.nodes().await.unwrap_err();
    assert_eq!(error.kind(), ApiErrorKind::Denied);
    assert!(!error.message().contains("lock later"), "{error:?}");
    let event = cluster.audit.last(EventKind::ApiDenied).unwrap();
    assert_eq!(event.error.as_deref(), Some("locks are strict, and lock later cannot be read"));
    // It is in the list, and can be removed.
    assert!(!cluster.admin().lock("later".parse().unwrap()).await.unwrap().is_readable());
    unlock(&cluster, "later").await;
    careful.nodes().await.unwrap();
}

/// The certificates of a deleted user are void, and a new user of the same name does not bring them back.
#[tokio::test]
async fn c8_nothing_is_left_of_a_deleted_user() {
    let cluster = Cluster::new().await;
    let mut old = cluster.member("alice", &["access"]).await;
    old.valid_after = cluster.now().saturating_sub(CLOCK_SKEW);
    let node = cluster.host("web-1", HostRole::Node);
    let mut views = cluster.as_host(&node).watch_access().await.unwrap();
    assert!(views.next().await.unwrap().unwrap().deleted_users.is_empty());
    cluster.as_user(&old).nodes().await.unwrap();
    cluster.clock.advance(Duration::from_secs(5));
    let deleted_at = cluster.now();
    cluster.admin().delete_user(old.user.clone()).await.unwrap();
    let view = views.next().await.unwrap().unwrap();
    assert_eq!(view.deleted_users.get(&old.user), Some(&deleted_at));
    denied(cluster.as_user(&old).nodes().await, "access denied");
    let event = cluster.audit.last(EventKind::ApiDenied).unwrap();
    assert_eq!(event.error.as_deref(), Some("the user does not exist any more"));
    cluster.clock.advance(Duration::from_secs(5));
    let mut new = cluster.member("alice", &["access"]).await;
    new.valid_after = cluster.now().saturating_sub(CLOCK_SKEW);
    cluster.as_user(&new).nodes().await.unwrap();
    denied(cluster.as_user(&old).nodes().await, "access denied");
}

/// Every server holds all locks.
#[tokio::test]
async fn there_are_only_so_many_locks() {
    let cluster = Cluster::new().await;
    for number in 0..10_000 {
        let spec = LockSpec {
            target: serde_json::from_value(json!({"user": "x"})).unwrap(),
            message: String::new(),
        };
        let lock = serde_json::to_vec(&Lock::new(format!("l{number}"), spec)).unwrap();
        cluster.backend.put(&format!("locks/l{number}").parse().unwrap(), lock.into(), None).await.unwrap();
    }
    let spec =
        LockSpec { target: serde_json::from_value(json!({"user": "y"})).unwrap(), message: String::new() };
    let more = Lock::new("more", spec);
    let error = cluster.admin().create_lock(more.clone()).await.unwrap_err();
    assert_eq!((error.kind(), error.message().contains("remove some")), (ApiErrorKind::Invalid, true));
    unlock(&cluster, "l7").await;
    cluster.admin().create_lock(more).await.unwrap();
}

/// A role that is taken from its user allows nothing any more, whatever certificates say; one that is given back does again.
#[tokio::test]
async fn c8_a_role_that_is_taken_is_taken_from_certificates() {
    let cluster = Cluster::new().await;
    let alice = cluster.member("alice", &["access", "editor"]).await;
    let node = cluster.host("web-1", HostRole::Node);
    cluster.as_host(&node).announce_node(record(&node)).await.unwrap();
    let mut views = cluster.as_host(&node).watch_access().await.unwrap();
    let mut next = async || views.next().await.unwrap().unwrap();
    assert!(next().await.taken_roles.is_empty());
    let access = async |roles: &[&str]| {
        let roles = roles.iter().map(|role| role.parse().unwrap()).collect();
        let change = UpdateUser { roles: Some(roles), ..UpdateUser::default() };
        cluster.admin().update_user(alice.user.clone(), change).await.unwrap();
    };
    assert_eq!(cluster.as_user(&alice).nodes().await.unwrap().len(), 1);
    let reissue = async || {
        let request = ReissueRequest { keys: subject_keys(9), ttl: None };
        cluster.as_user(&alice).reissue_user(request).await
    };
    access(&["editor"]).await;
    let taken = next().await.taken_roles;
    assert_eq!(taken[&alice.user].iter().map(|role| role.as_str()).collect::<Vec<_>>(), ["access"]);
    // The role of which is left sees all nodes, by its rule; without it nothing is seen.
    access(&[]).await;
    assert_eq!(next().await.taken_roles[&alice.user].len(), 2);
    assert_eq!(cluster.as_user(&alice).nodes().await.unwrap(), []);
    access(&["access"]).await;
    assert_eq!(next().await.taken_roles[&alice.user].len(), 1);
    assert_eq!(cluster.as_user(&alice).nodes().await.unwrap().len(), 1);
    assert_eq!(reissue().await.unwrap().roles.len(), 1);
    // The certificate does not know of the new role, and so not of what it denies.
    access(&["access", "auditor"]).await;
    denied(reissue().await, "your roles were changed since the certificate was issued; log in again");
    access(&["access", "editor"]).await;
    while next().await.taken_roles.get(&alice.user).is_none_or(|roles| roles.len() != 1) {}
    reissue().await.unwrap();
    // A connection may be older than any certificate: what was taken stays so for as long as the user exists.
    let fresh = async || cluster.admin().watch_access().await.unwrap().next().await.unwrap().unwrap();
    let longest = teleport_core::cert::MAX_USER_TTL + CLOCK_SKEW * 3;
    cluster.clock.advance(longest);
    assert_eq!(fresh().await.taken_roles[&alice.user].len(), 1);
    cluster.admin().delete_user(alice.user.clone()).await.unwrap();
    assert!(fresh().await.taken_roles.is_empty());
    assert!(fresh().await.deleted_users.contains_key(&alice.user));
    cluster.clock.advance(longest);
    assert!(fresh().await.deleted_users.is_empty());
}

/// A user who ends earlier than was said at the login: the certificates end as well, and a new user does not bring them back.
#[tokio::test(start_paused = true)]
async fn c8_certificates_do_not_outlast_a_user_who_expires() {
    let cluster = Cluster::new().await;
    let mut alice = cluster.member("alice", &["access"]).await;
    alice.valid_after = cluster.now().saturating_sub(CLOCK_SKEW);
    let node = cluster.host("web-1", HostRole::Node);
    let mut views = cluster.as_host(&node).watch_access().await.unwrap();
    views.next().await.unwrap().unwrap();
    let ends = cluster.now().saturating_add(Duration::from_secs(5));
    let mut document = cluster.admin().user(alice.user.clone()).await.unwrap();
    document.metadata.expires = Some(ends);
    cluster.admin().replace_user(document.clone()).await.unwrap();
    cluster.as_user(&alice).nodes().await.unwrap();
    assert!(views.next().now_or_never().is_none());
    cluster.clock.advance(Duration::from_secs(5));
    let waited = tokio::time::Instant::now();
    let view = views.next().await.unwrap().unwrap();
    assert_eq!(view.deleted_users.get(&alice.user), Some(&ends));
    assert!(waited.elapsed() < Duration::from_secs(6), "it is told at that moment: {:?}", waited.elapsed());
    denied(cluster.as_user(&alice).nodes().await, "access denied");
    document.metadata.expires = None;
    document.metadata.revision = None;
    cluster.admin().add_user(document).await.unwrap();
    denied(cluster.as_user(&alice).nodes().await, "access denied");
}
