//! Programs that run to their end, with what they read and wrote.

use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::LIMIT;
use crate::servers::mortal;

/// What a program wrote and how it ended.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Output {
    pub(crate) fn out(&self) -> &str {
        std::str::from_utf8(&self.stdout).expect("text on stdout")
    }

    /// The status of a program that ended by itself.
    #[track_caller]
    pub(crate) fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| panic!("ended by itself: {self:?}"))
    }

    /// What a program wrote that succeeded and complained about nothing.
    #[track_caller]
    pub(crate) fn clean(self) -> String {
        assert!(
            self.status.success() && self.stderr.is_empty(),
            "{:?} {:?} {self:?}",
            self.out(),
            self.stderr
        );
        String::from_utf8(self.stdout).unwrap()
    }

    /// The one line of a program that could not do what it was told to.
    #[track_caller]
    pub(crate) fn refusal(self) -> String {
        self.refusal_with(1)
    }

    /// The same of `tsh ssh` when there is no session at the node.
    #[track_caller]
    pub(crate) fn unreached(self) -> String {
        self.refusal_with(255)
    }

    #[track_caller]
    fn refusal_with(self, code: i32) -> String {
        let text = &self.stderr;
        assert_eq!(self.code(), code, "{text}");
        let line = text.strip_suffix('\n').unwrap_or(text);
        assert!(line.starts_with("ERROR: ") && !line.contains('\n'), "one clear line: {text:?}");
        assert!(!text.contains("panicked"), "{text}");
        line.to_owned()
    }

    /// The same for a program that had something to warn of first.
    #[track_caller]
    pub(crate) fn refusal_after_warnings(mut self) -> String {
        self.stderr =
            self.stderr.split_inclusive('\n').filter(|line| !line.starts_with("WARNING: ")).collect();
        self.refusal()
    }
}

/// Runs a program without input.
#[track_caller]
pub(crate) fn run(command: Command) -> Output {
    run_with(command, b"")
}

/// Runs a program with this input. It and its children are ended at the limit, and the test fails.
#[track_caller]
pub(crate) fn run_with(mut command: Command, input: &[u8]) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let output = finish(&mut child, input);
    output.unwrap_or_else(|| panic!("{command:?} did not end in time"))
}

fn finish(child: &mut Child, input: &[u8]) -> Option<Output> {
    let (mut stdin, stdout, stderr) = (child.stdin.take()?, child.stdout.take()?, child.stderr.take()?);
    let group = Pid::from_raw(i32::try_from(child.id()).unwrap());
    thread::scope(|scope| {
        let (done, ended) = mpsc::channel::<()>();
        let watchdog = scope.spawn(move || {
            let late = ended.recv_timeout(LIMIT) == Err(mpsc::RecvTimeoutError::Timeout);
            if late {
                let _ = killpg(group, Signal::SIGKILL);
            }
            late
        });
        scope.spawn(move || {
            // A program need not read all of it.
            let _ = stdin.write_all(input);
        });
        let stdout = scope.spawn(move || read_all(stdout));
        let stderr = scope.spawn(move || read_all(stderr));
        let (stdout, stderr) = (stdout.join().unwrap(), stderr.join().unwrap());
        let status = child.wait().unwrap();
        let _ = done.send(());
        let late = watchdog.join().unwrap();
        let stderr = without_start_up_noise(&String::from_utf8_lossy(&stderr));
        (!late).then_some(Output { status, stdout, stderr })
    })
}

/// What the start-up files of whoever runs the tests say in a session is not ours: those of pyenv complain when several shells
/// start at once.
fn without_start_up_noise(text: &str) -> String {
    text.split_inclusive('\n').filter(|line| !line.contains("pyenv")).collect()
}

fn read_all(mut from: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).unwrap();
    bytes
}

/// A program of ours, in an environment of its own.
pub(crate) fn own(program: &str) -> Command {
    in_own_environment(Command::new(path_of(program)))
}

/// The same for one that runs for as long as the thread that starts it, whatever ends that.
pub(crate) fn own_mortal(program: &str) -> Command {
    in_own_environment(mortal(path_of(program), "KILL"))
}

fn path_of(program: &str) -> &'static str {
    match program {
        "tctl" => env!("CARGO_BIN_EXE_tctl"),
        "teleport" => env!("CARGO_BIN_EXE_teleport"),
        "tsh" => env!("CARGO_BIN_EXE_tsh"),
        other => panic!("{other} is not ours"),
    }
}

fn in_own_environment(mut command: Command) -> Command {
    command.env_clear();
    for name in ["PATH", "HOME", "TMPDIR", "USER"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    // Nobody's own configuration may decide what a test sees.
    command.env("TELEPORT_CONFIG_FILE", "");
    command
}

/// A line as somebody pastes it into a shell.
pub(crate) fn shell(line: &str) -> Command {
    let mut command = Command::new("sh");
    command.arg("-c").arg(line).env_remove("SSH_AUTH_SOCK");
    command
}
