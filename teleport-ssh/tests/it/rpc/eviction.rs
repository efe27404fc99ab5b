//! A host that was removed from the cluster stops asking: nobody answers, and each question would be a line in the audit log.

use std::sync::Arc;
use std::time::Duration;

use teleport_core::api::{AdminApi as _, IdentityApi as _, PresenceApi as _, ProxyAccess, RenewRequest};
use teleport_core::audit::EventKind;
use teleport_core::auth::Caller;
use teleport_core::entropy::SystemEntropy;
use teleport_core::id::HostRole;
use teleport_core::resource::NodeRecord;
use teleport_core::task::Shutdown;
use teleport_core::testing::subject_keys;
use teleport_ssh::identity::{Renewal, renew, renew_at};
use teleport_ssh::proxy::NodeView;
use teleport_ssh::view::{AccessCache, NoView};

use super::world::{World, soon};

#[tokio::test]
async fn a_removed_host_stops_asking() {
    let world = World::start().await;
    let admin = world.service.acting_as(Caller::LocalAdmin);
    let (node, other) = world.as_host(HostRole::Node, "web-1").await;
    let (proxy, handle) = world.as_host(HostRole::Proxy, "proxy-1").await;
    let material = handle.current();
    // Binds the id, as joining does.
    proxy.renew_host(RenewRequest { keys: subject_keys(1), addresses: Vec::new() }).await.unwrap();
    let listed = NodeRecord {
        host_id: other.current().host_id,
        name: other.current().name.clone(),
        address: "127.0.0.1:3022".to_owned(),
        labels: teleport_core::label::Labels::default(),
        sub_kind: teleport_core::resource::NodeKind::Teleport,
        proxy_ids: Vec::new(),
        version: "0".to_owned(),
    };
    node.announce_node(listed).await.unwrap();

    let (cache, nodes) = (AccessCache::new(Duration::from_secs(60)), NodeView::new());
    let access: Arc<dyn ProxyAccess> = Arc::new(proxy.clone());
    world.tasks.spawn(cache.follow(access.clone(), Arc::new(SystemEntropy::new()), Shutdown::new()));
    let following = {
        let (nodes, access) = (nodes.clone(), access.clone());
        async move { nodes.follow(access, Arc::new(SystemEntropy::new())).await }
    };
    let mut following = Box::pin(following);
    soon("the node in the table", async {
        tokio::select! {
            () = nodes.wait_for(|table| table.len() == 1) => {}
            () = &mut following => panic!("it is followed for as long as it is a member"),
        }
    })
    .await;
    soon("the view", cache.ready()).await;

    admin.delete_node(material.host_id).await.unwrap();
    soon("the end of the view", cache.evicted()).await;
    assert_eq!(cache.usable().unwrap_err(), NoView::Evicted);
    soon("the end of the table", following).await;
    assert!(nodes.read(|table| table.is_empty()), "it leads to nobody any more");
    let renewal = Renewal {
        identity: handle.clone(),
        store: None,
        api: Arc::new(proxy),
        addresses: Vec::new(),
        clock: world.clock(),
        entropy: Arc::new(SystemEntropy::new()),
    };
    world.clock.set(renew_at(material.valid_after, material.valid_before, 0));
    soon("the end of renewals", renew(renewal, Shutdown::new())).await;
    assert_eq!(handle.current().valid_before, material.valid_before);
    let refusals = world.audit.count(EventKind::ApiDenied);
    assert!((1..=3).contains(&refusals), "{refusals}");
}
