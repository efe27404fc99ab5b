//! Three daemons as processes of their own: they join, restart, drain, and survive being killed.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;

use crate::diagnostics::{diagnostics, get, readiness};
use crate::support::daemon::{Machine, Process, Services, fixed_port};
use crate::support::program::{own, run};
use crate::support::relay::Relay;
use crate::support::user::User;
use crate::support::{own_login, wait_for};

pub(crate) const NONE: Services<'static> = Services { auth: None, proxy: None, node: None };

/// Auth, proxy and node, each a process with a data directory of its own, and a user who is logged in.
pub(crate) struct Three {
    pub(crate) auth: Option<Process>,
    pub(crate) proxy: Option<Process>,
    pub(crate) node: Option<Process>,
    pub(crate) networks: Option<Networks>,
    ssh_config: PathBuf,
    /// Its directory goes last.
    pub(crate) machine: Machine,
}

/// What is to be different from the usual three.
pub(crate) struct Plan<'a> {
    /// The node joins through the proxy.
    pub(crate) by_proxy: bool,
    /// The node opens no port, and is reached by a tunnel. Its network leads to the proxy.
    pub(crate) tunnel: bool,
    /// Of recording.
    pub(crate) mode: &'a str,
    /// Lines of the auth service's section `teleport`.
    pub(crate) storage: &'a str,
    /// More lines of its section `auth_service`.
    pub(crate) auth_service: &'a str,
    /// More variables of its environment.
    pub(crate) env: &'a [(&'a str, &'a str)],
    /// Whether proxy and node reach the auth service over networks that can be broken.
    pub(crate) networks: bool,
}

impl Default for Plan<'_> {
    fn default() -> Self {
        Self {
            by_proxy: false,
            tunnel: false,
            mode: "node",
            storage: "",
            auth_service: "",
            env: &[],
            networks: false,
        }
    }
}

/// The ways to the auth service.
pub(crate) struct Networks {
    pub(crate) proxy: Relay,
    pub(crate) node: Relay,
}

impl Three {
    /// The node joins straight at the auth service, or through the proxy.
    pub(crate) fn start(by_proxy: bool) -> Self {
        Self::start_with(Machine::new(), Plan { by_proxy, ..Plan::default() })
    }

    /// With a mode of recording.
    pub(crate) fn start_recording(mode: &str) -> Self {
        Self::start_with(Machine::new(), Plan { mode, ..Plan::default() })
    }

    pub(crate) fn start_with(machine: Machine, plan: Plan<'_>) -> Self {
        let Plan { by_proxy, tunnel, mode, storage, auth_service, env, networks } = plan;
        let [auth_port, web, ssh, node_port] = [(); 4].map(|()| fixed_port());
        let auth = Services { auth: Some(auth_port), ..NONE }.yaml();
        let mode = format!("auth_service:\n  session_recording: {mode}\n{auth_service}");
        let auth = auth.replacen("auth_service:\n", &mode, 1);
        machine.configure("auth", storage, &auth);
        let auth = machine.start_with("auth", &[], |command| {
            command.envs(env.iter().copied());
        });
        let [of_proxy, of_node] = [auth_port, if by_proxy || tunnel { web } else { auth_port }];
        let networks =
            networks.then(|| Networks { proxy: Relay::start(of_proxy), node: Relay::start(of_node) });
        let [of_proxy, of_node] =
            networks.as_ref().map_or([of_proxy, of_node], |to| [to.proxy.port(), to.node.port()]);
        let shared = format!("  diag_addr: 127.0.0.1:0\n  auth_server: 127.0.0.1:{of_proxy}\n");
        machine.configure("proxy", &shared, &Services { proxy: Some((web, ssh)), ..NONE }.yaml());
        let (token, pin) = machine.token("auth", &["--type=proxy", "--uses=1"]);
        let joining = [format!("--token={token}"), format!("--ca-pin={pin}"), "--require-ca-pin".to_owned()];
        let joining: Vec<&str> = joining.iter().map(String::as_str).collect();
        let proxy = machine.start("proxy", &joining);
        // What an operator types for the node, without a configuration of where the auth service is.
        let services = Services { node: Some((node_port, "env: prod")), ..NONE }.yaml();
        let (way, services) = match tunnel {
            true => {
                ("proxy_server", services.replace(&format!("  listen_addr: 127.0.0.1:{node_port}\n"), ""))
            }
            false => ("auth_server", services),
        };
        let shared = format!("  diag_addr: 127.0.0.1:0\n  {way}: 127.0.0.1:{of_node}\n");
        machine.configure("node", &shared, &services);
        let (token, pin) = machine.token("auth", &["--type=node", "--uses=1"]);
        let node = machine.start("node", &[&format!("--token={token}"), &format!("--ca-pin={pin}")]);
        machine.wait_for_nodes("auth", 1);
        let ssh_config = Self::log_in(&machine, web);
        Self { machine, auth: Some(auth), proxy: Some(proxy), node: Some(node), networks, ssh_config }
    }

    fn log_in(machine: &Machine, web: u16) -> PathBuf {
        let home = machine.path("home");
        let logins = format!("--logins={}", own_login());
        let printed = machine.tctl("auth", &["users", "add", "alice", &logins]).clean();
        let mut alice = User::accept("alice", &printed, &home);
        let tsh = |arguments: &[&str]| {
            let mut command = own("tsh");
            command.env("TELEPORT_HOME", &home).args(arguments);
            command
        };
        alice.login(tsh(&["login", &format!("--proxy=127.0.0.1:{web}")])).clean();
        let file = machine.path("ssh_config");
        std::fs::write(&file, run(tsh(&["config"])).clean()).unwrap();
        file
    }

    /// `tsh login` at the proxy, with a home of this name. The user and the answers are missing.
    pub(crate) fn tsh_login(&self, home: &str) -> Command {
        let mut tsh = own("tsh");
        let proxy = self.proxy.as_ref().unwrap().address("proxy");
        tsh.env("TELEPORT_HOME", self.machine.path(home)).args([
            "login",
            "--force",
            &format!("--proxy={proxy}"),
        ]);
        tsh
    }

    /// The configuration file for stock `ssh`.
    pub(crate) fn config(&self) -> &std::path::Path {
        &self.ssh_config
    }

    pub(crate) fn ssh(&self, command: &str) -> Command {
        self.ssh_with(&[], command)
    }

    pub(crate) fn ssh_with(&self, options: &[&str], command: &str) -> Command {
        let mut ssh = Command::new("ssh");
        ssh.arg("-F").arg(&self.ssh_config).args(options).arg(format!("{}@node.test.local", own_login()));
        ssh.arg(command).env_remove("SSH_AUTH_SOCK");
        ssh
    }

    /// A recording as text.
    pub(crate) fn play(&self, session: &str) -> String {
        let mut tsh = own("tsh");
        tsh.env("TELEPORT_HOME", self.machine.path("home")).args(["play", "--format=text", session]);
        run(tsh).out().to_owned()
    }

    /// A command through the proxy to the node works, as soon as all of them know each other again.
    #[track_caller]
    pub(crate) fn works(&self) {
        let mut last = String::new();
        let done = wait_for("a session through proxy and node", || {
            let output = run(self.ssh("echo through; exit 3"));
            last.clone_from(&output.stderr);
            (output.out() == "through\n" && output.code() == 3).then_some(output)
        });
        assert!(done.stderr.is_empty(), "{done:?} {last}");
    }

    /// A session that waits for a line and then says it.
    pub(crate) fn live_session(&self) -> Live {
        self.live_session_with(&[])
    }

    /// The same with options of `ssh`.
    pub(crate) fn live_session_with(&self, options: &[&str]) -> Live {
        let mut child = self
            .ssh_with(options, "echo ready; read line; echo \"got $line\"; exit 4")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Live { child, stdout }
    }
}

pub(crate) struct Live {
    child: std::process::Child,
    stdout: BufReader<std::process::ChildStdout>,
}

impl Live {
    pub(crate) fn answer(mut self) -> (String, Option<i32>) {
        // It may be over.
        let _ = self.child.stdin.take().unwrap().write_all(b"hello\n");
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        (rest, self.child.wait().unwrap().code())
    }
}

#[test]
fn three_processes_keep_their_membership_over_restarts() {
    let mut three = Three::start(false);
    three.works();
    // In good order, one after the other; nobody needs a token any more.
    for name in ["auth", "proxy", "node"] {
        let process = match name {
            "auth" => &mut three.auth,
            "proxy" => &mut three.proxy,
            _ => &mut three.node,
        };
        process.take().unwrap().stop();
        *process = Some(three.machine.start(name, &[]));
        three.works();
    }
    // And without any warning, as a loss of power does.
    for name in ["node", "proxy", "auth"] {
        let process = match name {
            "auth" => &mut three.auth,
            "proxy" => &mut three.proxy,
            _ => &mut three.node,
        };
        process.take().unwrap().kill();
        *process = Some(three.machine.start(name, &[]));
        three.works();
    }
    // All at once, and the auth service is the last to come back.
    for process in [&mut three.auth, &mut three.proxy, &mut three.node] {
        process.take().unwrap().kill();
    }
    three.proxy = Some(three.machine.start("proxy", &[]));
    three.node = Some(three.machine.start("node", &[]));
    three.auth = Some(three.machine.start("auth", &[]));
    three.works();
    let joined: Vec<_> =
        three.machine.events("auth").into_iter().filter(|e| e["event"] == "instance.join").collect();
    let roles: Vec<_> = joined.iter().filter_map(|event| event["role"].as_str()).collect();
    assert_eq!(roles.iter().filter(|role| **role != "auth").count(), 2, "nobody joined twice: {joined:?}");
}

#[test]
fn a_node_joins_and_lives_through_the_proxy_alone() {
    let mut three = Three::start(true);
    three.works();
    three.node.take().unwrap().stop();
    three.node = Some(three.machine.start("node", &[]));
    three.works();
    three.proxy.take().unwrap().kill();
    three.proxy = Some(three.machine.start("proxy", &[]));
    three.works();
    // Its recordings take the same way.
    let events = wait_for("a recording that is uploaded", || {
        let events = three.machine.events("auth");
        events.iter().any(|event| event["code"] == "T2005I").then_some(events)
    });
    // The command ended with a status of its own, so its event says that it failed.
    assert!(events.iter().any(|event| event["code"] == "T3002E" && event["exit_code"] == "3"), "{events:?}");
}

#[test]
fn sessions_go_on_while_the_auth_service_is_away() {
    let mut three = Three::start(false);
    three.works();
    let live = three.live_session();
    three.auth.take().unwrap().kill();
    assert_eq!(live.answer(), ("got hello\n".to_owned(), Some(4)));
    three.auth = Some(three.machine.start("auth", &[]));
    three.works();
    // What happened meanwhile reaches the audit log in the end.
    wait_for("both ends of sessions", || {
        let events = three.machine.events("auth");
        (events.iter().filter(|event| event["code"] == "T2004I").count() >= 3).then_some(())
    });
}

#[test]
fn sigterm_lets_live_sessions_end() {
    for name in ["node", "proxy"] {
        let mut three = Three::start(false);
        let live = three.live_session();
        let mut process = if name == "node" { three.node.take() } else { three.proxy.take() }.unwrap();
        process.signal(Signal::SIGTERM);
        wait_for("the daemon to say that it stops", || process.logged().contains("stopping").then_some(()));
        wait_for("nobody new to be let in", || {
            let output = run(three.ssh("echo reached"));
            (output.out().is_empty() && output.code() == 255).then_some(())
        });
        // Whoever looks for a daemon goes elsewhere; nobody kills this one.
        let address = diagnostics(&process);
        let (status, ready) = readiness(address);
        assert!(status.contains("503") && ready["status"] == "draining", "{name}: {ready}");
        assert!(get(address, "/healthz").0.starts_with("HTTP/1.1 200"), "{name}");
        assert!(process.runs(), "{name} waits for the session: {}", process.logged());
        assert_eq!(live.answer(), ("got hello\n".to_owned(), Some(4)), "{name}");
        let status = process.ended();
        assert!(status.success(), "{name}: {status}: {}", process.logged());
    }
}

#[test]
fn a_second_sigterm_ends_sessions_at_once() {
    let mut three = Three::start(false);
    let live = three.live_session();
    let mut node = three.node.take().unwrap();
    node.signal(Signal::SIGTERM);
    wait_for("the daemon to say that it stops", || node.logged().contains("stopping").then_some(()));
    assert!(node.runs());
    node.signal(Signal::SIGTERM);
    let status = node.ended();
    assert_eq!(status.code(), Some(1), "it says that it did not end by itself: {}", node.logged());
    let (rest, code) = live.answer();
    assert!(rest.is_empty() && code != Some(4), "{rest:?} {code:?}");
}

#[test]
fn a_node_whose_auth_service_is_away_stops_soon_and_says_what_it_leaves() {
    let mut three = Three::start(false);
    let live = three.live_session();
    three.auth.take().unwrap().kill();
    assert_eq!(live.answer(), ("got hello\n".to_owned(), Some(4)));
    let mut node = three.node.take().unwrap();
    let asked = tokio::time::Instant::now();
    node.signal(Signal::SIGTERM);
    let status = node.ended();
    assert!(asked.elapsed() < std::time::Duration::from_secs(60), "{:?}", asked.elapsed());
    assert!(status.success(), "nothing of a recording is lost: {status}: {}", node.logged());
    assert!(node.logged().contains("they stay in the spool"), "{}", node.logged());
}
