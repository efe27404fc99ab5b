//! Public keys as bytes.

use std::fmt;
use std::str::FromStr;

use data_encoding::{BASE64, BASE64_NOPAD};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The algorithms of SSH keys that the platform accepts. RSA, DSA, security keys and certificates are not among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum KeyAlgorithm {
    /// `ecdsa-sha2-nistp256`
    EcdsaP256,
    /// `ecdsa-sha2-nistp384`
    EcdsaP384,
    /// `ssh-ed25519`
    Ed25519,
}

impl KeyAlgorithm {
    /// The name on the wire (RFC 5656, RFC 8709). Signatures of such a key carry the same name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EcdsaP256 => "ecdsa-sha2-nistp256",
            Self::EcdsaP384 => "ecdsa-sha2-nistp384",
            Self::Ed25519 => "ssh-ed25519",
        }
    }
}

/// The bytes are not a public key that the platform accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a plain Ed25519, ECDSA P-256 or ECDSA P-384 public key")]
#[non_exhaustive]
pub struct InvalidKey;

/// A plain SSH public key in its wire form (RFC 4253 section 6.6). Never a certificate.
///
/// Equality of the bytes is equality of the keys: the form is checked to be the canonical one. That the point lies on its
/// curve is checked by whoever verifies a signature with it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey {
    algorithm: KeyAlgorithm,
    blob: Box<[u8]>,
}

fn string(input: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = input.split_first_chunk::<4>()?;
    rest.split_at_checked(usize::try_from(u32::from_be_bytes(*len)).ok()?)
}

fn uncompressed(point: &[u8], len: usize) -> bool {
    point.len() == len && point.first() == Some(&4)
}

impl PublicKey {
    /// Parses the wire form.
    ///
    /// # Errors
    /// [`InvalidKey`] for anything but a canonical key of an accepted algorithm.
    pub fn from_wire(blob: &[u8]) -> Result<Self, InvalidKey> {
        let (name, rest) = string(blob).ok_or(InvalidKey)?;
        let (second, rest) = string(rest).ok_or(InvalidKey)?;
        let algorithm = match name {
            b"ssh-ed25519" if second.len() == 32 && rest.is_empty() => KeyAlgorithm::Ed25519,
            b"ecdsa-sha2-nistp256" | b"ecdsa-sha2-nistp384" => {
                let (point, rest) = string(rest).ok_or(InvalidKey)?;
                match (name, second) {
                    (b"ecdsa-sha2-nistp256", b"nistp256") if uncompressed(point, 65) && rest.is_empty() => {
                        KeyAlgorithm::EcdsaP256
                    }
                    (b"ecdsa-sha2-nistp384", b"nistp384") if uncompressed(point, 97) && rest.is_empty() => {
                        KeyAlgorithm::EcdsaP384
                    }
                    _ => return Err(InvalidKey),
                }
            }
            _ => return Err(InvalidKey),
        };
        Ok(Self { algorithm, blob: blob.into() })
    }

    /// The wire form.
    pub fn as_wire(&self) -> &[u8] {
        &self.blob
    }

    /// Its algorithm.
    pub const fn algorithm(&self) -> KeyAlgorithm {
        self.algorithm
    }

    /// The fingerprint as OpenSSH prints it: `SHA256:` and unpadded base64.
    pub fn fingerprint(&self) -> String {
        let digest = ring::digest::digest(&ring::digest::SHA256, &self.blob);
        format!("SHA256:{}", BASE64_NOPAD.encode(digest.as_ref()))
    }
}

/// The form of `authorized_keys`: algorithm and base64, without a comment.
impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.algorithm.as_str(), BASE64.encode(&self.blob))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({} {})", self.algorithm.as_str(), self.fingerprint())
    }
}

/// Reads a line of `authorized_keys` without options; a comment is ignored.
impl FromStr for PublicKey {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        let mut words = text.split_ascii_whitespace();
        let (Some(name), Some(base64)) = (words.next(), words.next()) else { return Err(InvalidKey) };
        let key = Self::from_wire(&BASE64.decode(base64.as_bytes()).map_err(|_| InvalidKey)?)?;
        if key.algorithm.as_str() == name { Ok(key) } else { Err(InvalidKey) }
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The start of every DER SubjectPublicKeyInfo of an uncompressed P-256 key (RFC 5480).
const P256_SPKI: [u8; 27] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04,
];

/// The public key of an X.509 identity: the DER SubjectPublicKeyInfo of an ECDSA P-256 key.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TlsPublicKey(Box<[u8]>);

impl TlsPublicKey {
    /// Parses a DER SubjectPublicKeyInfo.
    ///
    /// # Errors
    /// [`InvalidKey`] for anything but an uncompressed P-256 key.
    pub fn from_spki(der: &[u8]) -> Result<Self, InvalidKey> {
        if der.len() == P256_SPKI.len() + 64 && der.starts_with(&P256_SPKI) {
            Ok(Self(der.into()))
        } else {
            Err(InvalidKey)
        }
    }

    /// The DER SubjectPublicKeyInfo.
    pub fn as_spki(&self) -> &[u8] {
        &self.0
    }

    /// The uncompressed point: `0x04`, X, Y.
    pub fn point(&self) -> &[u8] {
        self.0.get(P256_SPKI.len() - 1..).unwrap_or_default()
    }
}

impl fmt::Debug for TlsPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TlsPublicKey({})", BASE64.encode(&self.0))
    }
}

impl Serialize for TlsPublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for TlsPublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let der = BASE64.decode(text.as_bytes()).map_err(serde::de::Error::custom)?;
        Self::from_spki(&der).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    const ED25519: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl comment";

    #[test]
    fn reads_what_openssh_writes() {
        let key: PublicKey = ED25519.parse().unwrap();
        assert_eq!(key.algorithm(), KeyAlgorithm::Ed25519);
        assert_eq!(format!("{key} comment"), ED25519);
    }

    #[test]
    fn refuses_other_forms() {
        let key: PublicKey = ED25519.parse().unwrap();
        let mut longer = key.as_wire().to_vec();
        longer.push(0);
        assert!(PublicKey::from_wire(&longer).is_err());
        assert!(PublicKey::from_wire(key.as_wire().split_last().unwrap().1).is_err());
        assert!(PublicKey::from_wire(b"").is_err());
        assert!(PublicKey::from_wire(&[0xff; 64]).is_err());
        assert!(ED25519.replace("ssh-ed25519 ", "ecdsa-sha2-nistp256 ").parse::<PublicKey>().is_err());
        assert!(TlsPublicKey::from_spki(&P256_SPKI).is_err());
    }
}
