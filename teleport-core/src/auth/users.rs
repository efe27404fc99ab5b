//! Users.

use super::context::{OpContext, contended};
use super::password::PasswordRecord;
use super::policy::Permit;
use super::totp::TotpRecord;
use super::{invites, lockout, roles};
use crate::api::{ApiError, ApiErrorKind, ApiResult, CreateUser, Invite, UserInfo};
use crate::audit::{AuditEvent, EventKind};
use crate::cert::{MAX_PRINCIPALS, Traits};
use crate::id::{HostId, OsLogin, UserName};
use crate::resource::{User, UserSpec};
use crate::storage::{Action, Backend, BackendExt, Batch, Condition, Key, Prefix, Record, RepoError};

/// How often a change is tried again when others change the same user.
const ATTEMPTS: usize = 16;

/// The trait that `{{internal.logins}}` stands for.
pub(super) const LOGINS: &str = "logins";

pub(super) fn not_found(user: &UserName) -> ApiError {
    ApiError::not_found(format_args!("user {user}"))
}

fn key_in<R: Record>(user: &UserName) -> ApiResult<Key> {
    let key = Prefix::new(R::COLLECTION).and_then(|prefix| prefix.key(user.as_str()));
    Ok(key.map_err(RepoError::from)?)
}

/// Adds forgetting password, second factor and attempts to a batch.
pub(super) fn forget_credentials(batch: Batch, user: &UserName) -> ApiResult<Batch> {
    let batch = batch.with(key_in::<PasswordRecord>(user)?, Condition::Any, Action::Delete).with(
        key_in::<TotpRecord>(user)?,
        Condition::Any,
        Action::Delete,
    );
    lockout::forget_in(batch, user)
}

/// Whether a user of this name would look in the audit log like a [`Caller`](super::Caller) that is no user.
pub(super) fn is_reserved(name: &UserName) -> bool {
    let first = name.as_str().split('.').next().unwrap_or_default();
    matches!(name.as_str(), "anonymous" | "local-admin") || first.parse::<HostId>().is_ok()
}

pub(super) async fn create(
    call: &OpContext<'_>,
    _permit: Permit<'_>,
    request: CreateUser,
) -> ApiResult<Invite> {
    if is_reserved(&request.name) {
        return Err(ApiError::invalid(
            "the audit log knows hosts and administrators by this name; choose another",
        ));
    }
    let ttl = invites::ttl(call, request.ttl)?;
    let roles = roles::existing(call, request.roles).await?;
    let mut logins = request.logins;
    logins.sort_unstable();
    logins.dedup();
    if logins.len() > MAX_PRINCIPALS {
        return Err(ApiError::invalid(format!("a user has at most {MAX_PRINCIPALS} logins")));
    }
    let names = |logins: &[OsLogin]| logins.iter().map(ToString::to_string).collect::<Vec<_>>();
    let traits = Traits::from([(LOGINS.to_owned(), names(&logins))]);
    let user = User::new(request.name.as_str(), UserSpec { roles, traits });
    let batch = call.auth.users.write_in(Batch::new(), &user, Condition::Absent)?;
    // Nothing of a former user of this name may come to life again.
    let batch = forget_credentials(batch, &request.name)?;
    let (batch, invite) = invites::create_in(call, batch, &request.name, ttl)?;
    match call.auth.ports.backend.commit(batch).await {
        Err(error) if error.is_conflict() => {
            let text = format!("user {} exists", request.name);
            return Err(ApiError::new(ApiErrorKind::Conflict, text).because(error));
        }
        outcome => outcome?,
    };
    let roles: Vec<String> = user.spec.roles.iter().map(ToString::to_string).collect();
    let created = AuditEvent::new(EventKind::UserCreate)
        .field("name", request.name.as_str())
        .field("roles", roles)
        .field("logins", names(&logins));
    call.audit(vec![call.by_caller(created), invited(call, &invite)]).await?;
    Ok(invite)
}

fn invited(call: &OpContext<'_>, invite: &Invite) -> AuditEvent {
    let event = AuditEvent::new(EventKind::ResetTokenCreate)
        .field("name", invite.user.as_str())
        .field("expires", invite.expires.to_string());
    call.by_caller(event)
}

/// The old password and second factor end with the reset, not with the acceptance of the invite: whoever asks for a reset
/// may have lost them to somebody.
pub(super) async fn reset(call: &OpContext<'_>, _permit: Permit<'_>, name: &UserName) -> ApiResult<Invite> {
    let ttl = invites::ttl(call, None)?;
    for _ in 0..ATTEMPTS {
        let user = call.auth.users.get(name.as_str()).await?.ok_or_else(|| not_found(name))?;
        let batch = invites::delete_in(call, Batch::new(), name).await?;
        // Written although it is unchanged: see `invites::create_in`.
        let batch = call.auth.users.write_in(batch, &user.record, Condition::Is(user.revision))?;
        let batch = forget_credentials(batch, name)?;
        let (batch, invite) = invites::create_in(call, batch, name, ttl)?;
        match call.auth.ports.backend.commit(batch).await {
            Err(error) if error.is_conflict() => continue,
            outcome => outcome?,
        };
        call.audit(vec![invited(call, &invite)]).await?;
        return Ok(invite);
    }
    Err(contended())
}

pub(super) async fn list(call: &OpContext<'_>, _permit: Permit<'_>) -> ApiResult<Vec<UserInfo>> {
    let backend: &dyn Backend = &*call.auth.ports.backend;
    let locked = backend.list(&lockout::prefix()?).await?;
    let locked_until = |name: &UserName| {
        let item = locked.iter().find(|item| item.key.leaf() == name.as_str());
        lockout::read(item).locked_until.filter(|until| call.now < *until)
    };
    let mut users = Vec::new();
    for stored in call.auth.users.list().await? {
        let Ok(name) = UserName::new(&stored.record.metadata.name) else { continue };
        let logins = stored.record.spec.traits.get(LOGINS).map(Vec::as_slice).unwrap_or_default();
        users.push(UserInfo {
            locked_until: locked_until(&name),
            name,
            logins: logins.iter().filter_map(|login| OsLogin::new(login).ok()).collect(),
            roles: stored.record.spec.roles,
        });
    }
    Ok(users)
}

pub(super) async fn delete(call: &OpContext<'_>, _permit: Permit<'_>, name: &UserName) -> ApiResult<()> {
    for _ in 0..ATTEMPTS {
        let user = call.auth.users.get(name.as_str()).await?.ok_or_else(|| not_found(name))?;
        let batch = Batch::new().with(
            call.auth.users.key(name.as_str())?,
            Condition::Is(user.revision),
            Action::Delete,
        );
        let batch = forget_credentials(batch, name)?;
        let batch = invites::delete_in(call, batch, name).await?;
        match call.auth.ports.backend.commit(batch).await {
            Err(error) if error.is_conflict() => continue,
            outcome => outcome?,
        };
        let event = AuditEvent::new(EventKind::UserDelete).field("name", name.as_str());
        return call.audit(vec![call.by_caller(event)]).await;
    }
    Err(contended())
}
