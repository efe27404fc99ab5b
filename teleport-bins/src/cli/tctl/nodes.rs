//! `tctl nodes`.

use std::time::Duration;

use anyhow::{Result, bail};
use clap::Subcommand;
use teleport_core::clock::{Clock, SystemClock};
use teleport_core::id::{HostId, HostRole};
use teleport_core::label::Labels;
use teleport_core::resource::{Node, NodeKind};

use super::super::node_list::NodeFilter;
use super::super::{Format, table};
use super::{Context, tokens, ttl};
use crate::config::format_duration;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a token and print the command by which a node joins
    Add {
        /// What may join
        #[arg(long, value_delimiter = ',', default_value = "node")]
        roles: Vec<HostRole>,
        /// How long the token is good
        #[arg(long, default_value = "30m", value_parser = ttl)]
        ttl: Duration,
        /// How many hosts may join by it [default: any number]
        #[arg(long)]
        uses: Option<u32>,
        /// The token's secret [default: a random one]
        #[arg(long)]
        token: Option<String>,
        /// Labels that nodes joined by it always carry
        #[arg(long)]
        labels: Option<Labels>,
        /// How to print
        #[arg(short, long, value_enum, default_value_t)]
        format: Format,
    },
    /// List nodes
    Ls {
        #[command(flatten)]
        filter: NodeFilter,
        /// How to print
        #[arg(short, long, value_enum, default_value_t)]
        format: Format,
    },
    /// Remove a node or a proxy from the cluster, by its id or its name: it may do nothing any more, and stops
    ///
    /// Every call of the host to the auth service is refused from now on, whatever certificates it holds; proxies no longer lead
    /// to it; its daemon ends its sessions and exits. It cannot come back under its id: to let the machine join again, make a
    /// new token and start it with a new data directory. Until its host certificate ends (at most 7 days), clients that dial
    /// the host without a proxy would still recognise it.
    #[command(alias = "evict")]
    Rm {
        /// The id or the name
        node: String,
    },
}

pub(super) async fn run(context: &Context, command: Command) -> Result<()> {
    match command {
        Command::Add { roles, ttl, uses, token, labels, format } => {
            tokens::add(context, tokens::Wanted { roles, ttl, uses, value: token, labels }, format).await
        }
        Command::Ls { filter, format } => {
            let nodes = filter.select(context.api.nodes().await?)?;
            format.print(&nodes, || list(&nodes))
        }
        Command::Rm { node } => {
            let id = match node.parse::<HostId>() {
                Ok(id) => id,
                Err(_) => find(context, &node).await?,
            };
            context.api.delete_node(id).await?;
            println!(
                "{node:?} has been removed from the cluster: it stops, and cannot come back under its id {id}.\n\
                 To let the machine join again: tctl tokens add, and a new data directory there."
            );
            Ok(())
        }
    }
}

/// The host of this name: a node, else a proxy. A machine that is both removes its node by the name.
pub(super) async fn find(context: &Context, name: &str) -> Result<HostId> {
    let nodes = context.api.nodes().await?;
    let nodes = nodes.iter().filter(|node| node.record.name.as_str() == name).map(|node| node.record.host_id);
    let mut named: Vec<HostId> = nodes.collect();
    if named.is_empty() {
        // Who may remove proxies may not always look at the cluster; then the id has to be said.
        let proxies = context.api.status().await.map(|status| status.proxies).unwrap_or_default();
        let proxies = proxies.iter().filter(|proxy| proxy.record.name.as_str() == name);
        named.extend(proxies.map(|proxy| proxy.record.host_id));
    }
    match named.as_slice() {
        [id] => Ok(*id),
        [] => bail!("there is no node or proxy {name:?}; `tctl nodes ls` lists nodes, `tctl status` proxies"),
        _ => {
            let ids: Vec<String> = named.iter().map(ToString::to_string).collect();
            bail!(
                "{} hosts are named {name:?}; say the id of the one you mean: {}",
                ids.len(),
                ids.join(", ")
            )
        }
    }
}

fn list(nodes: &[Node]) -> String {
    let now = SystemClock::new().now();
    table(
        ["Host", "UUID", "Address", "Labels", "Version", "Last Seen"],
        nodes.iter().map(|node| {
            let record = &node.record;
            let seen = if node.is_online(now) {
                "online".to_owned()
            } else {
                format!("{} ago", format_duration(now.saturating_since(node.last_seen)))
            };
            [
                record.name.to_string(),
                record.host_id.to_string(),
                record.shown_address().to_owned(),
                record.labels.to_string(),
                match record.sub_kind {
                    NodeKind::OpenSsh => record.sub_kind.as_str().to_owned(),
                    NodeKind::Teleport => record.version.clone(),
                },
                seen,
            ]
        }),
    )
}
