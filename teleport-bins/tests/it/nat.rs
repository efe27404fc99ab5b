//! A node behind a router that translates addresses, in networks of the kernel that break: what a firewall, a bad line and a move do.
//!
//! How long the node was away after each fault is printed (`--nocapture`). `TELEPORT_FAULT=60` breaks networks for so many seconds.

use std::time::Duration;

use tokio::time::Instant;

use crate::processes::{Live, NONE, Plan, Three};
use crate::support::daemon::{Machine, Services, fixed_port};
use crate::support::namespaces::{BALANCER, Loss, Networks, with_networks};
use crate::support::wait_for;

/// Replaces a part of the configuration of `name`.
fn reconfigure(three: &Three, name: &str, from: &str, to: &str) {
    let file = three.machine.path(&format!("{name}.yaml"));
    let config = std::fs::read_to_string(&file).unwrap();
    assert!(config.contains(from), "{config}");
    std::fs::write(&file, config.replace(from, to)).unwrap();
}

/// Two proxies outside, and a node inside which knows the balancer alone. Returns the port of the second proxy's SSH, too.
fn start(networks: &Networks) -> (Three, crate::support::daemon::Process, u16) {
    let mut three = Three::start_with(Machine::new(), Plan { tunnel: true, ..Plan::default() });
    let first = three.proxy.as_ref().unwrap().address("proxy").port();
    for name in ["proxy", "node"] {
        match name {
            "proxy" => three.proxy.take().unwrap().stop(),
            _ => three.node.take().unwrap().stop(),
        }
    }
    let everywhere = |name: &str, port: u16| {
        let (from, to) =
            (format!("web_listen_addr: 127.0.0.1:{port}"), format!("web_listen_addr: 0.0.0.0:{port}"));
        reconfigure(&three, name, &from, &to);
    };
    everywhere("proxy", first);
    let [web, ssh] = [(); 2].map(|()| fixed_port());
    let shared = format!("  auth_server: {}\n", three.auth.as_ref().unwrap().address("auth"));
    three.machine.configure("proxy-2", &shared, &Services { proxy: Some((web, ssh)), ..NONE }.yaml());
    everywhere("proxy-2", web);
    networks.balance([first, web]);
    reconfigure(
        &three,
        "node",
        &format!("proxy_server: 127.0.0.1:{first}"),
        &format!("proxy_server: {BALANCER}"),
    );
    let (token, pin) = three.machine.token("auth", &["--type=proxy", "--uses=1"]);
    let second = three.machine.start("proxy-2", &[&format!("--token={token}"), &format!("--ca-pin={pin}")]);
    three.proxy = Some(three.machine.start("proxy", &[]));
    three.node = Some(networks.inside(|| three.machine.start("node", &[])));
    (three, second, ssh)
}

/// By the proxy whose SSH is at `port`.
fn by(three: &Three, port: u16) -> String {
    format!(
        "ProxyCommand=ssh -F {} -p {port} -s %r@teleport-proxy.test.local proxy:%h:%p",
        three.config().display()
    )
}

fn works_by(three: &Three, port: u16) {
    let option = by(three, port);
    wait_for("a session by the other proxy", || {
        let output = crate::support::program::run(three.ssh_with(&["-o", &option], "echo by the other"));
        (output.out() == "by the other\n").then_some(())
    });
}

#[test]
fn g18_behind_nat_the_node_comes_back_after_every_fault_of_the_network() {
    with_networks(|mut networks| {
        let held =
            Duration::from_secs(std::env::var("TELEPORT_FAULT").map_or(4, |text| text.parse().unwrap()));
        let (mut three, second, ssh) = start(&networks);
        three.works();
        works_by(&three, ssh);
        let intact = |live: Live, what: &str| {
            assert_eq!(live.answer(), ("got hello\n".to_owned(), Some(4)), "{what}");
        };
        let back = |three: &Three, what: &str| {
            let since = Instant::now();
            three.works();
            eprintln!("{what}: a new session {:.1} s after its end", since.elapsed().as_secs_f64());
        };
        for loss in [Loss::All, Loss::Fifth, Loss::Replies] {
            let live = three.live_session();
            networks.lose(loss);
            std::thread::sleep(held);
            if matches!(loss, Loss::Fifth) {
                three.works();
            }
            networks.heal();
            back(&three, &format!("{loss:?}"));
            // What was only late arrives.
            if held < Duration::from_secs(50) {
                intact(live, &format!("{loss:?}"));
            }
        }
        networks.move_house();
        back(&three, "another address");
        works_by(&three, ssh);
        // What runs by one proxy does not hear of the other.
        let option = by(&three, ssh);
        let live = three.live_session_with(&["-o", &option]);
        three.proxy.take().unwrap().kill();
        three.proxy = Some(three.machine.start("proxy", &[]));
        back(&three, "a proxy that was killed");
        three.proxy.take().unwrap().stop();
        three.proxy = Some(three.machine.start("proxy", &[]));
        back(&three, "a proxy that was started again");
        three.auth.take().unwrap().kill();
        three.auth = Some(three.machine.start("auth", &[]));
        back(&three, "an auth service that was killed");
        intact(live, "by the other proxy");
        works_by(&three, ssh);
        drop(second);
    });
}
