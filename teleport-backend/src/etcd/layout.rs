//! What stands where below the prefix. Format 1:
//!
//! * `<prefix>format`: the number of the format, as text
//! * `<prefix>items/<key>`: expiry (8 bytes, little-endian, in milliseconds; all ones is never), value
//! * `<prefix>tick`: empty; written by commits that change nothing else, so that each has a revision
//! * `<prefix>sweeper`: who removes what has expired; ends with its lease

use bytes::Bytes;
use teleport_core::clock::Timestamp;
use teleport_core::storage::{Item, Key, Prefix, Revision};

use super::client::EtcdError;
use super::messages::KeyValue;

/// The format that this version writes, and the newest that it reads.
pub(super) const FORMAT: &str = "1";

const NEVER: u64 = u64::MAX;

/// The names of our keys.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    prefix: String,
}

impl Layout {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Everything of ours: the first name and the end.
    pub(super) fn all(&self) -> (Vec<u8>, Vec<u8>) {
        (self.prefix.clone().into_bytes(), end_of(self.prefix.as_bytes()))
    }

    pub(super) fn format(&self) -> Vec<u8> {
        format!("{}format", self.prefix).into_bytes()
    }

    pub(super) fn sweeper(&self) -> Vec<u8> {
        format!("{}sweeper", self.prefix).into_bytes()
    }

    pub(super) fn tick(&self) -> Vec<u8> {
        format!("{}tick", self.prefix).into_bytes()
    }

    pub(super) fn item(&self, key: &Key) -> Vec<u8> {
        format!("{}items/{key}", self.prefix).into_bytes()
    }

    /// The items below `below` and after `after`: the first name and the end.
    pub(super) fn items(&self, below: &Prefix, after: Option<&Key>) -> (Vec<u8>, Vec<u8>) {
        let start = format!("{}items/{}", self.prefix, below.as_str()).into_bytes();
        let end = end_of(&start);
        let start = match after {
            Some(after) if after.as_str() >= below.as_str() => {
                let mut next = self.item(after);
                next.push(0);
                next
            }
            _ => start,
        };
        (start, end)
    }

    /// The key of an item; `None` for other names of ours.
    pub(super) fn key(&self, name: &[u8]) -> Result<Option<Key>, EtcdError> {
        let Some(name) = name.strip_prefix(self.prefix.as_bytes()) else {
            return Err(damaged(name));
        };
        let Some(key) = name.strip_prefix(b"items/") else { return Ok(None) };
        let key = std::str::from_utf8(key).ok().and_then(|key| Key::new(key).ok());
        key.map(Some).ok_or_else(|| damaged(name))
    }

    /// A stored item, expired or not.
    pub(super) fn parse(&self, stored: KeyValue) -> Result<Item, EtcdError> {
        let key = self.key(&stored.key)?.ok_or_else(|| damaged(&stored.key))?;
        let Some((expires, value)) = stored.value.split_first_chunk::<8>() else {
            return Err(damaged(&stored.key));
        };
        // A copy: whoever keeps an item does not keep the page that it came with.
        let value = Bytes::copy_from_slice(value);
        let expires = match u64::from_le_bytes(*expires) {
            NEVER => None,
            millis => Some(Timestamp::from_unix_millis(millis)),
        };
        Ok(Item::new(key, value, expires, Revision::from_u64(stored.revision)))
    }
}

/// What is stored for an item.
pub(super) fn record(value: &Bytes, expires: Option<Timestamp>) -> Vec<u8> {
    let mut record = Vec::with_capacity(8 + value.len());
    record.extend_from_slice(&expires.map_or(NEVER, Timestamp::unix_millis).to_le_bytes());
    record.extend_from_slice(value);
    record
}

/// The first name behind all that begin with `start`.
fn end_of(start: &[u8]) -> Vec<u8> {
    let mut end = start.to_vec();
    // All our names are ASCII, so the last byte can always be greater by one.
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

fn damaged(name: &[u8]) -> EtcdError {
    EtcdError::Damaged { key: String::from_utf8_lossy(name).into_owned() }
}
