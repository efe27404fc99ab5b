//! Clients of other makers, with what our programs give them.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::cluster::{CLUSTER, Home, TestCluster};
use crate::support::program::{Output, own, run};
use crate::support::{own_login, wait_for};

fn host() -> String {
    format!("{}@node.{CLUSTER}", own_login())
}

/// How programs that start `ssh` are told to: the stock one, and ours in its place.
fn ssh_lines(home: &Home) -> [String; 2] {
    let ours = format!("env TELEPORT_HOME={} {} ssh", home.dir.display(), own("tsh").get_program().display());
    [format!("ssh -F {}", home.ssh_config.display()), ours]
}

/// Where `.ci/test` puts it, else the one of the machine.
pub(crate) fn tool(name: &str) -> Command {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let ours = target.join("tools/bin").join(name);
    Command::new(if ours.exists() { ours } else { name.into() })
}

fn in_dir(program: &str, dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.current_dir(dir).args(arguments).env_remove("SSH_AUTH_SOCK");
    command
}

#[track_caller]
fn good(command: Command) -> Output {
    let output = run(command);
    assert_eq!(output.code(), 0, "{output:?}");
    output
}

#[test]
fn a_hundred_channels_share_one_connection() {
    const CHANNELS: usize = 100;
    let cluster = TestCluster::with_node();
    let home = cluster.alice();
    let (socket, go) = (cluster.dir().join("mux"), cluster.dir().join("go"));
    let control = format!("ControlPath={}", socket.display());
    let mut master = home.ssh();
    master.args(["-o", &control, "-o", "ControlMaster=yes", "-f", "-N"]).arg(host());
    master.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    assert!(master.status().unwrap().success());
    // All of them at the same time: each says that it is there, and waits.
    let mut sessions: Vec<_> = (0..CHANNELS)
        .map(|number| {
            let there = cluster.dir().join(format!("there-{number}"));
            let command = format!(
                "touch {}; until [ -e {} ]; do sleep 0.2; done; echo {number}; exit {}",
                there.display(),
                go.display(),
                number % 7
            );
            let mut ssh = home.ssh();
            ssh.args(["-o", &control]).arg(host()).arg(command);
            ssh.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            (there, Some(ssh.spawn().unwrap()))
        })
        .collect();
    wait_for("all sessions", || sessions.iter().all(|(there, _)| there.exists()).then_some(()));
    std::fs::write(&go, "").unwrap();
    for (number, (_, session)) in sessions.iter_mut().enumerate() {
        let output = session.take().unwrap().wait_with_output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{number}\n"));
        assert_eq!(output.status.code(), Some(i32::try_from(number % 7).unwrap()));
    }
    let mut exit = home.ssh();
    exit.args(["-o", &control, "-O", "exit"]).arg(host());
    good(exit);
}

#[test]
fn rsync_and_git_go_over_ssh_and_over_tsh() {
    let cluster = TestCluster::with_node();
    let home = cluster.alice();
    for (number, line) in ssh_lines(&home).iter().enumerate() {
        let dir = cluster.dir().join(number.to_string());
        std::fs::create_dir(&dir).unwrap();
        rsync_goes_over(line, &dir);
        git_goes_over(line, &dir);
    }
}

fn rsync_goes_over(line: &str, dir: &Path) {
    let (from, to, back) = (dir.join("from"), dir.join("to"), dir.join("back"));
    std::fs::create_dir_all(from.join("deep/er")).unwrap();
    for number in 0..200 {
        std::fs::write(from.join(format!("deep/er/file {number}")), vec![number; 1000]).unwrap();
    }
    std::fs::write(from.join("large"), vec![42; 5 << 20]).unwrap();
    let rsync = |source: &str, target: &str| good(in_dir("rsync", dir, &["-a", "-e", line, source, target]));
    rsync(&format!("{}/", from.display()), &format!("{}:{}/", host(), to.display()));
    rsync(&format!("{}:{}/", host(), to.display()), &format!("{}/", back.display()));
    assert_eq!(good(in_dir("diff", dir, &["-r", "from", "back"])).out(), "");
}

fn git_goes_over(line: &str, dir: &Path) {
    let git = |at: &Path, arguments: &[&str]| {
        let identity =
            ["-c", "user.name=alice", "-c", "user.email=alice@example.com", "-c", "init.defaultBranch=main"];
        let mut git = in_dir("git", at, &identity);
        git.args(arguments).env("GIT_SSH_COMMAND", line).env("GIT_SSH_VARIANT", "ssh");
        git.env("GIT_CONFIG_GLOBAL", "/dev/null");
        good(git)
    };
    git(dir, &["init", "--bare", "-q", "there.git"]);
    let url = format!("{}:{}", host(), dir.join("there.git").display());
    git(dir, &["clone", "-q", &url, "here"]);
    let here = dir.join("here");
    std::fs::write(here.join("file"), "content").unwrap();
    git(&here, &["add", "file"]);
    git(&here, &["commit", "-q", "-m", "one"]);
    git(&here, &["push", "-q", "origin", "HEAD:main"]);
    git(dir, &["clone", "-q", "-b", "main", &url, "again"]);
    assert_eq!(std::fs::read_to_string(dir.join("again/file")).unwrap(), "content");
}

#[test]
fn ansible_drives_nodes_as_it_drives_others() {
    let cluster = TestCluster::with_node();
    let home = cluster.alice();
    let ansible = |arguments: &[&str]| {
        let mut ansible = tool("ansible");
        ansible.args(["all", "-i", &format!("node.{CLUSTER},"), "-u", &own_login()]).args(arguments);
        ansible.arg("--ssh-common-args").arg(format!("-F {}", home.ssh_config.display()));
        ansible.env("ANSIBLE_HOME", cluster.dir().join("ansible")).env_remove("SSH_AUTH_SOCK");
        let config = cluster.dir().join("ansible.cfg");
        std::fs::write(&config, "").unwrap();
        ansible.env("ANSIBLE_CONFIG", config).env("LC_ALL", "C.UTF-8").env("ANSIBLE_NOCOLOR", "1");
        // Which of its ways files take, it finds by itself.
        good(ansible)
    };
    let python = format!("ansible_python_interpreter={}", which("python3"));
    assert!(ansible(&["-m", "ping", "-e", &python]).out().contains("\"ping\": \"pong\""));
    assert!(ansible(&["-m", "raw", "-a", "echo raw-$((1+1))"]).out().contains("raw-2"));
    let (source, target) = (cluster.dir().join("source"), cluster.dir().join("target"));
    std::fs::write(&source, "copied").unwrap();
    let files = format!("src={} dest={}", source.display(), target.display());
    ansible(&["-m", "copy", "-a", &files, "-e", &python]);
    assert_eq!(std::fs::read_to_string(&target).unwrap(), "copied");
}

fn which(program: &str) -> String {
    let mut which = Command::new("sh");
    which.arg("-c").arg(format!("command -v {program}"));
    good(which).out().trim().to_owned()
}

/// Runs a program of this language with the libraries of `python-ssh`.
fn python(home: &Home, script: &str) -> Output {
    let login = home.dir.join(std::fs::read_to_string(home.dir.join("current")).unwrap().trim());
    let file = home.dir.join("script.py");
    std::fs::write(&file, script).unwrap();
    let mut python = tool("python-ssh");
    python.arg(&file).arg(&login).arg(own_login()).arg(format!("node.{CLUSTER}"));
    let tsh = own("tsh");
    python.arg(tsh.get_program()).env("TELEPORT_HOME", &home.dir).env_remove("SSH_AUTH_SOCK");
    good(python)
}

/// Through `tsh proxy ssh`, with the files of the login. It knows no host certificates, so it sees the key alone; what it sees is
/// compared with the node's.
#[test]
fn paramiko_logs_in_with_our_certificate() {
    let cluster = TestCluster::with_node();
    let home = cluster.alice();
    let script = r#"
import sys, paramiko
login, user, host, tsh = sys.argv[1:]
key = paramiko.Ed25519Key.from_private_key_file(login + "/key")
key.load_certificate(login + "/key-cert.pub")
client = paramiko.SSHClient()
client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
client.connect(host, username=user, pkey=key, allow_agent=False, look_for_keys=False,
               sock=paramiko.ProxyCommand(f"{tsh} proxy ssh {user}@{host}"))
assert client.get_transport().remote_version.endswith(" teleport-resume-v1")
stdin, stdout, stderr = client.exec_command("cat; echo err >&2; exit 7")
stdin.write("in\n" * 10000)
stdin.channel.shutdown_write()
assert stdout.read() == b"in\n" * 10000
assert stderr.read() == b"err\n"
assert stdout.channel.recv_exit_status() == 7
files = client.open_sftp()
with files.open(login + "/by-paramiko", "w") as file:
    file.write("x" * 100000)
assert files.stat(login + "/by-paramiko").st_size == 100000
shell = client.invoke_shell(width=91, height=17)
shell.send("stty size; exit\n")
seen = b""
while True:
    part = shell.recv(1000)
    if not part: break
    seen += part
assert b"17 91" in seen, seen
client.close()
print("done")
"#;
    assert_eq!(python(&home, script).out(), "done\n");
}

/// It knows host certificates: the node is recognised by the cluster's authority, and another name is refused.
#[test]
fn asyncssh_recognises_the_node_and_logs_in() {
    let cluster = TestCluster::with_node();
    let home = cluster.alice();
    let script = r#"
import sys, asyncio, asyncssh
login, user, host, tsh = sys.argv[1:]
async def connect(name, options={}):
    return await asyncssh.connect(name, username=user, client_keys=[(login + "/key", login + "/key-cert.pub")],
        known_hosts=login + "/known_hosts", proxy_command=[tsh, "proxy", "ssh", f"{user}@{host}"],
        agent_path=None, config=None, **options)
async def main():
    async with await connect(host) as connection:
        done = await connection.run("cat; echo err >&2; exit 7", input="in\n" * 10000)
        assert (done.stdout, done.stderr, done.exit_status) == ("in\n" * 10000, "err\n", 7), done
        killed = await connection.run("kill -TERM $$")
        assert killed.exit_signal[0] == "TERM", killed.exit_signal
        many = await asyncio.gather(*[connection.run(f"echo {n}") for n in range(8)])
        assert [one.stdout for one in many] == [f"{n}\n" for n in range(8)]
        async with connection.start_sftp_client() as files:
            async with files.open(login + "/by-asyncssh", "wb") as file:
                await file.write(b"x" * 100000)
            assert (await files.stat(login + "/by-asyncssh")).size == 100000
        tty = await connection.run("stty size", term_type="xterm", term_size=(91, 17))
        assert tty.stdout == "17 91\r\n", tty.stdout
    try:
        await connect("other." + host.split(".", 1)[1])
        raise SystemExit("another name was believed")
    except (asyncssh.HostKeyNotVerifiable, ValueError) as error:
        pass
    print("done")
asyncio.run(main())
"#;
    assert_eq!(python(&home, script).out(), "done\n");
}
