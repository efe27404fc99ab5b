//! Whether somebody may begin something, and whether somebody who was let in may stay: by a view, which changes.

use std::net::IpAddr;
use std::time::Duration;

use super::{AccessChecker, Denied, JoinGrant, LoginGrant, SessionToJoin, Subject, VisitGrant};
use crate::api::AccessView;
use crate::cert::{HostIdentity, PublicKey, UserIdentity};
use crate::clock::Timestamp;
use crate::id::{HostId, OsLogin};
use crate::lock::{Knowledge, LockSubject, Locked};
use crate::resource::{JoinMode, NodeRecord};

/// Why somebody whose certificate is good is refused, or sent away. The text is for the log and the audit event;
/// [`Unwelcome::public`] for the user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unwelcome {
    /// Roles do not allow it.
    #[error(transparent)]
    Access(#[from] Denied),
    /// The authority that signed the certificate is none any more.
    #[error("the authority of the certificate is not trusted any more")]
    Authority,
    /// The user was deleted after the certificate was issued.
    #[error("the user does not exist any more")]
    Deleted,
    /// A lock is in force.
    #[error(transparent)]
    Locked(#[from] Locked),
    /// The proxy that carries the connection was removed from the cluster.
    #[error("the connection comes through {proxy}, which was removed from the cluster")]
    Way {
        /// The proxy.
        proxy: HostId,
    },
}

impl Unwelcome {
    /// For the user, who was let in: why that ends.
    pub fn public(&self) -> String {
        match self {
            Self::Access(_) => "access was taken away".to_owned(),
            Self::Authority | Self::Deleted => "the certificate is not good any more".to_owned(),
            Self::Locked(locked) => locked.public(),
            Self::Way { .. } => "the proxy is not one of the cluster any more".to_owned(),
        }
    }
}

/// How fresh a view is, and when it is looked at.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "verifiers build it; a new fact must make them think")]
pub struct Freshness {
    /// The time.
    pub now: Timestamp,
    /// For how long nobody has told of changes; zero while the view is followed.
    pub age: Duration,
}

impl AccessView {
    /// Decides for a user whose certificate was verified by this view: by the roles that it names, without what those allow that
    /// were taken from the user since.
    pub fn checker<'a>(&'a self, identity: &'a UserIdentity) -> AccessChecker<'a> {
        let taken = self.taken_roles.get(&identity.user).unwrap_or(Subject::NONE_TAKEN);
        AccessChecker::new(Subject { taken, ..identity.into() }, &self.roles)
    }

    /// Whether a user whose certificate was verified by this view may begin something, as far as that does not depend on where:
    /// connect to a proxy.
    ///
    /// # Errors
    /// [`Unwelcome`].
    pub fn admit(&self, identity: &UserIdentity, fresh: Freshness) -> Result<(), Unwelcome> {
        let checker = self.checker(identity);
        self.admit_as(&checker, identity, &identity.into(), fresh)
    }

    /// Whether a user whose certificate was verified by this view may be led to a node.
    ///
    /// # Errors
    /// [`Unwelcome`]. Roles are not asked.
    pub fn admit_to(
        &self,
        identity: &UserIdentity,
        node: &NodeRecord,
        fresh: Freshness,
    ) -> Result<(), Unwelcome> {
        let checker = self.checker(identity);
        let subject = LockSubject::from(identity).node(node.host_id, &node.name);
        self.admit_as(&checker, identity, &subject, fresh)
    }

    /// Whether a user whose certificate was verified by this view may open a session on a node as a login.
    ///
    /// # Errors
    /// [`Unwelcome`].
    pub fn admit_login(
        &self,
        identity: &UserIdentity,
        node: &NodeRecord,
        login: &OsLogin,
        fresh: Freshness,
    ) -> Result<LoginGrant, Unwelcome> {
        let checker = self.checker(identity);
        let subject = LockSubject::from(identity).node(node.host_id, &node.name).login(login);
        self.admit_as(&checker, identity, &subject, fresh)?;
        Ok(checker.check_login(identity, node, login)?)
    }

    fn admit_as(
        &self,
        checker: &AccessChecker<'_>,
        identity: &UserIdentity,
        subject: &LockSubject<'_>,
        fresh: Freshness,
    ) -> Result<(), Unwelcome> {
        self.check_exists(identity)?;
        let mode = checker.options().lock_mode.unwrap_or(self.lock_mode);
        let knowledge = Knowledge { now: fresh.now, age: fresh.age, mode };
        Ok(self.locks.decide(subject, knowledge)?)
    }

    /// Whether a user who was let in by a certificate of `authority` may stay. What is not known any more changes nothing: that is
    /// for what begins.
    ///
    /// # Errors
    /// [`Unwelcome`].
    pub fn keep(
        &self,
        identity: &UserIdentity,
        authority: &PublicKey,
        now: Timestamp,
    ) -> Result<(), Unwelcome> {
        self.keep_as(identity, authority, &identity.into(), now)
    }

    /// Whether a user who was led to a node may stay there.
    ///
    /// # Errors
    /// [`Unwelcome`]. Roles are not asked: the node does.
    pub fn keep_at(
        &self,
        identity: &UserIdentity,
        authority: &PublicKey,
        node: &NodeRecord,
        now: Timestamp,
    ) -> Result<(), Unwelcome> {
        let subject = LockSubject::from(identity).node(node.host_id, &node.name);
        self.keep_as(identity, authority, &subject, now)
    }

    /// Whether a user who has logged in to a node may stay, and by what rules.
    ///
    /// # Errors
    /// [`Unwelcome`].
    pub fn keep_login(
        &self,
        grant: &LoginGrant,
        authority: &PublicKey,
        node: &NodeRecord,
        now: Timestamp,
    ) -> Result<LoginGrant, Unwelcome> {
        let (identity, login) = (&grant.identity, &grant.login);
        let subject = LockSubject::from(identity).node(node.host_id, &node.name).login(login);
        self.keep_as(identity, authority, &subject, now)?;
        let checker = self.checker(identity);
        Ok(checker.check_login(identity, node, login)?)
    }

    /// Whether a user may come to a node without a login, to join sessions there.
    ///
    /// # Errors
    /// [`Unwelcome`].
    pub fn admit_visit(
        &self,
        identity: &UserIdentity,
        node: &NodeRecord,
        fresh: Freshness,
    ) -> Result<VisitGrant, Unwelcome> {
        let checker = self.checker(identity);
        let subject = LockSubject::from(identity).node(node.host_id, &node.name);
        self.admit_as(&checker, identity, &subject, fresh)?;
        Ok(checker.check_visit(identity, node)?)
    }

    /// Whether a user who came to a node without a login may stay, and by what rules.
    ///
    /// # Errors
    /// [`Unwelcome`].
    pub fn keep_visit(
        &self,
        visit: &VisitGrant,
        authority: &PublicKey,
        node: &NodeRecord,
        now: Timestamp,
    ) -> Result<VisitGrant, Unwelcome> {
        self.keep_at(&visit.identity, authority, node, now)?;
        let checker = self.checker(&visit.identity);
        Ok(checker.check_visit(&visit.identity, node)?)
    }

    /// Whether a user who was let in may take part in a session, or go on with it.
    ///
    /// # Errors
    /// [`Unwelcome`]; a lock on the login that the session runs as counts for whoever joins it.
    pub fn check_join(
        &self,
        identity: &UserIdentity,
        session: &SessionToJoin<'_>,
        mode: JoinMode,
        now: Timestamp,
    ) -> Result<JoinGrant, Unwelcome> {
        self.check_exists(identity)?;
        let subject = LockSubject::from(identity).node(session.node.host_id, &session.node.name);
        self.locks.check(&subject.login(session.login), now)?;
        let checker = self.checker(identity);
        Ok(checker.check_join(identity, session, mode)?)
    }

    fn keep_as(
        &self,
        identity: &UserIdentity,
        authority: &PublicKey,
        subject: &LockSubject<'_>,
        now: Timestamp,
    ) -> Result<(), Unwelcome> {
        if !self.trust.user_ca.contains(authority) {
            return Err(Unwelcome::Authority);
        }
        self.check_exists(identity)?;
        Ok(self.locks.check(subject, now)?)
    }

    /// Whether what a proxy carries may begin or go on, and whether its word counts.
    ///
    /// # Errors
    /// [`Unwelcome::Locked`] or [`Unwelcome::Way`].
    pub fn keep_way(&self, proxy: &HostIdentity, now: Timestamp) -> Result<(), Unwelcome> {
        if self.removed_proxies.contains(&proxy.host_id) {
            return Err(Unwelcome::Way { proxy: proxy.host_id });
        }
        Ok(self.locks.check(&proxy.into(), now)?)
    }

    /// The address that credentials are bound to, of a client that connects directly from `peer`. Behind the address of a proxy there is
    /// anybody, if the proxy does not say who: that is nobody's.
    pub fn direct_address(&self, peer: IpAddr) -> Option<IpAddr> {
        let peer = peer.to_canonical();
        (!self.proxies.contains(&peer)).then_some(peer)
    }

    fn check_exists(&self, identity: &UserIdentity) -> Result<(), Unwelcome> {
        let deleted = self.deleted_users.get(&identity.user);
        if deleted.is_some_and(|at| identity.is_issued_until(*at)) {
            return Err(Unwelcome::Deleted);
        }
        Ok(())
    }
}
