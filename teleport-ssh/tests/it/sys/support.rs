//! What the tests of the operating-system layer share.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use teleport_ssh::sys::accounts::{Account, LoginDefs};
use teleport_ssh::sys::child::Exit;
use teleport_ssh::sys::environment::{ClientEnv, Environment, Source};
use teleport_ssh::sys::host;
use teleport_ssh::sys::spawn::{Command, Piped};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// No state that a test waits for may take longer.
pub(super) const LIMIT: Duration = Duration::from_secs(120);

/// What a process printed and how it ended.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) exit: Exit,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

impl Output {
    /// The standard output of a process that succeeded and complained about nothing.
    pub(super) fn clean(self) -> String {
        assert_eq!((self.exit, self.stderr.as_str()), (Exit::Code(0), ""), "{}", self.stdout);
        self.stdout
    }
}

/// An account to serve: another user's if we are root, else our own. It has a shell and an accessible home.
pub(super) fn account() -> Account {
    let login = if host::is_root() { "daemon".to_owned() } else { host::current_login().unwrap() };
    let mut account = Account::lookup(&login).unwrap();
    account.shell = "/bin/sh".into();
    account.home = "/tmp".into();
    account
}

pub(super) fn environment(account: &Account) -> Environment {
    let (client, defs) = (ClientEnv::default(), LoginDefs::load());
    Environment::build(&Source::new(account, defs.path_for(account.uid), &client)).unwrap()
}

pub(super) fn shell_command(account: &Account, line: &str) -> Command {
    Command::shell_command(account, environment(account), line).unwrap()
}

/// Runs a command line with this input, to its end.
pub(super) async fn run_with(account: &Account, line: &str, input: &[u8]) -> Output {
    finish(shell_command(account, line).spawn_piped().await.unwrap(), input).await
}

pub(super) async fn run(account: &Account, line: &str) -> Output {
    run_with(account, line, b"").await
}

pub(super) async fn finish(piped: Piped, input: &[u8]) -> Output {
    let Piped { mut child, mut stdin, mut stdout, mut stderr, .. } = piped;
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let all = async {
        tokio::join!(
            async {
                // The process need not read it.
                let _ = stdin.write_all(input).await;
                drop(stdin);
            },
            async { stdout.read_to_end(&mut out).await.unwrap() },
            async { stderr.read_to_end(&mut err).await.unwrap() },
        );
        child.wait().await.unwrap()
    };
    let exit = tokio::time::timeout(LIMIT, all).await.expect("the process ends");
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Output { exit, stdout: text(out), stderr: text(err) }
}

/// Runs a program of the system with the standard library, and answers what it printed.
pub(super) fn said(program: &str, arguments: &[&str]) -> String {
    let output = std::process::Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

/// Whether this is the copy of the test program that runs the named test and nothing else. Otherwise runs
/// that copy, as a test that counts what its whole process holds needs it, and checks that it passed.
pub(super) fn is_alone(test: &str) -> bool {
    const MARK: &str = "TELEPORT_TEST_ALONE";
    if std::env::var(MARK).as_deref() == Ok(test) {
        return true;
    }
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(MARK, test)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    print!("{stdout}");
    assert!(output.status.success() && stdout.contains("1 passed"), "{output:?}");
    false
}

/// A user account of this machine that exists as long as the value. Root only.
pub(super) struct Throwaway {
    pub(super) login: String,
}

impl Throwaway {
    /// With a home, `bash`, no usable password that is not locked either, and two more groups.
    pub(super) fn new() -> Self {
        let this = Self { login: format!("tpssh{}", std::process::id()) };
        let arguments = ["-m", "-s", "/bin/bash", "-p", "*", "-G", "users,mail", &this.login];
        change_accounts("useradd", &arguments);
        this
    }

    pub(super) fn account(&self) -> Account {
        Account::lookup(&self.login).unwrap()
    }
}

impl Drop for Throwaway {
    fn drop(&mut self) {
        change_accounts("userdel", &["-r", "-f", &self.login]);
    }
}

/// Such programs fail at once where another one holds the lock of the account files.
pub(super) fn change_accounts(program: &str, arguments: &[&str]) {
    let path = ["/usr/sbin", "/sbin"].map(|dir| Path::new(dir).join(program));
    let path: &PathBuf = path.iter().find(|path| path.exists()).expect("the package passwd is installed");
    let mut last = None;
    for _ in 0..100 {
        let output = std::process::Command::new(path).args(arguments).output().unwrap();
        if output.status.success() {
            return;
        }
        let is_busy = String::from_utf8_lossy(&output.stderr).contains("lock");
        last = Some(output);
        if !is_busy {
            break;
        }
    }
    panic!("{program} {arguments:?}: {last:?}");
}
