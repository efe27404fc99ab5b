//! From a batch to a transaction of etcd.
//!
//! etcd compares revisions, and knows nothing of our clock: whether an item has expired is decided here, from what was read, and
//! the transaction demands that what was read is still so. What depends on nothing is written at once.

use std::collections::HashMap;

use bytes::Bytes;
use teleport_core::clock::Timestamp;
use teleport_core::storage::{Action, Batch, Condition, Item, Key, Operation};

use super::layout::{Layout, record};
use super::messages::{self, Call, Txn, delete_step, get_step, has_revision, put_step};

/// The items that were read, expired ones among them.
pub(super) type Seen = HashMap<Key, Item>;

/// Reads all that a batch depends on.
pub(super) fn reading(layout: &Layout, batch: &Batch) -> Txn {
    let mut txn = Txn::default();
    txn.then.extend(batch.operations().iter().map(|operation| get_step(&layout.item(&operation.key))));
    txn
}

/// The call of a batch that writes one item and depends on nothing: it is etcd's own `Put`, which is less work for the server than a transaction
/// of one step, and is the same to whoever watches.
pub(super) fn put(layout: &Layout, batch: &Batch) -> Option<Call> {
    match batch.operations() {
        [Operation { key, condition: Condition::Any, action: Action::Put { value, expires }, .. }] => {
            Some(messages::put(&layout.item(key), &record(value, *expires)))
        }
        _ => None,
    }
}

/// The transaction of a batch of which nothing was read, if it can do without: it writes, and whatever it demands to be absent is
/// not there at all.
pub(super) fn blind(layout: &Layout, batch: &Batch) -> Option<Txn> {
    let mut txn = Txn::default();
    for operation in batch.operations() {
        let name = layout.item(&operation.key);
        match operation.condition {
            Condition::Any => {}
            Condition::Absent => txn.conditions.push(has_revision(&name, 0)),
            _ => return None,
        }
        match &operation.action {
            Action::Put { value, expires } => txn.then.push(put_step(&name, &record(value, *expires), 0)),
            Action::Keep => {}
            _ => return None,
        }
    }
    if txn.then.is_empty() {
        return None;
    }
    if !txn.conditions.is_empty() {
        txn.otherwise = reading(layout, batch).then;
    }
    Some(txn)
}

/// The transaction of a batch under the condition that all is as it was seen, or the first key whose condition does not hold.
pub(super) fn informed(layout: &Layout, batch: &Batch, seen: &Seen, now: Timestamp) -> Result<Txn, Key> {
    let mut txn = Txn::default();
    for operation in batch.operations() {
        let stored = seen.get(&operation.key);
        let live = stored.filter(|item| !item.is_expired(now));
        if !operation.condition.holds(live.map(|item| item.revision)) {
            return Err(operation.key.clone());
        }
        let name = layout.item(&operation.key);
        let is_free = operation.condition == Condition::Any
            && matches!(operation.action, Action::Put { .. } | Action::Keep);
        if !is_free {
            txn.conditions.push(has_revision(&name, stored.map_or(0, |item| item.revision.as_u64())));
        }
        match &operation.action {
            Action::Delete if stored.is_some() => txn.then.push(delete_step(&name)),
            Action::Put { value, expires } => txn.then.push(put_step(&name, &record(value, *expires), 0)),
            Action::Touch { expires } => {
                if let Some(item) = live {
                    txn.then.push(put_step(&name, &record(&item.value, *expires), 0));
                }
            }
            _ => {}
        }
    }
    if txn.then.is_empty() {
        txn.then.push(put_step(&layout.tick(), &Bytes::new(), 0));
    }
    txn.otherwise = reading(layout, batch).then;
    Ok(txn)
}
