//! The messages of etcd's API, version 3.

use bytes::Bytes;

use super::proto::{Fields, Malformed, Message};

/// A request and the method that it is for.
pub(super) struct Call {
    pub(super) path: &'static str,
    pub(super) message: Message,
    /// Whether it may be repeated when nothing is known of its fate.
    pub(super) repeatable: bool,
}

/// What every answer begins with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) cluster: u64,
    pub(super) revision: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct KeyValue {
    pub(super) key: Bytes,
    pub(super) revision: u64,
    pub(super) value: Bytes,
}

#[derive(Clone, Debug, Default)]
pub(super) struct RangeAnswer {
    pub(super) header: Header,
    pub(super) items: Vec<KeyValue>,
    pub(super) more: bool,
}

#[derive(Clone, Debug, Default)]
pub(super) struct TxnAnswer {
    pub(super) header: Header,
    pub(super) succeeded: bool,
    /// What the reads of the chosen branch found, in their order; other steps have an empty one.
    pub(super) ranges: Vec<RangeAnswer>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct WatchAnswer {
    pub(super) header: Header,
    pub(super) created: bool,
    pub(super) canceled: bool,
    /// Not zero: the revisions up to this one are not known any more.
    pub(super) compacted: u64,
    pub(super) reason: String,
    /// The next answer goes on with this one.
    pub(super) fragment: bool,
    pub(super) events: Vec<Event>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Event {
    pub(super) is_delete: bool,
    pub(super) item: KeyValue,
}

impl Event {
    /// What it takes of memory.
    pub(super) fn len(&self) -> usize {
        size_of::<Self>() + self.item.key.len() + self.item.value.len()
    }
}

/// Reads `key`, or what is between `key` and `end`.
pub(super) fn range_message(key: &[u8], end: &[u8], limit: u64, revision: u64) -> Message {
    Message::default().bytes(1, key).bytes(2, end).number(3, limit).number(4, revision)
}

pub(super) fn range(key: &[u8], end: &[u8], limit: u64, revision: u64) -> Call {
    let message = range_message(key, end, limit, revision);
    Call { path: "/etcdserverpb.KV/Range", message, repeatable: true }
}

/// The condition that a key has this revision; 0 is that there is none.
pub(super) fn has_revision(key: &[u8], revision: u64) -> Message {
    const MOD: u64 = 2;
    // A `oneof` that is absent is read as zero.
    Message::default().number(2, MOD).bytes(3, key).number(6, revision)
}

pub(super) fn get_step(key: &[u8]) -> Message {
    Message::default().message(1, &range_message(key, b"", 0, 0))
}

fn put_message(key: &[u8], value: &[u8], lease: u64) -> Message {
    Message::default().bytes(1, key).bytes(2, value).number(3, lease)
}

/// Writes one key, whatever is there. The answer is only a header.
pub(super) fn put(key: &[u8], value: &[u8]) -> Call {
    Call { path: "/etcdserverpb.KV/Put", message: put_message(key, value, 0), repeatable: false }
}

pub(super) fn put_step(key: &[u8], value: &[u8], lease: u64) -> Message {
    Message::default().message(2, &put_message(key, value, lease))
}

pub(super) fn delete_step(key: &[u8]) -> Message {
    Message::default().message(3, &Message::default().bytes(1, key))
}

/// Conditions, and what is done if they hold and if not.
#[derive(Default)]
pub(super) struct Txn {
    pub(super) conditions: Vec<Message>,
    pub(super) then: Vec<Message>,
    pub(super) otherwise: Vec<Message>,
}

impl Txn {
    pub(super) fn call(&self) -> Call {
        let message =
            self.conditions.iter().fold(Message::default(), |message, part| message.message(1, part));
        let message = self.then.iter().fold(message, |message, part| message.message(2, part));
        let message = self.otherwise.iter().fold(message, |message, part| message.message(3, part));
        Call { path: "/etcdserverpb.KV/Txn", message, repeatable: false }
    }
}

pub(super) fn grant_lease(seconds: u64) -> Call {
    // Without an answer there is a lease that nobody uses; it ends by itself.
    Call {
        path: "/etcdserverpb.Lease/LeaseGrant",
        message: Message::default().number(1, seconds),
        repeatable: true,
    }
}

pub(super) fn revoke_lease(lease: u64) -> Call {
    Call {
        path: "/etcdserverpb.Lease/LeaseRevoke",
        message: Message::default().number(1, lease),
        repeatable: true,
    }
}

/// A stream, of which one request and one answer are used.
pub(super) fn keep_lease(lease: u64) -> Call {
    Call {
        path: "/etcdserverpb.Lease/LeaseKeepAlive",
        message: Message::default().number(1, lease),
        repeatable: true,
    }
}

pub(super) fn authenticate(user: &str, password: &str) -> Call {
    Call {
        path: "/etcdserverpb.Auth/Authenticate",
        message: Message::default().bytes(1, user.as_bytes()).bytes(2, password.as_bytes()),
        repeatable: true,
    }
}

/// All changes between `key` and `end` from the revision `from` on.
pub(super) fn watch(key: &[u8], end: &[u8], from: u64) -> Call {
    let create = Message::default().bytes(1, key).bytes(2, end).number(3, from).number(8, 1);
    Call {
        path: "/etcdserverpb.Watch/Watch",
        message: Message::default().message(1, &create),
        repeatable: true,
    }
}

/// Reads a message field by field.
fn read<T: Default>(
    bytes: Bytes,
    mut set: impl FnMut(&mut T, u32, super::proto::Value) -> Result<(), Malformed>,
) -> Result<T, Malformed> {
    let mut fields = Fields(bytes);
    let mut message = T::default();
    while let Some((number, value)) = fields.next()? {
        set(&mut message, number, value)?;
    }
    Ok(message)
}

fn header(bytes: Bytes) -> Result<Header, Malformed> {
    read(bytes, |header: &mut Header, field, value| {
        match field {
            1 => header.cluster = value.number()?,
            3 => header.revision = value.number()?,
            _ => {}
        }
        Ok(())
    })
}

/// The header of any answer.
pub(super) fn header_of(answer: Bytes) -> Result<Header, Malformed> {
    read(answer, |found: &mut Header, field, value| {
        if field == 1 {
            *found = header(value.bytes()?)?;
        }
        Ok(())
    })
}

fn key_value(bytes: Bytes) -> Result<KeyValue, Malformed> {
    read(bytes, |item: &mut KeyValue, field, value| {
        match field {
            1 => item.key = value.bytes()?,
            3 => item.revision = value.number()?,
            5 => item.value = value.bytes()?,
            _ => {}
        }
        Ok(())
    })
}

pub(super) fn range_answer(bytes: Bytes) -> Result<RangeAnswer, Malformed> {
    read(bytes, |answer: &mut RangeAnswer, field, value| {
        match field {
            1 => answer.header = header(value.bytes()?)?,
            2 => answer.items.push(key_value(value.bytes()?)?),
            3 => answer.more = value.flag()?,
            _ => {}
        }
        Ok(())
    })
}

pub(super) fn txn_answer(bytes: Bytes) -> Result<TxnAnswer, Malformed> {
    read(bytes, |answer: &mut TxnAnswer, field, value| {
        match field {
            1 => answer.header = header(value.bytes()?)?,
            2 => answer.succeeded = value.flag()?,
            3 => answer.ranges.push(read(value.bytes()?, |step: &mut RangeAnswer, field, value| {
                if field == 1 {
                    *step = range_answer(value.bytes()?)?;
                }
                Ok(())
            })?),
            _ => {}
        }
        Ok(())
    })
}

pub(super) fn watch_answer(bytes: Bytes) -> Result<WatchAnswer, Malformed> {
    read(bytes, |answer: &mut WatchAnswer, field, value| {
        match field {
            1 => answer.header = header(value.bytes()?)?,
            3 => answer.created = value.flag()?,
            4 => answer.canceled = value.flag()?,
            5 => answer.compacted = value.number()?,
            6 => answer.reason = String::from_utf8_lossy(&value.bytes()?).into_owned(),
            7 => answer.fragment = value.flag()?,
            11 => answer.events.push(read(value.bytes()?, |event: &mut Event, field, value| {
                match field {
                    1 => event.is_delete = value.number()? == 1,
                    2 => event.item = key_value(value.bytes()?)?,
                    _ => {}
                }
                Ok(())
            })?),
            _ => {}
        }
        Ok(())
    })
}

/// The second field of the answer to [`grant_lease`] and [`keep_lease`], its id, and the third, the seconds that are left.
pub(super) fn lease_answer(bytes: Bytes) -> Result<(u64, u64), Malformed> {
    read(bytes, |answer: &mut (u64, u64), field, value| {
        match field {
            2 => answer.0 = value.number()?,
            3 => answer.1 = value.number()?,
            _ => {}
        }
        Ok(())
    })
}

pub(super) fn token_answer(bytes: Bytes) -> Result<Bytes, Malformed> {
    read(bytes, |token: &mut Bytes, field, value| {
        if field == 2 {
            *token = value.bytes()?;
        }
        Ok(())
    })
}
