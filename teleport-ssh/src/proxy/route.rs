//! Which registered node a target means. Pure: tables in, a route out.
//!
//! This is the only place that makes a [`NodeRoute`], and dialers take nothing else: an address that a client wrote is never
//! dialled, whatever it resolves to.
//!
//! # How a node is found
//! By its id; by its name, in any case of letters; by the host of the address that it announced; by its name with
//! `.<cluster>` behind it; by labels that it must have. Nodes that are offline, or that the user's roles do not let see, do not
//! exist here; but who may join sessions finds any node by its id, unless a role denies it.
//!
//! # Ports
//! The port is the node's business, not the user's: a route leads to the address that the node announced. A port that was
//! asked for must be that one, or one of those that clients fill in by themselves: none, 0, 22 and 3022. If several nodes
//! match, and one of them announced exactly the port that was asked for, it is meant.

use std::net::IpAddr;
use std::sync::Arc;

use teleport_core::access::AccessChecker;
use teleport_core::clock::Timestamp;
use teleport_core::id::{ClusterName, HostId, NodeName};
use teleport_core::resource::{Node, NodeRecord};
use teleport_core::target::{DialTarget, TargetHost};

use super::nodes::NodeTable;

/// The ports that clients fill in when nobody asked for one.
const DEFAULT_PORTS: [u16; 2] = [22, 3022];
/// How many characters of a candidate's labels are shown.
const MAX_LABELS_SHOWN: usize = 100;
/// The most candidates that an error names.
const MAX_CANDIDATES: usize = 10;

/// The way to one registered node that the user may see. Made by [`resolve`] only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRoute {
    node: Arc<Node>,
}

impl NodeRoute {
    /// The node.
    pub fn host_id(&self) -> HostId {
        self.node.record.host_id
    }

    /// Its name.
    pub fn name(&self) -> &NodeName {
        &self.node.record.name
    }

    /// All that is known of it.
    pub(crate) fn record(&self) -> &NodeRecord {
        &self.node.record
    }

    /// The address that it announced: `host:port`.
    pub fn address(&self) -> &str {
        &self.node.record.address
    }
}

/// Why a target leads nowhere, for the log and the audit event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Missing {
    /// The user's roles do not let the user see it.
    Invisible,
    /// It has not been heard of for a while.
    Offline,
    /// It announced another port than the one that was asked for.
    Port,
    /// It is not registered.
    Unknown,
}

impl Missing {
    /// The reason in words, for administrators.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Invisible => "the user may not see the node",
            Self::Offline => "the node is offline",
            Self::Port => "the node announced another port",
            Self::Unknown => "no such node is registered",
        }
    }
}

/// Why a target has no route. `Display` is for the user and tells nothing that the user may not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RouteError {
    /// Several nodes match.
    #[error("{target} is ambiguous, use one of these ids, as in <id>.{cluster}: {}", list(candidates, *more))]
    Ambiguous {
        /// What was asked for.
        target: String,
        /// The cluster, whose name may stand behind that of a node.
        cluster: ClusterName,
        /// Some of the nodes, all of which the user may see.
        candidates: Vec<Arc<Node>>,
        /// How many more there are.
        more: usize,
    },
    /// No node that the user may see matches and is online.
    #[error("node {target} not found: it is not registered, offline, or not yours to see")]
    NotFound {
        /// What was asked for.
        target: String,
        /// Which of the three. Not for the user.
        missing: Missing,
    },
    /// The cluster is another one.
    #[error("cluster {cluster} is not known here")]
    UnknownCluster {
        /// The cluster that was asked for.
        cluster: ClusterName,
    },
}

impl RouteError {
    /// What the audit event says.
    pub fn internal(&self) -> String {
        match self {
            Self::NotFound { missing, .. } => missing.as_str().to_owned(),
            other => other.to_string(),
        }
    }

    /// For a user who reads several lines: a sentence in the first of them, and the nodes that match as a table.
    pub fn lines(&self) -> String {
        let Self::Ambiguous { target, cluster, candidates, more } = self else { return self.to_string() };
        let table = candidates_table(candidates.iter().map(|node| &**node));
        let more = if *more == 0 { String::new() } else { format!("\nand {more} more") };
        format!(
            "{target} is ambiguous, use the id of one of these nodes, as in <login>@<id>.{cluster}:\n{table}{more}"
        )
    }
}

fn list(candidates: &[Arc<Node>], more: usize) -> String {
    let word = |node: &Arc<Node>| format!("{} ({})", node.record.host_id, node.record.name);
    let words: Vec<_> = candidates.iter().map(word).collect();
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    format!("{}{more}", words.join(", "))
}

/// Nodes among which a user has to choose, as a table; the labels tell one from the other.
pub fn candidates_table<'n>(nodes: impl IntoIterator<Item = &'n Node>) -> String {
    let cells = |node: &'n Node| {
        let record = &node.record;
        let mut labels = record.labels.to_string();
        if let Some((at, _)) = labels.char_indices().nth(MAX_LABELS_SHOWN) {
            labels.truncate(at);
            labels.push('…');
        }
        [record.name.to_string(), record.host_id.to_string(), record.shown_address().to_owned(), labels]
    };
    let headings = ["Node Name", "Node ID", "Address", "Labels"].map(str::to_owned);
    let rows: Vec<[String; 4]> = std::iter::once(headings).chain(nodes.into_iter().map(cells)).collect();
    let width = |column: fn(&[String; 4]) -> &String| {
        rows.iter().map(|row| column(row).chars().count()).max().unwrap_or_default()
    };
    let (name, id, address) = (width(|row| &row[0]), width(|row| &row[1]), width(|row| &row[2]));
    let line =
        |[n, i, a, l]: &[String; 4]| format!("{n:name$} {i:id$} {a:address$} {l}").trim_end().to_owned();
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Finds the node that `target` means among those that the user may see; or, by its id, among those where the user
/// may join sessions.
///
/// # Errors
/// [`RouteError`].
pub fn resolve(
    target: &DialTarget,
    nodes: &NodeTable,
    checker: &AccessChecker<'_>,
    cluster: &ClusterName,
    now: Timestamp,
) -> Result<NodeRoute, RouteError> {
    if let Some(other) = target.cluster.as_ref().filter(|asked| *asked != cluster) {
        return Err(RouteError::UnknownCluster { cluster: other.clone() });
    }
    let not_found = |missing| RouteError::NotFound { target: target.to_string(), missing };
    let found = find(&target.host, nodes, cluster);
    // Each filter narrows what is left, so that the reason names the first obstacle.
    // Who comes to join a session knows where it runs, and no more of the node.
    let visits =
        |node: &Node| matches!(target.host, TargetHost::Id(_)) && checker.may_visit(&node.record).is_ok();
    let visible = narrow(found, Missing::Unknown, |node| checker.can_see(&node.record) || visits(node));
    let online = visible.and_then(|nodes| narrow(nodes, Missing::Invisible, |node| node.is_online(now)));
    let ported =
        online.and_then(|nodes| narrow(nodes, Missing::Offline, |node| port_fits(node, target.port)));
    let mut fitting = ported.map_err(not_found)?;
    let exactly = |node: &Arc<Node>| target.port.is_some() && announced_port(node) == target.port;
    if fitting.iter().any(exactly) {
        fitting.retain(exactly);
    }
    match fitting.as_slice() {
        [] => Err(not_found(Missing::Port)),
        [node] => Ok(NodeRoute { node: Arc::clone(node) }),
        several => {
            let mut candidates = several.to_vec();
            candidates.sort_unstable_by_key(|node| node.record.host_id);
            candidates.truncate(MAX_CANDIDATES);
            let more = several.len().saturating_sub(MAX_CANDIDATES);
            let (target, cluster) = (target.to_string(), cluster.clone());
            Err(RouteError::Ambiguous { target, cluster, candidates, more })
        }
    }
}

type Nodes = Vec<Arc<Node>>;

/// Keeps the nodes that pass; `empty` is the reason if there were none to begin with.
fn narrow(mut nodes: Nodes, empty: Missing, passes: impl Fn(&Node) -> bool) -> Result<Nodes, Missing> {
    if nodes.is_empty() {
        return Err(empty);
    }
    nodes.retain(|node| passes(node));
    Ok(nodes)
}

/// The registered nodes that `host` means, whoever asks, online or not. For whoever only wants to know: the way to one of them
/// is [`resolve`].
pub fn find(host: &TargetHost, nodes: &NodeTable, cluster: &ClusterName) -> Vec<Arc<Node>> {
    let found = find_as_written(host, nodes);
    match host.inside(cluster) {
        Some(short) if found.is_empty() => find_as_written(&short, nodes),
        _ => found,
    }
}

fn find_as_written(host: &TargetHost, nodes: &NodeTable) -> Nodes {
    match host {
        TargetHost::Id(id) => nodes.by_id(*id).into_iter().collect(),
        TargetHost::Labels(labels) => nodes.filter(|node| node.record.labels.contains(labels)),
        TargetHost::Address(address) => {
            let found = nodes.filter(|node| announced_ip(node) == Some(address.to_canonical()));
            // A node may also be named like an address.
            if found.is_empty() { nodes.by_name(&address.to_string()) } else { found }
        }
        TargetHost::Name(name) => {
            let found = nodes.by_name(name.as_str());
            let announced = |node: &Node| {
                announced_host(node).is_some_and(|host| host.eq_ignore_ascii_case(name.as_str()))
            };
            if found.is_empty() { nodes.filter(announced) } else { found }
        }
    }
}

fn split_address(node: &Node) -> Option<(&str, u16)> {
    let (host, port) = node.record.address.rsplit_once(':')?;
    Some((host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host), port.parse().ok()?))
}

fn announced_host(node: &Node) -> Option<&str> {
    split_address(node).map(|(host, _)| host)
}

fn announced_port(node: &Node) -> Option<u16> {
    split_address(node).map(|(_, port)| port)
}

fn announced_ip(node: &Node) -> Option<IpAddr> {
    announced_host(node)?.parse().ok().map(|address: IpAddr| address.to_canonical())
}

fn port_fits(node: &Node, asked: Option<u16>) -> bool {
    match asked {
        None => true,
        Some(port) => DEFAULT_PORTS.contains(&port) || announced_port(node) == asked,
    }
}

#[cfg(test)]
mod tests;
