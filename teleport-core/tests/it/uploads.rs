//! Recordings on their way: what is streamed, what is abandoned, what does not fit.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use teleport_backend::memory::MemoryBackend;
use teleport_backend::wrap::FaultBackend;
use teleport_core::api::{
    AdminApi, ApiErrorKind, ApiResult, AuditApi, PresenceApi, RecordingApi, RecordingQuery, RunningSession,
    SessionReport, SessionReportApi,
};
use teleport_core::audit::{AuditEvent, EventKind};
use teleport_core::auth::{AuthHandle, AuthService, Caller, Ports};
use teleport_core::cert::{HostIdentity, Identity};
use teleport_core::id::{HostRole, SessionId};
use teleport_core::label::Labels;
use teleport_core::recording::{MAX_PART_LEN, RecordingInfo, RecordingMeta};
use teleport_core::resource::NodeRecord;
use teleport_core::testing::{ManualClock, MemoryRecordings};

use crate::cluster::Cluster;

const PART: u64 = MAX_PART_LEN as u64;

fn node(cluster: &Cluster) -> (HostIdentity, AuthHandle) {
    let mut host = cluster.host("web-1", HostRole::Node);
    host.expires = cluster.now().saturating_add(Duration::from_secs(60 * 86_400));
    let api = cluster.as_host(&host);
    (host, api)
}

async fn announce(api: &AuthHandle, host: &HostIdentity) {
    let record = NodeRecord {
        host_id: host.host_id,
        name: host.name.clone(),
        address: "192.0.2.7:3022".to_owned(),
        labels: Labels::default(),
        sub_kind: teleport_core::resource::NodeKind::Teleport,
        proxy_ids: Vec::new(),
        version: "1".to_owned(),
    };
    api.announce_node(record).await.unwrap();
}

fn bytes(fill: u8, len: usize) -> Bytes {
    vec![fill; len].into()
}

async fn content(cluster: &Cluster, session: SessionId) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let piece = cluster.admin().read_recording(session, all.len() as u64).await.unwrap();
        if piece.is_empty() {
            return all;
        }
        all.extend_from_slice(&piece);
    }
}

async fn listed(cluster: &Cluster, session: SessionId) -> RecordingInfo {
    let query =
        RecordingQuery { from: Some(teleport_core::clock::Timestamp::EPOCH), ..RecordingQuery::default() };
    let all = cluster.admin().recordings(query).await.unwrap();
    all.into_iter().find(|info| info.meta.session == session).unwrap()
}

async fn stored_pieces(cluster: &Cluster) -> usize {
    use teleport_core::storage::{BackendExt, Prefix};
    cluster.backend.list(&Prefix::new("recording-tails").unwrap()).await.unwrap().len()
}

fn conflict(outcome: ApiResult<()>) {
    assert_eq!(outcome.unwrap_err().kind(), ApiErrorKind::Conflict);
}

#[tokio::test]
async fn what_is_streamed_is_there_at_once_and_becomes_a_part() {
    let cluster = Cluster::new().await;
    let (host, api) = node(&cluster);
    let one = cluster.recording(&host);
    let session = one.session;
    api.create_recording(one.clone()).await.unwrap();
    api.stream_recording(session, 0, bytes(1, 10)).await.unwrap();
    api.stream_recording(session, 10, bytes(2, 5)).await.unwrap();
    // The answer was lost.
    api.stream_recording(session, 10, bytes(2, 5)).await.unwrap();
    let expected = [vec![1; 10], vec![2; 5]].concat();
    assert_eq!(content(&cluster, session).await, expected);
    assert_eq!(api.recording_parts(session).await.unwrap(), 0, "no part is whole");

    // Another service goes on where this one was, and back.
    let other = cluster.second().acting_as(Caller::Identity(Identity::Host(host.clone()), None));
    other.stream_recording(session, 15, bytes(3, 5)).await.unwrap();
    api.stream_recording(session, 20, bytes(4, 5)).await.unwrap();
    other.stream_recording(session, 25, bytes(5, 5)).await.unwrap();
    assert_eq!(content(&cluster, session).await.len(), 30);

    // Sealed: who has the storage reads nothing.
    for item in {
        use teleport_core::storage::{BackendExt, Prefix};
        cluster.backend.list(&Prefix::new("recording-tails").unwrap()).await.unwrap()
    } {
        let plain = |fill: u8| item.value.windows(5).any(|piece| piece == [fill; 5]);
        assert!(!(1..=5).any(plain), "{}", item.key);
    }

    // The whole part replaces the pieces, and begins with them: what was taken once is neither changed nor cut.
    let streamed = content(&cluster, session).await;
    conflict(api.put_recording_part(session, 0, bytes(9, MAX_PART_LEN)).await);
    conflict(api.put_recording_part(session, 0, streamed[..29].to_vec().into()).await);
    conflict(api.complete_recording(session, 0).await);
    assert_eq!(content(&cluster, session).await, streamed);
    let mut whole = streamed;
    whole.resize(MAX_PART_LEN, 9);
    api.put_recording_part(session, 0, whole.clone().into()).await.unwrap();
    // What is sent late changes nothing.
    assert_eq!(stored_pieces(&cluster).await, 0);
    api.stream_recording(session, 30, bytes(6, 5)).await.unwrap();
    assert_eq!(stored_pieces(&cluster).await, 0);
    other.stream_recording(session, 30, bytes(6, 5)).await.unwrap();
    assert_eq!(content(&cluster, session).await, whole);
    other.stream_recording(session, PART, bytes(7, 3)).await.unwrap();
    assert_eq!(content(&cluster, session).await.len(), MAX_PART_LEN + 3);
    // Also for a service that has not seen it taken.
    conflict(api.put_recording_part(session, 1, bytes(8, 4)).await);
    conflict(api.complete_recording(session, 1).await);
    api.put_recording_part(session, 1, bytes(7, 4)).await.unwrap();
    api.complete_recording(session, 2).await.unwrap();
    assert_eq!(stored_pieces(&cluster).await, 0);
    assert_eq!(content(&cluster, session).await.len(), MAX_PART_LEN + 4);
    conflict(api.stream_recording(session, 2 * PART, bytes(8, 1)).await);
}

/// What a host says of a session has a bound, and what it has said stands, however it is called later.
#[tokio::test]
async fn h3_descriptions_have_a_bound_and_do_not_change() {
    let cluster = Cluster::new().await;
    let (host, api) = node(&cluster);
    let mut one = cluster.recording(&host);
    one.command = Some("x".repeat(20_000));
    let error = api.create_recording(one.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ApiErrorKind::Invalid, "{error}");
    let one = one.shortened();
    api.create_recording(one.clone()).await.unwrap();
    let mut renamed = host.clone();
    renamed.name = "another-name".parse().unwrap();
    let renamed = cluster.auth.acting_as(Caller::Identity(Identity::Host(renamed), None));
    renamed.create_recording(one.clone()).await.unwrap();
    renamed.put_recording_part(one.session, 0, bytes(1, 9)).await.unwrap();
    renamed.complete_recording(one.session, 1).await.unwrap();
}

/// Row H3: nobody writes into recordings of others, and what does not fit is refused and written down, once for a recording.
#[tokio::test]
async fn h3_parts_that_do_not_fit_are_refused_and_audited() {
    let cluster = Cluster::new().await;
    let (host, api) = node(&cluster);
    let (_, neighbour) = node(&cluster);
    type Try = (&'static str, ApiErrorKind, u32, u64);
    for (what, kind, part, position) in [
        ("another part with this number", ApiErrorKind::Conflict, 0, u64::MAX),
        ("a piece with a gap before it", ApiErrorKind::Conflict, u32::MAX, PART + 100),
        ("a piece of a part that is far away", ApiErrorKind::Conflict, u32::MAX, 7 * PART),
        ("other bytes than were streamed", ApiErrorKind::Conflict, u32::MAX, PART),
    ] as [Try; 4]
    {
        let one = cluster.recording(&host);
        let session = one.session;
        api.create_recording(one).await.unwrap();
        api.put_recording_part(session, 0, bytes(1, MAX_PART_LEN)).await.unwrap();
        api.stream_recording(session, PART, bytes(1, 10)).await.unwrap();
        let before = cluster.audit.count(EventKind::SessionUploadFailure);
        for _ in 0..3 {
            let outcome = match part {
                u32::MAX => api.stream_recording(session, position, bytes(2, 10)).await,
                part => api.put_recording_part(session, part, bytes(2, MAX_PART_LEN)).await,
            };
            assert_eq!(outcome.unwrap_err().kind(), kind, "{what}");
        }
        assert_eq!(cluster.audit.count(EventKind::SessionUploadFailure), before + 1, "{what}");
        let event = cluster.audit.last(EventKind::SessionUploadFailure).unwrap();
        assert_eq!((event.sid, event.server_id), (Some(session), Some(host.host_id)), "{what}");
        assert_eq!(
            content(&cluster, session).await,
            vec![1; MAX_PART_LEN + 10],
            "{what}: nothing has changed"
        );
        // A part is skipped: it is not taken, for what is before it may never come.
        conflict(api.put_recording_part(session, 2, bytes(3, 10)).await);
        conflict(api.complete_recording(session, 3).await);
        assert!(listed(&cluster, session).await.completed.is_none());
    }
    // Too long, empty, or of nobody.
    let one = cluster.recording(&host);
    let session = one.session;
    api.create_recording(one.clone()).await.unwrap();
    for (position, len) in [(0, 0), (0, (256 << 10) + 1), (PART - 1, 2), (u64::MAX, 1)] {
        let error = api.stream_recording(session, position, bytes(1, len)).await.unwrap_err();
        assert_eq!(error.kind(), ApiErrorKind::Invalid, "{position} {len}");
    }
    let denied = cluster.audit.count(EventKind::ApiDenied);
    let error = neighbour.stream_recording(session, 0, bytes(1, 1)).await.unwrap_err();
    assert_eq!(error.kind(), ApiErrorKind::Denied);
    assert_eq!(neighbour.create_recording(one.clone()).await.unwrap_err().kind(), ApiErrorKind::Denied);
    assert_eq!(cluster.audit.count(EventKind::ApiDenied), denied + 2);
    let unknown = cluster.recording(&host).session;
    assert_eq!(
        api.stream_recording(unknown, 0, bytes(1, 1)).await.unwrap_err().kind(),
        ApiErrorKind::NotFound
    );
    // Who takes an id that is in use hears that it is, and so does the audit log.
    let (thief, as_thief) = node(&cluster);
    let taken = RecordingMeta { host_id: thief.host_id, ..one };
    let before = cluster.audit.count(EventKind::SessionUploadFailure);
    conflict(as_thief.create_recording(taken).await);
    assert_eq!(cluster.audit.count(EventKind::SessionUploadFailure), before + 1);
    assert_eq!(stored_pieces(&cluster).await, 4, "one of each of the first four");
}

/// Row H3: the host's own words about who it is are not believed.
#[tokio::test]
async fn h3_who_recorded_it_is_said_by_the_certificate() {
    let cluster = Cluster::new().await;
    let (host, api) = node(&cluster);
    let (other, _) = node(&cluster);
    let forged = RecordingMeta { host_id: other.host_id, ..cluster.recording(&host) };
    assert_eq!(api.create_recording(forged).await.unwrap_err().kind(), ApiErrorKind::Denied);
    let forged = RecordingMeta { cluster: "other.example".parse().unwrap(), ..cluster.recording(&host) };
    assert_eq!(api.create_recording(forged).await.unwrap_err().kind(), ApiErrorKind::Denied);
    assert_eq!(cluster.audit.count(EventKind::ApiDenied), 2);
    let named = RecordingMeta { host_name: "bank".parse().unwrap(), ..cluster.recording(&host) };
    api.create_recording(named.clone()).await.unwrap();
    assert_eq!(listed(&cluster, named.session).await.meta.host_name, host.name);
}

/// Time passes, with a round of both services each ten seconds.
async fn pass(cluster: &Cluster, services: &[teleport_core::auth::LostUploads], seconds: u64) {
    for _ in 0..seconds / 10 {
        cluster.clock.advance(Duration::from_secs(10));
        let rounds = services.iter().map(|service| service.sweep());
        for round in futures_util::future::join_all(rounds).await {
            round.unwrap();
        }
    }
}

#[tokio::test]
async fn a_recording_whose_node_is_lost_is_abandoned_within_two_minutes_and_goes_on_when_it_is_back() {
    let cluster = Cluster::new().await;
    let (host, api) = node(&cluster);
    announce(&api, &host).await;
    let services = [cluster.auth.lost_uploads(), cluster.second().lost_uploads()];
    let (lost, told, done) = (cluster.recording(&host), cluster.recording(&host), cluster.recording(&host));
    for meta in [&lost, &told, &done] {
        api.create_recording(meta.clone()).await.unwrap();
        api.put_recording_part(meta.session, 0, bytes(1, MAX_PART_LEN)).await.unwrap();
    }
    api.stream_recording(lost.session, PART, bytes(2, 10)).await.unwrap();
    api.complete_recording(done.session, 1).await.unwrap();
    let ended = AuditEvent::new(EventKind::SessionEnd).session(told.session).user("alice");
    api.emit_events(vec![ended]).await.unwrap();
    // As long as the host lives nothing is abandoned, however long nothing comes of its recordings.
    for _ in 0..10 {
        pass(&cluster, &services, 90).await;
        api.keep_alive().await.unwrap();
    }
    let uploads = cluster.audit.count(EventKind::SessionUpload);
    assert!(!listed(&cluster, lost.session).await.abandoned);
    pass(&cluster, &services, 120).await;
    for (meta, ends) in [(&lost, 1), (&told, 1), (&done, 0)] {
        let events = cluster.audit.events();
        let ended = events.iter().filter(|event| event.sid == Some(meta.session));
        let ended: Vec<_> = ended.filter(|event| event.code == EventKind::SessionEnd).collect();
        assert_eq!(ended.len(), ends);
    }
    assert_eq!(
        cluster.audit.count(EventKind::SessionUpload),
        uploads + 2,
        "each once, by one of the services"
    );
    let end = cluster
        .audit
        .events()
        .into_iter()
        .find(|event| event.sid == Some(lost.session) && event.code == EventKind::SessionEnd);
    let end = end.unwrap();
    assert_eq!((end.user.as_deref(), end.server_id), (Some("alice"), Some(host.host_id)));
    assert!(end.fields["reason"].as_str().unwrap().contains("the node was lost"));
    let upload = cluster.audit.last(EventKind::SessionUpload).unwrap();
    assert_eq!((&upload.fields["abandoned"], &upload.fields["parts"]), (&true.into(), &1.into()));
    assert!(
        listed(&cluster, lost.session).await.abandoned && !listed(&cluster, done.session).await.abandoned
    );
    assert_eq!(
        content(&cluster, lost.session).await.len(),
        MAX_PART_LEN + 10,
        "what was acknowledged can be played"
    );
    pass(&cluster, &services, 600).await;
    assert_eq!(cluster.audit.count(EventKind::SessionUpload), uploads + 2, "once for all");

    // The node is back, and nothing that it kept is refused.
    api.keep_alive().await.unwrap();
    api.create_recording(lost.clone()).await.unwrap();
    api.put_recording_part(lost.session, 1, bytes(2, 500)).await.unwrap();
    api.complete_recording(lost.session, 2).await.unwrap();
    let info = listed(&cluster, lost.session).await;
    assert!(info.completed.is_some() && !info.abandoned);
    assert_eq!(content(&cluster, lost.session).await.len(), MAX_PART_LEN + 500);
    assert_eq!(cluster.audit.count(EventKind::SessionUpload), uploads + 3);
    // The other one never is.
    pass(&cluster, &services, 600).await;
    cluster.clock.advance(Duration::from_secs(30 * 86_400));
    pass(&cluster, &services, 20).await;
    let info = listed(&cluster, told.session).await;
    assert!(info.completed.is_some() && info.abandoned, "closed for good, and said to be incomplete");
}

#[tokio::test]
async fn what_a_removed_host_streamed_is_kept() {
    let cluster = Cluster::new().await;
    let (host, api) = node(&cluster);
    announce(&api, &host).await;
    let one = cluster.recording(&host);
    api.create_recording(one.clone()).await.unwrap();
    api.stream_recording(one.session, 0, bytes(1, 100)).await.unwrap();
    let services = [cluster.auth.lost_uploads(), cluster.second().lost_uploads()];
    pass(&cluster, &services, 20).await;
    assert!(!listed(&cluster, one.session).await.abandoned);
    cluster.admin().delete_node(host.host_id).await.unwrap();
    pass(&cluster, &services, 20).await;
    let info = listed(&cluster, one.session).await;
    assert!(info.completed.is_some() && info.abandoned);
    assert_eq!(content(&cluster, one.session).await, vec![1; 100]);
    assert_eq!(stored_pieces(&cluster).await, 0);
    // That it is abandoned, and then what it is for good.
    assert_eq!(cluster.audit.count(EventKind::SessionUpload), 2);
    assert!(cluster.audit.last(EventKind::SessionUpload).unwrap().fields.contains_key("sha256"));
}

/// What a store has behind a gap, as after damage, does not keep a recording from being closed.
#[tokio::test]
async fn an_abandoned_recording_with_a_gap_is_closed_as_far_as_it_is_whole() {
    let cluster = Cluster::new().await;
    let (host, api) = node(&cluster);
    announce(&api, &host).await;
    let one = cluster.recording(&host);
    let session = one.session;
    api.create_recording(one).await.unwrap();
    let store = &cluster.ports.recordings;
    for number in [0, 1, 3, 4] {
        store.put_part(session, number, bytes(number as u8, 100)).await.unwrap();
    }
    cluster.admin().delete_node(host.host_id).await.unwrap();
    pass(&cluster, &[cluster.auth.lost_uploads(), cluster.second().lost_uploads()], 30).await;
    let info = listed(&cluster, session).await;
    assert!(info.completed.is_some() && info.abandoned);
    assert_eq!(content(&cluster, session).await, [vec![0; 100], vec![1; 100]].concat());
    let closed = cluster.audit.last(EventKind::SessionUpload).unwrap();
    assert_eq!((&closed.fields["abandoned"], &closed.fields["parts"]), (&true.into(), &2.into()));
    assert!(closed.fields.contains_key("sha256"));
}

/// Calls that come at once, at one service or two, or after one that was interrupted anywhere: it is written down once.
#[tokio::test]
async fn that_a_recording_is_complete_is_told_once() {
    let clock = Arc::new(ManualClock::default());
    let backend = Arc::new(crate::slow::Slow::new(clock.clone()));
    let cluster = Cluster::over(backend, clock, |_| {}).await;
    let (host, api) = node(&cluster);
    let other = cluster.second().acting_as(Caller::Identity(Identity::Host(host.clone()), None));
    for round in 1..=8 {
        let one = cluster.recording(&host);
        let session = one.session;
        api.create_recording(one).await.unwrap();
        api.put_recording_part(session, 0, bytes(1, 9)).await.unwrap();
        let calls = [&api, &api, &other, &other].map(|api| api.complete_recording(session, 1));
        for outcome in futures_util::future::join_all(calls).await {
            // Who comes in between asks again.
            let known = |error: &teleport_core::api::ApiError| error.kind() == ApiErrorKind::Unavailable;
            assert!(outcome.as_ref().err().is_none_or(known), "{outcome:?}");
        }
        api.complete_recording(session, 1).await.unwrap();
        other.complete_recording(session, 1).await.unwrap();
        assert_eq!(cluster.audit.count(EventKind::SessionUpload), round);
    }
    // The service ended just after it was written down.
    let one = cluster.recording(&host);
    api.create_recording(one.clone()).await.unwrap();
    let key = teleport_core::storage::Key::new(&format!("recording-uploads/{}", one.session)).unwrap();
    let upload = cluster.backend.get(&key).await.unwrap().unwrap();
    api.complete_recording(one.session, 0).await.unwrap();
    let again = teleport_core::storage::Batch::new();
    let again = again.put(key.clone(), teleport_core::storage::Condition::Absent, upload.value, None);
    cluster.backend.commit(again).await.unwrap();
    other.complete_recording(one.session, 0).await.unwrap();
    assert_eq!(cluster.audit.count(EventKind::SessionUpload), 9);
    assert!(cluster.backend.get(&key).await.unwrap().is_none());
    // The service is stopped, by a future that is dropped after so many steps.
    for steps in 0..40 {
        let one = cluster.recording(&host);
        let session = one.session;
        api.create_recording(one).await.unwrap();
        api.put_recording_part(session, 0, bytes(1, 9)).await.unwrap();
        let mut call = api.complete_recording(session, 1);
        for _ in 0..steps {
            if futures_util::poll!(&mut call).is_ready() {
                break;
            }
        }
        drop(call);
        let before = cluster.audit.count(EventKind::SessionUpload);
        cluster.clock.advance(Duration::from_secs(10));
        other.complete_recording(session, 1).await.unwrap();
        let told = cluster.audit.events();
        let told =
            told.iter().filter(|event| event.sid == Some(session) && event.code == EventKind::SessionUpload);
        assert_eq!(told.count(), 1, "after {steps} steps, with {before} before");
    }
}

/// However long it takes until somebody knows that nothing more comes.
#[tokio::test]
async fn what_was_streamed_is_there_until_its_recording_is_closed() {
    let cluster = Cluster::new().await;
    let (host, api) = node(&cluster);
    let day = Duration::from_secs(86_400);
    let one = cluster.recording(&host);
    api.create_recording(one.clone()).await.unwrap();
    api.stream_recording(one.session, 0, bytes(2, 10)).await.unwrap();
    let running = |sessions| SessionReport::of_node(sessions);
    let session = RunningSession {
        id: one.session,
        node: None,
        user: one.user.clone(),
        roles: Vec::new(),
        login: one.login.clone(),
        started: one.started,
        command: None,
        terminal: Some((80, 24)),
        recorded: true,
        participants: Vec::new(),
    };
    // A shell in which nothing happens, of a node that lives.
    cluster.clock.advance(day * 45);
    announce(&api, &host).await;
    api.report_sessions(running(vec![session])).await.unwrap();
    let service = cluster.auth.lost_uploads();
    service.sweep().await.unwrap();
    api.stream_recording(one.session, 10, bytes(3, 10)).await.unwrap();
    // Then the node is gone. The service is started anew now and then.
    api.report_sessions(running(Vec::new())).await.unwrap();
    cluster.clock.advance(day * 29);
    cluster.auth.lost_uploads().sweep().await.unwrap();
    cluster.clock.advance(day * 29);
    let service = cluster.auth.lost_uploads();
    pass(&cluster, std::slice::from_ref(&service), 120).await;
    assert!(listed(&cluster, one.session).await.abandoned);
    assert!(listed(&cluster, one.session).await.completed.is_none());
    cluster.clock.advance(day);
    service.sweep().await.unwrap();
    assert!(listed(&cluster, one.session).await.completed.is_some());
    assert_eq!(content(&cluster, one.session).await, [vec![2; 10], vec![3; 10]].concat());
    assert_eq!(stored_pieces(&cluster).await, 0);
}

/// Else a host makes the service look through its log for nothing.
#[tokio::test]
async fn the_log_is_not_searched_for_a_session_that_nobody_recorded() {
    let cluster = Cluster::new().await;
    let (_, api) = node(&cluster);
    let event =
        AuditEvent::new(EventKind::SessionEnd).session(SessionId::from_uuid(uuid::Uuid::from_u128(7)));
    api.emit_events(vec![event.user("alice").field("recovered", true)]).await.unwrap();
    assert_eq!(cluster.audit.count(EventKind::SessionEnd), 1);
    assert_eq!(cluster.audit.searched().len(), 0);
}

/// Each service makes something credible of what the node's clock says; whichever is first counts for both.
#[tokio::test(start_paused = true)]
async fn two_services_agree_on_a_beginning_that_cannot_be_believed() {
    let clock = Arc::new(ManualClock::default());
    // Each looks whether the recording exists before the other has made it.
    let backend = FaultBackend::new(Arc::new(MemoryBackend::new(clock.clone())));
    let faults = backend.faults();
    let cluster = Cluster::storing(Arc::new(backend), clock, Arc::new(MemoryRecordings::new()), |_| {}).await;
    faults.delay_reads(Duration::from_millis(10));
    let (host, api) = node(&cluster);
    let mut one = cluster.recording(&host);
    one.started = cluster.now().saturating_add(Duration::from_secs(86_400));
    let late = Arc::new(ManualClock::new(cluster.now().saturating_add(Duration::from_secs(2))));
    let ports = Ports { clock: late, ..cluster.ports.clone() };
    let other = AuthService::new(ports, cluster.auth.config().clone());
    let other = other.acting_as(Caller::Identity(Identity::Host(host.clone()), None));
    let (first, second) =
        tokio::join!(api.create_recording(one.clone()), other.create_recording(one.clone()));
    first.unwrap();
    second.unwrap();
    assert_eq!(cluster.audit.count(EventKind::SessionUploadFailure), 0);
    // What is not the same is refused as before.
    one.command = Some("another".to_owned());
    conflict(api.create_recording(one).await);
}

/// What is asked of the log for one recording does not grow with the age of the log.
#[tokio::test]
async fn the_log_is_searched_from_the_beginning_of_the_session_and_newest_first() {
    let cluster = Cluster::new().await;
    let (host, api) = node(&cluster);
    let early = cluster.now();
    cluster.clock.advance(Duration::from_secs(20 * 86_400));
    let one = cluster.recording(&host);
    api.create_recording(one.clone()).await.unwrap();
    api.put_recording_part(one.session, 0, bytes(1, 9)).await.unwrap();
    let end = || {
        let event = AuditEvent::new(EventKind::SessionEnd).session(one.session).user("alice");
        vec![event.field("recovered", true)]
    };
    api.emit_events(end()).await.unwrap();
    api.emit_events(end()).await.unwrap();
    assert_eq!(cluster.audit.count(EventKind::SessionEnd), 1, "what is known is not told again");
    cluster.audit.set_broken(true);
    api.complete_recording(one.session, 1).await.unwrap_err();
    cluster.audit.set_broken(false);
    api.complete_recording(one.session, 1).await.unwrap();
    let searched = cluster.audit.searched();
    assert_eq!(searched.len(), 3, "{searched:?}");
    for query in searched {
        let from = query.from.unwrap();
        assert!(query.newest_first && from > early && from <= one.started, "{query:?}");
        assert!(one.started.saturating_since(from) <= Duration::from_secs(300), "{query:?}");
    }
}
