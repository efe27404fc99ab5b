//! `tsh env`: which proxy and cluster is meant, for a shell and whatever it starts.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde_json::{Map, Value};
use teleport_ssh::client::openssh::shell_quote;

use super::super::Format;
use super::common::Context;

#[derive(Debug, Args)]
pub(super) struct Env {
    /// Print lines that make the shell forget it
    #[arg(long)]
    unset: bool,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    format: Format,
}

const PROXY: &str = "TELEPORT_PROXY";
const CLUSTER: &str = "TELEPORT_CLUSTER";

pub(super) fn run(context: &Context, env: &Env) -> Result<ExitCode> {
    if env.unset {
        env.format.print(&[PROXY, CLUSTER], || format!("unset {PROXY}\nunset {CLUSTER}"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let profile = context.any_profile()?;
    let values = [(PROXY, profile.web_address.to_authority()), (CLUSTER, profile.cluster().to_string())];
    let document: Map<String, Value> =
        values.iter().map(|(name, value)| ((*name).to_owned(), value.as_str().into())).collect();
    let line = |(name, value): &(&str, String)| format!("export {name}={}", shell_quote(value));
    env.format.print(&document, || values.iter().map(line).collect::<Vec<_>>().join("\n"))?;
    Ok(ExitCode::SUCCESS)
}
