//! Names by which the proxies, the cluster and certified servers are found, and which other hosts may not take.
//!
//! A host's certificate lists its name and its addresses, and hosts choose both. Whoever recognises a proxy by its address alone
//! would believe a node that lists the same address. Our own clients and the configuration that `tsh` prints ask for
//! [`proxy_principal`](crate::cert::proxy_principal) instead, which no node can get; this is for all the others.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::context::OpContext;
use super::policy::Permit;
use super::presence::host_of;
use super::{Caller, nodes};
use crate::api::{ApiError, ApiResult, ProxyRecord};
use crate::cert::{Identity, is_local};
use crate::clock::Timestamp;
use crate::id::{ClusterName, HostRole, NodeName};
use crate::resource::{NodeKind, NodeRecord};
use crate::storage::{Batch, Condition, Record};

/// A name that the certificate of a server says that is no member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SignedName {
    name: String,
    until: Timestamp,
}

impl Record for SignedName {
    const COLLECTION: &'static str = "signed-names";

    fn key(&self) -> String {
        self.name.clone()
    }

    fn expires(&self) -> Option<Timestamp> {
        Some(self.until)
    }
}

/// Remembers the names that a server was certified for, or will be: until then no host may join by one of them. The newest
/// certificate counts.
///
/// # Errors
/// When storage fails.
pub(super) async fn reserve(call: &OpContext<'_>, names: &[String], until: Timestamp) -> ApiResult<()> {
    let mut batch = Batch::new();
    for name in names {
        let record = SignedName { name: spelling(name), until };
        batch = call.auth.signed_names.write_in(batch, &record, Condition::Any)?;
    }
    call.auth.ports.backend.commit(batch).await?;
    Ok(())
}

/// The first of `names` that a server was certified for that is no member.
async fn of_servers<'n>(
    call: &OpContext<'_>,
    client: Option<IpAddr>,
    names: &[&'n str],
) -> ApiResult<Option<&'n str>> {
    let cluster = &call.auth.config.cluster;
    for &name in names {
        let alone = spelling(name);
        // The server and the host may be one machine, at its address.
        if is_local(&alone) || client.is_some_and(|ip| alone == ip.to_string()) {
            continue;
        }
        for spelled in [alone, within(name, cluster)] {
            if call.auth.signed_names.get(&spelled).await?.is_some() {
                return Ok(Some(name));
            }
        }
    }
    Ok(None)
}

/// The first of `names` by which a proxy, the cluster or a certified server is found, for a host that calls from `client` and is to be
/// a `role`.
///
/// Proxies may share names: several can stand behind one. So may the services in the process of the auth service: their calls come
/// from nowhere. Nobody else is on the same machine as a proxy, wherever the call seems to come from: all that a proxy passes on
/// comes from its own address, or from a loopback address.
///
/// # Errors
/// When storage fails.
pub(super) async fn taken<'n>(
    call: &OpContext<'_>,
    role: HostRole,
    client: Option<IpAddr>,
    names: impl IntoIterator<Item = &'n str>,
) -> ApiResult<Option<&'n str>> {
    let here = match call.caller {
        Caller::LocalAdmin => true,
        // A proxy asks for others.
        Caller::Identity(Identity::Host(host), None) => host.role != HostRole::Proxy,
        _ => false,
    };
    if here {
        return Ok(None);
    }
    let names: Vec<&str> = names.into_iter().collect();
    if let Some(name) = of_servers(call, client, &names).await? {
        return Ok(Some(name));
    }
    if role == HostRole::Proxy {
        return Ok(None);
    }
    of_proxies(call, client, names).await
}

/// The first of `names` by which a proxy or the cluster is found, whoever asks. `client` is from where the host calls that shall
/// have the name, if it does.
///
/// # Errors
/// When storage fails.
pub(super) async fn of_proxies<'n>(
    call: &OpContext<'_>,
    client: Option<IpAddr>,
    names: impl IntoIterator<Item = &'n str>,
) -> ApiResult<Option<&'n str>> {
    let mut sources = call.auth.proxy_sources.list().await?;
    let proxies: Vec<Found> = call
        .auth
        .proxies
        .list()
        .await?
        .into_iter()
        .map(|stored| {
            let from = sources.iter_mut().find(|from| from.record.key() == stored.record.key());
            let from = from.map(|from| std::mem::take(&mut from.record.addresses)).unwrap_or_default();
            Found::new(&stored.record, &call.auth.config.cluster, from)
        })
        .collect();
    let cluster = &call.auth.config.cluster;
    Ok(names.into_iter().find(|name| is_taken(name, client, cluster, &proxies)))
}

/// The first of `names` by which a node is found: its id, its name, and the address that it announced, unless every host has it.
///
/// # Errors
/// When storage fails.
pub(super) async fn of_nodes<'n>(
    call: &OpContext<'_>,
    names: impl IntoIterator<Item = &'n str>,
) -> ApiResult<Option<&'n str>> {
    let cluster = &call.auth.config.cluster;
    let mut known = BTreeSet::new();
    for node in nodes::all(call.auth).await? {
        let (id, name) = (node.record.host_id.to_string(), node.record.name.as_str());
        known.extend([within(&id, cluster), spelling(&id), within(name, cluster), spelling(name)]);
        known.insert(spelling(&host_of(&node.record.address)));
    }
    known.retain(|name| !is_local(name));
    Ok(names
        .into_iter()
        .find(|name| known.contains(&spelling(name)) || known.contains(&within(name, cluster))))
}

/// Which of a registered server's name and address no node of ours has. Who stands in for the server would otherwise be taken for that
/// node.
///
/// # Errors
/// When storage fails.
pub(super) async fn of_server_alone(
    call: &OpContext<'_>,
    server: &NodeRecord,
) -> ApiResult<(Option<NodeName>, Option<String>)> {
    let cluster = &call.auth.config.cluster;
    let (name, address) = (server.name.as_str(), host_of(&server.address));
    let (mut name_is_free, mut address_is_free) = (true, !is_local(&address));
    for node in nodes::all(call.auth).await? {
        if node.record.sub_kind == NodeKind::OpenSsh {
            continue;
        }
        let theirs = [spelling(node.record.name.as_str()), spelling(&host_of(&node.record.address))];
        let has = |name: &str| {
            theirs
                .iter()
                .any(|theirs| *theirs == spelling(name) || within(theirs, cluster) == within(name, cluster))
        };
        name_is_free &= !has(name);
        address_is_free &= !has(&address);
    }
    Ok((name_is_free.then(|| server.name.clone()), address_is_free.then_some(address)))
}

/// Refuses the call of a member that would take `name`: the audit log hears of it, and so does the member, whose operator must
/// choose another.
pub(super) async fn refuse(call: &OpContext<'_>, permit: Permit<'_>, name: &str) -> ApiError {
    let reason =
        format!("{name:?} is a name or address by which a proxy, the cluster or a certified server is found");
    let _ = call.deny(permit.operation(), reason.clone()).await;
    ApiError::invalid(format!("{reason}; this host needs another"))
}

/// How a proxy is found, and from where it calls.
struct Found {
    names: BTreeSet<String>,
    from: BTreeSet<IpAddr>,
}

impl Found {
    fn new(proxy: &ProxyRecord, cluster: &ClusterName, from: BTreeSet<IpAddr>) -> Self {
        let mut names = BTreeSet::from([spelling(proxy.name.as_str()), within(proxy.name.as_str(), cluster)]);
        for address in [&proxy.web_address, &proxy.ssh_address] {
            names.insert(spelling(&host_of(address)));
        }
        names.retain(|name| !is_local(name));
        Self { names, from }
    }
}

fn is_taken(name: &str, client: Option<IpAddr>, cluster: &ClusterName, proxies: &[Found]) -> bool {
    let (alone, within) = (spelling(name), within(name, cluster));
    // Who calls from an address has it, unless it is one from which others are passed on.
    let passed_on = |ip: &IpAddr| ip.is_loopback() || proxies.iter().any(|proxy| proxy.from.contains(ip));
    let own = client.filter(|ip| !passed_on(ip)).is_some_and(|ip| alone == ip.to_string());
    let of_proxy = proxies.iter().any(|proxy| proxy.names.contains(&alone) || proxy.names.contains(&within));
    (of_proxy && !own) || alone == spelling(cluster.as_str())
}

/// Names as DNS compares them, addresses in their one form.
fn spelling(name: &str) -> String {
    match name.parse::<IpAddr>() {
        Ok(ip) => ip.to_canonical().to_string(),
        Err(_) => name.trim_end_matches('.').to_ascii_lowercase(),
    }
}

/// The other form in which a host's name stands in its certificate.
fn within(name: &str, cluster: &ClusterName) -> String {
    spelling(&format!("{name}.{cluster}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn what_a_proxy_is_found_by_is_taken() {
        let cluster = ClusterName::new("example.com").unwrap();
        let proxy = ProxyRecord {
            host_id: "0f8fad5b-d9cb-469f-a165-70867728950e".parse().unwrap(),
            name: "gate".parse().unwrap(),
            web_address: "Proxy.example.com:443".to_owned(),
            ssh_address: "[2001:db8::7]:3023".to_owned(),
            peer_address: None,
            tunnels: 0,
            version: String::new(),
        };
        let from = BTreeSet::from(["192.0.2.1".parse().unwrap()]);
        let proxies = [Found::new(&proxy, &cluster, from)];
        let taken = |name: &str, client: &str| is_taken(name, client.parse().ok(), &cluster, &proxies);
        for name in [
            "gate",
            "GATE",
            "gate.example.com",
            "proxy.example.com",
            "proxy.example.com.",
            // In the certificate it becomes proxy.example.com.
            "proxy",
            "2001:db8::7",
            "2001:db8:0:0::7",
            "example.com",
            "Example.com",
        ] {
            assert!(taken(name, "198.51.100.7"), "{name}");
            for passed_on in ["192.0.2.1", "127.0.0.1", "::1", "unknown"] {
                assert!(taken(name, passed_on), "{name} from {passed_on}");
            }
        }
        assert!(!taken("2001:db8::7", "2001:db8::7"), "it calls from there");
        for name in ["web-1", "gate-2", "xproxy.example.com", "192.0.2.1", "198.51.100.7", "localhost", "com"]
        {
            assert!(!taken(name, "198.51.100.7"), "{name}");
        }
    }

    #[test]
    fn names_that_every_host_has_are_nobodys() {
        let cluster = ClusterName::new("try.local").unwrap();
        let proxy = ProxyRecord {
            host_id: "0f8fad5b-d9cb-469f-a165-70867728950e".parse().unwrap(),
            name: "gate".parse().unwrap(),
            web_address: "127.0.0.1:3080".to_owned(),
            ssh_address: "localhost:3023".to_owned(),
            peer_address: None,
            tunnels: 0,
            version: String::new(),
        };
        let proxies = [Found::new(&proxy, &cluster, BTreeSet::new())];
        let client = "198.51.100.7".parse().ok();
        for name in ["127.0.0.1", "::1", "localhost", "::ffff:127.0.0.1"] {
            assert!(!is_taken(name, client, &cluster, &proxies), "{name}");
        }
    }
}
