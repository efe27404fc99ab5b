//! `teleport try`: the first thing that a stranger does.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::program::{own, run, run_with, shell};
use crate::support::tmux::Terminal;
use crate::support::{own_login, wait_for};
use tempfile::TempDir;

/// `teleport try` with a directory of its own for what it makes.
fn trial(temporary: &Path) -> Command {
    let mut command = own("teleport");
    command.env("TMPDIR", temporary).arg("try");
    command
}

fn left_in(temporary: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(temporary).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn a_command_is_run_and_its_status_returned() {
    let temporary = TempDir::new().unwrap();
    let mut uname = trial(temporary.path());
    uname.args(["--", "uname", "-a"]);
    assert_eq!(run(uname).clean(), run(shell("uname -a")).clean());
    assert!(left_in(temporary.path()).is_empty(), "it cleans up");
}

#[test]
fn the_words_of_a_command_stay_apart() {
    let temporary = TempDir::new().unwrap();
    let mut words = trial(temporary.path());
    words.args(["--", "sh", "-c", "printf '<%s>' \"$@\"; exit 7", "sh", "a b", "$HOME", "it's"]);
    let output = run(words);
    assert_eq!((output.out(), output.code()), ("<a b><$HOME><it's>", 7), "{}", output.stderr);
}

#[test]
fn output_and_complaints_stay_apart() {
    let temporary = TempDir::new().unwrap();
    let mut fails = trial(temporary.path());
    fails.args(["--", "echo out; cat; echo err >&2; exit 7"]);
    let output = run_with(fails, b"from stdin\n");
    assert_eq!((output.out(), output.stderr.as_str()), ("out\nfrom stdin\n", "err\n"));
    assert_eq!(output.code(), 7);
    assert!(left_in(temporary.path()).is_empty(), "it cleans up after a failure, too");
}

#[test]
fn a_shell_is_read_from_a_stdin_that_is_no_terminal() {
    let temporary = TempDir::new().unwrap();
    let output = run_with(trial(temporary.path()), b"echo $((6*7)); exit 5\n");
    assert_eq!((output.out(), output.code()), ("42\n", 5), "{}", output.stderr);
}

#[test]
fn keep_keeps_the_directory_and_says_where() {
    let temporary = TempDir::new().unwrap();
    let mut keeps = trial(temporary.path());
    keeps.args(["--keep", "--", "true"]);
    let output = run(keeps);
    assert_eq!(output.code(), 0);
    let kept = left_in(temporary.path());
    let [dir] = kept.as_slice() else { panic!("{kept:?}") };
    assert_eq!(output.stderr, format!("Kept: {}\n", dir.display()));
    assert!(dir.join("cluster/audit").is_dir() && dir.join("cluster/recordings").is_dir());
}

#[test]
fn a_directory_that_cannot_be_made_is_one_clear_line() {
    let mut nowhere = trial("/proc/none".as_ref());
    nowhere.args(["--", "true"]);
    let line = run(nowhere).refusal();
    assert!(line.contains("/proc/none"), "{line}");
}

#[test]
fn a_signal_leaves_nothing_behind() {
    for (signal, status) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let temporary = TempDir::new().unwrap();
        let mut sleeps = trial(temporary.path());
        let mark = temporary.path().join("pid");
        let line = format!("echo $$ > {0}.new; mv {0}.new {0}; exec sleep 1000", mark.display());
        sleeps.args(["--", &line]).stdin(Stdio::null()).process_group(0);
        let mut child = sleeps.spawn().unwrap();
        let session = wait_for("the command to run", || std::fs::read_to_string(&mark).ok());
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(status));
        assert_eq!(left_in(temporary.path()), [mark], "it cleans up");
        let session = format!("/proc/{}/cmdline", session.trim());
        wait_for("the command to end", || {
            let alive = std::fs::read(&session).is_ok_and(|line| line.starts_with(b"sleep"));
            (!alive).then_some(())
        });
    }
}

/// The line after a word in what the trial prints.
fn pasted(screen: &str, name: &str, part: &str) -> String {
    let line = screen.lines().find(|line| line.trim_start().starts_with(name) && line.contains(part));
    let line = line.unwrap_or_else(|| panic!("{name} {part}: {screen}"));
    line.trim_start().strip_prefix(name).unwrap().trim().to_owned()
}

#[test]
fn in_a_terminal_somebody_types_pastes_exits_and_watches_the_replay() {
    let temporary = TempDir::new().unwrap();
    let program = env!("CARGO_BIN_EXE_teleport");
    let terminal = Terminal::open(&format!("TMPDIR={} {program} try", temporary.path().display()));
    let screen = terminal.wait_for("You are on the node now", 1);
    terminal.type_line("echo typed-$((40+2)) && tty && stty size");
    terminal.wait_for("typed-42", 1);
    terminal.wait_for("/dev/pts/", 1);
    terminal.wait_for("30 100", 1);

    // Every line that it prints works in another terminal as it stands.
    for (name, part) in [("ssh ", "ssh_config "), ("ssh -J", "-J"), ("ssh ", "ssh -"), ("tsh", "tsh ssh")] {
        let line = pasted(&screen, name, part);
        let output = run(shell(&format!("{line} 'echo pasted; exit 4'")));
        assert_eq!((output.out(), output.stderr.as_str(), output.code()), ("pasted\n", "", 4), "{line}");
    }
    for (name, part, expected) in [
        ("tsh", "recordings ls", own_login().as_str()),
        ("tctl", "nodes ls", "env=try"),
        ("tctl", "events search", "TJ002I"),
    ]
    .map(|(name, part, expected)| (name, part, expected.to_owned()))
    {
        let printed = run(shell(&pasted(&screen, name, part))).clean();
        assert!(printed.contains(&expected), "{printed}");
    }

    terminal.type_line("exit");
    terminal.wait_for("Replay the recording? [y/N]", 1);
    terminal.type_line("y");
    // Once as it was typed, once in the replay; the echo of the line is not the output.
    let replayed = terminal.wait_for("typed-42", 2);
    assert!(!replayed.contains("ERROR"), "{replayed}");
    assert_eq!(terminal.ended(), 0);
    assert!(left_in(temporary.path()).is_empty(), "it cleans up");
}
