//! Certificates that are bound to the address of the login, as users meet them: row A3 of the threat list.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use serde_json::json;
use teleport_bins::daemon::Os;
use teleport_core::audit::EventKind;
use teleport_core::resource::{Role, RoleSpec};
use teleport_core::secret::SecretString;
use teleport_ssh::client::openssh::ProxyAddress;
use teleport_ssh::client::{LoginInput, Profile, ProfileStore, login};
use teleport_ssh::mux::{HeaderMode, ProxyProtocol};
use teleport_ssh::proxy_web::{WebClient, WebTrust};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpSocket};

use crate::support::cluster::{CLUSTER, Home, TestCluster};
use crate::support::own_login;
use crate::support::program::run;

const HERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const THERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

/// A port whose clients come to `to` from another address of this machine.
fn from(address: Ipv4Addr, to: SocketAddr) -> ProxyAddress {
    relay(address, Vec::new(), to)
}

/// A port of a load balancer at `address`, which says of its clients that they are at `client`.
fn balanced(address: Ipv4Addr, client: Ipv4Addr, to: SocketAddr) -> ProxyAddress {
    relay(address, format!("PROXY TCP4 {client} 192.0.2.1 40000 443\r\n").into_bytes(), to)
}

fn relay(address: Ipv4Addr, first: Vec<u8>, to: SocketAddr) -> ProxyAddress {
    TestCluster::block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap();
        let scope = teleport_core::task::TaskScope::new();
        scope.clone().spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let socket = TcpSocket::new_v4().unwrap();
                socket.bind((address, 0).into()).unwrap();
                let first = first.clone();
                scope.spawn(async move {
                    let Ok(mut server) = socket.connect(to).await else { return };
                    if server.write_all(&first).await.is_ok() {
                        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                    }
                });
            }
        });
        ProxyAddress::parse(&port.to_string()).unwrap()
    })
}

/// Alice, whose certificates are bound, logs in by way of this address of the web port.
fn bound_login(cluster: &TestCluster, address: ProxyAddress) -> Profile {
    let spec: RoleSpec = serde_json::from_value(json!({"options": {"pin_source_ip": true}})).unwrap();
    TestCluster::block_on(cluster.admin().create_role(Role::new("pinned", spec))).unwrap();
    let (password, mut app) = cluster.invited("alice", &["access", "pinned"], &[&own_login()]);
    let pins = vec![cluster.pin().parse().unwrap()];
    let web = WebClient::new(address.to_authority(), WebTrust::pins(pins), Arc::clone(&cluster.os.clock));
    let code = SecretString::new(app.code());
    let input = LoginInput { user: "alice".to_owned(), password, code, ttl: None };
    let os = &cluster.os;
    TestCluster::block_on(login(&web, address, input, &*os.clock, &*os.entropy)).unwrap()
}

fn login_address(cluster: &TestCluster) -> serde_json::Value {
    let event = cluster.event(EventKind::UserLogin, |_| true);
    serde_json::to_value(&event).unwrap()["addr.remote"].clone()
}

/// A home with this login, for which the proxy is found at these addresses.
fn home(cluster: &TestCluster, profile: &Profile, name: &str, web: ProxyAddress, ssh: ProxyAddress) -> Home {
    let dir = cluster.dir().join(name);
    let profile = Profile { web_address: web, ssh_address: ssh, ..profile.clone() };
    ProfileStore::at(&dir).save(&profile).unwrap();
    let home = Home { ssh_config: dir.join("ssh_config"), dir };
    let mut config = home.tsh();
    config.arg("config");
    std::fs::write(&home.ssh_config, run(config).clean()).unwrap();
    home
}

#[test]
fn a3_a_bound_certificate_works_through_the_proxy_where_its_user_is_and_nowhere_else() {
    let cluster = TestCluster::with_node();
    let login_name = own_login();
    // The login, by way of the proxy's web port.
    let profile = bound_login(&cluster, from(HERE, cluster.web()));
    assert_eq!(login_address(&cluster), HERE.to_string(), "the port is not known");

    let addresses = |from_where| (from(from_where, cluster.web()), from(from_where, cluster.ssh()));
    let ((web, ssh), (other_web, other_ssh)) = (addresses(HERE), addresses(THERE));
    let here = home(&cluster, &profile, "here", web, ssh);
    let there = home(&cluster, &profile, "there", other_web, other_ssh);
    let node = format!("{login_name}@node.{CLUSTER}");
    let alias = format!("teleport-proxy.{CLUSTER}");

    let mut tsh = here.tsh();
    tsh.args(["ssh", &format!("{login_name}@node"), "echo in"]);
    assert_eq!(run(tsh).clean(), "in\n");
    for options in [&[][..], &["-J", &alias]] {
        let mut ssh = here.ssh();
        ssh.args(options).args([&node, "echo $SSH_CLIENT"]);
        let said = run(ssh).clean();
        assert!(said.starts_with(&format!("{HERE} ")), "{options:?}: {said}");
    }
    let event = cluster.event(EventKind::SessionStart, |_| true);
    assert_eq!(event.remote.unwrap().ip(), HERE);
    // Calls to the auth service, through the proxy.
    let mut ls = here.tsh();
    ls.args(["ls", "--format=json"]);
    assert!(run(ls).clean().contains("\"node\""));

    // From elsewhere it opens nothing.
    let mut tsh = there.tsh();
    tsh.args(["ssh", &format!("{login_name}@node"), "echo in"]);
    let refused = run(tsh);
    assert!(refused.code() != 0 && refused.out().is_empty(), "{refused:?}");
    let bound = |event: &teleport_core::audit::AuditEvent| {
        event.error.as_deref() == Some("the certificate is bound to another source address")
    };
    let event = cluster.event(EventKind::AuthFailure, bound);
    assert_eq!(event.remote.unwrap().ip(), THERE);
    let mut ssh = there.ssh();
    ssh.args(["-J", &alias, &node, "echo in"]);
    let refused = run(ssh);
    assert!(refused.code() == 255 && refused.out().is_empty(), "{refused:?}");
    let mut ls = there.tsh();
    ls.arg("ls");
    assert!(run(ls).code() != 0);

    // A way of one's own, by which the proxy is reached from the right address, and the client's options choose it.
    let real = ProxyAddress::parse(&cluster.ssh().to_string()).unwrap();
    let plain = home(&cluster, &profile, "plain", from(HERE, cluster.web()), real);
    for (address, lets_in) in [(HERE, true), (THERE, false), (Ipv4Addr::LOCALHOST, false)] {
        let command = format!("ssh -F {} -b {address} -W [%h]:%p {alias}", plain.ssh_config.display());
        let mut ssh = plain.ssh();
        ssh.args(["-o", "ProxyJump=none", "-o", &format!("ProxyCommand={command}"), &node, "echo in"]);
        let output = run(ssh);
        assert_eq!(output.out() == "in\n", lets_in, "{address}: {output:?}");
    }
}

/// Behind a load balancer the address is the one that the balancer says, if it is one that is believed; nobody else is.
#[test]
fn a3_behind_a_balancer_the_address_of_its_header_counts_and_of_nobody_elses() {
    const BALANCER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);
    const NOBODY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 10);
    const CLIENT: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);
    const OTHER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 6);
    let cluster = TestCluster::start_as(Os::default(), |settings| {
        let proxy = settings.proxy.as_mut().unwrap();
        proxy.protocol = ProxyProtocol::new(HeaderMode::On, [BALANCER.to_string()]).unwrap();
    });
    cluster.add_node("node", "env=test");
    let profile = bound_login(&cluster, balanced(BALANCER, CLIENT, cluster.web()));
    assert_eq!(login_address(&cluster), CLIENT.to_string());
    let by = |name: &str, way: &dyn Fn(SocketAddr) -> ProxyAddress| {
        home(&cluster, &profile, name, way(cluster.web()), way(cluster.ssh()))
    };
    let session = |home: &Home| {
        let mut tsh = home.tsh();
        tsh.args(["ssh", &format!("{}@node", own_login()), "echo $SSH_CLIENT"]);
        run(tsh)
    };
    let list = |home: &Home| {
        let mut ls = home.tsh();
        ls.args(["ls", "--format=json"]);
        run(ls)
    };
    let client = by("client", &|to| balanced(BALANCER, CLIENT, to));
    let said = session(&client).clean();
    assert!(said.starts_with(&format!("{CLIENT} ")), "{said}");
    assert_eq!(cluster.event(EventKind::SessionStart, |_| true).remote.unwrap().ip(), CLIENT);
    assert!(list(&client).clean().contains("\"node\""));
    let refused = |name: &str, way: &dyn Fn(SocketAddr) -> ProxyAddress| {
        let home = by(name, way);
        let (session, list) = (session(&home), list(&home));
        assert!(session.code() != 0 && session.out().is_empty(), "{name}: {session:?}");
        assert!(list.code() != 0 && list.out().is_empty(), "{name}: {list:?}");
    };
    let bound = |at: Ipv4Addr| {
        cluster.event(EventKind::AuthFailure, |event| {
            event.remote.is_some_and(|remote| remote.ip() == at)
                && event.error.as_deref() == Some("the certificate is bound to another source address")
        })
    };
    refused("other", &|to| balanced(BALANCER, OTHER, to));
    bound(OTHER);
    refused("straight", &|to| from(NOBODY, to));
    bound(NOBODY);
    refused("liar", &|to| balanced(NOBODY, CLIENT, to));
    // The liar came so far as nobody, and no event says that the client was refused.
    assert!(
        cluster
            .events(
                |event| event.code.code().ends_with('W') && event.remote.is_some_and(|at| at.ip() == CLIENT)
            )
            .is_empty()
    );
}
