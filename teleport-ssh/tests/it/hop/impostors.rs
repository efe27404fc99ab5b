//! Hosts that are not who they should be (A11): our client refuses them and says why.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use teleport_core::cert::CertRejected;
use teleport_core::clock::{Clock, SystemClock};
use teleport_core::id::{ClusterName, OsLogin};
use teleport_core::testing::ManualClock;
use teleport_ssh::client::openssh::{ProxyAddress, config, jump_command};
use teleport_ssh::client::{ConnectError, HostRejected, SshClient};

use super::{CLUSTER, PROXY, TestUser, World, os_user, private, run, script, text};

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

/// Somebody leads the way to the proxy to a node. The node has a certificate of the right authority, which names the proxy: it is
/// called like the proxy and lists the proxy's address as one of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a11_a_node_that_names_itself_like_the_proxy_is_not_believed_to_be_it() {
    let world = World::start().await;
    let user = world.user("alice").await;
    let cluster = ClusterName::new(CLUSTER).unwrap();
    let hostile = world.node_material("proxy").await;
    let address = world.sshd_with(&hostile, true).await;
    let diverted = ProxyAddress::parse(&address.to_string()).unwrap();

    // Whoever only asks for a certificate of the authority and for the address believes it: the node is no straw man.
    let mut naive = world.ssh(&user);
    let known = world.dir.path().join("naive_known_hosts");
    let authority = &world.ca.trust_bundle().host_ca[0];
    private(&known, &format!("@cert-authority * {authority}\n"));
    let mut believes = Command::new("ssh");
    believes.arg("-o").arg(format!("UserKnownHostsFile={}", known.display())).args(naive.get_args());
    believes
        .args(["-p", &address.port().to_string()])
        .arg(format!("{}@127.0.0.1", os_user()))
        .arg("echo node");
    believes.stdin(Stdio::null()).env_remove("SSH_AUTH_SOCK");
    let output = run(believes).await;
    assert_eq!(text(&output.stdout), "node", "{}", text(&output.stderr));

    // What we print, pointed at the node as the hostile network would.
    let block = config(&cluster, &diverted, "alice", &user.files).unwrap();
    let file = script(world.dir.path(), "ssh_config", &block);
    let web = format!("{}@web.{CLUSTER}", os_user());
    let mut by_config = Command::new("ssh");
    by_config.arg("-F").arg(&file).arg(&web).arg("echo reached");
    let mut by_jump = Command::new("ssh");
    by_jump.arg("-F").arg(&file).args(["-J", &format!("teleport-proxy.{CLUSTER}"), &web, "echo reached"]);
    let line = jump_command(&cluster, &diverted, &os_user(), &format!("web.{CLUSTER}"), &user.files).unwrap();
    let mut by_line = Command::new("sh");
    by_line.arg("-c").arg(format!("{line} 'echo reached'"));
    naive.args(["-o", PROXY, "-p", &address.port().to_string(), "x@127.0.0.1"]);
    for mut ssh in [by_config, by_jump, by_line, naive] {
        ssh.stdin(Stdio::null()).env_remove("SSH_AUTH_SOCK");
        let output = run(ssh).await;
        let said = text(&output.stderr);
        assert_eq!((text(&output.stdout).as_str(), output.status.code()), ("", Some(255)), "{said}");
        assert!(said.contains("Certificate invalid: name is not a listed principal"), "{said}");
        assert!(said.contains("Host key verification failed"), "{said}");
    }
    let refused = world.client(&user).proxy(&diverted).await.map(drop);
    assert_rejected(refused, &format!("proxy {address}"), certificate(CertRejected::Name));
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
