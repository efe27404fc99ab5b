//! Who joined a session has its recording, and nobody else.

use teleport_core::api::{ApiErrorKind, AuditApi, RecordingApi, RecordingQuery, ResourceApi};
use teleport_core::audit::{AuditEvent, EventKind};
use teleport_core::cert::UserIdentity;
use teleport_core::clock::Timestamp;
use teleport_core::id::{HostRole, SessionId};
use teleport_core::resource::{Role, RoleConditions, RoleSpec, Rule, Verb};

use crate::cluster::Cluster;

fn joins(session: SessionId, user: &str, mode: &str) -> AuditEvent {
    let event = AuditEvent::new(EventKind::SessionJoin).session(session).user(user);
    event.field("mode", mode).field("session_user", "alice")
}

/// Someone with the rule that the original's `auditor` of own sessions has.
async fn with_the_rule(cluster: &Cluster, name: &str) -> UserIdentity {
    cluster.member(name, &["took-part"]).await
}

async fn sees(cluster: &Cluster, user: &UserIdentity, session: SessionId) -> bool {
    let api = cluster.as_user(user);
    let query = RecordingQuery { from: Some(Timestamp::EPOCH), ..RecordingQuery::default() };
    let listed = api.recordings(query).await.unwrap().iter().any(|info| info.meta.session == session);
    let read = api.read_recording(session, 0).await;
    if let Err(error) = &read {
        assert_eq!(error.kind(), ApiErrorKind::NotFound, "it is not even confirmed");
    }
    assert_eq!(listed, read.is_ok(), "what is listed may be played");
    listed
}

#[tokio::test]
async fn who_joined_a_session_has_its_recording_and_nobody_else() {
    let cluster = Cluster::new().await;
    let took_part = Rule {
        resources: vec!["session".to_owned()],
        verbs: vec![Verb::List, Verb::Read],
        condition: Some("contains(session.participants, user.metadata.name)".to_owned()),
    };
    let allow = RoleConditions { rules: vec![took_part], ..RoleConditions::default() };
    let role = Role::new("took-part", RoleSpec { allow, ..RoleSpec::default() });
    cluster.admin().create_role(role).await.unwrap();
    let host = cluster.host("web-1", HostRole::Node);
    let node = cluster.as_host(&host);
    let (one, other) = (cluster.recording(&host), cluster.recording(&host));
    let session = one.session;
    // Some join before the auth service has anything of the recording, some later.
    let early =
        [joins(session, "bob", "observer"), joins(session, "bob", "peer"), joins(session, "alice", "peer")];
    node.emit_events(early.into()).await.unwrap();
    for meta in [&one, &other] {
        node.create_recording(meta.clone()).await.unwrap();
        node.put_recording_part(meta.session, 0, "x".into()).await.unwrap();
    }
    let late = [joins(session, "carol", "peer"), joins(session, "erin", "moderator")];
    node.emit_events(late.into()).await.unwrap();
    // Another host says that its friend was there as well.
    let thief = cluster.host("web-2", HostRole::Node);
    let _ = cluster
        .second()
        .acting_as(teleport_core::auth::Caller::Identity(
            teleport_core::cert::Identity::Host(thief.clone()),
            None,
        ))
        .emit_events(vec![joins(session, "mallory", "peer")])
        .await;

    let mut people = Vec::new();
    for (name, joined) in
        [("bob", true), ("carol", true), ("erin", true), ("dave", false), ("mallory", false)]
    {
        people.push((with_the_rule(&cluster, name).await, joined));
    }
    let check = async |complete: bool| {
        for (user, joined) in &people {
            assert_eq!(sees(&cluster, user, session).await, *joined, "{} {complete}", user.user);
            assert!(!sees(&cluster, user, other.session).await, "{} {complete}", user.user);
        }
        let info = cluster.admin().recording(session).await.unwrap();
        let names: Vec<&str> = info.participants.iter().map(|user| user.as_str()).collect();
        assert_eq!((names, info.completed.is_some()), (vec!["bob", "carol", "erin"], complete));
    };
    check(false).await;
    for meta in [&one, &other] {
        node.complete_recording(meta.session, 1).await.unwrap();
    }
    check(true).await;
    // As of one's own sessions, no rule is needed once it is complete; and nothing is left behind.
    let plain = cluster.user("bob", &["access"], &[]);
    assert!(sees(&cluster, &plain, session).await);
    use teleport_core::storage::{BackendExt, Prefix};
    let below = Prefix::new("recording-participants").unwrap().join(&session.to_string()).unwrap();
    assert!(cluster.backend.list(&below).await.unwrap().is_empty());
}

/// A host cannot fill the storage with people.
#[tokio::test]
async fn only_so_many_take_part_in_a_session() {
    let cluster = Cluster::new().await;
    let host = cluster.host("web-1", HostRole::Node);
    let node = cluster.as_host(&host);
    let one = cluster.recording(&host);
    node.create_recording(one.clone()).await.unwrap();
    for number in 0..300 {
        node.emit_events(vec![joins(one.session, &format!("user-{number}"), "observer")]).await.unwrap();
    }
    node.complete_recording(one.session, 0).await.unwrap();
    assert_eq!(cluster.admin().recording(one.session).await.unwrap().participants.len(), 256);
}
