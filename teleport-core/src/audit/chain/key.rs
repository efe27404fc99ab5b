//! The key that checkpoints are checked with.

use std::fmt;
use std::str::FromStr;

use data_encoding::{BASE64, HEXLOWER};
use ring::digest::{SHA256, digest};
use ring::signature::{ED25519, UnparsedPublicKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The DER of an Ed25519 SubjectPublicKeyInfo up to the key (RFC 8410).
const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
const BEGIN: &str = "-----BEGIN PUBLIC KEY-----";
const END: &str = "-----END PUBLIC KEY-----";

/// The public half of the key that signs checkpoints: Ed25519.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CheckpointKey([u8; 32]);

/// The text is not a public key of an audit log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an Ed25519 public key in PEM (BEGIN PUBLIC KEY) or its base64")]
#[non_exhaustive]
pub struct InvalidCheckpointKey;

impl CheckpointKey {
    /// From the 32 bytes of RFC 8032.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The SubjectPublicKeyInfo in DER.
    pub fn to_der(&self) -> Vec<u8> {
        [&SPKI[..], &self.0].concat()
    }

    /// The SubjectPublicKeyInfo in PEM, with a newline at its end: what `openssl pkeyutl -pubin` reads.
    pub fn to_pem(&self) -> String {
        format!("{BEGIN}\n{self}\n{END}\n")
    }

    /// Every key of a file: PEM, one block behind the other, with any text between, or one line of base64.
    ///
    /// # Errors
    /// [`InvalidCheckpointKey`] if there is none, or one is not of the form.
    pub fn all(text: &str) -> Result<Vec<Self>, InvalidCheckpointKey> {
        if !text.contains(BEGIN) {
            return Ok(vec![text.trim().parse()?]);
        }
        let mut keys = Vec::new();
        let mut rest = text;
        while let Some((_, block)) = rest.split_once(BEGIN) {
            let (body, behind) = block.split_once(END).ok_or(InvalidCheckpointKey)?;
            let body: String = body.split_whitespace().collect();
            keys.push(body.parse()?);
            rest = behind;
        }
        Ok(keys)
    }

    /// What checkpoints call it.
    pub fn id(&self) -> CheckpointKeyId {
        let mut id = [0; 32];
        id.copy_from_slice(digest(&SHA256, &self.to_der()).as_ref());
        CheckpointKeyId(id)
    }

    /// Whether this key made the signature.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.0).verify(message, signature).is_ok()
    }
}

/// The base64 of the SubjectPublicKeyInfo: one line.
impl fmt::Display for CheckpointKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&BASE64.encode(&self.to_der()))
    }
}

impl fmt::Debug for CheckpointKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for CheckpointKey {
    type Err = InvalidCheckpointKey;

    fn from_str(text: &str) -> Result<Self, InvalidCheckpointKey> {
        let der = BASE64.decode(text.as_bytes()).map_err(|_| InvalidCheckpointKey)?;
        let key = der.strip_prefix(&SPKI).and_then(|key| key.try_into().ok());
        key.map(Self).ok_or(InvalidCheckpointKey)
    }
}

impl Serialize for CheckpointKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CheckpointKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The SHA-256 of a [`CheckpointKey`]'s SubjectPublicKeyInfo: `sha256:` and hex.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CheckpointKeyId([u8; 32]);

impl fmt::Display for CheckpointKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for CheckpointKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
