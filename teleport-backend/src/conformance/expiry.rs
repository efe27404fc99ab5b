//! Expiry under a clock that the test moves.

use std::time::Duration;

use teleport_core::storage::{Action, Backend, BackendExt, Batch, Condition, Prefix, WatchEvent};

use super::{Factory, bytes, key, patiently, prefix, subject};

const TTL: Duration = Duration::from_secs(60);
const MOMENT: Duration = Duration::from_millis(1);

async fn is_there(backend: &dyn Backend, name: &str) -> bool {
    let got = backend.get(&key(name)).await.unwrap().is_some();
    let listed = backend.list(&Prefix::root()).await.unwrap().iter().any(|item| item.key == key(name));
    assert_eq!(got, listed, "get and range agree about {name}");
    got
}

/// From the very instant of its expiry an item is absent for reads and conditions.
///
/// # Panics
/// Where the driver breaks the contract.
pub async fn expired_items_are_absent_at_once(factory: &impl Factory) {
    let (backend, clock) = subject(factory).await;
    let expires = clock.after(TTL);
    let revision = backend.create(&key("a"), bytes("1"), Some(expires)).await.unwrap();
    backend.put(&key("b"), bytes("1"), Some(expires)).await.unwrap();
    backend.put(&key("keep"), bytes("1"), None).await.unwrap();
    assert_eq!(backend.get(&key("a")).await.unwrap().unwrap().expires, Some(expires));

    clock.advance(TTL - MOMENT);
    assert!(is_there(&*backend, "a").await, "alive until the instant of its expiry");
    clock.advance(MOMENT);
    assert!(!is_there(&*backend, "a").await, "absent from the instant of its expiry");
    assert!(is_there(&*backend, "keep").await, "an item without an expiry stays");

    let update = backend.update(&key("a"), revision, bytes("2"), None).await;
    assert!(update.is_err_and(|error| error.is_conflict()), "an expired item has no revision");
    assert!(backend.delete(&key("a")).await.is_err_and(|error| error.is_conflict()));
    assert!(backend.touch(&key("a"), None).await.is_err_and(|error| error.is_conflict()));
    let touch = Batch::new().with(key("a"), Condition::Any, Action::Touch { expires: None });
    backend.commit(touch).await.unwrap();
    assert!(!is_there(&*backend, "a").await, "touching does not raise the dead");

    let created = backend.create(&key("a"), bytes("3"), None).await.expect("its place is free");
    assert!(created > revision);
    backend.commit(Batch::new().with(key("b"), Condition::Absent, Action::Delete)).await.unwrap();
    clock.advance(TTL);
    assert!(is_there(&*backend, "a").await, "the expiry of the former item is forgotten");

    let past = clock.after(Duration::ZERO);
    backend.put(&key("past"), bytes("1"), Some(past)).await.unwrap();
    assert!(!is_there(&*backend, "past").await, "what expires now is absent now");
    backend.put(&key("a"), bytes("4"), Some(past)).await.unwrap();
    assert!(!is_there(&*backend, "a").await, "and replaces what was there");
}

/// Expired items are removed in time and watches are told, once each.
///
/// # Panics
/// Where the driver breaks the contract.
pub async fn expired_items_are_swept(factory: &impl Factory) {
    let (backend, clock) = subject(factory).await;
    let mut watch = backend.watch(&prefix("s")).await.unwrap();
    watch.next().await.unwrap();
    let mut last = None;
    for name in ["s/2", "s/1"] {
        let expires = clock.after(if name == "s/1" { TTL } else { 2 * TTL });
        last = Some(backend.put(&key(name), bytes("1"), Some(expires)).await.unwrap());
        watch.next().await.unwrap();
    }
    backend.put(&key("s/stays"), bytes("1"), Some(clock.after(10 * TTL))).await.unwrap();
    watch.next().await.unwrap();
    for name in ["s/1", "s/2"] {
        clock.advance(TTL);
        match patiently("sweeping", watch.next()).await {
            Ok(WatchEvent::Deleted { key: swept, revision }) => {
                assert_eq!(swept, key(name), "what has expired is swept, and only that");
                assert!(Some(revision) > last, "sweeping is a commit of its own");
                last = Some(revision);
            }
            other => panic!("sweeping emits Deleted, not {other:?}"),
        }
    }
    let next = backend.put(&key("s/after"), bytes("1"), None).await.unwrap();
    match watch.next().await {
        Ok(WatchEvent::Put(item)) => {
            assert_eq!((item.key, item.revision), (key("s/after"), next), "each is swept once");
            assert!(Some(next) > last, "revisions grow over sweeps");
        }
        other => panic!("expected the write after the sweeps, not {other:?}"),
    }
}

/// Touching and rewriting move, add and remove an expiry, and the old one has no effect any more.
///
/// # Panics
/// Where the driver breaks the contract.
pub async fn expiry_can_be_moved(factory: &impl Factory) {
    let (backend, clock) = subject(factory).await;
    let soon = Some(clock.after(TTL));
    let later = Some(clock.after(3 * TTL));
    for name in ["extended", "freed", "shortened", "rewritten"] {
        let first = if name == "shortened" { later } else { soon };
        backend.put(&key(name), bytes(name), first).await.unwrap();
    }
    let before = backend.get(&key("extended")).await.unwrap().unwrap();
    let touched = backend.touch(&key("extended"), later).await.unwrap();
    let item = backend.get(&key("extended")).await.unwrap().unwrap();
    assert_eq!((item.value, item.expires), (bytes("extended"), later), "touching leaves the value");
    assert!(item.revision == touched && touched > before.revision, "touching is a change");
    backend.touch(&key("freed"), None).await.unwrap();
    backend.touch(&key("shortened"), soon).await.unwrap();
    backend.put(&key("rewritten"), bytes("again"), None).await.unwrap();

    // A commit between gives a driver that sweeps with its commits the chance to take the wrong one.
    clock.advance(TTL);
    backend.put(&key("other"), bytes("1"), None).await.unwrap();
    assert!(is_there(&*backend, "extended").await, "extended");
    assert!(is_there(&*backend, "freed").await, "an expiry can be removed");
    assert!(is_there(&*backend, "rewritten").await, "a rewrite has its own expiry");
    assert!(!is_there(&*backend, "shortened").await, "an expiry can come closer");
    clock.advance(2 * TTL);
    backend.put(&key("other"), bytes("2"), None).await.unwrap();
    assert!(!is_there(&*backend, "extended").await, "the new expiry is in force");
    assert!(is_there(&*backend, "freed").await && is_there(&*backend, "rewritten").await);
}
