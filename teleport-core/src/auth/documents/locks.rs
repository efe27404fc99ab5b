//! Locks: nothing is stored that would lock nothing, or that is over.

use super::{check_expiry, exists, invalid, not_replaced, replacing};
use crate::api::{ApiError, ApiResult};
use crate::audit::{AuditEvent, EventKind};
use crate::auth::context::OpContext;
use crate::auth::follow::Followed;
use crate::auth::policy::Permit;
use crate::id::LockName;
use crate::resource::Lock;
use crate::storage::{BackendExt, Item, Revision};

/// The most locks of a cluster: every node and proxy holds all of them.
const MAX_LOCKS: usize = 10_000;

fn shown(item: &Item) -> Lock {
    let mut lock = Lock::decode(item);
    lock.metadata.revision = Some(item.revision);
    lock
}

pub(in crate::auth) async fn locks(call: &OpContext<'_>, _permit: Permit<'_>) -> ApiResult<Vec<Lock>> {
    let items = call.auth.ports.backend.list(&call.auth.locks.prefix()?).await?;
    Ok(items.iter().map(shown).collect())
}

pub(in crate::auth) async fn lock(
    call: &OpContext<'_>,
    _permit: Permit<'_>,
    name: &LockName,
) -> ApiResult<Lock> {
    let item = call.auth.ports.backend.get(&call.auth.locks.key(name.as_str())?).await?;
    item.as_ref().map(shown).ok_or_else(|| not_found(name))
}

fn not_found(name: &LockName) -> ApiError {
    ApiError::not_found(format_args!("lock {name}"))
}

/// What can be said without looking at what is stored.
pub(in crate::auth) fn check_lock(lock: &Lock) -> ApiResult<LockName> {
    lock.check().map_err(|error| invalid(&error))
}

/// The lock as it is stored, and the revision that it replaces.
fn checked(call: &OpContext<'_>, mut lock: Lock) -> ApiResult<(LockName, Lock, Option<Revision>)> {
    let name = check_lock(&lock)?;
    check_expiry(call, &lock.metadata)?;
    let revision = lock.metadata.revision.take();
    Ok((name, lock, revision))
}

fn event(call: &OpContext<'_>, kind: EventKind, lock: &Lock) -> AuditEvent {
    let event = AuditEvent::new(kind)
        .field("name", lock.metadata.name.as_str())
        .field("target", lock.spec.target.to_string())
        .field("message", lock.spec.message.as_str())
        .field("expires", lock.metadata.expires.map(|at| at.to_string()));
    call.by_caller(event)
}

pub(in crate::auth) async fn create_lock(
    call: &OpContext<'_>,
    _permit: Permit<'_>,
    lock: Lock,
) -> ApiResult<Revision> {
    let (name, lock, _) = checked(call, lock)?;
    if call.locks().await?.len() >= MAX_LOCKS {
        let text =
            format!("there are {MAX_LOCKS} locks, and no server holds more: remove some (tctl get locks)");
        return Err(ApiError::invalid(text));
    }
    let revision = match call.auth.locks.create(&lock).await {
        Err(error) if error.is_conflict() => {
            return Err(exists(format_args!("lock {name}")).because(error));
        }
        outcome => outcome?,
    };
    call.audit(vec![event(call, EventKind::LockCreate, &lock)]).await?;
    Ok(revision)
}

pub(in crate::auth) async fn replace_lock(
    call: &OpContext<'_>,
    _permit: Permit<'_>,
    lock: Lock,
) -> ApiResult<Revision> {
    let (name, lock, revision) = checked(call, lock)?;
    let written = match call.auth.locks.write(&lock, replacing(revision)).await {
        Err(error) if error.is_conflict() => {
            let key = call.auth.locks.key(name.as_str())?;
            return Err(not_replaced(call, &key, &format!("lock {name}"), revision).await.because(error));
        }
        outcome => outcome?,
    };
    call.audit(vec![event(call, EventKind::LockCreate, &lock).field("replaced", true)]).await?;
    Ok(written)
}

pub(in crate::auth) async fn delete_lock(
    call: &OpContext<'_>,
    _permit: Permit<'_>,
    name: &LockName,
) -> ApiResult<()> {
    let item = call.auth.ports.backend.get(&call.auth.locks.key(name.as_str())?).await?;
    // Whoever was faster has written it down.
    let (Some(item), true) = (item, call.auth.locks.delete(name.as_str()).await?) else {
        return Err(not_found(name));
    };
    call.audit(vec![event(call, EventKind::LockDelete, &Lock::decode(&item))]).await
}
