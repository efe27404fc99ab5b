//! Stock OpenSSH through the proxy, with what `tsh config` prints: no prompt, no warning, and what `ssh` promises holds.

use std::process::Command;

use teleport_core::audit::EventKind;

use crate::support::cluster::{CLUSTER, Home, TestCluster};
use crate::support::program::{Output, own, run, run_with};
use crate::support::tmux::Terminal;
use crate::support::{bytes, own_login, wait_for};

/// `login@node.cluster`.
fn node() -> String {
    format!("{}@node.{CLUSTER}", own_login())
}

fn ssh(home: &Home, arguments: &[&str]) -> Output {
    let mut ssh = home.ssh();
    ssh.args(arguments);
    run(ssh)
}

/// What every way to the node must give.
#[track_caller]
fn assert_good_way(home: &Home, options: &[&str]) {
    let mut ssh = home.ssh();
    ssh.args(options).arg(node()).arg("echo out; cat; echo err >&2; exit 7");
    let output = run_with(ssh, b"in\n");
    assert_eq!((output.out(), output.stderr.as_str()), ("out\nin\n", "err\n"), "{options:?}");
    assert_eq!(output.code(), 7, "{options:?}");
}

#[test]
fn every_way_through_the_proxy_is_quiet_and_exact() {
    let cluster = TestCluster::with_node();
    let home = cluster.alice();
    let config = home.ssh_config.display();
    let alias = format!("teleport-proxy.{CLUSTER}");
    assert_good_way(&home, &[]);
    assert_good_way(&home, &["-J", &alias]);
    for command in [
        format!("ssh -F {config} -W [%h]:%p {alias}"),
        format!("ssh -F {config} -s {alias} proxy:%h:%p"),
        format!("ssh -F {config} -s {alias} proxy:%h:%p@{CLUSTER}"),
        format!("env TELEPORT_HOME={} {} proxy ssh %r@%h:%p", home.dir.display(), env!("CARGO_BIN_EXE_tsh")),
    ] {
        let option = format!("ProxyCommand={command}");
        assert_good_way(&home, &["-o", "ProxyJump=none", "-o", &option]);
    }
    // Each of them reached the node by way of the proxy.
    let hops = cluster.events(|event| {
        matches!(event.code, EventKind::Port | EventKind::Subsystem) && event.user.as_deref() == Some("alice")
    });
    assert_eq!(hops.len(), 6, "{hops:?}");
}

#[test]
fn ten_megabytes_each_way_arrive_as_they_were() {
    let cluster = TestCluster::with_node();
    let home = cluster.alice();
    let bytes = bytes(10 << 20);
    let mut echo = home.ssh();
    echo.arg(node()).arg("cat");
    let output = run_with(echo, &bytes);
    assert_eq!((output.code(), output.stderr.as_str()), (0, ""));
    assert_eq!(output.stdout.len(), bytes.len());
    assert!(output.stdout == bytes, "the bytes differ");
    // One way at a time, summed up by a program at the other end.
    let mut upload = home.ssh();
    upload.arg(node()).arg("sha256sum");
    let there = run_with(upload, &bytes).clean();
    let here = run_with(Command::new("sha256sum"), &bytes).clean();
    assert_eq!(there, here);
}

#[test]
fn exit_codes_and_signals_are_those_of_the_command() {
    let cluster = TestCluster::with_node();
    let home = cluster.alice();
    for code in [0, 1, 127, 255] {
        assert_eq!(ssh(&home, &[&node(), &format!("exit {code}")]).code(), code);
    }
    // A command that a signal ended has no status; stock ssh says 255 then.
    assert_eq!(ssh(&home, &[&node(), "kill -TERM $$"]).code(), 255);
    assert_eq!(ssh(&home, &[&node(), "no-such-program"]).code(), 127);
}

#[test]
fn a_terminal_has_the_size_of_the_users_and_follows_it() {
    let cluster = TestCluster::with_node();
    let home = cluster.alice();
    typed_in_a_terminal(&format!("ssh -F {} -tt {}", home.ssh_config.display(), node()));
    let tsh = format!("TELEPORT_HOME={} {} ssh", home.dir.display(), env!("CARGO_BIN_EXE_tsh"));
    typed_in_a_terminal(&format!("{tsh} {}@node", own_login()));
    let forced = ssh(&home, &["-tt", &node(), "tty; stty size"]);
    assert!(forced.out().starts_with("/dev/pts/"), "{forced:?}");
}

/// Somebody opens a shell with this line, changes the size of the window, interrupts something, leaves.
fn typed_in_a_terminal(line: &str) {
    let terminal = Terminal::open(line);
    terminal.type_line("echo ready-$((1+1)); stty size; tty");
    terminal.wait_for("ready-2", 1);
    terminal.wait_for("30 100", 1);
    terminal.wait_for("/dev/pts/", 1);
    terminal.resize(80, 20);
    // The size arrives a moment later.
    terminal.type_line("until [ \"$(stty size)\" = '20 80' ]; do sleep 0.05; done; echo resized-$((1+1))");
    terminal.wait_for("resized-2", 1);
    // ^C interrupts what runs on the node and not the session.
    // It speaks itself: a shell that is only about to start it would swallow the key.
    terminal.type_line("sh -c 'echo sleeping-$((1+1)); exec sleep 1000'");
    terminal.wait_for("sleeping-2", 1);
    terminal.press("C-c");
    terminal.type_line("echo after-$((1+1)); exit 9");
    terminal.wait_for("after-2", 1);
    assert_eq!(terminal.ended(), 9);
}

#[test]
fn one_connection_carries_several_sessions() {
    let cluster = TestCluster::with_node();
    let home = cluster.alice();
    let socket = cluster.dir().join("mux");
    let control = format!("ControlPath={}", socket.display());
    let mut master = home.ssh();
    master.args(["-o", &control, "-o", "ControlMaster=yes", "-f", "-N"]).arg(node());
    master.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
    assert!(master.stderr(std::process::Stdio::null()).status().unwrap().success());
    std::thread::scope(|scope| {
        let session = |number: u32| {
            let command = format!("echo {number}; exit {number}");
            ssh(&home, &["-o", &control, &node(), &command])
        };
        let sessions: Vec<_> = (1..=5).map(|number| (number, scope.spawn(move || session(number)))).collect();
        for (number, output) in sessions {
            let output = output.join().unwrap();
            assert_eq!(output.out(), format!("{number}\n"), "{}", output.stderr);
            assert_eq!(output.code(), i32::try_from(number).unwrap());
        }
    });
    run(ssh_control(&home, &control));
    let hops = cluster.events(|event| event.code == EventKind::Port);
    assert_eq!(hops.len(), 1, "one way through the proxy for all");
}

fn ssh_control(home: &Home, control: &str) -> Command {
    let mut exit = home.ssh();
    exit.args(["-o", control, "-O", "exit"]).arg(node());
    exit
}

#[test]
fn a_node_that_is_not_who_it_should_be_is_refused() {
    let cluster = TestCluster::with_node();
    cluster.add_node("other", "");
    let home = cluster.alice();
    let login = own_login();
    // The proxy leads to `node`, but the name that must be proven is the other's.
    let way = format!(
        "ProxyCommand=ssh -F {} -s teleport-proxy.{CLUSTER} proxy:node:%p",
        home.ssh_config.display()
    );
    let wrong = ssh(
        &home,
        &["-o", "ProxyJump=none", "-o", &way, &format!("{login}@other.{CLUSTER}"), "echo reached"],
    );
    assert_eq!((wrong.out(), wrong.code()), ("", 255), "{}", wrong.stderr);
    assert!(wrong.stderr.contains("Certificate invalid: name is not a listed principal"), "{}", wrong.stderr);
    // Another cluster's proxy is no way to it: its certificate is of another authority.
    let foreign = TestCluster::with_node();
    let config = std::fs::read_to_string(&home.ssh_config).unwrap();
    let config =
        config.replace(&format!("Port {}", cluster.ssh().port()), &format!("Port {}", foreign.ssh().port()));
    let file = cluster.dir().join("foreign_config");
    std::fs::write(&file, config).unwrap();
    let mut wrong = Command::new("ssh");
    wrong.arg("-F").arg(&file).arg(node()).arg("echo reached").env_remove("SSH_AUTH_SOCK");
    let wrong = run(wrong);
    assert_eq!((wrong.out(), wrong.code()), ("", 255), "{}", wrong.stderr);
    assert!(wrong.stderr.contains("Host key verification failed"), "{}", wrong.stderr);
}

#[test]
fn a_login_that_no_role_allows_and_a_node_that_is_not_there_are_refused() {
    let cluster = TestCluster::with_node();
    let home = cluster.alice();
    let denied = ssh(&home, &[&format!("somebody-else@node.{CLUSTER}"), "echo reached"]);
    assert_eq!((denied.out(), denied.code()), ("", 255));
    assert!(denied.stderr.contains("Permission denied"), "{}", denied.stderr);
    let event = cluster.event(EventKind::AuthFailure, |event| event.user.as_deref() == Some("alice"));
    assert_eq!(event.fields["login_requested"], "somebody-else");
    let absent = ssh(&home, &[&format!("{}@absent.{CLUSTER}", own_login()), "echo reached"]);
    assert_eq!((absent.out(), absent.code()), ("", 255));
    assert!(absent.stderr.contains("absent"), "it says what is wrong: {}", absent.stderr);
}

/// A running `ssh-agent`.
struct Agent {
    child: std::process::Child,
    socket: std::path::PathBuf,
}

impl Agent {
    fn start(dir: &std::path::Path) -> Self {
        let socket = dir.join("agent");
        let mut agent = Command::new("ssh-agent");
        agent.arg("-D").arg("-a").arg(&socket).stdout(std::process::Stdio::null());
        let child = agent.spawn().unwrap();
        wait_for("the agent", || socket.exists().then_some(()));
        Self { child, socket }
    }

    fn list(&self) -> Output {
        let mut list = Command::new("ssh-add");
        list.arg("-l").env("SSH_AUTH_SOCK", &self.socket);
        run(list)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_running_agent_is_enough_for_ssh_until_the_logout() {
    let cluster = TestCluster::with_node();
    let (password, mut app) = cluster.invited("alice", &["access"], &[&own_login()]);
    let agent = Agent::start(cluster.dir());
    let dir = cluster.dir().join("home");
    let tsh = |arguments: &[&str]| {
        let mut tsh = own("tsh");
        tsh.args(arguments).env("TELEPORT_HOME", &dir).env("SSH_AUTH_SOCK", &agent.socket);
        tsh
    };
    let (proxy, pin) = (format!("--proxy={}", cluster.web()), format!("--ca-pin={}", cluster.pin()));
    let input = format!("{}\n{}\n", password.expose(), app.code());
    run_with(tsh(&["login", "--user=alice", "--add-keys-to-agent=yes", &proxy, &pin]), input.as_bytes())
        .clean();
    let listed = agent.list().clean();
    assert!(listed.contains("ED25519-CERT") && listed.contains("teleport test.local alice"), "{listed}");
    // The configuration without its files of keys: only the agent has any.
    let config: String = run(tsh(&["config"]))
        .clean()
        .split_inclusive('\n')
        .filter(|line| {
            !["IdentityFile", "CertificateFile", "IdentitiesOnly"].iter().any(|key| line.contains(key))
        })
        .collect();
    let file = cluster.dir().join("agent_config");
    std::fs::write(&file, config).unwrap();
    let mut ssh = Command::new("ssh");
    ssh.arg("-F").arg(&file).args(["-o", "IdentityFile=/nonexistent"]).arg(node()).arg("echo by agent");
    ssh.env("SSH_AUTH_SOCK", &agent.socket);
    let output = run(ssh);
    assert_eq!((output.out(), output.code()), ("by agent\n", 0), "{}", output.stderr);
    run(tsh(&["logout"])).clean();
    assert_eq!(agent.list().out(), "The agent has no identities.\n");
}
