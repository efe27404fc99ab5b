//! What two services do at the same time to one store over networks that fail, and whether there is an order in which all of it can
//! have happened one after the other. Goals G-1 and G-2.
//!
//! Each key is a register that is changed on the condition of its revision. That makes the check exact and cheap: revisions say the order of
//! the writes, so it remains to see that every acknowledged write is in it, that nobody read anything else, and that nothing happened
//! before it was asked for or after it was answered.
//!
//! `TELEPORT_HISTORY=20000` says how many operations; `TELEPORT_SEED` repeats the faults of a run that failed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use teleport_core::entropy::{Entropy, SystemEntropy};
use teleport_core::storage::{Backend, BackendExt, Key, Revision};
use teleport_core::task::TaskScope;

use crate::remote::{Server, key, number};
use crate::servers::PATIENCE;
use crate::servers::proxy::{Mode, Proxy};

const KEYS: u64 = 3;
const WORKERS: u64 = 8;

/// What was done, and what came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Done {
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
struct Operation {
    key: u64,
    began: u64,
    ended: u64,
    done: Done,
}

/// What is wrong with a history.
type Flaw = String;

/// Whether the operations on one key can have happened one after the other, the register having `first` (a revision and a value) before
/// and `last` after all of them.
fn check(operations: &[Operation], first: (u64, u64), last: (u64, u64)) -> Result<usize, Flaw> {
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
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

fn from_environment(name: &str, otherwise: impl FnOnce() -> u64) -> u64 {
    std::env::var(name).map_or_else(|_| otherwise(), |text| text.parse().unwrap())
}

fn register(number: u64) -> Key {
    key(&format!("register/{number}"))
}

async fn read(backend: &dyn Backend, key: &Key) -> Option<(u64, u64)> {
    let item = backend.get(key).await.ok()??;
    Some((item.revision.as_u64(), std::str::from_utf8(&item.value).unwrap().parse().unwrap()))
}

struct World {
    time: AtomicU64,
    values: AtomicU64,
    left: AtomicU64,
    history: Mutex<Vec<Operation>>,
}

impl World {
    fn now(&self) -> u64 {
        self.time.fetch_add(1, Ordering::SeqCst)
    }

    /// Reads, and writes by what was read, until there is nothing left to do.
    async fn work(self: Arc<Self>, backend: Arc<dyn Backend>, mut dice: Dice) {
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
}

/// Breaks the networks in turn, until it is told to leave them whole.
async fn disturb(networks: Arc<[Proxy; 2]>, over: Arc<AtomicBool>, mut dice: Dice) {
    while !over.load(Ordering::SeqCst) {
        let network = &networks[usize::try_from(dice.below(2)).unwrap()];
        let mode = match dice.below(5) {
            0 => Mode::Delay(Duration::from_millis(5)),
            1 => Mode::Refuse,
            2 => Mode::Stall,
            3 => Mode::StallAnswers,
            _ => Mode::Pass,
        };
        network.set(mode);
        if dice.below(2) == 0 {
            network.cut();
        }
        tokio::time::sleep(Duration::from_millis(1 + dice.below(60))).await;
        network.set(Mode::Pass);
        tokio::time::sleep(Duration::from_millis(dice.below(60))).await;
    }
}

pub(crate) async fn g2_two_services_over_bad_networks_are_linearizable(server: Server) {
    let operations = from_environment("TELEPORT_HISTORY", || 600);
    let seed = from_environment("TELEPORT_SEED", || {
        let mut bytes = [0; 8];
        SystemEntropy::new().fill(&mut bytes).unwrap();
        u64::from_le_bytes(bytes) | 1
    });
    eprintln!("TELEPORT_SEED={seed}");
    let direct = server.open(server.port(), "history").await;
    let mut first = BTreeMap::new();
    for at in 0..KEYS {
        let revision = direct.put(&register(at), number(at), None).await.unwrap();
        first.insert(at, (revision.as_u64(), at));
    }
    let networks = Arc::new([Proxy::to(server.port()).await, Proxy::to(server.port()).await]);
    let services =
        [server.open(networks[0].port, "history").await, server.open(networks[1].port, "history").await];
    let world = Arc::new(World {
        time: AtomicU64::new(1),
        values: AtomicU64::new(KEYS),
        left: AtomicU64::new(operations),
        history: Mutex::default(),
    });
    let over = Arc::new(AtomicBool::new(false));
    let (workers, faults) = (TaskScope::new(), TaskScope::new());
    let dice = |salt: u64| Dice(seed.wrapping_add(salt.wrapping_mul(0x9E37_79B9_7F4A_7C15)) | 1);
    faults.spawn(disturb(Arc::clone(&networks), Arc::clone(&over), dice(100)));
    for worker in 0..WORKERS {
        let service = Arc::clone(&services[usize::try_from(worker % 2).unwrap()]);
        workers.spawn(Arc::clone(&world).work(service, dice(worker)));
    }
    let limit = PATIENCE * (4 + u32::try_from(operations / 500).unwrap());
    tokio::time::timeout(limit, workers.join()).await.unwrap();
    over.store(true, Ordering::SeqCst);
    faults.join().await;
    let history = std::mem::take(&mut *world.history.lock().unwrap());
    let (mut writes, mut refused, mut unknown) = (0, 0, 0);
    for at in 0..KEYS {
        let mut of_key: Vec<Operation> = history.iter().filter(|of| of.key == at).copied().collect();
        // What nobody answered may still be under way; it is over when a write of ours on top of what is there is acknowledged, and nobody
        // else's can be.
        let last = loop {
            let began = world.now();
            let found = read(&*direct, &register(at)).await.unwrap();
            let value = world.values.fetch_add(1, Ordering::SeqCst);
            let over = Revision::from_u64(found.0);
            let written = direct.update(&register(at), over, number(value), None).await;
            let mut note = |done| of_key.push(Operation { key: at, began, ended: world.now(), done });
            note(Done::Read(found.0, found.1));
            match written {
                Ok(new) => {
                    note(Done::Put { over: found.0, value, revision: new.as_u64() });
                    break (new.as_u64(), value);
                }
                Err(error) if error.is_conflict() => note(Done::Refused { over: found.0 }),
                Err(_) => note(Done::Unknown { over: found.0, value }),
            }
        };
        writes += check(&of_key, first[&at], last).unwrap_or_else(|flaw| panic!("register {at}: {flaw}"));
        refused += of_key.iter().filter(|of| matches!(of.done, Done::Refused { .. })).count();
        unknown += of_key.iter().filter(|of| matches!(of.done, Done::Unknown { .. })).count();
    }
    eprintln!("{} operations: {writes} writes, {refused} lost the race, {unknown} not known", history.len());
    assert!(writes > 10 && refused > 0, "something happened, and at the same time");
    for service in services {
        service.close().await;
    }
    direct.close().await;
}

/// The checker finds what it is there to find.
#[test]
fn histories_that_cannot_be_are_told() {
    let first = (10, 0);
    let of = |began, ended, done| Operation { key: 0, began, ended, done };
    let put = |over, value, revision| Done::Put { over, value, revision };
    let good = vec![
        of(1, 2, put(10, 1, 11)),
        of(1, 3, Done::Refused { over: 10 }),
        of(4, 9, Done::Unknown { over: 11, value: 2 }),
        of(5, 6, Done::Read(11, 1)),
        of(7, 8, Done::Read(12, 2)),
        of(10, 11, Done::Unknown { over: 12, value: 3 }),
    ];
    assert_eq!(check(&good, first, (12, 2)), Ok(2));
    let with = |more: Operation| {
        let mut history = good.clone();
        history.push(more);
        history
    };
    for (history, last, what) in [
        (with(of(1, 3, put(10, 9, 13))), (12, 2), "two winners"),
        (with(of(12, 13, put(12, 9, 14))), (12, 2), "lead from"),
        (with(of(9, 10, Done::Read(11, 1))), (12, 2), "answered before"),
        (with(of(1, 2, Done::Read(12, 2))), (12, 2), "asked for later"),
        (with(of(9, 10, Done::Read(12, 7))), (12, 2), "and"),
        (with(of(9, 10, Done::Read(15, 7))), (12, 2), "nobody wrote it"),
        (with(of(12, 13, Done::Refused { over: 12 })), (12, 2), "nobody has replaced it"),
        (with(of(12, 13, put(12, 9, 5))), (12, 2), "went back"),
        (good.clone(), (11, 1), "lead from"),
    ] {
        let flaw = check(&history, first, last).unwrap_err();
        assert!(flaw.contains(what), "{what}: {flaw}");
    }
}
