//! Deletion, legal hold, and how long recordings are kept.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use teleport_backend::memory::MemoryBackend;
use teleport_core::api::{ApiErrorKind, RecordingApi, RecordingQuery, ResourceApi, RetentionApi};
use teleport_core::audit::EventKind;
use teleport_core::auth::AuthConfig;
use teleport_core::clock::Timestamp;
use teleport_core::entropy::EntropyExt;
use teleport_core::id::{HostRole, SessionId};
use teleport_core::recording::{Completion, Form, RecordingMeta};
use teleport_core::resource::{Role, RoleConditions, RoleSpec, Rule, Verb};
use teleport_core::storage::{BackendExt, Key};
use teleport_core::testing::{ManualClock, MemoryRecordings, RepeatableEntropy};

use crate::cluster::{Cluster, at_once};

const HOUR: Duration = Duration::from_secs(3600);

/// A complete recording of `len` bytes that began `age` ago.
async fn recorded(cluster: &Cluster, number: u64, user: &str, age: Duration, len: usize) -> SessionId {
    let meta = begun(cluster, number, user, age, len).await;
    let parts = u32::from(len > 0);
    cluster.ports.recordings.complete(meta.session, &Completion::new(parts, meta.started)).await.unwrap();
    meta.session
}

async fn begun(cluster: &Cluster, number: u64, user: &str, age: Duration, len: usize) -> RecordingMeta {
    let host = cluster.host("web-1", HostRole::Node);
    let meta = RecordingMeta {
        session: SessionId::from_uuid(RepeatableEntropy::new(number).uuid().unwrap()),
        user: user.parse().unwrap(),
        started: cluster.now().saturating_sub(age),
        ..cluster.recording(&host)
    };
    cluster.ports.recordings.create(&meta, &Form::PLAIN).await.unwrap();
    if len > 0 {
        cluster.ports.recordings.put_part(meta.session, 0, Bytes::from(vec![0; len])).await.unwrap();
    }
    meta
}

async fn left(cluster: &Cluster) -> Vec<SessionId> {
    let query = RecordingQuery { from: Some(Timestamp::EPOCH), limit: 1000, ..RecordingQuery::default() };
    let listed = cluster.admin().recordings(query).await.unwrap();
    listed.into_iter().map(|info| info.meta.session).collect()
}

fn allows(name: &str, verbs: &[Verb], condition: Option<&str>) -> Role {
    let rule = Rule {
        resources: vec!["session".to_owned()],
        verbs: verbs.to_vec(),
        condition: condition.map(str::to_owned),
    };
    let allow = RoleConditions { rules: vec![rule], ..RoleConditions::default() };
    Role::new(name, RoleSpec { allow, ..RoleSpec::default() })
}

fn refused<T: std::fmt::Debug>(
    result: Result<T, teleport_core::api::ApiError>,
    kind: ApiErrorKind,
) -> String {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    error.to_string()
}

#[tokio::test]
async fn what_is_deleted_is_in_the_audit_log_before_it_is_gone() {
    let cluster = Cluster::new().await;
    let session = recorded(&cluster, 1, "alice", HOUR, 1234).await;
    cluster.audit.set_broken(true);
    refused(cluster.admin().delete_recording(session, None).await, ApiErrorKind::Unavailable);
    cluster.audit.set_broken(false);
    assert_eq!(left(&cluster).await, [session], "what cannot be written down is not done");
    cluster.admin().delete_recording(session, Some("case 7 is closed".to_owned())).await.unwrap();
    assert!(left(&cluster).await.is_empty());
    let event = cluster.audit.last(EventKind::RecordingDelete).unwrap();
    let text = serde_json::to_string(&event).unwrap();
    for said in [&session.to_string(), "case 7 is closed", "\"session_user\":\"alice\"", "1234"] {
        assert!(text.contains(said), "{said} in {text}");
    }
    refused(cluster.admin().delete_recording(session, None).await, ApiErrorKind::NotFound);
    refused(cluster.admin().hold_recording(session, None).await, ApiErrorKind::NotFound);
    let long = Some("x".repeat(501));
    refused(cluster.admin().delete_recording(session, long).await, ApiErrorKind::Invalid);
    // What is still coming is not deleted under the node that sends it.
    let coming = begun(&cluster, 2, "alice", HOUR, 10).await.session;
    let text = refused(cluster.admin().delete_recording(coming, None).await, ApiErrorKind::Conflict);
    assert!(text.contains("not complete"), "{text}");
}

#[tokio::test]
async fn what_is_held_stays() {
    let cluster = Cluster::with(|config: &mut AuthConfig| config.retention.max_age = Some(HOUR)).await;
    let session = recorded(&cluster, 1, "alice", HOUR * 5, 10).await;
    let admin = cluster.admin();
    let held = admin.hold_recording(session, Some("lawsuit".to_owned())).await.unwrap().hold.unwrap();
    assert_eq!((held.reason.as_deref(), held.since), (Some("lawsuit"), cluster.now()));
    cluster.clock.advance(HOUR);
    let again = admin.hold_recording(session, Some("another".to_owned())).await.unwrap().hold.unwrap();
    assert_eq!(again, held, "the first one stays");
    let text = refused(admin.delete_recording(session, None).await, ApiErrorKind::Conflict);
    assert!(text.contains("lawsuit") && text.contains("tctl recordings release"), "{text}");
    assert_eq!(cluster.audit.count(EventKind::RecordingDeleteFailure), 1);
    let swept = cluster.auth.sweep_recordings().await.unwrap();
    assert_eq!((swept.deleted, swept.held), (0, 1));
    let query = RecordingQuery { from: Some(Timestamp::EPOCH), ..RecordingQuery::default() };
    assert_eq!(admin.recordings(query).await.unwrap()[0].hold, Some(held));
    admin.release_recording(session, Some("settled".to_owned())).await.unwrap();
    refused(admin.release_recording(session, None).await, ApiErrorKind::Conflict);
    for (kind, reason) in [(EventKind::RecordingHold, "lawsuit"), (EventKind::RecordingRelease, "settled")] {
        assert_eq!(cluster.audit.count(kind), 1);
        assert!(serde_json::to_string(&cluster.audit.last(kind)).unwrap().contains(reason));
    }
    assert_eq!(cluster.auth.sweep_recordings().await.unwrap().deleted, 1);
    let event = serde_json::to_string(&cluster.audit.last(EventKind::RecordingDelete)).unwrap();
    assert!(event.contains("retention: too old"), "{event}");
    assert!(left(&cluster).await.is_empty());
}

/// One that the store does not let go of keeps no other, and is told of once.
#[tokio::test]
async fn what_cannot_be_deleted_keeps_no_other_recording() {
    let clock = Arc::new(ManualClock::default());
    let backend = Arc::new(MemoryBackend::new(clock.clone()));
    let store = Arc::new(MemoryRecordings::new());
    let keep = |config: &mut AuthConfig| config.retention.max_age = Some(HOUR);
    let cluster = Cluster::storing(backend, clock, store.clone(), keep).await;
    let stuck = recorded(&cluster, 1, "alice", HOUR * 3, 10).await;
    store.refuse_to_delete(stuck);
    let swept = cluster.auth.sweep_recordings().await.unwrap();
    assert_eq!((swept.deleted, swept.failed), (0, 1));
    for number in 2..5 {
        recorded(&cluster, number, "alice", HOUR * 3, 10).await;
        let swept = cluster.auth.sweep_recordings().await.unwrap();
        assert_eq!((swept.deleted, swept.failed), (1, 2), "{swept:?}");
    }
    assert_eq!(left(&cluster).await, [stuck]);
    assert_eq!(cluster.audit.count(EventKind::RecordingDelete), 4);
}

/// Nobody would ever learn who holds it and since when.
#[tokio::test]
async fn a_hold_that_cannot_be_written_down_is_not_given() {
    let cluster = Cluster::new().await;
    let session = recorded(&cluster, 1, "alice", HOUR, 10).await;
    cluster.audit.set_broken(true);
    refused(cluster.admin().hold_recording(session, None).await, ApiErrorKind::Unavailable);
    cluster.audit.set_broken(false);
    let held = cluster.admin().hold_recording(session, Some("lawsuit".to_owned())).await.unwrap();
    assert_eq!(held.hold.unwrap().reason.as_deref(), Some("lawsuit"));
    assert_eq!(cluster.audit.count(EventKind::RecordingHold), 1);
}

/// The own ones too: who may delete what was recorded of them was not recorded.
#[tokio::test]
async fn users_delete_and_hold_by_rules_alone() {
    let cluster = Cluster::new().await;
    let admin = cluster.admin();
    for role in [
        allows("reader", &[Verb::List, Verb::Read], None),
        allows("deleter", &[Verb::List, Verb::Read, Verb::Delete], Some(r#"session.login == "root""#)),
        allows("blind", &[Verb::Delete], Some(r#"session.login == "nobody""#)),
        allows("holder", &[Verb::List, Verb::Read, Verb::Update], None),
    ] {
        admin.create_role(role).await.unwrap();
    }
    let session = recorded(&cluster, 1, "alice", HOUR, 10).await;
    for (name, roles, expected) in [
        ("alice", vec!["access"], ApiErrorKind::Denied),
        ("rita", vec!["reader"], ApiErrorKind::Denied),
        ("holly", vec!["holder"], ApiErrorKind::Denied),
        ("bob", vec!["access"], ApiErrorKind::NotFound),
        ("blake", vec!["blind"], ApiErrorKind::NotFound),
    ] {
        let identity = cluster.member(name, &roles).await;
        let denied = cluster.audit.count(EventKind::ApiDenied);
        refused(cluster.as_user(&identity).delete_recording(session, None).await, expected);
        assert_eq!(cluster.audit.count(EventKind::ApiDenied), denied + 1, "{name}");
        let hold = cluster.as_user(&identity).hold_recording(session, None).await;
        assert_eq!(hold.is_ok(), name == "holly", "{name}: {hold:?}");
        let rewrap = cluster.as_user(&identity).rewrap_recording(session).await;
        assert_eq!(rewrap.is_ok(), name == "holly", "{name}: {rewrap:?}");
        if name == "holly" {
            cluster.as_user(&identity).release_recording(session, None).await.unwrap();
        }
    }
    let node = cluster.host("web-1", HostRole::Node);
    assert_eq!(left(&cluster).await, [session]);
    let dora = cluster.member("dora", &["deleter"]).await;
    cluster.as_user(&dora).delete_recording(session, None).await.unwrap();
    assert!(left(&cluster).await.is_empty());
    let event = serde_json::to_string(&cluster.audit.last(EventKind::RecordingDelete)).unwrap();
    assert!(event.contains("\"user\":\"dora\""), "{event}");
    // A host has nothing to delete, not even what it has recorded.
    let other = recorded(&cluster, 2, "alice", HOUR, 10).await;
    let host = cluster.as_host(&node);
    refused(host.delete_recording(other, None).await, ApiErrorKind::Denied);
}

#[tokio::test]
async fn old_recordings_go_and_the_oldest_make_room() {
    for (max_age, max_size, expected) in [
        (None, None, 10),
        (Some(HOUR * 7 / 2), None, 4),
        (None, Some(350), 3),
        (None, Some(50), 0),
        (Some(HOUR * 5), Some(450), 4),
        (Some(HOUR * 2), Some(100_000), 3),
    ] {
        let cluster = Cluster::with(|config: &mut AuthConfig| {
            config.retention.max_age = max_age;
            config.retention.max_size = max_size;
        })
        .await;
        let mut all = Vec::new();
        for number in 0..10 {
            all.push(recorded(&cluster, number, "alice", HOUR * number as u32, 100).await);
        }
        let coming = begun(&cluster, 99, "alice", HOUR * 20, 1).await.session;
        let swept = cluster.auth.sweep_recordings().await.unwrap();
        let kept = left(&cluster).await;
        assert_eq!(kept[..expected], all[..expected], "{max_age:?} {max_size:?}");
        assert_eq!(kept[expected..], [coming], "what is not complete stays");
        assert_eq!((swept.deleted, swept.more), (10 - expected, false));
        assert_eq!(cluster.audit.count(EventKind::RecordingDelete), swept.deleted);
        assert_eq!(cluster.auth.sweep_recordings().await.unwrap().deleted, 0, "it is enough");
    }
}

/// The newest that fit stay, not the smallest.
#[tokio::test]
async fn a_long_recording_does_not_go_before_older_ones() {
    let cluster = Cluster::with(|config: &mut AuthConfig| config.retention.max_size = Some(1150)).await;
    let mut all = Vec::new();
    for (number, len) in (0..).zip([100, 1000, 100, 20]) {
        all.push(recorded(&cluster, number, "alice", HOUR * number as u32, len).await);
    }
    assert_eq!(cluster.auth.sweep_recordings().await.unwrap().deleted, 2);
    assert_eq!(left(&cluster).await, all[..2]);
}

#[tokio::test]
async fn a_sweep_has_an_end_and_the_next_one_goes_on() {
    let cluster = Cluster::with(|config: &mut AuthConfig| config.retention.max_age = Some(HOUR)).await;
    for number in 0..1203 {
        recorded(&cluster, number, "alice", HOUR * 2, 0).await;
    }
    let first = cluster.auth.sweep_recordings().await.unwrap();
    assert_eq!((first.deleted, first.more), (1000, true));
    let second = cluster.auth.sweep_recordings().await.unwrap();
    assert_eq!((second.deleted, second.more), (203, false));
}

/// Killed after the decision and before the event, after the event, and after the removal: the next service finishes it, and the
/// deletion is in the log whatever happened.
#[tokio::test]
async fn a_deletion_that_was_interrupted_is_finished() {
    for removed in [false, true] {
        let cluster = Cluster::new().await;
        let session = recorded(&cluster, 1, "alice", HOUR, 10).await;
        let fate = format!(
            r#"{{"session":"{session}","fate":{{"deleting":{{"reason":"asked for","told":false}}}}}}"#
        );
        let key = Key::new(&format!("recording-fates/{session}")).unwrap();
        cluster.backend.put(&key, fate.into_bytes().into(), None).await.unwrap();
        if removed {
            cluster.ports.recordings.delete(session).await.unwrap();
        } else {
            let text = refused(cluster.admin().hold_recording(session, None).await, ApiErrorKind::Conflict);
            assert!(text.contains("is being deleted"), "{text}");
        }
        assert_eq!(cluster.second().sweep_recordings().await.unwrap().deleted, 1);
        assert!(left(&cluster).await.is_empty());
        assert_eq!(cluster.audit.count(EventKind::RecordingDelete), usize::from(!removed));
        assert!(cluster.backend.get(&key).await.unwrap().is_none(), "nothing is left to do");
    }
}

/// One of the two comes first, and then the other one is refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_hold_and_a_deletion_exclude_each_other() {
    let cluster = Cluster::new().await;
    let (mut held, mut deleted) = (0, 0);
    for number in 0..40 {
        let session = recorded(&cluster, number, "alice", HOUR, 10).await;
        let services = [cluster.auth.clone(), cluster.second(), cluster.second()];
        let tasks = services.into_iter().enumerate().map(|(index, auth)| {
            let admin = auth.acting_as(teleport_core::auth::Caller::LocalAdmin);
            async move {
                if index == (number % 3) as usize {
                    (true, admin.hold_recording(session, None).await.is_ok())
                } else {
                    (false, admin.delete_recording(session, None).await.is_ok())
                }
            }
        });
        let outcomes = at_once(tasks).await;
        let is_held = outcomes.contains(&(true, true));
        let is_there = left(&cluster).await.contains(&session);
        if is_held {
            assert!(is_there, "what is held is there: {outcomes:?}");
            assert!(!outcomes.contains(&(false, true)), "{outcomes:?}");
            held += 1;
        } else {
            assert!(!is_there, "{outcomes:?}");
            deleted += 1;
        }
    }
    assert_eq!(held + deleted, 40);
}
