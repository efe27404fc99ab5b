//! What binds a recording into the audit log: the digest of its content.
//!
//! One for each way of keeping it. What is kept as it is has the SHA-256 of its bytes, which `sha256sum` computes. What is
//! encrypted has the SHA-256 of the SHA-256s of its parts, in their order: those are sealed with the parts, so that a service
//! that cannot decrypt knows them as well, and they stay what they are when the recording is encrypted for others.

use super::store::{RecordingError, RecordingStore};
use crate::audit::chain::{Digest, Hasher};
use crate::id::SessionId;

/// The bytes that are read at a time.
const PIECE: usize = 1 << 20;

/// The digests of the parts of an encrypted recording, before they were encrypted.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "stores build it")]
pub struct PartDigests {
    /// The SHA-256 of each part, in order, without a gap.
    pub parts: Vec<Digest>,
    /// Whether the content was decrypted and has these digests. Otherwise they are what the cluster has sealed when the parts were
    /// handed in; that the encrypted bytes behind are still what they were is not known.
    pub decrypted: bool,
}

/// The digest of a recording's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ContentDigest {
    /// The SHA-256 of its bytes.
    Bytes(Digest),
    /// The SHA-256 of the SHA-256s of its parts.
    Parts {
        /// It.
        digest: Digest,
        /// As [`PartDigests::decrypted`].
        decrypted: bool,
    },
}

impl ContentDigest {
    /// As the audit log names those of bytes.
    pub const BYTES_FIELD: &'static str = "sha256";
    /// As the audit log names those of parts.
    pub const PARTS_FIELD: &'static str = "parts_sha256";

    /// Of a recording as it is stored now. Takes constant memory, beside 32 bytes for each part.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn of(store: &dyn RecordingStore, session: SessionId) -> Result<Self, RecordingError> {
        if let Some(PartDigests { parts, decrypted }) = store.part_digests(session).await? {
            let mut hasher = Hasher::new();
            for part in &parts {
                hasher.update(part.as_bytes());
            }
            return Ok(Self::Parts { digest: hasher.finish(), decrypted });
        }
        let mut hasher = Hasher::new();
        let mut offset = 0;
        loop {
            let piece = store.read(session, offset, PIECE).await?;
            if piece.is_empty() {
                return Ok(Self::Bytes(hasher.finish()));
            }
            hasher.update(&piece);
            offset += piece.len() as u64;
        }
    }

    /// The field of the audit event that has it.
    pub const fn field(&self) -> &'static str {
        match self {
            Self::Bytes(_) => Self::BYTES_FIELD,
            Self::Parts { .. } => Self::PARTS_FIELD,
        }
    }

    /// It.
    pub const fn digest(&self) -> Digest {
        match self {
            Self::Bytes(digest) | Self::Parts { digest, .. } => *digest,
        }
    }
}
