//! The form of secrets.

use data_encoding::HEXLOWER;
use zeroize::Zeroizing;

use crate::entropy::{Entropy, EntropyError, EntropyExt};
use crate::secret::SecretString;

/// The shortest secret that somebody may choose for a token.
pub const MIN_SECRET_LEN: usize = 16;
/// The longest secret.
pub const MAX_SECRET_LEN: usize = 64;

/// The text is no secret for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a token has {MIN_SECRET_LEN} to {MAX_SECRET_LEN} letters, digits, `-` or `_`")]
#[non_exhaustive]
pub struct InvalidSecret;

/// A new secret: 16 random bytes as 32 hexadecimal digits.
///
/// # Errors
/// [`EntropyError`] without randomness.
pub fn random_secret(entropy: &dyn Entropy) -> Result<SecretString, EntropyError> {
    let bytes = Zeroizing::new(entropy.bytes::<16>()?);
    Ok(SecretString::new(HEXLOWER.encode(&*bytes)))
}

/// A new name for a token: 8 random bytes as 16 hexadecimal digits.
///
/// # Errors
/// [`EntropyError`] without randomness.
#[cfg(feature = "auth")]
pub(crate) fn random_id(entropy: &dyn Entropy) -> Result<String, EntropyError> {
    Ok(HEXLOWER.encode(&entropy.bytes::<8>()?))
}

/// Checks a secret that somebody chose: long enough, and of characters that no shell, URL or script reads as its own.
///
/// # Errors
/// [`InvalidSecret`].
pub fn check_secret(secret: &SecretString) -> Result<(), InvalidSecret> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if (MIN_SECRET_LEN..=MAX_SECRET_LEN).contains(&secret.len()) && secret.expose().bytes().all(allowed) {
        Ok(())
    } else {
        Err(InvalidSecret)
    }
}
