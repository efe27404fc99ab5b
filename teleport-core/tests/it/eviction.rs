//! A host that was removed: nothing is done for it any more, whatever certificates it holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use teleport_core::api::{
    AdminApi, ApiErrorKind, AuditApi, CreateToken, IdentityApi, JoinRequest, PresenceApi, ProxyRecord,
    PublicApi, RecordingApi, RenewRequest, TrustApi,
};
use teleport_core::audit::EventKind;
use teleport_core::auth::{Caller, EvictedHost};
use teleport_core::cert::HostIdentity;
use teleport_core::id::{HostRole, SessionId};
use teleport_core::label::Labels;
use teleport_core::resource::NodeRecord;
use teleport_core::secret::SecretString;
use teleport_core::storage::{BackendExt, Key, Repo};
use teleport_core::testing::subject_keys;

use crate::cluster::{Cluster, at_once};

async fn token(cluster: &Cluster, role: HostRole) -> SecretString {
    let request =
        CreateToken { roles: vec![role], ttl: None, uses: None, labels: Labels::default(), value: None };
    cluster.admin().create_token(request).await.unwrap().token
}

/// A host that joined, as its certificate says it.
async fn joined(cluster: &Cluster, role: HostRole) -> (HostIdentity, JoinRequest) {
    let host = cluster.host("web-1", role);
    let request = JoinRequest {
        token: token(cluster, role).await,
        host_id: host.host_id,
        name: host.name.clone(),
        role,
        keys: subject_keys(cluster.unique()),
        addresses: Vec::new(),
        client_ip: None,
    };
    cluster.anonymous().join(request.clone()).await.unwrap();
    (host, request)
}

#[tokio::test]
async fn nothing_is_done_for_a_host_that_was_removed() {
    let cluster = Cluster::new().await;
    let (host, request) = joined(&cluster, HostRole::Node).await;
    let node = cluster.as_host(&host);
    let renew = || RenewRequest { keys: subject_keys(9), addresses: Vec::new() };
    node.renew_host(renew()).await.unwrap();
    // Never announced: its certificates are what counts.
    let editor = cluster.as_user(&cluster.member("alice", &["editor"]).await);
    editor.delete_node(host.host_id).await.unwrap();
    let event = cluster.audit.last(EventKind::NodeDelete).unwrap();
    assert_eq!(event.user.as_deref(), Some("alice"));
    assert_eq!(event.fields["host_id"], host.host_id.to_string());
    assert_eq!((&event.fields["node_name"], &event.fields["role"]), (&"web-1".into(), &"node".into()));
    let evicted = Repo::<EvictedHost>::new(cluster.backend.clone());
    let record = evicted.get(&host.host_id.to_string()).await.unwrap().unwrap().record;
    assert_eq!((record.at, record.by.as_str()), (cluster.now(), "alice"));

    let issued = cluster.issuer.issued();
    let session = SessionId::from_uuid(uuid::Uuid::from_u64_pair(0x1234_5678_4000_8000, 7));
    let calls = [
        ("renew_host", node.renew_host(renew()).await.map(drop)),
        ("keep_alive", node.keep_alive().await),
        ("emit_events", node.emit_events(Vec::new()).await),
        ("put_recording_part", node.put_recording_part(session, 0, "x".into()).await),
        ("nodes", node.nodes().await.map(drop)),
        ("watch_access", node.watch_access().await.map(drop)),
        ("trust", node.trust().await.map(drop)),
        ("ping", node.ping().await.map(drop)),
    ];
    for (name, outcome) in calls {
        let error = outcome.unwrap_err();
        assert_eq!(error.kind(), ApiErrorKind::Evicted, "{name}");
        assert_eq!(
            error.message(),
            "this host was removed from the cluster by an administrator; \
             join again with a new token and a new data directory",
            "{name}"
        );
    }
    assert_eq!(cluster.audit.count(EventKind::ApiDenied), 1, "a line a minute, however often it calls");
    let denied = cluster.audit.last(EventKind::ApiDenied).unwrap();
    assert_eq!(denied.error.as_deref(), Some("the host was removed from the cluster"));
    assert_eq!(denied.server_id, Some(host.host_id));
    cluster.clock.advance(Duration::from_secs(60));
    for _ in 0..1000 {
        assert_eq!(node.keep_alive().await.unwrap_err().kind(), ApiErrorKind::Evicted);
    }
    assert_eq!(cluster.audit.count(EventKind::ApiDenied), 2);
    let denied = cluster.audit.last(EventKind::ApiDenied).unwrap();
    assert_eq!(
        denied.error.as_deref(),
        Some("the host was removed from the cluster; 7 more of its calls since the last such event")
    );

    // Its own id does not come back by a token, another one does.
    let again = JoinRequest { token: token(&cluster, HostRole::Node).await, ..request.clone() };
    assert_eq!(
        cluster.anonymous().join(again.clone()).await.unwrap_err().kind(),
        ApiErrorKind::Evicted,
        "who has a good token may know"
    );
    let without = JoinRequest { token: SecretString::new("0".repeat(32)), ..request };
    assert_eq!(cluster.anonymous().join(without).await.unwrap_err().kind(), ApiErrorKind::Denied);
    assert_eq!(cluster.issuer.issued(), issued);
    joined(&cluster, HostRole::Node).await;

    // It is remembered for longer than any of its certificates lasts, also over restarts.
    cluster.clock.advance(Duration::from_secs(7 * 86_400));
    let fresh = cluster.second().acting_as(Caller::Anonymous { remote: None });
    let again = JoinRequest { token: token(&cluster, HostRole::Node).await, ..again };
    assert_eq!(fresh.join(again).await.unwrap_err().kind(), ApiErrorKind::Evicted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_renewal_at_the_same_moment_does_not_bring_a_host_back() {
    let cluster = Cluster::new().await;
    for _ in 0..20 {
        let (host, _) = joined(&cluster, HostRole::Node).await;
        let (node, admin) = (cluster.as_host(&host), cluster.admin());
        let renewals = (0..4).map(|number| {
            let node = node.clone();
            let request = RenewRequest { keys: subject_keys(100 + number), addresses: Vec::new() };
            async move { ("renewal", node.renew_host(request).await.map(drop)) }.boxed()
        });
        let removal = async move { ("removal", admin.delete_node(host.host_id).await) }.boxed();
        for (what, outcome) in at_once(renewals.chain([removal])).await {
            match outcome {
                Ok(()) => {}
                Err(error) => assert_eq!((what, error.kind()), ("renewal", ApiErrorKind::Evicted), "{error}"),
            }
        }
        assert_eq!(node.keep_alive().await.unwrap_err().kind(), ApiErrorKind::Evicted);
    }
}

fn node_record(host: &HostIdentity) -> NodeRecord {
    NodeRecord {
        host_id: host.host_id,
        name: host.name.clone(),
        address: "192.0.2.7:3022".to_owned(),
        labels: Labels::default(),
        sub_kind: teleport_core::resource::NodeKind::Teleport,
        proxy_ids: Vec::new(),
        version: "1".to_owned(),
    }
}

fn proxy_record(host: &HostIdentity) -> ProxyRecord {
    ProxyRecord {
        host_id: host.host_id,
        name: host.name.clone(),
        web_address: "192.0.2.1:3080".to_owned(),
        ssh_address: "192.0.2.1:3023".to_owned(),
        peer_address: None,
        tunnels: 0,
        version: "1".to_owned(),
    }
}

/// Nothing of what a host says of itself is stored.
async fn is_not_listed(cluster: &Cluster, host: &HostIdentity) -> bool {
    for collection in ["nodes", "proxies", "proxy-sources"] {
        let key = Key::new(&format!("{collection}/{}", host.host_id)).unwrap();
        if cluster.backend.get(&key).await.unwrap().is_some() {
            return false;
        }
    }
    true
}

/// Calls that were permitted just before the removal must not write after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn announcements_at_the_same_moment_do_not_bring_a_host_back() {
    for round in 0..40 {
        let cluster = Cluster::new().await;
        let role = if round % 2 == 0 { HostRole::Node } else { HostRole::Proxy };
        let (host, _) = joined(&cluster, role).await;
        let (api, admin) = (cluster.as_host(&host), cluster.admin());
        let removed = Arc::new(AtomicBool::new(false));
        let announcers = (0..8).map(|number| {
            let (api, host, removed) = (api.clone(), host.clone(), Arc::clone(&removed));
            async move {
                // Until each has met the removal, so that it happens amid announcements.
                while !removed.load(Ordering::SeqCst) {
                    let outcome = match role {
                        _ if number % 4 == 3 => api.keep_alive().await,
                        HostRole::Node => api.announce_node(node_record(&host)).await,
                        _ => api.announce_proxy(proxy_record(&host)).await,
                    };
                    match outcome.map_err(|error| error.kind()) {
                        Ok(()) | Err(ApiErrorKind::NotFound | ApiErrorKind::Denied) => {}
                        Err(kind) => assert_eq!(kind, ApiErrorKind::Evicted),
                    }
                    tokio::task::yield_now().await;
                }
            }
            .boxed()
        });
        let stop = Arc::clone(&removed);
        let removal = async move {
            tokio::task::yield_now().await;
            admin.delete_node(host.host_id).await.unwrap();
            stop.store(true, Ordering::SeqCst);
        }
        .boxed();
        at_once(announcers.chain([removal])).await;
        assert!(is_not_listed(&cluster, &host).await, "{role:?}, round {round}");
    }
}

/// What an older version left behind, or another hand wrote: a removal can be repeated until nothing is listed.
#[tokio::test]
async fn what_is_listed_of_a_removed_host_can_be_removed() {
    let cluster = Cluster::new().await;
    let (host, _) = joined(&cluster, HostRole::Node).await;
    cluster.as_host(&host).announce_node(node_record(&host)).await.unwrap();
    let key = Key::new(&format!("nodes/{}", host.host_id)).unwrap();
    let item = cluster.backend.get(&key).await.unwrap().unwrap();
    cluster.admin().delete_node(host.host_id).await.unwrap();
    cluster.backend.put(&key, item.value, item.expires).await.unwrap();
    assert_eq!(cluster.admin().nodes().await.unwrap().len(), 1);

    cluster.admin().delete_node(host.host_id).await.unwrap();
    assert!(cluster.admin().nodes().await.unwrap().is_empty());
    assert_eq!(cluster.audit.count(EventKind::NodeDelete), 2);
    let error = cluster.admin().delete_node(host.host_id).await.unwrap_err();
    assert_eq!(error.kind(), ApiErrorKind::Conflict, "{error}");
    assert_eq!(cluster.as_host(&host).keep_alive().await.unwrap_err().kind(), ApiErrorKind::Evicted);
}

#[tokio::test]
async fn a_proxy_is_removed_like_a_node_and_its_streams_end() {
    let cluster = Cluster::new().await;
    let (host, _) = joined(&cluster, HostRole::Proxy).await;
    let proxy = cluster.as_host(&host);
    let record = proxy_record(&host);
    proxy.announce_proxy(record.clone()).await.unwrap();
    let mut nodes = proxy.watch_nodes().await.unwrap();
    nodes.next().await.unwrap().unwrap();
    let mut witness = cluster.admin().watch_access().await.unwrap();
    assert_eq!(witness.next().await.unwrap().unwrap().proxies.len(), 1);

    // By another auth service over the same storage.
    let other = cluster.second().acting_as(Caller::LocalAdmin);
    other.delete_node(host.host_id).await.unwrap();
    let end = tokio::time::timeout(Duration::from_secs(20), nodes.next()).await.expect("it ends");
    assert_eq!(end.unwrap().unwrap_err().kind(), ApiErrorKind::Evicted);
    assert!(nodes.next().await.is_none());
    let view = witness.next().await.unwrap().unwrap();
    assert!(view.proxies.is_empty(), "its addresses are nobody's");
    assert_eq!(view.removed_proxies, [host.host_id].into_iter().collect(), "its word counts for nothing");
    // Nodes say nothing of clients: nobody has to know which are gone.
    let (node, _) = joined(&cluster, HostRole::Node).await;
    cluster.admin().delete_node(node.host_id).await.unwrap();
    let view = cluster.admin().watch_access().await.unwrap().next().await.unwrap().unwrap();
    assert_eq!(view.removed_proxies, [host.host_id].into_iter().collect());
    assert!(cluster.admin().status().await.unwrap().proxies.is_empty());
    assert_eq!(proxy.announce_proxy(record).await.unwrap_err().kind(), ApiErrorKind::Evicted);
}

#[tokio::test]
async fn the_auth_service_does_not_remove_itself() {
    let cluster = Cluster::new().await;
    let (host, _) = joined(&cluster, HostRole::Auth).await;
    let error = cluster.admin().delete_node(host.host_id).await.unwrap_err();
    assert_eq!(error.kind(), ApiErrorKind::Invalid, "{error}");
    assert!(cluster.as_host(&host).users().await.is_ok());
}
