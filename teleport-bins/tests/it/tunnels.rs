//! Nodes without a port, which are reached by their tunnels: as processes, over networks that break.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::signal::Signal;

use crate::diagnostics::{diagnostics, figure};
use crate::processes::{NONE, Plan, Three};
use crate::support::daemon::{Machine, Process, Services, fixed_port};
use crate::support::program::{own, run};
use crate::support::relay::{FAULTS, Fault, join};
use crate::support::wait_for;

fn tunnelled(networks: bool) -> Three {
    Three::start_with(Machine::new(), Plan { tunnel: true, networks, ..Plan::default() })
}

/// The ports of TCP on which a process listens.
pub(crate) fn ports(process: &Process) -> BTreeSet<u16> {
    let sockets: BTreeSet<String> = std::fs::read_dir(format!("/proc/{}/fd", process.pid()))
        .unwrap()
        .filter_map(|entry| Some(std::fs::read_link(entry.ok()?.path()).ok()?.to_str()?.to_owned()))
        .filter_map(|link| Some(link.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let mut ports = BTreeSet::new();
    for table in ["tcp", "tcp6"] {
        let table =
            std::fs::read_to_string(format!("/proc/{}/net/{table}", process.pid())).unwrap_or_default();
        for line in table.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            // Local address, state (0A listens), inode.
            if fields[3] == "0A" && sockets.contains(fields[9]) {
                ports.insert(u16::from_str_radix(fields[1].rsplit_once(':').unwrap().1, 16).unwrap());
            }
        }
    }
    ports
}

#[test]
fn a_node_behind_a_firewall_opens_no_port_and_needs_only_the_proxys() {
    let three = tunnelled(false);
    three.works();
    let node = three.node.as_ref().unwrap();
    let diagnosis = node.address("diagnosis").port();
    assert_eq!(ports(node), [diagnosis].into(), "it listens for those who diagnose it alone");
    let proxy = diagnostics(three.proxy.as_ref().unwrap());
    assert_eq!(figure(proxy, "teleport_tunnels", "proxy-web"), 1.0);
    assert_eq!(figure(proxy, "teleport_connections", "proxy-tunnel"), 1.0);
    assert_eq!(figure(proxy, "teleport_connections_unauthenticated", "proxy-tunnel"), 0.0);
    assert!(
        figure(proxy, "teleport_connections", "proxy-auth") >= 1.0,
        "the node speaks with the auth service"
    );
    let counted = || {
        let listed =
            three.machine.tctl("auth", &["inventory", "ls", "--services=proxy", "--format=json"]).clean();
        let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
        (listed[0]["tunnels"] == 1).then_some(())
    };
    wait_for("the tunnel to be listed", counted);
    assert!(node.logged().contains("node ssh   through the proxies, by tunnels"), "{}", node.logged());
    let listed = three.machine.tctl("auth", &["nodes", "ls"]).clean();
    assert!(listed.contains("⟵ Tunnel"), "{listed}");
    let tsh = |arguments: &[&str]| {
        let mut command = own("tsh");
        command.env("TELEPORT_HOME", three.machine.path("home")).args(arguments);
        run(command)
    };
    let listed = tsh(&["ls"]).clean();
    assert!(listed.contains("⟵ Tunnel"), "{listed}");
    assert_eq!(tsh(&["ssh", "node", "echo by tsh"]).clean(), "by tsh\n");
    // Where the user is, and not the proxy: the proxy says so in the tunnel.
    let event = wait_for("a session", || {
        three.machine.events("auth").into_iter().find(|event| event["code"] == "T2000I")
    });
    assert!(event["addr.remote"].as_str().unwrap().starts_with("127.0.0.1:"), "{event}");
    // Whoever asks for another port or address gets what the node announced, or nothing.
    for host in ["127.0.0.1", "localhost"] {
        let refused = tsh(&["ssh", "-p", "22", host, "true"]);
        assert_ne!(refused.code(), 0, "{host}: {refused:?}");
    }
}

#[test]
fn g18_tunnels_come_back_after_every_restart() {
    let mut three = tunnelled(false);
    three.works();
    let live = three.live_session();
    three.auth.take().unwrap().kill();
    three.auth = Some(three.machine.start("auth", &[]));
    three.works();
    assert_eq!(live.answer(), ("got hello\n".to_owned(), Some(4)), "the auth service is not on its way");
    three.proxy.take().unwrap().kill();
    three.proxy = Some(three.machine.start("proxy", &[]));
    three.works();
    three.node.take().unwrap().kill();
    three.node = Some(three.machine.start("node", &[]));
    three.works();
    three.node.take().unwrap().stop();
    three.node = Some(three.machine.start("node", &[]));
    three.works();
}

#[test]
fn g18_a_proxy_that_goes_away_leaves_the_sessions_in_its_tunnels_time() {
    let mut three = tunnelled(false);
    three.works();
    let live = three.live_session();
    let mut old = three.proxy.take().unwrap();
    old.signal(Signal::SIGTERM);
    let log = three.node.as_ref().unwrap();
    wait_for("the node to look for another proxy", || {
        log.logged().contains("no tunnel to a proxy can be made").then_some(())
    });
    assert!(old.runs(), "a session runs through it");
    assert_eq!(live.answer(), ("got hello\n".to_owned(), Some(4)));
    assert!(old.ended().success(), "{}", old.logged());
    three.proxy = Some(three.machine.start("proxy", &[]));
    three.works();
}

#[test]
fn g18_whatever_breaks_the_network_the_node_comes_back() {
    let three = tunnelled(true);
    three.works();
    let network = &three.networks.as_ref().unwrap().node;
    for fault in FAULTS {
        let live = (fault == Fault::Stall).then(|| three.live_session());
        network.fail(fault);
        if fault == Fault::Stall {
            // Long enough that the node has doubts, and asks for another tunnel.
            wait_for("another attempt", || (network.connections() > 1).then_some(()));
        }
        network.heal();
        three.works();
        if let Some(live) = live {
            assert_eq!(live.answer(), ("got hello\n".to_owned(), Some(4)), "what was only late arrives");
        }
    }
}

/// A load balancer: each connection goes to the next one.
pub(crate) fn balancer<const N: usize>(to: [u16; N]) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let next = AtomicUsize::new(0);
        for client in listener.incoming().map_while(Result::ok) {
            let port = to[next.fetch_add(1, Ordering::Relaxed) % to.len()];
            let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else { continue };
            join(&client, &server);
        }
    });
    port
}

#[test]
fn a_node_behind_a_load_balancer_has_a_tunnel_to_each_proxy() {
    let mut three = tunnelled(false);
    three.works();
    let [web, ssh] = [(); 2].map(|()| fixed_port());
    let auth = three.auth.as_ref().unwrap().address("auth");
    let shared = format!("  auth_server: {auth}\n");
    three.machine.configure("proxy-2", &shared, &Services { proxy: Some((web, ssh)), ..NONE }.yaml());
    let (token, pin) = three.machine.token("auth", &["--type=proxy", "--uses=1"]);
    let second = three.machine.start("proxy-2", &[&format!("--token={token}"), &format!("--ca-pin={pin}")]);
    let first = three.proxy.as_ref().unwrap().address("proxy").port();
    // The node knows one address, behind which there are both.
    let both = balancer([first, web]);
    three.node.take().unwrap().stop();
    let file = three.machine.path("node.yaml");
    let config = std::fs::read_to_string(&file).unwrap();
    let known = format!("proxy_server: 127.0.0.1:{first}");
    assert!(config.contains(&known), "{config}");
    std::fs::write(&file, config.replace(&known, &format!("proxy_server: 127.0.0.1:{both}"))).unwrap();
    three.node = Some(three.machine.start("node", &[]));
    for proxy in [three.proxy.as_ref().unwrap(), &second] {
        wait_for("a tunnel to each proxy", || {
            proxy.logged().contains("a node has a tunnel to this proxy").then_some(())
        });
    }
    // By each of them.
    let id = |proxy: &Process| proxy.address("proxy ssh").port();
    for port in [id(three.proxy.as_ref().unwrap()), id(&second)] {
        let option = format!(
            "ProxyCommand=ssh -F {} -p {port} -s %r@teleport-proxy.test.local proxy:%h:%p",
            three.config().display()
        );
        wait_for("a session by each proxy", || {
            let output = run(three.ssh_with(&["-o", &option], "echo by it"));
            (output.out() == "by it\n").then_some(())
        });
    }
    // One is gone: the other one still leads there.
    three.proxy.take().unwrap().kill();
    let option = format!(
        "ProxyCommand=ssh -F {} -p {} -s %r@teleport-proxy.test.local proxy:%h:%p",
        three.config().display(),
        id(&second)
    );
    let output = run(three.ssh_with(&["-o", &option], "echo by the other"));
    assert_eq!(output.out(), "by the other\n", "{output:?}");
    second.stop();
}
