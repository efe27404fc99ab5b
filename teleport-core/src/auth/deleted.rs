//! Users who were deleted: their certificates are void, here and, by the view, everywhere.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Inner;
use super::context::OpContext;
use crate::api::ApiResult;
use crate::cert::{CLOCK_SKEW, MAX_USER_TTL, UserIdentity};
use crate::clock::Timestamp;
use crate::id::UserName;
use crate::storage::{Batch, Condition, Record};

/// That a user was deleted. Kept for as long as a certificate of the user may be valid; a new user of the same name has nothing
/// of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DeletedUser {
    user: UserName,
    at: Timestamp,
    expires: Timestamp,
}

impl Record for DeletedUser {
    const COLLECTION: &'static str = "deleted-users";

    fn key(&self) -> String {
        self.user.to_string()
    }

    fn expires(&self) -> Option<Timestamp> {
        Some(self.expires)
    }
}

/// Adds remembering that the user is deleted to the batch that deletes it.
pub(super) fn remember_in(call: &OpContext<'_>, batch: Batch, user: &UserName) -> ApiResult<Batch> {
    // Verifiers have clocks of their own.
    let expires = call.now.saturating_add(MAX_USER_TTL).saturating_add(CLOCK_SKEW * 2);
    let record = DeletedUser { user: user.clone(), at: call.now, expires };
    Ok(call.auth.deleted_users.write_in(batch, &record, Condition::Any)?)
}

/// Whether the user of a certificate was deleted after it was issued.
pub(super) async fn is_void(auth: &Inner, identity: &UserIdentity) -> ApiResult<bool> {
    let deleted = auth.deleted_users.get(identity.user.as_str()).await?;
    Ok(deleted.is_some_and(|deleted| identity.is_issued_until(deleted.record.at)))
}

/// All of them, for views.
pub(super) async fn all(auth: &Inner) -> ApiResult<BTreeMap<UserName, Timestamp>> {
    let deleted = auth.deleted_users.list().await?;
    Ok(deleted.into_iter().map(|stored| (stored.record.user, stored.record.at)).collect())
}
