//! The calls of each part of the API, over the wire.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use teleport_core::api::{
    AcceptInvite, AdminApi as _, ApiErrorKind, CreateUser, IdentityApi as _, LoginRequest, PublicApi as _,
    RecordingApi as _, RecordingQuery, ReissueRequest, RenewRequest, ResetUser, TokenPurpose,
};
use teleport_core::auth::one_time_code;
use teleport_core::clock::Clock as _;
use teleport_core::entropy::SystemEntropy;
use teleport_core::id::{HostRole, OsLogin, RoleName, SessionId, UserName};
use teleport_core::recording::{MAX_PART_LEN, RecordingMeta};
use teleport_core::secret::SecretString;
use teleport_core::task::Shutdown;
use teleport_core::testing::subject_keys;
use teleport_ssh::identity::{HostMaterial, IdentityStore, Renewal, renew, renew_at};

use super::world::{World, cluster, soon};

#[tokio::test]
async fn invite_login_and_reissue() {
    let world = World::start().await;
    let editor = world.as_user("root-admin", &["editor"]).await;
    let invite = editor
        .create_user(CreateUser {
            name: UserName::new("alice").unwrap(),
            roles: vec![RoleName::new("access").unwrap()],
            logins: vec![OsLogin::new("root").unwrap()],
            ttl: None,
        })
        .await
        .unwrap();
    // As the proxy's web page does for a person.
    let (web, _) = world.as_host(HostRole::Proxy, "proxy-1").await;
    let info = web.invite(invite.token.clone()).await.unwrap();
    assert_eq!(info.user.as_str(), "alice");
    let password = SecretString::new("correct horse battery");
    let code = one_time_code(&info.secret, world.clock.now()).unwrap();
    let accept =
        AcceptInvite { token: invite.token.clone(), password: password.clone(), code, client_ip: None };
    web.accept_invite(accept).await.unwrap();
    world.clock.advance(Duration::from_secs(60));
    let login = LoginRequest {
        user: "alice".to_owned(),
        password,
        code: one_time_code(&info.secret, world.clock.now()).unwrap(),
        keys: subject_keys(1),
        ttl: Some(3600),
        // A proxy's word counts.
        client_ip: Some("203.0.113.9".parse().unwrap()),
    };
    let response = web.login(login.clone()).await.unwrap();
    assert_eq!(response.logins, vec![OsLogin::new("root").unwrap()]);
    // The same code again.
    assert_eq!(web.login(login).await.unwrap_err().kind(), ApiErrorKind::Denied);
    let events = world.audit.events();
    assert!(format!("{events:?}").contains("203.0.113.9"));
    let alice = world.as_user("alice", &["access"]).await;
    let reissued =
        alice.reissue_user(ReissueRequest { keys: subject_keys(2), ttl: Some(600) }).await.unwrap();
    assert!(reissued.certificates.valid_before <= world.clock.now().saturating_add(Duration::from_secs(600)));
    editor.delete_user(UserName::new("alice").unwrap()).await.unwrap();
    assert_eq!(
        editor.reset_user(UserName::new("alice").unwrap(), ResetUser::default()).await.unwrap_err().kind(),
        ApiErrorKind::NotFound
    );
}

#[tokio::test]
async fn administration() {
    let world = World::start().await;
    let editor = world.as_user("root-admin", &["editor"]).await;
    assert_eq!(editor.status().await.unwrap().ca_pins, world.pins());
    assert_eq!(editor.roles().await.unwrap().len(), 3);
    assert_eq!(editor.role(RoleName::new("access").unwrap()).await.unwrap().metadata.name, "access");
    assert_eq!(editor.role(RoleName::new("none").unwrap()).await.unwrap_err().kind(), ApiErrorKind::NotFound);
    let token = world.token(HostRole::Node).await;
    let tokens = editor.tokens().await.unwrap();
    let of_hosts = tokens.iter().filter(|token| token.purpose == TokenPurpose::Join);
    assert_eq!(of_hosts.count(), 1, "{tokens:?}");
    editor.delete_token(token.clone()).await.unwrap();
    assert_eq!(editor.delete_token(token).await.unwrap_err().kind(), ApiErrorKind::NotFound);
}

#[tokio::test]
async fn recordings_travel_in_whole_parts() {
    let world = World::start().await;
    let (node, handle) = world.as_host(HostRole::Node, "web-1").await;
    let material = handle.current();
    let session = SessionId::random(&SystemEntropy::new()).unwrap();
    let meta = RecordingMeta {
        session,
        cluster: cluster(),
        host_id: material.host_id,
        host_name: material.name.clone(),
        user: UserName::new("alice").unwrap(),
        login: OsLogin::new("root").unwrap(),
        started: world.clock.now(),
        command: None,
        terminal: Some((80, 24)),
    };
    node.create_recording(meta).await.unwrap();
    let part: Bytes = (0..MAX_PART_LEN).map(|index| (index % 251) as u8).collect();
    node.put_recording_part(session, 0, part.clone()).await.unwrap();
    node.put_recording_part(session, 1, Bytes::from_static(b"end")).await.unwrap();
    assert_eq!(node.recording_parts(session).await.unwrap(), 2);
    let mut longer = part.to_vec();
    longer.push(0);
    assert_eq!(
        node.put_recording_part(session, 2, longer.into()).await.unwrap_err().kind(),
        ApiErrorKind::Invalid
    );
    node.complete_recording(session, 2).await.unwrap();
    let alice = world.as_user("alice", &["access"]).await;
    assert_eq!(alice.recordings(RecordingQuery::default()).await.unwrap().len(), 1);
    let mut read = Vec::new();
    loop {
        let bytes = alice.read_recording(session, read.len() as u64).await.unwrap();
        if bytes.is_empty() {
            break;
        }
        read.extend_from_slice(&bytes);
    }
    assert_eq!(read, [&part[..], b"end"].concat());
    let bob = world.as_user("bob", &["access"]).await;
    assert_eq!(bob.read_recording(session, 0).await.unwrap_err().kind(), ApiErrorKind::NotFound);
}

#[tokio::test]
async fn an_identity_is_renewed_in_time_and_kept() {
    let world = World::start().await;
    let (client, handle) = world.as_host(HostRole::Node, "web-1").await;
    let before = handle.current();
    let dir = tempfile::tempdir().unwrap();
    let store = IdentityStore::open(dir.path().join("node")).unwrap();
    let shutdown = Shutdown::new();
    let renewal = Renewal {
        identity: handle.clone(),
        store: Some(store.clone()),
        api: Arc::new(client.clone()),
        addresses: vec!["192.0.2.1".to_owned()],
        clock: world.clock(),
        entropy: Arc::new(SystemEntropy::new()),
    };
    let mut changes = handle.changes();
    // Due: the first look finds it.
    world.clock.set(renew_at(before.valid_after, before.valid_before, 0));
    world.tasks.spawn(renew(renewal, shutdown.clone()));
    let after = soon("the renewal", changes.next()).await;
    assert!(after.valid_before > before.valid_before && after.host() == before.host());
    assert_ne!(after.public_keys(), before.public_keys());
    let kept = store.load(HostRole::Node).unwrap().unwrap();
    assert_eq!(kept.tls_certificate, after.tls_certificate);
    assert_eq!(kept.public_keys(), after.public_keys());
    // The client uses the new one, and the old one's end means nothing any more.
    world.clock.set(before.valid_before.saturating_add(Duration::from_secs(1)));
    world.identity.replace(world.host(HostRole::Auth, "auth-1").await);
    client.renew_host(RenewRequest { keys: subject_keys(3), addresses: Vec::new() }).await.unwrap();
    shutdown.drain();
}

#[test]
fn renewal_is_due_at_two_thirds_of_the_life_or_a_little_before() {
    use teleport_core::clock::Timestamp;
    let at =
        |jitter| renew_at(Timestamp::from_unix_secs(0), Timestamp::from_unix_secs(1200), jitter).unix_secs();
    assert_eq!(at(0), 800);
    assert_eq!(at(u16::MAX), 700);
    assert!((700..=800).contains(&at(12_345)));
}

#[tokio::test]
async fn credentials_of_somebody_else_are_refused_at_once() {
    let world = World::start().await;
    let (one, two) = (world.host(HostRole::Node, "web-1").await, world.host(HostRole::Node, "web-2").await);
    let credentials = |material: &HostMaterial, ssh: &HostMaterial| teleport_core::api::HostCredentials {
        certificates: teleport_core::cert::IssuedCertificates {
            ssh: ssh.ssh_certificate.clone(),
            tls: material.tls_certificate.clone(),
            serial: 1,
            valid_after: material.valid_after,
            valid_before: material.valid_before,
        },
        trust: material.trust.clone(),
    };
    let keys = |material: &HostMaterial| (material.ssh.clone(), material.tls.clone());
    assert!(HostMaterial::from_credentials(one.host(), keys(&one), credentials(&one, &one)).is_ok());
    for (host, keys, credentials) in [
        (one.host(), keys(&one), credentials(&two, &two)),
        (one.host(), keys(&one), credentials(&one, &two)),
        (two.host(), keys(&one), credentials(&one, &one)),
        (one.host(), keys(&two), credentials(&one, &one)),
    ] {
        assert!(HostMaterial::from_credentials(host, keys, credentials).is_err());
    }
}
