//! Guessing passwords and codes by the front door.

use std::path::Path;
use std::process::Command;

use crate::support::cluster::TestCluster;
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
