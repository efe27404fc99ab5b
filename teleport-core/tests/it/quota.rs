//! A host that was taken over cannot fill the disk of the auth service with recordings, nor hide them in the list.

use std::time::Duration;

use bytes::Bytes;
use teleport_core::api::{AdminApi, ApiErrorKind, CreateUser, RecordingApi, RecordingQuery};
use teleport_core::audit::EventKind;
use teleport_core::auth::{AuthHandle, Caller};
use teleport_core::cert::{HostIdentity, Identity};
use teleport_core::clock::Timestamp;
use teleport_core::id::HostRole;
use teleport_core::recording::{Form, MAX_PART_LEN, RecordingMeta};

use crate::cluster::{Cluster, at_once};

fn node(cluster: &Cluster) -> (HostIdentity, AuthHandle) {
    let mut host = cluster.host("web-1", HostRole::Node);
    host.expires = cluster.now().saturating_add(Duration::from_secs(30 * 86_400));
    let api = cluster.as_host(&host);
    (host, api)
}

fn part(len: usize) -> Bytes {
    vec![b'x'; len].into()
}

#[tokio::test]
async fn a_host_hands_in_so_many_bytes_a_day() {
    const MIB: usize = 1 << 20;
    let cluster = Cluster::with(|config| config.recordings.host_day_bytes = 3 << 20).await;
    let (host, api) = node(&cluster);
    let first = cluster.recording(&host);
    api.create_recording(first.clone()).await.unwrap();
    api.put_recording_part(first.session, 0, part(MIB)).await.unwrap();
    // Half a day's is one user's: somebody else takes the other half.
    let second = RecordingMeta { user: "bob".parse().unwrap(), ..cluster.recording(&host) };
    api.create_recording(second.clone()).await.unwrap();
    api.put_recording_part(second.session, 0, part(MIB)).await.unwrap();
    // What the description takes is counted, too.
    let first = RecordingMeta { user: "carol".parse().unwrap(), ..cluster.recording(&host) };
    api.create_recording(first.clone()).await.unwrap();
    let mut refused = Vec::new();
    for number in 0..3 {
        let user = format!("dave-{number}").parse().unwrap();
        let third = RecordingMeta { user, ..cluster.recording(&host) };
        api.create_recording(third.clone()).await.unwrap();
        refused.push(api.put_recording_part(first.session, 0, part(MIB)).await.unwrap_err());
        // An auth service that starts anew or stands beside has the same limit.
        let other = cluster.second().acting_as(Caller::Identity(Identity::Host(host.clone()), None));
        refused.push(other.put_recording_part(third.session, 0, part(MIB)).await.unwrap_err());
    }
    for error in refused {
        assert_eq!(error.kind(), ApiErrorKind::TooMany, "so the node keeps its spool and comes again");
        assert!(
            error.message().contains("3145728 bytes") && error.message().contains("limit for a day"),
            "{error}"
        );
    }
    assert_eq!(cluster.audit.count(EventKind::SessionUploadFailure), 1, "one for the day");
    let event = cluster.audit.last(EventKind::SessionUploadFailure).unwrap();
    assert_eq!(event.server_id, Some(host.host_id));
    assert!(event.error.unwrap().contains("3145728 bytes"));

    // Others are not concerned.
    let (other, other_api) = node(&cluster);
    let its = cluster.recording(&other);
    other_api.create_recording(its.clone()).await.unwrap();
    other_api.put_recording_part(its.session, 0, part(MIB)).await.unwrap();

    // What is begun can be ended, and the next day brings new room.
    assert_eq!(api.recording_parts(first.session).await.unwrap(), 0);
    cluster.clock.advance(Duration::from_secs(86_400));
    api.create_recording(first.clone()).await.unwrap();
    api.put_recording_part(first.session, 0, part(MIB)).await.unwrap();
    api.complete_recording(first.session, 1).await.unwrap();
}

/// Who shows endless output has no say over the recordings of others.
#[tokio::test]
async fn one_user_has_half_of_what_a_host_hands_in() {
    const MIB: usize = 1 << 20;
    let cluster = Cluster::with(|config| config.recordings.host_day_bytes = 8 << 20).await;
    let (host, api) = node(&cluster);
    let mut taken = 0;
    // Over as many sessions as she likes.
    for _ in 0..6 {
        let alice = cluster.recording(&host);
        api.create_recording(alice.clone()).await.unwrap();
        match api.put_recording_part(alice.session, 0, part(MIB)).await {
            Ok(()) => taken += 1,
            Err(error) => {
                assert_eq!(error.kind(), ApiErrorKind::TooMany);
                assert!(error.message().contains("of alice on this host"), "{error}");
            }
        }
    }
    assert_eq!(taken, 4);
    assert_eq!(cluster.audit.count(EventKind::SessionUploadFailure), 1, "one for the day");
    let bob = RecordingMeta { user: "bob".parse().unwrap(), ..cluster.recording(&host) };
    api.create_recording(bob.clone()).await.unwrap();
    for number in 0..3 {
        api.put_recording_part(bob.session, number, part(MIB)).await.unwrap();
    }
    api.complete_recording(bob.session, 3).await.unwrap();
}

/// Empty ones cost little, but not nothing.
#[tokio::test]
async fn a_host_begins_so_many_recordings_a_day() {
    let cluster = Cluster::with(|config| config.recordings.host_day_recordings = 100).await;
    let (host, api) = node(&cluster);
    for _ in 0..100 {
        let meta = cluster.recording(&host);
        api.create_recording(meta.clone()).await.unwrap();
        // An upload that goes on is no new recording.
        api.create_recording(meta).await.unwrap();
    }
    for _ in 0..2 {
        let error = api.create_recording(cluster.recording(&host)).await.unwrap_err();
        assert_eq!(error.kind(), ApiErrorKind::TooMany);
        assert!(error.message().contains("100 recordings"), "{error}");
    }
    assert_eq!(cluster.audit.count(EventKind::SessionUploadFailure), 1);
}

#[tokio::test]
async fn many_tiny_parts_cost_what_they_occupy() {
    let cluster = Cluster::with(|config| config.recordings.host_day_bytes = 2 * 100 * 4096).await;
    let (host, api) = node(&cluster);
    let first = cluster.recording(&host);
    api.create_recording(first.clone()).await.unwrap();
    for number in 0..100 {
        api.put_recording_part(first.session, number, part(1)).await.unwrap();
    }
    let error = api.put_recording_part(first.session, 100, part(1)).await.unwrap_err();
    assert_eq!(error.kind(), ApiErrorKind::TooMany);
}

#[tokio::test]
async fn empty_recordings_cost_what_they_occupy() {
    let cluster = Cluster::with(|config| config.recordings.host_day_bytes = 10 * 16_384).await;
    let (host, api) = node(&cluster);
    for _ in 0..10 {
        api.create_recording(cluster.recording(&host)).await.unwrap();
    }
    let error = api.create_recording(cluster.recording(&host)).await.unwrap_err();
    assert_eq!(error.kind(), ApiErrorKind::TooMany);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_limit_holds_for_uploads_at_the_same_time() {
    let cluster = Cluster::with(|config| config.recordings.host_day_recordings = 50).await;
    let (host, _) = node(&cluster);
    let services = [cluster.auth.clone(), cluster.second()];
    let attempts = (0..120).map(|number| {
        let api = services[number % 2].acting_as(Caller::Identity(Identity::Host(host.clone()), None));
        let meta = cluster.recording(&host);
        async move { api.create_recording(meta).await }
    });
    let outcomes = at_once(attempts).await;
    let taken = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    assert!(taken <= 50, "{taken}");
    // One of two services may sit on what it has reserved.
    assert!(taken > 0);
    for error in outcomes.into_iter().filter_map(Result::err) {
        assert_eq!(error.kind(), ApiErrorKind::TooMany, "{error}");
    }
}

#[tokio::test]
async fn a_recording_has_an_end() {
    let limit = 2 * MAX_PART_LEN + 10;
    let cluster = Cluster::with(|config| config.recordings.recording_bytes = limit as u64).await;
    let (host, api) = node(&cluster);
    let first = cluster.recording(&host);
    api.create_recording(first.clone()).await.unwrap();
    api.put_recording_part(first.session, 0, part(MAX_PART_LEN)).await.unwrap();
    api.put_recording_part(first.session, 1, part(MAX_PART_LEN)).await.unwrap();
    for (number, len) in [(2, 11), (2, MAX_PART_LEN), (3, 1), (999_999, 1)] {
        let error = api.put_recording_part(first.session, number, part(len)).await.unwrap_err();
        assert_eq!(error.kind(), ApiErrorKind::Invalid, "asking again is of no use");
        assert!(error.message().contains(&limit.to_string()), "{error}");
    }
    assert_eq!(cluster.audit.count(EventKind::SessionUploadFailure), 1, "one for the recording");
    assert_eq!(cluster.audit.last(EventKind::SessionUploadFailure).unwrap().sid, Some(first.session));
    api.put_recording_part(first.session, 2, part(10)).await.unwrap();
    api.complete_recording(first.session, 3).await.unwrap();
}

#[tokio::test]
async fn a_recording_began_when_that_can_be_believed() {
    let cluster = Cluster::new().await;
    let (host, api) = node(&cluster);
    let (now, hour) = (cluster.now(), Duration::from_secs(3600));
    let month = 30 * 24 * hour;
    let cases = [
        (Timestamp::EPOCH, now.saturating_sub(month)),
        (now.saturating_sub(month + hour), now.saturating_sub(month)),
        (now.saturating_sub(month - hour), now.saturating_sub(month - hour)),
        (now, now),
        (now.saturating_add(Duration::from_secs(60)), now.saturating_add(Duration::from_secs(60))),
        (now.saturating_add(hour), now),
        (Timestamp::MAX, now),
    ];
    for (said, listed) in cases {
        let meta = RecordingMeta { started: said, ..cluster.recording(&host) };
        api.create_recording(meta.clone()).await.unwrap();
        // An upload that goes on later does not move it.
        cluster.clock.advance(Duration::from_secs(120));
        api.create_recording(meta.clone()).await.unwrap();
        cluster.clock.set(now);
        let query = RecordingQuery { from: Some(Timestamp::EPOCH), limit: 1000, ..RecordingQuery::default() };
        let all = cluster.admin().recordings(query).await.unwrap();
        let info = all.iter().find(|info| info.meta.session == meta.session).unwrap();
        assert_eq!(info.meta.started, listed, "{said}");
    }
}

/// The own recordings are found among those of others, which nobody looks through.
#[tokio::test]
async fn the_own_recordings_are_found_however_many_others_have() {
    let cluster = Cluster::new().await;
    let (host, api) = node(&cluster);
    let own = cluster.recording(&host);
    api.create_recording(own.clone()).await.unwrap();
    for later in 1..=60_000 {
        let started = cluster.now().saturating_add(Duration::from_millis(later));
        let other = RecordingMeta { user: "bob".parse().unwrap(), started, ..cluster.recording(&host) };
        cluster.ports.recordings.create(&other, &Form::PLAIN).await.unwrap();
    }
    let alice = CreateUser {
        name: "alice".parse().unwrap(),
        roles: vec!["access".parse().unwrap()],
        logins: Vec::new(),
        ttl: None,
    };
    cluster.admin().create_user(alice).await.unwrap();
    let alice = cluster.as_user(&cluster.user("alice", &["access"], &["root"]));
    let listed = alice.recordings(RecordingQuery { limit: 5, ..RecordingQuery::default() }).await.unwrap();
    assert_eq!(listed.iter().map(|info| info.meta.session).collect::<Vec<_>>(), [own.session]);
}
