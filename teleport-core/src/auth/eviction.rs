//! Hosts are removed: from then on nothing is done for them, whatever certificates they still hold.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::context::{OpContext, contended};
use super::policy::Permit;
use super::{Inner, active};
use crate::api::{ApiError, ApiErrorKind, ApiResult};
use crate::audit::{AuditEvent, EventKind};
use crate::cert::HostIdentity;
use crate::clock::Timestamp;
use crate::id::{HostId, HostRole};
use crate::storage::{Action, BackendExt, Batch, Condition, Item, Record, Repo};

/// How often an eviction is tried again when the host changes at the same moment.
const ATTEMPTS: usize = 16;

/// That a host was removed from the cluster. Kept for as long as a certificate of the host may be valid.
///
/// A record of its own and not a mark on [`HostRecord`](super::HostRecord): a host whose binding was lost can be removed as
/// well, and what a renewal writes cannot take it back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct EvictedHost {
    /// The host.
    pub host_id: HostId,
    /// When it was removed.
    pub at: Timestamp,
    /// By whom, as audit events name callers.
    pub by: String,
    /// What it was, if that was known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<HostRole>,
    /// When nobody has to know of it any more: the last certificate of the host has ended.
    pub expires: Timestamp,
}

impl Record for EvictedHost {
    const COLLECTION: &'static str = "evicted-hosts";

    fn key(&self) -> String {
        self.host_id.to_string()
    }

    fn expires(&self) -> Option<Timestamp> {
        Some(self.expires)
    }
}

/// Whether the host was removed. One that cannot be read counts: it was written.
pub(super) async fn is_evicted(auth: &Inner, host: HostId) -> ApiResult<bool> {
    Ok(auth.ports.backend.get(&auth.evicted.key(&host.to_string())?).await?.is_some())
}

/// The removed hosts that may be proxies, for views. One that cannot be read counts.
pub(super) async fn proxies(auth: &Inner) -> ApiResult<BTreeSet<HostId>> {
    let items = auth.ports.backend.list(&auth.evicted.prefix()?).await?;
    let may_be_proxy = |item: &Item| match Repo::<EvictedHost>::decode(item) {
        Ok(stored) => stored.record.role != Some(HostRole::Node),
        Err(_) => true,
    };
    Ok(items
        .iter()
        .filter(|item| may_be_proxy(item))
        .filter_map(|item| item.key.leaf().parse().ok())
        .collect())
}

/// Adds the condition that the host was not removed.
pub(super) fn unless_evicted(auth: &Inner, batch: Batch, host: HostId) -> ApiResult<Batch> {
    Ok(batch.with(auth.evicted.key(&host.to_string())?, Condition::Absent, Action::Keep))
}

/// How often the audit log says of a removed host that it still calls.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// When it was last written down of which removed host that it was refused, and how often it was refused since.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<HashMap<HostId, (Timestamp, u64)>>);

impl Refusals {
    /// Whether a refusal is to be written down: how many were not, since the last one that was; `None` if this is such a one.
    pub(super) fn is_due(&self, host: HostId, now: Timestamp) -> Option<u64> {
        let mut hosts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match hosts.get_mut(&host) {
            Some((told, more)) if now < told.saturating_add(TOLD_EVERY) => {
                *more = more.saturating_add(1);
                None
            }
            known => {
                let more = known.map_or(0, |(_, more)| *more);
                // Those that went away for good are not kept.
                let forgotten = now.saturating_sub(TOLD_EVERY * 60);
                hosts.retain(|_, (told, _)| *told > forgotten);
                hosts.insert(host, (now, 0));
                Some(more)
            }
        }
    }
}

/// Removes a node or a proxy: it disappears from the lists, and every call of it is refused from now on.
pub(super) async fn evict(call: &OpContext<'_>, _permit: Permit<'_>, host: HostId) -> ApiResult<()> {
    let (auth, name) = (call.auth, host.to_string());
    for _ in 0..ATTEMPTS {
        let known = auth.hosts.get(&name).await?;
        if known.as_ref().is_some_and(|known| known.record.role == HostRole::Auth) {
            return Err(ApiError::invalid("the auth service cannot be removed from its own cluster"));
        }
        let mut presence =
            vec![auth.nodes.key(&name)?, auth.proxies.key(&name)?, auth.proxy_sources.key(&name)?];
        presence.append(&mut active::keys(auth, host)?);
        let mut present = false;
        for key in &presence {
            present |= auth.ports.backend.get(key).await?.is_some();
        }
        let again = is_evicted(auth, host).await?;
        if again && !present {
            return Err(ApiError::new(ApiErrorKind::Conflict, format!("host {host} was removed before")));
        }
        if known.is_none() && !present {
            return Err(ApiError::not_found(format_args!("host {host}")));
        }
        // Of one that was removed before only what is still listed goes: a removal can always be completed.
        let mut batch = Batch::new();
        if !again {
            // What was issued last is valid for no longer than what would be issued now.
            let newest = known.as_ref().map_or(Timestamp::EPOCH, |known| known.record.expires);
            let record = EvictedHost {
                host_id: host,
                at: call.now,
                by: call.caller.to_string(),
                role: known.as_ref().map(|known| known.record.role),
                expires: super::join::bound_until(call).max(newest),
            };
            batch = auth.evicted.write_in(batch, &record, Condition::Absent)?;
        }
        for key in presence {
            batch = batch.with(key, Condition::Any, Action::Delete);
        }
        match auth.ports.backend.commit(batch).await {
            Err(error) if error.is_conflict() => continue,
            outcome => outcome?,
        };
        let mut event = AuditEvent::new(EventKind::NodeDelete).field("host_id", name);
        if let Some(known) = known {
            event = event.field("node_name", known.record.name.as_str());
            event = event.field("role", known.record.role.as_str());
        }
        return call.audit(vec![call.by_caller(event)]).await;
    }
    Err(contended())
}

/// Resolves when the host is removed.
pub(super) async fn removed(auth: &Arc<Inner>, host: &HostIdentity) -> ApiResult<()> {
    // Followed first and asked then, so that nothing falls between.
    let mut following = auth.views.follow(auth);
    while !is_evicted(auth, host.host_id).await? {
        following.eviction().await?;
    }
    Ok(())
}
