//! Displays through the proxy: `tsh ssh` and stock `ssh`, with an X server on the user's side.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use teleport_core::audit::EventKind;
use teleport_ssh::node::Displays;

use crate::servers::mortal;
use crate::support::cluster::{CLUSTER, Home, TestCluster};
use crate::support::own_login;
use crate::support::program::{own, run, run_with};

const SIZE: &str = "643x477";

/// An X server, whose screen has a size of its own.
struct Server {
    process: Child,
    display: String,
    cookies: PathBuf,
    _dir: tempfile::TempDir,
}

impl Server {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cookies = dir.path().join("cookies");
        let add = |display: &str| {
            let mut xauth = Command::new("xauth");
            xauth.args(["-q", "-f"]).arg(&cookies).args([
                "add",
                display,
                ".",
                "0123456789abcdef0123456789abcdef",
            ]);
            assert_eq!(run(xauth).code(), 0);
        };
        add(":0");
        let mut server = mortal("Xvfb", "KILL");
        // It would forget the cookies of programs that are not trusted when nobody is connected.
        server.args(["-displayfd", "1", "-noreset", "-nolisten", "tcp", "-screen", "0"]);
        server.arg(format!("{SIZE}x24")).arg("-auth").arg(&cookies);
        let mut process = server.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut number = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut number).unwrap();
        let display = format!(":{}", number.trim());
        add(&display);
        Self { process, display, cookies, _dir: dir }
    }

    fn seen_by(&self, mut command: Command) -> Command {
        command.env("DISPLAY", &self.display).env("XAUTHORITY", &self.cookies);
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn with_displays(first: u16) -> TestCluster {
    let cluster = TestCluster::start();
    cluster.add_node_as("node", "env=test", |node| {
        node.x11 = Some(Displays::new(first, Some(first + 9)).unwrap());
    });
    cluster
}

/// Somebody whose role says so, with these logins.
fn user(cluster: &TestCluster, name: &str, permitted: bool, login: &str) -> Home {
    let role = format!(
        "kind: role\nversion: v1\nmetadata: {{name: {name}}}\nspec:\n  options: {{permit_x11_forwarding: {permitted}}}\n  \
         allow: {{logins: [{login}], node_labels: {{'*': '*'}}}}\n"
    );
    let mut create = own("tctl");
    create.arg("--data-dir").arg(cluster.dir().join("cluster")).args(["create", "--force"]);
    run_with(create, role.as_bytes()).clean();
    cluster.user(name, &[name], &[login])
}

#[test]
fn windows_come_through_the_proxy_to_tsh_and_stock_ssh() {
    let cluster = with_displays(300);
    let server = Server::start();
    let home = user(&cluster, "windows", true, &own_login());
    for trust in ["-X", "-Y"] {
        let mut tsh = home.tsh();
        tsh.args(["ssh", trust, &format!("{}@node", own_login()), "echo $DISPLAY; xdpyinfo"]);
        let mut ssh = home.ssh();
        ssh.args([trust, &format!("{}@node.{CLUSTER}", own_login()), "echo $DISPLAY; xdpyinfo"]);
        for command in [tsh, ssh] {
            let done = run(server.seen_by(command));
            let said = done.out();
            assert!(said.starts_with("localhost:300.0\n") && said.contains(SIZE), "{trust}: {done:?}");
        }
    }
    let event = cluster.event(EventKind::X11Forward, |event| event.user.as_deref() == Some("windows"));
    assert_eq!(event.fields["display"], "localhost:300.0");

    // Whose role does not say so has none, is told, and has the session.
    let home = user(&cluster, "texts", false, &own_login());
    let mut tsh = home.tsh();
    tsh.args(["ssh", "-Y", &format!("{}@node", own_login()), "echo display:$DISPLAY"]);
    let done = run(server.seen_by(tsh));
    assert_eq!((done.out(), done.code()), ("display:\n", 0));
    assert!(done.stderr.contains("does not forward your display"), "{done:?}");
    let event = cluster.event(EventKind::X11ForwardFailure, |event| event.user.as_deref() == Some("texts"));
    assert!(event.error.unwrap().contains("permit_x11_forwarding"));
}

/// What a session has to do without is said where it begins.
#[test]
fn it_is_said_why_programs_are_told_no_cookie() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let cluster = with_displays(310);
    let server = Server::start();
    // Nobody has no home directory.
    let home = user(&cluster, "windows", true, "nobody");
    let mut ssh = home.ssh();
    ssh.args(["-Y", &format!("nobody@node.{CLUSTER}"), "true"]);
    let done = run(server.seen_by(ssh));
    assert!(done.stderr.contains("there is no display here: xauth has ended without success"), "{done:?}");
}
