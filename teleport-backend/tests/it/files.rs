//! The file of the redb driver: modes, restarts, and what is wrong with a file.

use std::error::Error;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use teleport_backend::conformance::SuiteClock;
use teleport_backend::redb::{OpenError, RedbBackend};
use teleport_backend::{KNOWN_URLS, open};
use teleport_core::storage::{
    Backend, BackendExt, Batch, Condition, Key, MAX_KEY_LEN, Prefix, StorageError, WatchEvent,
};
use tokio::time::Instant;

use crate::child;

fn clock() -> Arc<SuiteClock> {
    Arc::new(SuiteClock::new())
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

async fn refusal(path: &Path) -> OpenError {
    RedbBackend::open(path, clock()).await.map(drop).unwrap_err()
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[tokio::test]
async fn data_and_revisions_survive_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.redb");
    let clock = clock();
    let longest = key(&"k".repeat(MAX_KEY_LEN));
    let (first, newest) = {
        let backend = RedbBackend::open(&path, Arc::<SuiteClock>::clone(&clock)).await.unwrap();
        let expires = Some(clock.after(Duration::from_secs(60)));
        let first = backend.put(&longest, "kept".into(), None).await.unwrap();
        backend.put(&key("gone"), "1".into(), None).await.unwrap();
        backend.put(&key("mortal"), "1".into(), expires).await.unwrap();
        // The newest revision is one that no item carries any more.
        (first, backend.delete(&key("gone")).await.unwrap())
        // Dropped, not closed.
    };
    let backend = RedbBackend::open(&path, Arc::<SuiteClock>::clone(&clock)).await.unwrap();
    let mut watch = backend.watch(&Prefix::root()).await.unwrap();
    assert_eq!(watch.next().await, Ok(WatchEvent::Ready { revision: newest }));
    let item = backend.get(&longest).await.unwrap().unwrap();
    assert_eq!((item.value, item.revision), ("kept".into(), first));
    clock.advance(Duration::from_secs(60));
    assert!(backend.get(&key("mortal")).await.unwrap().is_none());
    match tokio::time::timeout(Duration::from_secs(20), watch.next()).await.unwrap() {
        Ok(WatchEvent::Deleted { key: swept, revision }) => {
            assert_eq!(swept, key("mortal"), "what expired is swept after a restart too");
            assert!(revision > newest);
        }
        other => panic!("expected the sweep, not {other:?}"),
    }
    let after = backend.put(&longest, "again".into(), None).await.unwrap();
    assert!(after > newest, "revisions grow over restarts");
    backend.close().await;
}

#[tokio::test]
async fn existing_data_opens_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.redb");
    let backend = RedbBackend::open(&path, clock()).await.unwrap();
    for chunk in 0..100 {
        let batch = (0..100).fold(Batch::new(), |batch, n| {
            batch.put(key(&format!("nodes/{chunk}/{n}")), Condition::Any, vec![b'x'; 400], None)
        });
        backend.commit(batch).await.unwrap();
    }
    backend.close().await;
    drop(backend);
    let start = Instant::now();
    let backend = RedbBackend::open(&path, clock()).await.unwrap();
    let took = start.elapsed();
    println!("10 000 items opened in {took:?}");
    assert!(took < Duration::from_secs(10), "opening took {took:?}");
    assert_eq!(backend.list(&Prefix::root()).await.unwrap().len(), 10_000);
}

#[tokio::test]
async fn only_the_owner_may_read_whatever_the_umask() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a/b/state.redb");
    // The umask belongs to the process, so a child has to show it.
    let output = child::command("open_once", &path).under_umask("000").output();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    assert_eq!(mode(&directory.path().join("a")), 0o700);

    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
    drop(RedbBackend::open(&path, clock()).await.unwrap());
    assert_eq!(mode(&path), 0o600, "a file that was restored with an open mode is closed");
    let names: Vec<_> = std::fs::read_dir(path.parent().unwrap()).unwrap().collect();
    assert_eq!(names.len(), 1, "nothing but the database is left: {names:?}");
}

#[tokio::test]
async fn a_file_in_use_names_the_process() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.redb");
    let holder = RedbBackend::open(&path, clock()).await.unwrap();
    let output = child::command("open_once", &path).output();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let expected = format!(
        "REFUSED the data directory of {} is in use by another process (pid {})",
        path.display(),
        std::process::id()
    );
    assert!(text.contains(&expected), "{text}");

    assert!(matches!(refusal(&path).await, OpenError::InUse { .. }), "twice in one process as well");
    holder.close().await;
    drop(RedbBackend::open(&path, clock()).await.expect("close releases the file"));
    drop(holder);
}

#[tokio::test]
async fn foreign_files_are_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    for (name, content) in [("text", &b"#!/bin/sh\n"[..]), ("short", b"re"), ("zeroes", &[0; 8192])] {
        let path = directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        let error = refusal(&path).await;
        assert!(matches!(error, OpenError::NotADatabase { .. }), "{name}: {error:?}");
        assert_eq!(std::fs::read(&path).unwrap(), content, "{name} was changed");
    }
    // A database of redb's, but not ours.
    let path = directory.path().join("other.redb");
    let other = ::redb::Database::create(&path).unwrap();
    let transaction = other.begin_write().unwrap();
    let table: ::redb::TableDefinition<'_, &str, &str> = ::redb::TableDefinition::new("meta");
    transaction.open_table(table).unwrap().insert("format", "theirs").unwrap();
    transaction.commit().unwrap();
    drop(other);
    let error = refusal(&path).await;
    assert!(matches!(error, OpenError::NotADatabase { .. }), "{error:?}");
    assert_eq!(
        error.to_string(),
        format!("{} is not a database of this program; it was left as it is", path.display())
    );
}

#[tokio::test]
async fn a_newer_format_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.redb");
    drop(RedbBackend::open(&path, clock()).await.unwrap());
    let database = ::redb::Database::open(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    let meta: ::redb::TableDefinition<'_, &str, u64> = ::redb::TableDefinition::new("meta");
    transaction.open_table(meta).unwrap().insert("format", 2).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let error = refusal(&path).await;
    assert!(matches!(error, OpenError::NewerFormat { found: 2, .. }), "{error:?}");
    assert!(error.to_string().contains("written by a newer version"), "{error}");
}

#[tokio::test]
async fn a_damaged_file_is_an_error_and_no_panic() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.redb");
    let backend = RedbBackend::open(&path, clock()).await.unwrap();
    backend.put(&key("a"), vec![7; 5000].into(), None).await.unwrap();
    backend.close().await;
    drop(backend);
    let whole = std::fs::read(&path).unwrap();
    for (name, content) in [
        ("cut", whole[..whole.len() / 2].to_vec()),
        ("header only", whole[..64].to_vec()),
        ("roots overwritten", [&whole[..64], &[0xA5; 400][..], &whole[464..]].concat()),
    ] {
        std::fs::write(&path, content).unwrap();
        let error = refusal(&path).await;
        assert!(
            matches!(
                error,
                OpenError::Damaged { .. } | OpenError::Io { .. } | OpenError::NotADatabase { .. }
            ),
            "{name}: {error:?}"
        );
    }
}

#[tokio::test]
async fn what_cannot_be_opened_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let error = refusal(directory.path()).await;
    let reason = error.source().unwrap().to_string();
    assert_eq!(reason, "it is a directory; name a file in it");

    let file = directory.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let error = refusal(&file.join("state.redb")).await;
    assert!(matches!(error, OpenError::Io { .. }), "a file stands where a directory should be: {error:?}");

    // Root may write everywhere, except where nobody can.
    let error = refusal(Path::new("/proc/teleport/state.redb")).await;
    assert_eq!(error.to_string(), "cannot create the directory /proc/teleport");
}

#[tokio::test]
async fn a_full_disk_heals_without_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.redb");
    // In units of 512 bytes. Without the trap the process would be killed by a signal at the limit.
    let limit = "trap '' XFSZ; ulimit -S -f 10000";
    let output = child::command("fill_the_disk", &path).after(limit).output();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success() && text.contains("HEALED"),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[tokio::test]
async fn urls_choose_the_driver() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.redb").display().to_string();
    assert_eq!(open("memory:", clock()).await.unwrap().to_string(), "memory:");
    for url in [format!("redb:{path}"), format!("redb://{path}"), path.clone()] {
        let backend = open(&url, clock()).await.unwrap();
        assert_eq!(backend.to_string(), format!("redb:{path}"), "{url}");
        backend.close().await;
    }
    for (url, expected) in [
        (
            "mysql://host",
            format!("there is no storage driver \"mysql\"; known are {}", KNOWN_URLS.join(", ")),
        ),
        ("redb:", "\"redb:\" is not a storage URL: the path of a file is missing".to_owned()),
        ("", "\"\" is not a storage URL: the path of a file is missing".to_owned()),
        ("memory:x", "\"memory:x\" is not a storage URL: nothing follows `memory:`".to_owned()),
    ] {
        assert_eq!(open(url, clock()).await.map(drop).unwrap_err().to_string(), expected);
    }
    let error = open("/", clock()).await.map(drop).unwrap_err();
    assert!(error.source().is_some_and(|source| source.is::<OpenError>()), "{error:?}");
}

#[tokio::test]
async fn dropping_waits_for_what_was_queued() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.redb");
    let backend = RedbBackend::open(&path, clock()).await.unwrap();
    {
        // Polled once, so it is queued (or done already), then dropped: the outcome is open, but not half.
        let batch =
            Batch::new().put(key("a"), Condition::Any, "1", None).put(key("b"), Condition::Any, "1", None);
        let commit = backend.commit(batch);
        tokio::pin!(commit);
        let _ = futures_util::poll!(commit.as_mut());
    }
    drop(backend);
    let backend = RedbBackend::open(&path, clock()).await.unwrap();
    assert_eq!(backend.list(&Prefix::root()).await.unwrap().len(), 2, "the queue is emptied before the end");
    backend.close().await;
    let error = backend.get(&key("a")).await.unwrap_err();
    assert!(matches!(error, StorageError::Unavailable { .. }));
}
