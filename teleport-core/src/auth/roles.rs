//! Roles: the list, and a copy in memory that follows the backend.

use super::context::OpContext;
use super::follow::{self, Followed};
use super::policy::Permit;
use crate::access::RoleSet;
use crate::api::{ApiError, ApiResult};
use crate::clock::Timestamp;
use crate::id::RoleName;
use crate::resource::Role;
use crate::storage::{Action, BackendExt, Batch, Condition, Item, Key, RepoError};

/// One that cannot be read may hold denials.
impl Followed for Role {
    type Set = RoleSet;

    fn decode(item: &Item) -> Self {
        follow::read(item).unwrap_or_else(|error| {
            tracing::error!(key = %item.key, error, "a role cannot be read; whoever holds it is refused");
            let mut role = Self::unreadable(item.key.leaf());
            role.metadata.expires = item.expires;
            role
        })
    }

    fn expires(&self) -> Option<Timestamp> {
        self.metadata.expires
    }
}

pub(super) async fn list(call: &OpContext<'_>, _permit: Permit<'_>) -> ApiResult<Vec<Role>> {
    let items = call.auth.ports.backend.list(&call.auth.roles.prefix()?).await?;
    Ok(items.iter().map(shown).collect())
}

fn shown(item: &Item) -> Role {
    let mut role = Role::decode(item);
    role.metadata.revision = Some(item.revision);
    role
}

pub(super) async fn show(call: &OpContext<'_>, _permit: Permit<'_>, name: &RoleName) -> ApiResult<Role> {
    let item = call.auth.ports.backend.get(&call.auth.roles.key(name.as_str())?).await?;
    item.as_ref().map(shown).ok_or_else(|| ApiError::not_found(format_args!("role {name}")))
}

/// Where it is noted that roles were given to somebody: whoever deletes a role demands that nothing was noted since it looked who
/// holds it.
const GIVEN: &str = "role-grants/last";
/// The most roles that a user is given at once: each is a condition of the batch.
const MAX_GIVEN: usize = 96;

/// Adds to a batch that gives `names` to a user that they exist, and that a deletion at the same moment fails.
pub(super) fn give_in<'n>(
    call: &OpContext<'_>,
    mut batch: Batch,
    names: impl Iterator<Item = &'n RoleName>,
) -> ApiResult<Batch> {
    let mut given = 0;
    for name in names {
        batch = batch.with(call.auth.roles.key(name.as_str())?, Condition::Exists, Action::Keep);
        given += 1;
    }
    if given > MAX_GIVEN {
        let text =
            format!("{given} roles are too many to be given at once; give {MAX_GIVEN} and then the others");
        return Err(ApiError::invalid(text));
    }
    if given == 0 {
        return Ok(batch);
    }
    Ok(batch.put(Key::new(GIVEN).map_err(RepoError::from)?, Condition::Any, "{}", None))
}

/// The condition that nobody was given a role since.
pub(super) async fn none_given_since(call: &OpContext<'_>) -> ApiResult<(Key, Condition)> {
    let key = Key::new(GIVEN).map_err(RepoError::from)?;
    let last = call.auth.ports.backend.get(&key).await?;
    Ok((key, last.map_or(Condition::Absent, |item| Condition::Is(item.revision))))
}

/// Checks that each of `names` exists and can be read, and returns them sorted, each once.
pub(super) async fn existing(call: &OpContext<'_>, mut names: Vec<RoleName>) -> ApiResult<Vec<RoleName>> {
    names.sort_unstable();
    names.dedup();
    let roles = call.roles().await?;
    for name in &names {
        match roles.get(name.as_str()) {
            None => return Err(ApiError::invalid(format!("there is no role {name}"))),
            Some(role) if !role.role().is_readable() => {
                return Err(ApiError::invalid(format!("the stored document of role {name} cannot be read")));
            }
            Some(_) => {}
        }
    }
    Ok(names)
}
