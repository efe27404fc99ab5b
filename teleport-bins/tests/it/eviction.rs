//! `tctl nodes rm`: a host that was removed stops, stays out, and may come back as another one.

use crate::diagnostics::{diagnostics, readiness};
use crate::processes::{NONE, Three};
use crate::support::daemon::{Machine, Services, fixed_port};
use crate::support::program::{own, run};
use crate::support::wait_for;

const REMOVED: &str = "this host was removed from the cluster by an administrator; \
                       join again with a new token and a new data directory";

/// The ids of the nodes that the cluster lists.
fn nodes(machine: &Machine) -> Vec<String> {
    let listed = machine.tctl("auth", &["nodes", "ls", "--format=json"]).clean();
    let listed: Vec<serde_json::Value> = serde_json::from_str(&listed).unwrap();
    listed.iter().map(|node| node["host_id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_removed_node_stops_at_once_and_stays_out_until_it_joins_as_another() {
    let mut three = Three::start(true);
    three.works();
    let session = three.live_session();
    let id = nodes(&three.machine).remove(0);
    let printed = three.machine.tctl("auth", &["nodes", "rm", "node"]).clean();
    assert!(printed.contains("removed from the cluster") && printed.contains(&id), "{printed}");

    let mut node = three.node.take().unwrap();
    let status = node.ended();
    assert_eq!(status.code(), Some(1), "{}", node.logged());
    assert_eq!(node.logged().lines().last(), Some(format!("ERROR: {REMOVED}").as_str()), "{}", node.logged());
    let (said, code) = session.answer();
    assert!(said.is_empty() && code != Some(4), "its sessions end with it: {said:?} {code:?}");
    assert!(nodes(&three.machine).is_empty());
    let refused = run(three.ssh("echo through"));
    assert!(refused.code() != 0 && refused.out().is_empty(), "{refused:?}");

    // It still has its certificates, and they are of no use.
    let mut command = own("teleport");
    command.arg("start").arg("-c").arg(three.machine.path("node.yaml"));
    let again = run(command);
    assert_eq!(again.code(), 1, "{again:?}");
    assert_eq!(again.stderr.lines().last(), Some(format!("ERROR: {REMOVED}").as_str()), "{again:?}");
    assert!(nodes(&three.machine).is_empty());
    let twice = three.machine.tctl("auth", &["nodes", "rm", &id]).refusal();
    assert!(twice.contains("was removed before"), "{twice}");

    let events = three.machine.events("auth");
    let of = |code: &str| events.iter().filter(|event| event["code"] == code).collect::<Vec<_>>();
    let removal = of("TND01I");
    assert_eq!(removal.len(), 1);
    assert_eq!((&removal[0]["host_id"], &removal[0]["user"]), (&id.as_str().into(), &"auth host".into()));
    let refusals = of("TAP00W");
    assert!(refusals.iter().any(|event| event["server_id"] == id.as_str()), "{events:?}");
    assert_eq!(of("TAP00E").len(), 1, "the second removal failed: {events:?}");

    // A new token and a new data directory.
    std::fs::rename(three.machine.path("node"), three.machine.path("removed")).unwrap();
    let (token, pin) = three.machine.token("auth", &["--type=node", "--uses=1"]);
    let joining = [format!("--token={token}"), format!("--ca-pin={pin}")];
    let joining: Vec<&str> = joining.iter().map(String::as_str).collect();
    three.node = Some(three.machine.start("node", &joining));
    three.works();
    let fresh = nodes(&three.machine);
    assert!(fresh.len() == 1 && fresh[0] != id, "{fresh:?}");

    // A proxy is removed the same way.
    three.machine.tctl("auth", &["nodes", "rm", "proxy"]).clean();
    let mut proxy = three.proxy.take().unwrap();
    assert_eq!(proxy.ended().code(), Some(1), "{}", proxy.logged());
    assert!(proxy.logged().contains(REMOVED), "{}", proxy.logged());
    assert!(!three.machine.tctl("auth", &["status"]).clean().contains("Proxy"));
    assert!(three.auth.as_mut().unwrap().runs());
}

#[test]
fn a_node_beside_the_auth_service_is_removed_alone() {
    let machine = Machine::new();
    let services = Services { auth: Some(fixed_port()), node: Some((fixed_port(), "")), ..NONE };
    machine.configure("auth", "", &services.yaml());
    let mut daemon = machine.start("auth", &["--diag-addr=127.0.0.1:0"]);
    machine.wait_for_nodes("auth", 1);
    machine.tctl("auth", &["nodes", "rm", "auth"]).clean();
    wait_for("the node to stop", || daemon.logged().contains(REMOVED).then_some(()));
    assert!(nodes(&machine).is_empty());
    assert!(daemon.runs(), "the auth service goes on");
    // What is left is ready, and nothing is said of what is gone.
    let ready = wait_for("the daemon to be ready", || {
        let (_, ready) = readiness(diagnostics(&daemon));
        (ready["status"] == "ready").then_some(ready)
    });
    let names: Vec<_> = ready["services"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert_eq!(names, ["auth"]);
    daemon.stop();

    // It comes up without the node, and says how it comes back.
    let mut daemon = machine.start("auth", &[]);
    let logged = daemon.logged();
    assert!(
        logged.contains("the node service does not start") && logged.contains("identity/node"),
        "{logged}"
    );
    assert!(!logged.contains("  node ssh "), "{logged}");
    assert!(nodes(&machine).is_empty() && daemon.runs());
    daemon.stop();

    std::fs::rename(machine.path("auth/identity/node"), machine.path("removed")).unwrap();
    let daemon = machine.start("auth", &[]);
    machine.wait_for_nodes("auth", 1);
    daemon.stop();
}
