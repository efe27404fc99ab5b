//! Join tokens, and the invites beside them in one list.

use std::time::Duration;

use super::context::OpContext;
use super::invites::{self, InviteRecord};
use super::policy::Permit;
use crate::api::{ApiError, ApiErrorKind, ApiResult, CreateToken, CreatedToken, TokenInfo};
use crate::audit::{AuditEvent, EventKind};
use crate::id::HostRole;
use crate::resource::Verb;
use crate::secret::SecretString;
use crate::token::{ForInvite, ForJoin, TokenHash, TokenRecord, check_secret, random_id, random_secret};

/// The least digits of an id that name a token.
const MIN_ID_LEN: usize = 8;
const MAX_ID_LEN: usize = 16;

pub(super) async fn create(
    call: &OpContext<'_>,
    permit: Permit<'_>,
    request: CreateToken,
) -> ApiResult<CreatedToken> {
    let config = &call.auth.config;
    let mut roles = request.roles;
    roles.sort_unstable();
    roles.dedup();
    if roles.is_empty() {
        return Err(ApiError::invalid("a token needs at least one role"));
    }
    // The auth host may do everything: who may make tokens must not become it by one.
    if roles.contains(&HostRole::Auth) && permit.user().is_some() {
        return Err(call
            .deny(permit.operation(), "a user asks for a token of the auth service".to_owned())
            .await);
    }
    if request.uses == Some(0) {
        return Err(ApiError::invalid("a token without uses is of no use"));
    }
    let ttl = request.ttl.map_or(config.token_ttl, Duration::from_secs);
    if ttl.is_zero() || ttl > config.max_token_ttl {
        let hours = config.max_token_ttl.as_secs() / 3600;
        return Err(ApiError::invalid(format!("a token is good for 1 second to {hours} hours")));
    }
    let secret = match request.value {
        Some(secret) => {
            check_secret(&secret).map_err(|error| ApiError::invalid(error.to_string()))?;
            secret
        }
        None => random_secret(&*call.auth.ports.entropy)?,
    };
    let record = TokenRecord {
        id: random_id(&*call.auth.ports.entropy)?,
        hash: TokenHash::of(&secret),
        roles,
        expires: Some(call.now.saturating_add(ttl)),
        uses_left: request.uses,
        labels: request.labels,
        is_static: false,
    };
    let info = record.info();
    let ca_pins = call.trust().await?.ca_pins();
    let in_use = || ApiError::new(ApiErrorKind::Conflict, "a token with this value exists");
    if config.static_tokens.iter().any(|token| token.record().hash == record.hash) {
        return Err(in_use());
    }
    match call.auth.tokens.create(&record).await {
        Err(error) if error.is_conflict() => return Err(in_use().because(error)),
        outcome => outcome?,
    };
    let event = AuditEvent::new(EventKind::JoinTokenCreate)
        .field("token_id", info.id.as_str())
        .field("roles", role_names(&record))
        .field("expires", info.expires.map(|at| at.to_string()))
        .field("uses", info.uses_left)
        .field("labels", info.labels.to_string());
    call.audit(vec![call.by_caller(event)]).await?;
    Ok(CreatedToken { token: secret, info, ca_pins })
}

pub(super) fn role_names(record: &TokenRecord) -> Vec<&'static str> {
    record.roles.iter().map(|role| role.as_str()).collect()
}

pub(super) async fn list(call: &OpContext<'_>, permit: Permit<'_>) -> ApiResult<Vec<TokenInfo>> {
    let stored = call.auth.tokens.list().await?;
    let fixed = call.auth.config.static_tokens.iter().map(|token| token.record().info());
    let made =
        stored.iter().filter(|token| token.record.is_usable(call.now)).map(|token| token.record.info());
    let mut tokens: Vec<_> = fixed.chain(made).collect();
    // They tell who the users are.
    if may_also(call, permit, Verb::List).await? {
        let invites = invites::repo(call.auth).list().await?;
        let open = invites.iter().filter(|invite| call.now < invite.record.expires);
        tokens.extend(open.map(|invite| invite.record.info()));
    }
    Ok(tokens)
}

/// Whether the caller may do this to users, too. Who is no user has no roles, and the table said yes.
async fn may_also(call: &OpContext<'_>, permit: Permit<'_>, verb: Verb) -> ApiResult<bool> {
    match permit.user() {
        Some(_) => Ok(call.check_rule("user", verb).await?.is_ok()),
        None => Ok(true),
    }
}

pub(super) async fn delete(call: &OpContext<'_>, permit: Permit<'_>, token: &SecretString) -> ApiResult<()> {
    let unknown = || ApiError::not_found("token");
    let hash = TokenHash::<ForJoin>::of(token);
    let configured = |record: &TokenRecord| record.hash == hash || record.id == token.expose();
    if call.auth.config.static_tokens.iter().any(|token| configured(token.record())) {
        return Err(ApiError::invalid("the token comes from the configuration; remove it there"));
    }
    let found = match call.auth.tokens.get(&hash.to_hex()).await? {
        Some(stored) => Some(Found::Join(stored.record)),
        None => find(call, permit, token).await?,
    };
    let record = match found.ok_or_else(unknown)? {
        Found::Join(record) => record,
        Found::Invite(invite) => return delete_invite(call, &invite).await,
    };
    if !call.auth.tokens.delete(&record.hash.to_hex()).await? {
        return Err(unknown());
    }
    let event = AuditEvent::new(EventKind::JoinTokenDelete)
        .field("token_id", record.id.as_str())
        .field("roles", role_names(&record));
    call.audit(vec![call.by_caller(event)]).await
}

/// What a text means that names a token.
enum Found {
    Invite(InviteRecord),
    Join(TokenRecord),
}

/// The invite of this secret, or the token or invite whose id begins with these digits, if it is one only.
async fn find(call: &OpContext<'_>, permit: Permit<'_>, token: &SecretString) -> ApiResult<Option<Found>> {
    // Whoever may not change users hears that there is no such token.
    let with_invites = may_also(call, permit, Verb::Update).await?;
    if with_invites {
        let hash = TokenHash::<ForInvite>::of(token);
        if let Some(stored) = invites::repo(call.auth).get(&hash.to_hex()).await? {
            return Ok(Some(Found::Invite(stored.record)));
        }
    }
    let id = token.expose();
    if !(MIN_ID_LEN..=MAX_ID_LEN).contains(&id.len()) || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(None);
    }
    let tokens = call.auth.tokens.list().await?.into_iter().map(|stored| Found::Join(stored.record));
    let invites = if with_invites { invites::repo(call.auth).list().await? } else { Vec::new() };
    let invites = invites.into_iter().map(|stored| Found::Invite(stored.record));
    let mut matching = tokens.chain(invites).filter(|found| match found {
        Found::Invite(invite) => invite.hash.id().starts_with(id),
        Found::Join(token) => token.id.starts_with(id),
    });
    match (matching.next(), matching.next()) {
        (Some(_), Some(_)) => Err(ApiError::invalid("several tokens begin with these digits; give more")),
        (found, _) => Ok(found),
    }
}

async fn delete_invite(call: &OpContext<'_>, invite: &InviteRecord) -> ApiResult<()> {
    if !invites::repo(call.auth).delete(&invite.hash.to_hex()).await? {
        return Err(ApiError::not_found("token"));
    }
    let event = AuditEvent::new(EventKind::ResetTokenDelete)
        .field("name", invite.user.as_str())
        .field("invite_id", invite.hash.id());
    call.audit(vec![call.by_caller(event)]).await
}
