//! Recordings.

use bytes::Bytes;

use super::{ApiFixture, admin, as_host, as_user, fresh_name, host, member, refused, user, uuid};
use crate::api::{ApiErrorKind, RecordingQuery, UpdateUser};
use crate::audit::{AuditQuery, EventKind};
use crate::id::{HostRole, OsLogin, RoleName, SessionId};
use crate::recording::RecordingMeta;

/// The node of the session writes, its user and auditors read.
pub async fn recordings_belong_to_their_host_and_user(fixture: &dyn ApiFixture) {
    let identity = host(fixture, "web-1", HostRole::Node);
    let node = as_host(fixture, &identity);
    let owner = fresh_name(fixture, "erin");
    let session = SessionId::from_uuid(uuid(fixture));
    let meta = RecordingMeta {
        session,
        cluster: fixture.cluster(),
        host_id: identity.host_id,
        host_name: identity.name.clone(),
        user: owner.clone(),
        login: OsLogin::new("root").unwrap(),
        started: fixture.now(),
        command: None,
        terminal: Some((80, 24)),
    };
    node.create_recording(meta.clone()).await.unwrap();
    node.create_recording(meta.clone()).await.unwrap();
    let part = |text: &'static str| Bytes::from_static(text.as_bytes());
    node.put_recording_part(session, 0, part("first ")).await.unwrap();

    let other = host(fixture, "web-2", HostRole::Node);
    let neighbour = as_host(fixture, &other);
    refused(neighbour.create_recording(meta.clone()).await, ApiErrorKind::Denied);
    refused(neighbour.put_recording_part(session, 1, part("forged")).await, ApiErrorKind::Denied);
    refused(neighbour.recording_parts(session).await, ApiErrorKind::Denied);
    refused(neighbour.complete_recording(session, 1).await, ApiErrorKind::Denied);
    let taken = RecordingMeta { host_id: other.host_id, host_name: other.name.clone(), ..meta.clone() };
    refused(neighbour.create_recording(taken).await, ApiErrorKind::Conflict);

    refused(node.put_recording_part(session, 0, part("other bytes")).await, ApiErrorKind::Conflict);
    refused(node.complete_recording(session, 2).await, ApiErrorKind::Conflict);
    node.put_recording_part(session, 1, part("second")).await.unwrap();
    assert_eq!(node.recording_parts(session).await.unwrap(), 2);
    node.complete_recording(session, 2).await.unwrap();
    node.complete_recording(session, 2).await.unwrap();
    let unknown = SessionId::from_uuid(uuid(fixture));
    refused(node.recording_parts(unknown).await, ApiErrorKind::NotFound);

    let own = as_user(fixture, user(fixture, owner.as_str(), &["access"], &["root"]));
    let frank = member(fixture, "frank", &["auditor"]).await;
    let auditor = as_user(fixture, frank.clone());
    let stranger = as_user(fixture, user(fixture, "mallory", &["access"], &["root"]));
    let mine = |listed: Vec<crate::recording::RecordingInfo>| {
        listed.into_iter().find(|info| info.meta.session == session)
    };
    for reader in [&own, &auditor] {
        let info = mine(reader.recordings(RecordingQuery::default()).await.unwrap()).expect("it is listed");
        assert_eq!((info.meta.clone(), info.len), (meta.clone(), 12));
        assert!(info.completed.is_some());
        assert_eq!(reader.recording(session).await.unwrap(), info);
        assert_eq!(reader.read_recording(session, 0).await.unwrap(), part("first second"));
        assert_eq!(reader.read_recording(session, 6).await.unwrap(), part("second"));
        assert!(reader.read_recording(session, 12).await.unwrap().is_empty());
    }
    assert!(mine(stranger.recordings(RecordingQuery::default()).await.unwrap()).is_none());
    let hidden = refused(stranger.read_recording(session, 0).await, ApiErrorKind::NotFound);
    let absent = refused(stranger.read_recording(unknown, 0).await, ApiErrorKind::NotFound);
    refused(stranger.recording(session).await, ApiErrorKind::NotFound);
    refused(auditor.recording(unknown).await, ApiErrorKind::NotFound);
    refused(node.recording(session).await, ApiErrorKind::Denied);
    let erased = |text: &str, id: SessionId| text.replace(&id.to_string(), "ID");
    assert_eq!(erased(hidden.message(), session), erased(absent.message(), unknown));
    refused(node.read_recording(session, 0).await, ApiErrorKind::Denied);

    let query = AuditQuery { session: Some(session.to_string()), ..AuditQuery::default() };
    let events = admin(fixture).search_events(query).await.unwrap().events;
    let count = |kind| events.iter().filter(|event| event.code == kind).count();
    assert_eq!(count(EventKind::SessionUpload), 1, "completed twice, uploaded once");
    assert_eq!(count(EventKind::SessionUploadFailure), 1, "what did not fit");
    assert_eq!(count(EventKind::RecordingAccess), 4, "one for each piece that was read, wherever it begins");

    // Who is no auditor any more reads no sessions of others, however long the certificate lasts.
    let roles = Some(vec![RoleName::new("access").unwrap()]);
    let request = UpdateUser { roles, ..UpdateUser::default() };
    admin(fixture).update_user(frank.user.clone(), request).await.unwrap();
    refused(auditor.read_recording(session, 0).await, ApiErrorKind::NotFound);
    assert!(mine(auditor.recordings(RecordingQuery::default()).await.unwrap()).is_none());
    // And who is no user any more reads nothing.
    admin(fixture).delete_user(frank.user).await.unwrap();
    refused(auditor.read_recording(session, 0).await, ApiErrorKind::Denied);
}
