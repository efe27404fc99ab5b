//! What locks mean for the auth service itself: no certificates, no calls, no signs of life.

use std::time::Duration;

use super::Inner;
use super::context::OpContext;
use super::follow::{self, Followed, change};
use super::policy::Operation;
use crate::access::{AccessChecker, Subject};
use crate::api::{ApiError, ApiResult};
use crate::cert::{HostIdentity, Identity, UserGrant};
use crate::clock::Timestamp;
use crate::id::{HostId, HostRole, NodeName, RoleName};
use crate::lock::{Knowledge, LockSet, LockSubject, Locked};
use crate::resource::{Lock, LockMode};
use crate::storage::{Item, Revision, WatchEnd};

/// Of one that cannot be read it is not known whom it targets.
impl Followed for Lock {
    type Set = LockSet;

    fn decode(item: &Item) -> Self {
        follow::read(item).unwrap_or_else(|error| {
            tracing::error!(key = %item.key, error, "a lock cannot be read; where locks are strict nothing is allowed");
            let mut lock = Self::unreadable(item.key.leaf());
            lock.metadata.expires = item.expires;
            lock
        })
    }

    fn expires(&self) -> Option<Timestamp> {
        self.metadata.expires
    }
}

/// What counts for a user: as the roles say, else as the cluster does.
async fn mode(call: &OpContext<'_>, subject: Subject<'_>) -> ApiResult<LockMode> {
    let roles = call.roles().await?;
    let of_roles = AccessChecker::new(subject, &roles).options().lock_mode;
    Ok(of_roles.unwrap_or(call.auth.config.lock_mode))
}

/// Decides about a user. This service reads the locks themselves: what it knows is never old.
async fn decide(
    call: &OpContext<'_>,
    locks: &LockSet,
    subject: &LockSubject<'_>,
    user: Subject<'_>,
) -> ApiResult<Result<(), Locked>> {
    let knowledge = Knowledge { now: call.now, age: Duration::ZERO, mode: mode(call, user).await? };
    Ok(locks.decide(subject, knowledge))
}

/// Whether a caller who shows a certificate is locked. A locked host may still hear that it is, and hand in what it saw. The
/// auth service is never locked: it is what locks are administered with.
pub(super) async fn check_caller(
    call: &OpContext<'_>,
    identity: &Identity,
    operation: Operation,
) -> ApiResult<Result<(), Locked>> {
    match identity {
        Identity::Host(host) if host.role == HostRole::Auth || operation.is_open_to_locked_hosts() => {
            Ok(Ok(()))
        }
        Identity::Host(host) => Ok(call.locks().await?.check(&host.into(), call.now)),
        Identity::User(user) => {
            let locks = call.locks().await?;
            if locks.is_empty() {
                return Ok(Ok(()));
            }
            decide(call, &locks, &user.into(), user.into()).await
        }
    }
}

/// Refuses certificates for whoever is locked, and takes logins away that are locked for the user wherever they are used.
pub(super) async fn check_grant(call: &OpContext<'_>, grant: &mut UserGrant) -> ApiResult<()> {
    let locks = call.locks().await?;
    if locks.is_empty() {
        return Ok(());
    }
    let roles: Vec<RoleName> = grant.roles.clone();
    let user = grant.user.clone();
    let subject = LockSubject {
        user: Some(&user),
        roles: &roles,
        mfa_device: grant.mfa_device,
        ..LockSubject::default()
    };
    let by_roles = Subject::new(user.as_str(), &roles, &grant.traits);
    decide(call, &locks, &subject, by_roles).await?.map_err(|locked| ApiError::locked(&locked))?;
    grant.logins.retain(|login| locks.check(&subject.login(login), call.now).is_ok());
    Ok(())
}

/// Whether a host that wants to join is locked.
pub(super) async fn check_host(
    call: &OpContext<'_>,
    id: HostId,
    name: &NodeName,
) -> ApiResult<Result<(), Locked>> {
    Ok(call.locks().await?.check(&LockSubject::default().node(id, name), call.now))
}

/// Resolves when the host is locked.
pub(super) async fn locked(auth: &Inner, host: &HostIdentity) -> ApiResult<Locked> {
    loop {
        // Watched first and asked then, so that nothing falls between.
        let mut watch = auth.locks.watch().await?;
        let mut told = Revision::ZERO;
        loop {
            // By what is at least as new as the commit that was told of.
            let now = auth.ports.clock.now();
            let locks = auth.lock_cache.current_since(now, told).await?;
            if let Err(locked) = locks.check(&LockSubject::default().node(host.host_id, &host.name), now) {
                return Ok(locked);
            }
            match watch.next().await {
                Ok(event) => told = change(&event),
                Err(WatchEnd::Lagged) => break,
                Err(end @ WatchEnd::Closed) => return Err(ApiError::unavailable(end)),
            }
        }
    }
}
