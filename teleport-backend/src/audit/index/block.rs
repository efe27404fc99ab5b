//! Blocks: the events of one second of one log, or a part of them, as they are stored.
//!
//! ```text
//! audit/index/events/<second>.<log>.<number of the first>.<digest of the lines>   →   sealed for that key:
//!     version (1 byte) · length of the lines (4 bytes, little-endian) · zstd of the lines, each with its newline
//! ```
//!
//! A line is that of the file without its digest. Many events share a block when there are many, so a burst costs few items; and one
//! block never spans seconds, so the keys are in the order of time to the second. A block that is made again from the same lines is the
//! same one, and no other takes its place: what was in the index stays when the files are cut and it is made anew from the rest.

use teleport_core::audit::AuditEvent;
use teleport_core::audit::chain::Digest;
use teleport_core::secret::Sealer;
use teleport_core::storage::{InvalidKey, Key, Prefix};
use uuid::Uuid;

use super::place::Rank;

/// Where blocks are.
const EVENTS: &str = "audit/index/events";
/// The most bytes of lines in a block of more than one.
pub(super) const MAX_LINES: usize = 256 << 10;
/// The most bytes of a line; of a longer one the fields of its kind are left out.
const MAX_LINE: usize = 512 << 10;
const VERSION: u8 = 1;
/// Of zstd: the default, which is faster than anything is logged.
const LEVEL: i32 = 3;

/// Where blocks are.
pub(super) fn prefix() -> Result<Prefix, InvalidKey> {
    Prefix::new(EVENTS)
}

/// A key before those of this second.
pub(super) fn before(second: u64) -> Result<Key, InvalidKey> {
    prefix()?.key(&format!("{second:012}"))
}

/// What a block holds, told from its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BlockId {
    pub(super) second: u64,
    pub(super) log: Uuid,
}

impl BlockId {
    pub(super) fn parse(key: &Key) -> Option<Self> {
        let mut parts = key.leaf().split('.');
        let (second, log) = (parts.next()?, parts.next()?);
        (parts.count() == 2).then_some(())?;
        Some(Self { second: second.parse().ok()?, log: Uuid::try_parse(log).ok()? })
    }
}

/// A block that is being filled.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) id: BlockId,
    /// The number of the first event.
    first: u64,
    lines: Vec<u8>,
}

/// Why a block cannot be stored or read.
#[derive(Debug, thiserror::Error)]
pub(super) enum BlockError {
    #[error("its lines cannot be packed")]
    Pack(#[source] std::io::Error),
    #[error("it cannot be sealed")]
    Seal(#[source] teleport_core::entropy::EntropyError),
    #[error("it was not sealed for this place by this cluster")]
    Open,
    #[error("it has no form that is known here")]
    Form,
}

impl Draft {
    pub(super) const fn new(id: BlockId, first: u64) -> Self {
        Self { id, first, lines: Vec::new() }
    }

    /// Where it is to be stored.
    pub(super) fn key(&self) -> Result<Key, InvalidKey> {
        let BlockId { second, log } = self.id;
        let digest = Digest::of(&[&self.lines]);
        prefix()?.key(&format!("{second:012}.{}.{:020}.{digest:.16}", log.simple(), self.first))
    }

    /// Whether another line fits.
    pub(super) const fn has_room(&self, line: usize) -> bool {
        self.lines.len() + line < MAX_LINES
    }

    /// Adds a line.
    pub(super) fn push(&mut self, line: &[u8]) {
        if line.len() <= MAX_LINE {
            self.lines.extend_from_slice(line);
        } else if let Some(short) = shortened(line) {
            self.lines.extend_from_slice(&short);
        } else {
            return;
        }
        self.lines.push(b'\n');
    }

    /// As it is stored.
    pub(super) fn seal(&self, key: &Key, sealer: &dyn Sealer) -> Result<Vec<u8>, BlockError> {
        let len = u32::try_from(self.lines.len()).map_err(|_| BlockError::Form)?;
        let packed = zstd::bulk::compress(&self.lines, LEVEL).map_err(BlockError::Pack)?;
        let mut plain = Vec::with_capacity(5 + packed.len());
        plain.push(VERSION);
        plain.extend_from_slice(&len.to_le_bytes());
        plain.extend_from_slice(&packed);
        sealer.seal(key.as_str(), &plain).map_err(BlockError::Seal)
    }
}

/// The lines of a stored block.
pub(super) fn open(key: &Key, stored: &[u8], sealer: &dyn Sealer) -> Result<Vec<u8>, BlockError> {
    let plain = sealer.open(key.as_str(), stored).map_err(|_| BlockError::Open)?;
    let (version, rest) = plain.expose().split_first().ok_or(BlockError::Form)?;
    let (len, packed) = rest.split_first_chunk::<4>().ok_or(BlockError::Form)?;
    let len = usize::try_from(u32::from_le_bytes(*len)).map_err(|_| BlockError::Form)?;
    if *version != VERSION || len > MAX_LINES + MAX_LINE {
        return Err(BlockError::Form);
    }
    let lines = zstd::bulk::decompress(packed, len).map_err(BlockError::Pack)?;
    if lines.len() == len { Ok(lines) } else { Err(BlockError::Form) }
}

/// What is stored of a line that is too long.
fn shortened(line: &[u8]) -> Option<Vec<u8>> {
    let mut event: AuditEvent = serde_json::from_slice(line).ok()?;
    event.fields.clear();
    event.fields.insert("left_out_bytes".to_owned(), line.len().into());
    serde_json::to_vec(&event).ok()
}

/// The place of a line of `log` that happened then.
pub(super) fn rank(log: Uuid, millis: u64, line: &[u8]) -> Option<Rank> {
    let digits = line.strip_prefix(b"{\"index\":")?;
    let end = digits.iter().take(21).position(|byte| *byte == b',')?;
    let index = std::str::from_utf8(digits.get(..end)?).ok()?.parse().ok()?;
    Some(Rank { millis, log, index })
}
