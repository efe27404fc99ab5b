//! Debian's own sshd as the judge: the same commands, started by it and by us.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command as Tool, Stdio};

use teleport_ssh::sys::accounts::Account;
use teleport_ssh::sys::environment::{ClientEnv, Connection, Environment, Source, Terminal};
use teleport_ssh::sys::host;
use teleport_ssh::sys::modes::TerminalModes;
use teleport_ssh::sys::pty::{Pty, WindowSize};
use teleport_ssh::sys::spawn::Command;
use tokio::io::AsyncReadExt;

use super::support::*;

/// An sshd that serves one connection over pipes, and a stock client that knows it: no port is opened.
struct Sshd {
    dir: tempfile::TempDir,
    login: String,
}

impl Sshd {
    fn new(login: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for key in ["host", "user"] {
            let file = path(key).display().to_string();
            said("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", &file]);
        }
        fs::copy(path("user.pub"), path("authorized")).unwrap();
        // Where its unprivileged half is locked in; a package script makes it at boot only.
        fs::create_dir_all("/run/sshd").unwrap();
        let config = format!(
            "HostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\nLogLevel ERROR\nPrintMotd no\nPrintLastLog no\n",
            path("host").display(),
            path("authorized").display()
        );
        fs::write(path("config"), config).unwrap();
        Self { dir, login: login.to_owned() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn run(&self, option: &str, line: &str) -> String {
        let proxy = format!("ProxyCommand=/usr/sbin/sshd -i -f {}", self.path("config").display());
        let output = Tool::new("ssh")
            .args(["-F", "none", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"])
            .args(["-o", "BatchMode=yes", "-o", "LogLevel=ERROR", "-o", &proxy, option, "-i"])
            .arg(self.path("user"))
            .arg(format!("{}@oracle", self.login))
            .arg(line)
            .stdin(Stdio::null())
            .env_remove("LANG")
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

/// The throwaway user and the judge; nothing where this machine cannot have them.
fn judge() -> Option<(Throwaway, Account, Sshd)> {
    if !host::is_root() || !Path::new("/usr/sbin/sshd").exists() {
        return None;
    }
    let user = Throwaway::new();
    let account = user.account();
    let sshd = Sshd::new(&user.login);
    Some((user, account, sshd))
}

/// sshd hands down what it was itself left with: the C library's `posix_spawn` leaves the two signals ignored
/// that it keeps for its threads. Ours start with nothing ignored.
fn without_library_signals(text: &str) -> String {
    let none = "SigIgn:\t0000000000000000";
    ["0000000180000000", "0000000080000000", "0000000100000000"]
        .iter()
        .fold(text.to_owned(), |text, ignored| text.replace(&format!("SigIgn:\t{ignored}"), none))
}

fn variables(text: &str) -> BTreeMap<&str, &str> {
    text.lines().filter_map(|line| line.trim_end().split_once('=')).collect()
}

#[tokio::test]
async fn a_command_finds_what_it_finds_under_sshd() {
    if !is_alone("sys::oracle::a_command_finds_what_it_finds_under_sshd") {
        return;
    }
    let Some((_user, account, sshd)) = judge() else { return };
    // The number of pending signals counts other processes of the moment.
    let line = "id; id -G; umask; ulimit -Sa; ulimit -Ha; pwd; cat /proc/self/oom_score_adj; ls /proc/$$/fd; \
                grep -E '^(Uid|Gid|Groups|Sig[BIC]|Shd|SigP|Cap|NoNewPrivs|Seccomp)' /proc/self/status; \
                cut -d' ' -f7 /proc/$$/stat; echo $0";
    let theirs = sshd.run("-T", line);
    let ours = run(&account, line).await.clean();
    assert!(ours.lines().count() > 40, "{ours}");
    assert_eq!(ours, without_library_signals(&theirs));

    let client = ClientEnv::default();
    let mut source = Source::new(&account, "/usr/bin:/bin", &client);
    let address = "127.0.0.1:1".parse().unwrap();
    source.connection = Some(Connection { client: address, server: address });
    let environment = Environment::build(&source).unwrap();
    let command = Command::shell_command(&account, environment, "env").unwrap();
    let ours = finish(command.spawn_piped().await.unwrap(), b"").await.clean();
    let theirs = sshd.run("-T", "env");
    let (ours, theirs) = (variables(&ours), variables(&theirs));
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
    // Values differ only in what the two connections and the configured search path are.
    for (name, value) in ours {
        if !["PATH", "SSH_CLIENT", "SSH_CONNECTION"].contains(&name) {
            assert_eq!(value, theirs[name], "{name}");
        }
    }
}

#[tokio::test]
async fn a_terminal_is_what_it_is_under_sshd() {
    if !is_alone("sys::oracle::a_terminal_is_what_it_is_under_sshd") {
        return;
    }
    let Some((_user, account, sshd)) = judge() else { return };
    let line = "stat -c '%U:%G %a' $(tty); stty -a; umask; ls /proc/$$/fd; test \"$(tty)\" = \"$SSH_TTY\"; echo $?; \
                grep -E '^(Uid|Gid|Groups|Sig[BIC]|Cap)' /proc/self/status; \
                cut -d' ' -f1,5,6,8 /proc/$$/stat | awk '{print $1==$2, $1==$3}'; env | cut -d= -f1 | sort";
    let theirs = sshd.run("-tt", line);

    let pty = Pty::open(&account, WindowSize::from_client(80, 24, 0, 0), &TerminalModes::default()).unwrap();
    let client = ClientEnv::default();
    let mut source = Source::new(&account, "/usr/bin:/bin", &client);
    let address = "127.0.0.1:1".parse().unwrap();
    source.connection = Some(Connection { client: address, server: address });
    source.terminal = Some(Terminal { kind: "dumb", device: pty.device() });
    let environment = Environment::build(&source).unwrap();
    let command = Command::shell_command(&account, environment, line).unwrap();
    let (mut child, master) = command.spawn_pty(pty).await.unwrap();
    let mut ours = String::new();
    let (mut reader, _writer) = master.into_split();
    tokio::time::timeout(LIMIT, reader.read_to_string(&mut ours)).await.unwrap().unwrap();
    child.wait().await.unwrap();

    let plain = |text: &str| {
        // A client without a terminal asks for a window of no size.
        let text = without_library_signals(text).replace("rows 0; columns 0", "rows 24; columns 80");
        text.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(plain(&ours), plain(&theirs));
}
