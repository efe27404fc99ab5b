//! `tsh ls`.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, ValueEnum};
use teleport_core::api::PresenceApi;
use teleport_core::label::Labels;

use super::super::{print_json, table};
use super::common::Context;

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Format {
    Json,
    Names,
    #[default]
    Text,
}

#[derive(Debug, Args)]
pub(super) struct Ls {
    /// Only nodes with these labels: key=value,key=value
    labels: Option<Labels>,
    /// Only nodes whose name, address or labels contain all of these words
    #[arg(long, value_delimiter = ',')]
    search: Vec<String>,
    /// With ids
    #[arg(short, long)]
    verbose: bool,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    format: Format,
}

pub(super) async fn run(context: &Context, ls: Ls) -> Result<ExitCode> {
    let profile = context.profile()?;
    let now = context.clock.now();
    let mut nodes = context.api(&profile).nodes().await?;
    nodes.retain(|node| {
        let record = &node.record;
        let text = format!("{} {} {}", record.name, record.address, record.labels).to_lowercase();
        ls.labels.as_ref().is_none_or(|wanted| record.labels.contains(wanted))
            && ls.search.iter().all(|word| text.contains(&word.to_lowercase()))
    });
    nodes.sort_by(|a, b| a.record.name.cmp(&b.record.name));
    match ls.format {
        Format::Json => print_json(&nodes)?,
        Format::Names => {
            for node in &nodes {
                println!("{}", node.record.name);
            }
        }
        Format::Text => {
            let address =
                |online: bool, address: &str| if online { address.to_owned() } else { "offline".to_owned() };
            let text = if ls.verbose {
                table(
                    ["Node Name", "Node ID", "Address", "Labels"],
                    nodes.iter().map(|node| {
                        let record = &node.record;
                        [
                            record.name.to_string(),
                            record.host_id.to_string(),
                            address(node.is_online(now), &record.address),
                            record.labels.to_string(),
                        ]
                    }),
                )
            } else {
                table(
                    ["Node Name", "Address", "Labels"],
                    nodes.iter().map(|node| {
                        let record = &node.record;
                        [
                            record.name.to_string(),
                            address(node.is_online(now), &record.address),
                            record.labels.to_string(),
                        ]
                    }),
                )
            };
            println!("{text}");
        }
    }
    Ok(ExitCode::SUCCESS)
}
