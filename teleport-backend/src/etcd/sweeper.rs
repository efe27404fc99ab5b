//! Removing what has expired, by one of the services that share the store.
//!
//! The one that holds the claim knows the expiry of everything from a list and the stream of changes. The claim ends with a lease,
//! so a service that dies is followed by another one.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use teleport_core::clock::Timestamp;
use teleport_core::storage::{Key, MAX_OPERATIONS, MAX_PAGE, Prefix, Revision, StorageError, WatchEvent};
use tokio::time::Instant;

use super::Shared;
use super::client::Failure;
use super::messages::{self, Txn, delete_step, has_revision, put_step};
use crate::shared::pace::Pace;
use crate::shared::{backoff, sweep};

/// How long the claim of a service outlives it, in seconds.
const LEASE: u64 = 10;
/// How often it is renewed, or tried to be had.
const RENEW: Duration = Duration::from_secs(3);

/// Sweeps for as long as it is polled.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut pace = Pace::new(shared.clock.now());
    loop {
        match claim(&shared).await {
            Ok(Some(lease)) => {
                if let Err(error) = sweep(&shared, lease, &mut pace).await {
                    tracing::debug!(%error, "sweeping was interrupted");
                }
                // Whoever is next need not wait until it ends.
                let _ = shared.client.call(&messages::revoke_lease(lease)).await;
            }
            Ok(None) => {}
            Err(Failure::Closed(_)) => return,
            Err(error) => tracing::debug!(%error, "the claim on sweeping cannot be had"),
        }
        tokio::time::sleep(backoff::wait(shared.client.remote().entropy(), 6).min(RENEW)).await;
    }
}

/// The lease of the claim, if nobody else has it.
async fn claim(shared: &Shared) -> Result<Option<u64>, Failure> {
    let name = shared.layout.sweeper();
    if !shared.range(&name, b"", 1, 0).await?.items.is_empty() {
        return Ok(None);
    }
    let (lease, _) = messages::lease_answer(shared.client.call(&messages::grant_lease(LEASE)).await?)?;
    let txn = Txn {
        conditions: vec![has_revision(&name, 0)],
        then: vec![put_step(&name, b"", lease)],
        otherwise: Vec::new(),
    };
    if shared.transact(&txn).await?.succeeded {
        return Ok(Some(lease));
    }
    shared.client.call(&messages::revoke_lease(lease)).await?;
    Ok(None)
}

/// What expires, and when.
#[derive(Default)]
struct Index {
    times: BTreeSet<(Timestamp, Key)>,
    items: HashMap<Key, (Timestamp, Revision)>,
}

impl Index {
    fn set(&mut self, key: Key, expires: Option<Timestamp>, revision: Revision) {
        if self.items.get(&key).is_some_and(|(_, known)| *known >= revision) {
            return;
        }
        if let Some((former, _)) = self.items.remove(&key) {
            self.times.remove(&(former, key.clone()));
        }
        if let Some(expires) = expires {
            self.times.insert((expires, key.clone()));
            self.items.insert(key, (expires, revision));
        }
    }

    fn expired(&self, now: Timestamp) -> Vec<(Key, Revision)> {
        self.times
            .iter()
            .take_while(|(expires, _)| *expires <= now)
            .filter_map(|(_, key)| self.items.get(key).map(|(_, revision)| (key.clone(), *revision)))
            .take(MAX_OPERATIONS)
            .collect()
    }
}

/// Sweeps until the claim is lost or the stream of changes has a gap.
async fn sweep(shared: &Shared, lease: u64, pace: &mut Pace) -> Result<(), StorageError> {
    let root = Prefix::root();
    let (ticket, mut watch) = shared.hub.begin(&root)?;
    let newest = shared.range(&shared.layout.format(), b"", 1, 0).await?.header.revision;
    if !shared.hub.ready(&root, ticket, Revision::from_u64(newest)) {
        return Ok(());
    }
    let mut index = Index::default();
    list(shared, &mut index, newest).await?;
    let mut renewal = Instant::now();
    let mut ticks = tokio::time::interval(sweep::INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            event = watch.next() => match event {
                Ok(WatchEvent::Deleted { key, revision }) => index.set(key, None, revision),
                Ok(WatchEvent::Put(item)) => index.set(item.key, item.expires, item.revision),
                Ok(_) => {}
                Err(_) => return Ok(()),
            },
            _ = ticks.tick() => {
                if renewal.elapsed() >= RENEW {
                    let answer = shared.client.call(&messages::keep_lease(lease)).await?;
                    let (_, left) = messages::lease_answer(answer).map_err(Failure::from)?;
                    if left == 0 {
                        return Ok(());
                    }
                    renewal = Instant::now();
                }
                let now = shared.clock.now();
                if pace.may_remove(now) {
                    remove(shared, index.expired(now)).await?;
                }
            }
        }
    }
}

/// Reads what is there at a revision, expired or not.
async fn list(shared: &Shared, index: &mut Index, revision: u64) -> Result<(), Failure> {
    let (mut start, end) = shared.layout.items(&Prefix::root(), None);
    let mut page = MAX_PAGE as u64;
    loop {
        let answer = match shared.range(&start, &end, page, revision).await {
            Err(Failure::AnswerTooLong) if page > 1 => {
                page = (page / 8).max(1);
                continue;
            }
            answer => answer?,
        };
        let Some(last) = answer.items.last() else { return Ok(()) };
        start = [&last.key[..], &[0]].concat();
        for stored in answer.items {
            // Whoever reads it hears that it is damaged; the others expire.
            if let Ok(item) = shared.layout.parse(stored) {
                index.set(item.key, item.expires, item.revision);
            }
        }
        if !answer.more {
            return Ok(());
        }
    }
}

/// Deletes items that are still as they were known. If one was changed meanwhile, the change comes by the stream.
async fn remove(shared: &Shared, expired: Vec<(Key, Revision)>) -> Result<(), Failure> {
    if expired.is_empty() {
        return Ok(());
    }
    let mut txn = Txn::default();
    for (key, revision) in &expired {
        let name = shared.layout.item(key);
        txn.conditions.push(has_revision(&name, revision.as_u64()));
        txn.then.push(delete_step(&name));
    }
    shared.transact(&txn).await.map(drop)
}
