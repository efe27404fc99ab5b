//! Child processes: this test binary again, with one test named as the child's part.
//!
//! The tests here do nothing unless the variable is set, so a plain run of all tests passes over them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use teleport_backend::recordings::fs::FsRecordingStore;
use teleport_backend::redb::RedbBackend;
use teleport_core::audit::AuditSink;
use teleport_core::clock::SystemClock;
use teleport_core::recording::{Completion, Form, RecordingMeta, RecordingStore};
use teleport_core::storage::{
    Backend, BackendExt, Batch, Condition, Key, Prefix, StorageError, WatchEnd, WatchEvent,
};
use teleport_core::task::TaskScope;

/// Carries the path of the database to the child.
const PATH: &str = "TELEPORT_TEST_CHILD_PATH";

/// Carries the number of the cycle to the child.
pub(crate) const CYCLE: &str = "TELEPORT_TEST_CHILD_CYCLE";

/// How many items of its own each batch of [`write_until_killed`] has.
pub(crate) const PARTS: usize = 4;

pub(crate) struct Child(Command);

/// The test `child::<name>` in a process of its own.
pub(crate) fn command(name: &str, path: &Path) -> Child {
    // Through a shell, because only the process itself can set its umask.
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", "umask \"${CHILD_UMASK:-077}\"; eval \"${CHILD_SETUP:-}\"; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &format!("child::{name}"), "--nocapture", "--test-threads=1"])
        .env(PATH, path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    Child(command)
}

impl Child {
    pub(crate) fn under_umask(mut self, umask: &str) -> Self {
        self.0.env("CHILD_UMASK", umask);
        self
    }

    /// Shell commands that run in the child before the test.
    pub(crate) fn after(self, setup: &str) -> Self {
        self.with("CHILD_SETUP", setup)
    }

    pub(crate) fn output(mut self) -> Output {
        self.0.output().unwrap()
    }

    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.0.env(name, value);
        self
    }

    pub(crate) fn spawn(mut self) -> std::process::Child {
        self.0.spawn().unwrap()
    }
}

/// In a child: the path it was given.
pub(crate) fn path() -> Option<PathBuf> {
    std::env::var_os(PATH).map(PathBuf::from)
}

#[tokio::test]
async fn open_once() {
    let Some(path) = path() else { return };
    match RedbBackend::open(&path, Arc::new(SystemClock::new())).await {
        Ok(_) => println!("OPENED"),
        Err(error) => println!("REFUSED {error}"),
    }
}

/// Writes numbered batches from several tasks at once and prints each number that was acknowledged, until it is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn write_until_killed() {
    let Some(path) = path() else { return };
    let cycle = std::env::var(CYCLE).unwrap();
    let backend = Arc::new(RedbBackend::open(&path, Arc::new(SystemClock::new())).await.unwrap());
    // On a line of its own, whatever the test harness has printed before.
    println!("\nOPENED");
    let next = Arc::new(AtomicUsize::new(0));
    let scope = TaskScope::new();
    for _ in 0..4 {
        let (backend, next, cycle) = (Arc::clone(&backend), Arc::clone(&next), cycle.clone());
        scope.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let batch = (0..PARTS).fold(Batch::new(), |batch, part| {
                    let key = Key::new(&format!("cycle/{cycle}/{number}/{part}")).unwrap();
                    // Sizes around a page, so that pages split, merge and overflow.
                    let value = vec![b'v'; (number * 997) % 6000];
                    batch.put(key, Condition::Absent, value, None)
                });
                // A counter over all cycles is replaced in each batch as well.
                let counter = Key::new("counter").unwrap();
                let batch = batch.put(counter, Condition::Any, format!("{cycle}/{number}"), None);
                backend.commit(batch).await.unwrap();
                println!("ACK {number}");
            }
        });
    }
    scope.join().await;
}

/// Makes a recording and an audit log below the path.
#[tokio::test]
async fn record_and_log() {
    let Some(path) = path() else { return };
    let store = FsRecordingStore::open(&path).await.unwrap();
    let meta = crate::recordings::meta();
    store.create(&meta, &Form::PLAIN).await.unwrap();
    store.put_part(meta.session, 0, "x".into()).await.unwrap();
    let log = crate::audit::open(path.join("audit")).await;
    log.emit(vec![crate::audit::event("alice")]).await.unwrap();
    store.complete(meta.session, &Completion::new(1, meta.started)).await.unwrap();
    let other = RecordingMeta { session: "00000002-0000-4000-8000-000000000000".parse().unwrap(), ..meta };
    store.create(&other, &Form::PLAIN).await.unwrap();
    store.put_part(other.session, 0, "x".into()).await.unwrap();
}

/// Fills its disk, which is a limit on the size of files, gets more room and goes on.
#[tokio::test]
async fn fill_the_disk() {
    let Some(path) = path() else { return };
    let backend = RedbBackend::open(&path, Arc::new(SystemClock::new())).await.unwrap();
    let put = async |number: usize| {
        let key = Key::new(&format!("n/{number}")).unwrap();
        backend.put(&key, vec![b'v'; 200_000].into(), None).await
    };
    let mut watch = backend.watch(&Prefix::root()).await.unwrap();
    let mut number = 0;
    let error = loop {
        assert!(number < 1000, "the limit has no effect");
        match put(number).await {
            Ok(_) => number += 1,
            Err(error) => break error,
        }
    };
    assert!(number > 3, "only {number} fitted");
    assert!(matches!(error, StorageError::Unavailable { .. }), "{error:?}");
    for fitted in 0..number {
        let item = backend.get(&Key::new(&format!("n/{fitted}")).unwrap()).await.unwrap();
        assert!(item.is_some_and(|item| item.value.len() == 200_000), "reading goes on");
    }
    // Everything that was acknowledged was reported; then the watch ends, as the failed one may have happened.
    let mut reported = 0;
    let end = loop {
        match watch.next().await {
            Ok(WatchEvent::Put(_)) => reported += 1,
            Ok(_) => {}
            Err(end) => break end,
        }
    };
    assert_eq!((reported, end), (number, WatchEnd::Closed));

    let pid = std::process::id().to_string();
    let more = Command::new("prlimit").args(["--pid", &pid, "--fsize=unlimited"]).status().unwrap();
    assert!(more.success());
    put(number).await.expect("with room again, commits go on without a restart");
    let newest = put(number + 1).await.unwrap();
    let mut watch = backend.watch(&Prefix::root()).await.unwrap();
    assert_eq!(watch.next().await, Ok(WatchEvent::Ready { revision: newest }));
    assert_eq!(backend.list(&Prefix::root()).await.unwrap().len(), number + 2);
    println!("\nHEALED");
}

#[tokio::test]
async fn fill_the_audit_log() {
    let Some(path) = path() else { return };
    crate::audit_chain::fill(&path).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_until_killed() {
    let Some(path) = path() else { return };
    crate::audit_chain::log_until_killed(&path).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_and_index_until_killed() {
    let Some(path) = path() else { return };
    crate::index::log_and_index_until_killed(&path).await;
}
