//! Passwords: Argon2id, bounded.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use argon2::{Algorithm, Argon2, Block, Params, Version};
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};
use zeroize::Zeroizing;

use super::PasswordConfig;
use super::config::{MAX_LANES, MAX_MEMORY, MAX_PASSES};
use super::guessers::Standing;
use crate::api::{ApiError, ApiErrorKind, ApiResult};
use crate::clock::Timestamp;
use crate::entropy::{Entropy, EntropyExt};
use crate::id::UserName;
use crate::password::{MAX_PASSWORD_LEN, check_password};
use crate::secret::SecretString;
use crate::storage::{Record, Repo};

/// How many of those who have failed lately may wait for a turn: few, so that nobody else waits for long.
const FAILED_WAIT: usize = 8;
/// What failures may cost before turns rest after them, in time of a processor: what many mistaken people cost, and the first
/// guesses of a flood, after which its addresses are known.
const FREE: Duration = Duration::from_secs(5);
/// What failures may cost for ever: so many hundredths of one processor.
const SHARE: u32 = 40;
/// Rests are not longer than after such work; on a machine that is busy with something else hashes take long.
const LONGEST_WORK: Duration = Duration::from_millis(60);
/// Working memory up to this is kept for the next hash, in KiB. The allocator would keep it as well, once for each thread that has
/// hashed.
const KEPT_MEMORY: usize = 32 << 10;
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
    memories: Memories,
    debt: Mutex<Debt>,
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
    memories: Memories,
}

/// What hashes are computed in, beside those that are computed now: never more than there are turns.
#[derive(Clone, Debug, Default)]
struct Memories(Arc<Mutex<Vec<Vec<Block>>>>);

impl Memories {
    fn lock(&self) -> MutexGuard<'_, Vec<Vec<Block>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `work` with memory of which nothing is to be expected.
    fn lend<T>(&self, work: impl FnOnce(&mut Vec<Block>) -> T) -> T {
        let mut memory = self.lock().pop().unwrap_or_default();
        let result = work(&mut memory);
        if memory.len() <= KEPT_MEMORY {
            self.lock().push(memory);
        }
        result
    }
}

/// What failures have cost beyond their share of a processor.
#[derive(Clone, Copy, Debug)]
struct Debt {
    owed: Duration,
    at: Timestamp,
}

impl Debt {
    /// A failure has cost this. Says how long its turn rests, given how many turns there are. Pure.
    fn charge(&mut self, worked: Duration, turns: u32, now: Timestamp) -> Duration {
        let paid = now.saturating_since(self.at) * SHARE / 100;
        self.owed = self.owed.saturating_sub(paid).saturating_add(worked);
        self.at = now;
        if self.owed <= FREE {
            return Duration::ZERO;
        }
        // All turns together work for their share of the time.
        let worked = worked.min(LONGEST_WORK);
        (worked.saturating_mul(turns).saturating_mul(100) / SHARE).saturating_sub(worked)
    }
}

/// Computes one hash after the other in one turn, which is given back.
async fn compute(
    slot: Slot,
    password: SecretString,
    work: Vec<(Cost, Vec<u8>)>,
) -> ApiResult<(Vec<Zeroizing<[u8; HASH_LEN]>>, Slot)> {
    let hashes = tokio::task::spawn_blocking(move || {
        // Held until the hashes are done, even if whoever asked is gone: that is the bound.
        let slot = slot;
        let hashes = slot.memories.lend(|memory| {
            work.into_iter()
                .map(|((memory_cost, passes, lanes), salt)| {
                    let params = Params::new(memory_cost, passes, lanes, Some(HASH_LEN))?;
                    let needed = params.block_count();
                    if memory.len() < needed {
                        memory.resize(needed, Block::new());
                    }
                    let mut hash = Zeroizing::new([0; HASH_LEN]);
                    Argon2::new(Algorithm::Argon2id, Version::V0x13, params).hash_password_into_with_memory(
                        password.expose().as_bytes(),
                        &salt,
                        &mut *hash,
                        memory.get_mut(..needed).unwrap_or_default(),
                    )?;
                    Ok(hash)
                })
                .collect::<Result<_, argon2::Error>>()
        });
        Ok::<_, argon2::Error>((hashes?, slot))
    });
    hashes.await.map_err(ApiError::internal)?.map_err(|error| ApiError::internal(error.to_string()))
}

impl Hasher {
    pub(super) fn new(config: PasswordConfig) -> Self {
        let parallel = config.parallel.clamp(1, 64);
        Self {
            config,
            permits: Arc::new(Semaphore::new(parallel)),
            memories: Memories::default(),
            debt: Mutex::new(Debt { owed: Duration::ZERO, at: Timestamp::EPOCH }),
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

    /// Waits for a turn. Whoever would be one too many in the queue is turned away; it is shorter for those who have failed lately.
    pub(super) async fn slot(&self, standing: Standing) -> ApiResult<Slot> {
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            return Ok(self.turn(permit));
        }
        let before = self.waiting.fetch_add(1, Ordering::AcqRel);
        let _waiting = Waiting(&self.waiting);
        let most = match standing {
            Standing::Good => self.config.queue,
            Standing::Failed => self.config.queue.min(FAILED_WAIT),
        };
        if before >= most {
            return Err(ApiError::new(ApiErrorKind::TooMany, "too many logins at the same time; try again"));
        }
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(ApiError::internal)?;
        Ok(self.turn(permit))
    }

    /// Ends a turn after a failure that took this long to find out: if there were many, later.
    pub(super) async fn rest(&self, slot: Slot, worked: Duration, now: Timestamp) {
        let turns = u32::try_from(self.config.parallel).unwrap_or(u32::MAX);
        let rest = self.debt.lock().unwrap_or_else(PoisonError::into_inner).charge(worked, turns, now);
        if !rest.is_zero() {
            tokio::time::sleep(rest).await;
        }
        drop(slot);
    }

    fn turn(&self, permit: OwnedSemaphorePermit) -> Slot {
        Slot { _permit: permit, memories: self.memories.clone() }
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
        let (hashes, _) = compute(slot, password, vec![((memory, passes, lanes), salt.to_vec())]).await?;
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

    /// Whether the password is the one of the record. Without a record the answer is no, after the same work. The turn is given
    /// back.
    pub(super) async fn verify(
        &self,
        slot: Slot,
        record: Option<&PasswordRecord>,
        password: SecretString,
    ) -> ApiResult<(bool, Slot)> {
        let (work, expected) = self.plan(record);
        let (hashes, slot) = compute(slot, password, work).await?;
        let expected = expected.unwrap_or((usize::MAX, vec![0; HASH_LEN]));
        let mut right = false;
        for (place, hash) in hashes.iter().enumerate() {
            let equal = bool::from(hash.as_slice().ct_eq(&expected.1));
            right |= equal && place == expected.0;
        }
        Ok((right, slot))
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
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
    use futures_util::FutureExt as _;

    use super::*;
    use crate::testing::{NoEntropy, RepeatableEntropy};

    fn config() -> PasswordConfig {
        PasswordConfig { memory: 64, passes: 1, lanes: 1, ..PasswordConfig::default() }
    }

    impl Hasher {
        async fn is(&self, record: Option<&PasswordRecord>, password: &str) -> ApiResult<bool> {
            let slot = self.slot(Standing::Good).await?;
            Ok(self.verify(slot, record, SecretString::new(password)).await?.0)
        }
    }

    #[tokio::test]
    async fn a_password_is_recognised_and_no_other() {
        let hasher = Hasher::new(config());
        let entropy = RepeatableEntropy::new(7);
        let password = "correct horse battery";
        let hash = async |entropy: &dyn Entropy| {
            hasher
                .hash(hasher.slot(Standing::Good).await?, "alice", SecretString::new(password), entropy)
                .await
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
        let slot = hasher.slot(Standing::Good).await.unwrap();
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

    /// However fast guesses come: after the first ones they take their share of one processor.
    #[test]
    fn failures_have_a_share_of_a_processor() {
        let worked = Duration::from_millis(20);
        for turns in [1_u32, 2, 8] {
            let start = Timestamp::from_unix_secs(1_800_000_000);
            let mut debt = Debt { owed: Duration::ZERO, at: Timestamp::EPOCH };
            let mut free_at = vec![start; turns as usize];
            let mut busy = Duration::ZERO;
            for number in 0..10_000 {
                let turn = &mut free_at[number % turns as usize];
                let ready = turn.saturating_add(worked);
                busy += worked;
                let rest = debt.charge(worked, turns, ready);
                assert!(rest.is_zero() || busy > FREE);
                *turn = ready.saturating_add(rest);
            }
            let lasted = free_at[0].saturating_since(start).as_secs_f64();
            let share = (busy - FREE).as_secs_f64() / lasted;
            assert!((0.35..0.5).contains(&share), "{turns} turns: {share}");
        }
        // Nobody waits for what was long ago, or after a clock that went back.
        let mut debt = Debt { owed: FREE * 2, at: Timestamp::from_unix_secs(1_800_000_000) };
        assert!(!debt.charge(worked, 2, Timestamp::from_unix_secs(1_700_000_000)).is_zero());
        assert!(debt.charge(worked, 2, Timestamp::from_unix_secs(1_800_000_000)).is_zero());
    }

    /// What is kept of one hash says nothing in the next, and no more is kept than there are turns.
    #[tokio::test]
    async fn memory_is_used_again() {
        let hasher = Hasher::new(config());
        let entropy = RepeatableEntropy::new(7);
        let slot = hasher.slot(Standing::Good).await.unwrap();
        let record = hasher.hash(slot, "alice", SecretString::new("x"), &entropy).await.unwrap();
        for _ in 0..3 {
            let attempts =
                (0..20).map(|number| hasher.is(Some(&record), if number % 2 == 0 { "x" } else { "y" }));
            for (number, right) in futures_util::future::join_all(attempts).await.into_iter().enumerate() {
                assert_eq!(right.unwrap(), number % 2 == 0);
            }
            assert!(hasher.memories.lock().len() <= 2);
        }
        let dear = Hasher::new(PasswordConfig { memory: 40 << 10, ..config() });
        assert!(!dear.is(None, "x").await.unwrap());
        assert!(dear.memories.lock().is_empty());
    }

    /// While others guess, who has not failed waits behind few of them, and is not turned away for them.
    #[tokio::test]
    async fn who_has_failed_waits_in_a_shorter_queue() {
        let hasher = Hasher::new(PasswordConfig { parallel: 1, ..config() });
        let turn = hasher.slot(Standing::Good).await.unwrap();
        let mut guesses: Vec<_> = (0..20).map(|_| Box::pin(hasher.slot(Standing::Failed))).collect();
        let refused = guesses.iter_mut().filter_map(|guess| guess.as_mut().now_or_never());
        assert_eq!(refused.filter(Result::is_err).count(), 20 - FAILED_WAIT);
        let mut good = Box::pin(hasher.slot(Standing::Good));
        assert!(good.as_mut().now_or_never().is_none(), "it waits");
        drop(turn);
        drop(guesses);
        good.await.unwrap();
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
            let slot = hasher.slot(Standing::Good).await.unwrap();
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
