//! Whence callers seem to come whom a proxy passes on: never from the proxy's own machine.

use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::StreamExt as _;
use teleport_core::api::{
    ApiErrorKind, IdentityApi as _, JoinRequest, PresenceApi as _, ProxyRecord, PublicApi as _, RenewRequest,
    TrustApi as _,
};
use teleport_core::id::{HostId, HostRole};
use teleport_core::testing::subject_keys;
use teleport_ssh::identity::HostIdentityHandle;
use teleport_ssh::proxy_web::ProxyWeb;
use teleport_ssh::rpc::{AuthClient, AuthServer, ClientIdentity, Connector, ProxyConnector, pipe};

use super::world::{World, cluster, soon};

/// A proxy that is found as `proxy.example.net`, and its way to the auth service.
async fn proxy(world: &World, way: Arc<dyn Connector>) -> SocketAddr {
    let material = world.host(HostRole::Proxy, "gate").await;
    let record = ProxyRecord {
        host_id: material.host_id,
        name: material.name.clone(),
        web_address: "proxy.example.net:443".to_owned(),
        ssh_address: "192.0.2.1:3023".to_owned(),
        peer_address: None,
        tunnels: 0,
        version: "1".to_owned(),
    };
    let identity = HostIdentityHandle::new(material);
    let api =
        AuthClient::builder(Arc::clone(&way), ClientIdentity::Host(identity.clone()), world.clock()).build();
    api.announce_proxy(record).await.unwrap();
    world.serve_web(ProxyWeb::builder(Arc::new(api), identity, world.clock()).pass_to(way)).await
}

/// A way to the auth service of `world` for services of its process.
pub(super) async fn in_one_process(world: &World) -> Arc<dyn Connector> {
    let (connector, listener) = pipe();
    let service = Arc::new(world.service.clone());
    let bound = AuthServer::builder(service, world.identity.clone(), world.clock())
        .listen_pipe(listener)
        .bind()
        .await
        .unwrap();
    world.tasks.spawn(bound.serve(world.shutdown.clone()));
    Arc::new(connector)
}

fn through(world: &World, proxy: SocketAddr, identity: ClientIdentity) -> AuthClient {
    let way = ProxyConnector::new([proxy.to_string()], cluster());
    AuthClient::builder(Arc::new(way), identity, world.clock()).build()
}

async fn member(world: &World, role: HostRole, name: &str) -> (ClientIdentity, HostId) {
    let material = world.host(role, name).await;
    let id = material.host_id;
    (ClientIdentity::Host(HostIdentityHandle::new(material)), id)
}

/// No node behind `proxy` gets its names, neither by a token nor by a renewal.
async fn keeps_its_names(world: &World, proxy: SocketAddr) {
    let renewal =
        |number| RenewRequest { keys: subject_keys(number), addresses: vec!["proxy.example.net".to_owned()] };
    let (node, host_id) = member(world, HostRole::Node, "web-1").await;
    let error = soon("a refusal", through(world, proxy, node).renew_host(renewal(1))).await.unwrap_err();
    assert_eq!(error.kind(), ApiErrorKind::Invalid, "{error}");
    let nobody = through(world, proxy, ClientIdentity::Anonymous(world.trust()));
    for (name, address) in
        [("gate", "web-1.example.net"), ("web-1", "proxy.example.net"), ("web-1", "192.0.2.1")]
    {
        let request = JoinRequest {
            token: world.token(HostRole::Node).await,
            host_id,
            name: name.parse().unwrap(),
            role: HostRole::Node,
            keys: subject_keys(2),
            addresses: vec![address.to_owned()],
            client_ip: None,
        };
        let error = soon("a refusal", nobody.join(request)).await.unwrap_err();
        assert_eq!(error.kind(), ApiErrorKind::Denied, "{name} {address}: {error}");
    }
}

/// A proxy that calls through another one does not choose which addresses are exempt from limits.
async fn is_not_believed(world: &World, proxy: SocketAddr, watching: &AuthClient) {
    let (second, host_id) = member(world, HostRole::Proxy, "second").await;
    let record = ProxyRecord {
        host_id,
        name: "second".parse().unwrap(),
        web_address: "203.0.113.7:443".to_owned(),
        ssh_address: "203.0.113.8:3023".to_owned(),
        peer_address: None,
        tunnels: 0,
        version: "1".to_owned(),
    };
    soon("an answer", through(world, proxy, second).announce_proxy(record)).await.unwrap();
    let mut views = watching.watch_access().await.unwrap();
    let view = soon("a view", views.next()).await.unwrap().unwrap();
    for announced in ["203.0.113.7", "203.0.113.8"] {
        assert!(!view.proxies.contains(&announced.parse().unwrap()), "{:?}", view.proxies);
    }
}

#[tokio::test]
async fn a_node_behind_a_proxy_does_not_take_its_names() {
    let world = World::start().await;
    let web = proxy(&world, world.connector()).await;
    keeps_its_names(&world, web).await;
    let (node, _) = world.as_host(HostRole::Node, "web-9").await;
    is_not_believed(&world, web, &node).await;
}

#[tokio::test]
async fn nor_behind_one_in_the_process_of_the_auth_service() {
    let world = World::start().await;
    let way = in_one_process(&world).await;
    let web = proxy(&world, Arc::clone(&way)).await;
    keeps_its_names(&world, web).await;
    let (node, _) = member(&world, HostRole::Node, "web-9").await;
    let node = AuthClient::builder(way, node, world.clock()).build();
    is_not_believed(&world, web, &node).await;
    // The services of the process itself share their names.
    let renewal = RenewRequest { keys: subject_keys(3), addresses: vec!["proxy.example.net".to_owned()] };
    node.renew_host(renewal).await.unwrap();
    // And the proxy is believed about its own.
    let view = node.watch_access().await.unwrap().next().await.unwrap().unwrap();
    assert!(view.proxies.contains(&"192.0.2.1".parse().unwrap()), "{:?}", view.proxies);
}
