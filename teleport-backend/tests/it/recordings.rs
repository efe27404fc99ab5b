//! The directory of recordings under the suite, and what is special about files.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use teleport_backend::conformance;
use teleport_backend::recordings::fs::FsRecordingStore;
use teleport_core::clock::Timestamp;
use teleport_core::recording::{Completion, Form, Listing, RecordingError, RecordingMeta, RecordingStore};
use teleport_core::task::TaskScope;

use crate::child;

#[tokio::test(flavor = "multi_thread")]
async fn conforms() {
    let directory = tempfile::tempdir().unwrap();
    let count = AtomicUsize::new(0);
    let factory = async || {
        let number = count.fetch_add(1, Ordering::Relaxed);
        let store = FsRecordingStore::open(directory.path().join(number.to_string())).await.unwrap();
        Arc::new(store) as Arc<dyn RecordingStore>
    };
    conformance::recordings::run_all(&factory).await;
}

pub(crate) fn meta() -> RecordingMeta {
    RecordingMeta {
        session: "00000001-0000-4000-8000-000000000000".parse().unwrap(),
        cluster: "example.com".parse().unwrap(),
        host_id: "11111111-2222-4333-8444-555555555555".parse().unwrap(),
        host_name: "db-1".parse().unwrap(),
        user: "alice".parse().unwrap(),
        login: "root".parse().unwrap(),
        started: Timestamp::from_unix_millis(1_795_262_400_000),
        command: None,
        terminal: None,
    }
}

/// Every file below a directory with its mode and content.
pub(crate) fn tree(root: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(path) = left.pop() {
        let metadata = std::fs::metadata(&path).unwrap();
        let mut content = Vec::new();
        if metadata.is_dir() {
            left.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            content = std::fs::read(&path).unwrap();
        }
        let name = path.strip_prefix(root).unwrap().to_owned();
        found.insert(name, (metadata.permissions().mode() & 0o7777, content));
    }
    found
}

#[tokio::test]
async fn only_the_owner_may_read_whatever_the_umask() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("a/recordings");
    let output = child::command("record_and_log", &root).under_umask("000").output();
    assert!(output.status.success(), "{output:?}");
    let tree = tree(&directory.path().join("a"));
    assert!(tree.len() > 8, "{tree:?}");
    for (name, (mode, _)) in tree {
        let is_directory = directory.path().join("a").join(&name).is_dir();
        assert_eq!(mode, if is_directory { 0o700 } else { 0o600 }, "{}", name.display());
    }
}

/// Writing one recording anew or completing it may take long, and no other session waits for it; what writes to the same one does.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_do_not_wait_for_each_other() {
    let directory = tempfile::tempdir().unwrap();
    let store = FsRecordingStore::open(directory.path()).await.unwrap();
    let long = meta();
    store.create(&long, &Form::PLAIN).await.unwrap();
    store.put_part(long.session, 0, Bytes::from_static(b"long")).await.unwrap();
    store.complete(long.session, &Completion::new(1, long.started)).await.unwrap();
    let (begun, has_begun) = std::sync::mpsc::channel();
    let (go_on, goes_on) = std::sync::mpsc::channel::<()>();
    let goes_on = std::sync::Mutex::new(goes_on);
    let change = move |_: u32, _: Bytes| {
        begun.send(()).unwrap();
        goes_on.lock().unwrap().recv().unwrap();
        Ok(Bytes::from_static(b"LONG"))
    };
    let (rewriting, of) = (store.clone(), long.session);
    let scope = TaskScope::new();
    scope.spawn(async move { rewriting.rewrite(of, Arc::new(change)).await.unwrap() });
    tokio::task::spawn_blocking(move || has_begun.recv()).await.unwrap().unwrap();
    let others = async {
        for number in 2..300 {
            let session = format!("{number:08}-0000-4000-8000-000000000000").parse().unwrap();
            let other = RecordingMeta { session, ..long.clone() };
            store.create(&other, &Form::PLAIN).await.unwrap();
            store.put_part(session, 0, Bytes::from_static(b"short")).await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(30), others).await.expect("nobody waits for another session");
    // Behind it: had it not waited, there would be nothing of it any more when the other one is done.
    let (deleting, of) = (store.clone(), long.session);
    scope.spawn(async move { deleting.delete(of).await.unwrap() });
    tokio::task::yield_now().await;
    assert_eq!(store.read(long.session, 0, 9).await.unwrap(), "long");
    go_on.send(()).unwrap();
    scope.join().await;
    assert!(matches!(store.info(long.session).await, Err(RecordingError::NotFound)));
}

/// Completing is interrupted after each of its steps; the recording is whole, and completing again finishes.
#[tokio::test]
async fn completing_survives_a_crash_at_any_step() {
    let directory = tempfile::tempdir().unwrap();
    let store = FsRecordingStore::open(directory.path()).await.unwrap();
    let meta = meta();
    store.create(&meta, &Form::PLAIN).await.unwrap();
    store.put_part(meta.session, 0, Bytes::from_static(b"one ")).await.unwrap();
    store.put_part(meta.session, 1, Bytes::from_static(b"two")).await.unwrap();
    let session = directory.path().join("sessions").join(meta.session.to_string());
    let before = tree(&session);
    store.complete(meta.session, &Completion::new(2, meta.started)).await.unwrap();
    let after = tree(&session);
    assert!(!after.keys().any(|name| name.to_string_lossy().starts_with("part-")), "{after:?}");

    // The files in the order in which completing makes them; a crash leaves the first so many, and the parts.
    let steps = ["data", "lengths", "complete.json"];
    for step in 0..=steps.len() {
        for torn in [false, true] {
            std::fs::remove_dir_all(&session).unwrap();
            std::fs::create_dir(&session).unwrap();
            let write = |name: &Path, content: &[u8]| std::fs::write(session.join(name), content).unwrap();
            before
                .iter()
                .filter(|(name, _)| !name.as_os_str().is_empty())
                .for_each(|(name, (_, content))| write(name, content));
            for name in &steps[..step] {
                write(Path::new(name), &after[Path::new(name)].1);
            }
            if torn && step < steps.len() {
                write(Path::new(&format!(".{}.new", steps[step])), b"half of");
            }
            let read = store.read(meta.session, 0, 100).await.unwrap();
            assert_eq!(read, "one two", "after step {step}");
            assert_eq!(store.parts(meta.session).await.unwrap(), 2);
            store.complete(meta.session, &Completion::new(2, meta.started)).await.unwrap();
            assert_eq!(store.read(meta.session, 0, 100).await.unwrap(), "one two");
            let info = store.info(meta.session).await.unwrap();
            assert_eq!((info.len, info.completed), (7, Some(meta.started)));
            assert!(!session.join("part-00000000").exists(), "the parts are cleaned away");
        }
    }
}

#[tokio::test]
async fn a_damaged_recording_hides_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let store = FsRecordingStore::open(directory.path()).await.unwrap();
    let good = meta();
    let bad = RecordingMeta { session: "00000002-0000-4000-8000-000000000000".parse().unwrap(), ..meta() };
    store.create(&good, &Form::PLAIN).await.unwrap();
    store.create(&bad, &Form::PLAIN).await.unwrap();
    std::fs::write(directory.path().join("sessions").join(bad.session.to_string()).join("meta.json"), "{")
        .unwrap();
    std::fs::write(directory.path().join("days/2026-11-21/notes.txt"), "by a person").unwrap();
    let list = store.list(&Listing::span(Timestamp::EPOCH, Timestamp::MAX, 10)).await.unwrap();
    assert_eq!(list.iter().map(|info| info.meta.session).collect::<Vec<_>>(), [good.session]);
    let error = store.info(bad.session).await.unwrap_err();
    assert!(matches!(error, RecordingError::Unavailable { .. }), "{error:?}");
    assert!(std::error::Error::source(&error).unwrap().to_string().ends_with("meta.json is damaged"));
}

#[tokio::test]
async fn a_directory_that_cannot_be_made_is_an_error() {
    let error = FsRecordingStore::open("/proc/teleport/recordings").await.unwrap_err();
    assert!(matches!(error, RecordingError::Unavailable { .. }), "{error:?}");
}

/// Every user may ask for the own recordings: those of others are not looked through for it.
#[tokio::test]
async fn a_user_is_found_without_the_list_of_all() {
    let directory = tempfile::tempdir().unwrap();
    let store = FsRecordingStore::open(directory.path()).await.unwrap();
    let own = meta();
    store.create(&own, &Form::PLAIN).await.unwrap();
    std::fs::remove_dir_all(directory.path().join("days")).unwrap();
    let listed =
        store.list(&Listing::span(Timestamp::EPOCH, Timestamp::MAX, 10).of(&own.user)).await.unwrap();
    assert_eq!(listed.iter().map(|info| &info.meta).collect::<Vec<_>>(), [&own]);
}

/// Deleting is interrupted after each of its steps; the recording is gone for everybody, and deleting again finishes.
#[tokio::test]
async fn deleting_survives_a_crash_at_any_step() {
    let directory = tempfile::tempdir().unwrap();
    let store = FsRecordingStore::open(directory.path()).await.unwrap();
    let meta = meta();
    let session = directory.path().join("sessions").join(meta.session.to_string());
    let trash = directory.path().join("deleted").join(meta.session.to_string());
    let marker = |list: &str| {
        let name = format!("2026-11-21/{:015}-{}", meta.started.unix_millis(), meta.session);
        directory.path().join(list).join(name)
    };
    for step in 0..4 {
        store.create(&meta, &Form::PLAIN).await.unwrap();
        store.put_part(meta.session, 0, Bytes::from_static(b"one")).await.unwrap();
        store.complete(meta.session, &Completion::new(1, meta.started)).await.unwrap();
        // As deleting does it, up to a step.
        std::fs::rename(&session, &trash).unwrap();
        if step > 0 {
            std::fs::remove_file(marker("days")).unwrap();
        }
        if step > 1 {
            std::fs::remove_file(marker("users/alice")).unwrap();
        }
        if step > 2 {
            std::fs::remove_file(trash.join("meta.json")).unwrap();
        }
        let error = store.info(meta.session).await.unwrap_err();
        assert!(matches!(error, RecordingError::NotFound), "{error:?}");
        let all = Listing::span(Timestamp::EPOCH, Timestamp::MAX, 10);
        for listing in [all.clone(), all.of(&meta.user)] {
            assert!(store.list(&listing).await.unwrap().is_empty());
        }
        store.delete(meta.session).await.unwrap();
        for path in [&session, &trash, &marker("days"), &marker("users/alice")] {
            assert!(!path.exists(), "step {step}: {}", path.display());
        }
    }
}

/// Two stores over one directory, as two services have them that share it: what they write at the same time is there once and whole,
/// and the locks leave nothing behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn services_that_share_a_directory_do_not_meet() {
    let directory = tempfile::tempdir().unwrap();
    let stores = [
        FsRecordingStore::open(directory.path()).await.unwrap(),
        FsRecordingStore::open(directory.path()).await.unwrap(),
    ];
    let ids = [
        stores[0].id(uuid::Uuid::from_u128(1)).await.unwrap(),
        stores[1].id(uuid::Uuid::from_u128(2)).await.unwrap(),
    ];
    assert_eq!(ids[0], ids[1], "it is one place");
    let meta = meta();
    for round in 0..20_u32 {
        let session = format!("{round:08}-0000-4000-8000-000000000001").parse().unwrap();
        let meta = RecordingMeta { session, ..meta.clone() };
        let scope = TaskScope::new();
        for number in 0..8 {
            let (store, meta) = (stores[number % 2].clone(), meta.clone());
            scope.spawn(async move {
                store.create(&meta, &Form::PLAIN).await.unwrap();
                store.put_part(meta.session, 0, Bytes::from(vec![b'x'; 100_000])).await.unwrap();
                store.complete(meta.session, &Completion::new(1, meta.started)).await.unwrap();
            });
        }
        tokio::time::timeout(Duration::from_secs(120), scope.join()).await.unwrap();
        let info = stores[0].info(session).await.unwrap();
        assert!(info.completed.is_some() && info.len == 100_000, "{info:?}");
        if round % 2 == 0 {
            let (one, other) = tokio::join!(stores[0].delete(session), stores[1].delete(session));
            one.and(other).unwrap();
        }
    }
    assert_eq!(std::fs::read_dir(directory.path().join("locks")).unwrap().count(), 0);
}
