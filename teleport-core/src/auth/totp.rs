//! One-time codes (RFC 6238): six digits, SHA-1, steps of 30 seconds, each step once.

use data_encoding::{BASE32_NOPAD, BASE64};
use totp_rs::{Algorithm, Builder, Secret, Totp};

use crate::api::{ApiError, ApiResult};
use crate::clock::Timestamp;
use crate::entropy::{Entropy, EntropyExt};
use crate::id::ClusterName;
use crate::secret::{Sealer, SecretBytes, SecretString};

/// Bytes of a seed: 160 bits, as RFC 4226 recommends.
const SEED_LEN: usize = 20;
/// Seconds per step.
const STEP: u64 = 30;

/// The secret that codes are made from.
#[derive(Debug)]
pub(super) struct Seed(SecretBytes);

impl Seed {
    pub(super) fn random(entropy: &dyn Entropy) -> ApiResult<Self> {
        Ok(Self(SecretBytes::new(entropy.bytes::<SEED_LEN>()?)))
    }

    pub(super) fn seal(&self, sealer: &dyn Sealer, context: &str) -> ApiResult<String> {
        Ok(BASE64.encode(&sealer.seal(context, self.0.expose())?))
    }

    pub(super) fn open(sealer: &dyn Sealer, context: &str, sealed: &str) -> ApiResult<Self> {
        let sealed = BASE64.decode(sealed.as_bytes()).map_err(ApiError::internal)?;
        sealer.open(context, &sealed).map(Self).map_err(ApiError::internal)
    }

    fn builder(&self) -> Builder {
        let secret = Secret::new(self.0.expose().into());
        Builder::new()
            .with_algorithm(Algorithm::SHA1)
            .with_digits(6)
            .with_skew(1)
            .with_step_duration(STEP)
            .with_secret(secret)
    }

    fn totp(&self) -> Option<Totp> {
        self.builder().build().ok()
    }

    /// The step whose code this is: that of `now`, the one before or the one after.
    pub(super) fn step_of(&self, code: &SecretString, now: Timestamp) -> Option<u64> {
        if !is_code(code) {
            return None;
        }
        self.totp()?.check(code.expose(), now.unix_secs())
    }

    /// From what [`to_base32`](Self::to_base32) gives.
    pub(super) fn from_base32(text: &SecretString) -> Option<Self> {
        BASE32_NOPAD.decode(text.expose().as_bytes()).ok().map(|bytes| Self(SecretBytes::new(bytes)))
    }

    /// In base32, to be typed.
    pub(super) fn to_base32(&self) -> SecretString {
        SecretString::new(BASE32_NOPAD.encode(self.0.expose()))
    }

    /// As a URL, for a QR code.
    pub(super) fn to_url(&self, cluster: &ClusterName, user: &str) -> ApiResult<SecretString> {
        let totp = self
            .builder()
            .with_issuer(Some(cluster.as_str()))
            .with_account_name(user)
            .build()
            .map_err(|error| ApiError::internal(error.to_string()))?;
        totp.to_url().map(SecretString::new).map_err(|error| ApiError::internal(error.to_string()))
    }
}

/// Whether it has the form of a code: six ASCII digits and nothing else.
pub(super) fn is_code(code: &SecretString) -> bool {
    code.len() == 6 && code.expose().bytes().all(|byte| byte.is_ascii_digit())
}

/// Checks the form of a code that is presented.
pub(super) fn check_form(code: &SecretString) -> ApiResult<()> {
    if is_code(code) { Ok(()) } else { Err(ApiError::invalid("a one-time code has six digits")) }
}

/// The code of a second factor at a time, from its secret in base32
/// ([`InviteInfo::secret`](crate::api::InviteInfo::secret)): what an authenticator app shows. `None` for a text that is no
/// secret.
///
/// ```
/// use teleport_core::{auth::one_time_code, clock::Timestamp, secret::SecretString};
///
/// // The last vector of RFC 6238, cut to six digits.
/// let secret = SecretString::new("GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ");
/// let code = one_time_code(&secret, Timestamp::from_unix_secs(20_000_000_000)).expect("a secret");
/// assert_eq!(code.expose(), "353130");
/// ```
pub fn one_time_code(secret: &SecretString, at: Timestamp) -> Option<SecretString> {
    let bytes = BASE32_NOPAD.decode(secret.expose().trim_end_matches('=').as_bytes()).ok()?;
    let totp = Seed(SecretBytes::new(bytes)).totp()?;
    Some(SecretString::new(totp.generate(at.unix_secs()).to_string()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;
    use crate::testing::RepeatableEntropy;

    #[test]
    fn e1_only_six_ascii_digits_are_a_code() {
        for bad in [
            "",
            "12345",
            "1234567",
            " 12345",
            "12345 ",
            "+12345",
            "-12345",
            "12 456",
            "１２３４５６",
            "12345\n",
            "٠٠٠٠٠٠",
        ] {
            assert!(check_form(&SecretString::new(bad)).is_err(), "{bad:?}");
        }
        assert!(check_form(&SecretString::new("000000")).is_ok());
    }

    #[test]
    fn the_url_is_what_apps_read() {
        let seed = Seed::random(&RepeatableEntropy::new(3)).unwrap();
        let url = seed.to_url(&ClusterName::new("example.com").unwrap(), "alice@example.com").unwrap();
        let expected = format!(
            "otpauth://totp/example.com:alice%40example.com?secret={}&issuer=example.com",
            seed.to_base32().expose()
        );
        assert_eq!(url.expose(), expected);
    }
}
