//! Watches and what ends them.

use std::time::Duration;

use futures_util::StreamExt as _;
use teleport_core::api::{ApiErrorKind, NodeEvent, PresenceApi as _, TrustApi as _};
use teleport_core::id::HostRole;
use teleport_core::resource::NodeRecord;

use super::world::{World, soon};

#[tokio::test]
async fn nodes_are_seen_as_they_come_and_go() {
    let world = World::start().await;
    let (proxy, _) = world.as_host(HostRole::Proxy, "proxy-1").await;
    let mut events = proxy.watch_nodes().await.unwrap();
    let first = soon("the snapshot", events.next()).await.unwrap().unwrap();
    assert_eq!(first, NodeEvent::Snapshot(Vec::new()));
    let (node, handle) = world.as_host(HostRole::Node, "web-1").await;
    let material = handle.current();
    node.announce_node(NodeRecord {
        host_id: material.host_id,
        name: material.name.clone(),
        address: "127.0.0.1:3022".to_owned(),
        labels: teleport_core::label::Labels::default(),
        sub_kind: teleport_core::resource::NodeKind::Teleport,
        proxy_ids: Vec::new(),
        version: "0".to_owned(),
    })
    .await
    .unwrap();
    match soon("the node", events.next()).await.unwrap().unwrap() {
        NodeEvent::Put(node) => assert_eq!(node.record.host_id, material.host_id),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn draining_ends_watches_and_abort_cuts_them() {
    let world = World::start().await;
    let (node, _) = world.as_host(HostRole::Node, "web-1").await;
    let mut views = node.watch_access().await.unwrap();
    let view = soon("the first view", views.next()).await.unwrap().unwrap();
    assert_eq!(view.trust, world.trust());
    world.shutdown.drain();
    assert!(soon("the end", views.next()).await.is_none());
    soon("the server's end", world.tasks.join()).await;
}

#[tokio::test]
async fn a_cut_watch_ends_with_an_error() {
    let world = World::start().await;
    let (node, _) = world.as_host(HostRole::Node, "web-1").await;
    let mut views = node.watch_access().await.unwrap();
    soon("the first view", views.next()).await.unwrap().unwrap();
    world.tasks.abort().await;
    let error = soon("the cut", views.next()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ApiErrorKind::Unavailable);
    assert!(views.next().await.is_none());
}

#[tokio::test]
async fn a_watch_ends_with_the_certificate() {
    let world = World::start().await;
    let (node, _) = world.as_host(HostRole::Node, "web-1").await;
    let mut views = node.watch_access().await.unwrap();
    soon("the first view", views.next()).await.unwrap().unwrap();
    world.clock.advance(Duration::from_secs(8 * 24 * 3600));
    // Noticed with the next sign of life.
    let last = soon("the end", views.next()).await;
    assert!(matches!(last, Some(Err(error)) if error.kind() == ApiErrorKind::Denied));
}

#[tokio::test]
async fn the_client_finds_a_server_that_came_back() {
    let world = World::start().await;
    let (node, _) = world.as_host(HostRole::Node, "web-1").await;
    node.trust().await.unwrap();
    world.tasks.abort().await;
    assert_eq!(soon("a failure", node.trust()).await.unwrap_err().kind(), ApiErrorKind::Unavailable);
    let bound = teleport_ssh::rpc::AuthServer::builder(
        std::sync::Arc::new(world.service.clone()),
        world.identity.clone(),
        world.clock(),
    )
    .listen(world.address)
    .bind()
    .await
    .unwrap();
    world.tasks.spawn(bound.serve(world.shutdown.clone()));
    soon("the answer", node.trust()).await.unwrap();
}

#[tokio::test]
async fn a_pipe_is_as_good_as_a_socket() {
    let world = World::start().await;
    let (connector, listener) = teleport_ssh::rpc::pipe();
    let bound = teleport_ssh::rpc::AuthServer::builder(
        std::sync::Arc::new(world.service.clone()),
        world.identity.clone(),
        world.clock(),
    )
    .listen_pipe(listener)
    .bind()
    .await
    .unwrap();
    world.tasks.spawn(bound.serve(world.shutdown.clone()));
    let node = teleport_ssh::rpc::ClientIdentity::Host(teleport_ssh::identity::HostIdentityHandle::new(
        world.host(HostRole::Node, "web-1").await,
    ));
    let client =
        teleport_ssh::rpc::AuthClient::builder(std::sync::Arc::new(connector), node, world.clock()).build();
    assert_eq!(soon("an answer", client.trust()).await.unwrap(), world.trust());
}
