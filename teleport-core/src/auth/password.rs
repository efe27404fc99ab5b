//! Passwords: Argon2id, bounded.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use argon2::{Algorithm, Argon2, Params, Version};
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use zeroize::Zeroizing;

use super::PasswordConfig;
use crate::api::{ApiError, ApiErrorKind, ApiResult};
use crate::entropy::{Entropy, EntropyExt};
use crate::secret::SecretString;
use crate::storage::Record;

/// The longest password, in bytes. What is longer is refused before it costs anything.
pub(super) const MAX_LEN: usize = 128;
/// The shortest password that may be set, in bytes.
pub(super) const MIN_LEN: usize = 12;

const SALT_LEN: usize = 16;
const HASH_LEN: usize = 32;

/// The hash of a user's password, as it is stored.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PasswordRecord {
    pub(super) user: String,
    algorithm: String,
    memory: u32,
    passes: u32,
    lanes: u32,
    salt: String,
    hash: String,
}

impl std::fmt::Debug for PasswordRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PasswordRecord").field("user", &self.user).finish_non_exhaustive()
    }
}

impl Record for PasswordRecord {
    const COLLECTION: &'static str = "passwords";

    fn key(&self) -> String {
        self.user.clone()
    }
}

const ALGORITHM: &str = "argon2id-19";

/// Checks a password that shall be set.
pub(super) fn check_new(password: &SecretString) -> ApiResult<()> {
    if (MIN_LEN..=MAX_LEN).contains(&password.len()) {
        Ok(())
    } else {
        Err(ApiError::invalid(format!("a password has {MIN_LEN} to {MAX_LEN} bytes")))
    }
}

/// Checks a password that is presented.
pub(super) fn check_presented(password: &SecretString) -> ApiResult<()> {
    if password.len() <= MAX_LEN {
        Ok(())
    } else {
        Err(ApiError::invalid(format!("a password has at most {MAX_LEN} bytes")))
    }
}

/// Computes hashes on the blocking pool: few at a time, few waiting. Each takes about 20 ms and 19 MiB, so without these
/// bounds a flood of logins would take the machine.
#[derive(Debug)]
pub(super) struct Hasher {
    config: PasswordConfig,
    permits: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// One more caller that waits; it is counted until it is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Permission to compute one hash now; the turn ends when it is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    _permit: OwnedSemaphorePermit,
}

async fn compute(
    slot: Slot,
    password: SecretString,
    salt: Vec<u8>,
    (memory, passes, lanes): (u32, u32, u32),
) -> ApiResult<Zeroizing<[u8; HASH_LEN]>> {
    let hash = tokio::task::spawn_blocking(move || {
        // Held until the hash is done, even if whoever asked is gone: that is the bound.
        let _slot = slot;
        let params = Params::new(memory, passes, lanes, Some(HASH_LEN))?;
        let mut hash = Zeroizing::new([0; HASH_LEN]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params).hash_password_into(
            password.expose().as_bytes(),
            &salt,
            &mut *hash,
        )?;
        Ok::<_, argon2::Error>(hash)
    });
    hash.await.map_err(ApiError::internal)?.map_err(|error| ApiError::internal(error.to_string()))
}

impl Hasher {
    pub(super) fn new(config: PasswordConfig) -> Self {
        let parallel = config.parallel.clamp(1, 64);
        Self { config, permits: Arc::new(Semaphore::new(parallel)), waiting: AtomicUsize::new(0) }
    }

    /// Waits for a turn. Whoever would be one too many in the queue is turned away.
    pub(super) async fn slot(&self) -> ApiResult<Slot> {
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            return Ok(Slot { _permit: permit });
        }
        let before = self.waiting.fetch_add(1, Ordering::AcqRel);
        let _waiting = Waiting(&self.waiting);
        if before >= self.config.queue {
            return Err(ApiError::new(ApiErrorKind::TooMany, "too many logins at the same time; try again"));
        }
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(ApiError::internal)?;
        Ok(Slot { _permit: permit })
    }

    /// The record of a new password.
    pub(super) async fn hash(
        &self,
        slot: Slot,
        user: &str,
        password: SecretString,
        entropy: &dyn Entropy,
    ) -> ApiResult<PasswordRecord> {
        let salt: [u8; SALT_LEN] = entropy.bytes()?;
        let PasswordConfig { memory, passes, lanes, .. } = self.config;
        let hash = compute(slot, password, salt.to_vec(), (memory, passes, lanes)).await?;
        Ok(PasswordRecord {
            user: user.to_owned(),
            algorithm: ALGORITHM.to_owned(),
            memory,
            passes,
            lanes,
            salt: BASE64.encode(&salt),
            hash: BASE64.encode(&*hash),
        })
    }

    /// Whether the password is the one of the record. Without a record the answer is no, after the same work.
    pub(super) async fn verify(
        &self,
        slot: Slot,
        record: Option<&PasswordRecord>,
        password: SecretString,
    ) -> ApiResult<bool> {
        let PasswordConfig { memory, passes, lanes, .. } = self.config;
        let usable = record.and_then(|record| {
            let salt = BASE64.decode(record.salt.as_bytes()).ok()?;
            let hash = BASE64.decode(record.hash.as_bytes()).ok()?;
            let whole = record.algorithm == ALGORITHM && salt.len() == SALT_LEN && hash.len() == HASH_LEN;
            whole.then_some((salt, hash, (record.memory, record.passes, record.lanes)))
        });
        let known = usable.is_some();
        let (salt, expected, cost) =
            usable.unwrap_or_else(|| (vec![0; SALT_LEN], vec![0; HASH_LEN], (memory, passes, lanes)));
        let hash = compute(slot, password, salt, cost).await?;
        Ok(bool::from(hash.as_slice().ct_eq(&expected)) && known)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;
    use crate::testing::{NoEntropy, RepeatableEntropy};

    fn config() -> PasswordConfig {
        PasswordConfig { memory: 64, passes: 1, lanes: 1, ..PasswordConfig::default() }
    }

    impl Hasher {
        async fn is(&self, record: Option<&PasswordRecord>, password: &str) -> ApiResult<bool> {
            self.verify(self.slot().await?, record, SecretString::new(password)).await
        }
    }

    #[tokio::test]
    async fn a_password_is_recognised_and_no_other() {
        let hasher = Hasher::new(config());
        let entropy = RepeatableEntropy::new(7);
        let password = "correct horse battery";
        let hash = async |entropy: &dyn Entropy| {
            hasher.hash(hasher.slot().await?, "alice", SecretString::new(password), entropy).await
        };
        let record = hash(&entropy).await.unwrap();
        assert!(hasher.is(Some(&record), password).await.unwrap());
        assert!(!hasher.is(Some(&record), "correct horse batter").await.unwrap());
        assert!(!hasher.is(None, password).await.unwrap());

        // Records keep their own cost: a changed configuration does not lock anybody out.
        let dearer = Hasher::new(PasswordConfig { memory: 128, passes: 2, ..config() });
        assert!(dearer.is(Some(&record), password).await.unwrap());

        let again = hash(&entropy).await.unwrap();
        assert_ne!(record.hash, again.hash, "each record has a salt of its own");
        assert!(hash(&NoEntropy).await.is_err());
    }

    #[tokio::test]
    async fn a_damaged_record_matches_nothing() {
        let hasher = Hasher::new(config());
        let entropy = RepeatableEntropy::new(7);
        let slot = hasher.slot().await.unwrap();
        let record = hasher.hash(slot, "alice", SecretString::new("x"), &entropy).await.unwrap();
        let zeros = BASE64.encode(&[0; HASH_LEN]);
        for damaged in [
            PasswordRecord { hash: String::new(), ..record.clone() },
            PasswordRecord { hash: zeros, ..record.clone() },
            PasswordRecord { salt: "!".to_owned(), ..record.clone() },
            PasswordRecord { algorithm: "plain".to_owned(), ..record.clone() },
        ] {
            assert!(!hasher.is(Some(&damaged), "x").await.unwrap());
        }
    }

    #[tokio::test]
    async fn a_flood_is_turned_away() {
        let hasher = Hasher::new(PasswordConfig { memory: 4096, parallel: 1, queue: 2, ..config() });
        let attempts = (0..20).map(|_| hasher.is(None, "x"));
        let outcomes = futures_util::future::join_all(attempts).await;
        let refused = outcomes.iter().filter(|outcome| outcome.is_err()).count();
        assert_eq!(refused, 17);
        // The queue is free again.
        assert!(hasher.is(None, "x").await.is_ok());
    }

    #[test]
    fn e4_lengths_are_checked_before_hashing() {
        let of = |len: usize| SecretString::new("x".repeat(len));
        assert!(check_new(&of(11)).is_err() && check_new(&of(12)).is_ok());
        assert!(check_new(&of(128)).is_ok() && check_new(&of(129)).is_err());
        assert!(check_presented(&of(0)).is_ok() && check_presented(&of(1 << 20)).is_err());
    }
}
