//! One call: who, when, what was permitted, and the event that says so.

use std::net::{IpAddr, SocketAddr};

use super::login::chain;
use super::policy::{CallerKind, Operation, Permit, Rule, Scope};
use super::{Caller, Inner, eviction, locks, withdrawn};
use crate::access::{AccessChecker, Denied, ResourceFacts, RoleSet, SessionToJoin, Subject};
use crate::api::{ApiError, ApiErrorKind, ApiResult};
use crate::audit::{AuditEvent, EventKind};
use crate::cert::{Identity, TrustBundle, UserIdentity};
use crate::clock::Timestamp;
use crate::entropy::EntropyExt;
use crate::id::HostRole;
use crate::lock::{LockSet, Locked};
use crate::resource::{JoinMode, User, Verb};

/// One call.
pub(super) struct OpContext<'a> {
    pub(super) auth: &'a Inner,
    pub(super) caller: &'a Caller,
    /// When the call began; decisions of one call see one time.
    pub(super) now: Timestamp,
}

/// Why a call was not authorised. For the audit event.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unauthorized {
    #[error("the certificate is of another cluster")]
    Cluster,
    #[error("the user does not exist any more")]
    Deleted,
    #[error("the host was removed from the cluster")]
    Evicted,
    #[error("the certificate has expired")]
    Expired,
    #[error(transparent)]
    Locked(Locked),
    #[error("not for callers of this kind")]
    Kind,
    #[error("roles: {0}")]
    Roles(Denied),
    #[error("roles of today: {0}")]
    RolesNow(Denied),
}

/// What a calling user's rules are decided by: the certificate **and** what the user is now. Who was deleted or has lost a role
/// administers nothing, however long the certificate lasts; it could make itself a new user with it.
pub(super) struct Rights<'a> {
    identity: &'a UserIdentity,
    roles: RoleSet,
    user: User,
}

impl Rights<'_> {
    pub(super) fn rules(&self) -> Rules<'_> {
        Rules {
            by_certificate: AccessChecker::for_identity(self.identity, &self.roles),
            by_now: AccessChecker::new(
                Subject { name: self.identity.user.as_str(), ..Subject::from(&self.user) },
                &self.roles,
            ),
        }
    }
}

/// The rules of a calling user, ready to decide about many resources.
pub(super) struct Rules<'r> {
    by_certificate: AccessChecker<'r>,
    by_now: AccessChecker<'r>,
}

impl Rules<'_> {
    /// Whether `verb` is allowed on one resource of `kind`; without facts about it, on every one.
    pub(super) fn check(
        &self,
        kind: &'static str,
        verb: Verb,
        resource: ResourceFacts<'_>,
    ) -> Result<(), Unauthorized> {
        self.by_certificate.check_rule_on(kind, verb, resource).map_err(Unauthorized::Roles)?;
        self.by_now.check_rule_on(kind, verb, resource).map_err(Unauthorized::RolesNow)?;
        Ok(())
    }

    /// Whether there may be resources of `kind` on which `verb` is allowed.
    pub(super) fn may_have(&self, kind: &str, verb: Verb) -> bool {
        self.by_certificate.may_have_rule(kind, verb) && self.by_now.may_have_rule(kind, verb)
    }

    /// The modes in which a running session may be joined.
    pub(super) fn join_modes(&self, user: &UserIdentity, session: &SessionToJoin<'_>) -> Vec<JoinMode> {
        let mut modes = self.by_certificate.join_modes(user, session);
        modes.retain(|mode| self.by_now.check_join(user, session, *mode).is_ok());
        modes
    }

    /// Whether `verb` on one resource of `kind` is denied, and not only not allowed: then it is denied to its owner as well.
    pub(super) fn denies(&self, kind: &'static str, verb: Verb, resource: ResourceFacts<'_>) -> bool {
        [&self.by_certificate, &self.by_now].into_iter().any(|rules| {
            let outcome = rules.check_rule_on(kind, verb, resource);
            !matches!(outcome, Ok(_) | Err(Denied::NotAllowed | Denied::NoRoles))
        })
    }
}

impl<'a> OpContext<'a> {
    pub(super) fn new(auth: &'a Inner, caller: &'a Caller) -> Self {
        Self { auth, caller, now: auth.ports.clock.now() }
    }

    /// Decides by the policy table whether the call may go on.
    ///
    /// # Errors
    /// [`ApiErrorKind::Denied`], after an event that says why.
    pub(super) async fn authorize(&self, operation: Operation) -> ApiResult<Permit<'a>> {
        match self.decide(operation).await? {
            Ok(scope) => Ok(Permit::new(self.caller, operation, scope)),
            Err(Unauthorized::Locked(locked)) => Err(self.deny_locked(operation, &locked).await),
            Err(Unauthorized::Evicted) => Err(self.deny_evicted(operation).await),
            Err(reason) => Err(self.deny(operation, reason.to_string()).await),
        }
    }

    /// The outer error is that of the service, the inner one that of the caller.
    async fn decide(&self, operation: Operation) -> ApiResult<Result<Scope, Unauthorized>> {
        if let Caller::Identity(identity, _) = self.caller {
            // A connection may outlive the certificate that it was opened with.
            if identity.expires() <= self.now {
                return Ok(Err(Unauthorized::Expired));
            }
            let cluster = match identity {
                Identity::Host(host) => &host.cluster,
                Identity::User(user) => &user.cluster,
            };
            if *cluster != self.auth.config.cluster {
                return Ok(Err(Unauthorized::Cluster));
            }
            if let Identity::Host(host) = identity
                && host.role != HostRole::Auth
                && eviction::is_evicted(self.auth, host.host_id).await?
            {
                return Ok(Err(Unauthorized::Evicted));
            }
            if let Identity::User(user) = identity
                && withdrawn::is_void(self.auth, user, self.now).await?
            {
                return Ok(Err(Unauthorized::Deleted));
            }
            if let Err(locked) = locks::check_caller(self, identity, operation).await? {
                return Ok(Err(Unauthorized::Locked(locked)));
            }
        }
        Ok(match operation.rule(CallerKind::of(self.caller)) {
            Rule::No => Err(Unauthorized::Kind),
            Rule::Own => Ok(Scope::Own),
            Rule::Yes => Ok(Scope::All),
            Rule::Role(kind, verb) => self.check_rule(kind, verb).await?.map(|()| Scope::All),
        })
    }

    /// Whether a role of the calling user allows `verb` on every resource of `kind`. Callers without roles have none that
    /// allows anything.
    pub(super) async fn check_rule(
        &self,
        kind: &'static str,
        verb: Verb,
    ) -> ApiResult<Result<(), Unauthorized>> {
        // Who could not do it by the certificate either needs no look at the user.
        if let Caller::Identity(Identity::User(identity), _) = self.caller {
            let roles = self.roles().await?;
            if let Err(denied) = AccessChecker::for_identity(identity, &roles).check_rule(kind, verb) {
                return Ok(Err(Unauthorized::Roles(denied)));
            }
        }
        Ok(match self.rights().await? {
            Ok(rights) => rights.rules().check(kind, verb, ResourceFacts::default()),
            Err(reason) => Err(reason),
        })
    }

    /// What the calling user's rules are decided by.
    pub(super) async fn rights(&self) -> ApiResult<Result<Rights<'a>, Unauthorized>> {
        let Caller::Identity(Identity::User(identity), _) = self.caller else {
            return Ok(Err(Unauthorized::Kind));
        };
        let roles = self.roles().await?;
        let user = self.auth.users.get(identity.user.as_str()).await?;
        Ok(user.map(|user| Rights { identity, roles, user: user.record }).ok_or(Unauthorized::Deleted))
    }

    /// Authorises a call and carries it out. A change that was asked for and not made is in the audit log like one that was: who
    /// tries names of users is seen.
    ///
    /// # Errors
    /// [`ApiErrorKind::Denied`], and those of `act`.
    pub(super) async fn run<T, F>(
        &self,
        operation: Operation,
        act: impl FnOnce(Permit<'a>) -> F,
    ) -> ApiResult<T>
    where
        F: Future<Output = ApiResult<T>>,
    {
        let permit = self.authorize(operation).await?;
        let outcome = act(permit).await;
        if let Err(error) = &outcome
            && operation.administers()
            // Refusals were written down by whoever refused.
            && error.kind() != ApiErrorKind::Denied
        {
            let event = AuditEvent::new(EventKind::ApiFailure).field("operation", operation.name());
            let event = self.by_caller(event).error(chain(error));
            if let Err(error) = self.audit(vec![event]).await {
                tracing::error!(error = &error as &dyn std::error::Error, "a failure could not be audited");
            }
        }
        outcome
    }

    /// Refuses a call of somebody who is locked. A locked host goes on calling, and the audit log gets a line a minute.
    pub(super) async fn deny_locked(&self, operation: Operation, locked: &Locked) -> ApiError {
        let host = self.caller.host().map(|host| host.host_id);
        match host.map_or(Some(0), |host| self.auth.refusals.is_due(host, self.now)) {
            None => {}
            Some(0) => drop(self.deny(operation, locked.to_string()).await),
            Some(more) => {
                let reason = format!("{locked}; {more} more of its calls since the last such event");
                drop(self.deny(operation, reason).await);
            }
        }
        ApiError::locked(locked)
    }

    /// Refuses a call of a host that was removed. It may call as often as it likes: the audit log gets a line a minute.
    pub(super) async fn deny_evicted(&self, operation: Operation) -> ApiError {
        let host = self.caller.host().map(|host| host.host_id);
        let reason = match host.map_or(Some(0), |host| self.auth.refusals.is_due(host, self.now)) {
            None => return ApiError::evicted().because(ApiError::denied()),
            Some(0) => Unauthorized::Evicted.to_string(),
            Some(more) => {
                format!("{}; {more} more of its calls since the last such event", Unauthorized::Evicted)
            }
        };
        ApiError::evicted().because(self.deny(operation, reason).await)
    }

    /// Refuses a call after an event that says why.
    pub(super) async fn deny(&self, operation: Operation, reason: String) -> ApiError {
        self.deny_client(operation, reason, self.caller.remote()).await
    }

    /// The same for a call whose client's address is known from [`OpContext::client`].
    pub(super) async fn deny_client(
        &self,
        operation: Operation,
        reason: String,
        client: Option<SocketAddr>,
    ) -> ApiError {
        let event = AuditEvent::new(EventKind::ApiDenied).field("operation", operation.name()).error(reason);
        // The refusal stands whether or not it could be written down.
        if let Err(error) = self.audit(vec![self.by_caller(event).remote(client)]).await {
            tracing::error!(error = &error as &dyn std::error::Error, "a refusal could not be audited");
        }
        ApiError::denied()
    }

    /// Names the caller and its address.
    pub(super) fn by_caller(&self, event: AuditEvent) -> AuditEvent {
        let event = event.user(self.caller.to_string()).remote(self.caller.remote());
        match self.caller.host() {
            Some(host) => event.server(host.host_id, &host.name),
            None => event,
        }
    }

    /// Writes events, stamped with what only the service knows. Those of hosts have their names already.
    ///
    /// # Errors
    /// [`ApiErrorKind::Unavailable`]: what cannot be written down must not be answered with success.
    pub(super) async fn audit(&self, mut events: Vec<AuditEvent>) -> ApiResult<()> {
        for event in &mut events {
            if event.uid.is_nil() {
                event.uid = self.auth.ports.entropy.uuid()?;
            }
            event.time = self.auth.ports.clock.now();
            self.auth.config.cluster.as_str().clone_into(&mut event.cluster_name);
        }
        Ok(self.auth.ports.audit.emit(events).await?)
    }

    /// The client's address as events write it: the port of the connection, or 0 if a proxy reported the address.
    pub(super) fn client(&self, reported: Option<IpAddr>) -> Option<SocketAddr> {
        let ip = self.caller.client_ip(reported)?;
        let port =
            self.caller.remote().filter(|remote| remote.ip().to_canonical() == ip).map_or(0, |at| at.port());
        Some(SocketAddr::new(ip, port))
    }

    /// Whom the cluster trusts.
    pub(super) async fn trust(&self) -> ApiResult<TrustBundle> {
        Ok(self.auth.ports.issuer.trust().await?)
    }

    /// The locks that exist.
    pub(super) async fn locks(&self) -> ApiResult<LockSet> {
        self.auth.lock_cache.current(self.now).await
    }

    /// The roles that exist.
    pub(super) async fn roles(&self) -> ApiResult<RoleSet> {
        self.auth.role_cache.current(self.now).await
    }
}

/// For conditional writes that lost against others too often.
pub(super) fn contended() -> ApiError {
    ApiError::new(ApiErrorKind::Unavailable, "too many changes at the same time; try again")
}
