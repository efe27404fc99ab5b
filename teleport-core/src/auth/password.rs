//! Passwords: Argon2id, bounded.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use argon2::{Algorithm, Argon2, Params, Version};
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};
use zeroize::Zeroizing;

use super::PasswordConfig;
use super::config::{MAX_LANES, MAX_MEMORY, MAX_PASSES};
use crate::api::{ApiError, ApiErrorKind, ApiResult};
use crate::entropy::{Entropy, EntropyExt};
use crate::id::UserName;
use crate::password::{MAX_PASSWORD_LEN, check_password};
use crate::secret::SecretString;
use crate::storage::{Record, Repo};

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

/// Checks a password that is presented. What is too long is refused before it costs anything.
pub(super) fn check_presented(password: &SecretString) -> ApiResult<()> {
    if password.len() <= MAX_PASSWORD_LEN {
        Ok(())
    } else {
        Err(ApiError::invalid(format!("a password has at most {MAX_PASSWORD_LEN} bytes")))
    }
}

/// Checks a password that shall be set.
pub(super) fn check_new(password: &SecretString, user: &UserName) -> ApiResult<()> {
    check_password(password, user).map_err(|weak| ApiError::invalid(weak.to_string()))
}

/// What a hash costs: memory in KiB, passes, lanes.
type Cost = (u32, u32, u32);

const fn cost_of(config: &PasswordConfig) -> Cost {
    (config.memory, config.passes, config.lanes)
}

impl PasswordRecord {
    const fn cost(&self) -> Cost {
        (self.memory, self.passes, self.lanes)
    }

    /// Salt and hash, if the record can be used at all.
    fn parts(&self) -> Option<(Vec<u8>, Vec<u8>)> {
        let salt = BASE64.decode(self.salt.as_bytes()).ok()?;
        let hash = BASE64.decode(self.hash.as_bytes()).ok()?;
        let (memory, passes, lanes) = self.cost();
        let bounded = memory <= MAX_MEMORY && passes <= MAX_PASSES && lanes <= MAX_LANES;
        let whole =
            self.algorithm == ALGORITHM && salt.len() == SALT_LEN && hash.len() == HASH_LEN && bounded;
        whole.then_some((salt, hash))
    }
}

/// Computes hashes on the blocking pool: few at a time, few waiting. Each takes about 20 ms and 19 MiB, so without these
/// bounds a flood of logins would take the machine.
///
/// A configuration that changes leaves hashes of before behind, until their users log in. By the time that such a hash takes
/// somebody could tell its user from nobody. So every check does the work of **all** costs that are in use, whomever it is about:
/// as long as there are two, a login takes as long as both.
#[derive(Debug)]
pub(super) struct Hasher {
    config: PasswordConfig,
    permits: Arc<Semaphore>,
    waiting: AtomicUsize,
    /// In use, as far as is known: the own one, and those of hashes that were met.
    costs: Mutex<BTreeSet<Cost>>,
    /// Whether the stored hashes were looked through.
    looked: OnceCell<()>,
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

/// Computes one hash after the other in one turn.
async fn compute(
    slot: Slot,
    password: SecretString,
    work: Vec<(Cost, Vec<u8>)>,
) -> ApiResult<Vec<Zeroizing<[u8; HASH_LEN]>>> {
    let hashes = tokio::task::spawn_blocking(move || {
        // Held until the hashes are done, even if whoever asked is gone: that is the bound.
        let _slot = slot;
        work.into_iter()
            .map(|((memory, passes, lanes), salt)| {
                let params = Params::new(memory, passes, lanes, Some(HASH_LEN))?;
                let mut hash = Zeroizing::new([0; HASH_LEN]);
                Argon2::new(Algorithm::Argon2id, Version::V0x13, params).hash_password_into(
                    password.expose().as_bytes(),
                    &salt,
                    &mut *hash,
                )?;
                Ok(hash)
            })
            .collect::<Result<_, argon2::Error>>()
    });
    hashes.await.map_err(ApiError::internal)?.map_err(|error| ApiError::internal(error.to_string()))
}

impl Hasher {
    pub(super) fn new(config: PasswordConfig) -> Self {
        let parallel = config.parallel.clamp(1, 64);
        Self {
            config,
            permits: Arc::new(Semaphore::new(parallel)),
            waiting: AtomicUsize::new(0),
            costs: Mutex::new(BTreeSet::from([cost_of(&config)])),
            looked: OnceCell::new(),
        }
    }

    /// Looks once through the hashes that are stored, before the first check.
    pub(super) async fn look(&self, records: &Repo<PasswordRecord>) -> ApiResult<()> {
        let look = async || {
            let stored = records.list().await?;
            self.learn(stored.iter().map(|stored| &stored.record));
            Ok::<_, ApiError>(())
        };
        self.looked.get_or_try_init(look).await.copied()
    }

    fn learn<'r>(&self, records: impl Iterator<Item = &'r PasswordRecord>) {
        self.costs().extend(records.filter(|record| record.parts().is_some()).map(PasswordRecord::cost));
    }

    fn costs(&self) -> MutexGuard<'_, BTreeSet<Cost>> {
        self.costs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a hash is to be made anew, now that its password is at hand.
    pub(super) const fn is_outdated(&self, record: &PasswordRecord) -> bool {
        let (memory, passes, lanes) = cost_of(&self.config);
        record.memory != memory || record.passes != passes || record.lanes != lanes
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
        let (memory, passes, lanes) = cost_of(&self.config);
        let hashes = compute(slot, password, vec![((memory, passes, lanes), salt.to_vec())]).await?;
        let hash = hashes.into_iter().next().ok_or_else(|| ApiError::internal("no hash"))?;
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
        let (work, expected) = self.plan(record);
        let hashes = compute(slot, password, work).await?;
        let expected = expected.unwrap_or((usize::MAX, vec![0; HASH_LEN]));
        let mut right = false;
        for (place, hash) in hashes.iter().enumerate() {
            let equal = bool::from(hash.as_slice().ct_eq(&expected.1));
            right |= equal && place == expected.0;
        }
        Ok(right)
    }

    /// One hash of each cost that is in use, and which of them should be equal to what. The work is the same for every record,
    /// and for none.
    #[expect(clippy::type_complexity, reason = "two answers of one question")]
    fn plan(&self, record: Option<&PasswordRecord>) -> (Vec<(Cost, Vec<u8>)>, Option<(usize, Vec<u8>)>) {
        let usable = record.and_then(|record| Some((record.cost(), record.parts()?)));
        let mut costs = self.costs();
        costs.extend(usable.as_ref().map(|(cost, _)| *cost));
        let place = usable.as_ref().and_then(|(cost, _)| costs.iter().position(|known| known == cost));
        let mut work: Vec<_> = costs.iter().map(|cost| (*cost, vec![0; SALT_LEN])).collect();
        drop(costs);
        let expected = match (place, usable) {
            (Some(place), Some((_, (salt, hash)))) => {
                if let Some(own) = work.get_mut(place) {
                    own.1 = salt;
                }
                Some((place, hash))
            }
            _ => None,
        };
        (work, expected)
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

    /// As long as hashes of two costs are in use, everybody's login takes both: who has the cheaper one cannot be told from nobody.
    #[tokio::test]
    async fn e4_every_check_does_the_work_of_all_costs() {
        let entropy = RepeatableEntropy::new(7);
        let old = Hasher::new(config());
        let now = Hasher::new(PasswordConfig { memory: 128, passes: 2, ..config() });
        let hash = async |hasher: &Hasher, user: &str| {
            let slot = hasher.slot().await.unwrap();
            hasher.hash(slot, user, SecretString::new("correct horse battery"), &entropy).await.unwrap()
        };
        let (alice, bob) = (hash(&old, "alice").await, hash(&now, "bob").await);
        assert!(now.is_outdated(&alice) && !now.is_outdated(&bob));
        let work = |record: Option<&PasswordRecord>| -> Vec<Cost> {
            now.plan(record).0.into_iter().map(|(cost, _)| cost).collect()
        };
        assert_eq!(work(None), [(128, 2, 1)]);
        now.learn([&alice].into_iter());
        let both = [(64, 1, 1), (128, 2, 1)];
        assert_eq!(
            (work(None), work(Some(&alice)), work(Some(&bob))),
            (both.into(), both.into(), both.into())
        );
        for record in [&alice, &bob] {
            assert!(now.is(Some(record), "correct horse battery").await.unwrap());
            assert!(!now.is(Some(record), "wrong horse battery").await.unwrap());
        }
        // A record that would take the machine is none.
        let huge = PasswordRecord { memory: MAX_MEMORY + 1, ..alice.clone() };
        assert!(!now.is(Some(&huge), "correct horse battery").await.unwrap());
        assert_eq!(work(Some(&huge)), both);
    }

    #[test]
    fn e4_lengths_are_checked_before_hashing() {
        let of = |len: usize| SecretString::new("x".repeat(len));
        assert!(check_presented(&of(0)).is_ok() && check_presented(&of(128)).is_ok());
        assert!(check_presented(&of(129)).is_err() && check_presented(&of(1 << 20)).is_err());
    }
}
