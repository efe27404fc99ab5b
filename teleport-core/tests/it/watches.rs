//! Streams that outlive trouble, and end when they cannot go on.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use teleport_backend::memory::MemoryBackend;
use teleport_backend::wrap::{FaultBackend, MetricsBackend};
use teleport_core::api::{AdminApi, ApiErrorKind, NodeEvent, PresenceApi, ResourceApi, TrustApi};
use teleport_core::id::HostRole;
use teleport_core::label::Labels;
use teleport_core::resource::{Lock, LockSpec, Node, NodeRecord};
use teleport_core::storage::{
    Backend, BackendExt, Batch, Item, Key, Prefix, Revision, StorageError, Watch, WatchEvent, WatchSender,
};
use teleport_core::testing::ManualClock;

use crate::cluster::Cluster;

fn record(cluster: &Cluster, number: usize) -> NodeRecord {
    let host = cluster.host(&format!("node-{number}"), HostRole::Node);
    NodeRecord {
        host_id: host.host_id,
        name: host.name,
        address: "192.0.2.7:3022".to_owned(),
        labels: Labels::default(),
        sub_kind: teleport_core::resource::NodeKind::Teleport,
        proxy_ids: Vec::new(),
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

/// A backend of whose watches the first of each collection hears of nothing: nothing promises that those of one collection hear of a
/// change in any order, or soon.
#[derive(Debug)]
struct FirstIsDeaf {
    inner: Arc<dyn Backend>,
    deaf: Mutex<HashMap<String, WatchSender>>,
}

impl std::fmt::Display for FirstIsDeaf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl Backend for FirstIsDeaf {
    async fn get(&self, key: &Key) -> Result<Option<Item>, StorageError> {
        self.inner.get(key).await
    }

    async fn range(
        &self,
        prefix: &Prefix,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<Item>, StorageError> {
        self.inner.range(prefix, after, limit).await
    }

    async fn commit(&self, batch: Batch) -> Result<Revision, StorageError> {
        self.inner.commit(batch).await
    }

    async fn watch(&self, prefix: &Prefix) -> Result<Watch, StorageError> {
        if let Entry::Vacant(first) = self.deaf.lock().unwrap().entry(prefix.to_string()) {
            let (mut sender, watch) = Watch::channel(8);
            sender.send(WatchEvent::Ready { revision: Revision::ZERO });
            first.insert(sender);
            return Ok(watch);
        }
        self.inner.watch(prefix).await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

/// A stream that is woken decides by what woke it, though what is kept in memory has not heard of it.
#[tokio::test]
async fn what_wakes_a_stream_is_seen_by_it() {
    let clock = Arc::new(ManualClock::default());
    let inner: Arc<dyn Backend> = Arc::new(MemoryBackend::new(clock.clone()));
    let backend = Arc::new(FirstIsDeaf { inner, deaf: Mutex::default() });
    let cluster =
        Cluster::over(backend, clock, |config| config.trust_refresh = Duration::from_secs(3600)).await;
    // From now on roles and locks are in memory.
    cluster.as_user(&cluster.user("alice", &["access"], &["root"])).nodes().await.unwrap();
    let host = cluster.host("proxy", HostRole::Proxy);
    let proxy = cluster.as_host(&host);
    let mut access = proxy.watch_access().await.unwrap();
    let mut nodes = proxy.watch_nodes().await.unwrap();
    soon(access.next()).await.unwrap().unwrap();
    soon(nodes.next()).await.unwrap().unwrap();

    let mut role = cluster.admin().role("auditor".parse().unwrap()).await.unwrap();
    role.metadata.description = "changed".to_owned();
    cluster.admin().replace_role(role).await.unwrap();
    let view = soon(access.next()).await.unwrap().unwrap();
    assert!(view.roles.iter().any(|role| role.metadata.description == "changed"));

    let spec = LockSpec {
        target: serde_json::from_value(serde_json::json!({"node": host.host_id})).unwrap(),
        message: "By order".to_owned(),
    };
    cluster.admin().create_lock(Lock::new("l", spec)).await.unwrap();
    let end = soon(nodes.next()).await.unwrap().unwrap_err();
    assert!(end.message().ends_with("By order"), "{end}");
    soon(async { while access.next().await.unwrap().unwrap().locks.is_empty() {} }).await;
}

/// What many follow is looked for once, and a reader that takes nothing keeps nobody from news.
#[tokio::test]
async fn many_streams_of_views_cost_the_storage_as_much_as_one() {
    let clock = Arc::new(ManualClock::default());
    let backend = Arc::new(MetricsBackend::new(Arc::new(MemoryBackend::new(clock.clone()))));
    let cluster = Cluster::over(Arc::clone(&backend) as Arc<dyn Backend>, clock, |_| {}).await;
    let mut streams = Vec::new();
    let mut after_one = 0;
    for number in 0..50 {
        let node = cluster.as_host(&cluster.host(&format!("web-{number}"), HostRole::Node));
        let mut stream = node.watch_access().await.unwrap();
        soon(stream.next()).await.unwrap().unwrap();
        streams.push(stream);
        if number == 0 {
            after_one = backend.stats().watch.calls();
        }
    }
    assert_eq!(backend.stats().watch.calls(), after_one);
    let mut first = streams.remove(0);
    let mut idle = first.next();
    assert!(futures_util::poll!(&mut idle).is_pending());
    cluster.backend.delete(&"roles/editor".parse().unwrap()).await.unwrap();
    for stream in &mut streams {
        assert_eq!(soon(stream.next()).await.unwrap().unwrap().roles.len(), 2);
    }
    assert_eq!(soon(idle).await.unwrap().unwrap().roles.len(), 2);
}

/// A first view has all that was acknowledged before, whoever else follows.
#[tokio::test]
async fn a_new_stream_begins_with_what_is() {
    let cluster = Cluster::new().await;
    let node = cluster.as_host(&cluster.host("web-1", HostRole::Node));
    let _other = soon(node.watch_access().await.unwrap().next()).await;
    for number in 0..100 {
        let spec = LockSpec {
            target: serde_json::from_value(serde_json::json!({"user": format!("u{number}")})).unwrap(),
            message: String::new(),
        };
        cluster.admin().create_lock(Lock::new(format!("l{number}"), spec)).await.unwrap();
        let view = soon(node.watch_access().await.unwrap().next()).await.unwrap().unwrap();
        assert_eq!(view.locks.iter().count(), number + 1);
    }
}

#[tokio::test]
async fn who_comes_after_a_failure_of_the_storage_is_told_again() {
    let clock = Arc::new(ManualClock::default());
    let faults = FaultBackend::new(Arc::new(MemoryBackend::new(clock.clone())));
    let control = faults.faults();
    let cluster = Cluster::over(Arc::new(faults), clock, |_| {}).await;
    let node = cluster.as_host(&cluster.host("web-1", HostRole::Node));
    let mut before = node.watch_access().await.unwrap();
    soon(before.next()).await.unwrap().unwrap();
    // The reads of the next view.
    (1..=20).for_each(|nth| control.fail_read(nth));
    cluster.backend.delete(&"roles/editor".parse().unwrap()).await.unwrap();
    assert_eq!(soon(before.next()).await.unwrap().unwrap_err().kind(), ApiErrorKind::Unavailable);
    assert!(soon(before.next()).await.is_none());
    let view = soon(async {
        loop {
            // Some of the faults are left.
            let Ok(mut stream) = node.watch_access().await else { continue };
            if let Some(Ok(view)) = stream.next().await {
                return view;
            }
        }
    })
    .await;
    assert_eq!(view.roles.len(), 2);
}
