//! Which node is meant: by id, name, address or labels.

use anyhow::{Error, Result, anyhow, bail};
use teleport_core::api::{NodeEvent, PresenceApi};
use teleport_core::id::ClusterName;
use teleport_core::resource::Node;
use teleport_core::target::{DialTarget, TargetHost};
use teleport_ssh::client::{ConnectError, Profile};
use teleport_ssh::proxy::NodeTable;
use teleport_ssh::proxy::route::{candidates_table, find as find_in};

use super::super::common::Context;
use crate::cli::sanitize;

/// What a text means.
#[derive(Debug)]
pub(in super::super) enum Found {
    /// A node, as the proxy is asked for it.
    One(DialTarget),
    /// All that are online and have these labels: more than one.
    Several {
        /// The labels.
        what: String,
        /// The nodes, by their names.
        nodes: Vec<Node>,
    },
}

/// Reads the target. Labels are looked up, since a certificate must name who is dialled; who has a name is up to the proxy.
pub(in super::super) async fn find(
    context: &Context,
    profile: &Profile,
    host: &str,
    port: Option<u16>,
    cluster: Option<ClusterName>,
) -> Result<Found> {
    let mut target = parse(profile, host, port, cluster)?;
    if let TargetHost::Labels(labels) = &target.host {
        let mut nodes = context.api(profile).nodes().await?;
        nodes.retain(|node| node.record.labels.contains(labels) && node.is_online(context.clock.now()));
        nodes.sort_by_cached_key(|node| (node.record.name.to_string(), node.record.host_id));
        match nodes.as_slice() {
            [node] => target.host = TargetHost::Id(node.record.host_id),
            [] => bail!("no node that you may reach has the labels {labels}; `tsh ls` lists them"),
            _ => return Ok(Found::Several { what: labels.to_string(), nodes }),
        }
    }
    Ok(Found::One(target))
}

/// The same, where there can be only one.
pub(in super::super) async fn one(
    context: &Context,
    profile: &Profile,
    host: &str,
    port: Option<u16>,
    cluster: Option<ClusterName>,
) -> Result<DialTarget> {
    match find(context, profile, host, port, cluster).await? {
        Found::One(target) => Ok(target),
        Found::Several { what, nodes } => Err(ambiguous(&what, nodes.iter(), profile.cluster())),
    }
}

/// Reads the words, without asking anybody. `name.cluster` is a name in the cluster.
pub(in super::super) fn parse(
    profile: &Profile,
    host: &str,
    port: Option<u16>,
    cluster: Option<ClusterName>,
) -> Result<DialTarget> {
    let text = match port {
        Some(port) => crate::config::with_port(host, port),
        None => host.to_owned(),
    };
    let mut target: DialTarget = text.parse()?;
    if let Some(short) = target.host.inside(profile.cluster()) {
        target.host = short;
    }
    match (&target.cluster, cluster) {
        (Some(written), Some(said)) if *written != said => {
            bail!("which cluster, {written} or {said}?")
        }
        (None, Some(said)) => target.cluster = Some(said),
        _ => {}
    }
    if let Some(other) = target.cluster.as_ref().filter(|asked| *asked != profile.cluster()) {
        bail!(
            "you are logged in to the cluster {}, not to {other}; log in there with tsh login --proxy=<host>",
            profile.cluster()
        );
    }
    Ok(target)
}

/// The nodes that are meant, as far as the user may see them, online or not.
pub(in super::super) fn matching(nodes: Vec<Node>, target: &DialTarget, cluster: &ClusterName) -> Vec<Node> {
    let mut table = NodeTable::new();
    table.apply(NodeEvent::Snapshot(nodes));
    let mut found: Vec<Node> =
        find_in(&target.host, &table, cluster).iter().map(|node| Node::clone(node)).collect();
    found.sort_by_cached_key(|node| (node.record.name.to_string(), node.record.host_id));
    found
}

/// Says which nodes there are to choose from: as a table, before the one line of the error.
pub(in super::super) fn ambiguous<'n>(
    what: &str,
    nodes: impl ExactSizeIterator<Item = &'n Node>,
    cluster: &ClusterName,
) -> Error {
    let count = nodes.len();
    eprintln!("{}", candidates_table(nodes).lines().map(sanitize).collect::<Vec<_>>().join("\n"));
    anyhow!(
        "{what} is ambiguous, it may be any of these {count} nodes: say the id of one, as in tsh ssh <login>@<id>, or \
         <id>.{cluster} for ssh"
    )
}

/// After the proxy has refused a target: whether that was because several nodes are meant. Asks for the nodes only then.
pub(in super::super) async fn refused(
    context: &Context,
    profile: &Profile,
    target: &DialTarget,
    error: ConnectError,
) -> Error {
    if matches!(error, ConnectError::Refused { .. })
        && !matches!(target.host, TargetHost::Id(_))
        && let Ok(nodes) = context.api(profile).nodes().await
    {
        let now = context.clock.now();
        let mut found = matching(nodes, target, profile.cluster());
        found.retain(|node| node.is_online(now));
        if found.len() > 1 {
            return ambiguous(&target.to_string(), found.iter(), profile.cluster());
        }
    }
    error.into()
}
