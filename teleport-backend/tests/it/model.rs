//! Random histories against a model: a plain map that knows nothing of transactions, indexes or sweeping.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use teleport_backend::conformance::SuiteClock;
use teleport_backend::memory::MemoryBackend;
use teleport_backend::redb::RedbBackend;
use teleport_backend::wrap::{FaultBackend, PrefixBackend};
use teleport_core::clock::{Clock, Timestamp};
use teleport_core::storage::{Action, Backend, Batch, Condition, Item, Key, Prefix, Revision, StorageError};

/// What a history consists of. Numbers are reduced to the keys and revisions at hand when it is played.
#[derive(Clone, Debug)]
enum Step {
    Advance(u8),
    Commit(Vec<(u8, Guard, Change)>),
    FailWrite { after_commit: bool },
    Get(u8),
    Range { prefix: u8, after: Option<u8>, limit: u8 },
    Reopen,
}

#[derive(Clone, Debug)]
enum Guard {
    Absent,
    Any,
    Current,
    Exists,
    Old,
}

#[derive(Clone, Debug)]
enum Change {
    Delete,
    Keep,
    Put(u8, Option<u8>),
    Touch(Option<u8>),
}

const KEYS: [&str; 8] = ["a", "a/b", "a/b/c", "a/c", "a-", "b/a", "b/b", "c"];
const PREFIXES: [&str; 4] = ["", "a", "a/b", "b"];

fn step() -> impl Strategy<Value = Step> {
    let guard = prop_oneof![
        1 => Just(Guard::Absent),
        4 => Just(Guard::Any),
        2 => Just(Guard::Current),
        1 => Just(Guard::Exists),
        1 => Just(Guard::Old),
    ];
    let ttl = proptest::option::of(0..20_u8);
    let change = prop_oneof![
        2 => Just(Change::Delete),
        1 => Just(Change::Keep),
        4 => (any::<u8>(), ttl.clone()).prop_map(|(value, ttl)| Change::Put(value, ttl)),
        2 => ttl.prop_map(Change::Touch),
    ];
    prop_oneof![
        2 => (0..12_u8).prop_map(Step::Advance),
        8 => proptest::collection::vec((0..8_u8, guard, change), 0..5).prop_map(Step::Commit),
        1 => any::<bool>().prop_map(|after_commit| Step::FailWrite { after_commit }),
        3 => (0..8_u8).prop_map(Step::Get),
        3 => (0..4_u8, proptest::option::of(0..8_u8), 0..10_u8)
            .prop_map(|(prefix, after, limit)| Step::Range { prefix, after, limit }),
        1 => Just(Step::Reopen),
    ]
}

#[derive(Default)]
struct Model {
    items: BTreeMap<String, (u8, Option<Timestamp>, Revision)>,
    newest: Revision,
}

impl Model {
    fn live(&self, key: &str, now: Timestamp) -> Option<(u8, Option<Timestamp>, Revision)> {
        self.items.get(key).copied().filter(|(_, expires, _)| expires.is_none_or(|expires| expires > now))
    }

    /// The batch for the backend, and what must come of it: the conflicting key, or the changes.
    fn plan(
        &self,
        operations: &[(u8, Guard, Change)],
        now: Timestamp,
    ) -> (Batch, Result<Vec<(String, Change)>, String>) {
        let mut batch = Batch::new();
        let mut changes = Vec::new();
        let mut conflict = None;
        let mut used = Vec::new();
        for (number, guard, change) in operations {
            let name = KEYS[usize::from(*number)];
            if used.contains(number) {
                continue;
            }
            used.push(*number);
            let current = self.live(name, now).map(|(_, _, revision)| revision);
            let (condition, holds) = match guard {
                Guard::Absent => (Condition::Absent, current.is_none()),
                Guard::Any => (Condition::Any, true),
                Guard::Current => match current {
                    Some(revision) => (Condition::Is(revision), true),
                    None => (Condition::Absent, true),
                },
                Guard::Exists => (Condition::Exists, current.is_some()),
                Guard::Old => (Condition::Is(Revision::from_u64(u64::MAX)), false),
            };
            let expires =
                |ttl: &Option<u8>| ttl.map(|ttl| now.saturating_add(Duration::from_secs(ttl.into())));
            let action = match change {
                Change::Delete => Action::Delete,
                Change::Keep => Action::Keep,
                Change::Put(value, ttl) => Action::Put { value: vec![*value].into(), expires: expires(ttl) },
                Change::Touch(ttl) => Action::Touch { expires: expires(ttl) },
            };
            batch = batch.with(Key::new(name).unwrap(), condition, action);
            if !holds && conflict.is_none() {
                conflict = Some(name.to_owned());
            }
            changes.push((name.to_owned(), change.clone()));
        }
        (batch, conflict.map_or(Ok(changes), Err))
    }

    fn apply(&mut self, changes: Vec<(String, Change)>, now: Timestamp, revision: Revision) {
        let expires = |ttl: Option<u8>| ttl.map(|ttl| now.saturating_add(Duration::from_secs(ttl.into())));
        for (name, change) in changes {
            match change {
                Change::Delete => {
                    self.items.remove(&name);
                }
                Change::Keep => {}
                Change::Put(value, ttl) => {
                    self.items.insert(name, (value, expires(ttl), revision));
                }
                Change::Touch(ttl) => {
                    if let Some((value, _, _)) = self.live(&name, now) {
                        self.items.insert(name, (value, expires(ttl), revision));
                    }
                }
            }
        }
    }

    fn check(&self, item: &Item, now: Timestamp) {
        let (value, expires, revision) = self.live(item.key.as_str(), now).expect("only what is alive");
        assert_eq!((&item.value[..], item.expires, item.revision), (&[value][..], expires, revision));
    }
}

/// Plays a history; `open` is called again where the history restarts the backend.
async fn play(
    steps: Vec<Step>,
    clock: Arc<SuiteClock>,
    reopens: bool,
    open: impl AsyncFn() -> Arc<dyn Backend>,
) {
    let mut model = Model::default();
    let mut backend = FaultBackend::new(open().await);
    for step in steps {
        let now = clock.now();
        match step {
            Step::Advance(seconds) => clock.advance(Duration::from_secs(seconds.into())),
            Step::Commit(operations) => {
                let (batch, expected) = model.plan(&operations, now);
                match (backend.commit(batch).await, expected) {
                    (Ok(revision), Ok(changes)) => {
                        assert!(revision > model.newest, "revisions grow, over restarts too");
                        model.newest = revision;
                        model.apply(changes, now, revision);
                    }
                    (Err(StorageError::Conflict { key }), Err(expected)) => {
                        assert_eq!(key.as_str(), expected, "the first key whose condition fails");
                    }
                    (actual, expected) => panic!("{actual:?} instead of {expected:?}"),
                }
            }
            Step::FailWrite { after_commit } => {
                let name = Key::new("c").unwrap();
                let batch = Batch::new().put(name.clone(), Condition::Any, vec![77], None);
                if after_commit {
                    backend.faults().lose_answer(1);
                } else {
                    backend.faults().fail_write(1);
                }
                backend.commit(batch).await.unwrap_err();
                // The outcome is unknown to the caller, so it reads.
                if after_commit {
                    let item = backend.get(&name).await.unwrap().unwrap();
                    assert!(item.revision > model.newest);
                    model.newest = item.revision;
                    model.apply(vec![("c".to_owned(), Change::Put(77, None))], now, item.revision);
                }
            }
            Step::Get(number) => {
                let name = KEYS[usize::from(number)];
                let item = backend.get(&Key::new(name).unwrap()).await.unwrap();
                assert_eq!(item.is_some(), model.live(name, now).is_some(), "{name}");
                if let Some(item) = item {
                    model.check(&item, now);
                }
            }
            Step::Range { prefix, after, limit } => {
                let text = PREFIXES[usize::from(prefix)];
                let prefix = if text.is_empty() { Prefix::root() } else { Prefix::new(text).unwrap() };
                let after = after.map(|number| KEYS[usize::from(number)]);
                let key = after.map(|after| Key::new(after).unwrap());
                let items = backend.range(&prefix, key.as_ref(), limit.into()).await.unwrap();
                items.iter().for_each(|item| model.check(item, now));
                let expected: Vec<_> = model
                    .items
                    .keys()
                    .filter(|name| name.starts_with(prefix.as_str()))
                    .filter(|name| after.is_none_or(|after| name.as_str() > after))
                    .filter(|name| model.live(name, now).is_some())
                    .take(limit.into())
                    .collect();
                let actual: Vec<_> = items.iter().map(|item| item.key.as_str()).collect();
                assert_eq!(actual, expected);
            }
            Step::Reopen if reopens => {
                backend.close().await;
                backend = FaultBackend::new(open().await);
            }
            Step::Reopen => {}
        }
    }
    backend.close().await;
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn memory_behaves_like_a_map(steps in proptest::collection::vec(step(), 1..80)) {
        runtime().block_on(async {
            let clock = Arc::new(SuiteClock::new());
            let memory = || Arc::new(MemoryBackend::new(Arc::<SuiteClock>::clone(&clock)));
            play(steps.clone(), Arc::clone(&clock), false, async || memory() as Arc<dyn Backend>).await;
            let below = Prefix::new("a/b").unwrap();
            let prefixed = async || Arc::new(PrefixBackend::new(memory(), below.clone())) as Arc<dyn Backend>;
            play(steps, Arc::clone(&clock), false, prefixed).await;
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn redb_behaves_like_a_map_over_restarts(steps in proptest::collection::vec(step(), 1..60)) {
        runtime().block_on(async {
            let clock = Arc::new(SuiteClock::new());
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("model.redb");
            let open = async || {
                let backend = RedbBackend::open(&path, Arc::<SuiteClock>::clone(&clock)).await.unwrap();
                Arc::new(backend) as Arc<dyn Backend>
            };
            play(steps, Arc::clone(&clock), true, open).await;
        });
    }
}
