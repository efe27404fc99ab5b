//! `tsh resolve` and `tsh clusters`.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use serde_json::json;
use teleport_core::api::PresenceApi;
use teleport_core::resource::Node;
use teleport_core::target::TargetHost;

use super::super::{Format, fit, table};
use super::common::Context;
use super::ssh::{split_login, target};

#[derive(Debug, Args)]
pub(super) struct Resolve {
    /// The node as for tsh ssh: name, id or address, or labels as key=value,key=value
    #[arg(value_name = "NODE")]
    target: String,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Debug, Args)]
pub(super) struct Clusters {
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    format: Format,
}

pub(super) async fn run(context: &Context, resolve: Resolve) -> Result<ExitCode> {
    let profile = context.profile()?;
    let (_, host) = split_login(&resolve.target)?;
    let target = target::parse(&profile, host, None, None)?;
    let now = context.clock.now();
    let mut found = target::matching(context.api(&profile).nodes().await?, &target, profile.cluster());
    let known = !found.is_empty();
    found.retain(|node| node.is_online(now));
    let labels = matches!(target.host, TargetHost::Labels(_));
    match found.as_slice() {
        [] if known => bail!("{target} is offline"),
        [] => bail!("no node that you may reach is {target}; `tsh ls` lists them"),
        [_] => {}
        _ if labels => {}
        several => return Err(target::ambiguous(&target.to_string(), several.iter(), profile.cluster())),
    }
    resolve.format.print(&found, || {
        let row = |node: &Node| {
            let record = &node.record;
            let (name, id) = (record.name.to_string(), record.host_id.to_string());
            [name, id, record.shown_address().to_owned(), record.labels.to_string()]
        };
        fit(&table(["Node Name", "Node ID", "Address", "Labels"], found.iter().map(row)))
    })?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn clusters(context: &Context, clusters: Clusters) -> Result<ExitCode> {
    let profile = context.profile()?;
    let status = if context.api(&profile).nodes().await.is_ok() { "online" } else { "offline" };
    let name = profile.cluster();
    let document =
        [json!({ "cluster_name": name, "status": status, "cluster_type": "root", "selected": true })];
    clusters.format.print(&document, || {
        let row = [name.to_string(), status.to_owned(), "root".to_owned(), "*".to_owned()];
        table(["Cluster Name", "Status", "Cluster Type", "Selected"], [row])
    })?;
    Ok(ExitCode::SUCCESS)
}
