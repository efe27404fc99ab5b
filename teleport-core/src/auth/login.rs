//! Users log in by password and one-time code.

use std::net::IpAddr;
use std::time::Duration;

use super::context::OpContext;
use super::locks;
use super::policy::Permit;
use super::proof::{Claim, Refused, UsedDevice, check_form, prove};
use crate::access::AccessChecker;
use crate::api::{ApiError, ApiErrorKind, ApiResult, LoginRequest, LoginResponse};
use crate::audit::{AuditEvent, EventKind};
use crate::cert::{IssuedCertificates, MAX_USER_TTL, MIN_USER_TTL, UserGrant};
use crate::clock::Timestamp;
use crate::id::{OsLogin, RoleName, UserName};
use crate::password::MIN_PASSWORD_LEN;
use crate::resource::User;

/// Names that are longer are nobody's; the rest of them is not even looked at.
const MAX_TYPED: usize = 256;

/// Who has logged in.
struct LoggedIn {
    name: UserName,
    user: User,
    /// The device whose code it was.
    device: Option<UsedDevice>,
}

/// The one spelling of a name: whatever else somebody types is the same user, or nobody.
fn canonical(typed: &str) -> Option<UserName> {
    if typed.len() > MAX_TYPED {
        return None;
    }
    UserName::new(&typed.trim().to_ascii_lowercase()).ok()
}

// Not even the name is a field: sooner or later everybody types the password there.
#[tracing::instrument(skip_all)]
pub(super) async fn login(
    call: &OpContext<'_>,
    _permit: Permit<'_>,
    request: LoginRequest,
) -> ApiResult<LoginResponse> {
    check_form(call, &request.password, &request.code)?;
    let name = canonical(&request.user);
    let client = call.client(request.client_ip);
    let outcome = check(call, name.as_ref(), &request).await?;
    let known = !matches!(outcome, Err(Refused::UnknownUser));
    let shown = shown(name.as_ref(), known);
    let event = |kind| AuditEvent::new(kind).user(shown).remote(client).field("method", "local");
    match outcome {
        Err(refused) => {
            tracing::info!(user = %shown, client = ?client, reason = %refused, "a login failed");
            call.audit(vec![event(EventKind::UserLoginFailure).error(refused)]).await?;
            Err(ApiError::denied().because(refused))
        }
        Ok(LoggedIn { name, user, device }) => {
            let asked = request.ttl.map(Duration::from_secs);
            let login_ip = call.caller.client_ip(request.client_ip);
            let issued = async {
                let mut grant = grant(call, name, &user, asked, login_ip).await?;
                grant.mfa_device = device.as_ref().map(|device| device.id);
                issue(call, grant, &request.keys, event(EventKind::CertCreate)).await
            };
            match issued.await {
                Ok((response, issued)) => {
                    let mut login = event(EventKind::UserLogin);
                    if let Some(UsedDevice { id, name }) = device {
                        login = login.field("mfa_device_name", name).field("mfa_device_uuid", id.to_string());
                    }
                    call.audit(vec![login, issued]).await?;
                    Ok(response)
                }
                Err(error) => {
                    call.audit(vec![event(EventKind::UserLoginFailure).error(chain(&error))]).await?;
                    Err(error)
                }
            }
        }
    }
}

/// How the log and the audit events name who wanted to log in. Sooner or later everybody types the password into the field of the
/// name: a text that belongs to nobody is written down only where it cannot be a password. Such a text is no name, or it is as
/// long as passwords are.
fn shown(name: Option<&UserName>, known: bool) -> &str {
    match name {
        None => "(invalid)",
        Some(name) if known || name.as_str().len() < MIN_PASSWORD_LEN => name.as_str(),
        Some(_) => "(unknown)",
    }
}

async fn check(
    call: &OpContext<'_>,
    name: Option<&UserName>,
    request: &LoginRequest,
) -> ApiResult<Result<LoggedIn, Refused>> {
    let client = call.caller.client_ip(request.client_ip);
    let (password, code) = (&request.password, &request.code);
    let claim = Claim { name, typed: &request.user, password, code, client };
    let mut proof = match prove(call, claim).await? {
        Ok(proof) => proof,
        Err(refused) => return Ok(Err(refused)),
    };
    proof.renew_hash(call, request.password.clone()).await;
    let device = proof.device.clone();
    Ok(proof.commit(call).await?.map(|(name, user)| LoggedIn { name, user, device }))
}

/// An error with its reasons, for the audit log.
pub(super) fn chain(error: &ApiError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(reason) = source {
        text.push_str(": ");
        text.push_str(&reason.to_string());
        source = reason.source();
    }
    text
}

/// The user's document expires too soon for any certificate.
#[derive(Debug, thiserror::Error)]
#[error("the user ends within a minute")]
struct Ends;

/// A role binds certificates to where the login comes from, and nobody says where that is. Said to whoever asked: the login itself
/// was right.
fn unpinned() -> ApiError {
    let text = "the user's roles bind certificates to the address of the login, which is not known here";
    ApiError::new(ApiErrorKind::Denied, text)
}

/// How long there will be such a user; `None` is for ever. No certificate outlasts its user.
pub(super) fn left(user: &User, now: Timestamp) -> Option<Duration> {
    user.metadata.expires.map(|at| at.saturating_since(now))
}

/// What the user's roles give now.
pub(super) async fn grant(
    call: &OpContext<'_>,
    name: UserName,
    user: &User,
    asked: Option<Duration>,
    login_ip: Option<IpAddr>,
) -> ApiResult<UserGrant> {
    let roles = call.roles().await?;
    let access = AccessChecker::new(user, &roles);
    access.readable().map_err(|denied| ApiError::denied().because(denied))?;
    let by_roles = access.max_session_ttl().unwrap_or(MAX_USER_TTL);
    let ttl = asked.unwrap_or(call.auth.config.user_ttl).min(by_roles).clamp(MIN_USER_TTL, MAX_USER_TTL);
    let ttl = match left(user, call.now) {
        Some(left) if left < MIN_USER_TTL => return Err(ApiError::denied().because(Ends)),
        left => left.map_or(ttl, |left| ttl.min(left)),
    };
    let mut grant = UserGrant::new(name, ttl);
    grant.logins = access.logins();
    grant.permits = access.permits();
    grant.roles = user.spec.roles.clone();
    grant.traits = user.spec.traits.clone();
    grant.login_ip = login_ip;
    if access.pin_source_ip() {
        grant.source_addresses = vec![login_ip.ok_or_else(unpinned)?.to_string()];
    }
    grant.extensions = access.cert_extensions();
    Ok(grant)
}

/// Has the certificates made, unless the user is locked; logins that are locked for the user are left out. The event is to be
/// written by the caller, before the answer is given.
pub(super) async fn issue(
    call: &OpContext<'_>,
    mut grant: UserGrant,
    keys: &crate::cert::SubjectKeys,
    event: AuditEvent,
) -> ApiResult<(LoginResponse, AuditEvent)> {
    locks::check_grant(call, &mut grant).await?;
    let (user, roles, logins) = (grant.user.clone(), grant.roles.clone(), grant.logins.clone());
    let certificates = call.auth.ports.issuer.issue_user(grant, keys).await?;
    let trust = call.trust().await?;
    let event = describe(event, &certificates, &roles, &logins);
    Ok((LoginResponse { user, roles, logins, certificates, trust }, event))
}

fn describe(
    event: AuditEvent,
    certificates: &IssuedCertificates,
    roles: &[RoleName],
    logins: &[OsLogin],
) -> AuditEvent {
    let texts = |names: &mut dyn Iterator<Item = &str>| names.map(str::to_owned).collect::<Vec<_>>();
    event
        .field("cert_type", "user")
        .field("serial", certificates.serial)
        .field("valid_before", certificates.valid_before.to_string())
        .field("roles", texts(&mut roles.iter().map(RoleName::as_str)))
        .field("logins", texts(&mut logins.iter().map(OsLogin::as_str)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn what_may_be_a_password_is_not_written_down() {
        let long = UserName::new("correcthorsebattery").unwrap();
        assert_eq!(shown(Some(&long), false), "(unknown)");
        assert_eq!(shown(Some(&long), true), long.as_str());
        assert_eq!(shown(None, false), "(invalid)");
        // Long enough for nobody's password, and what is looked for after an attack.
        assert_eq!(shown(Some(&UserName::new("admin").unwrap()), false), "admin");
        let (longest, shortest) = ("a".repeat(MIN_PASSWORD_LEN - 1), "a".repeat(MIN_PASSWORD_LEN));
        assert_eq!(shown(Some(&UserName::new(&longest).unwrap()), false), longest);
        assert_eq!(shown(Some(&UserName::new(&shortest).unwrap()), false), "(unknown)");
    }

    #[test]
    fn e3_every_spelling_is_one_user_or_nobody() {
        for same in ["alice", "Alice", "ALICE", " alice", "alice\n", "\talice "] {
            assert_eq!(canonical(same).as_ref().map(UserName::as_str), Some("alice"), "{same:?}");
        }
        let long = "a".repeat(MAX_TYPED + 1);
        for nobody in ["", "al ice", "alice\0", "alicе", "..%2f", "al\u{200b}ice", "ａlice", long.as_str()]
        {
            assert_eq!(canonical(nobody), None, "{nobody:?}");
        }
    }
}
