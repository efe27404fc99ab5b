//! What two services do at the same time to one store over networks that fail, and whether there is an order in which all of it can
//! have happened one after the other.
//!
//! Each key is a register that is changed on the condition of its revision. That makes the check exact and cheap: revisions say the order of
//! the writes, so it remains to see that every acknowledged write is in it, that nobody read anything else, and that nothing happened
//! before it was asked for or after it was answered.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use teleport_core::entropy::{Entropy, SystemEntropy};
use teleport_core::storage::{Backend, BackendExt, Key, Revision};

const KEYS: u64 = 3;

/// What was done, and what came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Done {
    /// The revision and the value that were there.
    Read(u64, u64),
    /// The value was put in place of this revision, and has this one.
    Put { over: u64, value: u64, revision: u64 },
    /// That revision was not there any more.
    Refused { over: u64 },
    /// Nobody knows whether the value was put in place of this revision.
    Unknown { over: u64, value: u64 },
}

/// An operation on a key, with when it was asked for and when it was answered: numbers that grow over all services.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operation {
    pub(crate) key: u64,
    pub(crate) began: u64,
    pub(crate) ended: u64,
    pub(crate) done: Done,
}

/// What is wrong with a history.
pub(crate) type Flaw = String;

/// Whether the operations on one key can have happened one after the other, the register having `first` (a revision and a value) before
/// and `last` after all of them.
pub(crate) fn check(operations: &[Operation], first: (u64, u64), last: (u64, u64)) -> Result<usize, Flaw> {
    // Which value a revision has: all who saw it or made it agree.
    let mut values = BTreeMap::from([first]);
    let mut see = |revision: u64, value: u64| match values.insert(revision, value) {
        Some(other) if other != value => Err(format!("revision {revision} is {other} and {value}")),
        _ => Ok(()),
    };
    let mut revision_of = BTreeMap::from([(first.1, first.0)]);
    for operation in operations {
        let (revision, value) = match operation.done {
            Done::Read(revision, value) | Done::Put { revision, value, .. } => (revision, value),
            _ => continue,
        };
        see(revision, value)?;
        revision_of.insert(value, revision);
    }
    see(last.0, last.1)?;
    revision_of.insert(last.1, last.0);
    // The writes that took place, by what they replaced: one each, and a chain from the first revision to the last.
    let mut next: BTreeMap<u64, (u64, Operation)> = BTreeMap::new();
    for operation in operations {
        let (over, revision) = match operation.done {
            Done::Put { over, revision, .. } => (over, revision),
            // It took place if somebody saw it.
            Done::Unknown { over, value } => match revision_of.get(&value) {
                Some(revision) => (over, *revision),
                None => continue,
            },
            _ => continue,
        };
        if revision <= over {
            return Err(format!("{operation:?} went back"));
        }
        if let Some((_, other)) = next.insert(over, (revision, *operation)) {
            return Err(format!("two winners: {other:?} and {operation:?}"));
        }
    }
    let mut at = first.0;
    let mut writes = 0;
    let chain = std::iter::from_fn(|| {
        at = next.get(&at)?.0;
        writes += 1;
        Some(at)
    });
    let chain: Vec<u64> = chain.collect();
    if chain.last().copied().unwrap_or(first.0) != last.0 || writes != next.len() {
        return Err(format!(
            "{} writes took place, and {writes} lead from {first:?} to {last:?}",
            next.len()
        ));
    }
    for revision in values.keys() {
        if *revision != first.0 && !chain.contains(revision) {
            return Err(format!("revision {revision} was seen, and nobody wrote it"));
        }
    }
    // Nobody saw the future: what somebody saw, or lost against, was asked for by then.
    let writer: BTreeMap<u64, Operation> =
        next.values().map(|(revision, operation)| (*revision, *operation)).collect();
    let asked_for = |revision: u64| writer.get(&revision).map_or(0, |operation| operation.began);
    for operation in operations {
        let seen = match operation.done {
            Done::Read(revision, _) | Done::Put { revision, .. } => revision,
            Done::Refused { over } => match next.get(&over) {
                Some((revision, _)) => *revision,
                None => return Err(format!("{operation:?}, and nobody has replaced it")),
            },
            Done::Unknown { .. } => continue,
        };
        if asked_for(seen) > operation.ended {
            return Err(format!("{operation:?} knows what was asked for later"));
        }
    }
    // And nobody saw the past: what began after an answer is at least as new as that.
    let mut answered: Vec<(u64, u64)> = operations
        .iter()
        .filter_map(|operation| match operation.done {
            Done::Read(revision, _) | Done::Put { revision, .. } => Some((operation.ended, revision)),
            _ => None,
        })
        .collect();
    answered.sort_unstable();
    let mut newest = 0;
    for (_, revision) in &mut answered {
        newest = newest.max(*revision);
        *revision = newest;
    }
    let known_before = |time: u64| {
        let at = answered.partition_point(|(ended, _)| *ended < time);
        at.checked_sub(1).map_or(0, |at| answered[at].1)
    };
    for operation in operations {
        if let Done::Read(seen, _) | Done::Put { revision: seen, .. } = operation.done
            && known_before(operation.began) > seen
        {
            return Err(format!("{operation:?} does not know what was answered before"));
        }
    }
    Ok(writes)
}

/// Numbers that look random, and are the same again for the same seed.
pub(crate) struct Dice(u64);

impl Dice {
    /// A set of them, other ones for each salt.
    pub(crate) fn salted(seed: u64, salt: u64) -> Self {
        Self(seed.wrapping_add(salt.wrapping_mul(0x9E37_79B9_7F4A_7C15)) | 1)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// `TELEPORT_SEED` repeats the faults of a run that failed.
pub(crate) fn seed() -> u64 {
    let seed = from_environment("TELEPORT_SEED", || {
        let mut bytes = [0; 8];
        SystemEntropy::new().fill(&mut bytes).unwrap();
        u64::from_le_bytes(bytes) | 1
    });
    eprintln!("TELEPORT_SEED={seed}");
    seed
}

pub(crate) fn from_environment(name: &str, otherwise: impl FnOnce() -> u64) -> u64 {
    std::env::var(name).map_or_else(|_| otherwise(), |text| text.parse().unwrap())
}

fn register(number: u64) -> Key {
    Key::new(&format!("register/{number}")).unwrap()
}

fn number(value: u64) -> Bytes {
    value.to_string().into()
}

async fn read(backend: &dyn Backend, key: &Key) -> Option<(u64, u64)> {
    let item = backend.get(key).await.ok()??;
    Some((item.revision.as_u64(), std::str::from_utf8(&item.value).unwrap().parse().unwrap()))
}

/// What is done, and the registers before it.
pub(crate) struct World {
    time: AtomicU64,
    values: AtomicU64,
    left: AtomicU64,
    first: BTreeMap<u64, (u64, u64)>,
    history: Mutex<Vec<Operation>>,
}

/// What a history consisted of.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) writes: usize,
    pub(crate) refused: usize,
    pub(crate) unknown: usize,
}

impl World {
    /// With so many operations to do.
    pub(crate) async fn begin(direct: &dyn Backend, operations: u64) -> Arc<Self> {
        let mut first = BTreeMap::new();
        for at in 0..KEYS {
            let revision = direct.put(&register(at), number(at), None).await.unwrap();
            first.insert(at, (revision.as_u64(), at));
        }
        Arc::new(Self {
            time: AtomicU64::new(1),
            values: AtomicU64::new(KEYS),
            left: AtomicU64::new(operations),
            first,
            history: Mutex::default(),
        })
    }

    fn now(&self) -> u64 {
        self.time.fetch_add(1, Ordering::SeqCst)
    }

    /// How many operations are left to do.
    pub(crate) fn left(&self) -> u64 {
        self.left.load(Ordering::SeqCst)
    }

    /// Nothing more is to be done.
    #[allow(dead_code, reason = "one of the programs that have this module ends by the number of operations")]
    pub(crate) fn stop(&self) {
        self.left.store(0, Ordering::SeqCst);
    }

    /// Reads, and writes by what was read, until there is nothing left to do.
    pub(crate) async fn work(self: Arc<Self>, backend: Arc<dyn Backend>, mut dice: Dice) {
        while self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            let at = dice.below(KEYS);
            let began = self.now();
            let Some((revision, value)) = read(&*backend, &register(at)).await else { continue };
            self.note(at, began, Done::Read(revision, value));
            if dice.below(4) == 0 {
                continue;
            }
            let value = self.values.fetch_add(1, Ordering::SeqCst);
            let began = self.now();
            let over = Revision::from_u64(revision);
            let done = match backend.update(&register(at), over, number(value), None).await {
                Ok(new) => Done::Put { over: revision, value, revision: new.as_u64() },
                Err(error) if error.is_conflict() => Done::Refused { over: revision },
                Err(_) => Done::Unknown { over: revision, value },
            };
            self.note(at, began, done);
        }
    }

    fn note(&self, key: u64, began: u64, done: Done) {
        let ended = self.now();
        self.history.lock().unwrap().push(Operation { key, began, ended, done });
    }

    /// When all is done: whether it can have happened.
    pub(crate) async fn judge(&self, direct: &dyn Backend) -> Counts {
        let history = std::mem::take(&mut *self.history.lock().unwrap());
        let mut counts = Counts::default();
        for at in 0..KEYS {
            let mut of_key: Vec<Operation> = history.iter().filter(|of| of.key == at).copied().collect();
            let last = self.settle(direct, at, &mut of_key).await;
            counts.writes +=
                check(&of_key, self.first[&at], last).unwrap_or_else(|flaw| panic!("register {at}: {flaw}"));
            counts.refused += of_key.iter().filter(|of| matches!(of.done, Done::Refused { .. })).count();
            counts.unknown += of_key.iter().filter(|of| matches!(of.done, Done::Unknown { .. })).count();
        }
        eprintln!("{} operations: {counts:?}", history.len());
        counts
    }

    /// What nobody answered may still be under way; it is over when a write of ours on top of what is there is acknowledged, and nobody
    /// else's can be.
    async fn settle(&self, direct: &dyn Backend, at: u64, of_key: &mut Vec<Operation>) -> (u64, u64) {
        loop {
            let began = self.now();
            let found = read(direct, &register(at)).await.unwrap();
            let value = self.values.fetch_add(1, Ordering::SeqCst);
            let over = Revision::from_u64(found.0);
            let written = direct.update(&register(at), over, number(value), None).await;
            let mut note = |done| of_key.push(Operation { key: at, began, ended: self.now(), done });
            note(Done::Read(found.0, found.1));
            match written {
                Ok(new) => {
                    note(Done::Put { over: found.0, value, revision: new.as_u64() });
                    return (new.as_u64(), value);
                }
                Err(error) if error.is_conflict() => note(Done::Refused { over: found.0 }),
                Err(_) => note(Done::Unknown { over: found.0, value }),
            }
        }
    }
}
