//! Guessing passwords and codes by the front door.

use std::path::Path;
use std::process::Command;

use crate::support::cluster::TestCluster;
use crate::support::daemon::{Machine, Services, fixed_port};
use crate::support::program::{own, run, run_with};
use crate::support::user::User;

struct Door {
    cluster: TestCluster,
    home: std::path::PathBuf,
}

impl Door {
    fn new() -> Self {
        let cluster = TestCluster::start();
        let home = cluster.dir().join("home");
        Self { cluster, home }
    }

    fn tctl(&self, arguments: &[&str]) -> String {
        let mut command = own("tctl");
        command.arg("--data-dir").arg(self.cluster.dir().join("cluster")).args(arguments);
        run(command).clean()
    }

    fn tsh(&self, user: &str) -> Command {
        let mut command = own("tsh");
        command.env("TELEPORT_HOME", &self.home).arg("login").arg(format!("--user={user}"));
        command.arg(format!("--proxy={}", self.cluster.web()));
        command
    }

    fn accept(&self, printed: &str, home: &Path) -> User {
        User::accept("alice", printed, home)
    }

    /// What a login that fails is told.
    #[track_caller]
    fn told(&self, user: &str, password: &str, code: &str) -> String {
        run_with(self.tsh(user), format!("{password}\n{code}\n").as_bytes()).refusal()
    }
}

#[test]
fn five_failures_lock_and_nobody_can_tell() {
    let door = Door::new();
    let mut alice = door.accept(&door.tctl(&["users", "add", "alice", "--logins=alice"]), &door.home);
    let wrong = alice.app.wrong_code();
    let first = door.told("alice", "wrong password", &wrong);
    assert!(first.contains("login failed") && first.contains("locked for a while"), "{first}");
    // Right password and wrong code, and the reverse, and somebody unknown: all the same.
    assert_eq!(door.told("alice", &alice.password, &wrong), first);
    assert_eq!(door.told("nobody", "wrong password", &wrong), first);
    for _ in 0..3 {
        assert_eq!(door.told("alice", "wrong password", &wrong), first);
    }
    // From now on also the right ones are refused, in the same words.
    let code = alice.app.code();
    assert_eq!(door.told("alice", &alice.password, &code), first);
    let users = door.tctl(&["users", "ls"]);
    assert!(users.contains("for 29m") || users.contains("for 30m"), "an administrator sees it: {users}");
    let failures = door.cluster.events(|event| event.code.code() == "T1000W");
    assert_eq!(failures.len(), 7, "{failures:?}");
    // A reset unlocks.
    let printed = door.tctl(&["users", "reset", "alice"]);
    let mut alice = door.accept(&printed, &door.home);
    let input = format!("{}\n{}\n", alice.password, alice.app.code());
    let status = run_with(door.tsh("alice"), input.as_bytes()).clean();
    assert!(status.contains("Logged in as: alice"), "{status}");
}

/// Row E1: a code is good once, and has six digits and nothing else.
#[test]
fn a_code_is_good_once() {
    let door = Door::new();
    let mut alice = door.accept(&door.tctl(&["users", "add", "alice", "--logins=alice"]), &door.home);
    let code = alice.app.code();
    let input = format!("{}\n{code}\n", alice.password);
    run_with(door.tsh("alice"), input.as_bytes()).clean();
    let mut again = door.tsh("alice");
    again.arg("--force");
    assert!(run_with(again, input.as_bytes()).refusal().contains("a code was used twice"));
    for odd in ["1234567", "12345", "12 456", "+12345", "\u{661}\u{662}\u{663}\u{664}\u{665}\u{666}"] {
        let mut odd_code = door.tsh("alice");
        odd_code.arg("--force");
        let line = run_with(odd_code, format!("{}\n{odd}\n", alice.password).as_bytes()).refusal();
        assert!(line.contains("six digits"), "{odd}: {line}");
    }
}

/// Row E2: what has failed has failed, whatever becomes of the service the moment after it said so.
#[test]
fn e2_failures_outlive_a_kill_after_each_answer() {
    let machine = Machine::new();
    let services = Services { auth: Some(0), proxy: Some((fixed_port(), 0)), node: None };
    machine.configure("all", "", &services.yaml());
    let mut process = machine.start("all", &[]);
    let printed = machine.tctl("all", &["users", "add", "alice", "--logins=alice"]).clean();
    let home = machine.path("home");
    let mut alice = User::accept("alice", &printed, &home);
    let login = |web: std::net::SocketAddr| {
        let mut command = own("tsh");
        command.env("TELEPORT_HOME", &home).args(["login", "--user=alice", "--force"]);
        command.arg(format!("--proxy={web}"));
        command
    };
    for _ in 0..5 {
        // The right password, and another code each time.
        let guess = format!("{}\n{}\n", alice.password, alice.app.wrong_code());
        let told = run_with(login(process.address("proxy")), guess.as_bytes()).refusal();
        assert!(told.contains("login failed"), "{told}");
        process.kill();
        process = machine.start("all", &[]);
    }
    let right = format!("{}\n{}\n", alice.password, alice.app.code());
    let told = run_with(login(process.address("proxy")), right.as_bytes()).refusal();
    assert!(told.contains("locked for a while"), "{told}");
    let failures = machine.events("all").into_iter().filter(|event| event["code"] == "T1000W");
    let reasons: Vec<String> = failures.map(|event| event["error"].to_string()).collect();
    assert_eq!(reasons.len(), 6, "{reasons:?}");
    assert!(reasons.iter().any(|reason| reason.contains("locked")), "{reasons:?}");
    // Unlocked, the next code is good: it was the lock.
    machine.tctl("all", &["users", "unlock", "alice"]).clean();
    let right = format!("{}\n{}\n", alice.password, alice.app.code());
    run_with(login(process.address("proxy")), right.as_bytes()).clean();
    process.stop();
}
