//! Hosts: tokens, join, renewal, presence.

use std::time::Duration;

use futures_util::StreamExt;

use super::{ApiFixture, admin, anonymous, as_host, as_user, fresh_name, host, host_id, refused, user};
use crate::api::{
    ApiErrorKind, CreateToken, CreatedToken, JoinRequest, NodeEvent, ProxyRecord, RenewRequest,
};
use crate::id::{HostId, HostRole, NodeName};
use crate::label::Labels;
use crate::resource::{Node, NodeRecord};
use crate::secret::SecretString;

async fn token(
    fixture: &dyn ApiFixture,
    roles: &[HostRole],
    uses: Option<u32>,
    labels: &str,
) -> CreatedToken {
    let labels: Labels = labels.parse().unwrap();
    let request = CreateToken { roles: roles.to_vec(), ttl: None, uses, labels, value: None };
    admin(fixture).create_token(request).await.unwrap()
}

fn join(fixture: &dyn ApiFixture, token: &SecretString, host_id: HostId, role: HostRole) -> JoinRequest {
    JoinRequest {
        token: token.clone(),
        host_id,
        name: NodeName::new("web-1").unwrap(),
        role,
        keys: fixture.keys(),
        addresses: vec!["192.0.2.7".to_owned()],
        client_ip: None,
    }
}

/// D2, I5: role, uses, and the same answer for everything else.
pub async fn a_token_admits_as_often_as_it_says(fixture: &dyn ApiFixture) {
    let public = anonymous(fixture);
    let made = token(fixture, &[HostRole::Node], Some(2), "").await;
    assert_eq!(made.token.len(), 32);
    assert_eq!(made.ca_pins, admin(fixture).status().await.unwrap().ca_pins);
    let ask = |role| join(fixture, &made.token, host_id(fixture), role);

    let wrong_role = refused(public.join(ask(HostRole::Proxy)).await, ApiErrorKind::Denied);
    let joined = public.join(ask(HostRole::Node)).await.unwrap();
    assert_eq!(joined.trust, public.trust().await.unwrap());
    assert!(joined.certificates.valid_before > fixture.now());
    public.join(ask(HostRole::Node)).await.unwrap();
    let used_up = refused(public.join(ask(HostRole::Node)).await, ApiErrorKind::Denied);
    let guess = SecretString::new("0123456789abcdef0123456789abcdef");
    let unknown = public.join(join(fixture, &guess, host_id(fixture), HostRole::Node)).await;
    let unknown = refused(unknown, ApiErrorKind::Denied);
    assert_eq!((wrong_role.message(), used_up.message()), (unknown.message(), unknown.message()));

    // D2: an invite is no join token, and the reverse.
    let name = fresh_name(fixture, "dave");
    let create =
        crate::api::CreateUser { name: name.clone(), roles: Vec::new(), logins: Vec::new(), ttl: None };
    let invite = admin(fixture).create_user(create).await.unwrap();
    let by_invite = join(fixture, &invite.token, host_id(fixture), HostRole::Node);
    refused(public.join(by_invite).await, ApiErrorKind::Denied);
    let other = token(fixture, &[HostRole::Node], None, "").await;
    refused(super::public(fixture).invite(other.token.clone()).await, ApiErrorKind::NotFound);
    admin(fixture).delete_user(name).await.unwrap();
    admin(fixture).delete_token(other.token).await.unwrap();
    admin(fixture).delete_token(made.token).await.unwrap();
}

/// D4, A10: who may have certificates for an id.
pub async fn a_host_id_belongs_to_its_keys(fixture: &dyn ApiFixture) {
    let public = anonymous(fixture);
    let made = token(fixture, &[HostRole::Node, HostRole::Proxy], None, "").await;
    let first = join(fixture, &made.token, host_id(fixture), HostRole::Node);
    public.join(first.clone()).await.unwrap();
    // The host itself may join again: what it gets is of use to nobody else.
    public.join(first.clone()).await.unwrap();
    let other_keys = fixture.keys();
    let mut half = first.clone();
    half.keys.tls = other_keys.tls.clone();
    let thief = JoinRequest { keys: other_keys, ..first.clone() };
    let other_role = JoinRequest { role: HostRole::Proxy, ..first.clone() };
    let foreign = host_id(fixture).to_string();
    let posing = JoinRequest { addresses: vec![foreign.clone()], host_id: host_id(fixture), ..first.clone() };
    for request in [thief, half, other_role, posing] {
        refused(public.join(request).await, ApiErrorKind::Denied);
    }

    let mut identity = host(fixture, "web-1", HostRole::Node);
    identity.host_id = first.host_id;
    let node = as_host(fixture, &identity);
    let renew = |addresses: &[&str]| RenewRequest {
        keys: fixture.keys(),
        addresses: addresses.iter().map(|address| (*address).to_owned()).collect(),
    };
    let renewed = node.renew_host(renew(&["192.0.2.8"])).await.unwrap();
    assert!(renewed.certificates.valid_before > fixture.now());
    for posing in [foreign.as_str(), "*", &format!("proxy.{}", fixture.cluster())] {
        refused(node.renew_host(renew(&[posing])).await, ApiErrorKind::Invalid);
    }
    identity.role = HostRole::Proxy;
    refused(as_host(fixture, &identity).renew_host(renew(&[])).await, ApiErrorKind::Denied);
    let person = as_user(fixture, user(fixture, "alice", &["access"], &["root"]));
    refused(person.renew_host(renew(&[])).await, ApiErrorKind::Denied);
    admin(fixture).delete_token(made.token).await.unwrap();
}

/// D6: a secret is shown once.
pub async fn tokens_are_listed_without_secrets(fixture: &dyn ApiFixture) {
    let admin = admin(fixture);
    let made = token(fixture, &[HostRole::Node], None, "env=prod").await;
    let listed = admin.tokens().await.unwrap();
    assert!(listed.contains(&made.info), "{listed:?}");
    assert!(!serde_json::to_string(&listed).unwrap().contains(made.token.expose()));
    let value = CreateToken { value: Some(made.token.clone()), ..request() };
    refused(admin.create_token(value).await, ApiErrorKind::Conflict);
    let short = CreateToken { value: Some(SecretString::new("short")), ..request() };
    refused(admin.create_token(short).await, ApiErrorKind::Invalid);
    refused(admin.create_token(CreateToken { uses: Some(0), ..request() }).await, ApiErrorKind::Invalid);
    refused(admin.create_token(CreateToken { ttl: Some(0), ..request() }).await, ApiErrorKind::Invalid);
    admin.delete_token(SecretString::new(made.info.id)).await.unwrap();
    refused(admin.delete_token(made.token).await, ApiErrorKind::NotFound);
}

fn request() -> CreateToken {
    CreateToken { roles: vec![HostRole::Node], ttl: None, uses: None, labels: Labels::default(), value: None }
}

/// What a node says of itself, and who is told.
pub async fn nodes_come_and_go(fixture: &dyn ApiFixture) {
    let public = anonymous(fixture);
    let made = token(fixture, &[HostRole::Node], None, "env=test").await;
    let joined = join(fixture, &made.token, host_id(fixture), HostRole::Node);
    public.join(joined.clone()).await.unwrap();
    let mut identity = host(fixture, "web-1", HostRole::Node);
    identity.host_id = joined.host_id;
    let node = as_host(fixture, &identity);
    let mine = |nodes: Vec<Node>| nodes.into_iter().find(|node| node.record.host_id == joined.host_id);

    refused(node.keep_alive().await, ApiErrorKind::NotFound);
    let record = NodeRecord {
        host_id: joined.host_id,
        name: NodeName::new("another-name").unwrap(),
        address: "192.0.2.7:3022".to_owned(),
        labels: "env=prod,os=linux".parse().unwrap(),
        sub_kind: crate::resource::NodeKind::Teleport,
        proxy_ids: Vec::new(),
        version: "1.0".to_owned(),
    };
    node.announce_node(record.clone()).await.unwrap();
    node.keep_alive().await.unwrap();
    let listed = mine(admin(fixture).nodes().await.unwrap()).expect("the node is listed");
    assert_eq!(listed.record.labels.to_string(), "env=test,os=linux", "labels of the token win");
    assert_eq!(listed.record.name.as_str(), "web-1", "the certificate says the name");
    assert!(listed.is_online(fixture.now()));

    let foreign = NodeRecord { host_id: host_id(fixture), ..record.clone() };
    refused(node.announce_node(foreign).await, ApiErrorKind::Denied);
    let nowhere = NodeRecord { address: "0.0.0.0:3022".to_owned(), ..record.clone() };
    refused(node.announce_node(nowhere).await, ApiErrorKind::Invalid);
    let mut proxy = identity.clone();
    proxy.role = HostRole::Proxy;
    refused(as_host(fixture, &proxy).announce_node(record.clone()).await, ApiErrorKind::Denied);

    let sees = as_user(fixture, user(fixture, "alice", &["access"], &["root"]));
    assert!(mine(sees.nodes().await.unwrap()).is_some());
    let blind = as_user(fixture, user(fixture, "bob", &["auditor"], &["root"]));
    assert!(mine(blind.nodes().await.unwrap()).is_none());
    let neighbour = as_host(fixture, &host(fixture, "web-2", HostRole::Node));
    assert!(neighbour.nodes().await.unwrap().is_empty());

    refused(sees.delete_node(joined.host_id).await, ApiErrorKind::Denied);
    admin(fixture).delete_node(joined.host_id).await.unwrap();
    refused(admin(fixture).delete_node(joined.host_id).await, ApiErrorKind::Conflict);
    refused(admin(fixture).delete_node(host_id(fixture)).await, ApiErrorKind::NotFound);
    assert!(mine(admin(fixture).nodes().await.unwrap()).is_none());
    let told = refused(node.keep_alive().await, ApiErrorKind::Evicted);
    assert!(told.message().contains("removed from the cluster"), "{told}");
    refused(node.announce_node(record).await, ApiErrorKind::Evicted);
    refused(node.emit_events(Vec::new()).await, ApiErrorKind::Evicted);
    let renew = RenewRequest { keys: fixture.keys(), addresses: Vec::new() };
    refused(node.renew_host(renew).await, ApiErrorKind::Evicted);
    let again = join(fixture, &made.token, joined.host_id, HostRole::Node);
    refused(public.join(again).await, ApiErrorKind::Evicted);
    let fresh = join(fixture, &made.token, host_id(fixture), HostRole::Node);
    public.join(fresh).await.unwrap();
    admin(fixture).delete_token(made.token).await.unwrap();
}

/// A proxy is known by what it says.
pub async fn proxies_are_in_the_status(fixture: &dyn ApiFixture) {
    let identity = host(fixture, "proxy-1", HostRole::Proxy);
    let proxy = as_host(fixture, &identity);
    let record = ProxyRecord {
        host_id: identity.host_id,
        name: identity.name.clone(),
        web_address: "proxy.example.org:3080".to_owned(),
        ssh_address: "192.0.2.1:3023".to_owned(),
        peer_address: None,
        tunnels: 0,
        version: "1.0".to_owned(),
    };
    proxy.announce_proxy(record.clone()).await.unwrap();
    let status = admin(fixture).status().await.unwrap();
    let listed = status.proxies.iter().find(|proxy| proxy.record == record).expect("the proxy is listed");
    assert!(listed.is_online(fixture.now()), "{listed:?}");
    assert_eq!(status.cluster_name, fixture.cluster());
    let foreign = ProxyRecord { host_id: host_id(fixture), ..record.clone() };
    refused(proxy.announce_proxy(foreign).await, ApiErrorKind::Denied);
    let bad = ProxyRecord { web_address: "https://proxy".to_owned(), ..record };
    refused(proxy.announce_proxy(bad).await, ApiErrorKind::Invalid);
}

/// Nothing here is slow; whoever waits longer waits for what will not come.
const SOON: Duration = Duration::from_secs(120);

/// Streams begin with everything and go on with what changes.
pub async fn watchers_see_changes(fixture: &dyn ApiFixture) {
    let proxy = as_host(fixture, &host(fixture, "proxy-1", HostRole::Proxy));
    let identity = host(fixture, "watched", HostRole::Node);
    let node_id = identity.host_id;
    let node = as_host(fixture, &identity);
    let record = NodeRecord {
        host_id: identity.host_id,
        name: identity.name.clone(),
        address: "192.0.2.7:3022".to_owned(),
        labels: Labels::default(),
        sub_kind: crate::resource::NodeKind::Teleport,
        proxy_ids: Vec::new(),
        version: "1.0".to_owned(),
    };
    let seen = async {
        let mut nodes = proxy.watch_nodes().await.unwrap();
        let first = nodes.next().await.unwrap().unwrap();
        assert!(matches!(first, NodeEvent::Snapshot(_)), "{first:?}");
        node.announce_node(record.clone()).await.unwrap();
        loop {
            match nodes.next().await.unwrap().unwrap() {
                NodeEvent::Put(node) if node.record == record => break,
                _ => {}
            }
        }
        let mut access = node.watch_access().await.unwrap();
        let view = access.next().await.unwrap().unwrap();
        assert_eq!(view.trust, node.trust().await.unwrap());
        assert!(view.roles.iter().any(|role| role.metadata.name == "access"));
        let identity = host(fixture, "proxy-2", HostRole::Proxy);
        // 2001:db8::/32 is for documentation.
        let announced = std::net::Ipv6Addr::from(0x2001_0db8 << 96 | u128::from(fixture.unique()));
        let proxy = ProxyRecord {
            host_id: identity.host_id,
            name: identity.name.clone(),
            web_address: "proxy.example.org:3080".to_owned(),
            ssh_address: format!("[{announced}]:3023"),
            peer_address: None,
            tunnels: 0,
            version: "1.0".to_owned(),
        };
        as_host(fixture, &identity).announce_proxy(proxy).await.unwrap();
        while !access.next().await.unwrap().unwrap().proxies.contains(&announced.into()) {}

        admin(fixture).delete_node(node_id).await.unwrap();
        loop {
            match nodes.next().await.unwrap().unwrap() {
                NodeEvent::Gone(id) if id == node_id => break,
                _ => {}
            }
        }
        // Also what is open already ends, and says why.
        let end = loop {
            match access.next().await.expect("a stream says why it ends") {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(end.kind(), ApiErrorKind::Evicted, "{end}");
    };
    tokio::time::timeout(SOON, seen).await.expect("the watchers saw nothing");
}
