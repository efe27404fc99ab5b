//! Users.

use std::collections::BTreeMap;

use super::context::{OpContext, contended};
use super::devices::{Device, TotpRecord};
use super::password::PasswordRecord;
use super::policy::Permit;
use super::{invites, lockout, roles, withdrawn};
use crate::api::{
    ApiError, ApiErrorKind, ApiResult, CreateUser, Invite, MfaDevice, ResetUser, UpdateUser, UserInfo,
};
use crate::audit::{AuditEvent, EventKind};
use crate::cert::{MAX_PRINCIPALS, Traits};
use crate::id::{HostId, OsLogin, RoleName, UserName};
use crate::resource::{User, UserSpec};
use crate::storage::{
    Action, Backend, BackendExt, Batch, Condition, Item, Key, Prefix, Record, Repo, RepoError, Revision,
    Stored,
};

/// How often a change is tried again when others change the same user.
const ATTEMPTS: usize = 16;

/// The trait that `{{internal.logins}}` stands for.
pub(super) const LOGINS: &str = "logins";

/// The longest name of a trait that is typed, in bytes.
const MAX_TRAIT_NAME: usize = 64;
/// The longest name of a trait, in bytes: those of directories are addresses.
const MAX_LONG_NAME: usize = 256;
/// The most bytes of all traits of a user, as JSON: they are a part of each certificate.
const MAX_TRAITS: usize = 8 << 10;
/// The most roles of a user: the authority signs no more of them.
const MAX_ROLES: usize = 128;

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

/// Adds forgetting all that is left of a former user of this name, one whose document has expired for example: nothing of it may
/// come to life again. The batch must also create the user's record.
pub(super) async fn forget_former(call: &OpContext<'_>, batch: Batch, user: &UserName) -> ApiResult<Batch> {
    let batch = forget_credentials(batch, user)?;
    invites::delete_in(call, batch, user).await
}

/// Adds writing a user to a batch, and what follows from that: the roles that are given must exist, and what is taken is withdrawn
/// from certificates.
pub(super) async fn write_in(
    call: &OpContext<'_>,
    batch: Batch,
    name: &UserName,
    before: Option<&Stored<User>>,
    after: &User,
) -> ApiResult<Batch> {
    let condition = before.map_or(Condition::Absent, |before| Condition::Is(before.revision));
    let batch = call.auth.users.write_in(batch, after, condition)?;
    let before = before.map(|before| &before.record);
    let had = |role: &RoleName| before.is_some_and(|before| before.spec.roles.contains(role));
    let batch = roles::give_in(call, batch, after.spec.roles.iter().filter(|role| !had(role)))?;
    withdrawn::remember_in(call, batch, name, before, Some(after)).await
}

/// Writes a new user, and whatever `also` adds.
///
/// # Errors
/// [`ApiErrorKind::Conflict`] if there is one of this name.
pub(super) async fn write_new<T>(
    call: &OpContext<'_>,
    name: &UserName,
    mut user: User,
    also: impl Fn(Batch) -> ApiResult<(Batch, T)>,
) -> ApiResult<(User, Revision, T)> {
    for _ in 0..ATTEMPTS {
        user.spec.roles = roles::existing(call, user.spec.roles).await?;
        let batch = write_in(call, Batch::new(), name, None, &user).await?;
        let batch = forget_former(call, batch, name).await?;
        let (batch, more) = also(batch)?;
        match call.auth.ports.backend.commit(batch).await {
            Err(error) if error.is_conflict() => {
                if call.auth.users.get(name.as_str()).await?.is_some() {
                    let text = format!("user {name} exists");
                    return Err(ApiError::new(ApiErrorKind::Conflict, text).because(error));
                }
            }
            Ok(revision) => return Ok((user, revision, more)),
            Err(error) => return Err(error.into()),
        }
    }
    Err(contended())
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
    let logins = sorted_logins(request.logins)?;
    let traits = Traits::from([(LOGINS.to_owned(), logins.clone())]);
    let name = &request.name;
    let user = User::new(name.as_str(), UserSpec { roles: request.roles, traits });
    check_spec(&user.spec)?;
    let invite = |batch| invites::create_in(call, batch, name, ttl, false);
    let (user, _, invite) = write_new(call, name, user, invite).await?;
    let created = AuditEvent::new(EventKind::UserCreate)
        .field("name", request.name.as_str())
        .field("roles", texts(&user.spec.roles))
        .field("logins", logins);
    call.audit(vec![call.by_caller(created), invited(call, &invite)]).await?;
    Ok(invite)
}

fn texts(names: &[impl ToString]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

/// Each once, in order, and not more than a certificate can say.
fn sorted_logins(mut logins: Vec<OsLogin>) -> ApiResult<Vec<String>> {
    logins.sort_unstable();
    logins.dedup();
    if logins.len() > MAX_PRINCIPALS {
        return Err(ApiError::invalid(format!("a user has at most {MAX_PRINCIPALS} logins")));
    }
    Ok(texts(&logins))
}

fn invited(call: &OpContext<'_>, invite: &Invite) -> AuditEvent {
    let event = AuditEvent::new(EventKind::ResetTokenCreate)
        .field("name", invite.user.as_str())
        .field("expires", invite.expires.to_string());
    call.by_caller(event)
}

/// The old password and second factor end with the reset, not with the acceptance of the invite: whoever asks for a reset
/// may have lost them to somebody.
pub(super) async fn reset(
    call: &OpContext<'_>,
    _permit: Permit<'_>,
    name: &UserName,
    request: ResetUser,
) -> ApiResult<Invite> {
    let ttl = invites::reset_ttl(call, request.ttl)?;
    for _ in 0..ATTEMPTS {
        let user = call.auth.users.get(name.as_str()).await?.ok_or_else(|| not_found(name))?;
        let batch = invites::delete_in(call, Batch::new(), name).await?;
        // Written although it is unchanged: see `invites::create_in`.
        let batch = call.auth.users.write_in(batch, &user.record, Condition::Is(user.revision))?;
        let batch = forget_credentials(batch, name)?;
        let (batch, invite) = invites::create_in(call, batch, name, ttl, true)?;
        match call.auth.ports.backend.commit(batch).await {
            Err(error) if error.is_conflict() => continue,
            outcome => outcome?,
        };
        call.audit(vec![invited(call, &invite)]).await?;
        return Ok(invite);
    }
    Err(contended())
}

pub(super) async fn update(
    call: &OpContext<'_>,
    _permit: Permit<'_>,
    name: &UserName,
    request: UpdateUser,
) -> ApiResult<()> {
    let UpdateUser { roles, logins, traits } = request;
    if roles.is_none() && logins.is_none() && traits.is_empty() {
        return Err(ApiError::invalid("nothing is to be changed: say roles, logins or traits"));
    }
    check_traits(&traits)?;
    let mut changed = traits.clone();
    if let Some(logins) = logins {
        changed.insert(LOGINS.to_owned(), sorted_logins(logins)?);
    }
    for _ in 0..ATTEMPTS {
        let before = call.auth.users.get(name.as_str()).await?.ok_or_else(|| not_found(name))?;
        let mut user = before.record.clone();
        let spec = &mut user.spec;
        if let Some(roles) = &roles {
            spec.roles = roles::existing(call, roles.clone()).await?;
        }
        for (trait_name, values) in changed.iter() {
            if values.is_empty() && trait_name != LOGINS {
                spec.traits.remove(trait_name);
            } else {
                spec.traits.insert(trait_name.clone(), values.clone());
            }
        }
        check_spec(spec)?;
        let mut event = AuditEvent::new(EventKind::UserUpdate)
            .field("name", name.as_str())
            .field("roles", texts(&spec.roles))
            .field("logins", spec.traits.get(LOGINS).cloned().unwrap_or_default());
        if !traits.is_empty() {
            event = event.field("traits", traits.keys().cloned().collect::<Vec<_>>());
        }
        let batch = write_in(call, Batch::new(), name, Some(&before), &user).await?;
        match call.auth.ports.backend.commit(batch).await {
            Err(error) if error.is_conflict() => continue,
            outcome => outcome?,
        };
        return call.audit(vec![call.by_caller(event)]).await;
    }
    Err(contended())
}

/// What `update` is asked for, which people type.
fn check_traits(traits: &Traits) -> ApiResult<()> {
    for (name, values) in traits {
        if name == LOGINS {
            return Err(ApiError::invalid("logins are changed as logins, not as a trait"));
        }
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/:@".contains(&byte);
        if name.is_empty() || name.len() > MAX_TRAIT_NAME || !name.bytes().all(fits) {
            return Err(ApiError::invalid(format!(
                "a trait's name has 1 to {MAX_TRAIT_NAME} letters, digits, '.', '_', '-', '/', ':' or '@'"
            )));
        }
        if values.iter().any(|value| value.is_empty() || value.chars().any(char::is_control)) {
            return Err(ApiError::invalid(format!(
                "a value of the trait {name} is empty or has control characters"
            )));
        }
    }
    Ok(())
}

/// What a user's certificate could not hold is refused when it is written and not when the user logs in.
pub(super) fn check_spec(spec: &UserSpec) -> ApiResult<()> {
    if spec.roles.len() > MAX_ROLES {
        return Err(ApiError::invalid(format!("spec.roles: a user has at most {MAX_ROLES} roles")));
    }
    let has_control = |text: &String| text.chars().any(char::is_control);
    if spec.traits.iter().any(|(name, values)| {
        name.is_empty() || name.len() > MAX_LONG_NAME || has_control(name) || values.iter().any(has_control)
    }) {
        return Err(ApiError::invalid(format!(
            "spec.traits: a name is empty or longer than {MAX_LONG_NAME} bytes, or something has control characters"
        )));
    }
    let logins = spec.traits.get(LOGINS).map(Vec::as_slice).unwrap_or_default();
    for (index, login) in logins.iter().enumerate() {
        if let Err(error) = OsLogin::new(login) {
            return Err(ApiError::invalid(format!("spec.traits.{LOGINS}[{index}]: {error}")));
        }
    }
    if logins.len() > MAX_PRINCIPALS {
        return Err(ApiError::invalid(format!(
            "spec.traits.{LOGINS}: a user has at most {MAX_PRINCIPALS} logins"
        )));
    }
    let len = serde_json::to_vec(&spec.traits).map_err(ApiError::internal)?.len();
    if len > MAX_TRAITS {
        return Err(ApiError::invalid(format!(
            "spec.traits: {len} bytes are too long for a certificate, which has at most {MAX_TRAITS} of them"
        )));
    }
    Ok(())
}

pub(super) async fn unlock(call: &OpContext<'_>, _permit: Permit<'_>, name: &UserName) -> ApiResult<()> {
    let exists = Batch::new().with(call.auth.users.key(name.as_str())?, Condition::Exists, Action::Keep);
    match call.auth.ports.backend.commit(lockout::forget_in(exists, name)?).await {
        Err(error) if error.is_conflict() => return Err(not_found(name).because(error)),
        outcome => outcome?,
    };
    let event = AuditEvent::new(EventKind::UserUnlock).field("name", name.as_str());
    call.audit(vec![call.by_caller(event)]).await
}

pub(super) async fn list(call: &OpContext<'_>, _permit: Permit<'_>) -> ApiResult<Vec<UserInfo>> {
    let backend: &dyn Backend = &*call.auth.ports.backend;
    let locked = backend.list(&lockout::prefix()?).await?;
    let locked: BTreeMap<&str, &Item> = locked.iter().map(|item| (item.key.leaf(), item)).collect();
    let factors = Repo::<TotpRecord>::new(call.auth.ports.backend.clone()).list().await?;
    let devices = |of: &TotpRecord| of.devices.iter().map(Device::info).collect::<Vec<_>>();
    let mut factors: BTreeMap<&str, Vec<MfaDevice>> =
        factors.iter().map(|stored| (stored.record.user.as_str(), devices(&stored.record))).collect();
    let mut users = Vec::new();
    for stored in call.auth.users.list().await? {
        let Ok(name) = UserName::new(&stored.record.metadata.name) else { continue };
        let mut traits = stored.record.spec.traits;
        let logins = traits.remove(LOGINS).unwrap_or_default();
        let lockout = lockout::read(locked.get(name.as_str()).copied());
        let devices = factors.remove(name.as_str()).unwrap_or_default();
        users.push(UserInfo {
            locked_until: lockout.locked_until.filter(|until| call.now < *until),
            mfa_devices: devices.len(),
            devices,
            name,
            logins: logins.iter().filter_map(|login| OsLogin::new(login).ok()).collect(),
            roles: stored.record.spec.roles,
            traits,
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
        let batch = withdrawn::remember_in(call, batch, name, Some(&user.record), None).await?;
        match call.auth.ports.backend.commit(batch).await {
            Err(error) if error.is_conflict() => continue,
            outcome => outcome?,
        };
        let event = AuditEvent::new(EventKind::UserDelete).field("name", name.as_str());
        return call.audit(vec![call.by_caller(event)]).await;
    }
    Err(contended())
}
