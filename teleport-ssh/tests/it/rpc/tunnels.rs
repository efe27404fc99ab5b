//! Who may have a tunnel to a proxy: over real TLS, at the proxy's web port.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use teleport_core::api::TrustApi as _;
use teleport_core::id::HostRole;
use teleport_ssh::identity::{HostIdentityHandle, HostMaterial};
use teleport_ssh::keys::TlsKeyPair;
use teleport_ssh::listener::limits::Limits;
use teleport_ssh::proxy::Direct;
use teleport_ssh::proxy_web::ProxyWeb;
use teleport_ssh::rpc::{AuthClient, ClientIdentity, ProxyConnector};
use teleport_ssh::tunnel::Tunnels;
use tokio::io::AsyncReadExt as _;

use super::hostile::{tls, tls_as};
use super::world::{World, authority, cluster, host, soon, user};

const ALPN: &[u8] = b"teleport-reversetunnel";

async fn proxy(world: &World) -> (SocketAddr, Tunnels) {
    let tunnels = Tunnels::new(Arc::new(Direct::new()));
    let (api, identity) = world.as_host(HostRole::Proxy, "proxy-1").await;
    let web = ProxyWeb::builder(Arc::new(api), identity, world.clock()).tunnels(tunnels.clone());
    (world.serve_web(web).await, tunnels)
}

/// Whether the proxy ends a connection that shows this, and without having said a word of what is inside TLS.
async fn is_refused(world: &World, at: SocketAddr, shown: Option<(&[u8], &TlsKeyPair)>) -> bool {
    let stream = match shown {
        Some(identity) => tls_as(world, at, &[ALPN], identity).await,
        None => tls(world, at, &[ALPN]).await,
    };
    // In TLS 1.3 the client is done before the server has seen its certificate.
    let Ok(mut stream) = stream else { return true };
    let mut sink = [0; 64];
    !matches!(soon("an answer", stream.read(&mut sink)).await, Ok(1..))
}

/// Row B12 of who comes to the tunnels' door, and C2: nobody but a node of this cluster, by a certificate that holds.
#[tokio::test]
async fn b12_only_nodes_of_the_cluster_get_a_tunnel() {
    let world = World::start().await;
    let (at, tunnels) = proxy(&world).await;
    let alice = user(&world.ca, "alice", &["access", "node"], Duration::from_secs(3600)).await;
    let (of_proxy, of_auth) = (world.host(HostRole::Proxy, "p").await, world.host(HostRole::Auth, "a").await);
    let elsewhere = host(&*authority(&world.clock).await, HostRole::Node, "web-1").await;
    let node = world.host(HostRole::Node, "web-1").await;
    for (who, shown) in [
        ("nobody", None),
        ("a user", Some((&alice.certificate[..], &alice.tls))),
        ("a proxy", Some((&of_proxy.tls_certificate[..], &of_proxy.tls))),
        ("the auth service", Some((&of_auth.tls_certificate[..], &of_auth.tls))),
        ("a node of another cluster", Some((&elsewhere.tls_certificate[..], &elsewhere.tls))),
    ] {
        assert!(is_refused(&world, at, shown).await, "{who}");
        assert!(tunnels.is_empty(), "{who}");
    }
    let shown = (&node.tls_certificate[..], &node.tls);
    let mut good = tls_as(&world, at, &[ALPN], shown).await.unwrap();
    let mut first = [0; 24];
    soon("the proxy's first word", good.read_exact(&mut first)).await.unwrap();
    assert_eq!(&first, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    assert!(tunnels.has(node.host_id) && tunnels.len() == 1);
    drop(good);
    soon("its end", async {
        while !tunnels.is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // And not when it has ended.
    world.clock.advance(Duration::from_secs(400 * 24 * 3600));
    assert!(is_refused(&world, at, Some(shown)).await);
}

/// Goal G-10: what lasts as long as a node has places of its own, and keeps nobody else out.
#[tokio::test]
async fn g10_tunnels_and_ways_to_the_auth_service_take_no_places_of_the_port() {
    let world = World::start().await;
    let tunnels = Tunnels::new(Arc::new(Direct::new()));
    let (api, identity) = world.as_host(HostRole::Proxy, "proxy-1").await;
    let web = ProxyWeb::builder(Arc::new(api), identity, world.clock())
        .tunnels(tunnels.clone())
        .max_tunnels(2)
        .pass_to(world.connector())
        .limits(Limits { connections: 1, ..Limits::default() });
    let at = world.serve_web(web).await;
    let nodes = [world.host(HostRole::Node, "a").await, world.host(HostRole::Node, "b").await];
    let stands = async |node: &HostMaterial| {
        let mut stream = tls_as(&world, at, &[ALPN], (&node.tls_certificate, &node.tls)).await.unwrap();
        soon("the proxy's first word", stream.read_exact(&mut [0; 24])).await.unwrap();
        stream
    };
    let first = stands(&nodes[0]).await;
    let _second = stands(&nodes[1]).await;
    let way = Arc::new(ProxyConnector::new([at.to_string()], cluster()));
    let identity = ClientIdentity::Host(HostIdentityHandle::new(world.host(HostRole::Node, "c").await));
    let client = AuthClient::builder(way, identity, world.clock()).build();
    soon("an answer of the auth service", client.trust()).await.unwrap();
    // Of their own there are as many as was said.
    let third = world.host(HostRole::Node, "d").await;
    assert!(is_refused(&world, at, Some((&third.tls_certificate, &third.tls))).await);
    drop(first);
    soon("its end", async {
        while tunnels.len() > 1 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let _third = stands(&third).await;
    soon("HTTPS", tls(&world, at, &[b"http/1.1"])).await.unwrap();
}

#[tokio::test]
async fn a_proxy_without_tunnels_takes_none() {
    let world = World::start().await;
    let at = world.web(teleport_ssh::proxy_web::WebRates::default()).await;
    let node = world.host(HostRole::Node, "web-1").await;
    assert!(is_refused(&world, at, Some((&node.tls_certificate, &node.tls))).await);
}
