//! What the file holds. Format 1:
//!
//! * `items`: key → revision, expiry (both 8 bytes, little-endian; all ones is never), value
//! * `expiries`: (expiry in milliseconds, key) → nothing, one row for each item that expires
//! * `meta`: `format` and `revision`, the newest commit

use std::ops::Bound;
use std::sync::Arc;

use ::redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition};
use bytes::Bytes;
use teleport_core::clock::Timestamp;
use teleport_core::storage::{Item, Key, Prefix, Revision, StorageError};

pub(super) const ITEMS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("items");
pub(super) const EXPIRIES: TableDefinition<'_, (u64, &[u8]), ()> = TableDefinition::new("expiries");
pub(super) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

pub(super) const FORMAT: &str = "format";
pub(super) const REVISION: &str = "revision";

/// The format that this version writes, and the newest that it reads.
pub(super) const CURRENT_FORMAT: u64 = 1;

const NEVER: u64 = u64::MAX;
const HEADER_LEN: usize = 16;

/// Why the database could not be used. Cloned to everyone whose batch was in the transaction.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("the stored item {key:?} is damaged")]
    Item { key: String },
    #[error("the database failed")]
    Redb { source: Arc<::redb::Error> },
}

impl<E: Into<::redb::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Redb { source: Arc::new(error.into()) }
    }
}

impl Failure {
    /// Whether the disk failed: redb then refuses everything until the file is opened anew.
    pub(super) fn is_io(&self) -> bool {
        matches!(self, Self::Redb { source } if matches!(**source, ::redb::Error::Io(_) | ::redb::Error::PreviousIo))
    }
}

impl From<Failure> for StorageError {
    fn from(failure: Failure) -> Self {
        if failure.is_io() { Self::unavailable(failure) } else { Self::driver(failure) }
    }
}

/// An item as it is stored.
pub(super) fn encode(value: &[u8], expires: Option<Timestamp>, revision: Revision) -> Vec<u8> {
    let mut record = Vec::with_capacity(HEADER_LEN + value.len());
    record.extend_from_slice(&revision.as_u64().to_le_bytes());
    record.extend_from_slice(&expires.map_or(NEVER, Timestamp::unix_millis).to_le_bytes());
    record.extend_from_slice(value);
    record
}

/// The revision, the expiry and the value of a stored item.
pub(super) fn split(record: &[u8]) -> Option<(Revision, Option<Timestamp>, &[u8])> {
    let (revision, rest) = record.split_first_chunk::<8>()?;
    let (expires, value) = rest.split_first_chunk::<8>()?;
    let expires = match u64::from_le_bytes(*expires) {
        NEVER => None,
        millis => Some(Timestamp::from_unix_millis(millis)),
    };
    Some((Revision::from_u64(u64::from_le_bytes(*revision)), expires, value))
}

pub(super) fn damaged(key: &[u8]) -> Failure {
    Failure::Item { key: String::from_utf8_lossy(key).into_owned() }
}

pub(super) fn parse_key(key: &[u8]) -> Result<Key, Failure> {
    std::str::from_utf8(key).ok().and_then(|text| Key::new(text).ok()).ok_or_else(|| damaged(key))
}

/// The newest commit.
pub(super) fn revision(database: &Database) -> Result<Revision, Failure> {
    let meta = database.begin_read()?.open_table(META)?;
    Ok(Revision::from_u64(meta.get(REVISION)?.map_or(0, |number| number.value())))
}

/// The stored item, expired or not.
pub(super) fn get(database: &Database, key: &Key) -> Result<Option<Item>, Failure> {
    let items = database.begin_read()?.open_table(ITEMS)?;
    let Some(record) = items.get(key.as_str().as_bytes())? else { return Ok(None) };
    let (revision, expires, value) = split(record.value()).ok_or_else(|| damaged(key.as_str().as_bytes()))?;
    Ok(Some(Item::new(key.clone(), Bytes::copy_from_slice(value), expires, revision)))
}

/// The live items below `prefix`, from one snapshot.
pub(super) fn range(
    database: &Database,
    prefix: &Prefix,
    after: Option<&Key>,
    limit: usize,
    now: Timestamp,
) -> Result<Vec<Item>, Failure> {
    let items = database.begin_read()?.open_table(ITEMS)?;
    let start = match after.map(Key::as_str) {
        Some(after) if after >= prefix.as_str() => Bound::Excluded(after.as_bytes()),
        _ => Bound::Included(prefix.as_str().as_bytes()),
    };
    let mut found = Vec::new();
    if limit == 0 {
        return Ok(found);
    }
    for row in items.range::<&[u8]>((start, Bound::Unbounded))? {
        let (key, record) = row?;
        if !key.value().starts_with(prefix.as_str().as_bytes()) {
            break;
        }
        let (revision, expires, value) = split(record.value()).ok_or_else(|| damaged(key.value()))?;
        if expires.is_some_and(|expires| expires <= now) {
            continue;
        }
        found.push(Item::new(parse_key(key.value())?, Bytes::copy_from_slice(value), expires, revision));
        if found.len() == limit {
            break;
        }
    }
    Ok(found)
}

/// Whether there is something to sweep.
pub(super) fn has_expired(snapshot: &ReadTransaction, now: Timestamp) -> Result<bool, Failure> {
    let expiries = snapshot.open_table(EXPIRIES)?;
    Ok(expiries.first()?.is_some_and(|(row, _)| row.value().0 <= now.unix_millis()))
}
