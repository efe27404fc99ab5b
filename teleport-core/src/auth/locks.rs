//! What locks mean for the auth service itself: no certificates, no calls, no signs of life.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, BoxStream, StreamExt};

use super::context::OpContext;
use super::follow::{self, Followed, change};
use super::policy::Operation;
use super::{Caller, Inner};
use crate::access::{AccessChecker, Subject};
use crate::api::{ApiError, ApiResult};
use crate::cert::{Identity, UserGrant};
use crate::clock::Timestamp;
use crate::id::{HostId, HostRole, NodeName, RoleName};
use crate::lock::{Knowledge, LockSet, LockSubject, Locked};
use crate::resource::{Lock, LockMode};
use crate::storage::{Item, Revision, Watch, WatchEnd};

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

/// Tells when a host is locked.
struct Lookout {
    auth: Arc<Inner>,
    host: HostId,
    name: NodeName,
    watch: Option<Watch>,
}

impl Lookout {
    /// Waits until the host is locked. Cancel safe.
    async fn locked(&mut self) -> ApiResult<Locked> {
        loop {
            let Some(watch) = &mut self.watch else {
                // Watched first and asked then, so that nothing falls between.
                self.watch = Some(self.auth.locks.watch().await?);
                if let Err(locked) = self.check(Revision::ZERO).await? {
                    return Ok(locked);
                }
                continue;
            };
            let told = match watch.next().await {
                Ok(event) => change(&event),
                Err(WatchEnd::Lagged) => {
                    self.watch = None;
                    continue;
                }
                Err(end @ WatchEnd::Closed) => return Err(ApiError::unavailable(end)),
            };
            if let Err(locked) = self.check(told).await? {
                return Ok(locked);
            }
        }
    }

    /// By what is at least as new as the commit that was told of.
    async fn check(&self, told: Revision) -> ApiResult<Result<(), Locked>> {
        let now = self.auth.ports.clock.now();
        let locks = self.auth.lock_cache.current_since(now, told).await?;
        Ok(locks.check(&LockSubject::default().node(self.host, &self.name), now))
    }
}

/// The stream as it is for the caller: that of a host ends when the host is locked, with the error that says so.
pub(super) fn while_unlocked<T: Send + 'static>(
    auth: &Arc<Inner>,
    caller: &Caller,
    items: BoxStream<'static, ApiResult<T>>,
) -> BoxStream<'static, ApiResult<T>> {
    let Some(host) = caller.host().filter(|host| host.role != HostRole::Auth) else { return items };
    let mut lookout =
        Lookout { auth: Arc::clone(auth), host: host.host_id, name: host.name.clone(), watch: None };
    // One future for all items, as with removed hosts.
    let locked = Box::pin(async move { lookout.locked().await });
    stream::unfold(Some((locked, items)), |state| async move {
        let (mut locked, mut items) = state?;
        let item = tokio::select! {
            biased;
            outcome = &mut locked => Some(Err(outcome.map_or_else(|error| error, |locked| ApiError::locked(&locked)))),
            item = items.next() => item,
        }?;
        let goes_on = item.is_ok();
        Some((item, goes_on.then_some((locked, items))))
    })
    .boxed()
}
