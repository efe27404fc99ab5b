//! Failed logins are counted before they happen.
//!
//! An attempt is charged in a write of its own **before** password and code are looked at, and the charge is taken back by
//! a success. So a crash cannot undo a failure, and attempts at the same time cannot all look before the first of them
//! is counted.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::LockoutConfig;
use super::context::{OpContext, contended};
use crate::api::{ApiError, ApiResult};
use crate::clock::Timestamp;
use crate::id::UserName;
use crate::storage::{Action, BackendExt, Batch, Condition, Item, Key, Prefix, RepoError, StorageError};

const KNOWN: &str = "lockouts";
/// Names that belong to nobody share counters, so that guessing names cannot fill the storage. Nobody can tell: the answer
/// is the same whether a counter is full or not.
const UNKNOWN: &str = "unknown_logins";
const UNKNOWN_COUNTERS: u16 = 1024;
/// More attempts of one user than this at the same moment are not served.
const ATTEMPTS: usize = 64;

/// The recent attempts of one user.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Lockout {
    /// When attempts began that did not succeed (yet), oldest first.
    pub(super) attempts: Vec<Timestamp>,
    /// Until when everything is refused.
    pub(super) locked_until: Option<Timestamp>,
    /// How many attempts were refused unseen.
    pub(super) refused: u32,
}

/// Whether an attempt may be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Charge {
    /// It is the attempt of this number, and may.
    Charged(u32),
    /// Too many failed before.
    Locked,
}

impl Lockout {
    /// Charges an attempt at `now`. Pure.
    pub(super) fn charge(&mut self, now: Timestamp, config: LockoutConfig) -> Charge {
        if self.locked_until.is_some_and(|until| now < until) {
            self.refused = self.refused.saturating_add(1);
            return Charge::Locked;
        }
        let allowed = config.failures.max(1);
        self.locked_until = None;
        // A clock that was set back must not forget attempts: those of the future stay.
        self.attempts.retain(|at| now < at.saturating_add(config.window));
        self.attempts.push(now);
        let number = u32::try_from(self.attempts.len()).unwrap_or(u32::MAX);
        if number >= allowed {
            // The last one that is looked at. If it fails nothing more has to be written, so nothing can be lost.
            self.locked_until = Some(now.saturating_add(config.lock));
            self.attempts.clear();
        }
        Charge::Charged(number.min(allowed))
    }

    /// When the record may be forgotten.
    fn expires(&self, now: Timestamp, config: LockoutConfig) -> Timestamp {
        self.locked_until.unwrap_or_else(|| {
            self.attempts
                .last()
                .copied()
                .unwrap_or(now)
                .saturating_add(config.window.max(Duration::from_secs(1)))
        })
    }
}

/// Where the counters of users are.
pub(super) fn prefix() -> ApiResult<Prefix> {
    Ok(Prefix::new(KNOWN).map_err(RepoError::from)?)
}

/// The counter of a user.
pub(super) fn key(user: &UserName) -> ApiResult<Key> {
    Ok(prefix()?.key(user.as_str()).map_err(RepoError::from)?)
}

/// The counter of a name that is nobody's.
fn unknown_key(name: &str) -> ApiResult<Key> {
    let digest = ring::digest::digest(&ring::digest::SHA256, name.as_bytes());
    let number = digest.as_ref().first_chunk::<2>().map_or(0, |bytes| u16::from_be_bytes(*bytes));
    let bucket = (number % UNKNOWN_COUNTERS).to_string();
    Ok(Prefix::new(UNKNOWN).and_then(|prefix| prefix.key(&bucket)).map_err(RepoError::from)?)
}

/// Reads a counter. A damaged one counts as full: it fails closed until an administrator resets the user.
pub(super) fn read(item: Option<&Item>) -> Lockout {
    let Some(item) = item else { return Lockout::default() };
    serde_json::from_slice(&item.value).unwrap_or_else(|error| {
        tracing::error!(key = %item.key, error = &error as &dyn std::error::Error, "unreadable login counter; the user is locked");
        Lockout { locked_until: Some(Timestamp::MAX), ..Lockout::default() }
    })
}

/// Charges an attempt, durably, before it is looked at.
pub(super) async fn charge(call: &OpContext<'_>, user: Option<&UserName>, name: &str) -> ApiResult<Charge> {
    let config = call.auth.config.lockout;
    let backend = &call.auth.ports.backend;
    let key = match user {
        Some(user) => key(user)?,
        None => unknown_key(name)?,
    };
    for _ in 0..ATTEMPTS {
        let item = backend.get(&key).await?;
        let mut lockout = read(item.as_ref());
        let charge = lockout.charge(call.now, config);
        let value = serde_json::to_vec(&lockout).map_err(ApiError::internal)?;
        let expires = Some(lockout.expires(call.now, config));
        let written = match &item {
            Some(item) => backend.update(&key, item.revision, value.into(), expires).await,
            None => backend.create(&key, value.into(), expires).await,
        };
        match written {
            Ok(_) => return Ok(charge),
            Err(StorageError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(contended())
}

/// Adds forgetting a user's attempts to a batch.
pub(super) fn forget_in(batch: Batch, user: &UserName) -> ApiResult<Batch> {
    Ok(batch.with(key(user)?, Condition::Any, Action::Delete))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use proptest::prelude::*;

    use super::*;

    fn at(secs: u64) -> Timestamp {
        Timestamp::from_unix_secs(1_800_000_000 + secs)
    }

    #[test]
    fn five_failures_lock_for_half_an_hour() {
        let config = LockoutConfig::default();
        let mut lockout = Lockout::default();
        for number in 1..=5 {
            assert_eq!(lockout.charge(at(number), config), Charge::Charged(u32::try_from(number).unwrap()));
        }
        assert_eq!(lockout.charge(at(6), config), Charge::Locked);
        assert_eq!(lockout.charge(at(5 + 1799), config), Charge::Locked);
        assert_eq!(lockout.charge(at(5 + 1800), config), Charge::Charged(1));
    }

    #[test]
    fn old_failures_are_forgotten() {
        let config = LockoutConfig::default();
        let mut lockout = Lockout::default();
        for number in 0..100 {
            assert_eq!(
                lockout.charge(at(number * 600), config),
                Charge::Charged(u32::min(3, u32::try_from(number).unwrap() + 1))
            );
        }
        assert!(lockout.attempts.len() <= 5);
    }

    proptest! {
        /// However attempts are spread, and whatever the clock does: never more than five within half an hour of true
        /// time are looked at, counted over any window that the clock did not jump in.
        #[test]
        fn never_more_than_allowed_in_a_window(steps in proptest::collection::vec(0_u64..900, 1..60)) {
            let config = LockoutConfig::default();
            let mut lockout = Lockout::default();
            let mut now = 0;
            let mut seen = Vec::new();
            for step in steps {
                now += step;
                if lockout.charge(at(now), config) != Charge::Locked {
                    seen.push(now);
                }
            }
            for (index, first) in seen.iter().enumerate() {
                let within = seen.iter().skip(index).take_while(|at| **at < first + 1800).count();
                prop_assert!(within <= 5, "{within} attempts within half an hour from {first}");
            }
        }
    }
}
