//! `tctl status`.

use anyhow::Result;
use clap::Args;
use teleport_core::api::Proxy;

use super::super::{Format, table};
use super::Context;
use crate::config::format_duration;

#[derive(Debug, Args)]
pub(super) struct Status {
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    format: Format,
}

pub(super) async fn run(context: &Context, options: Status) -> Result<()> {
    let status = context.api.status().await?;
    options.format.print(&status, || {
        let mut rows = vec![
            ["Cluster".to_owned(), status.cluster_name.to_string()],
            ["Version".to_owned(), status.server_version.clone()],
            ["Nodes online".to_owned(), status.nodes_online.to_string()],
        ];
        // One alone is the one that answers.
        let auth_servers = status.auth_servers.iter().filter(|_| status.auth_servers.len() > 1);
        rows.extend(auth_servers.map(|server| {
            let silent = status.time.saturating_since(server.last_seen);
            // It says so every 30 s.
            let silent = match silent.as_secs() {
                0..45 => String::new(),
                _ => format!(" (silent for {})", format_duration(silent)),
            };
            ["Auth server".to_owned(), format!("{} {}{silent}", server.name, server.address)]
        }));
        rows.extend(status.proxies.iter().map(|proxy| {
            let Proxy { record, last_seen } = proxy;
            let offline = if proxy.is_online(status.time) {
                String::new()
            } else {
                format!(" (offline for {})", format_duration(status.time.saturating_since(*last_seen)))
            };
            [
                "Proxy".to_owned(),
                format!("{} https {} ssh {}{offline}", record.name, record.web_address, record.ssh_address),
            ]
        }));
        rows.extend(status.ca_pins.iter().map(|pin| ["CA pin".to_owned(), pin.to_string()]));
        table(["What", "Value"], rows)
    })
}
