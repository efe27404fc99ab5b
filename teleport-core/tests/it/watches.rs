//! Streams that outlive trouble, and end when they cannot go on.

use std::time::Duration;

use futures_util::StreamExt;
use teleport_core::api::{ApiErrorKind, NodeEvent, PresenceApi, TrustApi};
use teleport_core::id::HostRole;
use teleport_core::label::Labels;
use teleport_core::resource::{Node, NodeRecord};
use teleport_core::storage::BackendExt;

use crate::cluster::Cluster;

fn record(cluster: &Cluster, number: usize) -> NodeRecord {
    let host = cluster.host(&format!("node-{number}"), HostRole::Node);
    NodeRecord {
        host_id: host.host_id,
        name: host.name,
        address: "192.0.2.7:3022".to_owned(),
        labels: Labels::default(),
        version: "1".to_owned(),
    }
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("nothing came")
}

#[tokio::test]
async fn a_slow_reader_gets_the_whole_list_again() {
    let cluster = Cluster::new().await;
    let proxy = cluster.as_host(&cluster.host("proxy", HostRole::Proxy));
    let mut nodes = proxy.watch_nodes().await.unwrap();
    assert_eq!(soon(nodes.next()).await.unwrap().unwrap(), NodeEvent::Snapshot(Vec::new()));
    // More than any queue holds.
    let count = 20_000;
    let mut last = None;
    for number in 0..count {
        let record = record(&cluster, number);
        let key = format!("nodes/{}", record.host_id).parse().unwrap();
        let value = serde_json::to_vec(&record).unwrap();
        cluster.backend.put(&key, value.into(), None).await.unwrap();
        last = Some(record);
    }
    let snapshot: Vec<Node> = soon(async {
        loop {
            if let NodeEvent::Snapshot(nodes) = nodes.next().await.unwrap().unwrap() {
                return nodes;
            }
        }
    })
    .await;
    assert_eq!(snapshot.len(), count);
    assert!(snapshot.iter().any(|node| Some(&node.record) == last.as_ref()));
    // And what follows comes.
    let after = record(&cluster, count);
    let key = format!("nodes/{}", after.host_id).parse().unwrap();
    cluster.backend.put(&key, serde_json::to_vec(&after).unwrap().into(), None).await.unwrap();
    soon(async {
        loop {
            match nodes.next().await.unwrap().unwrap() {
                NodeEvent::Put(node) if node.record == after => return,
                _ => {}
            }
        }
    })
    .await;
}

#[tokio::test]
async fn streams_end_with_an_error_when_the_storage_is_closed() {
    let cluster = Cluster::new().await;
    let proxy = cluster.as_host(&cluster.host("proxy", HostRole::Proxy));
    let mut nodes = proxy.watch_nodes().await.unwrap();
    let mut access = proxy.watch_access().await.unwrap();
    soon(nodes.next()).await.unwrap().unwrap();
    soon(access.next()).await.unwrap().unwrap();
    cluster.backend.close().await;
    assert_eq!(soon(nodes.next()).await.unwrap().unwrap_err().kind(), ApiErrorKind::Unavailable);
    assert_eq!(soon(access.next()).await.unwrap().unwrap_err().kind(), ApiErrorKind::Unavailable);
    assert!(soon(nodes.next()).await.is_none());
    assert!(soon(access.next()).await.is_none());
    assert_eq!(proxy.nodes().await.unwrap_err().kind(), ApiErrorKind::Unavailable);
}

#[tokio::test]
async fn a_change_of_roles_is_told() {
    let cluster = Cluster::new().await;
    let node = cluster.as_host(&cluster.host("web-1", HostRole::Node));
    let mut access = node.watch_access().await.unwrap();
    assert_eq!(soon(access.next()).await.unwrap().unwrap().roles.len(), 3);
    cluster.backend.delete(&"roles/editor".parse().unwrap()).await.unwrap();
    let view = soon(access.next()).await.unwrap().unwrap();
    assert!(view.roles.iter().all(|role| role.metadata.name != "editor") && view.roles.len() == 2);
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_with_the_certificate_that_it_was_opened_with() {
    let cluster = Cluster::new().await;
    let node = cluster.as_host(&cluster.host("web-1", HostRole::Node));
    let mut access = node.watch_access().await.unwrap();
    assert!(access.next().await.unwrap().is_ok());
    cluster.clock.advance(Duration::from_secs(3600));
    assert_eq!(access.next().await.unwrap().unwrap_err().kind(), ApiErrorKind::Denied);
}

#[tokio::test]
async fn nothing_that_comes_after_the_end_of_the_certificate_is_told() {
    let cluster = Cluster::new().await;
    let proxy = cluster.as_host(&cluster.host("proxy", HostRole::Proxy));
    let mut nodes = proxy.watch_nodes().await.unwrap();
    let mut access = proxy.watch_access().await.unwrap();
    soon(nodes.next()).await.unwrap().unwrap();
    soon(access.next()).await.unwrap().unwrap();
    let (mut node, mut view) = (nodes.next(), access.next());
    assert!(futures_util::poll!(&mut node).is_pending());
    assert!(futures_util::poll!(&mut view).is_pending());
    cluster.clock.advance(Duration::from_secs(3600));
    let late = record(&cluster, 1);
    let key = format!("nodes/{}", late.host_id).parse().unwrap();
    cluster.backend.put(&key, serde_json::to_vec(&late).unwrap().into(), None).await.unwrap();
    cluster.backend.delete(&"roles/editor".parse().unwrap()).await.unwrap();
    assert_eq!(soon(node).await.unwrap().unwrap_err().kind(), ApiErrorKind::Denied);
    assert_eq!(soon(view).await.unwrap().unwrap_err().kind(), ApiErrorKind::Denied);
}
