//! The audit log's rows of the threat list: what hosts report (H3), that nothing is lost (H4), that no secret gets there (H5);
//! and how recordings are bound into it.

use teleport_core::api::{
    AcceptInvite, AccountApi, AdminApi, ApiErrorKind, AuditApi, ChangePassword, JoinRequest, LoginRequest,
    PublicApi, RecordingApi,
};
use teleport_core::audit::chain::{ChainHead, Digest, StoredCheckpoint};
use teleport_core::audit::{AuditEvent, AuditQuery, EventKind};
use teleport_core::auth::Caller;
use teleport_core::cert::Identity;
use teleport_core::id::{HostRole, NodeName, SessionId};
use teleport_core::recording::RecordingMeta;
use teleport_core::secret::SecretString;
use teleport_core::storage::Repo;
use teleport_core::testing::subject_keys;

use crate::cluster::{Cluster, PASSWORD};

fn session(number: u32) -> SessionId {
    format!("{number:08x}-0000-4000-8000-000000000000").parse().unwrap()
}

/// A host that says something about another host's session, another user, the place of an event in the log, or far too much, is
/// refused; that it tried is in the log, and nothing of what it said is.
#[tokio::test]
async fn h3_what_a_host_cannot_know_is_refused_and_written_down() {
    let cluster = Cluster::new().await;
    let (a, b) = (cluster.host("node-a", HostRole::Node), cluster.host("node-b", HostRole::Node));
    let (node, other) = (cluster.as_host(&a), cluster.as_host(&b));
    let event = |kind, user: &str| AuditEvent::new(kind).user(user).session(session(1));
    node.emit_events(vec![event(EventKind::SessionStart, "alice")]).await.unwrap();
    // As itself under another name: the certificate says it better.
    let posing = event(EventKind::Exec, "alice").server(b.host_id, &b.name);
    node.emit_events(vec![posing]).await.unwrap();
    let written = cluster.audit.last(EventKind::Exec).unwrap();
    assert_eq!((written.server_id, written.server_hostname), (Some(a.host_id), Some(a.name.clone())));

    let mut numbered = event(EventKind::Exec, "alice");
    numbered.index = Some(3);
    let mut large = event(EventKind::Exec, "alice");
    large = (0..40).fold(large, |event, number| event.field(&format!("f{number}"), "x".repeat(4000)));
    let mut nested = event(EventKind::Exec, "alice");
    nested.fields.insert("deep".to_owned(), vec!["x".repeat(1000); 100].into());
    let both = vec![
        AuditEvent::new(EventKind::SessionStart).user("alice").session(session(2)),
        AuditEvent::new(EventKind::SessionEnd).user("bob").session(session(2)),
    ];
    let denied = ApiErrorKind::Denied;
    for (what, by, report, kind) in [
        ("another host's session", &other, vec![event(EventKind::Exec, "alice")], denied),
        ("another user's", &node, vec![event(EventKind::SessionEnd, "bob")], denied),
        ("two users' at once", &node, both, denied),
        ("the number of an entry", &node, vec![numbered], denied),
        ("a digest", &node, vec![event(EventKind::Exec, "alice").field("chain", "00")], denied),
        ("a checkpoint", &node, vec![AuditEvent::new(EventKind::AuditCheckpoint)], denied),
        ("a recovery", &node, vec![AuditEvent::new(EventKind::AuditRecovered)], denied),
        ("what the auth service does", &node, vec![AuditEvent::new(EventKind::UserLogin)], denied),
        ("an upload", &node, vec![event(EventKind::SessionUpload, "alice")], denied),
        ("too much", &node, vec![large], ApiErrorKind::Invalid),
        ("too much within", &node, vec![nested], ApiErrorKind::Invalid),
    ] {
        let before = cluster.audit.events();
        let error = by.emit_events(report).await.expect_err(what);
        assert_eq!(error.kind(), kind, "{what}");
        let after = cluster.audit.events();
        let [new] = &after[before.len()..] else { panic!("{what}: one event, not {after:?}") };
        assert_eq!(new.code, EventKind::ApiDenied, "{what}");
        assert!(new.error.is_some() && new.fields["operation"] == "emit_events", "{what}: {new:?}");
    }
    // Whoever looks on is another user, rightly.
    node.emit_events(vec![event(EventKind::Resize, "bob")]).await.unwrap();
    node.emit_events(vec![event(EventKind::SessionEnd, "alice")]).await.unwrap();
}

/// What is too long is cut and marked; the event is not lost.
#[tokio::test]
async fn h4_long_texts_of_hosts_are_cut_and_marked() {
    let cluster = Cluster::new().await;
    let node = cluster.as_host(&cluster.host("node", HostRole::Node));
    let mut event = AuditEvent::new(EventKind::Exec).session(session(1));
    let long = "é".repeat(50_000);
    event.user = Some(long.clone());
    event.error = Some(long.clone());
    event.fields.insert("command".to_owned(), long.into());
    node.emit_events(vec![event]).await.unwrap();
    let written = cluster.audit.last(EventKind::Exec).unwrap();
    for text in [written.user.as_deref(), written.error.as_deref(), written.fields["command"].as_str()] {
        let text = text.unwrap();
        assert!(text.len() < 5000 && text.ends_with('…') && text.starts_with("éé"), "{}", text.len());
    }
}

/// A host whose answer was lost sends again, also to a service that was started anew: the event is there once. Names of events
/// say nothing across hosts.
#[tokio::test]
async fn h4_a_report_that_is_sent_again_is_written_once() {
    let cluster = Cluster::new().await;
    let (a, b) = (cluster.host("node-a", HostRole::Node), cluster.host("node-b", HostRole::Node));
    let named = |kind, number: u32| {
        let mut event = AuditEvent::new(kind).user("alice").session(session(number));
        event.uid = format!("{number:08x}-0000-4000-8000-00000000abcd").parse().unwrap();
        event
    };
    let written = || cluster.audit.events().iter().filter(|event| event.sid.is_some()).count();
    let node = cluster.as_host(&a);
    node.emit_events(vec![named(EventKind::SessionStart, 1), named(EventKind::SessionStart, 2)])
        .await
        .unwrap();
    assert_eq!(written(), 2);
    node.emit_events(vec![named(EventKind::SessionStart, 1)]).await.unwrap();
    assert_eq!(written(), 2, "the same again");
    // A log may give fewer at once than it was asked for.
    cluster.audit.set_page(1);
    let restarted = cluster.second();
    let again = restarted.acting_as(Caller::Identity(Identity::Host(a), None));
    again
        .emit_events(vec![named(EventKind::SessionStart, 1), named(EventKind::SessionStart, 3)])
        .await
        .unwrap();
    assert_eq!(written(), 3, "what was new among it");
    let uids: std::collections::BTreeSet<_> = cluster.audit.events().iter().map(|event| event.uid).collect();
    assert_eq!(uids.len(), cluster.audit.events().len(), "each event has a name of its own");
    assert!(!uids.contains(&named(EventKind::Exec, 1).uid), "and none that a host chose");
    // Another host cannot keep an event out of the log by its name.
    let mut copied = named(EventKind::SessionStart, 1);
    copied.sid = Some(session(9));
    cluster.as_host(&b).emit_events(vec![copied]).await.unwrap();
    assert_eq!(written(), 4);
    // Without names every report is a new one.
    for _ in 0..2 {
        node.emit_events(vec![AuditEvent::new(EventKind::Exec).session(session(1))]).await.unwrap();
    }
    assert_eq!(written(), 6);
}

/// A join that is refused, a login that fails, a call that is denied: each is there, once.
#[tokio::test]
async fn h4_every_refusal_is_one_event() {
    let cluster = Cluster::new().await;
    let anonymous = cluster.anonymous();
    let join = JoinRequest {
        token: SecretString::new("wrong-wrong-wrong"),
        host_id: cluster.host("x", HostRole::Node).host_id,
        name: NodeName::new("x").unwrap(),
        role: HostRole::Node,
        keys: subject_keys(1),
        addresses: Vec::new(),
        client_ip: None,
    };
    let before = cluster.audit.events().len();
    anonymous.join(join).await.unwrap_err();
    let user = cluster.as_user(&cluster.member("mallory", &["access"]).await);
    let between = cluster.audit.events().len();
    user.delete_user("alice".parse().unwrap()).await.unwrap_err();
    let events = cluster.audit.events();
    assert_eq!(events[before].code, EventKind::InstanceJoinFailure);
    let codes: Vec<_> = events[between..].iter().map(|event| event.code).collect();
    assert_eq!(codes, [EventKind::ApiDenied]);
}

/// What people type by mistake is nearly a secret, or one of another service: none of it is in the log.
#[tokio::test]
async fn h5_what_failed_leaves_no_secret_in_the_log() {
    let cluster = Cluster::new().await;
    let seed = cluster.sign_up("alice").await;
    cluster.next_step();
    let canaries: Vec<String> = (0..7).map(|number| format!("canary-{number}-correct-horse")).collect();
    let secret = |number: usize| SecretString::new(canaries[number].as_str());
    let web = cluster.web();
    let login = |user: &str, password, code| LoginRequest { password, ..cluster.login(user, PASSWORD, code) };
    web.login(login("alice", secret(0), cluster.code(&seed))).await.unwrap_err();
    web.login(login("alice", SecretString::new(PASSWORD), secret(1))).await.unwrap_err();
    web.login(login("nobody", secret(2), secret(1))).await.unwrap_err();
    web.invite(secret(3)).await.unwrap_err();
    let accept = AcceptInvite { token: secret(3), password: secret(4), code: secret(1), client_ip: None };
    web.accept_invite(accept).await.unwrap_err();
    let join = JoinRequest {
        token: secret(5),
        host_id: cluster.host("x", HostRole::Node).host_id,
        name: NodeName::new("x").unwrap(),
        role: HostRole::Node,
        keys: subject_keys(1),
        addresses: Vec::new(),
        client_ip: None,
    };
    cluster.anonymous().join(join).await.unwrap_err();
    cluster.admin().delete_token(secret(6)).await.unwrap_err();
    let alice = cluster.as_user(&cluster.user("alice", &["access"], &["root"]));
    let change = ChangePassword { password: secret(0), new_password: secret(4), code: secret(1) };
    alice.change_password(change).await.unwrap_err();
    let log = serde_json::to_string(&cluster.audit.events()).unwrap();
    assert!(log.contains("T1000W") && log.contains("TJ002E"), "the failures are there: {log}");
    for canary in &canaries {
        assert!(!log.contains(canary.as_str()), "{canary}: {log}");
    }
    assert!(!log.contains(PASSWORD) && !log.contains(seed.expose()));
}

#[tokio::test]
async fn a_recording_is_bound_into_the_log_once_by_its_digest() {
    let cluster = Cluster::new().await;
    let host = cluster.host("node", HostRole::Node);
    let node = cluster.as_host(&host);
    node.create_recording(RecordingMeta { session: session(1), ..cluster.recording(&host) }).await.unwrap();
    // More than one piece of reading, in parts that come more than once.
    let parts: Vec<Vec<u8>> = (0..3_u8).map(|number| vec![number; 700_000]).collect();
    for number in [0_u32, 0, 1, 0, 2] {
        node.put_recording_part(session(1), number, parts[number as usize].clone().into()).await.unwrap();
    }
    node.complete_recording(session(1), 3).await.unwrap();
    let event = cluster.audit.last(EventKind::SessionUpload).unwrap();
    let whole = parts.concat();
    assert_eq!(event.fields["sha256"], Digest::of(&[&whole]).to_string());
    node.complete_recording(session(1), 3).await.unwrap();
    assert_eq!(cluster.audit.count(EventKind::SessionUpload), 1, "asked again: once");

    // The service dies between the store and the log: the answer was no success, so the node asks again.
    node.create_recording(RecordingMeta { session: session(2), ..cluster.recording(&host) }).await.unwrap();
    node.put_recording_part(session(2), 0, "x".into()).await.unwrap();
    cluster.audit.set_broken(true);
    node.complete_recording(session(2), 1).await.unwrap_err();
    cluster.audit.set_broken(false);
    node.complete_recording(session(2), 1).await.unwrap();
    let event = cluster.audit.last(EventKind::SessionUpload).unwrap();
    assert_eq!(
        (event.sid, &event.fields["sha256"]),
        (Some(session(2)), &Digest::of(&[b"x"]).to_string().into())
    );
}

#[tokio::test]
async fn auditors_get_what_the_log_is_verified_with() {
    let key =
        teleport_core::audit::chain::CheckpointSigner::key(&teleport_core::testing::KnownKeySigner::new(1));
    let cluster = Cluster::with(|config| config.audit_keys = vec![key]).await;
    let head = ChainHead { index: 7, digest: Digest::of(&[b"x"]) };
    let known = StoredCheckpoint::new(session(1).uuid(), head, cluster.now());
    Repo::new(cluster.backend.clone()).create(&known).await.unwrap();
    let auditor = cluster.as_user(&cluster.member("frank", &["auditor"]).await);
    let anchors = auditor.audit_anchors().await.unwrap();
    assert_eq!((anchors.keys, anchors.checkpoints), (vec![key], vec![known]));
    let user = cluster.as_user(&cluster.member("alice", &["access"]).await);
    assert_eq!(user.audit_anchors().await.unwrap_err().kind(), ApiErrorKind::Denied);
}

/// Whoever asks for a page from nowhere hears that; it is not the log that failed, so asking again does not help.
#[tokio::test]
async fn a_page_from_nowhere_is_a_wrong_question() {
    let cluster = Cluster::new().await;
    let auditor = cluster.as_user(&cluster.member("frank", &["auditor"]).await);
    let query = AuditQuery { after: Some("nowhere".to_owned()), ..AuditQuery::default() };
    let error = auditor.search_events(query).await.unwrap_err();
    assert_eq!(error.kind(), ApiErrorKind::Invalid, "{error:?}");
    cluster.audit.set_broken(true);
    let error = auditor.search_events(AuditQuery::default()).await.unwrap_err();
    assert_eq!(error.kind(), ApiErrorKind::Unavailable, "{error:?}");
}
