//! Roles: nothing is stored that could not be decided by.

use super::{ATTEMPTS, check_expiry, exists, invalid, not_replaced, replacing};
use crate::access::{CompiledRole, check_room};
use crate::api::{ApiError, ApiErrorKind, ApiResult};
use crate::audit::{AuditEvent, EventKind};
use crate::auth::context::{OpContext, contended};
use crate::auth::policy::Permit;
use crate::auth::roles::none_given_since;
use crate::id::RoleName;
use crate::resource::{Role, builtin_roles};
use crate::storage::{Action, Batch, Condition, Revision};

/// How many of those who hold a role are named when it cannot be deleted.
const NAMED: usize = 3;

/// The role as it is stored, and the revision that it replaces.
fn checked(call: &OpContext<'_>, mut role: Role) -> ApiResult<(Role, Option<Revision>)> {
    if !role.is_readable() {
        return Err(ApiError::invalid(format!(
            "a role has the kind \"role\" and the version \"v1\", not {:?} and {:?}",
            role.kind, role.version
        )));
    }
    check_expiry(call, &role.metadata)?;
    let revision = role.metadata.revision.take();
    let compiled = CompiledRole::new(role).map_err(|error| invalid(&error))?;
    Ok((compiled.role().clone(), revision))
}

/// Refuses what is, with all the other roles, too much for those who hold them.
async fn fits(call: &OpContext<'_>, role: &Role) -> ApiResult<()> {
    let roles = call.roles().await?;
    let others = roles.iter().filter(|other| other.metadata.name != role.metadata.name);
    check_room(others.chain([role])).map_err(|error| ApiError::invalid(error.to_string()))
}

fn event(kind: EventKind, name: &str) -> AuditEvent {
    AuditEvent::new(kind).field("name", name)
}

pub(in crate::auth) async fn create_role(
    call: &OpContext<'_>,
    _permit: Permit<'_>,
    role: Role,
) -> ApiResult<Revision> {
    let (role, _) = checked(call, role)?;
    fits(call, &role).await?;
    let name = role.metadata.name.as_str();
    let revision = match call.auth.roles.create(&role).await {
        Err(error) if error.is_conflict() => {
            return Err(exists(format_args!("role {name}")).because(error));
        }
        outcome => outcome?,
    };
    call.audit(vec![call.by_caller(event(EventKind::RoleCreate, name))]).await?;
    Ok(revision)
}

pub(in crate::auth) async fn replace_role(
    call: &OpContext<'_>,
    _permit: Permit<'_>,
    role: Role,
) -> ApiResult<Revision> {
    let (role, revision) = checked(call, role)?;
    fits(call, &role).await?;
    let name = role.metadata.name.as_str();
    let written = match call.auth.roles.write(&role, replacing(revision)).await {
        Err(error) if error.is_conflict() => {
            let key = call.auth.roles.key(name)?;
            return Err(not_replaced(call, &key, &format!("role {name}"), revision).await.because(error));
        }
        outcome => outcome?,
    };
    call.audit(vec![call.by_caller(event(EventKind::RoleUpdate, name))]).await?;
    Ok(written)
}

pub(in crate::auth) async fn delete_role(
    call: &OpContext<'_>,
    _permit: Permit<'_>,
    name: &RoleName,
) -> ApiResult<()> {
    if builtin_roles().iter().any(|role| role.metadata.name == name.as_str()) {
        return Err(ApiError::invalid(format!(
            "role {name} is built in: it can be changed, and users need not hold it, but it cannot be deleted"
        )));
    }
    let key = call.auth.roles.key(name.as_str())?;
    for _ in 0..ATTEMPTS {
        let item = call.auth.ports.backend.get(&key).await?;
        let item = item.ok_or_else(|| ApiError::not_found(format_args!("role {name}")))?;
        // Before it is looked who holds the role.
        let (given, none_given) = none_given_since(call).await?;
        let users = call.auth.users.list().await?;
        let holders: Vec<&str> = users
            .iter()
            .filter(|user| user.record.spec.roles.contains(name))
            .map(|user| user.record.metadata.name.as_str())
            .collect();
        if !holders.is_empty() {
            return Err(ApiError::new(ApiErrorKind::Conflict, in_use(name, &holders)));
        }
        let batch = Batch::new().with(key.clone(), Condition::Is(item.revision), Action::Delete);
        let batch = batch.with(given, none_given, Action::Keep);
        match call.auth.ports.backend.commit(batch).await {
            Err(error) if error.is_conflict() => continue,
            outcome => outcome?,
        };
        return call.audit(vec![call.by_caller(event(EventKind::RoleDelete, name.as_str()))]).await;
    }
    Err(contended())
}

fn in_use(name: &RoleName, holders: &[&str]) -> String {
    let named = holders.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
    let more = match holders.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("role {name} is held by {named}{more}; take it from them first")
}
