//! Sessions, as the stock client sees them.

use std::process::Stdio;
use std::sync::Arc;

use teleport_core::access::SessionRecording;
use teleport_core::recording::{Recorder, RecordingMeta};
use teleport_ssh::record::{NoRecorders, Recorders, Spool, SpoolError, SpoolLimits};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

use super::support::{PATIENCE, TestNode, run, text};

#[tokio::test(flavor = "multi_thread")]
async fn a_command_has_its_own_streams_and_exit_status() {
    let node = TestNode::start().await;
    let output = node.run(&[], &["echo out; echo err >&2; exit 7"]).await;
    assert_eq!((text(&output.stdout).as_str(), text(&output.stderr).as_str()), ("out\n", "err\n"));
    assert_eq!(output.status.code(), Some(7));
    let exec = node.auth.event("T3002E", |event| event.fields["exit_code"] == "7").await;
    assert_eq!(exec.fields["command"], "echo out; echo err >&2; exit 7");
    assert_eq!(exec.user.as_deref(), Some("alice"));
    let start = node.auth.event("T2000I", |event| event.sid == exec.sid).await;
    assert_eq!(start.fields["interactive"], false);
    node.auth.event("T2004I", |event| event.sid == exec.sid).await;

    let output = node.run(&[], &["true"]).await;
    assert_eq!((output.status.code(), output.stdout.len(), text(&output.stderr).as_str()), (Some(0), 0, ""));
    node.auth.event("T3002I", |event| event.fields["command"] == "true").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_command_is_told_as_killed() {
    let node = TestNode::start().await;
    let output = node.run(&["-v"], &["kill -TERM $$"]).await;
    assert_eq!(output.status.code(), Some(255));
    assert!(text(&output.stderr).contains("exit-signal"), "{}", text(&output.stderr));
    node.auth
        .event("T2004I", |event| event.fields.get("exit_signal").is_some_and(|name| name == "TERM"))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn input_reaches_the_command_and_its_end_too() {
    let node = TestNode::start().await;
    let mut child = node
        .ssh()
        .args(["127.0.0.1", "sha256sum; echo done"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&vec![0; 10 << 20]).await.unwrap();
    drop(stdin);
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await.unwrap().unwrap();
    let zeroes = "e5b844cc57f57094ea4585e235f36c78c1cd222262bb89d53c94dcb4d6b3e55d  -\ndone\n";
    assert_eq!(text(&output.stdout), zeroes);
}

/// Both directions at once with more than every buffer and window holds: whoever stops reading one of them for the other's
/// sake hangs here.
#[tokio::test(flavor = "multi_thread")]
async fn full_duplex_does_not_hang() {
    const LEN: usize = 96 << 20;
    let node = TestNode::start().await;
    let mut child =
        node.ssh().args(["127.0.0.1", "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let writing = async move {
        let block: Vec<u8> = (0..1 << 20).map(|index: u32| ((index * 7) >> 3) as u8).collect();
        for _ in 0..LEN >> 20 {
            stdin.write_all(&block).await.unwrap();
        }
    };
    let reading = async move {
        let mut all = Vec::new();
        stdout.read_to_end(&mut all).await.unwrap();
        all
    };
    let (all, ()) =
        tokio::time::timeout(PATIENCE * 2, async { tokio::join!(reading, writing) }).await.unwrap();
    assert_eq!(all.len(), LEN);
    assert!(all.chunks(1 << 20).all(|block| block == &all[..1 << 20]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_has_a_terminal_of_the_users_own() {
    let node = TestNode::start().await;
    let output = node
        .run(
            &["-tt"],
            &["tty; stat -c '%U %a' $(tty); stty size; echo TERM=$TERM; test -t 0 && test -t 1 && echo both"],
        )
        .await;
    let shown = text(&output.stdout);
    assert!(shown.contains("/dev/pts/"), "{shown}");
    assert!(shown.contains(&format!("{} 620", super::support::me())), "{shown}");
    assert!(shown.contains("both"), "{shown}");
    assert_eq!(output.status.code(), Some(0));

    let mut shell =
        node.ssh().args(["-tt", "127.0.0.1"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = shell.stdin.take().unwrap();
    stdin.write_all(b"echo arg0=$0 sum=$((40+2)); exit 5\n").await.unwrap();
    let output = tokio::time::timeout(PATIENCE, shell.wait_with_output()).await.unwrap().unwrap();
    let shown = text(&output.stdout);
    assert!(shown.contains("sum=42"), "{shown}");
    assert!(shown.contains("arg0=-"), "a login shell: {shown}");
    assert_eq!(output.status.code(), Some(5));
    let start = node.auth.event("T2000I", |event| event.fields.get("command").is_none()).await;
    assert_eq!(start.fields["interactive"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_window_changes_while_the_session_runs() {
    let node = TestNode::start().await;
    // A terminal of our own around the client, which we then resize.
    let pty = nix::pty::openpty(Some(&size(24, 80)), None).unwrap();
    let command = "stty size; trap 'stty size; exit 3' WINCH; echo ready; while :; do sleep 0.05; done";
    let mut ssh = node
        .ssh()
        .args(["-tt", "127.0.0.1", command])
        .stdin(Stdio::from(pty.slave.try_clone().unwrap()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(ssh.stdout.take().unwrap()).lines();
    let next = async |lines: &mut tokio::io::Lines<_>| -> String {
        let line: Option<String> = tokio::time::timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap();
        line.unwrap().trim().to_owned()
    };
    assert_eq!(next(&mut lines).await, "24 80");
    assert_eq!(next(&mut lines).await, "ready");
    set_size(&pty.master, 50, 132);
    // The client has no controlling terminal here, so the kernel's word does not reach it.
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(ssh.id().unwrap().try_into().unwrap()),
        nix::sys::signal::Signal::SIGWINCH,
    )
    .unwrap();
    assert_eq!(next(&mut lines).await, "50 132");
    assert_eq!(tokio::time::timeout(PATIENCE, ssh.wait()).await.unwrap().unwrap().code(), Some(3));
}

fn size(rows: u16, columns: u16) -> nix::pty::Winsize {
    nix::pty::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

fn set_size(master: &std::os::fd::OwnedFd, rows: u16, columns: u16) {
    // `stty` sets the size of the terminal on its standard input.
    let status = std::process::Command::new("stty")
        .args(["rows", &rows.to_string(), "cols", &columns.to_string()])
        .stdin(Stdio::from(master.try_clone().unwrap()))
        .status()
        .unwrap();
    assert!(status.success());
}

/// G3
#[tokio::test(flavor = "multi_thread")]
async fn only_harmless_variables_of_the_client_arrive() {
    let node = TestNode::start().await;
    let mut ssh = node.ssh();
    for name in ["LANG", "LC_PLANET", "LD_PRELOAD", "BASH_ENV", "PATH_X", "PYTHONPATH", "SSH_SESSION_ID"] {
        ssh.env(name, "evil-or-not").args(["-o", &format!("SendEnv={name}")]);
    }
    let output = run(ssh.args(["127.0.0.1", "env"])).await;
    let env = text(&output.stdout);
    let value = |name: &str| env.lines().find_map(|line| line.strip_prefix(&format!("{name}=")));
    assert_eq!(value("LC_PLANET"), Some("evil-or-not"));
    assert_eq!(value("LANG"), Some("evil-or-not"));
    for name in ["LD_PRELOAD", "BASH_ENV", "PATH_X", "PYTHONPATH"] {
        assert_eq!(value(name), None, "{name}");
    }
    assert_eq!(value("SSH_TELEPORT_USER"), Some("alice"));
    assert_eq!(value("SSH_TELEPORT_CLUSTER_NAME"), Some("example.com"));
    let start = node.auth.event("T2000I", |_| true).await;
    assert_eq!(value("SSH_SESSION_ID"), Some(start.sid.unwrap().to_string().as_str()));
    assert!(value("SSH_CONNECTION").unwrap().starts_with("127.0.0.1 "));
    assert!(value("SSH_TELEPORT_HOST_UUID").is_some() && value("USER").is_some() && value("HOME").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_carries_many_sessions_up_to_the_limit() {
    let node = TestNode::with(|builder| builder.max_sessions(3)).await;
    let control = node.path("control");
    let control = format!("ControlPath={}", control.display());
    let _master = node.hold(&["-o", "ControlMaster=yes", "-o", &control]).await;
    let through = ["-o", "ControlMaster=no", "-o", control.as_str()];
    for number in 0..5 {
        let output = node.run(&through, &[&format!("echo {number}; exit {number}")]).await;
        assert_eq!((text(&output.stdout), output.status.code()), (format!("{number}\n"), Some(number)));
    }
    assert_eq!(node.status.counts().accepted, 1);
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(node.hold(&through).await);
    }
    assert_eq!(node.status.sessions().len(), 3);
    let refused = node.run(&["-S", "none", "-o", "ControlMaster=no", "-o", &control], &["true"]).await;
    assert!(refused.status.success(), "a connection of its own has its own limit");
    let refused = node.run(&through, &["true"]).await;
    assert!(!refused.status.success() || node.status.counts().accepted > 2, "{}", text(&refused.stderr));
    node.auth.event("T1006W", |event| event.error.as_deref().unwrap().contains("too many sessions")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_goes_and_the_session_ends() {
    let node = TestNode::start().await;
    let mark = node.path("hung-up");
    let command =
        format!("trap 'echo bye > {}; exit' HUP; echo up; while :; do sleep 0.05; done", mark.display());
    let mut ssh = node.ssh().args(["127.0.0.1", &command]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(ssh.stdout.take().unwrap()).lines();
    tokio::time::timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap();
    ssh.kill().await.unwrap();
    node.auth.event("T2004I", |event| event.fields.get("exit_reason").is_some()).await;
    assert!(mark.exists(), "the hang-up reached the process");
    assert!(node.status.sessions().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn something_in_the_background_does_not_hold_the_session() {
    let node = TestNode::start().await;
    let started = tokio::time::Instant::now();
    let output = node.run(&[], &["sleep 300 & echo $!; exit 4"]).await;
    assert_eq!(output.status.code(), Some(4));
    assert!(started.elapsed() < PATIENCE);
    let pid: i32 = text(&output.stdout).trim().parse().unwrap();
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
}

#[tokio::test(flavor = "multi_thread")]
async fn subsystems_and_forwardings_are_refused_and_audited() {
    let node = TestNode::start().await;
    let output = node.run(&["-s"], &["sftp"]).await;
    assert!(!output.status.success());
    assert!(text(&output.stderr).contains("subsystem request failed"), "{}", text(&output.stderr));
    node.auth.event("T3001E", |event| event.fields["name"] == "sftp").await;

    let output = node.run(&["-W", "127.0.0.1:22"], &[]).await;
    assert!(!output.status.success());
    let told = text(&output.stderr);
    assert!(told.contains("administratively prohibited"), "{told}");
    node.auth.event("T3003E", |event| event.fields["addr"] == "127.0.0.1:22").await;

    let output = node.run(&["-o", "ExitOnForwardFailure=yes", "-R", "0:127.0.0.1:22"], &["true"]).await;
    assert!(!output.status.success(), "remote forwarding");
    node.auth.event("T3003E", |event| event.fields["kind"] == "tcpip-forward").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_waits_for_sessions_and_aborting_does_not() {
    let mut node = TestNode::start().await;
    let mut ssh = node
        .ssh()
        .args(["127.0.0.1", "echo up; cat; echo over"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(ssh.stdout.take().unwrap()).lines();
    tokio::time::timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap();
    node.shutdown.drain();
    let late = node.run(&[], &["true"]).await;
    assert!(!late.status.success(), "nobody new");
    assert!(!*node.ended.borrow(), "the session is waited for");
    drop(ssh.stdin.take());
    assert_eq!(tokio::time::timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap(), "over");
    tokio::time::timeout(PATIENCE, node.ended.wait_for(|ended| *ended)).await.unwrap().unwrap();
    assert_eq!(node.auth.count("T2004I"), 1, "the last event was written before the end");

    let mut node = TestNode::start().await;
    let mut ssh =
        node.ssh().args(["127.0.0.1", "echo up; sleep 300"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(ssh.stdout.take().unwrap()).lines();
    tokio::time::timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap();
    node.shutdown.abort();
    tokio::time::timeout(PATIENCE, node.ended.wait_for(|ended| *ended)).await.unwrap().unwrap();
    tokio::time::timeout(PATIENCE, ssh.wait()).await.unwrap().unwrap();
    assert_eq!(node.auth.count("T2004I"), 1, "also after an abort the end is in the log");
}

/// Recorders that begin when the test lets them, or not at all.
#[derive(Debug)]
struct Held {
    asked: tokio::sync::watch::Sender<usize>,
    go: std::sync::Mutex<std::sync::mpsc::Receiver<bool>>,
}

impl Recorders for Held {
    fn start(&self, meta: RecordingMeta, mode: SessionRecording) -> Result<Box<dyn Recorder>, SpoolError> {
        self.asked.send_modify(|asked| *asked += 1);
        if self.go.lock().unwrap().recv().unwrap() {
            return NoRecorders.start(meta, mode);
        }
        // A spool that cannot be opened gives the error of one.
        Err(Spool::open("/proc/nonexistent/spool", SpoolLimits::default()).unwrap_err())
    }
}

/// Row C11: nothing runs, and nothing is forwarded, before there is something that records it; and nothing at all without.
#[tokio::test(flavor = "multi_thread")]
async fn c11_nothing_runs_before_it_is_recorded() {
    let (go, held) = std::sync::mpsc::channel();
    let recorders = Arc::new(Held { asked: tokio::sync::watch::Sender::new(0), go: held.into() });
    let node =
        TestNode::with(|builder| builder.recorders(Arc::clone(&recorders) as Arc<dyn Recorders>)).await;
    for (number, allowed) in [(1, false), (2, true)] {
        let ran = node.path(&format!("ran-{number}"));
        let touch = format!("touch {}", ran.display());
        // A forward that is asked for in the same breath.
        let options = ["-o", "ExitOnForwardFailure=no", "-R", "0:127.0.0.1:1"];
        let command = [touch.as_str()];
        let client = node.run(&options, &command);
        let watched = async {
            let mut asked = recorders.asked.subscribe();
            tokio::time::timeout(PATIENCE, asked.wait_for(|asked| *asked == number)).await.unwrap().unwrap();
            // It is about to be recorded and is not yet.
            assert!(!ran.exists() && node.auth.count("T2000I") == 0, "nothing has begun");
            go.send(allowed).unwrap();
        };
        let (output, ()) = tokio::join!(client, watched);
        assert_eq!((output.status.success(), ran.exists()), (allowed, allowed), "{}", text(&output.stderr));
        if !allowed {
            assert!(text(&output.stderr).contains("cannot be recorded"), "{}", text(&output.stderr));
            node.auth.event("T1006W", |event| event.user.as_deref() == Some("alice")).await;
            assert_eq!(node.auth.count("T2000I"), 0);
        }
    }
    node.auth.event("T2000I", |_| true).await;
}
