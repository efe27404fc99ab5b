//! Where the authority's private keys live, as a port.

mod software;

use std::fmt;
use std::str::FromStr;

use async_trait::async_trait;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use teleport_core::cert::{KeyAlgorithm, PublicKey};

pub use self::software::SoftwareKeyStore;
use crate::danger;

/// What a key of the authority signs. One key has one purpose, for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(clippy::exhaustive_enums, reason = "key stores must know all; a new purpose must make them think")]
pub enum KeyPurpose {
    /// Checkpoints of the audit log.
    Audit,
    /// SSH certificates of hosts.
    HostSsh,
    /// X.509 identities of hosts.
    HostTls,
    /// SSH certificates of logins on the SSH servers of others.
    OpenSsh,
    /// SSH certificates of users.
    UserSsh,
    /// X.509 identities of users.
    UserTls,
}

impl KeyPurpose {
    /// All purposes.
    pub const ALL: [Self; 6] =
        [Self::Audit, Self::HostSsh, Self::HostTls, Self::OpenSsh, Self::UserSsh, Self::UserTls];

    /// The name, as in records.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Audit => "audit",
            Self::HostSsh => "host-ssh",
            Self::HostTls => "host-tls",
            Self::OpenSsh => "openssh",
            Self::UserSsh => "user-ssh",
            Self::UserTls => "user-tls",
        }
    }

    /// The algorithm of keys for this purpose: ECDSA P-256 for X.509, Ed25519 for the others.
    pub const fn algorithm(self) -> KeyAlgorithm {
        match self {
            Self::Audit | Self::HostSsh | Self::OpenSsh | Self::UserSsh => KeyAlgorithm::Ed25519,
            Self::HostTls | Self::UserTls => KeyAlgorithm::EcdsaP256,
        }
    }
}

impl fmt::Display for KeyPurpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The text is not the name of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the name of a key is 1 to 128 letters, digits, '-', '_', '.' or ':'")]
#[non_exhaustive]
pub struct InvalidKeyId;

/// The name of a key within its [`KeyStore`].
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(Box<str>);

impl KeyId {
    /// Parses a name.
    ///
    /// # Errors
    /// [`InvalidKeyId`].
    pub fn new(text: &str) -> Result<Self, InvalidKeyId> {
        let valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':');
        if !text.is_empty() && text.len() <= 128 && text.bytes().all(valid) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidKeyId)
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl FromStr for KeyId {
    type Err = InvalidKeyId;

    fn from_str(text: &str) -> Result<Self, InvalidKeyId> {
        Self::new(text)
    }
}

impl Serialize for KeyId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for KeyId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::new(&text).map_err(serde::de::Error::custom)
    }
}

/// The public side of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "key stores build it")]
pub struct KeyInfo {
    /// What it signs.
    pub purpose: KeyPurpose,
    /// Its public half. For X.509 purposes too, in the one form that holds a point of either curve.
    pub public: PublicKey,
}

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// There is no such key.
    #[error("there is no key {key}")]
    Missing {
        /// Its name.
        key: KeyId,
    },
    /// The key store gives no private keys, by design.
    #[error("the key store does not give out private keys")]
    NotExportable,
    /// The store, or the randomness that it needs, is not available.
    #[error("the key store is not available")]
    Unavailable {
        /// The reason.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The key is there and cannot be read: another master key, a record that was moved or changed, a damaged disk.
    #[error("key {key} cannot be read: is this the master key that it was sealed with?")]
    Unreadable {
        /// Its name.
        key: KeyId,
        /// The reason.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl KeyError {
    /// For key stores: not available.
    pub fn unavailable(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Unavailable { source: source.into() }
    }
}

/// Makes keys and signs with them. The private halves stay inside.
///
/// # Contract
/// * A key has the [algorithm](KeyPurpose::algorithm) of its purpose, and keeps its purpose: `info` must not report another
///   one even if whoever keeps the store's data moves records around.
/// * `generate` returns only when the key is kept as durably as the store keeps anything. If its future is dropped, a key
///   that nobody knows may remain.
/// * `sign` returns, for Ed25519, the 64 bytes of RFC 8032; for ECDSA P-256 the SHA-256 of the message is signed and the
///   result is DER (RFC 3279 section 2.2.3). It is called for every certificate: what can be kept in memory should be.
///   Its future may be dropped freely.
/// * Two processes over the same store see each other's keys.
#[async_trait]
pub trait KeyStore: fmt::Debug + Send + Sync + 'static {
    /// Makes a key.
    ///
    /// # Errors
    /// [`KeyError::Unavailable`].
    async fn generate(&self, purpose: KeyPurpose) -> Result<KeyId, KeyError>;

    /// The public side of a key.
    ///
    /// # Errors
    /// [`KeyError`].
    async fn info(&self, key: &KeyId) -> Result<KeyInfo, KeyError>;

    /// Signs a message.
    ///
    /// # Errors
    /// [`KeyError`].
    async fn sign(&self, key: &KeyId, message: &[u8]) -> Result<Vec<u8>, KeyError>;

    /// Destroys a key. One that is not there is no error.
    ///
    /// # Errors
    /// [`KeyError::Unavailable`].
    async fn delete(&self, key: &KeyId) -> Result<(), KeyError>;

    /// The way to the private keys, for stores that have one. Called by [`danger::export`] alone.
    fn exporter(&self) -> Option<&dyn danger::ExportKeys> {
        None
    }
}
