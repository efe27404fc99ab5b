//! What is particular to etcd.

use std::sync::Arc;

use bytes::Bytes;
use teleport_backend::conformance::SuiteClock;
use teleport_backend::open_remote;
use teleport_core::clock::{Clock, SystemClock};
use teleport_core::storage::{
    Backend, BackendExt, Batch, Condition, Key, MAX_VALUE_LEN, Prefix, WatchEnd, WatchEvent,
};

use crate::remote::said;
use crate::servers::proxy::{Mode, Proxy};
use crate::servers::{Etcd, PATIENCE, remote};

async fn open(url: &str) -> Result<Arc<dyn Backend>, String> {
    open_remote(url, Arc::new(SystemClock::new()), remote()).await.map_err(|error| said(&error))
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

/// What is below the prefix and is not ours stays as it is.
#[tokio::test(flavor = "multi_thread")]
async fn other_keys_are_left_alone() {
    let etcd = Etcd::start().await;
    let at = |prefix: &str| format!("etcd://127.0.0.1:{}/{prefix}", etcd.port);
    etcd.ctl(&["put", "/theirs/a", "precious"]);
    let error = open(&at("theirs")).await.unwrap_err();
    assert!(error.contains("/theirs/a") && error.contains("another prefix"), "{error}");
    etcd.ctl(&["put", "/newer/format", "2"]);
    let error = open(&at("newer")).await.unwrap_err();
    assert!(error.contains("newer version"), "{error}");
    let all = String::from_utf8(etcd.ctl(&["get", "/", "--prefix"]).stdout).unwrap();
    assert_eq!(all, "/newer/format\n2\n/theirs/a\nprecious\n");
    // Damage is told, not skipped.
    let ours = open(&at("ours")).await.unwrap();
    etcd.ctl(&["put", "/ours/items/a", "short"]);
    let error = ours.get(&key("a")).await.unwrap_err();
    assert!(said(&error).contains("damaged"), "{error:?}");
    ours.close().await;
}

/// etcd forgets history: a watch that would need it ends, and the next one begins anew.
#[tokio::test(flavor = "multi_thread")]
async fn compacted_history_ends_the_watches() {
    let etcd = Etcd::start().await;
    let proxy = Proxy::to(etcd.port).await;
    let direct = open(&format!("etcd://127.0.0.1:{}/c", etcd.port)).await.unwrap();
    let through = open(&format!("etcd://127.0.0.1:{}/c", proxy.port)).await.unwrap();
    let mut watch = through.watch(&Prefix::root()).await.unwrap();
    watch.next().await.unwrap();
    proxy.set(Mode::Refuse);
    proxy.cut();
    let mut last = None;
    for _ in 0..5 {
        last = Some(direct.put(&key("a"), Bytes::new(), None).await.unwrap());
    }
    etcd.ctl(&["compact", &last.unwrap().to_string()]);
    proxy.set(Mode::Pass);
    let end = tokio::time::timeout(PATIENCE, watch.next()).await.unwrap();
    assert_eq!(end, Err(WatchEnd::Closed), "and not an event with a gap before it");
    let mut watch = through.watch(&Prefix::root()).await.unwrap();
    assert!(matches!(watch.next().await, Ok(WatchEvent::Ready { revision }) if Some(revision) >= last));
    let revision = direct.put(&key("b"), Bytes::new(), None).await.unwrap();
    let event = tokio::time::timeout(PATIENCE, watch.next()).await.unwrap();
    assert!(matches!(event, Ok(WatchEvent::Put(item)) if item.revision == revision));
    through.close().await;
    direct.close().await;
}

/// Somebody else's write among ours ends the watches, once: what comes behind it is told to the next ones, and things expire.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_item_does_not_stop_the_others() {
    let etcd = Etcd::start().await;
    let clock = Arc::new(SuiteClock::new());
    let url = format!("etcd://127.0.0.1:{}/d", etcd.port);
    let backend = open_remote(&url, Arc::clone(&clock) as Arc<dyn Clock>, remote()).await.unwrap();
    let mut watch = backend.watch(&Prefix::root()).await.unwrap();
    watch.next().await.unwrap();
    etcd.ctl(&["put", "/d/items/bad", "short"]);
    let end = tokio::time::timeout(PATIENCE, watch.next()).await.unwrap();
    assert_eq!(end, Err(WatchEnd::Closed), "and not silence");
    let expires = clock.after(std::time::Duration::from_secs(60));
    let until = tokio::time::Instant::now() + PATIENCE;
    let mut watch = loop {
        // Between the damage and its discovery a watch may have begun that ends as well.
        let mut watch = backend.watch(&Prefix::new("good").unwrap()).await.unwrap();
        watch.next().await.unwrap();
        backend.put(&key("good/a"), Bytes::new(), Some(expires)).await.unwrap();
        match tokio::time::timeout(PATIENCE, watch.next()).await.unwrap() {
            Ok(event) => {
                assert!(matches!(event, WatchEvent::Put(_)), "{event:?}");
                break watch;
            }
            Err(_) => assert!(tokio::time::Instant::now() < until),
        }
    };
    clock.advance(std::time::Duration::from_secs(60));
    let event = tokio::time::timeout(PATIENCE, watch.next()).await.unwrap();
    assert!(matches!(event, Ok(WatchEvent::Deleted { .. })), "{event:?}");
    assert!(said(&backend.get(&key("bad")).await.unwrap_err()).contains("damaged"));
    backend.close().await;
}

/// A batch is one request, and etcd bounds those.
#[tokio::test(flavor = "multi_thread")]
async fn batches_that_are_too_long_are_refused_whole() {
    let etcd = Etcd::start().await;
    let backend = open(&format!("etcd://127.0.0.1:{}/long", etcd.port)).await.unwrap();
    let value = Bytes::from(vec![7; MAX_VALUE_LEN]);
    for count in [2, 30] {
        let batch = (0..count).fold(Batch::new(), |batch, n| {
            batch.put(key(&format!("n/{n}")), Condition::Any, value.clone(), None)
        });
        let error = backend.commit(batch).await.unwrap_err();
        assert!(said(&error).contains("--max-request-bytes"), "{}", said(&error));
        assert!(backend.list(&Prefix::root()).await.unwrap().is_empty());
    }
    // Pages are longer than an answer may be, and come whole.
    for n in 0..40 {
        backend.put(&key(&format!("n/{n:02}")), value.clone(), None).await.unwrap();
    }
    assert_eq!(backend.list(&Prefix::root()).await.unwrap().len(), 40);
    assert_eq!(backend.delete_range(&Prefix::root()).await.unwrap(), 40);
    backend.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn users_and_passwords() {
    let etcd = Etcd::start().await;
    let at = |login: &str, option: &str| format!("etcd://{login}127.0.0.1:{}/auth{option}", etcd.port);
    for command in [
        &["user", "add", "root:rootpw"][..],
        &["user", "add", "teleport:right"],
        &["role", "add", "teleport"],
        &["role", "grant-permission", "teleport", "--prefix=true", "readwrite", "/auth/"],
        &["user", "grant-role", "teleport", "teleport"],
        &["role", "add", "reader"],
        &["role", "grant-permission", "reader", "--prefix=true", "read", "/auth/"],
        &["user", "add", "reader:right"],
        &["user", "grant-role", "reader", "reader"],
        &["user", "grant-role", "root", "root"],
        &["auth", "enable"],
    ] {
        etcd.ctl(command);
    }
    for (login, option) in [("", ""), ("teleport@", ""), ("teleport:wrong@", ""), ("nobody:right@", "")] {
        let error = open(&at(login, option)).await.unwrap_err();
        assert!(error.contains("refuses the user"), "{login}: {error}");
        assert!(!error.contains("wrong@") && !error.contains(":right"), "{error}");
    }
    let error = open(&at("reader:right@", "")).await.unwrap_err();
    assert!(error.contains("permission denied"), "{error}");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "right\n").unwrap();
    let option = format!("?password-file={}", file.path().display());
    let backend = open(&at("teleport@", &option)).await.unwrap();
    backend.put(&key("a"), Bytes::new(), None).await.unwrap();
    let reader = open(&at("reader:right@", "")).await.unwrap();
    assert!(reader.get(&key("a")).await.unwrap().is_some());
    let error = reader.put(&key("a"), Bytes::new(), None).await.unwrap_err();
    assert!(said(&error).contains("permission denied"), "{error:?}");
    reader.close().await;
    backend.close().await;
}

/// Tokens end; the calls after that do not.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_renewed() {
    let mut etcd = Etcd::start().await;
    for command in
        [&["user", "add", "root:pw"][..], &["user", "grant-role", "root", "root"], &["auth", "enable"]]
    {
        etcd.ctl(command);
    }
    let proxy = Proxy::to(etcd.port).await;
    let backend = open(&format!("etcd://root:pw@127.0.0.1:{}/auth?timeout=60", proxy.port)).await.unwrap();
    backend.put(&key("a"), Bytes::new(), None).await.unwrap();
    // The server forgets every token, and the connections stay.
    for round in 0..3 {
        etcd.ctl(&["--user", "root:pw", "auth", "disable"]);
        etcd.ctl(&["auth", "enable"]);
        match round % 2 {
            0 => assert!(backend.get(&key("a")).await.unwrap().is_some()),
            _ => assert!(backend.put(&key("a"), Bytes::new(), None).await.is_ok()),
        }
    }
    backend.delete(&key("a")).await.unwrap();
    // One that was started again knows none either.
    etcd.restart().await;
    // Reads wait until it has elected itself.
    assert!(backend.get(&key("a")).await.unwrap().is_none());
    backend.put(&key("a"), Bytes::new(), None).await.unwrap();
    backend.close().await;
}
