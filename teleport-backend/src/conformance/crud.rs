//! Single items.

use bytes::Bytes;
use teleport_core::storage::{Backend, BackendExt, Batch, Key, MAX_KEY_LEN, Prefix, Revision, StorageError};

use super::{Factory, bytes, key, prefix, subject};

async fn value(backend: &dyn Backend, name: &str) -> Option<Vec<u8>> {
    backend.get(&key(name)).await.unwrap().map(|item| item.value.to_vec())
}

/// Create, read, replace, delete; every revision is greater than those before.
///
/// # Panics
/// Where the driver breaks the contract.
pub async fn items_are_stored_and_revisions_grow(factory: &impl Factory) {
    let (backend, _clock) = subject(factory).await;
    let alice = key("users/alice");
    assert!(backend.get(&alice).await.unwrap().is_none(), "a fresh backend is empty");
    assert!(backend.list(&Prefix::root()).await.unwrap().is_empty(), "a fresh backend is empty");

    let created = backend.create(&alice, bytes("one"), None).await.unwrap();
    assert!(created > Revision::ZERO, "zero is the revision of what was never written");
    let item = backend.get(&alice).await.unwrap().expect("what was created is there");
    assert_eq!((&item.key, &item.value[..], item.expires), (&alice, &b"one"[..], None));
    assert_eq!(item.revision, created, "the item carries the revision that the commit returned");

    let again = backend.create(&alice, bytes("two"), None).await.unwrap_err();
    assert!(
        matches!(&again, StorageError::Conflict { key } if *key == alice),
        "creating twice conflicts: {again:?}"
    );
    assert_eq!(value(&*backend, "users/alice").await.unwrap(), b"one", "a conflict writes nothing");

    let updated = backend.update(&alice, created, bytes("two"), None).await.unwrap();
    assert!(updated > created, "revisions grow");
    let stale = backend.update(&alice, created, bytes("three"), None).await.unwrap_err();
    assert!(stale.is_conflict(), "an old revision conflicts: {stale:?}");

    let put = backend.put(&alice, bytes("four"), None).await.unwrap();
    let other = backend.put(&key("users/bob"), bytes(""), None).await.unwrap();
    let empty = backend.commit(Batch::new()).await.expect("an empty batch is valid");
    assert!(put > updated && other > put && empty > other, "revisions grow over all keys and batches");
    assert_eq!(value(&*backend, "users/alice").await.unwrap(), b"four");
    assert_eq!(value(&*backend, "users/bob").await.unwrap(), b"", "an empty value is a value");
    assert_eq!(backend.get(&alice).await.unwrap().unwrap().revision, put, "others' writes leave it");

    let binary: Vec<u8> = (0..=255).collect();
    backend.put(&key("binary"), binary.clone().into(), None).await.unwrap();
    assert_eq!(value(&*backend, "binary").await.unwrap(), binary, "values are any bytes");

    let deleted = backend.delete(&alice).await.unwrap();
    assert!(deleted > empty, "a deletion is a commit");
    assert!(value(&*backend, "users/alice").await.is_none());
    assert!(backend.delete(&alice).await.unwrap_err().is_conflict(), "what is gone cannot be deleted");
    assert!(backend.touch(&alice, None).await.unwrap_err().is_conflict(), "nor touched");

    let recreated = backend.create(&alice, bytes("five"), None).await.unwrap();
    assert!(recreated > deleted, "a revision is never used twice");
    let stale = backend.update(&alice, put, bytes("six"), None).await.unwrap_err();
    assert!(stale.is_conflict(), "the revision of a deleted item does not come back");
    assert_eq!(backend.delete_range(&prefix("users")).await.unwrap(), 2);
    assert_eq!(backend.list(&Prefix::root()).await.unwrap().len(), 1, "other prefixes are left");
    assert!(!backend.to_string().is_empty(), "Display names the driver for logs");
}

/// Names are data, whatever a database behind the driver would make of them: quotes, ends of statements, wildcards, long keys; and
/// values with every byte, zero among them.
///
/// # Panics
/// Where the driver breaks the contract.
pub async fn names_are_data(factory: &impl Factory) {
    let (backend, _clock) = subject(factory).await;
    // With room for what a wrapper puts before it.
    let longest = "k".repeat(MAX_KEY_LEN - 64);
    let deep = "k/".repeat(MAX_KEY_LEN / 2 - 33) + "k";
    let mut names = vec![
        "'",
        "';drop~table~items;--",
        "''",
        "\"",
        "\\",
        "\\'",
        "%",
        "_",
        "a%",
        "a_",
        "ab",
        "$1",
        "{}",
        "\\x00",
        "%00",
        "..",
        "-",
        "~",
        &longest,
        &deep,
    ];
    for name in &names {
        backend
            .create(&key(name), Bytes::copy_from_slice(format!("\0{name}\0").as_bytes()), None)
            .await
            .unwrap();
    }
    names.sort_unstable();
    let listed = backend.list(&Prefix::root()).await.unwrap();
    assert_eq!(
        listed.iter().map(|item| item.key.as_str()).collect::<Vec<_>>(),
        names,
        "each is itself, in the order of bytes"
    );
    for item in &listed {
        assert_eq!(item.value, format!("\0{}\0", item.key).as_bytes(), "with its own value");
        let found = backend.get(&item.key).await.unwrap().expect("each is found by its name");
        assert_eq!(&found, item);
    }
    // A wildcard is none: these are prefixes of nothing.
    for wild in ["%", "_", "a%", "'"] {
        assert!(backend.list(&prefix(wild)).await.unwrap().is_empty(), "{wild}");
    }
    backend.delete(&key("%")).await.unwrap();
    backend.delete(&key("_")).await.unwrap();
    assert_eq!(backend.list(&Prefix::root()).await.unwrap().len(), names.len() - 2, "one each");
    for not_a_key in ["a\0b", "a b", "", "/", "é", &"k".repeat(MAX_KEY_LEN + 1), &"k".repeat(4096)] {
        assert!(Key::new(not_a_key).is_err(), "no driver ever sees {not_a_key:?}");
    }
}

/// After `close` every call is refused, and closing again is harmless.
///
/// # Panics
/// Where the driver breaks the contract.
pub async fn closing_ends_everything(factory: &impl Factory) {
    let (backend, _clock) = subject(factory).await;
    backend.put(&key("a"), bytes("1"), None).await.unwrap();
    backend.close().await;
    backend.close().await;
    let refused = |result: Result<(), StorageError>| {
        assert!(
            matches!(result, Err(StorageError::Unavailable { .. })),
            "a closed backend is not available: {result:?}"
        );
    };
    refused(backend.get(&key("a")).await.map(drop));
    refused(backend.range(&Prefix::root(), None, 1).await.map(drop));
    refused(backend.put(&key("a"), bytes("2"), None).await.map(drop));
    refused(backend.watch(&Prefix::root()).await.map(drop));
}
