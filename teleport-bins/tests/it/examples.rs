//! The example that needs a whole cluster around it; the other examples are run by the tests of their crates.

#[path = "../../../teleport-ssh/examples/mini_proxy.rs"]
#[expect(dead_code, reason = "the test calls what the example's own main calls")]
mod mini_proxy;

use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::mpsc;

use teleport_core::task::{Shutdown, TaskScope};

use crate::support::cluster::{CLUSTER, TestCluster};
use crate::support::own_login;
use crate::support::program::run;

#[test]
fn mini_proxy_leads_stock_ssh_to_a_node() {
    let cluster = TestCluster::with_node();
    let home = cluster.alice();
    let identity = cluster.dir().join("cluster/identity/proxy");
    let auth = cluster.auth().to_string();
    let shutdown = Shutdown::new();
    let (bound, address) = mpsc::channel();
    let scope = TestCluster::block_on(async {
        let proxy = mini_proxy::bind(&identity, &auth, (Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
        bound.send(proxy.local_addr()).unwrap();
        let scope = TaskScope::new();
        scope.spawn(proxy.serve(shutdown.clone()));
        scope
    });
    let port = address.recv().unwrap().unwrap().port();
    // The same configuration with another proxy.
    let config = std::fs::read_to_string(&home.ssh_config).unwrap();
    let config = config.replace(&format!("Port {}\n", cluster.ssh().port()), &format!("Port {port}\n"));
    let file = cluster.dir().join("mini_config");
    std::fs::write(&file, config).unwrap();
    let mut ssh = Command::new("ssh");
    ssh.arg("-F").arg(&file).arg(format!("{}@node.{CLUSTER}", own_login())).arg("echo through; exit 5");
    let output = run(ssh);
    assert_eq!((output.out(), output.code()), ("through\n", 5), "{}", output.stderr);
    shutdown.abort();
    TestCluster::block_on(scope.join());
}
