#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
use std::process::Command;

use teleport_core::clock::Timestamp;
use teleport_core::testing::ManualClock;

use super::*;

struct Files {
    dir: tempfile::TempDir,
    records: LoginRecords,
    clock: Arc<ManualClock>,
}

impl Files {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (utmp, wtmp) = (dir.path().join("utmp"), dir.path().join("wtmp"));
        File::create(&utmp).unwrap();
        File::create(&wtmp).unwrap();
        let clock = Arc::new(ManualClock::new(Timestamp::from_unix_millis(1_800_000_000_250)));
        Self { dir, records: LoginRecords::new(utmp, wtmp), clock }
    }

    fn log_in(&self, terminal: &str, user: &str, from: &str) -> LoggedIn {
        let login = Login::new(terminal, user, SocketAddr::new(from.parse().unwrap(), 50_000));
        self.records.log_in(login, Arc::<ManualClock>::clone(&self.clock))
    }

    fn says(&self, program: &str, arguments: &[&str], file: &str) -> String {
        let mut command = Command::new(program);
        command.args(arguments).arg(self.dir.path().join(file)).env("TZ", "UTC").env("LC_ALL", "C");
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn who(&self) -> String {
        self.says("who", &[], "utmp")
    }

    fn last(&self) -> String {
        self.says("last", &["-F", "-w", "-i", "-f"], "wtmp")
    }
}

#[test]
fn who_and_last_read_it() {
    let files = Files::new();
    let alice = files.log_in("/dev/pts/3", "alice", "192.0.2.7");
    let bob = files.log_in("/dev/pts/1234", "bob", "2001:db8::5");
    let who = files.who();
    assert!(who.contains("alice    pts/3") && who.contains("(192.0.2.7)"), "{who}");
    assert!(who.contains("bob      pts/1234") && who.contains("(2001:db8::5)"), "{who}");
    files.clock.advance(Duration::from_secs(3661));
    drop(alice);
    let who = files.who();
    assert!(!who.contains("alice") && who.contains("bob"), "{who}");
    let last = files.last();
    let of = |user: &str| last.lines().find(|line| line.starts_with(user)).unwrap().to_owned();
    assert!(of("alice").contains("pts/3") && of("alice").contains("192.0.2.7"), "{last}");
    assert!(of("alice").contains("Jan 15 08:00:00 2027 - ") && of("alice").contains("(01:01)"), "{last}");
    assert!(of("bob").contains("2001:db8::5"), "{last}");
    drop(bob);
    assert_eq!(files.who(), "");
}

#[test]
fn a_terminal_has_one_record_and_the_history_all() {
    let files = Files::new();
    for _ in 0..3 {
        drop(files.log_in("/dev/pts/3", "alice", "192.0.2.7"));
    }
    let _other = files.log_in("/dev/pts/4", &"x".repeat(100), "192.0.2.7");
    let len = |name: &str| std::fs::metadata(files.dir.path().join(name)).unwrap().len();
    assert_eq!((len("utmp"), len("wtmp")), (2 * LEN as u64, 7 * LEN as u64));
}

/// The terminal of a session that has ended may be somebody else's before that is written down.
#[test]
fn a_terminal_that_is_taken_again_is_not_given_back() {
    let files = Files::new();
    let mut alice = files.log_in("/dev/pts/3", "alice", "192.0.2.7");
    alice.lead_by(1);
    let mut bob = files.log_in("/dev/pts/3", "bob", "192.0.2.8");
    drop(alice);
    assert!(files.who().contains("bob"));
    bob.lead_by(1);
    let who = files.says("who", &["-u"], "utmp");
    assert!(who.contains(" 1 (192.0.2.8)"), "{who}");
    drop(bob);
    assert_eq!(files.who(), "");
}

/// What others wrote stays, also what is no record of a process, and the rest of a record that was cut is written over.
#[test]
fn what_is_there_stays() {
    let files = Files::new();
    let mut boot = record(&Login::new("~", "", "0.0.0.0:0".parse().unwrap()), 0, libc::BOOT_TIME, 0);
    // The same four bytes as those of the terminal.
    put(&mut boot.ut_id, b"ts/3");
    let before = [bytes(&boot), &[7; 10]].concat();
    for name in ["utmp", "wtmp"] {
        std::fs::write(files.dir.path().join(name), &before).unwrap();
    }
    let _alice = files.log_in("/dev/pts/3", "alice", "192.0.2.7");
    for name in ["utmp", "wtmp"] {
        let now = std::fs::read(files.dir.path().join(name)).unwrap();
        assert_eq!((now.len(), &now[..LEN]), (2 * LEN, bytes(&boot)), "{name}");
    }
}

#[test]
fn without_files_none_are_made_and_a_lock_keeps_nobody_out() {
    let files = Files::new();
    std::fs::remove_file(files.dir.path().join("wtmp")).unwrap();
    let held = File::open(files.dir.path().join("utmp")).unwrap();
    // Whoever may read it may do this.
    fcntl(&held, FcntlArg::F_OFD_SETLK(&whole(libc::F_RDLCK))).unwrap();
    let alice = files.log_in("/dev/pts/3", "alice", "192.0.2.7");
    assert_eq!(files.who(), "");
    drop(held);
    drop(alice);
    assert!(!files.dir.path().join("wtmp").exists());
    let _again = files.log_in("/dev/pts/3", "alice", "192.0.2.7");
    assert!(files.who().contains("alice"));
}
