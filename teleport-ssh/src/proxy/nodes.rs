//! The registered nodes as a proxy knows them: a table, and what keeps it up to date.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use futures_util::StreamExt;
use teleport_core::api::{ApiError, ApiErrorKind, NodeEvent, ProxyAccess};
use teleport_core::entropy::{Entropy, EntropyExt};
use teleport_core::id::HostId;
use teleport_core::resource::Node;
use tokio::sync::watch;
use tokio::time::Instant;

/// The shortest and longest pause before the auth service is asked again.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));

/// The registered nodes, indexed by id and by name.
#[derive(Clone, Default)]
pub struct NodeTable {
    nodes: HashMap<HostId, Arc<Node>>,
    /// From the name in lower case. A name that several nodes have is no error here.
    names: HashMap<String, Vec<HostId>>,
}

impl fmt::Debug for NodeTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeTable({} nodes)", self.nodes.len())
    }
}

impl NodeTable {
    /// A table without nodes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes over a change.
    pub fn apply(&mut self, event: NodeEvent) {
        match event {
            NodeEvent::Snapshot(nodes) => {
                *self = Self::default();
                for node in nodes {
                    self.put(node);
                }
            }
            NodeEvent::Put(node) => self.put(node),
            NodeEvent::Gone(id) => self.remove(id),
            // A kind that a newer auth service may send says nothing about routes that this version knows.
            _ => {}
        }
    }

    fn put(&mut self, node: Node) {
        let id = node.record.host_id;
        let renamed = self.nodes.get(&id).is_none_or(|old| old.record.name != node.record.name);
        if renamed {
            self.remove(id);
            self.names.entry(node.record.name.as_str().to_ascii_lowercase()).or_default().push(id);
        }
        self.nodes.insert(id, Arc::new(node));
    }

    fn remove(&mut self, id: HostId) {
        let Some(old) = self.nodes.remove(&id) else { return };
        let name = old.record.name.as_str().to_ascii_lowercase();
        if let Some(ids) = self.names.get_mut(&name) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.names.remove(&name);
            }
        }
    }

    /// The node with this id.
    pub fn by_id(&self, id: HostId) -> Option<Arc<Node>> {
        self.nodes.get(&id).cloned()
    }

    /// The nodes with this name, whatever the case of its letters.
    pub fn by_name(&self, name: &str) -> Vec<Arc<Node>> {
        let ids = self.names.get(&name.to_ascii_lowercase());
        ids.into_iter().flatten().filter_map(|id| self.by_id(*id)).collect()
    }

    /// The nodes that pass. Looks at each.
    pub fn filter(&self, passes: impl Fn(&Node) -> bool) -> Vec<Arc<Node>> {
        self.nodes.values().filter(|node| passes(node)).cloned().collect()
    }

    /// How many nodes there are.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }
}

/// A [`NodeTable`] that follows the auth service. Cheap to clone; all clones see the same table.
///
/// While the auth service cannot be reached the table stays as it was: nodes then grow old and count as offline after
/// [`NODE_ONLINE_FOR`](teleport_core::resource::NODE_ONLINE_FOR).
#[derive(Clone, Debug)]
pub struct NodeView(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    table: RwLock<NodeTable>,
    /// How many changes were taken over.
    version: watch::Sender<u64>,
    /// Since when nobody tells of changes; `None` while somebody does.
    alone_since: Mutex<Option<Instant>>,
}

impl Default for NodeView {
    fn default() -> Self {
        Self::new()
    }
}

impl NodeView {
    /// A view without nodes; [`follow`](Self::follow) fills it.
    pub fn new() -> Self {
        Self(Arc::new(Shared {
            table: RwLock::default(),
            version: watch::Sender::new(0),
            alone_since: Mutex::new(Some(Instant::now())),
        }))
    }

    /// Reads the table. Others wait while `read` runs, so it must be short.
    pub fn read<T>(&self, read: impl FnOnce(&NodeTable) -> T) -> T {
        read(&self.0.table.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// How long nobody has told of changes; zero while the auth service is followed.
    pub fn age(&self) -> Duration {
        let since = *self.0.alone_since.lock().unwrap_or_else(PoisonError::into_inner);
        since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    fn is_told(&self, told: bool) {
        let mut since = self.0.alone_since.lock().unwrap_or_else(PoisonError::into_inner);
        if told {
            *since = None;
        } else {
            since.get_or_insert_with(Instant::now);
        }
    }

    /// Takes over a change. For [`follow`](Self::follow) and for programs that know their nodes from elsewhere.
    pub fn apply(&self, event: NodeEvent) {
        self.0.table.write().unwrap_or_else(PoisonError::into_inner).apply(event);
        self.0.version.send_modify(|version| *version = version.wrapping_add(1));
    }

    /// Resolves once the table satisfies `condition`. Cancel safe.
    pub async fn wait_for(&self, condition: impl Fn(&NodeTable) -> bool) {
        let mut changes = self.0.version.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        while !self.read(&condition) && changes.changed().await.is_ok() {}
    }

    /// Follows the auth service until the host is removed from the cluster; then there are no nodes. Asks again, after longer and longer pauses with jitter, when the stream ends.
    /// Dropping the future ends it; the table stays.
    pub async fn follow(&self, access: Arc<dyn ProxyAccess>, entropy: Arc<dyn Entropy>) {
        let mut pause = RETRY.0;
        loop {
            let outcome = self.follow_once(&*access).await;
            self.is_told(false);
            match outcome {
                // The stream worked and ended, as when the auth service restarts.
                Ok(()) => pause = RETRY.0,
                // Nobody tells this host anything any more.
                Err(error) if error.kind() == ApiErrorKind::Evicted => {
                    self.apply(NodeEvent::Snapshot(Vec::new()));
                    return;
                }
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "cannot follow the nodes");
                }
            }
            tokio::time::sleep(jitter(pause, &*entropy)).await;
            pause = pause.saturating_mul(2).min(RETRY.1);
        }
    }

    async fn follow_once(&self, access: &dyn ProxyAccess) -> Result<(), ApiError> {
        let mut events = access.watch_nodes().await?;
        let mut seen = false;
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    self.apply(event);
                    self.is_told(true);
                }
                Err(error) if seen && error.kind() != ApiErrorKind::Evicted => {
                    tracing::debug!(error = &error as &dyn std::error::Error, "the nodes' stream ended");
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
            seen = true;
        }
        Ok(())
    }
}

/// Half of `pause` and a random part of the other half, so that many proxies do not come back at once.
fn jitter(pause: Duration, entropy: &dyn Entropy) -> Duration {
    let half = pause / 2;
    // Without randomness there is still a pause.
    let random = entropy.bytes::<1>().map_or(u8::MAX, |[byte]| byte);
    half + half.mul_f64(f64::from(random) / f64::from(u8::MAX))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use teleport_core::clock::Timestamp;
    use teleport_core::id::NodeName;
    use teleport_core::label::Labels;
    use teleport_core::resource::NodeRecord;

    use super::*;

    fn node(id: u128, name: &str) -> Node {
        Node {
            record: NodeRecord {
                host_id: format!("00000000-0000-4000-8000-{id:012x}").parse().unwrap(),
                name: NodeName::new(name).unwrap(),
                address: "127.0.0.1:3022".to_owned(),
                labels: Labels::default(),
                sub_kind: teleport_core::resource::NodeKind::Teleport,
                proxy_ids: Vec::new(),
                version: "0".to_owned(),
            },
            last_seen: Timestamp::EPOCH,
        }
    }

    #[test]
    fn follows_renames_and_removals() {
        let mut table = NodeTable::new();
        table.apply(NodeEvent::Snapshot(vec![node(1, "Web"), node(2, "web")]));
        assert_eq!(table.by_name("WEB").len(), 2);
        table.apply(NodeEvent::Put(node(1, "db")));
        assert_eq!((table.by_name("web").len(), table.by_name("db").len()), (1, 1));
        table.apply(NodeEvent::Gone(node(2, "web").record.host_id));
        assert!(table.by_name("web").is_empty());
        table.apply(NodeEvent::Gone(node(2, "web").record.host_id));
        table.apply(NodeEvent::Snapshot(vec![node(3, "x")]));
        assert_eq!((table.len(), table.by_name("db").len()), (1, 0));
        assert_eq!(table.names.len(), 1, "no name is left behind");
    }

    #[test]
    fn jitter_stays_within_its_bounds() {
        let entropy = teleport_core::testing::RepeatableEntropy::new(1);
        for _ in 0..100 {
            let pause = jitter(Duration::from_secs(10), &entropy);
            assert!((Duration::from_secs(5)..=Duration::from_secs(10)).contains(&pause));
        }
        assert_eq!(
            jitter(Duration::from_secs(2), &teleport_core::testing::NoEntropy),
            Duration::from_secs(2)
        );
    }
}
