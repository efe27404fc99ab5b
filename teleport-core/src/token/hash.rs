//! What is stored of a token.

use std::fmt;
use std::marker::PhantomData;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use subtle::ConstantTimeEq;

use crate::secret::SecretString;

/// What a token is for. A [`TokenHash`] of one use is no [`TokenHash`] of another.
pub trait TokenUse: sealed::Sealed + Send + Sync + 'static {
    /// Where records of this use are stored.
    const COLLECTION: &'static str;
}

/// Tokens by which hosts join.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "a marker without values")]
pub enum ForJoin {}

/// Invites by which users set their password and second factor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "a marker without values")]
pub enum ForInvite {}

impl TokenUse for ForJoin {
    const COLLECTION: &'static str = "tokens";
}

impl TokenUse for ForInvite {
    const COLLECTION: &'static str = "invites";
}

mod sealed {
    #[expect(unnameable_types, reason = "that is what seals the trait")]
    pub trait Sealed {}
    impl Sealed for super::ForJoin {}
    impl Sealed for super::ForInvite {}
}

/// The SHA-256 of a token's secret: all that is stored of it, and the key of its record.
///
/// The secrets have 128 bits of randomness (or are chosen by an administrator who is told the risk), so a slow hash would
/// add nothing. But whoever sees it, or a part of it, can try guesses at leisure: it stays in the storage. Compared in constant
/// time.
pub struct TokenHash<U> {
    digest: [u8; 32],
    r#use: PhantomData<fn() -> U>,
}

impl<U: TokenUse> TokenHash<U> {
    /// The hash of a secret.
    pub fn of(secret: &SecretString) -> Self {
        let mut digest = [0; 32];
        digest.copy_from_slice(
            ring::digest::digest(&ring::digest::SHA256, secret.expose().as_bytes()).as_ref(),
        );
        Self { digest, r#use: PhantomData }
    }

    /// 64 hexadecimal digits: the key of the record.
    pub fn to_hex(&self) -> String {
        HEXLOWER.encode(&self.digest)
    }
}

impl TokenHash<ForInvite> {
    /// The first 16 digits: enough to name the invite in logs. Its secret is always random, so that they help nobody to guess it.
    /// Join tokens may be chosen by people: they have names of their own, see
    /// [`TokenRecord::id`](super::TokenRecord::id).
    pub fn id(&self) -> String {
        let mut hex = self.to_hex();
        hex.truncate(16);
        hex
    }
}

impl<U> Clone for TokenHash<U> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<U> Copy for TokenHash<U> {}

impl<U> PartialEq for TokenHash<U> {
    fn eq(&self, other: &Self) -> bool {
        self.digest.ct_eq(&other.digest).into()
    }
}

impl<U> Eq for TokenHash<U> {}

/// What it is for, and nothing of the hash: by a part of it, too, weak secrets can be guessed.
impl<U: TokenUse> fmt::Debug for TokenHash<U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/..", U::COLLECTION)
    }
}

impl<U: TokenUse> Serialize for TokenHash<U> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_hex())
    }
}

impl<'de, U> Deserialize<'de> for TokenHash<U> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let bytes = HEXLOWER.decode(text.as_bytes()).map_err(serde::de::Error::custom)?;
        let digest =
            bytes.try_into().map_err(|_| serde::de::Error::custom("a token's hash has 64 digits"))?;
        Ok(Self { digest, r#use: PhantomData })
    }
}
