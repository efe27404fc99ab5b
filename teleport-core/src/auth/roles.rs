//! Roles: the list, and a copy in memory that follows the backend.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::FutureExt;
use tokio::sync::Mutex;

use super::context::OpContext;
use super::policy::Permit;
use crate::api::{ApiError, ApiResult};
use crate::clock::Timestamp;
use crate::id::RoleName;
use crate::resource::Role;
use crate::storage::{Repo, Watch, WatchEvent};

/// The roles in memory, so that a decision about roles costs no read.
///
/// No task keeps it up to date: whoever asks first takes what the watch has queued. A change that was acknowledged before
/// by the same backend is therefore always seen; one of another auth service as soon as the backend reports it.
#[derive(Debug)]
pub(super) struct RoleCache {
    repo: Repo<Role>,
    state: Mutex<Option<Followed>>,
}

#[derive(Debug)]
struct Followed {
    watch: Watch,
    by_name: BTreeMap<String, Role>,
    snapshot: Arc<Vec<Role>>,
}

impl RoleCache {
    pub(super) fn new(repo: Repo<Role>) -> Self {
        Self { repo, state: Mutex::new(None) }
    }

    /// All roles that exist at `now`.
    pub(super) async fn current(&self, now: Timestamp) -> ApiResult<Arc<Vec<Role>>> {
        let mut state = self.state.lock().await;
        if let Some(followed) = state.as_mut()
            && followed.catch_up(now)
        {
            return Ok(Arc::clone(&followed.snapshot));
        }
        // First use, or the watch has ended: watch anew, then list, so that nothing falls between.
        *state = None;
        let watch = self.repo.watch().await?;
        let stored = self.repo.list().await?;
        let by_name =
            stored.into_iter().map(|role| (role.record.metadata.name.clone(), role.record)).collect();
        let mut followed = Followed { watch, by_name, snapshot: Arc::default() };
        followed.publish(now);
        let snapshot = Arc::clone(&followed.snapshot);
        *state = Some(followed);
        Ok(snapshot)
    }
}

impl Followed {
    /// Applies what the watch has queued; `false` if it has ended.
    fn catch_up(&mut self, now: Timestamp) -> bool {
        let mut changed = false;
        while let Some(event) = self.watch.next().now_or_never() {
            match event {
                Ok(WatchEvent::Put(item)) => {
                    changed = true;
                    match Repo::<Role>::decode(&item) {
                        Ok(role) => self.by_name.insert(role.record.metadata.name.clone(), role.record),
                        // As in a list: a role that cannot be read does not exist.
                        Err(error) => {
                            tracing::warn!(key = %item.key, error = &error as &dyn std::error::Error, "unreadable role left out");
                            self.by_name.remove(item.key.leaf())
                        }
                    };
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
        if changed || self.snapshot.iter().any(|role| has_expired(role, now)) {
            self.publish(now);
        }
        true
    }

    fn publish(&mut self, now: Timestamp) {
        self.snapshot =
            Arc::new(self.by_name.values().filter(|role| !has_expired(role, now)).cloned().collect());
    }
}

fn has_expired(role: &Role, now: Timestamp) -> bool {
    role.metadata.expires.is_some_and(|expires| expires <= now)
}

pub(super) async fn list(call: &OpContext<'_>, _permit: Permit<'_>) -> ApiResult<Vec<Role>> {
    let stored = call.auth.roles.list().await?;
    Ok(stored
        .into_iter()
        .map(|mut role| {
            role.record.metadata.revision = Some(role.revision);
            role.record
        })
        .collect())
}

pub(super) async fn show(call: &OpContext<'_>, _permit: Permit<'_>, name: &RoleName) -> ApiResult<Role> {
    let stored = call.auth.roles.get(name.as_str()).await?;
    let mut role = stored.ok_or_else(|| ApiError::not_found(format_args!("role {name}")))?;
    role.record.metadata.revision = Some(role.revision);
    Ok(role.record)
}

/// Checks that each of `names` exists, and returns them sorted, each once.
pub(super) async fn existing(call: &OpContext<'_>, mut names: Vec<RoleName>) -> ApiResult<Vec<RoleName>> {
    names.sort_unstable();
    names.dedup();
    let roles = call.roles().await?;
    match names.iter().find(|name| !roles.iter().any(|role| role.metadata.name == name.as_str())) {
        Some(missing) => Err(ApiError::invalid(format!("there is no role {missing}"))),
        None => Ok(names),
    }
}
