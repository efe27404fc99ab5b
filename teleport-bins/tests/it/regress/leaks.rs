//! What thousands of sessions leave behind: no process, no descriptor, no thread.

use crate::processes::Three;
use crate::support::wire::{Holder, Message, Wire};
use crate::support::{own_login, wait_for};
use crate::wire::{exec, source};

/// How many sessions: so many are enough to see one that is lost in each hundred. `TELEPORT_SESSIONS` for more.
fn sessions() -> usize {
    std::env::var("TELEPORT_SESSIONS").map_or(1000, |count| count.parse().unwrap())
}

fn descriptors(process: &str) -> usize {
    std::fs::read_dir(format!("/proc/{process}/fd")).unwrap().count()
}

/// The processes that it has started, dead ones too that it has not asked about.
fn children(process: &str) -> Vec<String> {
    let stat = |name: &str| std::fs::read_to_string(format!("/proc/{name}/stat")).ok();
    let all =
        std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let numbers = all.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
    let of_it = numbers.filter_map(|name| stat(&name)).filter(|stat| {
        let fields: Vec<&str> =
            stat.rsplit_once(')').map_or(stat.as_str(), |(_, rest)| rest).split_whitespace().collect();
        fields.get(1) == Some(&process)
    });
    of_it.collect()
}

fn threads(process: &str) -> usize {
    std::fs::read_dir(format!("/proc/{process}/task")).unwrap().count()
}

/// So many commands, one after the other on a connection.
fn run(three: &Three, holder: &Holder, count: usize) {
    let node = three.node.as_ref().unwrap().address("node ssh");
    let mut wire = Wire::logged_in(source(), node, &own_login(), holder);
    for number in 0..count {
        wire.open_session(1 << 20);
        wire.request(&exec("true"));
        let mut status = None;
        loop {
            let answer = wire.answer().unwrap_or_else(|| panic!("the connection ended in session {number}"));
            match answer[0] {
                98 if answer.windows(11).any(|part| part == b"exit-status") => {
                    status = answer.last().copied()
                }
                97 => break,
                _ => {}
            }
        }
        assert_eq!(status, Some(0), "session {number}");
        wire.send(&Message::new(97).number(0).bytes);
    }
    wire.finish();
}

/// Row G4: dead processes are asked about, descriptors are closed, and the node is as small as before.
#[test]
fn g4_thousands_of_sessions_leave_nothing_behind() {
    const CONNECTIONS: usize = 4;
    /// Threads that wait for files. They end some time after their last work, of which there is some while recordings are delivered.
    const WORKERS: usize = 32;
    let three = Three::start(false);
    let (auth, node) = (three.auth.as_ref().unwrap(), three.node.as_ref().unwrap());
    let holder = Holder::of(&three.machine.path("home"));
    let process = node.pid().to_string();
    let round = |count: usize| {
        std::thread::scope(|scope| {
            for _ in 0..CONNECTIONS {
                scope.spawn(|| run(&three, &holder, count));
            }
        });
        wait_for("the end of all that was started", || children(&process).is_empty().then_some(()));
    };
    // What is made once is made by the first.
    round(100);
    let before = (descriptors(&process), threads(&process), node.kilobytes("VmRSS"), auth.kilobytes("VmRSS"));
    let count = sessions();
    round(count / CONNECTIONS);
    // Two for what is delivered at the moment.
    wait_for("the descriptors to be closed", || (descriptors(&process) <= before.0 + 2).then_some(()));
    let after = (descriptors(&process), threads(&process), node.kilobytes("VmRSS"), auth.kilobytes("VmRSS"));
    eprintln!(
        "{count} sessions: descriptors, threads, kB of the node, kB of the auth service: {before:?}, {after:?}"
    );
    assert!(after.1 <= before.1 + WORKERS, "{before:?} {after:?}");
    assert!(after.2 <= before.2 + (8 << 10), "{before:?} {after:?}");
    three.works();
}
