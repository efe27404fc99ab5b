//! Places of users who may have only so many connections.

use super::{ApiFixture, as_host, as_user, fresh_name, host, refused, user, uuid};
use crate::api::{ApiErrorKind, ConnectionClaim, HoldConnections, ReleaseConnections};
use crate::id::{ConnectionId, HostRole, RunId};

/// Places are counted over all nodes, and each node has a say over its own alone.
pub async fn places_belong_to_their_node(fixture: &dyn ApiFixture) {
    let name = fresh_name(fixture, "heidi");
    let node = |name| as_host(fixture, &host(fixture, name, HostRole::Node));
    let (first, second) = (node("web-1"), node("web-2"));
    let run = || RunId::from_uuid(uuid(fixture));
    let (first_run, second_run) = (run(), run());
    let id = || ConnectionId::from_uuid(uuid(fixture));
    let claim = |id| ConnectionClaim { id, user: name.clone(), most: 2 };
    let ask = |run, ids: &[ConnectionId]| HoldConnections {
        run,
        connections: ids.iter().copied().map(claim).collect(),
    };
    let (one, two, three) = (id(), id(), id());

    let held = first.hold_connections(ask(first_run, &[one, one])).await.unwrap();
    assert!(held.refused.is_empty(), "asking twice takes one: {held:?}");
    assert!(second.hold_connections(ask(second_run, &[two])).await.unwrap().refused.is_empty());
    assert_eq!(second.hold_connections(ask(second_run, &[three, two])).await.unwrap().refused, [three]);
    // Knowing the id of another node's place is of no use.
    assert_eq!(second.hold_connections(ask(second_run, &[one])).await.unwrap().refused, [one]);
    let release = |id| ReleaseConnections { connections: vec![(name.clone(), id)] };
    second.release_connections(release(one)).await.unwrap();
    assert_eq!(second.hold_connections(ask(second_run, &[three])).await.unwrap().refused, [three]);
    first.release_connections(release(one)).await.unwrap();
    first.release_connections(release(one)).await.unwrap();
    assert!(second.hold_connections(ask(second_run, &[three])).await.unwrap().refused.is_empty());
    // What a node's earlier run has left behind is free with its first call.
    assert!(second.hold_connections(ask(run(), &[one])).await.unwrap().refused.is_empty());
    assert!(first.hold_connections(ask(first_run, &[two])).await.unwrap().refused.is_empty());
    assert_eq!(first.hold_connections(ask(first_run, &[three])).await.unwrap().refused, [three]);
    // Others are not concerned.
    let other = ConnectionClaim { id: id(), user: fresh_name(fixture, "ivan"), most: 1 };
    let others = HoldConnections { run: first_run, connections: vec![other] };
    assert!(first.hold_connections(others).await.unwrap().refused.is_empty());

    let many = vec![one; HoldConnections::MAX + 1];
    refused(first.hold_connections(ask(first_run, &many)).await, ApiErrorKind::Invalid);
    let many = ReleaseConnections { connections: many.iter().map(|id| (name.clone(), *id)).collect() };
    refused(first.release_connections(many).await, ApiErrorKind::Invalid);
    let stranger = as_user(fixture, user(fixture, name.as_str(), &["access"], &["root"]));
    refused(stranger.hold_connections(ask(run(), &[three])).await, ApiErrorKind::Denied);
    refused(stranger.release_connections(release(one)).await, ApiErrorKind::Denied);
    // A proxy takes them for the servers that it stands in for, and knows of nobody else's.
    let proxy = as_host(fixture, &host(fixture, "proxy-1", HostRole::Proxy));
    assert_eq!(proxy.hold_connections(ask(run(), &[three])).await.unwrap().refused, [three]);
    proxy.release_connections(release(two)).await.unwrap();
    assert_eq!(proxy.hold_connections(ask(run(), &[three])).await.unwrap().refused, [three]);
}
