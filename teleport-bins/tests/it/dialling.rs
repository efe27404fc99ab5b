//! Where a proxy connects to: what a node announces is its own word.

use std::net::SocketAddr;

use teleport_bins::config::Settings;
use teleport_bins::daemon::Os;
use teleport_core::audit::EventKind;
use teleport_core::id::NodeName;

use crate::support::cluster::{CLUSTER, Home, TestCluster};
use crate::support::program::{Output, run};
use crate::support::{own_login, wait_for};

fn ssh(home: &Home, node: &str) -> Output {
    let mut ssh = home.ssh();
    ssh.args([&format!("{}@{node}.{CLUSTER}", own_login()), "echo in"]);
    run(ssh)
}

#[test]
fn a_node_at_an_address_of_the_proxys_machine_is_not_reached_but_its_own_one_is() {
    let unused = SocketAddr::from(([127, 0, 0, 1], 1));
    let dir = tempfile::tempdir().unwrap();
    let cluster = TestCluster::start_as(Os::default(), |settings| {
        settings.proxy.as_mut().unwrap().local_addresses = false;
        let name = NodeName::new("own").unwrap();
        let labels = "where=here".parse().unwrap();
        let token = teleport_core::secret::SecretString::new(String::new());
        let node = Settings::node_on_loopback(dir.path(), name, labels, unused, token, Vec::new());
        settings.node = node.node;
        settings.node.as_mut().unwrap().program = env!("CARGO_BIN_EXE_teleport").into();
    });
    // Somebody else who had a token: what listens there could be anything.
    cluster.add_node("other", "");
    let home = cluster.alice();
    let own = wait_for("the node of the same process", || {
        let nodes = TestCluster::block_on(cluster.admin().nodes()).unwrap();
        nodes.into_iter().find(|node| node.record.labels.to_string() == "where=here")
    });
    assert_eq!(ssh(&home, &own.record.host_id.to_string()).clean(), "in\n");
    let refused = ssh(&home, "other");
    assert_eq!((refused.code(), refused.out()), (255, ""), "{refused:?}");
    let event = cluster.event(EventKind::PortFailure, |event| event.error.is_some());
    let why = event.error.unwrap();
    assert!(why.contains("proxy_service.local_addresses"), "{why}");
}
