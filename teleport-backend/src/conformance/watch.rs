//! Watches.

use std::collections::BTreeMap;
use std::sync::Arc;

use teleport_core::storage::{
    Action, BackendExt, Batch, Condition, Item, Prefix, Revision, Watch, WatchEnd, WatchEvent,
};
use teleport_core::task::TaskScope;

use super::{Factory, bytes, key, patiently, prefix, subject};

/// More events than any driver may hold for a consumer that does not read them, in batches of 128.
const FLOOD: usize = 128;

async fn ready(watch: &mut Watch) -> Revision {
    match patiently("the first event", watch.next()).await {
        Ok(WatchEvent::Ready { revision }) => revision,
        other => panic!("a watch starts with Ready, not {other:?}"),
    }
}

async fn put(watch: &mut Watch) -> Item {
    match patiently("an event", watch.next()).await {
        Ok(WatchEvent::Put(item)) => item,
        other => panic!("expected a write, not {other:?}"),
    }
}

/// Ready first, then every commit in order, each batch in the order of its operations; nothing else.
///
/// # Panics
/// Where the driver breaks the contract.
pub async fn watches_report_in_order(factory: &impl Factory) {
    let (backend, _clock) = subject(factory).await;
    let mut fresh = backend.watch(&Prefix::root()).await.unwrap();
    ready(&mut fresh).await;
    let before = backend.put(&key("w/before"), bytes("0"), None).await.unwrap();
    let mut watch = backend.watch(&prefix("w")).await.unwrap();
    let newest = ready(&mut watch).await;
    assert!(newest >= before, "Ready names {newest}, and there is {before}");

    let first = backend
        .commit(
            Batch::new()
                .put(key("w/z"), Condition::Any, "1", None)
                .put(key("other"), Condition::Any, "1", None)
                .with(key("w/before"), Condition::Any, Action::Delete)
                .with(key("w/none"), Condition::Any, Action::Delete)
                .with(key("w/kept"), Condition::Any, Action::Keep)
                .with(key("w/untouched"), Condition::Any, Action::Touch { expires: None })
                .put(key("w/a"), Condition::Any, "1", None),
        )
        .await
        .unwrap();
    let item = put(&mut watch).await;
    assert_eq!(
        (item.key, item.value, item.revision),
        (key("w/z"), bytes("1"), first),
        "in the batch's order"
    );
    assert!(first > newest, "{first} is not after {newest}, which Ready has named");
    let deleted = WatchEvent::Deleted { key: key("w/before"), revision: first };
    assert_eq!(watch.next().await, Ok(deleted));
    assert_eq!(put(&mut watch).await.key, key("w/a"), "what changed nothing is not reported");

    let conflict = Batch::new().put(key("w/z"), Condition::Any, "2", None).with(
        key("w/none"),
        Condition::Exists,
        Action::Keep,
    );
    backend.commit(conflict).await.unwrap_err();
    let touched = backend.touch(&key("w/z"), None).await.unwrap();
    let item = put(&mut watch).await;
    assert_eq!((item.key, item.value), (key("w/z"), bytes("1")), "a refused batch is not reported");
    assert_eq!(item.revision, touched, "touching is reported as a write");
    for number in 0..20 {
        backend.put(&key("w/z"), bytes(&number.to_string()), None).await.unwrap();
    }
    for number in 0..20 {
        assert_eq!(put(&mut watch).await.value, number.to_string(), "commits are reported in order");
    }
}

/// List at `Ready`, then apply the events: the consumer ends with what is stored, whatever happened meanwhile.
///
/// # Panics
/// Where the driver breaks the contract.
pub async fn watches_follow_a_list(factory: &impl Factory) {
    let (backend, _clock) = subject(factory).await;
    let scope = TaskScope::new();
    for writer in 0..4 {
        let backend = Arc::clone(&backend);
        scope.spawn(async move {
            for round in 0..60 {
                let name = key(&format!("f/{}", (writer * 7 + round * 3) % 10));
                let batch = if (writer + round) % 3 == 0 {
                    Batch::new().with(name, Condition::Any, Action::Delete)
                } else {
                    Batch::new().put(name, Condition::Any, format!("{writer}.{round}"), None)
                };
                backend.commit(batch).await.unwrap();
            }
        });
    }
    backend.put(&key("f/0"), bytes("x"), None).await.unwrap();
    let mut watch = backend.watch(&prefix("f")).await.unwrap();
    let mut newest = ready(&mut watch).await;
    let mut view: BTreeMap<_, _> =
        backend.list(&prefix("f")).await.unwrap().into_iter().map(|item| (item.key.clone(), item)).collect();
    scope.join().await;
    let end = backend.put(&key("f/end"), bytes("x"), None).await.unwrap();
    loop {
        let event = patiently("an event", watch.next()).await.expect("not lagging");
        let revision = match event {
            WatchEvent::Deleted { key, revision } => {
                // The list may be newer than the first events.
                if view.get(&key).is_some_and(|item| item.revision < revision) {
                    view.remove(&key);
                }
                revision
            }
            WatchEvent::Put(item) => {
                let revision = item.revision;
                view.insert(item.key.clone(), item);
                revision
            }
            other => panic!("unexpected {other:?}"),
        };
        assert!(revision > newest, "every event is newer than the one before: {revision} after {newest}");
        newest = revision;
        if revision == end {
            break;
        }
    }
    let stored = backend.list(&prefix("f")).await.unwrap();
    assert_eq!(view.into_values().collect::<Vec<_>>(), stored);
}

/// Closing the backend ends watches after the events that were queued.
///
/// # Panics
/// Where the driver breaks the contract.
pub async fn watches_end_when_closed(factory: &impl Factory) {
    let (backend, _clock) = subject(factory).await;
    let mut watch = backend.watch(&Prefix::root()).await.unwrap();
    drop(backend.watch(&Prefix::root()).await.unwrap());
    backend.put(&key("a"), bytes("1"), None).await.unwrap();
    backend.close().await;
    ready(&mut watch).await;
    assert_eq!(put(&mut watch).await.key, key("a"), "what was queued is still delivered");
    for _ in 0..2 {
        assert_eq!(patiently("the end", watch.next()).await, Err(WatchEnd::Closed));
    }
}

/// A consumer that does not read is cut; commits and other watches go on.
///
/// # Panics
/// Where the driver breaks the contract, also if it holds 16 384 events for a consumer that does not read.
pub async fn lagging_watches_are_cut(factory: &impl Factory) {
    let (backend, _clock) = subject(factory).await;
    let mut lagging = backend.watch(&prefix("flood")).await.unwrap();
    let mut reading = backend.watch(&prefix("flood/7")).await.unwrap();
    ready(&mut reading).await;
    for round in 0..FLOOD {
        let batch = (0..128).fold(Batch::new(), |batch, n| {
            batch.put(key(&format!("flood/{n}/x")), Condition::Any, round.to_string(), None)
        });
        backend.commit(batch).await.expect("a lagging watch does not stop commits");
        assert_eq!(put(&mut reading).await.value, round.to_string(), "nor other watches");
    }
    ready(&mut lagging).await;
    let mut delivered = 0;
    let end = loop {
        match patiently("the end of the lagging watch", lagging.next()).await {
            Ok(WatchEvent::Put(item)) => {
                let expected = (format!("flood/{}/x", delivered % 128), (delivered / 128).to_string());
                assert_eq!(item.key.as_str(), expected.0, "no gap before the cut");
                assert_eq!(item.value, expected.1, "no gap before the cut");
                delivered += 1;
            }
            Ok(other) => panic!("unexpected {other:?}"),
            Err(end) => break end,
        }
    };
    assert_eq!(end, WatchEnd::Lagged, "the consumer is told why");
    assert_eq!(lagging.next().await, Err(WatchEnd::Lagged), "and the answer stays");
    assert!(delivered < FLOOD * 128, "events are not buffered for ever");
}
