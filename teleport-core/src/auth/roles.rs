//! Roles: the list, and a copy in memory that follows the backend.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::FutureExt;
use tokio::sync::Mutex;

use super::context::OpContext;
use super::policy::Permit;
use crate::access::RoleSet;
use crate::api::{ApiError, ApiResult};
use crate::clock::Timestamp;
use crate::id::RoleName;
use crate::resource::Role;
use crate::storage::{Backend, BackendExt, Item, Repo, RepoError, Watch, WatchEvent};

/// The roles in memory, so that a decision about roles costs no read.
///
/// No task keeps it up to date: whoever asks first takes what the watch has queued. A change that was acknowledged before
/// by the same backend is therefore always seen; one of another auth service as soon as the backend reports it.
///
/// A role that exists and cannot be read is not left out as in other lists: it may hold denials. It is there as
/// [`Role::unreadable`].
#[derive(Debug)]
pub(super) struct RoleCache {
    backend: Arc<dyn Backend>,
    state: Mutex<Option<Followed>>,
}

#[derive(Debug)]
struct Followed {
    watch: Watch,
    by_name: BTreeMap<String, Role>,
    snapshot: RoleSet,
}

impl RoleCache {
    pub(super) fn new(backend: Arc<dyn Backend>) -> Self {
        Self { backend, state: Mutex::new(None) }
    }

    /// All roles that exist at `now`.
    pub(super) async fn current(&self, now: Timestamp) -> ApiResult<RoleSet> {
        let mut state = self.state.lock().await;
        if let Some(followed) = state.as_mut()
            && followed.catch_up(now)
        {
            return Ok(followed.snapshot.clone());
        }
        // First use, or the watch has ended: watch anew, then list, so that nothing falls between.
        *state = None;
        let prefix = Repo::<Role>::new(Arc::clone(&self.backend)).prefix()?;
        let watch = self.backend.watch(&prefix).await?;
        let items = self.backend.list(&prefix).await?;
        let by_name = items.iter().map(|item| (item.key.leaf().to_owned(), decode(item))).collect();
        let mut followed = Followed { watch, by_name, snapshot: RoleSet::default() };
        followed.publish(now);
        let snapshot = followed.snapshot.clone();
        *state = Some(followed);
        Ok(snapshot)
    }
}

/// The role that is stored, or what stands for it.
fn decode(item: &Item) -> Role {
    let error = match Repo::<Role>::decode(item) {
        Ok(stored) if stored.record.is_readable() => return stored.record,
        Ok(stored) => format!("its version {:?} is not known here", stored.record.version),
        Err(error @ RepoError::Corrupt { .. }) => {
            std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string)
        }
        Err(error) => error.to_string(),
    };
    tracing::error!(key = %item.key, error, "a role cannot be read; whoever holds it is refused");
    let mut role = Role::unreadable(item.key.leaf());
    role.metadata.expires = item.expires;
    role
}

impl Followed {
    /// Applies what the watch has queued; `false` if it has ended.
    fn catch_up(&mut self, now: Timestamp) -> bool {
        let mut changed = false;
        while let Some(event) = self.watch.next().now_or_never() {
            match event {
                Ok(WatchEvent::Put(item)) => {
                    changed = true;
                    self.by_name.insert(item.key.leaf().to_owned(), decode(&item));
                }
                Ok(WatchEvent::Deleted { key, .. }) => {
                    changed = true;
                    self.by_name.remove(key.leaf());
                }
                Ok(_) => {}
                Err(_) => return false,
            }
        }
        // A backend sweeps what has expired at its own pace; decisions do not wait for it.
        if changed || self.snapshot.iter().any(|role| role.metadata.has_expired(now)) {
            self.publish(now);
        }
        true
    }

    fn publish(&mut self, now: Timestamp) {
        self.snapshot =
            self.by_name.values().filter(|role| !role.metadata.has_expired(now)).cloned().collect();
    }
}

pub(super) async fn list(call: &OpContext<'_>, _permit: Permit<'_>) -> ApiResult<Vec<Role>> {
    let items = call.auth.ports.backend.list(&call.auth.roles.prefix()?).await?;
    Ok(items.iter().map(shown).collect())
}

fn shown(item: &Item) -> Role {
    let mut role = decode(item);
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
