//! Hosts that are not who they should be (A11): our client refuses them and says why.

use std::sync::Arc;
use std::time::Duration;

use teleport_core::cert::CertRejected;
use teleport_core::clock::{Clock, SystemClock};
use teleport_core::id::OsLogin;
use teleport_core::testing::ManualClock;
use teleport_ssh::client::{ConnectError, HostRejected, SshClient};

use super::{TestUser, World, os_user};

async fn connect(client: &SshClient, world: &World, target: &str) -> Result<(), ConnectError> {
    let proxy = client.proxy(&world.address()).await?;
    let login = OsLogin::new(&os_user()).unwrap();
    client.node(proxy, &target.parse().unwrap(), &login).await?.disconnect().await;
    Ok(())
}

#[track_caller]
fn assert_rejected(result: Result<(), ConnectError>, peer: &str, expected: HostRejected) {
    match result {
        Err(ConnectError::Host { peer: actual, rejected }) => {
            assert_eq!((actual.as_str(), rejected), (peer, expected));
        }
        other => panic!("{expected:?} expected, not {other:?}"),
    }
}

const fn certificate(reason: CertRejected) -> HostRejected {
    HostRejected::Certificate { reason }
}

#[tokio::test(flavor = "multi_thread")]
async fn a11_every_hop_proves_its_own_name() {
    let world = World::start().await;
    let user = world.user("alice").await;
    let client = world.client(&user);
    world.sshd("good").await;
    connect(&client, &world, "good").await.unwrap();

    // The way to B leads to A.
    let a = world.node_material("a").await;
    let address = world.sshd_with(&a, true).await;
    let b = world.node_material("b").await;
    world.register(b.host_id, "b", address, "env=test").await;
    let wrong_name = certificate(CertRejected::Name);
    assert_rejected(connect(&client, &world, "b").await, "node b", wrong_name);
    let id = b.host_id.to_string();
    assert_rejected(connect(&client, &world, &id).await, &format!("node {id}"), wrong_name);

    // A key without a certificate, though it is the right one.
    let bare = world.node_material("bare").await;
    let address = world.sshd_with(&bare, false).await;
    world.register(bare.host_id, "bare", address, "env=test").await;
    assert_rejected(connect(&client, &world, "bare").await, "node bare", HostRejected::PlainKey);

    // A certificate of another cluster with the same name.
    let other = World::start().await;
    let foreign = other.node_material("foreign").await;
    let address = world.sshd_with(&foreign, true).await;
    world.register(foreign.host_id, "foreign", address, "env=test").await;
    let not_ours = certificate(CertRejected::Authority);
    assert_rejected(connect(&client, &world, "foreign").await, "node foreign", not_ours);

    // Another cluster's proxy: nothing is sent to it but a greeting.
    let stranger = other.user("alice").await;
    let peer = format!("proxy {}", world.proxy);
    assert_rejected(connect(&other.client(&stranger), &world, "good").await, &peer, not_ours);

    // A proxy's certificate does not make a node.
    let proxy_as_node = client.proxy(&world.address()).await.unwrap();
    let tcp = tokio::net::TcpStream::connect(world.proxy).await.unwrap();
    let login = OsLogin::new(&os_user()).unwrap();
    let result = client.node_over(tcp, "127.0.0.1", &login).await.map(drop);
    assert_rejected(result, "node 127.0.0.1", wrong_name);
    proxy_as_node.disconnect().await;
    other.stop().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a11_an_expired_host_certificate_is_refused() {
    let world = World::start().await;
    let user = world.user("alice").await;
    let short = world.node_material_for("short", Duration::from_secs(3600)).await;
    let address = world.sshd_with(&short, true).await;
    let later = Arc::new(ManualClock::new(SystemClock::new().now()));
    let client = SshClient::new(user.credentials.clone(), Arc::clone(&later) as Arc<dyn Clock>);
    let login = OsLogin::new(&os_user()).unwrap();
    let dial = || async { tokio::net::TcpStream::connect(address).await.unwrap() };
    client.node_over(dial().await, "short", &login).await.unwrap().disconnect().await;
    later.advance(Duration::from_secs(2 * 3600));
    let result = client.node_over(dial().await, "short", &login).await.map(drop);
    assert_rejected(result, "node short", certificate(CertRejected::Expired));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_own_certificate_that_is_over_is_noticed_before_anything_is_sent() {
    let world = World::start().await;
    let TestUser { credentials, .. } = world.user("alice").await;
    let later = ManualClock::new(SystemClock::new().now());
    later.advance(Duration::from_secs(24 * 3600));
    let client = SshClient::new(credentials, Arc::new(later));
    let error = connect(&client, &world, "web").await.unwrap_err();
    assert!(matches!(error, ConnectError::OwnCertificate { reason: CertRejected::Expired }), "{error:?}");
    assert!(error.to_string().ends_with("log in again"), "{error}");
    world.stop().await;
}
