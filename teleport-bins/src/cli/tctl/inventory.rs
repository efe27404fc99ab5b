//! `tctl inventory`: which services there are in the cluster, and of which version.

use std::time::Duration;

use anyhow::Result;
use clap::{Subcommand, ValueEnum};
use serde::Serialize;
use teleport_core::clock::{Clock, SystemClock, Timestamp};
use teleport_core::id::HostId;
use teleport_core::resource::{Node, NodeKind};

use super::super::{Format, table};
use super::{Context, ttl};
use crate::config::format_duration;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the services that have announced themselves: each is a host of its own, with its own id and certificates
    Ls {
        /// Only these services
        #[arg(long, value_enum, value_delimiter = ',')]
        services: Vec<Service>,
        /// Only those of this version
        #[arg(long, value_name = "VERSION")]
        version_is: Option<String>,
        /// Only those of another version than this
        #[arg(long, value_name = "VERSION", conflicts_with = "version_is")]
        version_is_not: Option<String>,
        /// Only those of which nothing was heard for so long
        #[arg(long, value_name = "DURATION", value_parser = ttl)]
        silent_for: Option<Duration>,
        /// How to print
        #[arg(short, long, value_enum, default_value_t)]
        format: Format,
    },
}

/// What an instance does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(super) enum Service {
    /// A node
    Node,
    /// A registered SSH server of another kind, for which proxies stand in
    #[value(name = "openssh")]
    OpenSsh,
    /// A proxy
    Proxy,
}

#[derive(Debug, Serialize)]
struct Instance {
    host_id: HostId,
    name: String,
    service: Service,
    /// Not known of servers of another kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    /// Of a proxy: how many nodes had a tunnel to it when it announced itself, some seconds ago.
    #[serde(skip_serializing_if = "Option::is_none")]
    tunnels: Option<u32>,
    last_seen: Timestamp,
    online: bool,
}

impl Instance {
    fn of_node(node: Node, now: Timestamp) -> Self {
        let online = node.is_online(now);
        let Node { record, last_seen } = node;
        let (service, version) = match record.sub_kind {
            NodeKind::OpenSsh => (Service::OpenSsh, None),
            NodeKind::Teleport => (Service::Node, Some(record.version)),
        };
        Self {
            host_id: record.host_id,
            name: record.name.to_string(),
            service,
            version,
            tunnels: None,
            last_seen,
            online,
        }
    }
}

/// Which instances are listed.
#[derive(Debug, Default)]
struct Filter {
    services: Vec<Service>,
    version_is: Option<String>,
    version_is_not: Option<String>,
    silent_for: Option<Duration>,
}

impl Filter {
    fn passes(&self, instance: &Instance, now: Timestamp) -> bool {
        let version = instance.version.as_deref();
        (self.services.is_empty() || self.services.contains(&instance.service))
            && self.version_is.as_deref().is_none_or(|wanted| version == Some(wanted))
            && self
                .version_is_not
                .as_deref()
                .is_none_or(|unwanted| version.is_some_and(|own| own != unwanted))
            && self.silent_for.is_none_or(|least| now.saturating_since(instance.last_seen) >= least)
    }
}

pub(super) async fn run(context: &Context, command: Command) -> Result<()> {
    let Command::Ls { services, version_is, version_is_not, silent_for, format } = command;
    let filter = Filter { services, version_is, version_is_not, silent_for };
    let status = context.api.status().await?;
    let now = status.time;
    let proxies = status.proxies.into_iter().map(|proxy| Instance {
        online: proxy.is_online(now),
        host_id: proxy.record.host_id,
        name: proxy.record.name.to_string(),
        service: Service::Proxy,
        version: Some(proxy.record.version),
        tunnels: Some(proxy.record.tunnels),
        last_seen: proxy.last_seen,
    });
    let nodes = context.api.nodes().await?.into_iter().map(|node| Instance::of_node(node, now));
    let mut instances: Vec<Instance> =
        proxies.chain(nodes).filter(|instance| filter.passes(instance, now)).collect();
    instances.sort_by(|one, other| (&one.name, one.host_id).cmp(&(&other.name, other.host_id)));
    format.print(&instances, || text(&instances, SystemClock::new().now()))
}

fn text(instances: &[Instance], now: Timestamp) -> String {
    table(
        ["Host", "UUID", "Service", "Version", "Tunnels", "Last Seen"],
        instances.iter().map(|instance| {
            let seen = if instance.online {
                "online".to_owned()
            } else {
                format!("{} ago", format_duration(now.saturating_since(instance.last_seen)))
            };
            let service = match instance.service {
                Service::Node => "node",
                Service::OpenSsh => "openssh",
                Service::Proxy => "proxy",
            };
            [
                instance.name.clone(),
                instance.host_id.to_string(),
                service.to_owned(),
                instance.version.clone().unwrap_or_else(|| "-".to_owned()),
                instance.tunnels.map_or_else(|| "-".to_owned(), |tunnels| tunnels.to_string()),
                seen,
            ]
        }),
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_secs(1_800_000_000);

    fn instance(service: Service, version: Option<&str>, silent: u64) -> Instance {
        Instance {
            host_id: "0f8fad5b-d9cb-469f-a165-70867728950e".parse().unwrap(),
            name: "n".to_owned(),
            service,
            version: version.map(str::to_owned),
            tunnels: None,
            last_seen: NOW.saturating_sub(Duration::from_secs(silent)),
            online: silent < 180,
        }
    }

    #[test]
    fn every_condition_must_hold() {
        let all = [
            instance(Service::Node, Some("1.0"), 10),
            instance(Service::Node, Some("1.1"), 3600),
            instance(Service::Proxy, Some("1.1"), 10),
            instance(Service::OpenSsh, None, 7200),
        ];
        let passes = |filter: Filter| all.iter().map(|one| filter.passes(one, NOW)).collect::<Vec<_>>();
        assert_eq!(passes(Filter::default()), [true; 4]);
        let services = vec![Service::Proxy, Service::OpenSsh];
        assert_eq!(passes(Filter { services, ..Filter::default() }), [false, false, true, true]);
        let version_is = Some("1.1".to_owned());
        assert_eq!(passes(Filter { version_is, ..Filter::default() }), [false, true, true, false]);
        let version_is_not = Some("1.1".to_owned());
        assert_eq!(passes(Filter { version_is_not, ..Filter::default() }), [true, false, false, false]);
        let silent_for = Some(Duration::from_secs(3600));
        let services = vec![Service::Node];
        let both = Filter { silent_for, services, ..Filter::default() };
        assert_eq!(passes(both), [false, true, false, false]);
    }
}
