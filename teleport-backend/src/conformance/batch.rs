//! The atomic write.

use bytes::Bytes;
use teleport_core::storage::{
    Action, Backend, BackendExt, Batch, Condition, InvalidBatch, MAX_OPERATIONS, MAX_VALUE_LEN, Prefix,
    Revision, StorageError,
};

use super::{Factory, bytes, key, subject};

async fn contents(backend: &dyn Backend) -> Vec<(String, Bytes, Revision)> {
    let items = backend.list(&Prefix::root()).await.unwrap();
    items.into_iter().map(|item| (item.key.to_string(), item.value, item.revision)).collect()
}

/// A batch happens as a whole, with one revision, or not at all.
///
/// # Panics
/// Where the driver breaks the contract.
pub async fn batches_are_atomic(factory: &impl Factory) {
    let (backend, _clock) = subject(factory).await;
    let first = backend
        .commit(
            Batch::new()
                .put(key("a"), Condition::Absent, "1", None)
                .put(key("b"), Condition::Absent, "1", None)
                .put(key("c"), Condition::Any, "1", None)
                .put(key("d"), Condition::Any, "1", None),
        )
        .await
        .unwrap();
    assert!(contents(&*backend).await.iter().all(|(_, _, revision)| *revision == first), "one revision");

    let second = backend
        .commit(
            Batch::new()
                .put(key("a"), Condition::Is(first), "2", None)
                .with(key("b"), Condition::Exists, Action::Delete)
                .with(key("c"), Condition::Is(first), Action::Keep)
                .with(key("d"), Condition::Any, Action::Touch { expires: None })
                .with(key("gone"), Condition::Absent, Action::Delete)
                .with(key("untouched"), Condition::Absent, Action::Touch { expires: None })
                .with(key("unkept"), Condition::Absent, Action::Keep),
        )
        .await
        .unwrap();
    let expected = vec![
        ("a".to_owned(), bytes("2"), second),
        ("c".to_owned(), bytes("1"), first),
        ("d".to_owned(), bytes("1"), second),
    ];
    assert_eq!(contents(&*backend).await, expected, "Keep and Touch never make an item");

    // The failing condition stands last, and is about the state before the batch.
    let failing = Batch::new()
        .put(key("a"), Condition::Any, "3", None)
        .with(key("c"), Condition::Any, Action::Delete)
        .put(key("new"), Condition::Absent, "3", None)
        .with(key("b"), Condition::Exists, Action::Keep);
    match backend.commit(failing).await {
        Err(StorageError::Conflict { key: at }) => assert_eq!(at, key("b"), "the conflict names the key"),
        other => panic!("a failing condition is a conflict, not {other:?}"),
    }
    assert_eq!(contents(&*backend).await, expected, "a conflict writes nothing");

    let two_failures = Batch::new()
        .with(key("c"), Condition::Exists, Action::Keep)
        .with(key("y"), Condition::Exists, Action::Keep)
        .with(key("b"), Condition::Exists, Action::Keep);
    match backend.commit(two_failures).await {
        Err(StorageError::Conflict { key: at }) => assert_eq!(at, key("y"), "the first in the batch's order"),
        other => panic!("a failing condition is a conflict, not {other:?}"),
    }
}

/// Every condition against an item that is absent, current and changed.
///
/// # Panics
/// Where the driver breaks the contract.
pub async fn conditions_hold_or_nothing_happens(factory: &impl Factory) {
    let (backend, _clock) = subject(factory).await;
    let old = backend.put(&key("there"), bytes("old"), None).await.unwrap();
    let now = backend.put(&key("there"), bytes("new"), None).await.unwrap();
    let table = [
        ("absent", Condition::Any, true),
        ("absent", Condition::Absent, true),
        ("absent", Condition::Exists, false),
        ("absent", Condition::Is(now), false),
        ("absent", Condition::Is(Revision::ZERO), false),
        ("there", Condition::Any, true),
        ("there", Condition::Absent, false),
        ("there", Condition::Exists, true),
        ("there", Condition::Is(now), true),
        ("there", Condition::Is(old), false),
        ("there", Condition::Is(Revision::from_u64(u64::MAX)), false),
    ];
    for (name, condition, holds) in table {
        let batch = Batch::new().with(key(name), condition, Action::Keep).put(
            key("witness"),
            Condition::Any,
            "seen",
            None,
        );
        let result = backend.commit(batch).await;
        assert_eq!(result.is_ok(), holds, "{condition:?} on {name}: {result:?}");
        let witness = backend.get(&key("witness")).await.unwrap();
        assert_eq!(witness.is_some(), holds, "{condition:?} on {name}: the rest of the batch goes with it");
        if holds {
            backend.delete(&key("witness")).await.unwrap();
        }
        assert_eq!(backend.get(&key("there")).await.unwrap().unwrap().revision, now, "Keep changes nothing");
    }
}

/// What no driver accepts is refused before anything is written; what is just allowed works.
///
/// # Panics
/// Where the driver breaks the contract.
pub async fn limits_are_enforced(factory: &impl Factory) {
    let (backend, _clock) = subject(factory).await;
    let puts = |count: usize| {
        (0..count).fold(Batch::new(), |batch, n| batch.put(key(&format!("n/{n}")), Condition::Any, "x", None))
    };
    let long = Bytes::from(vec![7; MAX_VALUE_LEN + 1]);
    let invalid = [
        (puts(MAX_OPERATIONS + 1), InvalidBatch::TooManyOperations),
        (
            puts(1).with(key("n/0"), Condition::Any, Action::Keep),
            InvalidBatch::DuplicateKey { key: key("n/0") },
        ),
        (
            puts(1).put(key("long"), Condition::Any, long.clone(), None),
            InvalidBatch::ValueTooLong { key: key("long") },
        ),
    ];
    for (batch, expected) in invalid {
        match backend.commit(batch).await {
            Err(StorageError::Invalid { source }) => assert_eq!(source, expected),
            other => panic!("{expected:?} is invalid, not {other:?}"),
        }
        assert!(contents(&*backend).await.is_empty(), "an invalid batch writes nothing");
    }
    backend.commit(puts(MAX_OPERATIONS)).await.expect("the greatest batch is accepted");
    assert_eq!(contents(&*backend).await.len(), MAX_OPERATIONS);
    // A wrapper that keeps several backends apart in one may use some of a key for itself.
    let longest = key(&format!("k/{}", "x".repeat(teleport_core::storage::MAX_KEY_LEN - 64)));
    let value = long.slice(..MAX_VALUE_LEN);
    backend.put(&longest, value.clone(), None).await.expect("long keys and the longest value are accepted");
    assert_eq!(backend.get(&longest).await.unwrap().unwrap().value, value);
}
