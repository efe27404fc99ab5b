//! Nodes with tunnels to some proxies, which the others ask: as processes.

use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::diagnostics::{diagnostics, get};
use crate::one_port::own_name;
use crate::processes::{NONE, Plan, Three};
use crate::support::daemon::{Machine, Process, Services, fixed_port};
use crate::support::program::{Output, own, run};
use crate::support::wait_for;
use crate::tunnels::balancer;

/// A cluster with three proxies behind a load balancer, and a node behind a firewall, which knows the balancer alone.
struct Cluster {
    three: Three,
    /// Each with the port of its SSH; those that are gone are `None`.
    proxies: Vec<Option<(Process, u16)>>,
}

fn strategy(count: u8) -> String {
    format!("  tunnel_strategy: {{type: proxy_peering, agent_connection_count: {count}}}\n")
}

impl Cluster {
    fn start(count: u8) -> Self {
        let plan = Plan { tunnel: true, auth_service: &strategy(count), ..Plan::default() };
        let mut three = Three::start_with(Machine::new(), plan);
        three.proxy.take().unwrap().stop();
        // Proxies know each other by a name, for which there is an HTTP proxy that does not work: it is not for them.
        let environment = format!("http://127.0.0.1:{}", fixed_port());
        let for_peers = |file: &Path| {
            let config = std::fs::read_to_string(file).unwrap();
            let (from, to) = (
                "peer_listen_addr: 127.0.0.1:0\n",
                format!("peer_listen_addr: 0.0.0.0:0\n  peer_public_addr: {}\n", own_name()),
            );
            assert!(config.contains(from), "{config}");
            std::fs::write(file, config.replace(from, &to)).unwrap();
        };
        let start = |machine: &Machine, name: &str, arguments: &[&str]| {
            for_peers(&machine.path(&format!("{name}.yaml")));
            machine.start_with(name, arguments, |command| {
                command.env("HTTPS_PROXY", &environment);
            })
        };
        let first = start(&three.machine, "proxy", &[]);
        let mut webs = vec![first.address("proxy").port()];
        let ssh = first.address("proxy ssh").port();
        let mut proxies = vec![Some((first, ssh))];
        let auth = three.auth.as_ref().unwrap().address("auth");
        for name in ["proxy-2", "proxy-3"] {
            let [web, ssh] = [(); 2].map(|()| fixed_port());
            let shared = format!("  auth_server: {auth}\n  diag_addr: 127.0.0.1:0\n");
            three.machine.configure(name, &shared, &Services { proxy: Some((web, ssh)), ..NONE }.yaml());
            let (token, pin) = three.machine.token("auth", &["--type=proxy", "--uses=1"]);
            let joining = [format!("--token={token}"), format!("--ca-pin={pin}")];
            let process = start(&three.machine, name, &[&joining[0], &joining[1]]);
            proxies.push(Some((process, ssh)));
            webs.push(web);
        }
        let to: [u16; 3] = webs.try_into().unwrap();
        let known = format!("proxy_server: 127.0.0.1:{}", to[0]);
        let file = three.machine.path("node.yaml");
        let config = std::fs::read_to_string(&file).unwrap();
        assert!(config.contains(&known), "{config}");
        std::fs::write(&file, config.replace(&known, &format!("proxy_server: 127.0.0.1:{}", balancer(to))))
            .unwrap();
        three.node.take().unwrap().stop();
        three.node = Some(three.machine.start("node", &[]));
        let cluster = Self { three, proxies };
        wait_for("the proxies to ask each other", || {
            cluster
                .running()
                .all(|(_, process, _)| process.logged().contains("other proxies can ask"))
                .then_some(())
        });
        cluster
    }

    fn running(&self) -> impl Iterator<Item = (usize, &Process, u16)> {
        let running = self.proxies.iter().enumerate();
        running.filter_map(|(at, proxy)| proxy.as_ref().map(|(process, ssh)| (at, process, *ssh)))
    }

    /// Those that have a tunnel, as they log.
    fn holders(&self) -> Vec<usize> {
        let count = |process: &Process, what: &str| process.logged().matches(what).count();
        let holds = |process: &Process| {
            let ended = count(process, "a tunnel has ended") + count(process, "a tunnel broke off");
            count(process, "a node has a tunnel to this proxy") > ended
        };
        self.running().filter(|(_, process, _)| holds(process)).map(|(at, ..)| at).collect()
    }

    fn wait_for_holders(&self, count: usize) -> Vec<usize> {
        wait_for("as many tunnels as there should be", || {
            let holders = self.holders();
            (holders.len() == count).then_some(holders)
        })
    }

    /// By the proxy whose SSH is at `port`, from an address of loopback that the user's client has alone.
    fn by(&self, port: u16, from: &str, command: &str) -> Command {
        let option = format!(
            "ProxyCommand=ssh -F {} -b {from} -p {port} -s %r@teleport-proxy.test.local proxy:%h:%p",
            self.three.config().display()
        );
        self.three.ssh_with(&["-o", &option], command)
    }

    #[track_caller]
    fn works_by_each(&self) {
        for (at, _, port) in self.running() {
            wait_for("a session by each proxy", || {
                let output = run(self.by(port, "127.0.0.1", "echo by it"));
                (output.out() == "by it\n").then_some(()).or_else(|| {
                    eprintln!("by {at}: {output:?}");
                    None
                })
            });
        }
    }
}

/// Row C9: the node knows where a user is who comes by two proxies.
#[test]
fn c9_the_way_through_two_proxies_keeps_where_the_user_is() {
    let mut cluster = Cluster::start(1);
    cluster.works_by_each();
    let holder = cluster.wait_for_holders(1)[0];
    for (at, _, port) in cluster.running() {
        let from = format!("127.0.7.{}", at + 1);
        let output = run(cluster.by(port, &from, "echo $SSH_CLIENT; echo $SSH_SESSION_ID"));
        assert_eq!(output.code(), 0, "{output:?}");
        assert!(output.out().starts_with(&format!("{from} ")), "{at}, {holder} has the tunnel: {output:?}");
        let id = output.out().lines().nth(1).unwrap().to_owned();
        let event = wait_for("the session in the audit log", || {
            let mut events = cluster.three.machine.events("auth").into_iter();
            events.find(|event| event["code"] == "T2000I" && event["sid"] == id.as_str())
        });
        assert!(event["addr.remote"].as_str().unwrap().starts_with(&format!("{from}:")), "{event}");
    }
    // The others have asked it, each by a connection that is counted.
    let asked = |proxy: &Process| -> Option<f64> {
        let (_, page) = get(diagnostics(proxy), "/metrics");
        let figure = "teleport_connections_accepted_total{service=\"proxy-peer\"} ";
        page.lines().find_map(|line| line.strip_prefix(figure)).map(|value| value.parse().unwrap())
    };
    let all: Vec<f64> = cluster.running().map(|(_, process, _)| asked(process).unwrap()).collect();
    assert!(all.iter().sum::<f64>() >= 2.0, "{all:?}");
    // The proxy with the only tunnel dies: the node gets another one, and says so.
    cluster.proxies[holder].take().unwrap().0.kill();
    cluster.works_by_each();
    assert_eq!(cluster.wait_for_holders(1).len(), 1);
    // The strategy is another one after the auth service has started again; nobody else needs to.
    cluster.three.auth.take().unwrap().stop();
    let file = cluster.three.machine.path("auth.yaml");
    let config = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, config.replace(&strategy(1), "")).unwrap();
    cluster.three.auth = Some(cluster.three.machine.start("auth", &[]));
    cluster.wait_for_holders(2);
    cluster.works_by_each();
    wait_for("the ports for proxies to be closed", || {
        cluster.running().all(|(_, process, _)| asked(process).is_none()).then_some(())
    });
    // And back.
    cluster.three.auth.take().unwrap().stop();
    std::fs::write(&file, config).unwrap();
    cluster.three.auth = Some(cluster.three.machine.start("auth", &[]));
    cluster.wait_for_holders(1);
    cluster.works_by_each();
}

fn tsh(three: &Three, arguments: &[&str]) -> Output {
    let mut command = own("tsh");
    command.env("TELEPORT_HOME", three.machine.path("home")).args(arguments);
    run(command)
}

#[test]
fn g18_of_two_proxies_with_tunnels_one_may_die_or_stop() {
    let mut cluster = Cluster::start(2);
    cluster.works_by_each();
    let holders = cluster.wait_for_holders(2);
    let without = (0..3).find(|at| !holders.contains(at)).unwrap();
    let port = cluster.proxies[without].as_ref().unwrap().1;
    assert!(tsh(&cluster.three, &["ls"]).clean().contains("⟵ Tunnel"));
    cluster.proxies[holders[0]].take().unwrap().0.kill();
    let output = run(cluster.by(port, "127.0.0.1", "echo by the other"));
    assert_eq!(output.out(), "by the other\n", "at once: {output:?}");
    // The proxies that are left both have one.
    cluster.wait_for_holders(2);
    cluster.works_by_each();
    // One that is asked to stop hands over.
    cluster.proxies[holders[1]].as_ref().unwrap().0.signal(Signal::SIGTERM);
    let (mut stopping, _) = cluster.proxies[holders[1]].take().unwrap();
    cluster.works_by_each();
    assert!(stopping.ended().success(), "{}", stopping.logged());
}
