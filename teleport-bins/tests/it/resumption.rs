//! Sessions that go on over another connection when theirs breaks: `tsh` as a process, a network between it and the proxy that is
//! broken, and a real proxy and node.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc;

use teleport_core::audit::EventKind;
use teleport_ssh::client::ProfileStore;
use teleport_ssh::client::openssh::ProxyAddress;

use crate::network_faults::Dice;
use crate::processes::Three;
use crate::support::cluster::{Home, TestCluster};
use crate::support::daemon::fixed_port;
use crate::support::program::{own, run};
use crate::support::relay::{Fault, Relay};
use crate::support::tmux::Terminal;
use crate::support::{own_login, wait_for};

/// A cluster with a node, and somebody whose way to the proxy can be broken.
struct Broken {
    network: Relay,
    home: Home,
    cluster: TestCluster,
}

impl Broken {
    fn start() -> Self {
        let cluster = TestCluster::with_node();
        let home = cluster.alice();
        let network = Relay::start(cluster.ssh().port());
        let store = ProfileStore::at(&home.dir);
        let mut profile = store.load(None).unwrap().unwrap();
        profile.ssh_address = ProxyAddress::parse(&format!("127.0.0.1:{}", network.port())).unwrap();
        store.save(&profile).unwrap();
        Self { network, home, cluster }
    }

    fn tsh(&self, arguments: &[&str]) -> Command {
        let mut tsh = self.home.tsh();
        tsh.args(arguments);
        tsh
    }

    fn ssh(&self, arguments: &[&str], command: &str) -> Talk {
        let mut tsh = self.tsh(&["ssh"]);
        tsh.args(arguments).arg(format!("{}@node", own_login())).arg(command);
        Talk::begin(tsh)
    }

    /// Cuts every connection, once.
    fn cut(&self) {
        self.network.fail(Fault::Reset);
        // Whoever carries bytes looks every few milliseconds.
        std::thread::sleep(std::time::Duration::from_millis(30));
        self.network.heal();
    }
}

/// A program that is talked to, line by line.
struct Talk {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    /// What it says on its standard error, as it says it.
    said: mpsc::Receiver<String>,
}

impl Talk {
    fn begin(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, said) = mpsc::channel();
        std::thread::spawn(move || {
            stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Self { child, stdin, stdout, said }
    }

    fn say(&mut self, text: &str) {
        self.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }

    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line
    }

    /// Waits until it says something like this on its standard error.
    fn complains(&self, of: &str) -> String {
        wait_for(of, || self.said.try_iter().find(|line| line.contains(of)))
    }

    fn end(mut self) -> (i32, String, Vec<String>) {
        drop(self.stdin.take());
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        let status = self.child.wait().unwrap();
        (status.code().unwrap_or(-1), rest, self.said.iter().collect())
    }
}

#[test]
fn g18_a_session_survives_cuts_of_its_connection() {
    let broken = Broken::start();
    let mut dice = Dice::thrown();
    let mut talk = broken.ssh(&[], "echo $$; cat; exit 7");
    let shell = talk.hear();
    assert_ne!(shell, "");
    for cut in 0..30 {
        // Any moment: while nothing, little or much is on its way.
        let lines = 1 + dice.below(if cut % 3 == 0 { 4000 } else { 3 });
        let text: String =
            (0..lines).map(|line| format!("cut {cut} line {line} {}\n", "x".repeat(80))).collect();
        let mut stdin = talk.stdin.take().unwrap();
        let sent = text.clone();
        let say = std::thread::spawn(move || {
            stdin.write_all(sent.as_bytes()).unwrap();
            stdin
        });
        let before = dice.below(text.len() as u64);
        let mut heard = vec![0; usize::try_from(before).unwrap()];
        talk.stdout.read_exact(&mut heard).unwrap();
        broken.cut();
        let mut rest = vec![0; text.len() - heard.len()];
        talk.stdout.read_exact(&mut rest).unwrap();
        heard.extend(rest);
        assert!(heard == text.as_bytes(), "cut {cut}");
        talk.stdin = Some(say.join().unwrap());
    }
    let (code, rest, said) = talk.end();
    assert_eq!((code, rest.as_str()), (7, ""), "{said:?}");
    let resumed = broken.cluster.event(EventKind::ClientResume, |_| true);
    assert_eq!(resumed.user.as_deref(), Some("alice"));
    assert_eq!(
        broken.cluster.events(|event| event.code == EventKind::SessionStart).len(),
        1,
        "one session all along"
    );
}

/// Nobody tells anybody: the proxy is a process that is killed, and another one takes its place.
#[test]
fn g18_a_session_survives_a_proxy_that_is_killed() {
    let mut three = Three::start(false);
    let mut tsh = own("tsh");
    tsh.env("TELEPORT_HOME", three.machine.path("home")).arg("ssh");
    tsh.arg(format!("{}@node", own_login())).arg("echo $$; cat; exit 7");
    let mut talk = Talk::begin(tsh);
    assert_ne!(talk.hear(), "");
    for round in 0..2 {
        three.proxy.take().unwrap().kill();
        talk.say(&format!("said without a proxy, {round}\n"));
        three.proxy = Some(three.machine.start("proxy", &[]));
        assert_eq!(talk.hear(), format!("said without a proxy, {round}\n"));
    }
    let (code, rest, said) = talk.end();
    assert_eq!((code, rest.as_str()), (7, ""), "{said:?}");
    let events = wait_for("the end of the session", || {
        let events = three.machine.events("auth");
        events.iter().any(|event| event["code"] == "T2004I").then_some(events)
    });
    let count = |code: &str| events.iter().filter(|event| event["code"] == code).count();
    assert_eq!((count("T2000I"), count("T3012I")), (1, 2), "{events:?}");
}

/// The way of `tsh` to the proxy is as it was, and what is behind breaks.
#[test]
fn g18_a_session_survives_cuts_between_proxy_and_node() {
    let cluster = TestCluster::start();
    let port = fixed_port();
    let network = Relay::between(port, SocketAddr::from(([127, 0, 0, 2], port)));
    cluster.add_node_as("node", "env=test", |node| {
        node.listen = SocketAddr::from(([127, 0, 0, 2], port));
        node.public_addresses = vec!["127.0.0.1".to_owned()];
    });
    let home = cluster.alice();
    let mut tsh = home.tsh();
    tsh.arg("ssh").arg(format!("{}@node", own_login())).arg("echo $$; cat; exit 7");
    let mut talk = Talk::begin(tsh);
    assert_ne!(talk.hear(), "");
    for round in 0..2 {
        network.fail(Fault::Reset);
        talk.say(&format!("round {round}\n"));
        talk.complains("was lost");
        network.heal();
        assert_eq!(talk.hear(), format!("round {round}\n"));
        talk.complains("goes on");
    }
    let (code, rest, said) = talk.end();
    assert_eq!((code, rest.as_str()), (7, ""), "{said:?}");
    // What the node tells comes in its order.
    cluster.event(EventKind::SessionEnd, |_| true);
    assert_eq!(cluster.events(|event| event.code == EventKind::SessionStart).len(), 1);
    assert_eq!(cluster.events(|event| event.code == EventKind::ClientResume).len(), 2);
}

/// Each connection to a node goes on, over one connection to the proxy that they share as the one before.
#[test]
fn g18_a_command_on_many_nodes_survives_cuts() {
    let broken = Broken::start();
    for name in ["node-2", "node-3"] {
        broken.cluster.add_node(name, "env=test");
    }
    let go = broken.cluster.dir().join("go");
    let command = format!("echo up; until [ -e {} ]; do sleep 0.1; done; echo on; exit 3", go.display());
    let mut tsh = broken.tsh(&["ssh"]);
    tsh.arg(format!("{}@env=test", own_login())).arg(command);
    let mut talk = Talk::begin(tsh);
    for _ in 0..3 {
        assert!(talk.hear().ends_with(" | up\n"));
    }
    for round in 1..=2 {
        broken.cut();
        let before = broken.network.connections();
        wait_for("all nodes to go on", || {
            let resumed = broken.cluster.events(|event| event.code == EventKind::ClientResume);
            (resumed.len() == 3 * round).then_some(())
        });
        assert!(broken.network.connections() <= before + 1, "they share one");
    }
    std::fs::write(go, "").unwrap();
    for _ in 0..3 {
        assert!(talk.hear().ends_with(" | on\n"));
    }
    let (code, rest, said) = talk.end();
    assert_eq!((code, rest.as_str()), (1, ""), "{said:?}");
    assert!(said.iter().filter(|line| line.ends_with("ended with status 3")).count() == 3, "{said:?}");
    assert_eq!(broken.cluster.events(|event| event.code == EventKind::SessionStart).len(), 3);
}

/// Who does not want to wait leaves, and has the terminal as it was.
#[test]
fn an_escape_ends_a_session_that_has_lost_its_connection() {
    let broken = Broken::start();
    let dir = broken.cluster.dir();
    let (before, after) = (dir.join("before"), dir.join("after"));
    let terminal = Terminal::open(&format!(
        "stty -a > {}\nenv TELEPORT_HOME={} {} ssh -t {}@node 'echo up; cat'\ncode=$?\nstty -a > {}\n(exit $code)",
        before.display(),
        broken.home.dir.display(),
        own("tsh").get_program().display(),
        own_login(),
        after.display(),
    ));
    terminal.wait_for("up", 1);
    broken.network.fail(Fault::Reset);
    let screen = terminal.wait_for("trying to resume it; ~. ends", 1);
    assert!(screen.contains("tsh: the connection to node was lost ("), "{screen}");
    // Ctrl-C is the program's, which may hear of it later.
    terminal.press("C-c");
    terminal.press("Enter");
    terminal.press("~");
    terminal.press(".");
    assert_eq!(terminal.ended(), 255);
    let screen = terminal.screen();
    let says =
        "tsh: left while the connection to node was lost: what runs there ends when the node gives it up";
    assert!(screen.contains(says), "{screen}");
    let state = |path| std::fs::read_to_string(path).unwrap();
    assert_eq!(state(after), state(before));
}

#[test]
fn g18_a_network_that_falls_silent_is_noticed_and_told() {
    let broken = Broken::start();
    let mut talk = broken.ssh(&[], "cat");
    talk.say("before\n");
    assert_eq!(talk.hear(), "before\n");
    // As when a laptop sleeps: nobody is told of anything.
    broken.network.fail(Fault::Mute);
    talk.say("meanwhile\n");
    talk.complains("was lost");
    broken.network.heal();
    assert_eq!(talk.hear(), "meanwhile\n");
    talk.complains("goes on");
    let (code, rest, _) = talk.end();
    assert_eq!((code, rest.as_str()), (0, ""));
}

#[test]
fn g18_stock_ssh_survives_cuts_through_tsh() {
    let broken = Broken::start();
    let proxy = format!(
        "ProxyCommand=env TELEPORT_HOME={} {} proxy ssh %r@%h",
        broken.home.dir.display(),
        own("tsh").get_program().to_str().unwrap()
    );
    let mut ssh = broken.home.ssh();
    ssh.args(["-o", &proxy, "-o", "BatchMode=yes", "-l", &own_login(), "node.test.local", "cat; exit 3"]);
    let mut talk = Talk::begin(ssh);
    for round in 0..5 {
        talk.say(&format!("round {round}\n"));
        assert_eq!(talk.hear(), format!("round {round}\n"));
        broken.cut();
    }
    let (code, rest, said) = talk.end();
    assert_eq!((code, rest.as_str()), (3, ""), "{said:?}");
}

#[test]
fn whoever_does_not_want_it_ends_with_the_connection() {
    let broken = Broken::start();
    for (flag, variable) in [(&["--no-resume"][..], ""), (&[], "1")] {
        let mut tsh = broken.tsh(&["ssh"]);
        tsh.args(flag).arg(format!("{}@node", own_login())).arg("echo begun; cat");
        tsh.env("TELEPORT_NO_RESUME", variable);
        let mut talk = Talk::begin(tsh);
        assert_eq!(talk.hear(), "begun\n");
        broken.cut();
        let (code, rest, said) = talk.end();
        assert_eq!((code, rest.as_str()), (255, ""), "{said:?}");
        assert!(said.iter().any(|line| line.contains("ended before the command did")), "{said:?}");
    }
    assert!(broken.cluster.events(|event| event.code == EventKind::ClientResume).is_empty());
}

#[test]
fn a_lock_ends_a_session_that_waits_for_its_client() {
    let broken = Broken::start();
    let mut talk = broken.ssh(&[], "echo $$; cat");
    let shell: i32 = talk.hear().trim().parse().unwrap();
    broken.network.fail(Fault::Reset);
    talk.complains("was lost");
    let alive = || nix::sys::signal::kill(nix::unistd::Pid::from_raw(shell), None).is_ok();
    assert!(alive(), "it waits");
    let mut tctl = own("tctl");
    tctl.arg("--data-dir").arg(broken.cluster.dir().join("cluster")).args(["lock", "--user=alice"]);
    run(tctl).clean();
    wait_for("the end of the session", || (!alive()).then_some(()));
    broken.network.heal();
    let (code, rest, said) = talk.end();
    assert_eq!((code, rest.as_str()), (255, ""), "{said:?}");
    assert!(broken.cluster.events(|event| event.code == EventKind::ClientResume).is_empty());
}

#[test]
fn the_end_of_tsh_ends_what_could_be_resumed() {
    let broken = Broken::start();
    let mut talk = broken.ssh(&[], "echo $$; cat");
    let shell: i32 = talk.hear().trim().parse().unwrap();
    let pid = nix::unistd::Pid::from_raw(i32::try_from(talk.child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    wait_for("the end of the session", || {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(shell), None).is_err().then_some(())
    });
    talk.end();
}

#[test]
fn other_clients_notice_nothing() {
    let broken = Broken::start();
    let mut ssh = broken.home.ssh();
    ssh.args(["-o", "BatchMode=yes", "-l", &own_login(), "node.test.local", "echo in"]);
    assert_eq!(run(ssh).clean(), "in\n");
}
