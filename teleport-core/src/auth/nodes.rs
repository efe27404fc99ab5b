//! The nodes of the cluster, as others see them.

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::stream::{self, BoxStream};

use super::context::OpContext;
use super::guarded::{Until, guarded};
use super::policy::{Permit, Scope};
use super::{Caller, Inner, withdrawn};
use crate::access::{AccessChecker, Subject};
use crate::api::{ApiError, ApiResult, NodeEvent};
use crate::clock::Timestamp;
use crate::resource::{Node, NodeRecord, Verb};
use crate::storage::{BackendExt, Item, Repo, Watch, WatchEnd, WatchEvent};

/// A record that cannot be read is left out, as in every list.
fn decode(item: &Item) -> Option<Node> {
    match Repo::<NodeRecord>::decode(item) {
        Ok(stored) => Some(Node::from_stored(stored.record, item.expires)),
        Err(error) => {
            tracing::warn!(key = %item.key, error = &error as &dyn std::error::Error, "unreadable record left out");
            None
        }
    }
}

/// All nodes. Reads the items, not the records: when a node was last heard of is in the expiry of its item.
pub(super) async fn all(auth: &Inner) -> ApiResult<Vec<Node>> {
    let items = auth.ports.backend.list(&auth.nodes.prefix()?).await?;
    Ok(items.iter().filter_map(decode).collect())
}

pub(super) async fn list(call: &OpContext<'_>, permit: Permit<'_>) -> ApiResult<Vec<Node>> {
    let mut nodes = all(call.auth).await?;
    if permit.scope() == Scope::Own {
        if let Some(host) = permit.host() {
            nodes.retain(|node| node.record.host_id == host.host_id);
        } else if let Some(user) = permit.user() {
            if call.check_rule("node", Verb::List).await?.is_err() {
                let roles = call.roles().await?;
                let taken = withdrawn::taken_roles(call.auth, &user.user).await?;
                let access = AccessChecker::new(Subject { taken: &taken, ..user.into() }, &roles);
                let mut filter = access.filter();
                nodes.retain(|node| filter.can_see(&node.record));
            }
        } else {
            nodes.clear();
        }
    }
    Ok(nodes)
}

/// What a stream of nodes is made of.
struct Watching {
    auth: Arc<Inner>,
    /// When the certificate ends by which the stream was opened.
    until: Option<Timestamp>,
    watch: Option<Watch>,
    ready: VecDeque<NodeEvent>,
    over: bool,
}

impl Watching {
    /// Watches first and lists then, so that nothing falls between.
    async fn begin(&mut self) -> ApiResult<()> {
        self.watch = Some(self.auth.nodes.watch().await?);
        self.ready.push_back(NodeEvent::Snapshot(all(&self.auth).await?));
        Ok(())
    }

    async fn next(&mut self) -> ApiResult<NodeEvent> {
        loop {
            // Before every event, also one that was waited for.
            if self.until.is_some_and(|until| until <= self.auth.ports.clock.now()) {
                return Err(ApiError::denied());
            }
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            let Some(watch) = &mut self.watch else {
                self.begin().await?;
                continue;
            };
            match watch.next().await {
                Ok(WatchEvent::Put(item)) => self.ready.extend(decode(&item).map(NodeEvent::Put)),
                Ok(WatchEvent::Deleted { key, .. }) => {
                    self.ready.extend(key.leaf().parse().ok().map(NodeEvent::Gone));
                }
                Ok(_) => {}
                // The stream was read too slowly: the whole list is shorter than what was missed.
                Err(WatchEnd::Lagged) => self.watch = None,
                Err(end @ WatchEnd::Closed) => return Err(ApiError::unavailable(end)),
            }
        }
    }
}

pub(super) async fn watch(
    auth: &Arc<Inner>,
    call: &OpContext<'_>,
    _permit: Permit<'_>,
) -> ApiResult<BoxStream<'static, ApiResult<NodeEvent>>> {
    let until = match call.caller {
        Caller::Identity(identity, _) => Some(identity.expires()),
        _ => None,
    };
    let mut watching =
        Watching { auth: Arc::clone(auth), until, watch: None, ready: VecDeque::new(), over: false };
    // What cannot begin is refused, and does not end at once.
    watching.begin().await?;
    let events = stream::unfold(watching, |mut watching| async move {
        if watching.over {
            return None;
        }
        let event = watching.next().await;
        watching.over = event.is_err();
        Some((event, watching))
    });
    Ok(guarded(auth, call.caller, Until::RemovedOrLocked, events))
}
