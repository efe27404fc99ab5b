//! The auth service: users, login, join, presence, recordings, audit. Decisions over ports, no sockets, no files, and one
//! task: it tells all streams of views at once what has changed.
//!
//! [`AuthService`] holds the ports; [`AuthService::acting_as`] binds it to a [`Caller`] and gives a handle that implements
//! every trait of [`crate::api`]. What a caller may do is one table, [`policy`].
//!
//! Every method does four things in this order: authorise (no step goes on without the [`Permit`](policy::Permit)), act,
//! audit, answer. What could not be audited is not answered with success.

mod account;
mod active;
mod backup;
mod bound;
mod caller;
mod config;
mod connections;
mod context;
mod devices;
mod documents;
mod eviction;
mod follow;
mod guarded;
mod guessers;
mod handle;
mod invites;
mod join;
mod lockout;
mod locks;
mod log;
mod login;
mod names;
mod nodes;
mod participants;
mod password;
mod peers;
pub mod policy;
mod presence;
mod proof;
mod quota;
mod recordings;
mod reissue;
mod reports;
mod retention;
mod roles;
mod sessions;
mod signing;
mod stand_in;
mod tails;
mod tokens;
mod totp;
mod trust;
mod uploads;
mod users;
mod views;
mod withdrawn;

use std::fmt;
use std::sync::{Arc, OnceLock};

pub use self::backup::{Backup, RestoreError, RestorePorts, Restored, restore, unfinished_restore};
pub use self::caller::Caller;
pub use self::config::{
    AuthConfig, LockoutConfig, PasswordConfig, RecordingLimits, SecondFactor, WeakHashing,
};
use self::devices::Decoy;
pub use self::eviction::EvictedHost;
use self::follow::Cache;
pub use self::handle::AuthHandle;
pub use self::join::HostRecord;
use self::password::Hasher;
pub use self::peers::{CannotTakePart, KeptAt, Participant, TAKE_PART_EVERY};
use self::quota::Quotas;
pub use self::retention::{RetentionConfig, Swept};
use self::sessions::SessionOwners;
pub use self::totp::one_time_code;
pub use self::uploads::{LostUploads, SWEEP_EVERY};
use self::withdrawn::Withdrawn;
use crate::api::{ApiError, ProxyRecord};
use crate::audit::AuditLog;
use crate::cert::CertIssuer;
use crate::clock::Clock;
use crate::entropy::Entropy;
use crate::recording::RecordingStore;
use crate::resource::{Lock, NodeRecord, Role, User, builtin_roles};
use crate::secret::Sealer;
use crate::storage::{Backend, Record, Repo};
use crate::token::TokenRecord;

/// What the auth service works with.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "programs build it; a new port must make them think")]
pub struct Ports {
    /// Where users, roles, tokens, nodes are kept.
    pub backend: Arc<dyn Backend>,
    /// The certificate authority.
    pub issuer: Arc<dyn CertIssuer>,
    /// Encrypts the seeds of one-time codes.
    pub sealer: Arc<dyn Sealer>,
    /// Where recordings are kept.
    pub recordings: Arc<dyn RecordingStore>,
    /// Where events are written.
    pub audit: Arc<dyn AuditLog>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
}

/// The auth service. A cheap handle: clones share everything.
///
/// Several services may work on one backend at the same time; whatever must happen once (a use of a token, a code, an
/// invite) is decided by a conditional write there.
#[derive(Clone)]
pub struct AuthService(Arc<Inner>);

struct Inner {
    ports: Ports,
    config: AuthConfig,
    users: Repo<User>,
    signed_names: Repo<names::SignedName>,
    withdrawn: Repo<Withdrawn>,
    roles: Repo<Role>,
    role_cache: Cache<Role>,
    locks: Repo<Lock>,
    lock_cache: Cache<Lock>,
    tokens: Repo<TokenRecord>,
    nodes: Repo<NodeRecord>,
    proxies: Repo<ProxyRecord>,
    proxy_sources: Repo<presence::ProxySources>,
    hosts: Repo<HostRecord>,
    evicted: Repo<EvictedHost>,
    refusals: eviction::Refusals,
    hasher: Hasher,
    guessers: guessers::Guessers,
    join_guesses: join::Guesses,
    /// Made at the first login: that needs randomness.
    decoy: OnceLock<Decoy>,
    uploads: Repo<uploads::Upload>,
    heard: uploads::Heard,
    tails: tails::Tails,
    /// By their recordings, so that not every part asks the store.
    session_hosts: SessionOwners,
    connections: connections::Connections,
    quotas: Quotas,
    usage: Repo<quota::Usage>,
    recording_fates: Repo<retention::RecordingFate>,
    /// By who reported their start. Apart, because a report is only a word.
    session_reporters: SessionOwners,
    reports: reports::Reports,
    active_sessions: Repo<active::HostSessions>,
    ended_sessions: Repo<active::SessionEnding>,
    auth_servers: Repo<peers::Running>,
    recording_place: Repo<peers::Place>,
    views: views::Views,
}

impl Inner {
    /// What is looked at where a user has no second factor.
    fn decoy(&self) -> Result<&Decoy, ApiError> {
        if let Some(decoy) = self.decoy.get() {
            return Ok(decoy);
        }
        let decoy = Decoy::new(&*self.ports.sealer, &*self.ports.entropy)?;
        Ok(self.decoy.get_or_init(|| decoy))
    }
}

impl fmt::Debug for AuthService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthService").field("cluster", &self.0.config.cluster).finish_non_exhaustive()
    }
}

impl AuthService {
    /// A service over these ports. Nothing is read or written yet.
    pub fn new(ports: Ports, mut config: AuthConfig) -> Self {
        for (number, token) in (1..).zip(&mut config.static_tokens) {
            token.set_number(number);
        }
        let repo = || Arc::clone(&ports.backend);
        Self(Arc::new(Inner {
            users: Repo::new(repo()),
            signed_names: Repo::new(repo()),
            withdrawn: Repo::new(repo()),
            roles: Repo::new(repo()),
            role_cache: Cache::new(repo(), <Role as Record>::COLLECTION),
            locks: Repo::new(repo()),
            lock_cache: Cache::new(repo(), <Lock as Record>::COLLECTION),
            tokens: Repo::new(repo()),
            nodes: Repo::new(repo()),
            proxies: Repo::new(repo()),
            proxy_sources: Repo::new(repo()),
            hosts: Repo::new(repo()),
            evicted: Repo::new(repo()),
            refusals: eviction::Refusals::default(),
            hasher: Hasher::new(config.password),
            guessers: guessers::Guessers::default(),
            join_guesses: join::Guesses::default(),
            decoy: OnceLock::new(),
            uploads: Repo::new(repo()),
            heard: uploads::Heard::default(),
            tails: tails::Tails::default(),
            session_hosts: SessionOwners::default(),
            connections: connections::Connections::new(repo()),
            quotas: Quotas::default(),
            usage: Repo::new(repo()),
            recording_fates: Repo::new(repo()),
            session_reporters: SessionOwners::default(),
            reports: reports::Reports::default(),
            active_sessions: Repo::new(repo()),
            ended_sessions: Repo::new(repo()),
            auth_servers: Repo::new(repo()),
            recording_place: Repo::new(repo()),
            views: views::Views::default(),
            ports,
            config,
        }))
    }

    /// Writes what every cluster begins with: the built-in roles that do not exist. Roles that an administrator has
    /// changed stay as they are. May be called at every start, by several services at once.
    ///
    /// # Errors
    /// [`ApiErrorKind::Unavailable`](crate::api::ApiErrorKind::Unavailable);
    /// [`ApiErrorKind::Conflict`](crate::api::ApiErrorKind::Conflict) if a restore has not come to its end.
    pub async fn bootstrap(&self) -> Result<(), ApiError> {
        if self.0.config.second_factor == SecondFactor::Off {
            tracing::warn!(
                "THE SECOND FACTOR IS OFF: whoever learns a user's password is that user. This is for tests; \
                 set auth_service.authentication.second_factor to otp"
            );
        }
        backup::check_whole(&*self.0.ports.backend).await?;
        for role in builtin_roles() {
            match self.0.roles.create(&role).await {
                Err(error) if !error.is_conflict() => return Err(error.into()),
                _ => {}
            }
        }
        Ok(())
    }

    /// The service as `caller` sees it: every call through the handle is authorised and audited as theirs.
    pub fn acting_as(&self, caller: Caller) -> AuthHandle {
        AuthHandle::new(Arc::clone(&self.0), caller)
    }

    /// What the service was configured with.
    pub fn config(&self) -> &AuthConfig {
        &self.0.config
    }
}
