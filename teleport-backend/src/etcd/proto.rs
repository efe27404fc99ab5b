//! Protocol Buffers, as far as etcd's messages need them: the wire format and nothing of its type system.
//!
//! A generated client would bring a code generator, a compiler of its own (`protoc`) and a stack of HTTP middleware for the ten
//! messages that are used here.

use bytes::{Buf, Bytes};

/// Bytes that are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the message is malformed")]
pub(super) struct Malformed;

const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const DELIMITED: u64 = 2;
const FIXED32: u64 = 5;

/// The value of one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Bytes(Bytes),
    /// A number that we have no use for.
    Fixed,
    Varint(u64),
}

impl Value {
    pub(super) fn bytes(self) -> Result<Bytes, Malformed> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err(Malformed),
        }
    }

    /// A number of the type `int64` that is never negative, `uint64`, an enumeration or a truth value.
    pub(super) fn number(self) -> Result<u64, Malformed> {
        match self {
            Self::Varint(number) => Ok(number),
            _ => Err(Malformed),
        }
    }

    pub(super) fn flag(self) -> Result<bool, Malformed> {
        Ok(self.number()? != 0)
    }
}

/// The fields of a message in their order, without copying their bytes.
pub(super) struct Fields(pub(super) Bytes);

impl Fields {
    /// The next field's number and value.
    pub(super) fn next(&mut self) -> Result<Option<(u32, Value)>, Malformed> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).ok().filter(|number| *number != 0).ok_or(Malformed)?;
        let value = match tag & 7 {
            VARINT => Value::Varint(self.varint()?),
            FIXED64 => self.skip(8)?,
            DELIMITED => {
                let len = usize::try_from(self.varint()?).map_err(|_| Malformed)?;
                if len > self.0.len() {
                    return Err(Malformed);
                }
                Value::Bytes(self.0.split_to(len))
            }
            FIXED32 => self.skip(4)?,
            _ => return Err(Malformed),
        };
        Ok(Some((number, value)))
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.0.first().ok_or(Malformed)?;
            self.0.advance(1);
            let bits = u64::from(byte & 0x7f);
            let shifted = bits << shift;
            if shifted >> shift != bits {
                return Err(Malformed);
            }
            number |= shifted;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Malformed)
    }

    fn skip(&mut self, len: usize) -> Result<Value, Malformed> {
        if len > self.0.len() {
            return Err(Malformed);
        }
        self.0.advance(len);
        Ok(Value::Fixed)
    }
}

/// A message that is being written. Fields with the value zero or empty are left out, as the format wants it.
#[derive(Clone, Debug, Default)]
pub(super) struct Message(Vec<u8>);

impl Message {
    pub(super) fn bytes(mut self, field: u32, value: &[u8]) -> Self {
        if !value.is_empty() {
            self.delimited(field, value);
        }
        self
    }

    pub(super) fn number(mut self, field: u32, value: u64) -> Self {
        if value != 0 {
            self.varint(u64::from(field) << 3 | VARINT);
            self.varint(value);
        }
        self
    }

    /// A message in this one, also an empty one.
    pub(super) fn message(mut self, field: u32, value: &Self) -> Self {
        self.delimited(field, &value.0);
        self
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.0
    }

    fn delimited(&mut self, field: u32, value: &[u8]) {
        self.varint(u64::from(field) << 3 | DELIMITED);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.0.push(value.to_le_bytes()[0]);
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        // Some hold a password, and all of them values that may be secret.
        zeroize::Zeroize::zeroize(&mut self.0);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    fn fields(bytes: &'static [u8]) -> Result<Vec<(u32, Value)>, Malformed> {
        let mut fields = Fields(Bytes::from_static(bytes));
        let mut found = Vec::new();
        while let Some(field) = fields.next()? {
            found.push(field);
        }
        Ok(found)
    }

    #[test]
    fn what_is_written_is_read() {
        let inner = Message::default().number(2, u64::MAX).number(3, 0).bytes(4, b"");
        let message =
            Message::default().bytes(1, b"key").message(20_000, &inner).message(9, &Message::default());
        let mut read = Fields(Bytes::copy_from_slice(message.as_slice()));
        assert_eq!(read.next().unwrap(), Some((1, Value::Bytes(Bytes::from_static(b"key")))));
        let (number, value) = read.next().unwrap().unwrap();
        assert_eq!(number, 20_000);
        let mut read_inner = Fields(value.bytes().unwrap());
        assert_eq!(read_inner.next(), Ok(Some((2, Value::Varint(u64::MAX)))));
        assert_eq!(read_inner.next(), Ok(None), "zero and empty are not written");
        assert_eq!(read.next().unwrap(), Some((9, Value::Bytes(Bytes::new()))));
        assert_eq!(read.next(), Ok(None));
    }

    #[test]
    fn the_format_of_others() {
        // As the specification shows it: field 1, the number 150; then field 2, the text "testing".
        let known = fields(b"\x08\x96\x01\x12\x07testing").unwrap();
        assert_eq!(known, [(1, Value::Varint(150)), (2, Value::Bytes(Bytes::from_static(b"testing")))]);
        assert_eq!(fields(b"\x09abcdefgh\x0dabcd").unwrap(), [(1, Value::Fixed), (1, Value::Fixed)]);
    }

    #[test]
    fn malformed_messages_are_refused() {
        let bad: [&'static [u8]; 9] = [
            b"\x08",
            b"\x08\x80",
            b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02",
            b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            b"\x12\x02a",
            b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            b"\x00\x00",
            b"\x0b",
            b"\x09abc",
        ];
        for bytes in bad {
            assert_eq!(fields(bytes), Err(Malformed), "{bytes:?}");
        }
    }
}
