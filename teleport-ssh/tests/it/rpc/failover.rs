//! Several ways to the auth service, some of which lead nowhere.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use teleport_core::api::TrustApi;
use teleport_core::id::HostRole;
use teleport_core::task::TaskScope;
use teleport_ssh::identity::HostIdentityHandle;
use teleport_ssh::rpc::{AuthClient, ClientIdentity, TcpConnector};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::Instant;

use super::world::World;

/// How long anything may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Takes connections and does something with each, as long as the scope lives.
async fn listen<F: Future<Output = ()> + Send + 'static>(
    scope: &TaskScope,
    serve: impl Fn(TcpStream) -> F + Send + Sync + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let served = Arc::new(serve);
    let connections = TaskScope::new();
    scope.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(served(stream));
        }
    });
    address
}

async fn client(world: &World, ways: &[SocketAddr], deadline: Duration) -> AuthClient {
    let identity = HostIdentityHandle::new(world.host(HostRole::Node, "web-1").await);
    let connector = TcpConnector::new(ways.iter().map(ToString::to_string));
    AuthClient::builder(Arc::new(connector), ClientIdentity::Host(identity), world.clock())
        .deadline(deadline)
        .build()
}

/// Asks until there is an answer; says how many attempts failed.
async fn until_answered(client: &AuthClient) -> u32 {
    let until = Instant::now() + PATIENCE;
    let mut failed = 0;
    while let Err(error) = client.trust().await {
        assert!(Instant::now() < until, "{error:?}");
        failed += 1;
    }
    failed
}

#[tokio::test]
async fn a_place_where_nobody_serves_is_passed_over_in_the_same_call() {
    let world = World::start().await;
    let scope = TaskScope::new();
    let closes = listen(&scope, |stream| async move { drop(stream) }).await;
    let nobody = {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        listener.local_addr().unwrap()
    };
    for ways in [
        vec![closes, world.address],
        vec![nobody, world.address],
        vec![closes, nobody, world.address],
        vec![closes, closes, closes, world.address],
    ] {
        client(&world, &ways, PATIENCE).await.trust().await.unwrap();
    }
    // Whoever has no other way is told.
    client(&world, &[closes], PATIENCE).await.trust().await.unwrap_err();
}

/// A host that takes connections and is silent; one that falls silent later. Whoever asks next asks elsewhere.
#[tokio::test]
async fn a_service_that_hangs_is_left_after_the_time_of_a_call() {
    let world = World::start().await;
    let scope = TaskScope::new();
    let silent = listen(&scope, |stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let short = Duration::from_secs(1);
    let begins = client(&world, &[silent, world.address], short).await;
    assert!(until_answered(&begins).await > 0, "the first one says nothing");

    let (stall, stalled) = watch::channel(false);
    let to = world.address;
    let relay = listen(&scope, move |mut near| {
        let mut stalled = stalled.clone();
        async move {
            let Ok(mut far) = TcpStream::connect(to).await else { return };
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                // It keeps both open and passes nothing on.
                () = async { drop(stalled.wait_for(|stalled| *stalled).await) } => std::future::pending().await,
            }
        }
    })
    .await;
    let later = client(&world, &[relay, world.address], short).await;
    until_answered(&later).await;
    stall.send_replace(true);
    // It may have left the relay before, on a machine with much to do.
    until_answered(&later).await;
}

/// The network is another one: what goes by the old connection arrives nowhere, and nothing says so.
#[tokio::test]
async fn the_next_call_after_a_doubt_goes_by_a_new_connection() {
    let world = World::start().await;
    let scope = TaskScope::new();
    let (cut, first_is_cut) = watch::channel(false);
    let (count, to) = (Arc::new(AtomicUsize::new(0)), world.address);
    let counted = Arc::clone(&count);
    let relay = listen(&scope, move |mut near| {
        let is_first = counted.fetch_add(1, Ordering::SeqCst) == 0;
        let mut cut = first_is_cut.clone();
        async move {
            let Ok(mut far) = TcpStream::connect(to).await else { return };
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                () = async { drop(cut.wait_for(|cut| *cut).await) }, if is_first => std::future::pending().await,
            }
        }
    })
    .await;
    // Nobody waits for the time of a call.
    let client = client(&world, &[relay], PATIENCE * 10).await;
    client.trust().await.unwrap();
    // An answer came in the time that is meant: nothing is to be doubted.
    client.doubt(PATIENCE * 10);
    client.trust().await.unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 1);
    cut.send_replace(true);
    client.doubt(Duration::ZERO);
    tokio::time::timeout(PATIENCE, client.trust()).await.unwrap().unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 2);
}
