//! Join tokens. Their secrets are not known here.

use super::{ATTEMPTS, changed, check_expiry};
use crate::api::{ApiError, ApiResult};
use crate::audit::{AuditEvent, EventKind};
use crate::auth::context::{OpContext, contended};
use crate::auth::policy::Permit;
use crate::auth::tokens::role_names;
use crate::id::HostRole;
use crate::resource::{Metadata, Token, TokenSpec};
use crate::storage::{Revision, Stored};
use crate::token::{TokenHash, TokenRecord};

fn shown(stored: &Stored<TokenRecord>) -> Token {
    let record = &stored.record;
    let metadata = Metadata {
        name: record.id.clone(),
        expires: record.expires,
        revision: Some(stored.revision),
        ..Metadata::default()
    };
    let spec = TokenSpec {
        roles: record.roles.clone(),
        uses: record.uses_left,
        labels: record.labels.clone(),
        secret: None,
    };
    Token::described(metadata, spec)
}

pub(in crate::auth) async fn tokens(call: &OpContext<'_>, _permit: Permit<'_>) -> ApiResult<Vec<Token>> {
    let stored = call.auth.tokens.list().await?;
    Ok(stored.iter().filter(|token| token.record.is_usable(call.now)).map(shown).collect())
}

/// What a token may become.
fn check(call: &OpContext<'_>, token: &Token) -> ApiResult<()> {
    if token.kind != Token::KIND || token.version != Token::VERSION {
        return Err(ApiError::invalid(format!(
            "a token has the kind \"token\" and the version \"v1\", not {:?} and {:?}",
            token.kind, token.version
        )));
    }
    check_expiry(call, &token.metadata)?;
    let longest = call.auth.config.max_token_ttl;
    match token.metadata.expires {
        Some(at) if at <= call.now.saturating_add(longest) => {}
        _ => {
            let hours = longest.as_secs() / 3600;
            return Err(ApiError::invalid(format!("metadata.expires: a token ends within {hours} hours")));
        }
    }
    if token.spec.roles.is_empty() {
        return Err(ApiError::invalid("spec.roles: a token needs at least one role"));
    }
    if token.spec.uses == Some(0) {
        return Err(ApiError::invalid("spec.uses: a token without uses is of no use; delete it instead"));
    }
    Ok(())
}

pub(in crate::auth) async fn replace_token(
    call: &OpContext<'_>,
    permit: Permit<'_>,
    token: Token,
) -> ApiResult<Revision> {
    check(call, &token)?;
    let id = token.metadata.name.as_str();
    let mut roles = token.spec.roles.clone();
    roles.sort_unstable();
    roles.dedup();
    for _ in 0..ATTEMPTS {
        // Those of before there were names have none.
        let all = call.auth.tokens.list().await?;
        let stored = all.into_iter().find(|stored| !id.is_empty() && stored.record.id == id);
        let stored = stored.ok_or_else(|| ApiError::not_found(format_args!("token {id:?}")))?;
        // As for a new one: who may make tokens must not become the auth host by one, nor keep one alive.
        let of_auth = [&roles, &stored.record.roles].iter().any(|roles| roles.contains(&HostRole::Auth));
        if of_auth && permit.user().is_some() {
            return Err(call
                .deny(permit.operation(), "a user changes a token of the auth service".to_owned())
                .await);
        }
        if token.spec.secret.as_ref().is_some_and(|secret| TokenHash::of(secret) != stored.record.hash) {
            return Err(ApiError::invalid(
                "spec.secret: the secret of a token cannot be changed; make another",
            ));
        }
        if token.metadata.revision.is_some_and(|revision| revision != stored.revision) {
            return Err(changed(format_args!("token {id}"), token.metadata.revision, stored.revision));
        }
        let record = TokenRecord {
            roles: roles.clone(),
            expires: token.metadata.expires,
            uses_left: token.spec.uses,
            labels: token.spec.labels.clone(),
            ..stored.record
        };
        // A host that joins at this moment uses the token up a little: then all is looked at again.
        let revision = match call.auth.tokens.update(&record, stored.revision).await {
            Err(error) if error.is_conflict() => continue,
            outcome => outcome?,
        };
        let event = AuditEvent::new(EventKind::JoinTokenUpdate)
            .field("token_id", id)
            .field("roles", role_names(&record))
            .field("expires", record.expires.map(|at| at.to_string()))
            .field("uses", record.uses_left);
        call.audit(vec![call.by_caller(event)]).await?;
        return Ok(revision);
    }
    Err(contended())
}
