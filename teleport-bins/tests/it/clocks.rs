//! Wall clocks that jump, an hour and a month, ahead and back, while sessions run and users log in. Goal G-2.
//!
//! `TELEPORT_JUMPS=20` goes through all of it so many times.

use crate::diagnostics::{diagnostics, readiness};
use crate::processes::{NONE, Plan, Three};
use crate::support::daemon::{Machine, Process, Services, fixed_port};
use crate::support::program::{own, run, run_with};
use crate::support::user::User;
use crate::support::wait_for;
use crate::support::wall_clock::{HOUR, MONTH, WallClock};

fn rounds() -> usize {
    std::env::var("TELEPORT_JUMPS").map_or(1, |rounds| rounds.parse().unwrap())
}

/// Three, of whom `name` lives by a clock that can be set.
fn three_with_a_clock(name: &str) -> (Three, WallClock) {
    let plan = Plan { storage: "  diag_addr: 127.0.0.1:0\n", ..Plan::default() };
    let mut three = Three::start_with(Machine::new(), plan);
    let clock = WallClock::at(three.machine.path("clock"));
    let process = match name {
        "auth" => &mut three.auth,
        _ => &mut three.node,
    };
    process.take().unwrap().stop();
    *process = Some(three.machine.start_with(name, &[], |command| clock.seen_by(command)));
    three.works();
    (three, clock)
}

/// Waits until the daemon says that it is ready, or says what it says instead.
#[track_caller]
fn is_ready(daemon: &Process) {
    let address = diagnostics(daemon);
    wait_for("a daemon that is ready", || (readiness(address).1["status"] == "ready").then_some(()));
}

#[track_caller]
fn says_that_clocks_are_apart(daemon: &Process) {
    let address = diagnostics(daemon);
    wait_for("a daemon that knows that its clock is wrong", || {
        let (status, ready) = readiness(address);
        (status.contains("503") && ready.to_string().contains("compare the clocks")).then_some(())
    });
}

#[track_caller]
fn has_not_panicked(daemon: &Process) {
    assert!(!daemon.logged().contains("panicked"), "{}", daemon.logged());
}

/// A user who has accepted the invite: one code is used up.
fn new_user(three: &Three, name: &str) -> User {
    let printed = three.machine.tctl("auth", &["users", "add", name, "--logins=root"]).clean();
    User::accept(name, &printed, &three.machine.path(name))
}

/// The answer to a code that is not good, as soon as the proxy has an auth service again.
#[track_caller]
fn is_refused(three: &Three, user: &User, code: &str) {
    wait_for("an answer", || {
        let login = user.login_by(three.tsh_login(&user.name), code);
        assert!(!login.status.success(), "{login:?}");
        login.stderr.contains("the one-time code is wrong").then_some(())
    });
}

#[test]
fn e1_the_clock_of_the_auth_service_jumps_and_nothing_is_lost_or_good_twice() {
    let (mut three, clock) = three_with_a_clock("auth");
    // Ends long before any of the jumps does.
    let (token, pin) = three.machine.token("auth", &["--type=node", "--uses=1", "--ttl=50m"]);
    for round in 0..rounds() {
        let live = three.live_session();
        for off in [HOUR, -HOUR, MONTH, -MONTH] {
            let mut user = new_user(&three, &format!("user-{round}-{}", off + MONTH));
            clock.set(off);
            let auth = three.auth.as_ref().unwrap();
            if off == HOUR {
                let jumped = "the clock of this machine has jumped";
                wait_for("a word about the clock", || auth.logged().contains(jumped).then_some(()));
            }
            // It makes certificates for itself that are valid by its clock.
            is_ready(auth);
            // The code that was used, and one that nobody has used and that was shown when its clock says it is.
            let used = user.app.last_code(0);
            let old = user.app.last_code(off.min(-HOUR));
            for code in [&used, &old] {
                // Further away the proxy does not accept the service at all.
                match off {
                    HOUR => is_refused(&three, &user, code),
                    _ => {
                        let login = user.login_by(three.tsh_login(&user.name), code);
                        assert!(!login.status.success(), "{off}: {login:?}");
                    }
                }
            }
            // What it acknowledges by that clock is kept.
            let name = format!("role-{round}-{}", off + MONTH);
            let role = format!("kind: role\nversion: v1\nmetadata: {{name: {name}}}\nspec: {{}}\n");
            let mut tctl = own("tctl");
            tctl.arg("--data-dir").arg(three.machine.path("auth")).arg("create");
            clock.seen_by(&mut tctl);
            run_with(tctl, role.as_bytes()).clean();
            clock.set(0);
            is_ready(auth);
            three.machine.wait_for_nodes("auth", 1);
            three.works();
            let roles = three.machine.tctl("auth", &["get", "roles", "--format=json"]).clean();
            assert!(roles.contains(&name), "{roles}");
            is_refused(&three, &user, &used);
            let again = three.tsh_login(&user.name);
            user.login(again).clean();
        }
        assert_eq!(live.answer(), ("got hello\n".to_owned(), Some(4)));
    }
    // It had expired by all clocks that were ahead, and is as good as before by the one that is right.
    let shared = format!("  auth_server: {}\n", three.auth.as_ref().unwrap().address("auth"));
    let services = Services { node: Some((fixed_port(), "")), ..NONE };
    three.machine.configure("late", &shared, &services.yaml());
    three.machine.start("late", &[&format!("--token={token}"), &format!("--ca-pin={pin}")]).stop();
    let auth = three.auth.take().unwrap();
    has_not_panicked(&auth);
    let verified = three.machine.tctl("auth", &["audit", "verify"]).clean();
    assert!(verified.contains("is whole"), "{verified}");
    auth.stop();
}

/// How often it has said that its clock has jumped.
fn jumps_of(daemon: &Process) -> usize {
    daemon.logged().matches("the clock of this machine has jumped").count()
}

#[test]
fn g2_the_clock_of_a_node_jumps_and_its_sessions_go_on() {
    let (mut three, clock) = three_with_a_clock("node");
    for _ in 0..rounds() {
        let live = three.live_session();
        for off in [HOUR, -HOUR, MONTH, -MONTH] {
            let node = three.node.as_ref().unwrap();
            let jumps = jumps_of(node);
            clock.set(off);
            if off == HOUR {
                wait_for("a word about the clock", || (jumps_of(node) > jumps).then_some(()));
            }
            if off.abs() == MONTH {
                says_that_clocks_are_apart(node);
                // Its certificates are not valid by its own clock, and those of users are neither.
                let output = run(three.ssh("echo reached"));
                assert!(output.out().is_empty(), "{off}: {output:?}");
            }
            clock.set(0);
            is_ready(node);
            three.works();
        }
        assert_eq!(live.answer(), ("got hello\n".to_owned(), Some(4)));
    }
    let node = three.node.take().unwrap();
    has_not_panicked(&node);
    node.stop();
}
