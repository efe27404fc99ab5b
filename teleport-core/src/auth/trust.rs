//! Whom to trust, and what to decide by.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use futures_util::stream::{self, BoxStream};

use super::context::OpContext;
use super::guarded::{Until, guarded};
use super::policy::Permit;
use super::presence::ProxySources;
use super::views::Following;
use super::{Caller, Inner, active, eviction, nodes, peers, withdrawn};
use crate::api::{AccessView, ApiError, ApiResult, ClusterStatus, Ping, Proxy, ProxyRecord};
use crate::clock::Timestamp;
use crate::peering::{Peering, TunnelStrategy};
use crate::resource::{NODE_ONLINE_FOR, NODE_RETENTION};
use crate::storage::{BackendExt, Repo, Revision};

/// Where `teleport-ca` keeps what it issues with. A change there is looked at at once; that of another issuer after
/// [`AuthConfig::trust_refresh`](super::AuthConfig::trust_refresh).
pub(super) const AUTHORITIES: &str = "ca";

pub(super) fn ping(call: &OpContext<'_>) -> Ping {
    Ping {
        cluster_name: call.auth.config.cluster.clone(),
        server_version: call.auth.config.server_version.clone(),
        second_factor: call.auth.config.second_factor.as_str().to_owned(),
        proxy_ssh_address: None,
        proxy_tunnel_address: None,
    }
}

pub(super) async fn status(call: &OpContext<'_>, _permit: Permit<'_>) -> ApiResult<ClusterStatus> {
    let items = call.auth.ports.backend.list(&call.auth.proxies.prefix()?).await?;
    let proxies = items.iter().filter_map(|item| match Repo::<ProxyRecord>::decode(item) {
        Ok(stored) => Some(Proxy::from_stored(stored.record, item.expires)),
        Err(error) => {
            tracing::warn!(key = %item.key, error = &error as &dyn std::error::Error, "unreadable record left out");
            None
        }
    });
    let proxies = proxies.collect();
    let nodes = nodes::all(call.auth).await?;
    Ok(ClusterStatus {
        cluster_name: call.auth.config.cluster.clone(),
        server_version: call.auth.config.server_version.clone(),
        ca_pins: call.trust().await?.ca_pins(),
        proxies,
        auth_servers: peers::all(call.auth, call.now).await?,
        nodes_online: nodes.iter().filter(|node| node.is_online(call.now)).count(),
        time: call.now,
    })
}

/// What was told of collections that are read from memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    pub(super) roles: Revision,
    pub(super) locks: Revision,
}

/// The view, at least as new as what was told, and when it changes by itself.
pub(super) async fn view(auth: &Inner, told: Told) -> ApiResult<(AccessView, Option<Timestamp>)> {
    let now = auth.ports.clock.now();
    let roles = auth.role_cache.current_since(now, told.roles).await?;
    let sources = proxy_sources(auth).await?;
    let proxies: BTreeSet<IpAddr> =
        sources.iter().flat_map(|(source, _)| source.addresses.iter().copied()).collect();
    let online: Vec<_> = sources.iter().filter(|(_, until)| now < *until).collect();
    let withdrawn = withdrawn::all(auth, now).await?;
    let changes = online.iter().map(|(_, until)| *until).chain(withdrawn.changes).min();
    let peering = match auth.config.tunnel_strategy {
        TunnelStrategy::AgentMesh => None,
        TunnelStrategy::ProxyPeering { agent_connection_count } => Some(Peering {
            agent_connection_count,
            proxies: online
                .iter()
                .filter_map(|(source, _)| Some((source.host_id, source.peer_address.clone()?)))
                .collect(),
        }),
    };
    let view = AccessView {
        trust: auth.ports.issuer.trust().await?,
        roles,
        proxies: proxies.into_iter().collect(),
        proxy_ids: online.iter().map(|(source, _)| source.host_id).collect(),
        peering,
        locks: auth.lock_cache.current_since(now, told.locks).await?,
        lock_mode: auth.config.lock_mode,
        recording: auth.config.session_recording.clone(),
        deleted_users: withdrawn.deleted,
        taken_roles: withdrawn.taken,
        ended_sessions: active::ended(auth).await?,
        removed_proxies: eviction::proxies(auth).await?,
    };
    Ok((view, changes))
}

/// From where each proxy connects, and until when it counts as online.
async fn proxy_sources(auth: &Inner) -> ApiResult<Vec<(ProxySources, Timestamp)>> {
    let items = auth.ports.backend.list(&auth.proxy_sources.prefix()?).await?;
    let sources = items.iter().filter_map(|item| match Repo::<ProxySources>::decode(item) {
        Ok(stored) => {
            let seen = item.expires.unwrap_or(Timestamp::EPOCH).saturating_sub(NODE_RETENTION);
            Some((stored.record, seen.saturating_add(NODE_ONLINE_FOR)))
        }
        Err(error) => {
            tracing::warn!(key = %item.key, error = &error as &dyn std::error::Error, "unreadable record left out");
            None
        }
    });
    Ok(sources.collect())
}

/// What nodes and proxies decide by at this moment.
pub(super) async fn current(auth: &Inner) -> ApiResult<AccessView> {
    Ok(view(auth, Told { roles: Revision::ZERO, locks: Revision::ZERO }).await?.0)
}

struct Watching {
    auth: Arc<Inner>,
    until: Option<Timestamp>,
    following: Option<Following>,
    last: Option<Arc<AccessView>>,
    over: bool,
}

impl Watching {
    /// Whether the certificate still holds by which the stream was opened.
    fn check_time(&self) -> ApiResult<()> {
        match self.until {
            Some(until) if until <= self.auth.ports.clock.now() => Err(ApiError::denied()),
            _ => Ok(()),
        }
    }

    async fn next(&mut self) -> ApiResult<AccessView> {
        loop {
            self.check_time()?;
            let view = match &mut self.following {
                None => {
                    let following = self.following.insert(self.auth.views.follow(&self.auth));
                    following.fresh().await?
                }
                Some(following) => {
                    match tokio::time::timeout(self.auth.config.trust_refresh, following.next()).await {
                        Ok(view) => view?,
                        // The certificate may have ended.
                        Err(_) => continue,
                    }
                }
            };
            // What was waited for may come after the end.
            self.check_time()?;
            if self.last.as_ref() != Some(&view) {
                self.last = Some(Arc::clone(&view));
                return Ok((*view).clone());
            }
        }
    }
}

pub(super) async fn watch(
    auth: &Arc<Inner>,
    call: &OpContext<'_>,
    _permit: Permit<'_>,
) -> ApiResult<BoxStream<'static, ApiResult<AccessView>>> {
    let until = match call.caller {
        Caller::Identity(identity, _) => Some(identity.expires()),
        _ => None,
    };
    let watching = Watching { auth: Arc::clone(auth), until, following: None, last: None, over: false };
    let views = stream::unfold(watching, |mut watching| async move {
        if watching.over {
            return None;
        }
        let view = watching.next().await;
        watching.over = view.is_err();
        Some((view, watching))
    });
    Ok(guarded(auth, call.caller, Until::Removed, views))
}
