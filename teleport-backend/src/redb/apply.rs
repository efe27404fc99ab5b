//! Batches inside one transaction.

use ::redb::{ReadableTable, Table, WriteTransaction};
use teleport_core::clock::Timestamp;
use teleport_core::storage::{Action, Batch, Item, Key, Operation, Revision, WatchEvent};

use super::schema::{self, EXPIRIES, Failure, ITEMS, META, REVISION};
use crate::shared::sweep;

/// The open tables of a write transaction.
pub(super) struct Tables<'txn> {
    expiries: Table<'txn, (u64, &'static [u8]), ()>,
    items: Table<'txn, &'static [u8], &'static [u8]>,
    meta: Table<'txn, &'static str, u64>,
    revision: u64,
    stored_revision: u64,
}

/// The header of a stored item.
#[derive(Clone, Copy)]
struct Header {
    expires: Option<Timestamp>,
    revision: Revision,
}

impl Header {
    fn is_live(self, now: Timestamp) -> bool {
        self.expires.is_none_or(|expires| expires > now)
    }
}

impl<'txn> Tables<'txn> {
    pub(super) fn open(transaction: &'txn WriteTransaction) -> Result<Self, Failure> {
        let meta = transaction.open_table(META)?;
        // Read in each transaction: after a failed commit memory could not tell which number was used.
        let revision = meta.get(REVISION)?.map_or(0, |number| number.value());
        Ok(Self {
            expiries: transaction.open_table(EXPIRIES)?,
            items: transaction.open_table(ITEMS)?,
            meta,
            revision,
            stored_revision: revision,
        })
    }

    /// Stores the newest revision; `None` if nothing was committed.
    pub(super) fn finish(mut self) -> Result<Option<Revision>, Failure> {
        if self.revision == self.stored_revision {
            return Ok(None);
        }
        self.meta.insert(REVISION, self.revision)?;
        Ok(Some(Revision::from_u64(self.revision)))
    }

    /// Removes some of what has expired, as a commit of its own.
    pub(super) fn sweep(&mut self, now: Timestamp, events: &mut Vec<WatchEvent>) -> Result<(), Failure> {
        let mut expired = Vec::new();
        for row in self.expiries.iter()?.take(sweep::MAX_PER_COMMIT) {
            let (row, _) = row?;
            let (expires, key) = row.value();
            if expires > now.unix_millis() {
                break;
            }
            expired.push(schema::parse_key(key)?);
        }
        if !expired.is_empty() {
            let revision = self.next_revision();
            for key in expired {
                events.extend(self.remove(key, revision)?);
            }
        }
        Ok(())
    }

    /// Applies a batch, or returns the first key whose condition does not hold and leaves everything as it was.
    pub(super) fn apply(
        &mut self,
        batch: Batch,
        now: Timestamp,
        events: &mut Vec<WatchEvent>,
    ) -> Result<Result<Revision, Key>, Failure> {
        for operation in batch.operations() {
            let current = self.header(&operation.key)?.filter(|header| header.is_live(now));
            if !operation.condition.holds(current.map(|header| header.revision)) {
                return Ok(Err(operation.key.clone()));
            }
        }
        let revision = self.next_revision();
        for operation in batch.into_operations() {
            events.extend(self.perform(operation, now, revision)?);
        }
        Ok(Ok(revision))
    }

    fn next_revision(&mut self) -> Revision {
        self.revision += 1;
        Revision::from_u64(self.revision)
    }

    fn header(&self, key: &Key) -> Result<Option<Header>, Failure> {
        let key = key.as_str().as_bytes();
        let Some(record) = self.items.get(key)? else { return Ok(None) };
        let (revision, expires, _) = schema::split(record.value()).ok_or_else(|| schema::damaged(key))?;
        Ok(Some(Header { expires, revision }))
    }

    fn perform(
        &mut self,
        operation: Operation,
        now: Timestamp,
        revision: Revision,
    ) -> Result<Option<WatchEvent>, Failure> {
        let Operation { key, action, .. } = operation;
        match action {
            Action::Delete => self.remove(key, revision),
            Action::Put { value, expires } => self.insert(Item::new(key, value, expires, revision)).map(Some),
            Action::Touch { expires } => {
                let bytes = key.as_str().as_bytes();
                let value = match self.items.get(bytes)? {
                    None => return Ok(None),
                    Some(record) => {
                        let (revision, expires, value) =
                            schema::split(record.value()).ok_or_else(|| schema::damaged(bytes))?;
                        if !(Header { expires, revision }).is_live(now) {
                            return Ok(None);
                        }
                        value.to_vec()
                    }
                };
                self.insert(Item::new(key, value.into(), expires, revision)).map(Some)
            }
            _ => Ok(None),
        }
    }

    fn insert(&mut self, item: Item) -> Result<WatchEvent, Failure> {
        let key = item.key.as_str().as_bytes();
        let record = schema::encode(&item.value, item.expires, item.revision);
        let former = match self.items.insert(key, record.as_slice())? {
            None => None,
            Some(record) => schema::split(record.value()).ok_or_else(|| schema::damaged(key))?.1,
        };
        if former != item.expires {
            if let Some(expires) = former {
                self.expiries.remove((expires.unix_millis(), key))?;
            }
            if let Some(expires) = item.expires {
                self.expiries.insert((expires.unix_millis(), key), ())?;
            }
        }
        Ok(WatchEvent::Put(item))
    }

    fn remove(&mut self, key: Key, revision: Revision) -> Result<Option<WatchEvent>, Failure> {
        let bytes = key.as_str().as_bytes();
        let former = match self.items.remove(bytes)? {
            None => return Ok(None),
            Some(record) => schema::split(record.value()).ok_or_else(|| schema::damaged(bytes))?.1,
        };
        if let Some(expires) = former {
            self.expiries.remove((expires.unix_millis(), bytes))?;
        }
        Ok(Some(WatchEvent::Deleted { key, revision }))
    }
}
