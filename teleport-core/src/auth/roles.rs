//! Roles: the list, and a copy in memory that follows the backend.

use super::context::OpContext;
use super::follow::{self, Followed};
use super::policy::Permit;
use crate::access::RoleSet;
use crate::api::{ApiError, ApiResult};
use crate::clock::Timestamp;
use crate::id::RoleName;
use crate::resource::Role;
use crate::storage::{BackendExt, Item};

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
