//! Nodes: what a node announces, and what others are told of it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::id::{HostId, NodeName};
use crate::label::Labels;
use crate::storage::Record;

/// How long a node counts as online after it was last heard of.
pub const NODE_ONLINE_FOR: Duration = Duration::from_secs(180);

/// How long a silent node stays in the list, as offline.
pub const NODE_RETENTION: Duration = Duration::from_secs(24 * 3600);

/// What a node announces and what is stored. A sign of life only moves the expiry of the stored item: it expires
/// [`NODE_RETENTION`] after the last one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "nodes build it")]
pub struct NodeRecord {
    /// The node.
    pub host_id: HostId,
    /// Its display name.
    pub name: NodeName,
    /// Where its SSH server is reached: `address:port`, as advertised.
    pub address: String,
    /// Its labels.
    pub labels: Labels,
    /// The version of its software.
    pub version: String,
}

impl Record for NodeRecord {
    const COLLECTION: &'static str = "nodes";

    fn key(&self) -> String {
        self.host_id.to_string()
    }
}

/// A node as it is listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "views build it")]
pub struct Node {
    /// What it announced.
    #[serde(flatten)]
    pub record: NodeRecord,
    /// When it was last heard of.
    pub last_seen: Timestamp,
}

impl Node {
    /// From a stored record and the expiry of its item.
    pub fn from_stored(record: NodeRecord, expires: Option<Timestamp>) -> Self {
        Self { record, last_seen: Self::seen_at(expires) }
    }

    /// When the node was last heard of whose stored record expires then.
    pub(crate) fn seen_at(expires: Option<Timestamp>) -> Timestamp {
        expires.unwrap_or(Timestamp::EPOCH).saturating_sub(NODE_RETENTION)
    }

    /// Whether it was heard of recently enough.
    pub fn is_online(&self, now: Timestamp) -> bool {
        now < self.last_seen.saturating_add(NODE_ONLINE_FOR)
    }
}
