//! One auth service of two stands still, as a machine does that swaps or is migrated, and goes on. Goal G-2.

use nix::sys::signal::Signal;

use super::{Several, Store, on_each};
use crate::processes::NONE;
use crate::support::daemon::{Machine, Services, fixed_port};

on_each!(g2_a_service_that_stood_still_gives_nothing_away_twice);

/// How often; more at night, by the variable.
fn pauses() -> usize {
    std::env::var("TELEPORT_PAUSES").ok().and_then(|count| count.parse().ok()).unwrap_or(2)
}

/// A host that knows one auth service alone.
fn configure(machine: &Machine, name: &str, auth: u16) {
    let shared = format!("  auth_server: 127.0.0.1:{auth}\n");
    machine.configure(name, &shared, &Services { node: Some((fixed_port(), "")), ..NONE }.yaml());
}

/// While one service stands still, a host has begun to join by it, and another one joins by the other service with the same token. When the
/// first goes on, it decides by what there is then.
async fn g2_a_service_that_stood_still_gives_nothing_away_twice(store: Store) {
    let two = Several::two(store);
    let machine = &two.machine;
    for round in 0..pauses() {
        let (stopped, lives) = (round % 2, 1 - round % 2);
        let (token, pin) = machine.token(&two.names[stopped], &["--type=node", "--uses=1"]);
        let arguments = [format!("--token={token}"), format!("--ca-pin={pin}")];
        let arguments = arguments.each_ref().map(String::as_str);
        let (late, first) = (format!("late-{round}"), format!("first-{round}"));
        configure(machine, &late, two.ports[stopped]);
        configure(machine, &first, two.ports[lives]);
        let process = two.processes[stopped].as_ref().unwrap();
        process.signal(Signal::SIGSTOP);
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| machine.cannot_start(&late, &arguments));
            let node = machine.start(&first, &arguments);
            process.signal(Signal::SIGCONT);
            let line = waits.join().unwrap();
            assert!(line.contains("denied"), "{line}");
            node.stop();
        });
        // Both say the same of it.
        for name in &two.names {
            let listed = machine.tctl(name, &["nodes", "ls", "--format=json"]).clean();
            let nodes: serde_json::Value = serde_json::from_str(&listed).unwrap();
            let named = |name: &str| nodes.as_array().unwrap().iter().any(|node| node["name"] == name);
            assert!(!named(&late), "{nodes}");
        }
    }
}
