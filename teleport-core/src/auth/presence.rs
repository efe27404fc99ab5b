//! Nodes and proxies say that they are there.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::context::OpContext;
use super::policy::Permit;
use super::{eviction, names};
use crate::api::{ApiError, ApiErrorKind, ApiResult, ProxyRecord};
use crate::clock::Timestamp;
use crate::id::HostId;
use crate::label::Labels;
use crate::peering::MAX_AGENT_CONNECTIONS;
use crate::resource::{NODE_RETENTION, Node, NodeKind, NodeRecord};
use crate::storage::{Action, Batch, Condition, Record, StorageError, Stored};
use crate::token::is_address;

const MAX_VERSION: usize = 64;

/// Checks an advertised `host:port`: an address that others could dial.
fn check_endpoint(what: &str, endpoint: &str, permit: Permit<'_>) -> ApiResult<()> {
    let host = permit.host().ok_or_else(ApiError::denied)?;
    let good = match endpoint.parse::<SocketAddr>() {
        Ok(address) => {
            address.port() != 0 && is_address(&address.ip().to_string(), host.host_id, &host.cluster)
        }
        Err(_) => endpoint.rsplit_once(':').is_some_and(|(name, port)| {
            let named = name.parse::<IpAddr>().is_err() && is_host_name(name);
            named && port.parse::<u16>().is_ok_and(|number| number != 0 && number.to_string() == port)
        }),
    };
    if good {
        Ok(())
    } else {
        Err(ApiError::invalid(format!("the {what} is not a host:port that can be dialled")))
    }
}

/// The name or address in a `host:port` that was checked.
pub(super) fn host_of(endpoint: &str) -> String {
    match endpoint.parse::<SocketAddr>() {
        Ok(address) => address.ip().to_string(),
        Err(_) => endpoint.rsplit_once(':').map_or(endpoint, |(host, _)| host).to_owned(),
    }
}

/// A name that DNS could know. Unlike in certificates it may lie in the cluster's own domain: it proves nothing.
fn is_host_name(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    name.len() <= 253 && name.split('.').all(label)
}

fn check_version(version: &str) -> ApiResult<()> {
    if version.len() <= MAX_VERSION && version.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') {
        Ok(())
    } else {
        Err(ApiError::invalid("the version is too long or not printable"))
    }
}

/// What a node says of itself, with the labels of its token over its own: a node cannot take them off or change them.
fn with_labels(own: &Labels, forced: &Labels) -> ApiResult<Labels> {
    let pair = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
    // Later ones win.
    Labels::new(own.iter().map(pair).chain(forced.iter().map(pair)))
        .map_err(|error| ApiError::invalid(error.to_string()))
}

pub(super) async fn announce_node(
    call: &OpContext<'_>,
    permit: Permit<'_>,
    mut node: NodeRecord,
) -> ApiResult<()> {
    let host = permit.host().ok_or_else(ApiError::denied)?;
    if node.host_id != host.host_id {
        return Err(call.deny(permit.operation(), format!("announces node {}", node.host_id)).await);
    }
    check_version(&node.version)?;
    // What is read on the way to the node, and sent to all proxies.
    if node.proxy_ids.len() > MAX_AGENT_CONNECTIONS.into()
        || !(node.proxy_ids.is_empty() || node.is_tunnelled())
    {
        return Err(ApiError::invalid("the proxies are too many, or the node has no tunnels"));
    }
    // A server of somebody else's has no tunnels.
    if !node.is_tunnelled() || node.sub_kind != NodeKind::Teleport {
        check_endpoint("address", &node.address, permit)?;
        let name = host_of(&node.address);
        if names::taken(call, host.role, call.caller.client_ip(None), [&*name]).await?.is_some() {
            return Err(names::refuse(call, permit, &name).await);
        }
    }
    // The name is the one that the certificate proves.
    node.name = host.name.clone();
    let member = call.auth.hosts.get(&host.host_id.to_string()).await?;
    if let Some(member) = &member {
        node.labels = with_labels(&node.labels, &member.record.labels)?;
    }
    let value = serde_json::to_vec(&node).map_err(ApiError::internal)?;
    let key = call.auth.nodes.key(&node.host_id.to_string())?;
    let batch = Batch::new().put(key, Condition::Any, value, Some(Node::expires(&node, call.now)));
    let batch = match member {
        // Whoever speaks for it needs to know it for as long as its certificates last, whether or not it is listed.
        Some(Stored { mut record, revision, .. }) if record.sub_kind != node.sub_kind => {
            record.sub_kind = node.sub_kind;
            call.auth.hosts.write_in(batch, &record, Condition::Is(revision))?
        }
        None if node.sub_kind == NodeKind::OpenSsh => return Err(unbound(call, permit).await),
        _ => batch,
    };
    write(call, permit, host.host_id, batch).await
}

/// A host whose record was lost has to become a member again: nobody would know what may be done in its name.
async fn unbound(call: &OpContext<'_>, permit: Permit<'_>) -> ApiError {
    call.deny(permit.operation(), "registers an SSH server and is not known as a host".to_owned()).await
}

/// Writes what a host says of itself, unless it was removed since the call was permitted: what was deleted with it must not come
/// back.
async fn write(call: &OpContext<'_>, permit: Permit<'_>, host: HostId, batch: Batch) -> ApiResult<()> {
    let batch = eviction::unless_evicted(call.auth, batch, host)?;
    match call.auth.ports.backend.commit(batch).await {
        Ok(_) => Ok(()),
        Err(error @ StorageError::Conflict { .. }) => {
            if eviction::is_evicted(call.auth, host).await? {
                return Err(call.deny_evicted(permit.operation()).await);
            }
            Err(error.into())
        }
        Err(error) => Err(error.into()),
    }
}

fn until(now: Timestamp) -> Timestamp {
    now.saturating_add(NODE_RETENTION)
}

pub(super) async fn keep_alive(call: &OpContext<'_>, permit: Permit<'_>) -> ApiResult<()> {
    let host = permit.host().ok_or_else(ApiError::denied)?;
    let key = call.auth.nodes.key(&host.host_id.to_string())?;
    let touch = Action::Touch { expires: Some(until(call.now)) };
    let batch = Batch::new().with(key, Condition::Exists, touch);
    let batch = eviction::unless_evicted(call.auth, batch, host.host_id)?;
    match call.auth.ports.backend.commit(batch).await {
        Ok(_) => Ok(()),
        Err(error @ StorageError::Conflict { .. }) => {
            if eviction::is_evicted(call.auth, host.host_id).await? {
                return Err(call.deny_evicted(permit.operation()).await);
            }
            Err(ApiError::new(ApiErrorKind::NotFound, "the node is not known; announce it again")
                .because(error))
        }
        Err(error) => Err(error.into()),
    }
}

pub(super) async fn announce_proxy(
    call: &OpContext<'_>,
    permit: Permit<'_>,
    mut proxy: ProxyRecord,
) -> ApiResult<()> {
    let host = permit.host().ok_or_else(ApiError::denied)?;
    if proxy.host_id != host.host_id {
        return Err(call.deny(permit.operation(), format!("announces proxy {}", proxy.host_id)).await);
    }
    check_endpoint("web address", &proxy.web_address, permit)?;
    check_endpoint("SSH address", &proxy.ssh_address, permit)?;
    if let Some(address) = &proxy.peer_address {
        check_endpoint("address for other proxies", address, permit)?;
    }
    check_version(&proxy.version)?;
    proxy.name = host.name.clone();
    let (id, expires) = (proxy.host_id.to_string(), Some(until(call.now)));
    let value = serde_json::to_vec(&proxy).map_err(ApiError::internal)?;
    let batch = Batch::new().put(call.auth.proxies.key(&id)?, Condition::Any, value, expires);
    let sources = ProxySources::new(&proxy, call.caller.remote());
    let value = serde_json::to_vec(&sources).map_err(ApiError::internal)?;
    let batch = batch.put(call.auth.proxy_sources.key(&id)?, Condition::Any, value, expires);
    write(call, permit, host.host_id, batch).await
}

/// From where a proxy connects: single addresses, never networks. Whence it called is seen and not said, so it cannot be made up;
/// only a proxy in the process of the auth service, whose call comes from nowhere, is asked for the addresses that it announces. A
/// call from a loopback address may have been passed on by another proxy, and says nothing.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ProxySources {
    pub(super) host_id: HostId,
    pub(super) addresses: BTreeSet<IpAddr>,
    /// Where other proxies ask it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) peer_address: Option<String>,
}

impl ProxySources {
    fn new(proxy: &ProxyRecord, caller: Option<SocketAddr>) -> Self {
        // A loopback address means another machine to each who reads it.
        let of_one = |ip: &IpAddr| !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast();
        let addresses = match caller {
            Some(seen) => [seen.ip().to_canonical()].into_iter().filter(of_one).collect(),
            None => {
                let announced = [&proxy.web_address, &proxy.ssh_address];
                let announced = announced.into_iter().filter_map(|text| text.parse::<SocketAddr>().ok());
                announced.map(|address| address.ip().to_canonical()).filter(of_one).collect()
            }
        };
        Self { host_id: proxy.host_id, addresses, peer_address: proxy.peer_address.clone() }
    }
}

impl Record for ProxySources {
    const COLLECTION: &'static str = "proxy-sources";

    fn key(&self) -> String {
        self.host_id.to_string()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;
    use crate::auth::Caller;
    use crate::auth::policy::{Operation, Scope};
    use crate::cert::Identity;
    use crate::id::HostRole;
    use crate::testing::host_identity;

    #[test]
    fn an_address_can_be_dialled() {
        let host = host_identity(
            "0f8fad5b-d9cb-469f-a165-70867728950e",
            "n",
            "example.com",
            HostRole::Node,
            Timestamp::MAX,
        );
        let caller = Caller::Identity(Identity::Host(host), None);
        let permit = Permit::new(&caller, Operation::AnnounceNode, Scope::Own);
        for good in [
            "192.0.2.7:3022",
            "[2001:db8::7]:3022",
            "localhost:1",
            "web-1.example.com:3022",
            "127.0.0.1:3022",
        ] {
            assert!(check_endpoint("address", good, permit).is_ok(), "{good}");
        }
        for bad in [
            "",
            ":",
            "web-1",
            "web-1:",
            "web-1:0",
            "web-1:65536",
            "web-1:+22",
            "web-1:022",
            "0.0.0.0:22",
            "[::]:22",
            "::1:22",
            "a b:22",
            "a\n:22",
            "-a:22",
            "http://a:22",
            "a/b:22",
            "a@b:22",
        ] {
            assert!(check_endpoint("address", bad, permit).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_proxy_comes_from_where_it_calls_and_not_from_where_it_says() {
        let proxy = ProxyRecord {
            host_id: "0f8fad5b-d9cb-469f-a165-70867728950e".parse().unwrap(),
            name: "p".parse().unwrap(),
            web_address: "proxy.example.com:3080".to_owned(),
            ssh_address: "192.0.2.1:3023".to_owned(),
            peer_address: None,
            tunnels: 0,
            version: String::new(),
        };
        let addresses = |proxy: &ProxyRecord, caller: &str| {
            let sources = ProxySources::new(proxy, caller.parse().ok());
            sources.addresses.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(addresses(&proxy, "[::ffff:198.51.100.7]:1"), ["198.51.100.7"]);
        // In the auth service's own process.
        assert_eq!(addresses(&proxy, "none"), ["192.0.2.1"]);
        // Perhaps passed on, by a proxy on the auth service's machine.
        for unknown in ["127.0.0.1:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert!(addresses(&proxy, unknown).is_empty(), "{unknown}");
        }
        // Nothing that stands for more than one machine.
        for ssh_address in
            ["0.0.0.0:1", "[::]:1", "[::ffff:0.0.0.0]:1", "127.0.0.1:1", "224.0.0.1:1", "0.0.0.0/0:1"]
        {
            let all = ProxyRecord { ssh_address: ssh_address.to_owned(), ..proxy.clone() };
            assert!(addresses(&all, "none").is_empty(), "{ssh_address}");
        }
    }

    #[test]
    fn d4_labels_of_the_token_win() {
        let own: Labels = "env=prod,os=linux".parse().unwrap();
        let forced: Labels = "env=test".parse().unwrap();
        assert_eq!(with_labels(&own, &forced).unwrap().to_string(), "env=test,os=linux");
    }
}
