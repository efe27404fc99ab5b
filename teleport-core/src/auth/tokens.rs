//! Join tokens.

use std::time::Duration;

use super::context::OpContext;
use super::policy::Permit;
use crate::api::{ApiError, ApiErrorKind, ApiResult, CreateToken, CreatedToken, TokenInfo};
use crate::audit::{AuditEvent, EventKind};
use crate::id::HostRole;
use crate::secret::SecretString;
use crate::storage::Stored;
use crate::token::{ForJoin, TokenHash, TokenRecord, check_secret, random_id, random_secret};

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
        .field("uses", info.uses_left);
    call.audit(vec![call.by_caller(event)]).await?;
    Ok(CreatedToken { token: secret, info, ca_pins })
}

pub(super) fn role_names(record: &TokenRecord) -> Vec<&'static str> {
    record.roles.iter().map(|role| role.as_str()).collect()
}

pub(super) async fn list(call: &OpContext<'_>, _permit: Permit<'_>) -> ApiResult<Vec<TokenInfo>> {
    let stored = call.auth.tokens.list().await?;
    let fixed = call.auth.config.static_tokens.iter().map(|token| token.record().info());
    let made =
        stored.iter().filter(|token| token.record.is_usable(call.now)).map(|token| token.record.info());
    Ok(fixed.chain(made).collect())
}

pub(super) async fn delete(call: &OpContext<'_>, _permit: Permit<'_>, token: &SecretString) -> ApiResult<()> {
    let unknown = || ApiError::not_found("token");
    let hash = TokenHash::<ForJoin>::of(token);
    let configured = |record: &TokenRecord| record.hash == hash || record.id == token.expose();
    if call.auth.config.static_tokens.iter().any(|token| configured(token.record())) {
        return Err(ApiError::invalid("the token comes from the configuration; remove it there"));
    }
    let record = match call.auth.tokens.get(&hash.to_hex()).await? {
        Some(stored) => stored.record,
        None => by_id(call, token.expose()).await?.ok_or_else(unknown)?.record,
    };
    if !call.auth.tokens.delete(&record.hash.to_hex()).await? {
        return Err(unknown());
    }
    let event = AuditEvent::new(EventKind::JoinTokenDelete)
        .field("token_id", record.id.as_str())
        .field("roles", role_names(&record));
    call.audit(vec![call.by_caller(event)]).await
}

/// The token whose id begins with these digits, if it is one only.
async fn by_id(call: &OpContext<'_>, id: &str) -> ApiResult<Option<Stored<TokenRecord>>> {
    if !(MIN_ID_LEN..=MAX_ID_LEN).contains(&id.len()) || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(None);
    }
    let stored = call.auth.tokens.list().await?;
    let mut matching = stored.into_iter().filter(|token| token.record.id.starts_with(id));
    match (matching.next(), matching.next()) {
        (Some(token), None) => Ok(Some(token)),
        (Some(_), Some(_)) => Err(ApiError::invalid("several tokens begin with these digits; give more")),
        (None, _) => Ok(None),
    }
}
