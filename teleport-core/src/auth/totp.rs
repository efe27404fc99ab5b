//! One-time codes (RFC 6238): six digits, SHA-1, steps of 30 seconds, each step once.

use data_encoding::{BASE32_NOPAD, BASE64};
use serde::{Deserialize, Serialize};
use totp_rs::{Algorithm, Builder, Secret, Totp};

use crate::api::{ApiError, ApiResult};
use crate::clock::Timestamp;
use crate::entropy::{Entropy, EntropyExt};
use crate::id::ClusterName;
use crate::secret::{Sealer, SecretBytes, SecretString};
use crate::storage::Record;

/// Bytes of a seed: 160 bits, as RFC 4226 recommends.
const SEED_LEN: usize = 20;
/// Seconds per step.
const STEP: u64 = 30;

/// A user's second factor, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TotpRecord {
    pub(super) user: String,
    /// The seed, sealed for the key of this record.
    sealed_seed: String,
    /// The newest step whose code was accepted. Neither it nor an older one is accepted again.
    pub(super) last_step: u64,
}

impl Record for TotpRecord {
    const COLLECTION: &'static str = "totp";

    fn key(&self) -> String {
        self.user.clone()
    }
}

impl TotpRecord {
    pub(super) fn new(sealer: &dyn Sealer, user: &str, seed: &Seed, last_step: u64) -> ApiResult<Self> {
        let sealed_seed = seed.seal(sealer, &context(user))?;
        Ok(Self { user: user.to_owned(), sealed_seed, last_step })
    }

    /// The step of a code that is right and newer than the last one.
    pub(super) fn check(&self, sealer: &dyn Sealer, code: &SecretString, now: Timestamp) -> ApiResult<Step> {
        let seed = Seed::open(sealer, &context(&self.user), &self.sealed_seed)?;
        Ok(match seed.step_of(code, now) {
            Some(step) if step > self.last_step => Step::New(step),
            Some(_) => Step::Used,
            None => Step::Wrong,
        })
    }
}

/// What a code is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    New(u64),
    Used,
    Wrong,
}

/// A seed is sealed for the record that holds it, so that one of another user cannot be put in its place.
fn context(user: &str) -> String {
    format!("{}/{user}", TotpRecord::COLLECTION)
}

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
    use crate::testing::{KnownKeySealer, RepeatableEntropy};

    const NOW: Timestamp = Timestamp::from_unix_secs(1_800_000_000);

    fn seconds(at: u64) -> Timestamp {
        Timestamp::from_unix_secs(NOW.unix_secs() + at)
    }

    fn record(last_step: u64) -> (TotpRecord, SecretString) {
        let seed = Seed::random(&RepeatableEntropy::new(3)).unwrap();
        let record = TotpRecord::new(&KnownKeySealer, "alice", &seed, last_step).unwrap();
        (record, seed.to_base32())
    }

    #[test]
    fn e1_a_step_is_good_once_and_never_goes_back() {
        let (record, secret) = record(0);
        let step = NOW.unix_secs() / STEP;
        for (at, expected) in [(0, Step::New(step)), (30, Step::New(step + 1)), (60, Step::Wrong)] {
            let code = one_time_code(&secret, seconds(at)).unwrap();
            assert_eq!(record.check(&KnownKeySealer, &code, NOW).unwrap(), expected, "at {at}");
        }
        let code = one_time_code(&secret, NOW).unwrap();
        let before = one_time_code(&secret, Timestamp::from_unix_secs(NOW.unix_secs() - 30)).unwrap();
        let used = TotpRecord { last_step: step, ..record };
        assert_eq!(used.check(&KnownKeySealer, &code, NOW).unwrap(), Step::Used);
        assert_eq!(used.check(&KnownKeySealer, &before, NOW).unwrap(), Step::Used);
    }

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
    fn i4_a_seed_cannot_be_moved_to_another_user() {
        let (record, secret) = record(0);
        let moved = TotpRecord { user: "mallory".to_owned(), ..record.clone() };
        let code = one_time_code(&secret, NOW).unwrap();
        assert!(moved.check(&KnownKeySealer, &code, NOW).is_err());
        let json = serde_json::to_string(&record).unwrap();
        assert!(!json.contains(secret.expose()) && !format!("{record:?}").contains(secret.expose()));
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
