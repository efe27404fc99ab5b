//! `tsh ls`.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, ValueEnum};
use teleport_core::api::PresenceApi;
use teleport_core::resource::{Node, NodeKind};

use super::super::node_list::NodeFilter;
use super::super::{Format as Document, fit, table};
use super::common::Context;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    Json,
    /// A name a line
    Names,
    #[default]
    Text,
    Yaml,
}

#[derive(Debug, Args)]
pub(super) struct Ls {
    #[command(flatten)]
    filter: NodeFilter,
    /// With ids, and all labels however many there are
    #[arg(short, long)]
    verbose: bool,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    format: Format,
}

pub(super) async fn run(context: &Context, ls: Ls) -> Result<ExitCode> {
    let profile = context.profile()?;
    let now = context.clock.now();
    let nodes = ls.filter.select(context.api(&profile).nodes().await?)?;
    let format = match ls.format {
        Format::Json => Document::Json,
        Format::Yaml => Document::Yaml,
        Format::Names | Format::Text => Document::Text,
    };
    format.print(&nodes, || {
        let address = |node: &Node| match (node.is_online(now), node.record.sub_kind) {
            (false, _) => "offline".to_owned(),
            (true, NodeKind::OpenSsh) => format!("{} (openssh)", node.record.address),
            (true, NodeKind::Teleport) => node.record.shown_address().to_owned(),
        };
        if ls.format == Format::Names {
            let names = nodes.iter().map(|node| node.record.name.as_str());
            return names.collect::<Vec<_>>().join("\n");
        }
        if ls.verbose {
            let row = |node: &Node| {
                let record = &node.record;
                let (name, id) = (record.name.to_string(), record.host_id.to_string());
                [name, id, address(node), record.labels.to_string()]
            };
            table(["Node Name", "Node ID", "Address", "Labels"], nodes.iter().map(row))
        } else {
            let row =
                |node: &Node| [node.record.name.to_string(), address(node), node.record.labels.to_string()];
            fit(&table(["Node Name", "Address", "Labels"], nodes.iter().map(row)))
        }
    })?;
    Ok(ExitCode::SUCCESS)
}
