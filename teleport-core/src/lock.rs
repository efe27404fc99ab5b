//! Who is locked: pure decisions over locks.
//!
//! A lock names one or more of user, role, login, node, second factor and certificate. It is in force for whoever **all** of
//! what it names is true of, and for as long as it exists. Nothing overrides it: it counts before roles do.
//!
//! What locks do where stands in the manual, [`locks`](crate::manual::locks).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::cert::{HostIdentity, UserIdentity};
use crate::clock::Timestamp;
use crate::id::{DeviceId, HostId, NodeName, OsLogin, RoleName, UserName};
use crate::resource::{Lock, LockMode, LockTarget, LockedNode};

/// How old what is known of locks may be where [`LockMode::Strict`] counts: 5 minutes.
pub const MAX_LOCK_AGE: Duration = Duration::from_secs(300);

/// Whom a decision is about, as far as it is known where it is made.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "verifiers build it; a new fact must make them think")]
pub struct LockSubject<'a> {
    /// The user.
    pub user: Option<&'a UserName>,
    /// The user's roles.
    pub roles: &'a [RoleName],
    /// The login that is asked for or used.
    pub login: Option<&'a OsLogin>,
    /// The node that is asked for, or the host that asks.
    pub node: Option<(HostId, &'a NodeName)>,
    /// The second factor by which the user logged in.
    pub mfa_device: Option<DeviceId>,
    /// The serial number of the user's certificate.
    pub serial: Option<u64>,
}

impl<'a> LockSubject<'a> {
    /// As this login.
    #[must_use]
    pub const fn login(mut self, login: &'a OsLogin) -> Self {
        self.login = Some(login);
        self
    }

    /// On this node.
    #[must_use]
    pub const fn node(mut self, id: HostId, name: &'a NodeName) -> Self {
        self.node = Some((id, name));
        self
    }

    /// Whether all that `target` names is true of the subject. What is not known is not true.
    pub fn is_targeted(&self, target: &LockTarget) -> bool {
        let node = |locked: &LockedNode| match (locked, self.node) {
            (LockedNode::Id(locked), Some((id, _))) => *locked == id,
            (LockedNode::Name(locked), Some((_, name))) => locked == name,
            (_, None) => false,
        };
        let LockTarget { user, role, login, node: locked_node, mfa_device, serial } = target;
        !target.is_empty()
            && user.as_ref().is_none_or(|user| self.user == Some(user))
            && role.as_ref().is_none_or(|role| self.roles.contains(role))
            && login.as_ref().is_none_or(|login| self.login == Some(login))
            && locked_node.as_ref().is_none_or(node)
            && mfa_device.is_none_or(|device| self.mfa_device == Some(device))
            && serial.is_none_or(|serial| self.serial == Some(serial))
    }
}

impl<'a> From<&'a UserIdentity> for LockSubject<'a> {
    fn from(identity: &'a UserIdentity) -> Self {
        Self {
            user: Some(&identity.user),
            roles: &identity.roles,
            mfa_device: identity.mfa_device,
            serial: Some(identity.serial),
            ..Self::default()
        }
    }
}

impl<'a> From<&'a HostIdentity> for LockSubject<'a> {
    fn from(identity: &'a HostIdentity) -> Self {
        Self::default().node(identity.host_id, &identity.name)
    }
}

/// How well locks are known where a decision is made, and what it does if that is not well enough.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "verifiers build it; a new fact must make them think")]
pub struct Knowledge {
    /// The time.
    pub now: Timestamp,
    /// For how long nobody has told of changes; zero while locks are followed.
    pub age: Duration,
    /// What counts for the subject.
    pub mode: LockMode,
}

/// Why nothing is done. The text is for the log and the audit event; [`Locked::public`] for the peer, who is known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Locked {
    /// A lock says so.
    #[error("lock targeting {target} is in force{}{message}", if message.is_empty() { "" } else { ": " })]
    InForce {
        /// What the lock is called.
        name: String,
        /// Whom it targets.
        target: Box<LockTarget>,
        /// What whoever is locked is to be told.
        message: Box<str>,
    },
    /// Locks are to be obeyed strictly, and nobody has told of them for too long.
    #[error(
        "locks are strict, and nothing was heard of them for {} s (at most {} s)",
        age.as_secs(),
        MAX_LOCK_AGE.as_secs()
    )]
    Stale {
        /// For how long.
        age: Duration,
    },
    /// Locks are to be obeyed strictly, and it is not known whom one of them targets.
    #[error("locks are strict, and lock {name} cannot be read")]
    Unreadable {
        /// The first of them.
        name: String,
    },
}

impl Locked {
    fn by(lock: &Lock) -> Self {
        Self::InForce {
            name: lock.metadata.name.clone(),
            target: Box::new(lock.spec.target.clone()),
            message: lock.spec.message.as_str().into(),
        }
    }

    /// For whoever is locked. That a lock is in force is said in full: its message is meant for them.
    pub fn public(&self) -> String {
        match self {
            Self::InForce { .. } => self.to_string(),
            Self::Stale { .. } | Self::Unreadable { .. } => {
                "access denied: it is not known for certain who is locked; try again later".to_owned()
            }
        }
    }
}

/// The locks that exist; what views hold. Cheap to clone.
///
/// Serialised as the list of the documents. One that cannot be read, as when a newer version wrote it, is kept as one of which
/// it is not known whom it targets ([`Lock::unreadable`]).
#[derive(Clone, Default)]
pub struct LockSet(Arc<Vec<Lock>>);

impl LockSet {
    /// The documents, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &Lock> {
        self.0.iter()
    }

    /// How many there are, whether or not they are over.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a lock is in force for somebody, however well locks are known: for those who were let in.
    ///
    /// # Errors
    /// [`Locked::InForce`], with the first lock by name.
    pub fn check(&self, subject: &LockSubject<'_>, now: Timestamp) -> Result<(), Locked> {
        self.all(subject, now).next().map_or(Ok(()), Err)
    }

    /// Every lock that is in force for it.
    pub fn all<'l>(
        &'l self,
        subject: &'l LockSubject<'_>,
        now: Timestamp,
    ) -> impl Iterator<Item = Locked> + 'l {
        self.in_force(now).filter(|lock| subject.is_targeted(&lock.spec.target)).map(Locked::by)
    }

    /// Decides about something new: a certificate, a connection, a session, a call.
    ///
    /// # Errors
    /// [`Locked`].
    pub fn decide(&self, subject: &LockSubject<'_>, knowledge: Knowledge) -> Result<(), Locked> {
        self.check(subject, knowledge.now)?;
        if knowledge.mode == LockMode::BestEffort {
            return Ok(());
        }
        if knowledge.age > MAX_LOCK_AGE {
            return Err(Locked::Stale { age: knowledge.age });
        }
        match self.in_force(knowledge.now).find(|lock| !lock.is_readable()) {
            Some(lock) => Err(Locked::Unreadable { name: lock.metadata.name.clone() }),
            None => Ok(()),
        }
    }

    /// The verifier's clock ends a lock, whether or not storage has noticed.
    fn in_force(&self, now: Timestamp) -> impl Iterator<Item = &Lock> {
        self.0.iter().filter(move |lock| lock.metadata.expires.is_none_or(|expires| now < expires))
    }
}

impl FromIterator<Lock> for LockSet {
    fn from_iter<I: IntoIterator<Item = Lock>>(locks: I) -> Self {
        let readable = |lock: Lock| match lock.is_readable() {
            true => lock,
            false => {
                let mut stand_in = Lock::unreadable(lock.metadata.name);
                stand_in.metadata.expires = lock.metadata.expires;
                stand_in
            }
        };
        let mut locks: Vec<Lock> = locks.into_iter().map(readable).collect();
        locks.sort_by(|one, other| one.metadata.name.cmp(&other.metadata.name));
        Self(Arc::new(locks))
    }
}

impl fmt::Debug for LockSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(|lock| &lock.metadata.name)).finish()
    }
}

impl PartialEq for LockSet {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl Eq for LockSet {}

impl Serialize for LockSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for LockSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let documents = Vec::<serde_json::Value>::deserialize(deserializer)?;
        let lock = |document: serde_json::Value| {
            let name = document.pointer("/metadata/name").and_then(|name| name.as_str()).map(str::to_owned);
            serde_json::from_value::<Lock>(document).unwrap_or_else(|error| {
                let name = name.unwrap_or_default();
                let error = &error as &dyn std::error::Error;
                tracing::warn!(
                    lock = name,
                    error,
                    "a lock cannot be read; where locks are strict nothing is allowed"
                );
                Lock::unreadable(name)
            })
        };
        Ok(documents.into_iter().map(lock).collect())
    }
}

#[cfg(test)]
mod tests;
