//! `tctl nodes`.

use std::time::Duration;

use anyhow::{Result, bail};
use clap::Subcommand;
use teleport_core::clock::{Clock, SystemClock};
use teleport_core::id::{HostId, HostRole};
use teleport_core::label::Labels;
use teleport_core::resource::Node;

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
        /// Only nodes with these labels: key=value,key=value
        labels: Option<Labels>,
        /// How to print
        #[arg(short, long, value_enum, default_value_t)]
        format: Format,
    },
    /// Remove a node from the list, by its id or its name
    Rm {
        /// The node
        node: String,
    },
}

pub(super) async fn run(context: &Context, command: Command) -> Result<()> {
    match command {
        Command::Add { roles, ttl, uses, token, labels, format } => {
            tokens::add(context, tokens::Wanted { roles, ttl, uses, value: token, labels }, format).await
        }
        Command::Ls { labels, format } => {
            let mut nodes = context.api.nodes().await?;
            nodes.retain(|node| labels.as_ref().is_none_or(|wanted| node.record.labels.contains(wanted)));
            nodes.sort_by(|a, b| a.record.name.cmp(&b.record.name));
            format.print(&nodes, || list(&nodes))
        }
        Command::Rm { node } => {
            let id = match node.parse::<HostId>() {
                Ok(id) => id,
                Err(_) => by_name(context.api.nodes().await?, &node)?,
            };
            context.api.delete_node(id).await?;
            println!("Node {node} has been removed; if it lives it comes back with its next sign of life");
            Ok(())
        }
    }
}

fn by_name(nodes: Vec<Node>, name: &str) -> Result<HostId> {
    let named: Vec<HostId> = nodes
        .iter()
        .filter(|node| node.record.name.as_str() == name)
        .map(|node| node.record.host_id)
        .collect();
    match named.as_slice() {
        [id] => Ok(*id),
        [] => bail!("there is no node {name:?}; `tctl nodes ls` lists them"),
        _ => bail!("{} nodes are named {name:?}; say the id of the one you mean", named.len()),
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
                record.address.clone(),
                record.labels.to_string(),
                record.version.clone(),
                seen,
            ]
        }),
    )
}
