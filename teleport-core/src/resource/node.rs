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

/// How long a registered SSH server stays in the list after it was registered last: it gives no signs of life, but nobody lets a
/// proxy in by a host certificate that has ended, and none lasts longer.
pub const OPENSSH_RETENTION: Duration = crate::cert::MAX_HOST_TTL;

/// What serves SSH on a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(clippy::exhaustive_enums, reason = "proxies must know all; a new kind must make them think")]
pub enum NodeKind {
    /// The SSH server of somebody else, such as OpenSSH's. It knows nothing of roles: a proxy stands in for it, decides, records, and
    /// logs in to it in the user's name.
    OpenSsh,
    /// The node of this software, which decides for itself.
    #[default]
    Teleport,
}

impl NodeKind {
    /// The name, as in documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OpenSsh => "openssh",
            Self::Teleport => "teleport",
        }
    }

    fn is_usual(&self) -> bool {
        *self == Self::Teleport
    }

    const fn retention(self) -> Duration {
        match self {
            Self::OpenSsh => OPENSSH_RETENTION,
            Self::Teleport => NODE_RETENTION,
        }
    }
}

/// What a node announces and what is stored. A sign of life only moves the expiry of the stored item: it expires
/// [`NODE_RETENTION`] after the last one, or [`OPENSSH_RETENTION`] after a registration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "nodes build it")]
pub struct NodeRecord {
    /// The node.
    pub host_id: HostId,
    /// What serves SSH there.
    #[serde(default, skip_serializing_if = "NodeKind::is_usual")]
    pub sub_kind: NodeKind,
    /// Its display name.
    pub name: NodeName,
    /// Where its SSH server is reached: `address:port`, as advertised. Empty if it listens nowhere and is reached by its tunnels to the
    /// proxies.
    pub address: String,
    /// Its labels.
    pub labels: Labels,
    /// The proxies that have its tunnels and whom others ask for it, if the cluster's proxies ask each other; see [`crate::peering`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub proxy_ids: Vec<HostId>,
    /// The version of its software.
    pub version: String,
}

impl NodeRecord {
    /// Whether it is reached by its tunnels and not at an address.
    pub fn is_tunnelled(&self) -> bool {
        self.address.is_empty()
    }

    /// Where it is reached, for people: its address, or a word for its tunnels.
    pub fn shown_address(&self) -> &str {
        if self.is_tunnelled() { "⟵ Tunnel" } else { &self.address }
    }
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
        let last_seen = expires.unwrap_or(Timestamp::EPOCH).saturating_sub(record.sub_kind.retention());
        Self { record, last_seen }
    }

    /// When a record that is stored now is to expire.
    pub fn expires(record: &NodeRecord, now: Timestamp) -> Timestamp {
        now.saturating_add(record.sub_kind.retention())
    }

    /// Whether it was heard of recently enough. Of a registered SSH server nothing is ever heard: it counts as long as it is registered.
    pub fn is_online(&self, now: Timestamp) -> bool {
        let online_for = match self.record.sub_kind {
            NodeKind::OpenSsh => OPENSSH_RETENTION,
            NodeKind::Teleport => NODE_ONLINE_FOR,
        };
        now < self.last_seen.saturating_add(online_for)
    }
}
