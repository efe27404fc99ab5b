//! The sessions that run: who sees them, who may end them, and how they vanish.

use std::time::Duration;

use futures_util::StreamExt;
use teleport_core::api::{
    ActiveSessionApi, AdminApi, ApiErrorKind, AuditApi, EndSession, Participant, PresenceApi, ResourceApi,
    RunningSession, SESSION_LEASE, SessionReport, SessionReportApi, TrustApi,
};
use teleport_core::audit::{AuditEvent, EventKind};
use teleport_core::auth::AuthHandle;
use teleport_core::cert::{HostIdentity, UserIdentity};
use teleport_core::id::{HostRole, SessionId};
use teleport_core::resource::{
    JoinMode, JoinSessions, NodeRecord, Role, RoleConditions, RoleSpec, Rule, Verb,
};

use crate::cluster::Cluster;

struct Node {
    host: HostIdentity,
    api: AuthHandle,
}

impl Node {
    async fn new(cluster: &Cluster, name: &str, labels: &str) -> Self {
        let mut host = cluster.host(name, HostRole::Node);
        host.expires = cluster.now().saturating_add(Duration::from_secs(86_400));
        let api = cluster.as_host(&host);
        let record = NodeRecord {
            host_id: host.host_id,
            name: host.name.clone(),
            address: "192.0.2.7:3022".to_owned(),
            labels: labels.parse().unwrap(),
            sub_kind: teleport_core::resource::NodeKind::Teleport,
            proxy_ids: Vec::new(),
            version: "1".to_owned(),
        };
        api.announce_node(record).await.unwrap();
        Self { host, api }
    }

    async fn report(&self, sessions: &[RunningSession]) {
        self.api.report_sessions(SessionReport::of_node(sessions.to_vec())).await.unwrap();
    }
}

fn session(cluster: &Cluster, owner: &UserIdentity, login: &str) -> RunningSession {
    RunningSession {
        id: SessionId::from_uuid(uuid::Uuid::from_u64_pair(0x1234_5678_4000_8000, cluster.unique())),
        node: None,
        user: owner.user.clone(),
        roles: owner.roles.clone(),
        login: login.parse().unwrap(),
        started: cluster.now(),
        command: None,
        terminal: Some((80, 25)),
        recorded: true,
        participants: Vec::new(),
    }
}

async fn role(cluster: &Cluster, name: &str, allow: RoleConditions, deny: RoleConditions) {
    let spec = RoleSpec { allow, deny, ..RoleSpec::default() };
    cluster.admin().create_role(Role::new(name, spec)).await.unwrap();
}

fn joins(role: &str, modes: &[&str]) -> RoleConditions {
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    let entry = JoinSessions {
        roles: texts(&[role]),
        kinds: texts(&["ssh"]),
        modes: texts(modes),
        ..JoinSessions::default()
    };
    RoleConditions { join_sessions: vec![entry], ..RoleConditions::default() }
}

fn rule(verbs: &[Verb], condition: Option<&str>) -> RoleConditions {
    let rule = Rule {
        resources: vec!["session_tracker".to_owned()],
        verbs: verbs.to_vec(),
        condition: condition.map(str::to_owned),
    };
    RoleConditions { rules: vec![rule], ..RoleConditions::default() }
}

/// What a user sees: in the list, and of each by itself. Both must be the same.
async fn seen(cluster: &Cluster, user: &UserIdentity, all: &[SessionId]) -> Vec<(SessionId, Vec<JoinMode>)> {
    let api = cluster.as_user(user);
    let list = api.active_sessions().await.unwrap();
    let list: Vec<_> = list.into_iter().map(|active| (active.session.id, active.join_modes)).collect();
    for id in all {
        match api.active_session(*id).await {
            Ok(active) => {
                assert!(list.contains(&(active.session.id, active.join_modes)), "{} {id}", user.user)
            }
            Err(error) => {
                assert_eq!(error.kind(), ApiErrorKind::NotFound);
                assert!(list.iter().all(|(listed, _)| listed != id), "{} {id}", user.user);
            }
        }
    }
    list
}

#[tokio::test]
async fn c6_a_list_of_running_sessions_is_what_can_be_read_one_by_one() {
    let cluster = Cluster::new().await;
    let (web, db) =
        (Node::new(&cluster, "web-1", "env=test").await, Node::new(&cluster, "db-1", "env=prod").await);
    role(&cluster, "watch", joins("access", &["observer"]), RoleConditions::default()).await;
    let deny = RoleConditions {
        node_labels: serde_json::from_str(r#"{"env":"prod"}"#).unwrap(),
        ..RoleConditions::default()
    };
    role(&cluster, "not-prod", RoleConditions::default(), deny).await;
    let root_only = rule(&[Verb::List, Verb::Read], Some(r#"session.login == "root""#));
    role(&cluster, "root-auditor", root_only, RoleConditions::default()).await;
    role(&cluster, "blind", RoleConditions::default(), rule(&[Verb::Any], None)).await;

    let alice = cluster.member("alice", &["access"]).await;
    let mut on_web = session(&cluster, &alice, "root");
    let on_db = session(&cluster, &alice, "deploy");
    let mut batch = session(&cluster, &alice, "root");
    batch.terminal = None;
    let since = cluster.now();
    let bob = "bob".parse().unwrap();
    on_web.participants.push(Participant { user: bob, mode: JoinMode::Observer, since });
    web.report(&[on_web.clone(), batch.clone()]).await;
    db.report(std::slice::from_ref(&on_db)).await;
    let mut all = [on_web.id, batch.id, on_db.id];
    all.sort();
    let ids = |seen: Vec<(SessionId, Vec<JoinMode>)>| {
        let mut ids: Vec<SessionId> = seen.into_iter().map(|(id, _)| id).collect();
        ids.sort();
        ids
    };
    let observer = || vec![JoinMode::Observer];
    for (name, roles, expected) in [
        ("owner", vec![], vec![]),
        ("nobody", vec!["access"], vec![]),
        ("watcher", vec!["watch"], vec![(on_web.id, observer()), (on_db.id, observer())]),
        ("careful", vec!["watch", "not-prod"], vec![(on_web.id, observer())]),
        ("blinded", vec!["watch", "blind"], vec![]),
        ("rooter", vec!["root-auditor"], vec![(on_web.id, vec![]), (batch.id, vec![])]),
        ("auditor", vec!["auditor"], vec![(on_web.id, vec![]), (batch.id, vec![]), (on_db.id, vec![])]),
    ] {
        if name == "owner" {
            assert_eq!(ids(seen(&cluster, &alice, &all).await), all, "one's own are seen");
            continue;
        }
        let user = cluster.member(name, &roles).await;
        let mut found = seen(&cluster, &user, &all).await;
        found.sort_by_key(|(id, _)| *id);
        let mut expected: Vec<(SessionId, Vec<JoinMode>)> = expected;
        expected.sort_by_key(|(id, _)| *id);
        assert_eq!(found, expected, "{name}");
    }
    // A role that was taken from its user counts no more, whatever the certificate says.
    let watcher = cluster.user("watcher", &["watch"], &["root"]);
    assert_eq!(seen(&cluster, &watcher, &all).await.len(), 2);
    let update = serde_json::from_str(r#"{"roles":["access"]}"#).unwrap();
    cluster.admin().update_user(watcher.user.clone(), update).await.unwrap();
    assert!(seen(&cluster, &watcher, &all).await.is_empty());
    // A session that exists and one that does not look alike to strangers.
    let stranger = cluster.as_user(&watcher);
    let unknown = session(&cluster, &alice, "root").id;
    let mut messages = Vec::new();
    for id in [on_web.id, unknown] {
        let error = stranger.active_session(id).await.unwrap_err();
        messages.push(error.message().replace(&id.to_string(), "<id>"));
    }
    assert_eq!(messages[0], messages[1]);
}

#[tokio::test]
async fn sessions_of_a_node_that_is_gone_vanish() {
    let cluster = Cluster::new().await;
    let alice = cluster.member("alice", &["access"]).await;
    let node = Node::new(&cluster, "web-1", "").await;
    let running = session(&cluster, &alice, "root");
    node.report(std::slice::from_ref(&running)).await;
    cluster.clock.advance(SESSION_LEASE - Duration::from_millis(1));
    assert_eq!(cluster.admin().active_sessions().await.unwrap().len(), 1);
    cluster.clock.advance(Duration::from_millis(1));
    assert!(cluster.admin().active_sessions().await.unwrap().is_empty());
    node.report(std::slice::from_ref(&running)).await;
    node.report(&[]).await;
    // Nodes begin so.
    node.report(&[]).await;
    assert!(cluster.admin().active_sessions().await.unwrap().is_empty());
    node.report(&[running]).await;
    cluster.admin().delete_node(node.host.host_id).await.unwrap();
    assert!(cluster.admin().active_sessions().await.unwrap().is_empty());
    let error = node.api.report_sessions(SessionReport::default()).await.unwrap_err();
    assert_eq!(error.kind(), ApiErrorKind::Evicted);
}

#[tokio::test]
async fn h3_a_report_is_about_the_own_sessions_and_bounded() {
    let cluster = Cluster::new().await;
    let alice = cluster.member("alice", &["access"]).await;
    let (node, other) = (Node::new(&cluster, "web-1", "").await, Node::new(&cluster, "web-2", "").await);
    let running = session(&cluster, &alice, "root");
    let start = AuditEvent::new(EventKind::SessionStart).session(running.id);
    node.api.emit_events(vec![start]).await.unwrap();
    let report = |sessions| SessionReport::of_node(sessions);
    let error = other.api.report_sessions(report(vec![running.clone()])).await.unwrap_err();
    assert_eq!(error.kind(), ApiErrorKind::Denied);
    let many = vec![running.clone(); SessionReport::MAX + 1];
    let mut long = running.clone();
    long.command = Some("x".repeat(1025));
    let mut crowded = running.clone();
    let since = cluster.now();
    let one = Participant { user: alice.user.clone(), mode: JoinMode::Peer, since };
    crowded.participants = vec![one; 257];
    for bad in [many, vec![long], vec![crowded]] {
        let error = node.api.report_sessions(report(bad)).await.unwrap_err();
        assert_eq!(error.kind(), ApiErrorKind::Invalid);
    }
    let mut early = running;
    early.started = cluster.now().saturating_add(Duration::from_secs(86_400));
    node.report(&[early]).await;
    let [active] = &cluster.admin().active_sessions().await.unwrap()[..] else { panic!("there is one") };
    assert!(active.session.started < cluster.now().saturating_add(Duration::from_secs(3600)));
    assert_eq!(active.host_name, node.host.name);
}

#[tokio::test]
async fn only_who_may_ends_a_session_and_nodes_hear_of_it() {
    let cluster = Cluster::new().await;
    role(&cluster, "watch", joins("access", &["*"]), RoleConditions::default()).await;
    let not_root = rule(&[Verb::Any], Some(r#"session.login != "root""#));
    role(&cluster, "ends-others", not_root, RoleConditions::default()).await;
    let alice = cluster.member("alice", &["access"]).await;
    let node = Node::new(&cluster, "web-1", "").await;
    let (root, deploy) = (session(&cluster, &alice, "root"), session(&cluster, &alice, "deploy"));
    node.report(&[root.clone(), deploy.clone()]).await;
    let mut views = node.api.watch_access().await.unwrap();
    assert!(views.next().await.unwrap().unwrap().ended_sessions.is_empty());
    let end = |message: &str| EndSession { message: message.to_owned() };
    for (name, roles, session, expected) in [
        ("stranger", vec!["access"], &root, ApiErrorKind::NotFound),
        ("watcher", vec!["watch"], &root, ApiErrorKind::Denied),
        ("auditor", vec!["auditor"], &root, ApiErrorKind::Denied),
        ("ender", vec!["ends-others", "watch"], &root, ApiErrorKind::Denied),
    ] {
        let user = cluster.member(name, &roles).await;
        let error = cluster.as_user(&user).terminate_session(session.id, end("")).await.unwrap_err();
        assert_eq!(error.kind(), expected, "{name}");
    }
    let ender = cluster.as_user(&cluster.user("ender", &["ends-others", "watch"], &["root"]));
    for bad in ["x".repeat(257), "a\nb".to_owned(), "\u{1b}[2J".to_owned()] {
        let error = ender.terminate_session(deploy.id, end(&bad)).await.unwrap_err();
        assert_eq!(error.kind(), ApiErrorKind::Invalid);
    }
    ender.terminate_session(deploy.id, end("deploy freeze")).await.unwrap();
    let view = views.next().await.unwrap().unwrap();
    let [ended] = &view.ended_sessions[..] else { panic!("there is one") };
    assert_eq!(
        (ended.session, ended.by.as_str(), ended.message.as_str()),
        (deploy.id, "ender", "deploy freeze")
    );
    let event = cluster.audit.last(EventKind::SessionTerminate).unwrap();
    assert_eq!((event.sid, event.user.as_deref()), (Some(deploy.id), Some("ender")));
    assert_eq!(event.fields["session_user"], "alice");
    cluster.clock.advance(Duration::from_secs(601));
    let view = node.api.watch_access().await.unwrap().next().await.unwrap().unwrap();
    assert!(view.ended_sessions.is_empty());
}
