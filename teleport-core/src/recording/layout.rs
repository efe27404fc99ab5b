//! What stands where in a recording, version 1. The chapter [`recordings`](crate::manual::recordings) of the manual describes it byte
//! for byte.

use bytes::{Buf, Bytes};

/// The last byte is the version.
pub(super) const MAGIC: &[u8; 8] = b"TPREC\0\0\x01";
/// Begins a segment.
pub(super) const SEGMENT: [u8; 4] = *b"TPSG";
/// Begins the index.
pub(super) const INDEX: [u8; 4] = *b"TPIX";
/// Ends the index, and with it the file.
pub(super) const INDEX_END: [u8; 4] = *b"TPEN";

/// The longest description, in bytes of JSON.
pub(super) const MAX_META: usize = 128 * 1024;
/// The longest data of a chunk.
pub(super) const MAX_CHUNK: usize = 512 * 1024;
/// The most that a chunk becomes when it is decompressed.
pub(super) const MAX_PLAIN: usize = 256 * 1024;
/// Of the zstd frames: how far they refer back, as a power of two. The reader keeps as much.
pub(super) const MAX_WINDOW_LOG: u32 = 18;
/// A chunk's length and checksum.
pub(super) const CHUNK_HEAD: usize = 8;
/// See [`Head`].
pub(super) const SEGMENT_HEAD: usize = 24;

pub(super) const KIND_STDOUT: u8 = 1;
pub(super) const KIND_STDERR: u8 = 2;
pub(super) const KIND_RESIZE: u8 = 3;
pub(super) const KIND_GAP: u8 = 4;
pub(super) const KIND_EXITED: u8 = 5;
pub(super) const KIND_SIGNALED: u8 = 6;
pub(super) const KIND_DISCONNECTED: u8 = 7;

/// CRC-32 (IEEE) over the parts of a unit: all of it but the checksum itself.
pub(super) fn checksum(parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize()
}

/// What begins a segment: all that a reader needs that has not read what comes before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// Segments are numbered from 0.
    pub(super) number: u32,
    /// Milliseconds since the beginning of the session: the first event's delta counts from here.
    pub(super) time: u64,
    /// The terminal's size here; 0 and 0 if it has none, or none that is known.
    pub(super) columns: u16,
    pub(super) rows: u16,
}

impl Head {
    pub(super) fn to_bytes(self) -> [u8; SEGMENT_HEAD] {
        let mut bytes = [0; SEGMENT_HEAD];
        let fields = SEGMENT
            .into_iter()
            .chain(self.number.to_be_bytes())
            .chain(self.time.to_be_bytes())
            .chain(self.columns.to_be_bytes())
            .chain(self.rows.to_be_bytes());
        for (byte, field) in bytes.iter_mut().zip(fields) {
            *byte = field;
        }
        let (fields, crc) = bytes.split_at_mut(SEGMENT_HEAD - 4);
        crc.copy_from_slice(&checksum(&[fields]).to_be_bytes());
        bytes
    }

    /// `None` if the checksum is wrong.
    pub(super) fn parse(bytes: &[u8; SEGMENT_HEAD]) -> Option<Self> {
        let (fields, crc) = bytes.split_last_chunk::<4>()?;
        if checksum(&[fields]) != u32::from_be_bytes(*crc) {
            return None;
        }
        let mut fields = fields.get(SEGMENT.len()..)?;
        Some(Self {
            number: fields.get_u32(),
            time: fields.get_u64(),
            columns: fields.get_u16(),
            rows: fields.get_u16(),
        })
    }
}

/// Appends an unsigned LEB128 number.
pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let low = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

/// Takes an unsigned LEB128 number; `None` if it is cut or too large.
pub(super) fn varint(input: &mut Bytes) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = *input.first()?;
        let _ = input.split_to(1);
        let low = u64::from(byte & 0x7f);
        value |= low.checked_shl(shift).filter(|shifted| shifted >> shift == low)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Takes a length and as many bytes; `None` if they are cut.
pub(super) fn bytes(input: &mut Bytes) -> Option<Bytes> {
    let len = usize::try_from(varint(input)?).ok()?;
    (len <= input.len()).then(|| input.split_to(len))
}
