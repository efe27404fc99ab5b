//! Values that must not leak: zeroised when dropped, redacted in `Debug`, compared in constant time.
//!
//! There is no `Display` and no blanket `Serialize`. A wire type that has to carry a secret names
//! [`wire`] in its field's `#[serde(with = "...")]`, so each place where one leaves the process can be found.

use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// A secret text: a password, a token, a one-time code.
#[derive(Clone, Default)]
pub struct SecretString(Zeroizing<String>);

impl SecretString {
    /// Takes ownership of a secret.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(Zeroizing::new(secret.into()))
    }

    /// The secret itself. Do not log or store what this returns.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl PartialEq for SecretString {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl Eq for SecretString {}

impl fmt::Debug for SecretString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretString(..)")
    }
}

impl From<String> for SecretString {
    fn from(secret: String) -> Self {
        Self::new(secret)
    }
}

/// Secret bytes: a private key, a seed, a master key.
#[derive(Clone, Default)]
pub struct SecretBytes(Zeroizing<Vec<u8>>);

impl SecretBytes {
    /// Takes ownership of a secret.
    pub fn new(secret: impl Into<Vec<u8>>) -> Self {
        Self(Zeroizing::new(secret.into()))
    }

    /// The secret itself. Do not log or store what this returns.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl PartialEq for SecretBytes {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for SecretBytes {}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretBytes(..)")
    }
}

/// Carries a [`SecretString`] over an encrypted connection: `#[serde(with = "teleport_core::secret::wire")]`.
pub mod wire {
    use serde::{Deserialize, Deserializer, Serializer};

    use super::SecretString;

    /// Writes the secret in clear.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(secret: &SecretString, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(secret.expose())
    }

    /// Reads a secret.
    ///
    /// # Errors
    /// Those of the deserializer.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SecretString, D::Error> {
        String::deserialize(deserializer).map(SecretString::new)
    }
}

/// The same for a secret that may be absent.
pub mod optional_wire {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::SecretString;

    /// Writes the secret in clear.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(secret: &Option<SecretString>, serializer: S) -> Result<S::Ok, S::Error> {
        secret.as_ref().map(SecretString::expose).serialize(serializer)
    }

    /// Reads a secret.
    ///
    /// # Errors
    /// Those of the deserializer.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SecretString>, D::Error> {
        Ok(Option::<String>::deserialize(deserializer)?.map(SecretString::new))
    }
}

/// What was to be opened is not what was sealed: other key, other context, or damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("sealed data cannot be opened with this key and context")]
#[non_exhaustive]
pub struct OpenError;

impl OpenError {
    /// For implementors of [`Sealer`].
    pub const fn new() -> Self {
        Self
    }
}

impl Default for OpenError {
    fn default() -> Self {
        Self::new()
    }
}

/// Encrypts secrets at rest (CA keys, seeds of one-time codes) with a master key.
///
/// # Contract
/// Authenticated encryption: [`open`](Self::open) returns what was sealed in the same context or fails. `context` is
/// the key of the record, so that two records' ciphertexts cannot be swapped. Sealing twice gives different bytes.
pub trait Sealer: fmt::Debug + Send + Sync + 'static {
    /// Encrypts `plain` for `context`.
    ///
    /// # Errors
    /// [`EntropyError`](crate::entropy::EntropyError) without randomness.
    fn seal(&self, context: &str, plain: &[u8]) -> Result<Vec<u8>, crate::entropy::EntropyError>;

    /// Decrypts what was sealed for `context`.
    ///
    /// # Errors
    /// [`OpenError`].
    fn open(&self, context: &str, sealed: &[u8]) -> Result<SecretBytes, OpenError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_says_nothing() {
        assert_eq!(format!("{:?}", SecretString::new("hunter2")), "SecretString(..)");
        assert_eq!(format!("{:?}", SecretBytes::new(*b"hunter2")), "SecretBytes(..)");
    }

    #[test]
    fn compares_by_content() {
        assert_eq!(SecretString::new("a"), SecretString::new("a"));
        assert_ne!(SecretString::new("a"), SecretString::new("ab"));
        assert_ne!(SecretBytes::new(*b"a"), SecretBytes::new(*b"b"));
    }
}
