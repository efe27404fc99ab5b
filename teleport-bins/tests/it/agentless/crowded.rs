//! Many sessions and forwards of one user on one server, of which some are slow.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use super::{Server, ssh};
use crate::support::cluster::{Home, TestCluster};
use crate::support::program::run;
use crate::support::tmux::Terminal;
use crate::support::{accept, own_login, wait_for};

/// A connection of `ssh` that others share.
struct Master {
    control: String,
    home: Home,
    target: String,
}

impl Master {
    fn start(cluster: &TestCluster, home: Home, target: String, options: &[&str]) -> Self {
        let control = format!("ControlPath={}", cluster.dir().join("mux").display());
        let mut master = home.ssh();
        master.args(["-o", &control, "-o", "ControlMaster=yes", "-f", "-N"]).args(options).arg(&target);
        master.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        assert!(master.status().unwrap().success());
        Self { control, home, target }
    }

    fn session(&self, command: &str) -> Command {
        let mut ssh = self.home.ssh();
        ssh.args(["-o", &self.control, "-o", "ProxyCommand=false", &self.target, command]);
        ssh
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        let mut exit = self.home.ssh();
        exit.args(["-o", &self.control, "-O", "exit", &self.target]);
        let _ = exit.stderr(Stdio::null()).status();
    }
}

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn what_a_user_does_not_read_holds_up_nothing_else() {
    let cluster = TestCluster::start();
    let server = Server::new(&cluster, "plain", "");
    // Somebody who sends for ever, once asked.
    let flood = TcpListener::bind("127.0.0.1:0").unwrap();
    let forward =
        format!("{}:127.0.0.1:{}", cluster.dir().join("flood").display(), flood.local_addr().unwrap().port());
    let flooding = std::thread::spawn(move || {
        let mut stream = accept(&flood);
        let _ = std::io::copy(&mut std::io::repeat(b'f'), &mut stream);
    });
    let master = Master::start(&cluster, cluster.alice(), server.target(), &["-L", &forward]);
    // A session whose output nobody reads, and a forward to somebody who does not read.
    let there = cluster.dir().join("there");
    let mut unread = master.session(&format!("touch {}; cat /dev/zero", there.display()));
    unread.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut unread = Ended(unread.spawn().unwrap());
    wait_for("the first session", || there.exists().then_some(()));
    let mut hung = std::os::unix::net::UnixStream::connect(cluster.dir().join("flood")).unwrap();
    hung.read_exact(&mut [0]).unwrap();
    // One after the other and beside each other: all of them come through.
    for number in 0..3 {
        assert_eq!(run(master.session(&format!("echo {number}"))).out(), format!("{number}\n"));
    }
    let many: Vec<Child> = (0..12)
        .map(|number| {
            let mut session = master.session(&format!("head -c 100000 /dev/zero; exit {number}"));
            session.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for (number, session) in many.into_iter().enumerate() {
        let output = session.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            (output.stdout.len(), output.status.code()),
            (100_000, i32::try_from(number).ok()),
            "{said}"
        );
    }
    // Neither has ended for that: both go on where they were.
    let mut more = vec![1; 4 << 20];
    unread.0.stdout.as_mut().unwrap().read_exact(&mut more).unwrap();
    assert!(more.iter().all(|byte| *byte == 0));
    hung.read_exact(&mut more).unwrap();
    assert!(more.iter().all(|byte| *byte == b'f'));
    drop((hung, unread));
    drop(master);
    flooding.join().unwrap();
}

/// Nothing is shown while nobody reads, and what waits to be told then does not keep it from being shown later.
#[test]
fn sizes_that_change_while_nobody_reads_do_not_stop_the_session() {
    let cluster = TestCluster::start();
    let server = Server::new(&cluster, "plain", "");
    let home = cluster.alice();
    let (progress, go) = (cluster.dir().join("progress"), cluster.dir().join("go"));
    let script = cluster.dir().join("script");
    let print = "head -c 500000 /dev/zero | tr '\\000' x";
    let text = format!(
        "for n in $(seq 24); do {print}; echo $n >{0}.new; mv {0}.new {0}; done; echo; echo the end",
        progress.display()
    );
    std::fs::write(&script, text).unwrap();
    let terminal = Terminal::open(&format!(
        "ssh -F {} -tt {} sh {} | (until [ -e {} ]; do sleep 0.1; done; tail -c 9)",
        home.ssh_config.display(),
        server.target(),
        script.display(),
        go.display()
    ));
    let written = || std::fs::read_to_string(&progress).ok()?.trim().parse::<u32>().ok();
    wait_for("output", || written().filter(|written| *written >= 6));
    // By the terminal itself: tmux passes on a few sizes a second.
    let tty = terminal.run(&["display-message", "-p", "#{pane_tty}"]);
    for number in 0..40 {
        let mut stty = Command::new("stty");
        stty.args(["-F", tty.trim(), "cols", &(60 + number).to_string()]);
        run(stty).clean();
    }
    assert!(written().is_some_and(|written| written < 24), "all of it fits into what is on the way");
    std::fs::write(&go, "").unwrap();
    wait_for("the end of the session", || terminal.screen().contains("the end").then_some(()));
}

/// What ends in the middle, and what ends as it should, leaves nothing with the server.
#[test]
fn nothing_is_left_with_the_server() {
    let cluster = TestCluster::start();
    let server = Server::new(&cluster, "plain", "");
    let master = Master::start(&cluster, cluster.alice(), server.target(), &[]);
    let marks = [cluster.dir().join("one"), cluster.dir().join("two")];
    let mut killed = Vec::new();
    for mark in &marks {
        let mut session =
            master.session(&format!("echo $$ >{0}.new; mv {0}.new {0}; exec sleep 600", mark.display()));
        session.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        killed.push(Ended(session.spawn().unwrap()));
    }
    let pids: Vec<String> = marks
        .iter()
        .map(|mark| wait_for("a session", || std::fs::read_to_string(mark).ok()).trim().to_owned())
        .collect();
    assert_eq!(server.sshd.connections(), 2);
    drop(killed);
    // A program without a terminal hears of nobody's end before it writes; its sshd is gone.
    wait_for("the end of what served them", || {
        pids.iter().all(|pid| parent(pid).is_none_or(|parent| name(&parent) != "sshd")).then_some(())
    });
    for pid in pids {
        let _ = Command::new("kill").arg(pid).status();
    }
    // One is enough for all that comes one after the other.
    for _ in 0..5 {
        run(master.session("true")).clean();
    }
    assert_eq!(server.sshd.connections(), 3, "{}", server.sshd.log());
    let refused = TcpStream::connect(("127.0.0.1", 1));
    assert!(refused.is_err());
    let away =
        ssh(&cluster.user("bob", &["access"], &[&own_login()]), &["-W", "127.0.0.1:1", &server.target()]);
    assert_eq!(away.code(), 255, "{away:?}");
}

/// The id of a process's parent.
fn parent(pid: &str) -> Option<String> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    Some(status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().to_owned())
}

fn name(pid: &str) -> String {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    // Of newer versions what serves a session is another program.
    if name.starts_with("sshd") { "sshd".to_owned() } else { name.trim().to_owned() }
}
