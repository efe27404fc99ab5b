//! Users, without their secrets.

use super::{ATTEMPTS, changed, check_expiry};
use crate::api::{ApiError, ApiResult};
use crate::audit::{AuditEvent, EventKind};
use crate::auth::context::{OpContext, contended};
use crate::auth::policy::Permit;
use crate::auth::roles;
use crate::auth::users::{LOGINS, check_spec, is_reserved, not_found, write_in, write_new};
use crate::id::UserName;
use crate::resource::{Spec, User, UserSpec};
use crate::storage::{Batch, Revision, Stored};

fn shown(stored: Stored<User>) -> User {
    let mut user = stored.record;
    user.metadata.revision = Some(stored.revision);
    user
}

pub(in crate::auth) async fn users(call: &OpContext<'_>, _permit: Permit<'_>) -> ApiResult<Vec<User>> {
    Ok(call.auth.users.list().await?.into_iter().map(shown).collect())
}

pub(in crate::auth) async fn user(
    call: &OpContext<'_>,
    _permit: Permit<'_>,
    name: &UserName,
) -> ApiResult<User> {
    let stored = call.auth.users.get(name.as_str()).await?;
    stored.map(shown).ok_or_else(|| not_found(name))
}

/// What can be said without looking at what is stored.
pub(in crate::auth) fn check_user(user: &User) -> ApiResult<UserName> {
    if user.kind != UserSpec::KIND || user.version != UserSpec::VERSION {
        return Err(ApiError::invalid(format!(
            "a user has the kind \"user\" and the version \"v1\", not {:?} and {:?}",
            user.kind, user.version
        )));
    }
    let name = UserName::new(&user.metadata.name)
        .map_err(|error| ApiError::invalid(format!("metadata.name: {error}")))?;
    if is_reserved(&name) {
        return Err(ApiError::invalid(
            "metadata.name: the audit log knows hosts and administrators by this name; choose another",
        ));
    }
    check_spec(&user.spec)?;
    Ok(name)
}

/// The user as it is stored, and the revision that it replaces.
fn checked(call: &OpContext<'_>, mut user: User) -> ApiResult<(UserName, User, Option<Revision>)> {
    let name = check_user(&user)?;
    check_expiry(call, &user.metadata)?;
    let revision = user.metadata.revision.take();
    Ok((name, user, revision))
}

fn event(kind: EventKind, user: &User) -> AuditEvent {
    let roles: Vec<String> = user.spec.roles.iter().map(ToString::to_string).collect();
    let logins = user.spec.traits.get(LOGINS).cloned().unwrap_or_default();
    AuditEvent::new(kind)
        .field("name", user.metadata.name.as_str())
        .field("roles", roles)
        .field("logins", logins)
}

pub(in crate::auth) async fn add_user(
    call: &OpContext<'_>,
    _permit: Permit<'_>,
    user: User,
) -> ApiResult<Revision> {
    let (name, user, _) = checked(call, user)?;
    let (user, revision, ()) = write_new(call, &name, user, |batch| Ok((batch, ()))).await?;
    call.audit(vec![call.by_caller(event(EventKind::UserCreate, &user))]).await?;
    Ok(revision)
}

pub(in crate::auth) async fn replace_user(
    call: &OpContext<'_>,
    _permit: Permit<'_>,
    user: User,
) -> ApiResult<Revision> {
    let (name, mut user, revision) = checked(call, user)?;
    for _ in 0..ATTEMPTS {
        let before = call.auth.users.get(name.as_str()).await?.ok_or_else(|| not_found(&name))?;
        if revision.is_some_and(|revision| revision != before.revision) {
            return Err(changed(format_args!("user {name}"), revision, before.revision));
        }
        user.spec.roles = roles::existing(call, user.spec.roles).await?;
        let batch = write_in(call, Batch::new(), &name, Some(&before), &user).await?;
        let written = match call.auth.ports.backend.commit(batch).await {
            Err(error) if error.is_conflict() => continue,
            outcome => outcome?,
        };
        call.audit(vec![call.by_caller(event(EventKind::UserUpdate, &user))]).await?;
        return Ok(written);
    }
    Err(contended())
}
