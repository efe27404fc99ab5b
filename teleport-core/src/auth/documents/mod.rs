//! Resources as documents: written whole, under the revision that was read.

mod locks;
mod roles;
mod tokens;
mod users;

use std::fmt;

pub(super) use self::locks::{check_lock, create_lock, delete_lock, lock, locks, replace_lock};
pub(super) use self::roles::{create_role, delete_role, replace_role};
pub(super) use self::tokens::{replace_token, tokens};
pub(super) use self::users::{add_user, check_user, replace_user, user, users};
use super::context::OpContext;
use crate::api::{ApiError, ApiErrorKind, ApiResult};
use crate::resource::{InvalidDocument, Metadata};
use crate::storage::{Condition, Key, Revision};

/// How often a change is tried again when others change the same resource.
const ATTEMPTS: usize = 16;

/// All that is wrong with a document, in one line.
pub(super) fn invalid(error: &InvalidDocument) -> ApiError {
    let problems: Vec<String> = error.problems.iter().map(ToString::to_string).collect();
    ApiError::invalid(problems.join("; "))
}

/// Refuses what would be gone at once.
fn check_expiry(call: &OpContext<'_>, metadata: &Metadata) -> ApiResult<()> {
    match metadata.expires {
        Some(at) if at <= call.now => Err(ApiError::invalid(format!("metadata.expires: {at} is over"))),
        _ => Ok(()),
    }
}

/// Replaces the revision of the document, else whatever there is.
fn replacing(revision: Option<Revision>) -> Condition {
    revision.map_or(Condition::Exists, Condition::Is)
}

/// Why something was not replaced: it is not there, or it is another revision.
async fn not_replaced(call: &OpContext<'_>, key: &Key, what: &str, revision: Option<Revision>) -> ApiError {
    match (call.auth.ports.backend.get(key).await, revision) {
        (Err(error), _) => error.into(),
        (Ok(None), _) => ApiError::not_found(what),
        (Ok(Some(stored)), revision) => changed(what, revision, stored.revision),
    }
}

fn changed(what: impl fmt::Display, revision: Option<Revision>, stored: Revision) -> ApiError {
    let text = match revision {
        Some(revision) => format!(
            "{what} was changed by somebody else: the document is of revision {revision}, the stored one is {stored}; \
             read it again and repeat the change, or remove metadata.revision to replace what is stored"
        ),
        None => format!("{what} was changed by somebody else at the same moment; try again"),
    };
    ApiError::new(ApiErrorKind::Conflict, text)
}

fn exists(what: impl fmt::Display) -> ApiError {
    ApiError::new(ApiErrorKind::Conflict, format!("{what} exists"))
}
