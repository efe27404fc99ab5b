//! Settings and their defaults.

use std::time::Duration;

use super::retention::RetentionConfig;
use crate::access::ClusterRecording;
use crate::audit::chain::CheckpointKey;
use crate::cert::MAX_USER_TTL;
use crate::id::ClusterName;
use crate::peering::TunnelStrategy;
use crate::resource::LockMode;
use crate::token::StaticToken;

/// Settings of the auth service. The defaults and their reasons are in [`crate::manual::defaults`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AuthConfig {
    /// The cluster.
    pub cluster: ClusterName,
    /// The version that is told to clients.
    pub server_version: String,
    /// How long host certificates are valid. 7 days.
    pub host_ttl: Duration,
    /// How long user certificates are valid if the user does not ask for less and no role demands it. 12 hours.
    pub user_ttl: Duration,
    /// How long join tokens are good if nothing is said. 30 minutes.
    pub token_ttl: Duration,
    /// The longest life of a join token. 30 days.
    pub max_token_ttl: Duration,
    /// How long invites are good if nothing is said. 1 hour.
    pub invite_ttl: Duration,
    /// The longest life of an invite. 48 hours.
    pub max_invite_ttl: Duration,
    /// How long the invite of a reset is good if nothing is said. 8 hours.
    pub reset_ttl: Duration,
    /// The longest life of the invite of a reset. 24 hours.
    pub max_reset_ttl: Duration,
    /// Tokens from the configuration.
    pub static_tokens: Vec<StaticToken>,
    /// When logins are refused.
    pub lockout: LockoutConfig,
    /// What happens where it is not known for certain who is locked, unless a role says so. Best effort.
    pub lock_mode: LockMode,
    /// How sessions are recorded, as far as roles do not say. At the node.
    pub session_recording: ClusterRecording,
    /// How nodes that listen nowhere are reached. By a tunnel to each proxy.
    pub tunnel_strategy: TunnelStrategy,
    /// How passwords are hashed.
    pub password: PasswordConfig,
    /// What a login needs beside the password. One-time codes.
    pub second_factor: SecondFactor,
    /// How much the recordings of a host may occupy.
    pub recordings: RecordingLimits,
    /// How long recordings are kept. For ever.
    pub retention: RetentionConfig,
    /// The keys that sign checkpoints of the audit log, for whoever verifies it.
    pub audit_keys: Vec<CheckpointKey>,
    /// How often watchers of access look for changes that the backend does not report. 60 seconds.
    pub trust_refresh: Duration,
}

impl AuthConfig {
    /// The defaults for a cluster.
    pub fn new(cluster: ClusterName) -> Self {
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        Self {
            cluster,
            server_version: env!("CARGO_PKG_VERSION").to_owned(),
            host_ttl: hours(7 * 24),
            user_ttl: hours(12).min(MAX_USER_TTL),
            token_ttl: Duration::from_secs(30 * 60),
            max_token_ttl: hours(30 * 24),
            invite_ttl: hours(1),
            max_invite_ttl: hours(48),
            reset_ttl: hours(8),
            max_reset_ttl: hours(24),
            static_tokens: Vec::new(),
            lockout: LockoutConfig::default(),
            lock_mode: LockMode::default(),
            session_recording: ClusterRecording::default(),
            tunnel_strategy: TunnelStrategy::default(),
            password: PasswordConfig::default(),
            second_factor: SecondFactor::default(),
            recordings: RecordingLimits::default(),
            retention: RetentionConfig::default(),
            audit_keys: Vec::new(),
            trust_refresh: Duration::from_secs(60),
        }
    }
}

/// What a login needs beside the password.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SecondFactor {
    /// Nothing: whoever learns a password is the user. For tests; the service warns of it at each start.
    Off,
    /// A one-time code.
    #[default]
    Otp,
}

impl SecondFactor {
    /// As configurations write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Otp => "otp",
        }
    }
}

/// When logins of a user are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LockoutConfig {
    /// After so many failures. 5; at least 1 is used.
    pub failures: u32,
    /// Within this time. 30 minutes.
    pub window: Duration,
    /// For this time. 30 minutes.
    pub lock: Duration,
}

impl Default for LockoutConfig {
    fn default() -> Self {
        let half_an_hour = Duration::from_secs(30 * 60);
        Self { failures: 5, window: half_an_hour, lock: half_an_hour }
    }
}

/// How much the recordings of a host may occupy. Generous: they are to be met by a host that was taken over, not by one that is
/// busy. What a node cannot deliver stays in its spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecordingLimits {
    /// The most bytes of one recording; at least a part, [`MAX_PART_LEN`](crate::recording::MAX_PART_LEN). What is longer is refused,
    /// and set aside at its node. 2 GiB, half of what a node's spool holds.
    pub recording_bytes: u64,
    /// The most bytes that a host may hand in on one day (UTC). Each part counts as 4 KiB at least, a recording as
    /// 16 KiB. One user's sessions get at most half of it. 20 GiB.
    pub host_day_bytes: u64,
    /// The most recordings that a host may begin on one day. 250,000, nearly three a second.
    pub host_day_recordings: u64,
    /// How long ago a recording may have begun when it is handed in, by its own account; else it counts as begun so long ago. A
    /// node may have been without the auth service for as long. 30 days.
    pub max_age: Duration,
    /// How far the clock of a node may be ahead; what began later counts as beginning now. 5 minutes.
    pub max_ahead: Duration,
}

impl Default for RecordingLimits {
    fn default() -> Self {
        Self {
            recording_bytes: 2 << 30,
            host_day_bytes: 20 << 30,
            host_day_recordings: 250_000,
            max_age: Duration::from_secs(30 * 24 * 3600),
            max_ahead: Duration::from_secs(300),
        }
    }
}

/// The most memory of a hash, in KiB.
pub(super) const MAX_MEMORY: u32 = 1 << 20;
/// The most passes of a hash.
pub(super) const MAX_PASSES: u32 = 64;
/// The most lanes of a hash.
pub(super) const MAX_LANES: u32 = 16;
/// The least memory of a hash, in KiB.
const MIN_MEMORY: u32 = 7 << 10;
/// The least product of memory in MiB and passes: the weakest of the combinations that OWASP recommends is 7 MiB, 5 passes.
const MIN_WORK: u32 = 35;

/// The parameters are no good for passwords.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WeakHashing {
    /// Beyond what can be computed for each login.
    #[error(
        "at most 1GiB of memory, {MAX_PASSES} passes and {MAX_LANES} lanes, at least 8KiB of memory a lane, and no zeros"
    )]
    Bounds,
    /// Guessed too cheaply.
    #[error(
        "too weak: at least 7MiB of memory, and memory in MiB times passes at least {MIN_WORK} \
         (46MiB and 1 pass, 19MiB and 2, 12MiB and 3, 9MiB and 4, 7MiB and 5)"
    )]
    Weak,
}

/// How passwords are hashed: Argon2id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PasswordConfig {
    /// Memory in KiB. 19,456 (19 MiB).
    pub memory: u32,
    /// Passes. 2.
    pub passes: u32,
    /// Lanes. 1.
    pub lanes: u32,
    /// How many hashes are computed at the same time. 2.
    pub parallel: usize,
    /// How many more may wait; who comes then is told to come later. 32: with rests after failures, the last of them waits for less
    /// than two seconds.
    pub queue: usize,
}

impl Default for PasswordConfig {
    fn default() -> Self {
        Self { memory: 19_456, passes: 2, lanes: 1, parallel: 2, queue: 32 }
    }
}

impl PasswordConfig {
    /// Checks the parameters as an operator may set them. A service takes others too: tests need cheap ones.
    ///
    /// # Errors
    /// [`WeakHashing`], with what would do.
    pub fn check(&self) -> Result<(), WeakHashing> {
        let Self { memory, passes, lanes, parallel, .. } = *self;
        let zero = memory == 0 || passes == 0 || lanes == 0 || parallel == 0;
        let beyond = memory > MAX_MEMORY || passes > MAX_PASSES || lanes > MAX_LANES;
        if zero || beyond || memory < 8 * lanes {
            return Err(WeakHashing::Bounds);
        }
        if memory < MIN_MEMORY || (memory >> 10) * passes < MIN_WORK {
            return Err(WeakHashing::Weak);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashing_is_neither_weak_nor_endless() {
        let check = |memory: u32, passes: u32, lanes: u32| {
            PasswordConfig { memory, passes, lanes, ..PasswordConfig::default() }.check()
        };
        assert_eq!(PasswordConfig::default().check(), Ok(()));
        for (mib, passes) in [(46, 1), (19, 2), (12, 3), (9, 4), (7, 5), (1024, 64)] {
            assert_eq!(check(mib << 10, passes, 1), Ok(()), "{mib} MiB, {passes}");
        }
        for (mib, passes) in [(46, 0), (0, 2), (1025, 1), (19, 65)] {
            assert_eq!(check(mib << 10, passes, 1), Err(WeakHashing::Bounds), "{mib} MiB, {passes}");
        }
        assert_eq!(check(19 << 10, 2, 17), Err(WeakHashing::Bounds));
        for (mib, passes) in [(6, 64), (18, 1), (11, 3), (7, 4)] {
            assert_eq!(check(mib << 10, passes, 1), Err(WeakHashing::Weak), "{mib} MiB, {passes}");
        }
        let none = PasswordConfig { parallel: 0, ..PasswordConfig::default() };
        assert_eq!(none.check(), Err(WeakHashing::Bounds));
    }
}
