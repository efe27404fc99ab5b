//! Numbers and fields of the protocol, version 3.
//!
//! Sources: draft-ietf-secsh-filexfer-02, and section 4 of OpenSSH's `PROTOCOL` for what it adds and where it differs.

use bytes::Buf;

/// The longest packet that is taken, in bytes: as OpenSSH's.
pub(crate) const MAX_PACKET: usize = 256 << 10;
/// The longest data of one read or write: a packet less what stands around it.
pub(crate) const MAX_DATA: usize = MAX_PACKET - 1024;
/// The version that is spoken.
pub(crate) const VERSION: u32 = 3;
/// The longest handle.
const MAX_HANDLE: usize = 256;

/// Kinds of packets.
pub(crate) mod kind {
    pub(crate) const INIT: u8 = 1;
    pub(crate) const VERSION: u8 = 2;
    pub(crate) const OPEN: u8 = 3;
    pub(crate) const CLOSE: u8 = 4;
    pub(crate) const READ: u8 = 5;
    pub(crate) const WRITE: u8 = 6;
    pub(crate) const LSTAT: u8 = 7;
    pub(crate) const FSTAT: u8 = 8;
    pub(crate) const SETSTAT: u8 = 9;
    pub(crate) const FSETSTAT: u8 = 10;
    pub(crate) const OPENDIR: u8 = 11;
    pub(crate) const READDIR: u8 = 12;
    pub(crate) const REMOVE: u8 = 13;
    pub(crate) const MKDIR: u8 = 14;
    pub(crate) const RMDIR: u8 = 15;
    pub(crate) const REALPATH: u8 = 16;
    pub(crate) const STAT: u8 = 17;
    pub(crate) const RENAME: u8 = 18;
    pub(crate) const READLINK: u8 = 19;
    pub(crate) const SYMLINK: u8 = 20;
    pub(crate) const STATUS: u8 = 101;
    pub(crate) const HANDLE: u8 = 102;
    pub(crate) const DATA: u8 = 103;
    pub(crate) const NAME: u8 = 104;
    pub(crate) const ATTRS: u8 = 105;
    pub(crate) const EXTENDED: u8 = 200;
    pub(crate) const EXTENDED_REPLY: u8 = 201;
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Code {
    Ok = 0,
    Eof = 1,
    NoSuchFile = 2,
    PermissionDenied = 3,
    Failure = 4,
    BadMessage = 5,
    Unsupported = 8,
}

/// Bytes that are no packet of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("a packet of {0} bytes: at most {MAX_PACKET} are taken")]
    Length(u32),
    #[error("a packet ends within a field")]
    Short,
    #[error("the first packet does not begin the protocol")]
    Beginning,
}

impl From<bytes::TryGetError> for Malformed {
    fn from(_: bytes::TryGetError) -> Self {
        Self::Short
    }
}

/// The length of a packet without the four bytes of its length, if these have come.
pub(crate) fn length(bytes: &[u8]) -> Result<Option<usize>, Malformed> {
    let Some(length) = bytes.first_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes)) else {
        return Ok(None);
    };
    match usize::try_from(length) {
        Ok(bytes @ 1..=MAX_PACKET) => Ok(Some(bytes)),
        _ => Err(Malformed::Length(length)),
    }
}

/// Takes a string off the front.
pub(crate) fn string<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8], Malformed> {
    let length = usize::try_from(bytes.try_get_u32()?).map_err(|_| Malformed::Short)?;
    let (string, rest) = bytes.split_at_checked(length).ok_or(Malformed::Short)?;
    *bytes = rest;
    Ok(string)
}

/// Takes a handle off the front.
pub(crate) fn handle<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8], Malformed> {
    string(bytes)
        .and_then(|handle| if handle.len() <= MAX_HANDLE { Ok(handle) } else { Err(Malformed::Short) })
}

/// Flags of `OPEN`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OpenFlags(pub(crate) u32);

impl OpenFlags {
    pub(crate) const READ: u32 = 0x01;
    pub(crate) const WRITE: u32 = 0x02;
    pub(crate) const APPEND: u32 = 0x04;
    pub(crate) const CREATE: u32 = 0x08;
    pub(crate) const TRUNCATE: u32 = 0x10;
    pub(crate) const EXCLUSIVE: u32 = 0x20;

    pub(crate) const fn has(self, flag: u32) -> bool {
        self.0 & flag != 0
    }
}

/// What is told of a file, or is to be set: what is `None` is not said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) size: Option<u64>,
    /// User and group.
    pub(crate) owner: Option<(u32, u32)>,
    /// Kind of file and permissions, as `st_mode`.
    pub(crate) mode: Option<u32>,
    /// Last access and last change, in seconds since 1970.
    pub(crate) times: Option<(u32, u32)>,
}

const HAS_SIZE: u32 = 0x0000_0001;
const HAS_OWNER: u32 = 0x0000_0002;
const HAS_MODE: u32 = 0x0000_0004;
const HAS_TIMES: u32 = 0x0000_0008;
const HAS_EXTENDED: u32 = 0x8000_0000;

impl Attributes {
    pub(crate) fn parse(bytes: &mut &[u8]) -> Result<Self, Malformed> {
        let flags = bytes.try_get_u32()?;
        let mut attributes = Self::default();
        if flags & HAS_SIZE != 0 {
            attributes.size = Some(bytes.try_get_u64()?);
        }
        if flags & HAS_OWNER != 0 {
            attributes.owner = Some((bytes.try_get_u32()?, bytes.try_get_u32()?));
        }
        if flags & HAS_MODE != 0 {
            attributes.mode = Some(bytes.try_get_u32()?);
        }
        if flags & HAS_TIMES != 0 {
            attributes.times = Some((bytes.try_get_u32()?, bytes.try_get_u32()?));
        }
        if flags & HAS_EXTENDED != 0 {
            // Each takes eight bytes at least, so this ends with the packet.
            for _ in 0..bytes.try_get_u32()? {
                string(bytes)?;
                string(bytes)?;
            }
        }
        Ok(attributes)
    }

    pub(crate) fn put(&self, out: &mut Packet<'_>) {
        let flag = |there: bool, flag| if there { flag } else { 0 };
        out.u32(
            flag(self.size.is_some(), HAS_SIZE)
                | flag(self.owner.is_some(), HAS_OWNER)
                | flag(self.mode.is_some(), HAS_MODE)
                | flag(self.times.is_some(), HAS_TIMES),
        );
        if let Some(size) = self.size {
            out.u64(size);
        }
        if let Some((user, group)) = self.owner {
            out.u32(user).u32(group);
        }
        if let Some(mode) = self.mode {
            out.u32(mode);
        }
        if let Some((accessed, modified)) = self.times {
            out.u32(accessed).u32(modified);
        }
    }
}

/// A packet that is written at the end of a buffer; its length is filled in when it is dropped.
#[derive(Debug)]
pub(crate) struct Packet<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
    /// Where the data begins that has no length yet.
    space: usize,
}

impl<'a> Packet<'a> {
    pub(crate) fn begin(out: &'a mut Vec<u8>, kind: u8) -> Self {
        let start = out.len();
        out.extend_from_slice(&[0, 0, 0, 0, kind]);
        Self { out, start, space: 0 }
    }

    /// Begins an answer to the request `id`.
    pub(crate) fn answer(out: &'a mut Vec<u8>, kind: u8, id: u32) -> Self {
        let mut packet = Self::begin(out, kind);
        packet.u32(id);
        packet
    }

    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.out.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(crate) fn u64(&mut self, value: u64) -> &mut Self {
        self.out.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// Strings are cut, never refused, where their length does not fit: those of ours are far shorter than that.
    pub(crate) fn string(&mut self, value: impl AsRef<[u8]>) -> &mut Self {
        let value = value.as_ref();
        let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
        self.u32(length);
        self.out.extend_from_slice(value.get(..length as usize).unwrap_or(value));
        self
    }

    pub(crate) fn attributes(&mut self, attributes: &Attributes) -> &mut Self {
        attributes.put(self);
        self
    }

    /// Room for data, which begins with zeros. [`keep`](Self::keep) ends it.
    pub(crate) fn space(&mut self, length: usize) -> &mut [u8] {
        let from = self.out.len();
        self.out.resize(from + length, 0);
        self.space = from;
        self.out.get_mut(from..).unwrap_or_default()
    }

    /// Keeps so much of the room, as a string whose length was left open before it.
    pub(crate) fn keep(&mut self, length: usize) -> &mut Self {
        self.out.truncate(self.space + length);
        let place = self.space - self.start - 4;
        self.set_u32(place, u32::try_from(length).unwrap_or(u32::MAX));
        self
    }

    /// Replaces four bytes, counted from the packet's beginning.
    pub(crate) fn set_u32(&mut self, at: usize, value: u32) {
        if let Some(place) = self.out.get_mut(self.start + at..).and_then(|rest| rest.first_chunk_mut()) {
            *place = value.to_be_bytes();
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.out.len() - self.start
    }
}

impl Drop for Packet<'_> {
    fn drop(&mut self) {
        let length = u32::try_from(self.len() - 4).unwrap_or(u32::MAX);
        self.set_u32(0, length);
    }
}
