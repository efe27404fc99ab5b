#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use teleport_core::api::{ApiError, ApiErrorKind, ApiResult, AuditApi, RecordingApi, RecordingQuery};
use teleport_core::audit::{AuditEvent, AuditPage, AuditQuery, EventKind};
use teleport_core::clock::{Clock, SystemClock};
use teleport_core::entropy::SystemEntropy;
use teleport_core::id::{SessionId, UserName};
use teleport_core::recording::{
    DecodeError, Decoder, MAX_PART_LEN, OutputStream, RecordedEvent, RecordingInfo, RecordingMeta, SessionEnd,
};
use teleport_core::task::{Shutdown, TaskScope};
use teleport_core::testing::recording_meta;

use super::*;

const MODE: SessionRecording = SessionRecording::BestEffort;

fn meta(number: u8) -> RecordingMeta {
    let session = format!("6f0e1a3c-7d1f-4b5e-9a53-5d5a1f9f3f{number:02x}").parse().unwrap();
    RecordingMeta { session, command: Some("true".into()), ..recording_meta() }
}

fn try_read(bytes: &[u8]) -> Result<Vec<RecordedEvent>, DecodeError> {
    let mut decoder = Decoder::new().unwrap();
    decoder.feed(bytes);
    std::iter::from_fn(|| decoder.next_event().transpose()).collect()
}

fn read(bytes: &[u8]) -> Vec<RecordedEvent> {
    try_read(bytes).unwrap()
}

fn output(events: &[RecordedEvent]) -> Vec<u8> {
    let data = |event: &RecordedEvent| match event {
        RecordedEvent::Output { data, .. } => data.to_vec(),
        _ => Vec::new(),
    };
    events.iter().flat_map(data).collect()
}

fn uploader(spool: Spool, store: Arc<Store>) -> Uploader {
    Uploader::new(spool, store, Arc::new(SystemClock::new()), Arc::new(SystemEntropy::new()))
}

/// A moment of both times: that of the test, which jumps when nothing else goes on, and that of the spool's thread, which does not.
async fn moment() {
    std::thread::sleep(Duration::from_millis(1));
    tokio::time::sleep(Duration::from_millis(5)).await;
}

/// Takes uploads, and fails each `fail_each`-th call before or after it did its work.
#[derive(Debug, Default)]
struct Store {
    state: Mutex<StoreState>,
    fail_each: usize,
}

#[derive(Debug, Default)]
struct StoreState {
    calls: usize,
    /// Whether the host has handed in as much as it may.
    full: bool,
    /// Which recording is not taken.
    away_for: Option<SessionId>,
    audit_away: bool,
    tails: HashMap<SessionId, (u64, Vec<u8>)>,
    begun: HashMap<SessionId, RecordingMeta>,
    all_parts: HashMap<SessionId, Vec<Bytes>>,
    completed: Vec<(RecordingMeta, Vec<u8>)>,
    reported: Vec<AuditEvent>,
}

impl Store {
    fn call<T>(&self, session: SessionId, act: impl FnOnce(&mut StoreState) -> T) -> ApiResult<T> {
        let mut state = self.state.lock().unwrap();
        state.calls += 1;
        if state.away_for == Some(session) {
            return Err(ApiError::unavailable("away"));
        }
        let fail = self.fail_each > 0 && state.calls.is_multiple_of(self.fail_each);
        if fail && state.calls.is_multiple_of(2) {
            return Err(ApiError::unavailable("before"));
        }
        if state.full {
            return Err(ApiError::new(ApiErrorKind::TooMany, "the limit for a day"));
        }
        let result = act(&mut state);
        if fail { Err(ApiError::unavailable("after")) } else { Ok(result) }
    }
}

#[async_trait]
impl RecordingApi for Store {
    async fn create_recording(&self, meta: RecordingMeta) -> ApiResult<()> {
        self.call(meta.session, |state| {
            state.all_parts.entry(meta.session).or_default();
            state.begun.insert(meta.session, meta);
        })
    }
    async fn put_recording_part(&self, session: SessionId, number: u32, part: Bytes) -> ApiResult<()> {
        self.call(session, |state| {
            let parts = state.all_parts.get_mut(&session).unwrap();
            let number = number as usize;
            if number == parts.len() {
                parts.push(part);
            } else {
                assert_eq!(parts[number], part, "a part was sent again with other bytes");
            }
        })
    }
    async fn stream_recording(&self, session: SessionId, position: u64, bytes: Bytes) -> ApiResult<()> {
        self.call(session, |state| {
            let parts = state.all_parts[&session].len() as u64;
            let tail = state.tails.entry(session).or_default();
            if position / MAX_PART_LEN as u64 > tail.0 {
                *tail = (parts, Vec::new());
            }
            let offset = (position - tail.0 * MAX_PART_LEN as u64) as usize;
            assert!(offset <= tail.1.len(), "it follows what is there");
            // Sent again, if the answer was lost.
            assert!(bytes.starts_with(&tail.1[offset..]));
            tail.1.truncate(offset);
            tail.1.extend_from_slice(&bytes);
        })
    }
    async fn recording_parts(&self, session: SessionId) -> ApiResult<u32> {
        self.call(session, |state| state.all_parts[&session].len() as u32)
    }
    async fn complete_recording(&self, session: SessionId, parts: u32) -> ApiResult<()> {
        self.call(session, |state| {
            assert_eq!(parts as usize, state.all_parts[&session].len());
            state.completed.retain(|(other, _)| other.session != session);
            let whole = (state.begun[&session].clone(), state.all_parts[&session].concat());
            state.completed.push(whole);
        })
    }
    async fn recordings(&self, _query: RecordingQuery) -> ApiResult<Vec<RecordingInfo>> {
        Err(ApiError::denied())
    }
    async fn recording(&self, _session: SessionId) -> ApiResult<RecordingInfo> {
        Err(ApiError::denied())
    }
    async fn read_recording(&self, _session: SessionId, _offset: u64) -> ApiResult<Bytes> {
        Err(ApiError::denied())
    }
}

#[async_trait]
impl AuditApi for Store {
    async fn emit_events(&self, events: Vec<AuditEvent>) -> ApiResult<()> {
        let mut state = self.state.lock().unwrap();
        if state.audit_away {
            return Err(ApiError::unavailable("away"));
        }
        state.reported.extend(events);
        Ok(())
    }
    async fn search_events(&self, _query: AuditQuery) -> ApiResult<AuditPage> {
        Err(ApiError::denied())
    }
}

async fn uploaded(store: &Store, count: usize) -> Vec<(RecordingMeta, Vec<u8>)> {
    let wait = async {
        loop {
            let completed = store.state.lock().unwrap().completed.clone();
            if completed.len() >= count {
                return completed;
            }
            moment().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(600), wait).await.expect("the upload ends")
}

#[tokio::test(start_paused = true)]
async fn what_a_session_shows_arrives_whole_over_a_bad_network() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path().join("spool"), SpoolLimits::default()).unwrap();
    let mut recorder = spool.start(meta(1), MODE).unwrap();
    // Incompressible, so that it takes several parts.
    let mut state = 1u64;
    let mut shown = Vec::new();
    for step in 0..100u64 {
        let data: Bytes = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        })
        .take(32 * 1024)
        .collect();
        recorder.output(Duration::from_millis(step), OutputStream::Stdout, &data);
        shown.extend_from_slice(&data);
    }
    recorder.resize(Duration::from_millis(100), 120, 40);
    recorder.finish(Duration::from_millis(101), SessionEnd::Exited(0));
    assert!(!recorder.failed());
    drop(recorder);

    let store = Arc::new(Store { fail_each: 5, ..Store::default() });
    let shutdown = Shutdown::new();
    let scope = TaskScope::new();
    scope.spawn(uploader(spool.clone(), store.clone()).run(shutdown.clone()));
    let completed = uploaded(&store, 1).await;
    assert_eq!(completed[0].0, meta(1));
    let events = read(&completed[0].1);
    assert!(output(&events) == shown);
    assert_eq!(
        events.last().unwrap(),
        &RecordedEvent::End { at: Duration::from_millis(101), end: SessionEnd::Exited(0) }
    );

    shutdown.drain();
    tokio::time::timeout(Duration::from_secs(600), scope.join()).await.expect("a drain ends");
    assert_eq!(std::fs::read_dir(spool.dir()).unwrap().count(), 0, "the spool is empty afterwards");
}

/// What the auth service does not take today it takes tomorrow: nothing is given up, and it is not asked for each recording.
#[tokio::test(start_paused = true)]
async fn a_host_beyond_its_limit_keeps_its_recordings() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path(), SpoolLimits::default()).unwrap();
    for number in 0..10 {
        spool.start(meta(number), MODE).unwrap().finish(Duration::ZERO, SessionEnd::Exited(0));
    }
    let closed = async {
        while spool.waiting().unwrap().len() < 10 {
            moment().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(600), closed).await.unwrap();
    let store = Arc::new(Store::default());
    store.state.lock().unwrap().full = true;
    let shutdown = Shutdown::new();
    let scope = TaskScope::new();
    scope.spawn(uploader(spool.clone(), store.clone()).run(shutdown.clone()));
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(spool.waiting().unwrap().len(), 10, "none is given up");
    let calls = store.state.lock().unwrap().calls;
    assert!((2..=20).contains(&calls), "once in each round: {calls}");
    store.state.lock().unwrap().full = false;
    assert_eq!(uploaded(&store, 10).await.len(), 10);
    shutdown.drain();
    scope.join().await;
}

/// Whoever has the recorder has something to tell first: were the recording gone, nothing would remind of the session's end.
#[tokio::test(start_paused = true)]
async fn a_recording_is_delivered_once_its_recorder_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path(), SpoolLimits::default()).unwrap();
    let mut held = spool.start(meta(5), MODE).unwrap();
    held.finish(Duration::ZERO, SessionEnd::Exited(0));
    let store = Arc::new(Store::default());
    let shutdown = Shutdown::new();
    let scope = TaskScope::new();
    scope.spawn(uploader(spool.clone(), store.clone()).run(shutdown.clone()));
    let closed = async {
        while spool.waiting().unwrap().is_empty() {
            moment().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(600), closed).await.unwrap();
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(store.state.lock().unwrap().calls, 0);
    // Nor does a drain leave without it.
    shutdown.drain();
    moment().await;
    drop(held);
    assert_eq!(uploaded(&store, 1).await.len(), 1);
    scope.join().await;
    assert!(spool.waiting().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_little_for_a_store_that_is_away() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path(), SpoolLimits::default()).unwrap();
    spool.start(meta(5), MODE).unwrap().finish(Duration::ZERO, SessionEnd::Exited(0));
    let closed = async {
        while spool.waiting().unwrap().is_empty() {
            moment().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(600), closed).await.unwrap();
    let away = Arc::new(Store { fail_each: 1, ..Store::default() });
    let shutdown = Shutdown::new();
    let scope = TaskScope::new();
    scope.spawn(uploader(spool.clone(), away).run(shutdown.clone()));
    tokio::time::sleep(Duration::from_secs(60)).await;
    let asked = tokio::time::Instant::now();
    shutdown.drain();
    scope.join().await;
    assert!(asked.elapsed() < Duration::from_secs(4), "{:?}", asked.elapsed());
    let [waiting] = &spool.waiting().unwrap()[..] else { panic!("the recording stays") };
    assert!(waiting.exists());
}

#[tokio::test(start_paused = true)]
async fn a_session_that_a_crash_cut_is_uploaded_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    {
        let spool = Spool::open(dir.path(), SpoolLimits::default()).unwrap();
        let mut recorder = spool.start(meta(2), MODE).unwrap();
        recorder.output(Duration::ZERO, OutputStream::Stdout, &Bytes::from_static(b"before the crash"));
        // The thread ends without having seen an end, as after a crash.
        let _never_dropped = Box::leak(Box::new(recorder));
        let inner = dir.path().join(format!("{}.part", meta(2).session));
        let deadline = Duration::from_secs(60);
        let mut waited = Duration::ZERO;
        while read(&std::fs::read(&inner).unwrap()).is_empty() {
            std::thread::sleep(Duration::from_millis(10));
            waited += Duration::from_millis(10);
            assert!(waited < deadline, "output reaches the disk by itself");
        }
        let _never_dropped = Box::leak(Box::new(spool));
    }
    let spool = Spool::open(dir.path(), SpoolLimits::default()).unwrap();
    let store = Arc::new(Store::default());
    let scope = TaskScope::new();
    scope.spawn(uploader(spool, store.clone()).audit(store.clone()).run(Shutdown::new()));
    let completed = uploaded(&store, 1).await;
    let events = read(&completed[0].1);
    assert_eq!(output(&events), b"before the crash");
    let last = events.last().unwrap();
    assert!(matches!(last, RecordedEvent::End { end: SessionEnd::Disconnected, .. }), "{last:?}");
    let [told] = &store.state.lock().unwrap().reported[..] else { panic!("nobody else tells of the end") };
    assert_eq!((told.code, told.sid), (EventKind::SessionEnd, Some(meta(2).session)));
    // Whoever delivers it may be a proxy: it ran where its description says.
    assert_eq!(
        (told.server_id, told.server_hostname.clone()),
        (Some(meta(2).host_id), Some(meta(2).host_name))
    );
    assert!(told.fields["reason"].as_str().unwrap().contains("interrupted"), "{told:?}");
}

/// Wherever it was cut: what is whole is there, and then an end.
#[test]
fn a_recording_that_was_cut_anywhere_is_mended() {
    let dir = tempfile::tempdir().unwrap();
    let whole = {
        let spool = Spool::open(dir.path(), SpoolLimits::default()).unwrap();
        let mut recorder = spool.start(meta(1), MODE).unwrap();
        for step in 0..3 {
            let data = Bytes::from(vec![b'a' + step; 70_000]);
            recorder.output(Duration::from_secs(step.into()), OutputStream::Stdout, &data);
        }
        recorder.finish(Duration::from_secs(9), SessionEnd::Exited(7));
        drop((recorder, spool));
        std::fs::read(dir.path().join(format!("{}.tprec", meta(1).session))).unwrap()
    };
    let all = read(&whole);
    let part = dir.path().join(format!("{}.part", meta(1).session));
    let (cut, closed) = (part.with_extension("cut"), part.with_extension("tprec"));
    std::fs::remove_file(&closed).unwrap();
    let mut mended = 0;
    for len in (0..=whole.len()).rev().step_by(7) {
        // Behind it nothing, or what a loss of power leaves.
        for tail in [0, 100] {
            std::fs::write(&part, [&whole[..len], &vec![0; tail]].concat()).unwrap();
            drop(Spool::open(dir.path(), SpoolLimits::default()).unwrap());
            assert!(!part.exists(), "{len}");
            // Also what is whole: perhaps nobody has told of its end.
            let bytes = std::fs::read(&cut).unwrap();
            std::fs::remove_file(&cut).unwrap();
            let Ok(events) = try_read(&bytes) else { continue };
            if events.is_empty() {
                continue;
            }
            mended += 1;
            let (last, before) = events.split_last().unwrap();
            assert_eq!(before, &all[..before.len()], "{len}: a prefix");
            let interrupted = matches!(last, RecordedEvent::End { end: SessionEnd::Disconnected, .. });
            assert!(interrupted || events == all, "{len}: {last:?}");
            assert!(len < whole.len() || !interrupted, "it has its own end");
        }
    }
    assert!(mended > 10, "{mended}");
}

/// What cannot be made smaller.
fn noise(len: usize) -> Bytes {
    let mut state = 1u64;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

#[tokio::test(start_paused = true)]
async fn whole_parts_of_a_session_that_runs_are_delivered() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path(), SpoolLimits::default()).unwrap();
    let store = Arc::new(Store::default());
    let scope = TaskScope::new();
    scope.spawn(uploader(spool.clone(), store.clone()).run(Shutdown::new()));
    let mut recorder = spool.start(meta(1), MODE).unwrap();
    let data = noise(100 << 10);
    let wait = async {
        let mut step = 0;
        while store.state.lock().unwrap().all_parts.values().map(Vec::len).sum::<usize>() < 2 {
            if step < 40 {
                recorder.output(Duration::from_millis(step), OutputStream::Stdout, &data);
                step += 1;
            }
            moment().await;
        }
        step
    };
    let steps = tokio::time::timeout(Duration::from_secs(600), wait).await.expect("parts come early");
    assert!(store.state.lock().unwrap().completed.is_empty(), "the session runs");
    recorder.finish(Duration::from_secs(1), SessionEnd::Exited(0));
    drop(recorder);
    let completed = uploaded(&store, 1).await;
    let events = read(&completed[0].1);
    assert_eq!(output(&events).len(), data.len() * steps as usize);
    assert!(matches!(events.last(), Some(RecordedEvent::End { end: SessionEnd::Exited(0), .. })));
}

/// What waits is not looked through for each that goes: a thousand would be a million entries of a directory.
#[tokio::test(start_paused = true)]
async fn many_that_wait_are_looked_at_a_few_times() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path(), SpoolLimits::default()).unwrap();
    for number in 0..200 {
        spool.start(meta(number), MODE).unwrap().finish(Duration::ZERO, SessionEnd::Exited(0));
    }
    while spool.waiting().unwrap().len() < 200 {
        moment().await;
    }
    let (before, store) = (spool.looks(), Arc::new(Store::default()));
    // To its end, which is when nothing waits.
    let shutdown = Shutdown::new();
    shutdown.drain();
    uploader(spool.clone(), store.clone()).run(shutdown).await;
    let looks = spool.looks() - before;
    assert_eq!(uploaded(&store, 200).await.len(), 200);
    assert!(looks <= 10, "{looks}");
}

/// A recording that the auth service does not take waits alone.
#[tokio::test(start_paused = true)]
async fn one_that_fails_does_not_hold_up_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path(), SpoolLimits::default()).unwrap();
    for number in 0..12 {
        spool.start(meta(number), MODE).unwrap().finish(Duration::ZERO, SessionEnd::Exited(0));
    }
    let store = Arc::new(Store::default());
    store.state.lock().unwrap().away_for = Some(meta(0).session);
    let scope = TaskScope::new();
    scope.spawn(uploader(spool.clone(), store.clone()).run(Shutdown::new()));
    let done = uploaded(&store, 11).await;
    assert!(done.iter().all(|(meta, _)| meta.session != self::meta(0).session));
    let [left] = &spool.waiting().unwrap()[..] else { panic!("one waits") };
    assert!(left.to_string_lossy().contains(&meta(0).session.to_string()));
    store.state.lock().unwrap().away_for = None;
    uploaded(&store, 12).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_too_old_is_told_once_and_deleted_only_where_that_is_said() {
    for (too_old, audited, stays) in
        [(TooOld::Keep, true, true), (TooOld::Delete, true, false), (TooOld::Delete, false, true)]
    {
        let dir = tempfile::tempdir().unwrap();
        let limits = SpoolLimits { max_age: Duration::from_secs(3600), too_old, ..SpoolLimits::default() };
        let spool = Spool::open(dir.path(), limits).unwrap();
        for number in [1, 2] {
            spool.start(meta(number), MODE).unwrap().finish(Duration::ZERO, SessionEnd::Exited(0));
        }
        let closed = async {
            while spool.waiting().unwrap().len() < 2 {
                moment().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(600), closed).await.unwrap();
        let old = dir.path().join(format!("{}.tprec", meta(1).session));
        let yesterday = std::time::UNIX_EPOCH + Duration::from_millis(SystemClock::new().now().unix_millis())
            - Duration::from_secs(86_400);
        std::fs::File::options().write(true).open(&old).unwrap().set_modified(yesterday).unwrap();
        let store = Arc::new(Store::default());
        {
            let mut state = store.state.lock().unwrap();
            (state.full, state.audit_away) = (true, !audited);
        }
        let scope = TaskScope::new();
        scope.spawn(uploader(spool.clone(), store.clone()).audit(store.clone()).run(Shutdown::new()));
        let settled = async {
            // It is tried again and again.
            while store.state.lock().unwrap().calls < 6 {
                moment().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(6000), settled).await.unwrap();
        assert_eq!(old.exists(), stays, "{too_old:?} {audited}");
        assert!(dir.path().join(format!("{}.tprec", meta(2).session)).exists(), "one that is not old stays");
        let reported = store.state.lock().unwrap().reported.clone();
        assert_eq!(reported.len(), usize::from(audited), "{reported:?}");
        if let [told] = &reported[..] {
            assert_eq!((told.code, told.sid), (EventKind::SessionUploadFailure, Some(meta(1).session)));
            let says = if stays { "it stays" } else { "it is deleted" };
            assert!(told.error.as_deref().unwrap().contains(says), "{told:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_spool_leaves_a_gap_that_says_how_much() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path(), SpoolLimits { max_bytes: 1, ..SpoolLimits::default() }).unwrap();
    let mut recorder = spool.start(meta(3), MODE).unwrap();
    // Who begins now could not be recorded.
    let error = spool.start(meta(4), MODE).unwrap_err();
    assert_eq!(error.source.kind(), io::ErrorKind::StorageFull, "{error:?}");
    assert!(!dir.path().join(format!("{}.part", meta(4).session)).exists());
    recorder.output(Duration::ZERO, OutputStream::Stdout, &Bytes::from_static(b"twelve bytes"));
    recorder.finish(Duration::from_secs(1), SessionEnd::Exited(0));
    let closed = async {
        while spool.waiting().unwrap().is_empty() {
            moment().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(600), closed).await.unwrap();
    assert!(!recorder.failed(), "the session goes on");
    drop(recorder);
    let store = Arc::new(Store::default());
    // Mostly the spool is full because the auth service is away.
    store.state.lock().unwrap().audit_away = true;
    let scope = TaskScope::new();
    scope.spawn(uploader(spool.clone(), store.clone()).audit(store.clone()).run(Shutdown::new()));
    let events = read(&uploaded(&store, 1).await[0].1);
    assert_eq!(events[0], RecordedEvent::Gap { at: Duration::from_secs(1), lost: 12 });
    store.state.lock().unwrap().audit_away = false;
    let wait = async {
        while store.state.lock().unwrap().reported.is_empty() || !spool.waiting().unwrap().is_empty() {
            moment().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(600), wait).await.expect("the audit log is told");
    // What was delivered takes no room.
    spool.start(meta(4), MODE).unwrap();
    let [told] = &store.state.lock().unwrap().reported[..] else { panic!("once") };
    assert_eq!(told.code, EventKind::SessionUploadFailure);
    let text = told.error.as_deref().unwrap();
    assert!(text.contains("spool") && text.contains("new sessions are refused"), "{text}");
}

/// A recording ends before it would be refused for its length.
#[tokio::test(start_paused = true)]
async fn a_recording_has_an_end_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let limits = SpoolLimits { max_recording_bytes: 1, ..SpoolLimits::default() };
    let spool = Spool::open(dir.path(), limits).unwrap();
    let mut recorder = spool.start(meta(3), MODE).unwrap();
    recorder.output(Duration::ZERO, OutputStream::Stdout, &Bytes::from_static(b"twelve bytes"));
    recorder.finish(Duration::from_secs(1), SessionEnd::Exited(0));
    drop(recorder);
    let store = Arc::new(Store::default());
    let scope = TaskScope::new();
    scope.spawn(uploader(spool.clone(), store.clone()).run(Shutdown::new()));
    let events = read(&uploaded(&store, 1).await[0].1);
    assert_eq!(events[0], RecordedEvent::Gap { at: Duration::from_secs(1), lost: 12 });
    spool.start(meta(4), MODE).unwrap();
}

/// Whoever fills the spool leaves room for others.
#[test]
fn one_user_has_half_of_the_spool() {
    // So long that the end makes little difference.
    let long = |number| RecordingMeta { command: Some("x".repeat(2000)), ..meta(number) };
    let dir = tempfile::tempdir().unwrap();
    let header = {
        let other = tempfile::tempdir().unwrap();
        let spool = Spool::open(other.path(), SpoolLimits::default()).unwrap();
        let _recorder = spool.start(long(1), MODE).unwrap();
        std::fs::metadata(other.path().join(format!("{}.part", meta(1).session))).unwrap().len()
    };
    let limits = SpoolLimits { max_bytes: 4 * header, ..SpoolLimits::default() };
    let spool = Spool::open(dir.path(), limits).unwrap();
    let _first = spool.start(long(1), MODE).unwrap();
    let _second = spool.start(long(2), MODE).unwrap();
    assert!(spool.start(long(3), MODE).is_err(), "her half is used up");
    let bob = |number| RecordingMeta { user: UserName::new("robin").unwrap(), ..long(number) };
    drop(spool.start(bob(4), MODE).unwrap());
    drop((_first, _second, spool));
    // Also after a restart.
    let spool = Spool::open(dir.path(), limits).unwrap();
    assert!(spool.start(long(3), MODE).is_err());
    drop(spool.start(bob(5), MODE).unwrap());
}

#[test]
fn refused_recordings_take_no_room_and_the_oldest_go() {
    let dir = tempfile::tempdir().unwrap();
    let limits = SpoolLimits { max_bytes: 4096, ..SpoolLimits::default() };
    let file = |name: &str| dir.path().join(format!("{name}.refused"));
    for (age, name) in [(3, "oldest"), (2, "older"), (1, "new")] {
        std::fs::write(file(name), [0; 1500]).unwrap();
        let time = std::time::UNIX_EPOCH + Duration::from_secs(1_700_000_000 - age * 3600);
        std::fs::File::options().write(true).open(file(name)).unwrap().set_modified(time).unwrap();
    }
    let spool = Spool::open(dir.path(), limits).unwrap();
    assert_eq!(["oldest", "older", "new"].map(|name| file(name).exists()), [false, false, true]);
    std::fs::write(file("more"), [0; 4000]).unwrap();
    spool.start(meta(1), MODE).unwrap();
}

#[test]
fn files_are_for_the_owner_alone_and_strangers_are_left_alone() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("spool");
    let spool = Spool::open(&path, SpoolLimits::default()).unwrap();
    let _recorder = spool.start(meta(4), MODE).unwrap();
    assert!(spool.start(meta(4), MODE).is_err(), "a session is recorded once");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    let file = path.join(format!("{}.part", meta(4).session));
    assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(Spool::open("/proc/nowhere", SpoolLimits::default()).is_err());
}

/// Nothing that a streamed session showed is missing at the auth service, at any moment.
#[tokio::test(start_paused = true)]
async fn g19_a_streamed_session_shows_nothing_that_is_not_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path(), SpoolLimits::default()).unwrap();
    let store = Arc::new(Store { fail_each: 7, ..Store::default() });
    let scope = TaskScope::new();
    scope.spawn(uploader(spool.clone(), store.clone()).run(Shutdown::new()));
    let mut recorder = spool.start(meta(1), SessionRecording::Sync).unwrap();
    // The file is written by a thread, whose time does not jump with that of the test.
    let kept = |recorder: &dyn Recorder| {
        let kept = recorder.kept().unwrap();
        async {
            tokio::select! {
                kept = kept => kept,
                () = async { loop { moment().await } } => unreachable!(),
            }
        }
    };
    assert!(kept(&*recorder).await, "it has begun");
    let held = |store: &Store| {
        let state = store.state.lock().unwrap();
        let mut whole = state.all_parts[&meta(1).session].concat();
        let (part, tail) = state.tails.get(&meta(1).session).cloned().unwrap_or_default();
        if part as usize * MAX_PART_LEN == whole.len() {
            whole.extend(tail);
        }
        output(&read(&whole))
    };
    let mut shown = Vec::new();
    for step in 0..30u64 {
        let data = if step % 5 == 4 { noise(300 << 10) } else { Bytes::from(format!("line {step}")) };
        recorder.output(Duration::from_millis(step), OutputStream::Stdout, &data);
        assert!(kept(&*recorder).await && !recorder.failed());
        shown.extend_from_slice(&data);
        assert!(held(&store) == shown, "step {step}");
    }
    recorder.finish(Duration::from_secs(1), SessionEnd::Exited(0));
    drop(recorder);
    let completed = uploaded(&store, 1).await;
    assert!(output(&read(&completed[0].1)) == shown);
}

#[tokio::test(start_paused = true)]
async fn a_streamed_session_ends_when_nobody_takes_it() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path(), SpoolLimits::default()).unwrap();
    let store = Arc::new(Store::default());
    let scope = TaskScope::new();
    scope.spawn(uploader(spool.clone(), store.clone()).run(Shutdown::new()));
    store.state.lock().unwrap().away_for = Some(meta(1).session);
    let mut never = spool.start(meta(1), SessionRecording::Sync).unwrap();
    assert!(!never.kept().unwrap().await, "it is not begun");
    never.finish(Duration::ZERO, SessionEnd::Disconnected);
    drop(never);
    // What was recorded is delivered all the same.
    store.state.lock().unwrap().away_for = None;
    uploaded(&store, 1).await;
}
