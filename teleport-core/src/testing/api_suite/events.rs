//! The audit log.

use super::{ApiFixture, admin, as_host, as_user, host, member, refused, user, uuid};
use crate::api::ApiErrorKind;
use crate::audit::{AuditEvent, AuditQuery, EventKind};
use crate::clock::Timestamp;
use crate::id::{HostRole, NodeName, SessionId};

/// H3: a host reports about its own sessions only.
pub async fn sessions_are_reported_by_their_own_host(fixture: &dyn ApiFixture) {
    let (here, there) = (host(fixture, "web-1", HostRole::Node), host(fixture, "web-2", HostRole::Node));
    let (node, other) = (as_host(fixture, &here), as_host(fixture, &there));
    let session = SessionId::from_uuid(uuid(fixture));
    let event = |kind| AuditEvent::new(kind).user("alice").session(session);
    node.emit_events(vec![event(EventKind::SessionStart)]).await.unwrap();
    for kind in [EventKind::SessionStart, EventKind::Exec, EventKind::SessionEnd, EventKind::SessionRejected]
    {
        let among_others = vec![AuditEvent::new(EventKind::AuthFailure), event(kind)];
        refused(other.emit_events(among_others).await, ApiErrorKind::Denied);
    }
    node.emit_events(vec![event(EventKind::Exec), event(EventKind::SessionEnd)]).await.unwrap();
    let own = SessionId::from_uuid(uuid(fixture));
    other.emit_events(vec![AuditEvent::new(EventKind::SessionStart).session(own)]).await.unwrap();

    let query = AuditQuery { session: Some(session.to_string()), ..AuditQuery::default() };
    let written = admin(fixture).search_events(query).await.unwrap().events;
    assert_eq!(written.len(), 3, "{written:?}");
    assert!(written.iter().all(|event| event.server_id == Some(here.host_id)), "{written:?}");
}

/// H3: what a host says of its own name, of the time and of the cluster does not count.
pub async fn events_carry_who_reports_them(fixture: &dyn ApiFixture) {
    let identity = host(fixture, "web-1", HostRole::Node);
    let node = as_host(fixture, &identity);
    let session = SessionId::from_uuid(uuid(fixture));
    let forged = uuid(fixture);
    let mut event = AuditEvent::new(EventKind::SessionStart)
        .user("alice")
        .session(session)
        .server(super::host_id(fixture), &NodeName::new("other").unwrap())
        .field("command", "uptime");
    event.uid = forged;
    event.time = Timestamp::EPOCH;
    event.cluster_name = "other.example".to_owned();
    event.event = "user.login".to_owned();
    event.success = Some(false);
    let before = fixture.now();
    node.emit_events(vec![event.clone()]).await.unwrap();

    let query = AuditQuery { session: Some(session.to_string()), ..AuditQuery::default() };
    let frank = member(fixture, "frank", &["auditor"]).await;
    let auditor = as_user(fixture, frank.clone());
    let found = auditor.search_events(query.clone()).await.unwrap().events;
    let [written] = found.as_slice() else { panic!("one event was expected, not {found:?}") };
    assert_eq!(written.event, "session.start");
    assert_eq!(written.server_id, Some(identity.host_id));
    assert_eq!(written.server_hostname.as_ref(), Some(&identity.name));
    assert_eq!(written.cluster_name, fixture.cluster().as_str());
    assert_eq!((written.success, written.user.as_deref()), (Some(true), Some("alice")));
    assert!(written.uid != forged && !written.uid.is_nil());
    assert!(written.time >= before && written.time <= fixture.now());
    assert_eq!(written.fields["command"], "uptime");

    // What the auth service alone can know, nobody else reports; then nothing of the report is written.
    let proxy = as_host(fixture, &host(fixture, "proxy-1", HostRole::Proxy));
    for (reporter, kind) in [
        (&node, EventKind::UserLogin),
        (&node, EventKind::CertCreate),
        (&node, EventKind::InstanceJoin),
        (&node, EventKind::RecordingAccess),
        (&proxy, EventKind::SessionStart),
        (&proxy, EventKind::Exec),
    ] {
        let report = vec![AuditEvent::new(EventKind::Port).session(session), AuditEvent::new(kind)];
        refused(reporter.emit_events(report).await, ApiErrorKind::Denied);
    }
    let huge: String = "x".repeat(4000);
    let huge = (0..40).fold(event, |event, number| event.field(&format!("field{number}"), huge.as_str()));
    refused(node.emit_events(vec![huge]).await, ApiErrorKind::Invalid);
    let after = admin(fixture).search_events(query.clone()).await.unwrap().events;
    assert_eq!(after.len(), 1, "a refused report leaves nothing");

    let person = as_user(fixture, user(fixture, "alice", &["access"], &["root"]));
    refused(person.emit_events(Vec::new()).await, ApiErrorKind::Denied);
    refused(person.search_events(query.clone()).await, ApiErrorKind::Denied);
    admin(fixture).delete_user(frank.user).await.unwrap();
    refused(auditor.search_events(query).await, ApiErrorKind::Denied);
}
