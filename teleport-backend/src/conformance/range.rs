//! Listings.

use std::time::Duration;

use teleport_core::storage::{Backend, BackendExt, Batch, Condition, MAX_OPERATIONS, MAX_PAGE, Prefix};

use super::{Factory, bytes, key, prefix, subject};

async fn names(backend: &dyn Backend, below: &Prefix, after: Option<&str>, limit: usize) -> Vec<String> {
    let after = after.map(key);
    let items = backend.range(below, after.as_ref(), limit).await.unwrap();
    items.into_iter().map(|item| item.key.to_string()).collect()
}

/// Order by bytes, whole segments, `after`, `limit`.
///
/// # Panics
/// Where the driver breaks the contract.
pub async fn ranges_are_ordered_and_bounded(factory: &impl Factory) {
    let (backend, _clock) = subject(factory).await;
    let written = ["u/b", "u/a/x", "u", "u2/a", "u/B", "u-/z", "u/a", "u/~", "t/z", "u/a-b", "u/!"];
    for name in written {
        backend.put(&key(name), bytes(name), None).await.unwrap();
    }
    let users = prefix("u");
    let all = ["u/!", "u/B", "u/a", "u/a-b", "u/a/x", "u/b", "u/~"];
    assert_eq!(names(&*backend, &users, None, 100).await, all, "below `u/`, in the order of bytes");
    assert_eq!(names(&*backend, &prefix("u/a"), None, 100).await, ["u/a/x"], "whole segments only");
    assert_eq!(names(&*backend, &prefix("none"), None, 100).await, [""; 0]);
    assert_eq!(names(&*backend, &Prefix::root(), None, 100).await.len(), written.len());

    assert_eq!(names(&*backend, &users, None, 2).await, all[..2], "at most `limit`");
    assert_eq!(names(&*backend, &users, None, 0).await, [""; 0], "a limit of none is none");
    assert_eq!(names(&*backend, &users, Some("u/a"), 2).await, all[3..5], "`after` itself is left out");
    assert_eq!(names(&*backend, &users, Some("u/a0"), 2).await, all[5..7], "`after` need not exist");
    assert_eq!(names(&*backend, &users, Some("a"), 2).await, all[..2], "`after` may come before the prefix");
    assert_eq!(names(&*backend, &users, Some("z"), 2).await, [""; 0], "or behind it");
    for item in backend.list(&users).await.unwrap() {
        assert_eq!(item.value, item.key.as_str(), "each key has its own value");
    }
}

/// More than a page, with expired items in between: pages are full as long as there is more.
///
/// # Panics
/// Where the driver breaks the contract.
pub async fn ranges_page_through_large_collections(factory: &impl Factory) {
    let (backend, clock) = subject(factory).await;
    let soon = clock.after(Duration::from_secs(10));
    let numbers: Vec<usize> = (0..MAX_PAGE * 2 + 500).collect();
    for chunk in numbers.chunks(MAX_OPERATIONS) {
        let batch = chunk.iter().fold(Batch::new(), |batch, number| {
            let expires = (number % 3 == 0).then_some(soon);
            batch.put(key(&format!("n/{number:05}")), Condition::Any, bytes("x"), expires)
        });
        backend.commit(batch).await.unwrap();
    }
    let page = backend.range(&prefix("n"), None, usize::MAX).await.unwrap();
    assert_eq!(page.len(), MAX_PAGE, "a page has at most MAX_PAGE items, whatever was asked");
    assert_eq!(backend.list(&prefix("n")).await.unwrap().len(), numbers.len());

    clock.advance(Duration::from_secs(10));
    let page = backend.range(&prefix("n"), None, MAX_PAGE).await.unwrap();
    assert_eq!(page.len(), MAX_PAGE, "expired items do not shorten a page: short means the end");
    let live: Vec<_> = backend.list(&prefix("n")).await.unwrap().iter().map(|i| i.key.to_string()).collect();
    let expected: Vec<_> =
        numbers.iter().filter(|number| *number % 3 != 0).map(|number| format!("n/{number:05}")).collect();
    assert_eq!(live, expected);
}
