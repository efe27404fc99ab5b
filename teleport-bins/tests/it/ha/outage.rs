//! One auth service of two dies, then the other one, then both. Goal G-17.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::{Several, Store, on_each};
use crate::processes::NONE;
use crate::support::daemon::{Process, Services, fixed_port};
use crate::support::program::{own, run};
use crate::support::user::User;
use crate::support::{own_login, wait_for};

on_each!(g17_auth_services_die_and_sessions_do_not_notice);

/// A session that says every line again.
pub(super) struct Echo {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Echo {
    pub(super) fn begin(mut ssh: Command) -> Self {
        ssh.arg("echo begun; exec cat").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = ssh.stderr(Stdio::null()).spawn().unwrap();
        let stdin = child.stdin.take();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut first = String::new();
        stdout.read_line(&mut first).unwrap();
        assert_eq!(first, "begun\n");
        Self { child, stdin, stdout }
    }

    /// There is nothing more to say.
    pub(super) fn end(mut self) {
        drop(self.stdin.take());
        self.child.wait().unwrap();
    }

    #[track_caller]
    pub(super) fn lives(&mut self, line: &str) {
        writeln!(self.stdin.as_ref().unwrap(), "{line}").unwrap();
        let mut said = String::new();
        self.stdout.read_line(&mut said).unwrap();
        assert_eq!(said.trim_end(), line);
    }
}

pub(super) struct World {
    pub(super) auths: Several,
    _proxy: Process,
    pub(super) nodes: Vec<Process>,
    web: u16,
    alice: User,
}

impl World {
    pub(super) fn start(auths: Several) -> Self {
        let (machine, servers) = (&auths.machine, auths.servers());
        let (web, ssh) = (fixed_port(), fixed_port());
        machine.configure("proxy", &servers, &Services { proxy: Some((web, ssh)), ..NONE }.yaml());
        let (token, pin) = machine.token(&auths.names[0], &["--type=proxy", "--uses=1"]);
        let proxy = machine.start("proxy", &[&format!("--token={token}"), &format!("--ca-pin={pin}")]);
        // Whose address is in the link.
        wait_for("the proxy in the list", || {
            let arguments = ["inventory", "ls", "--services=proxy", "--format=json"];
            let listed = machine.tctl(&auths.names[1], &arguments).clean();
            listed.contains("host_id").then_some(())
        });
        let logins = format!("--logins={}", own_login());
        let printed = machine.tctl(&auths.names[1], &["users", "add", "alice", &logins]).clean();
        let alice = User::accept("alice", &printed, &machine.path("home"));
        let mut world = Self { auths, _proxy: proxy, nodes: Vec::new(), web, alice };
        world.add_node("node", 0);
        world.log_in();
        world
    }

    /// Lets a node join by a token that `auth` made, while some of the services that it is told of may be dead.
    pub(super) fn add_node(&mut self, name: &str, auth: usize) {
        let machine = &self.auths.machine;
        let services = Services { node: Some((fixed_port(), "env: prod")), ..NONE };
        machine.configure(name, &self.auths.servers(), &services.yaml());
        self.join(name, auth);
    }

    /// The same for one that knows this service alone.
    pub(super) fn add_node_of(&mut self, name: &str, auth: usize) {
        let machine = &self.auths.machine;
        let services = Services { node: Some((fixed_port(), "env: prod")), ..NONE };
        let server = format!("  auth_server: 127.0.0.1:{}\n", self.auths.ports[auth]);
        machine.configure(name, &server, &services.yaml());
        self.join(name, auth);
    }

    fn join(&mut self, name: &str, auth: usize) {
        let machine = &self.auths.machine;
        let (token, pin) = machine.token(&self.auths.names[auth], &["--type=node", "--uses=1"]);
        let node = machine.start(name, &[&format!("--token={token}"), &format!("--ca-pin={pin}")]);
        self.nodes.push(node);
    }

    pub(super) fn tsh(&self, arguments: &[&str]) -> Command {
        let mut command = own("tsh");
        command.env("TELEPORT_HOME", self.auths.machine.path("home")).args(arguments);
        command
    }

    /// A login, as soon as the proxy has found a service; what a service that died has left behind is no obstacle.
    #[track_caller]
    fn log_in(&mut self) {
        let login = format!("--proxy=127.0.0.1:{}", self.web);
        let mut last = String::new();
        let mut attempts = 0;
        while attempts < 4 {
            let tsh = self.tsh(&["login", "--force", &login]);
            let output = self.alice.login(tsh);
            if output.status.success() {
                let file = self.auths.machine.path("ssh_config");
                std::fs::write(&file, run(self.tsh(&["config"])).clean()).unwrap();
                return;
            }
            last = output.stderr;
            attempts += 1;
        }
        panic!("no login: {last}");
    }

    pub(super) fn ssh(&self, node: &str) -> Command {
        let mut ssh = Command::new("ssh");
        ssh.arg("-F").arg(self.auths.machine.path("ssh_config"));
        ssh.arg(format!("{}@{node}.test.local", own_login())).env_remove("SSH_AUTH_SOCK");
        ssh
    }

    /// A new session to this node works, as soon as everybody knows of it.
    #[track_caller]
    pub(super) fn works(&self, node: &str) {
        wait_for("a session", || {
            let mut ssh = self.ssh(node);
            ssh.arg("echo through; exit 3");
            let output = run(ssh);
            (output.out() == "through\n" && output.code() == 3).then_some(())
        });
    }

    /// What one service knows of the other's doings: so many nodes are online.
    fn knows_nodes(&self, auth: usize, count: usize) {
        self.auths.machine.wait_for_nodes(&self.auths.names[auth], count);
    }
}

async fn g17_auth_services_die_and_sessions_do_not_notice(store: Store) {
    let mut world = World::start(Several::two(store));
    world.works("node");
    let mut session = Echo::begin(world.ssh("node"));
    for dead in [0, 1] {
        let lives = 1 - dead;
        world.auths.kill(dead);
        session.lives(&format!("without {dead}"));
        // By the other one: a login, a session, a host that joins, and what the hosts say of themselves.
        world.log_in();
        world.works("node");
        let name = format!("node-{}", world.nodes.len());
        world.add_node(&name, lives);
        world.works(&name);
        world.knows_nodes(lives, world.nodes.len());
        session.lives(&format!("still without {dead}"));
        // A lock that only the living one knows reaches the node.
        let machine = &world.auths.machine;
        let node = format!("--server-id={}", id_of(&world, lives, &name));
        machine.tctl(&world.auths.names[lives], &["lock", &node]).clean();
        wait_for("the lock", || {
            let mut ssh = world.ssh(&name);
            ssh.arg("echo reached");
            (run(ssh).out().is_empty()).then_some(())
        });
        let locks = machine.tctl(&world.auths.names[lives], &["get", "locks", "--format=json"]).clean();
        let locks: serde_json::Value = serde_json::from_str(&locks).unwrap();
        let lock = format!("lock/{}", locks[0]["metadata"]["name"].as_str().unwrap());
        machine.tctl(&world.auths.names[lives], &["rm", &lock]).clean();
        world.works(&name);
        world.auths.start(dead);
        world.knows_nodes(dead, world.nodes.len());
        session.lives(&format!("with {dead} again"));
    }
    // Nobody is left.
    for number in 0..2 {
        world.auths.kill(number);
    }
    session.lives("alone");
}

fn id_of(world: &World, auth: usize, name: &str) -> String {
    let listed =
        world.auths.machine.tctl(&world.auths.names[auth], &["nodes", "ls", "--format=json"]).clean();
    let nodes: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let node = nodes.as_array().unwrap().iter().find(|node| node["name"] == name);
    node.unwrap_or_else(|| panic!("{name}: {nodes}"))["host_id"].as_str().unwrap().to_owned()
}
