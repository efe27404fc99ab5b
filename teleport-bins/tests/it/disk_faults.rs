//! Disks that fill up, each that something is kept on: nothing that was acknowledged is lost, what cannot be kept is refused with
//! the reason, and when there is room again everything goes on by itself. Goal G-24.

use serde_json::Value;

use crate::network_faults::{SESSION, each_happened_once, everything_is_verified};
use crate::processes::{Plan, Three};
use crate::recording_faults::{Talk, completed, recorded, spooled};
use crate::support::daemon::Machine;
use crate::support::program::{Output, run};
use crate::support::small_disk::SmallDisk;
use crate::support::wait_for;

/// A machine one of whose directories is on a small disk.
fn machine(directory: &str) -> Machine {
    let mut machine = Machine::new();
    machine.disk = Some(SmallDisk::at(&machine.path(directory)));
    machine
}

fn disk(three: &Three) -> &SmallDisk {
    three.machine.disk.as_ref().unwrap()
}

/// A session that is not begun, because of what is said.
#[track_caller]
fn is_refused(three: &Three, because: &str) {
    let refused = run(three.ssh("echo in"));
    assert!(refused.out().is_empty() && refused.code() >= 254, "{refused:?}");
    assert!(refused.stderr.contains(because), "{refused:?}");
}

/// When there is room again: everything that was said is kept, once, and proved.
#[track_caller]
fn is_whole_again(three: &Three, talks: &[(String, String)]) {
    let node = three.machine.path("node");
    wait_for("an empty spool", || (spooled(&node) == 0).then_some(()));
    each_happened_once(&three.machine);
    for (id, said) in talks {
        assert_eq!(recorded(&three.machine.path("auth"), id), *said, "{id}");
    }
    everything_is_verified(&three.machine);
    for process in [&three.auth, &three.proxy, &three.node] {
        let logged = process.as_ref().unwrap().logged();
        assert!(!logged.contains("panicked"), "{logged}");
    }
}

/// The node's own: a full disk begins no sessions, and is told of.
#[test]
fn g24_a_full_spool_refuses_sessions_and_recovers() {
    let three = Three::start_with(machine("node/spool"), Plan::default());
    three.works();
    let mut talk = Talk::begin(&three);
    talk.say("before").unwrap();
    disk(&three).fill();
    // The session goes on: it is recorded at best effort.
    wait_for("the node to notice", || {
        talk.say("while it is full, and this line is long enough to need another page of it").unwrap();
        let full = three.node.as_ref().unwrap().logged().contains("the disk does not take a recording");
        full.then_some(())
    });
    is_refused(&three, "cannot be recorded");
    disk(&three).make_room();
    three.works();
    talk.say("after").unwrap();
    let (_, status) = talk.end();
    assert_eq!(status, Some(5));
    let auth = three.machine.path("auth");
    wait_for("the recording with both ends of the gap", || {
        let texts = completed(&auth);
        texts.iter().any(|text| text.starts_with("before\n") && text.ends_with("after\n")).then_some(())
    });
    let told = |event: &Value| {
        event["code"] == "T2005E" && event["error"].as_str().is_some_and(|text| text.contains("disk"))
    };
    assert!(three.machine.events("auth").iter().any(told), "the audit log knows");
    is_whole_again(&three, &[]);
}

/// Where nothing may be missing the session ends, and what it showed is kept.
#[test]
fn g24_a_full_spool_ends_streamed_sessions() {
    let three = Three::start_with(machine("node/spool"), Plan { mode: "node-sync", ..Plan::default() });
    three.works();
    let mut talk = Talk::run(&three, SESSION);
    let id = talk.hear().unwrap().trim().to_owned();
    talk.say("before").unwrap();
    disk(&three).fill();
    // The last page of the file may have room for some.
    wait_for("the end of the session", || {
        talk.say("while it is full, and this line is long").is_none().then_some(())
    });
    let (said, status) = talk.end();
    assert_eq!(status, Some(255));
    is_refused(&three, "cannot be recorded");
    disk(&three).make_room();
    three.works();
    let auth = three.machine.path("auth");
    wait_for("the recording", || recorded(&auth, &id).starts_with(&said).then_some(()));
    is_whole_again(&three, &[]);
}

/// The auth service's recordings: they wait on the nodes, and sessions go on.
#[test]
fn g24_a_full_store_of_recordings_delays_them() {
    let three = Three::start_with(machine("auth/recordings"), Plan::default());
    three.works();
    let mut talk = Talk::run(&three, SESSION);
    let id = talk.hear().unwrap().trim().to_owned();
    disk(&three).fill();
    talk.say("while it is full").unwrap();
    three.works();
    let (said, status) = talk.end();
    assert_eq!(status, Some(5));
    wait_for("the node to say that it waits", || {
        three.node.as_ref().unwrap().logged().contains("a recording waits for its upload").then_some(())
    });
    assert_eq!(recorded(&three.machine.path("auth"), &id), "");
    disk(&three).make_room();
    is_whole_again(&three, &[(id, said)]);
}

/// With streamed sessions: those that run need no room there before a part of theirs is whole, new ones are not begun.
#[test]
fn g24_a_full_store_of_recordings_refuses_streamed_sessions() {
    let plan = Plan { mode: "node-sync", ..Plan::default() };
    let three = Three::start_with(machine("auth/recordings"), plan);
    three.works();
    let mut talk = Talk::run(&three, SESSION);
    let id = talk.hear().unwrap().trim().to_owned();
    disk(&three).fill();
    talk.say("while it is full").unwrap();
    is_refused(&three, "cannot be recorded");
    disk(&three).make_room();
    three.works();
    talk.say("after").unwrap();
    let (said, status) = talk.end();
    assert_eq!(status, Some(5));
    is_whole_again(&three, &[(id, said)]);
}

/// Makes users until that is refused: those that were made, and the refusal.
fn add_users(three: &Three, prefix: &str) -> (Vec<String>, Output) {
    let mut made = Vec::new();
    for number in 0..10_000 {
        let name = format!("{prefix}{number}");
        let output = three.machine.tctl("auth", &["users", "add", &name]);
        if output.code() != 0 {
            return (made, output);
        }
        made.push(name);
    }
    panic!("the disk does not become full");
}

#[track_caller]
fn users_are_there(three: &Three, made: &[String]) {
    let listed = three.machine.tctl("auth", &["users", "ls", "--format=json"]).clean();
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let text = listed.to_string();
    for name in made {
        assert!(text.contains(&format!("\"{name}\"")), "{name} was acknowledged");
    }
}

/// The audit log: what has to be in it does not happen, or is not acknowledged.
#[test]
fn g24_a_full_audit_log_refuses_what_it_must_have() {
    let machine = machine("log");
    let storage = format!("  storage:\n    audit_events_uri: \"file://{}\"\n", machine.path("log").display());
    let three = Three::start_with(machine, Plan { storage: &storage, ..Plan::default() });
    three.works();
    let mut talk = Talk::run(&three, SESSION);
    let id = talk.hear().unwrap().trim().to_owned();
    disk(&three).fill();
    let (made, refusal) = add_users(&three, "while-full-");
    let line = refusal.refusal();
    assert_eq!(line, "ERROR: the auth service cannot use its audit log");
    is_refused(&three, "audit log");
    talk.say("while it is full").unwrap();
    disk(&three).make_room();
    three.works();
    let (said, status) = talk.end();
    assert_eq!(status, Some(5));
    three.machine.tctl("auth", &["users", "add", "after"]).clean();
    users_are_there(&three, &made);
    let events = three.machine.events("auth");
    for name in &made {
        let count =
            events.iter().filter(|event| event["code"] == "T1002I" && event["name"] == name.as_str()).count();
        assert_eq!(count, 1, "{name}");
    }
    is_whole_again(&three, &[(id, said)]);
}

/// The storage: changes are refused; what was acknowledged is there, also after a loss of power.
#[test]
fn g24_a_full_storage_refuses_changes_and_loses_none() {
    let machine = machine("storage");
    let file = machine.path("storage").join("backend.redb");
    let storage = format!("  storage:\n    path: {}\n", file.display());
    let mut three = Three::start_with(machine, Plan { storage: &storage, ..Plan::default() });
    three.works();
    let mut all = Vec::new();
    for round in ["stays", "dies"] {
        let mut talk = Talk::run(&three, SESSION);
        let id = talk.hear().unwrap().trim().to_owned();
        disk(&three).fill();
        let (made, refusal) = add_users(&three, &format!("{round}-"));
        let line = refusal.refusal();
        assert_eq!(line, "ERROR: the auth service cannot use its storage");
        talk.say("while it is full").unwrap();
        if round == "dies" {
            three.auth.take().unwrap().kill();
        }
        disk(&three).make_room();
        if round == "dies" {
            three.auth = Some(three.machine.start("auth", &[]));
        }
        three.works();
        let (said, status) = talk.end();
        assert_eq!(status, Some(5));
        wait_for("changes to be possible again", || {
            (three.machine.tctl("auth", &["users", "add", &format!("after-{round}")]).code() == 0)
                .then_some(())
        });
        users_are_there(&three, &made);
        all.push((id, said));
    }
    is_whole_again(&three, &all);
}
