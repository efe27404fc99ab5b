//! The audit log in files under the suite, and what is special about files.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use teleport_backend::audit::file::FileAuditLog;
use teleport_backend::conformance;
use teleport_core::audit::{AuditEvent, AuditLog, AuditQuery, AuditSink, EventKind};
use teleport_core::clock::{SystemClock, Timestamp};
use teleport_core::entropy::SystemEntropy;

/// A log without checkpoints.
pub(crate) async fn open(directory: impl AsRef<std::path::Path>) -> FileAuditLog {
    let (clock, entropy) = (Arc::new(SystemClock::new()), Arc::new(SystemEntropy::new()));
    FileAuditLog::builder(directory, clock, entropy).open().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms() {
    let directory = tempfile::tempdir().unwrap();
    let count = AtomicUsize::new(0);
    let factory = async || {
        let number = count.fetch_add(1, Ordering::Relaxed);
        let log = open(directory.path().join(number.to_string())).await;
        Arc::new(log) as Arc<dyn AuditLog>
    };
    conformance::audit::run_all(&factory).await;
}

pub(crate) fn event(user: &str) -> AuditEvent {
    let mut event = AuditEvent::new(EventKind::UserLogin).user(user);
    event.time = Timestamp::from_unix_millis(1_795_262_400_000);
    event
}

async fn users(log: &FileAuditLog, newest_first: bool) -> Vec<String> {
    let query = AuditQuery { newest_first, ..AuditQuery::default() };
    let page = log.search(query).await.unwrap();
    page.events.into_iter().map(|event| event.user.unwrap()).collect()
}

#[tokio::test]
async fn a_line_cut_by_a_crash_is_closed_and_left_out() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("2026-11-21.jsonl");
    let log = open(directory.path()).await;
    for user in ["alice", "bob", "carol"] {
        log.emit(vec![event(user)]).await.unwrap();
    }
    drop(log);
    let whole = std::fs::read(&file).unwrap();
    let last = whole[..whole.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
    let named = AuditQuery { events: vec!["user.login".to_owned()], ..AuditQuery::default() };
    for cut in last + 1..whole.len() {
        std::fs::write(&file, &whole[..cut]).unwrap();
        let log = open(directory.path()).await;
        log.emit(vec![event("dave")]).await.unwrap();
        let found = log.search(named.clone()).await.unwrap().events;
        let found: Vec<&str> = found.iter().map(|event| event.user.as_deref().unwrap()).collect();
        // A line that lacks only its newline is whole.
        let expected: &[&str] = if cut == whole.len() - 1 {
            &["alice", "bob", "carol", "dave"]
        } else {
            &["alice", "bob", "dave"]
        };
        assert_eq!(found, expected, "cut at {cut}");
        let newest = AuditQuery { newest_first: true, ..named.clone() };
        assert_eq!(log.search(newest).await.unwrap().events.len(), expected.len());
        let text = std::fs::read(&file).unwrap();
        assert!(text.starts_with(&whole[..cut]), "nothing that was written is changed");
    }
}

#[tokio::test]
async fn foreign_lines_and_files_are_left_out() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path()).await;
    log.emit(vec![event("alice")]).await.unwrap();
    std::fs::write(
        directory.path().join("2026-11-20.jsonl"),
        "not json\n\n{\"event\":\"unknown\"}\n\u{fffd}\n",
    )
    .unwrap();
    std::fs::write(directory.path().join("notes.jsonl"), "{}\n").unwrap();
    std::fs::create_dir(directory.path().join("2026-11-22")).unwrap();
    assert_eq!(users(&log, false).await, ["alice"]);
    assert_eq!(users(&log, true).await, ["alice"]);
}

#[tokio::test]
async fn an_error_is_for_all_whose_events_it_concerns() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path()).await;
    // A directory stands where the day's file belongs.
    let file = directory.path().join("2026-11-21.jsonl");
    std::fs::create_dir(&file).unwrap();
    let (one, two) = tokio::join!(log.emit(vec![event("alice")]), log.emit(vec![event("bob")]));
    for result in [one, two] {
        let error = result.unwrap_err();
        let source = std::error::Error::source(&error).unwrap();
        assert_eq!(source.to_string(), "the audit file of 2026-11-21 cannot be written");
        assert!(std::error::Error::source(source).is_some());
    }
    std::fs::remove_dir(&file).unwrap();
    log.emit(vec![event("carol")]).await.expect("the log works again when the reason is gone");
    assert_eq!(users(&log, false).await, ["carol"]);
}

#[tokio::test]
async fn dropping_waits_for_what_was_queued() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path()).await;
    {
        let emit = log.emit(vec![event("alice")]);
        tokio::pin!(emit);
        // Queued, or done already.
        let _ = futures_util::poll!(emit.as_mut());
    }
    drop(log);
    let log = open(directory.path()).await;
    assert_eq!(users(&log, false).await, ["alice"]);
}
