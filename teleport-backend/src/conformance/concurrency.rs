//! Many callers at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use teleport_core::storage::{BackendExt, Batch, Condition};
use teleport_core::task::TaskScope;

use super::{Factory, bytes, key, prefix, subject};

const CALLERS: usize = 8;

/// Of many that create the same item exactly one succeeds, each time.
///
/// # Panics
/// Where the driver breaks the contract.
pub async fn contended_creation_has_one_winner(factory: &impl Factory) {
    let (backend, _clock) = subject(factory).await;
    for round in 0..20 {
        let name = key(&format!("once/{round}"));
        let winners = Arc::new(AtomicUsize::new(0));
        let losers = Arc::new(AtomicUsize::new(0));
        let scope = TaskScope::new();
        for caller in 0..CALLERS {
            let (backend, name) = (Arc::clone(&backend), name.clone());
            let (winners, losers) = (Arc::clone(&winners), Arc::clone(&losers));
            scope.spawn(async move {
                match backend.create(&name, bytes(&caller.to_string()), None).await {
                    Ok(revision) => {
                        let item = backend.get(&name).await.unwrap().unwrap();
                        assert_eq!(item.value, caller.to_string(), "the winner's value is stored");
                        assert_eq!(item.revision, revision);
                        winners.fetch_add(1, Ordering::SeqCst);
                    }
                    Err(error) => {
                        assert!(error.is_conflict(), "losing is a conflict: {error:?}");
                        let seen = backend.get(&name).await.unwrap();
                        assert!(seen.is_some(), "who lost sees what it lost to");
                        losers.fetch_add(1, Ordering::SeqCst);
                    }
                }
            });
        }
        scope.join().await;
        assert_eq!(winners.load(Ordering::SeqCst), 1, "exactly one winner");
        assert_eq!(losers.load(Ordering::SeqCst), CALLERS - 1, "everyone got an answer");
    }
}

/// Counters incremented by compare-and-set from many tasks end at the number of increments, and no acknowledged
/// increment is invisible to its author.
///
/// # Panics
/// Where the driver breaks the contract.
pub async fn increments_are_never_lost(factory: &impl Factory) {
    const EACH: u64 = 25;
    let (backend, _clock) = subject(factory).await;
    let counter = key("counter");
    backend.put(&counter, bytes("0"), None).await.unwrap();
    let done = Arc::new(AtomicUsize::new(0));
    let scope = TaskScope::new();
    for _ in 0..CALLERS {
        let (backend, counter, done) = (Arc::clone(&backend), counter.clone(), Arc::clone(&done));
        scope.spawn(async move {
            let mut seen = 0;
            for _ in 0..EACH {
                loop {
                    let item = backend.get(&counter).await.unwrap().unwrap();
                    let count: u64 = std::str::from_utf8(&item.value).unwrap().parse().unwrap();
                    assert!(count >= seen, "a read never goes back behind what was acknowledged");
                    let next = bytes(&(count + 1).to_string());
                    match backend.update(&counter, item.revision, next, None).await {
                        Ok(_) => {
                            seen = count + 1;
                            break;
                        }
                        Err(error) => assert!(error.is_conflict(), "losing is a conflict: {error:?}"),
                    }
                }
            }
            done.fetch_add(1, Ordering::SeqCst);
        });
    }
    scope.join().await;
    assert_eq!(done.load(Ordering::SeqCst), CALLERS, "every caller finished");
    let total = backend.get(&counter).await.unwrap().unwrap().value;
    assert_eq!(total, (CALLERS as u64 * EACH).to_string());
}

/// `range` sees all of a batch or nothing of it.
///
/// # Panics
/// Where the driver breaks the contract.
pub async fn readers_never_see_half_a_batch(factory: &impl Factory) {
    let (backend, _clock) = subject(factory).await;
    let pair = |value: &str| {
        Batch::new().put(key("pair/a"), Condition::Any, value.to_owned(), None).put(
            key("pair/b"),
            Condition::Any,
            value.to_owned(),
            None,
        )
    };
    backend.commit(pair("start")).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let reads = Arc::new(AtomicUsize::new(0));
    let scope = TaskScope::new();
    for _ in 0..2 {
        let (backend, stop, reads) = (Arc::clone(&backend), Arc::clone(&stop), Arc::clone(&reads));
        scope.spawn(async move {
            while !stop.load(Ordering::SeqCst) {
                let items = backend.range(&prefix("pair"), None, 10).await.unwrap();
                match &items[..] {
                    [a, b] => assert_eq!((&a.value, a.revision), (&b.value, b.revision), "half a batch"),
                    other => panic!("the pair is always there, not {other:?}"),
                }
                reads.fetch_add(1, Ordering::SeqCst);
                tokio::task::yield_now().await;
            }
        });
    }
    let mut rounds = 0;
    while rounds < 100 || reads.load(Ordering::SeqCst) < 100 {
        assert!(!scope.is_empty(), "a reader failed");
        backend.commit(pair(&rounds.to_string())).await.unwrap();
        tokio::task::yield_now().await;
        rounds += 1;
    }
    assert_eq!(scope.len(), 2, "a reader failed");
    stop.store(true, Ordering::SeqCst);
    scope.join().await;
}
