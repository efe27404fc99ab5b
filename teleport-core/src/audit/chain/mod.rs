//! The hash chain of a log's lines, and the checkpoints that are signed.
//!
//! What a line is byte for byte stands in the manual's chapter [`audit_log`](crate::manual::audit_log). Everything here is
//! pure: a writer asks [`Chain`] for the next line, a reader feeds lines to [`Verifier`].

mod checkpoint;
mod finding;
mod key;
mod verify;

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use self::checkpoint::{
    Checkpoint, CheckpointDraft, CheckpointReason, CheckpointSigner, LogOwner, StoredCheckpoint,
};
pub use self::finding::{Finding, Flaw, Interruption, Proven};
pub use self::key::{CheckpointKey, CheckpointKeyId, InvalidCheckpointKey};
pub use self::verify::Verifier;

/// The names of fields that the chain owns. Events that have one of their own are not written.
pub const CHAIN_FIELDS: [&str; 2] = ["chain", "index"];

const INDEX: &[u8] = b"{\"index\":";
const CHAIN: &[u8] = b",\"chain\":\"";
const END: &[u8] = b"\"}";
/// The hexadecimal digits of a digest.
const HEX_LEN: usize = 64;

/// A SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// What the first entry of a chain follows.
    pub const ZERO: Self = Self([0; 32]);

    /// Of the concatenation of `parts`.
    pub fn of(parts: &[&[u8]]) -> Self {
        let mut hasher = Hasher::new();
        for part in parts {
            hasher.update(part);
        }
        hasher.finish()
    }

    /// What [`Self::as_bytes`] gave.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not a SHA-256 in hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a SHA-256 is 64 lower-case hexadecimal digits")]
#[non_exhaustive]
pub struct InvalidDigest;

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        Self::from_hex(text.as_bytes()).ok_or(InvalidDigest)
    }
}

impl Digest {
    fn from_hex(text: &[u8]) -> Option<Self> {
        let mut bytes = [0; 32];
        // The decoder writes as many bytes as the text has; others are no digest.
        (text.len() == HEX_LEN && HEXLOWER.decode_mut(text, &mut bytes).is_ok()).then_some(Self(bytes))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A [`Digest`] of bytes that come piece by piece.
#[derive(Clone)]
pub struct Hasher(Context);

impl Hasher {
    /// Of nothing yet.
    pub fn new() -> Self {
        Self(Context::new(&SHA256))
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all bytes.
    pub fn finish(self) -> Digest {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.0.finish().as_ref());
        Digest(bytes)
    }
}

impl Default for Hasher {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher(..)")
    }
}

/// An entry's place in a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "callers build it from what they remember")]
pub struct ChainHead {
    /// Its number; the first is 0.
    pub index: u64,
    /// Its digest, which covers it and everything before it.
    pub digest: Digest,
}

/// `INDEX:DIGEST`.
impl fmt::Display for ChainHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.index, self.digest)
    }
}

/// The text is not a place in a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a place in the log is `INDEX:DIGEST`, as `tctl audit verify` prints it")]
#[non_exhaustive]
pub struct InvalidChainHead;

impl FromStr for ChainHead {
    type Err = InvalidChainHead;

    fn from_str(text: &str) -> Result<Self, InvalidChainHead> {
        let (index, digest) = text.split_once(':').ok_or(InvalidChainHead)?;
        let index = number(index.as_bytes()).ok_or(InvalidChainHead)?;
        Ok(Self { index, digest: digest.parse().map_err(|_| InvalidChainHead)? })
    }
}

/// The event is not a JSON object with members, or has a field that belongs to the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the event cannot be an entry of the log")]
#[expect(clippy::exhaustive_structs, reason = "logs return it")]
pub struct NotAnEntry;

/// The end of a chain: what the next entry follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    next: u64,
    digest: Digest,
}

impl Chain {
    /// A chain without entries.
    pub const fn new() -> Self {
        Self { next: 0, digest: Digest::ZERO }
    }

    /// A chain whose newest entry is `head`.
    pub const fn after(head: ChainHead) -> Self {
        Self { next: head.index.saturating_add(1), digest: head.digest }
    }

    /// The number of the next entry.
    pub const fn next_index(&self) -> u64 {
        self.next
    }

    /// The newest entry's digest.
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// The newest entry; `None` without any.
    pub fn head(&self) -> Option<ChainHead> {
        self.next.checked_sub(1).map(|index| ChainHead { index, digest: self.digest })
    }

    /// Appends the line of `event`, the JSON object of an event, to `out`, with its newline.
    ///
    /// # Errors
    /// [`NotAnEntry`] if it is no object with members.
    pub fn append(&mut self, event: &[u8], out: &mut Vec<u8>) -> Result<(), NotAnEntry> {
        let start = out.len();
        self.open(event, out)?;
        self.close(start, out);
        Ok(())
    }

    /// The line up to the brace that would end the object.
    fn open(&self, event: &[u8], out: &mut Vec<u8>) -> Result<(), NotAnEntry> {
        let members = event.strip_prefix(b"{").and_then(|rest| rest.strip_suffix(b"}")).ok_or(NotAnEntry)?;
        if members.is_empty() || members.contains(&b'\n') {
            return Err(NotAnEntry);
        }
        out.extend_from_slice(INDEX);
        out.extend_from_slice(self.next.to_string().as_bytes());
        out.push(b',');
        out.extend_from_slice(members);
        Ok(())
    }

    /// Ends the line that began at `start`, and moves on.
    fn close(&mut self, start: usize, out: &mut Vec<u8>) {
        let digest = Digest::of(&[&self.digest.0, out.get(start..).unwrap_or_default()]);
        out.extend_from_slice(CHAIN);
        out.extend_from_slice(HEXLOWER.encode(&digest.0).as_bytes());
        out.extend_from_slice(END);
        out.push(b'\n');
        *self = Self { next: self.next.saturating_add(1), digest };
    }
}

impl Default for Chain {
    fn default() -> Self {
        Self::new()
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    let canonical = !digits.is_empty()
        && digits.iter().all(u8::is_ascii_digit)
        && (digits.len() == 1 || digits.first() != Some(&b'0'));
    if canonical { std::str::from_utf8(digits).ok()?.parse().ok() } else { None }
}

/// A line that has the form of an entry. Whether it is one shows what it [follows](Entry::follows).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    index: u64,
    digest: Digest,
    line: &'a [u8],
    /// What the digest covers, beside the digest before.
    body: &'a [u8],
}

impl<'a> Entry<'a> {
    /// Takes a line (without its newline) apart; `None` if it does not have the form.
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        let rest = line.strip_suffix(END)?;
        let (body, digest) = rest.split_at_checked(rest.len().checked_sub(HEX_LEN)?)?;
        let body = body.strip_suffix(CHAIN)?;
        let digits = body.strip_prefix(INDEX)?;
        let comma = digits.iter().take(20 + 1).position(|byte| *byte == b',')?;
        let (digits, members) = digits.split_at_checked(comma)?;
        if members.len() < 2 {
            return None;
        }
        Some(Self { index: number(digits)?, digest: Digest::from_hex(digest)?, line, body })
    }

    /// Its place.
    pub const fn head(&self) -> ChainHead {
        ChainHead { index: self.index, digest: self.digest }
    }

    /// The line: JSON.
    pub const fn line(&self) -> &'a [u8] {
        self.line
    }

    /// The line up to its digest: the event with its number, without the brace that ends it.
    pub const fn body(&self) -> &'a [u8] {
        self.body
    }

    /// Whether its digest is the right one behind an entry with the digest `before`.
    pub fn follows(&self, before: &Digest) -> bool {
        Digest::of(&[&before.0, self.body]) == self.digest
    }
}

#[cfg(test)]
mod tests;
