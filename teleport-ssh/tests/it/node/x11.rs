//! Displays: stock `ssh -X` and `-Y` with an X server on the client's side and a program on the node's; and who gets none.

use std::process::Stdio;
use std::sync::Arc;

use russh::client::{Handle, Msg};
use russh::{Channel, ChannelMsg};
use teleport_core::audit::AuditEvent;
use teleport_core::clock::{Clock, SystemClock};
use teleport_core::resource::{Lock, LockSpec};
use teleport_ssh::node::{Displays, NodeBuilder};
use teleport_ssh::session::OsSessions;
use teleport_ssh::sys::environment::AllowList;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

use super::commands::access;
use super::hostile::{Client, client};
use super::support::{PATIENCE, TestNode, UserCert, me, private_key, run, text};

const PROTOCOL: &str = "MIT-MAGIC-COOKIE-1";

/// Waits for what has a deadline in every test.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.unwrap()
}

/// Ports of displays that nobody has: a range of its own for each test, so that none sees the listeners of another.
async fn displays(first: u16, last: u16) -> TestNode {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    displays_of(OsSessions::new(clock), first, last).await
}

async fn displays_of(sessions: OsSessions, first: u16, last: u16) -> TestNode {
    let displays = Displays::new(first, Some(last)).unwrap();
    let variables = AllowList::parse(["SHLVL", "XAUTHORITY"]).unwrap();
    let change = |builder: NodeBuilder| builder.displays(Some(displays)).accept_env(variables);
    let node = TestNode::serving(Arc::new(sessions), change).await;
    node.roles(access(|spec| spec.options.permit_x11_forwarding = true)).await;
    let certificate = UserCert::new().with(&["permit-X11-forwarding"]);
    node.write_certificate("user", &certificate.sign(&node.user_key, &node.user_ca), &node.user_key);
    node
}

fn port(display: u16) -> u16 {
    6000 + display
}

async fn is_closed(display: u16) {
    soon(async {
        for address in ["127.0.0.1", "::1"] {
            while TcpStream::connect((address, port(display))).await.is_ok() {
                tokio::task::yield_now().await;
            }
        }
    })
    .await;
}

/// An X server of the client, whose screen has a size of its own.
struct Server {
    _process: Child,
    display: String,
    cookies: std::path::PathBuf,
    _dir: tempfile::TempDir,
}

const SIZE: &str = "641x479";

impl Server {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cookies = dir.path().join("cookies");
        let cookie = "0123456789abcdef0123456789abcdef";
        let add = async |display: String| {
            let mut xauth = Command::new("xauth");
            xauth.args(["-q", "-f"]).arg(&cookies).args(["add", &display, ".", cookie]);
            assert!(run(&mut xauth).await.status.success());
        };
        add(":0".to_owned()).await;
        let mut server = Command::new("Xvfb");
        // It would forget the cookies of programs that are not trusted when nobody is connected.
        server.args(["-displayfd", "1", "-noreset", "-nolisten", "tcp", "-screen", "0"]);
        server.arg(format!("{SIZE}x24")).arg("-auth").arg(&cookies);
        let mut process =
            server.stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap();
        let mut number = String::new();
        soon(BufReader::new(process.stdout.take().unwrap()).read_line(&mut number)).await.unwrap();
        let display = format!(":{}", number.trim());
        add(display.clone()).await;
        Self { _process: process, display, cookies, _dir: dir }
    }

    fn seen_by<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.env("DISPLAY", &self.display).env("XAUTHORITY", &self.cookies)
    }
}

/// A client of our own, logged in.
async fn logged_in(node: &TestNode) -> Handle<Client> {
    let mut session = client(node.address).await;
    let key = Arc::new(node.user_key.clone());
    let certificate = UserCert::new().with(&["permit-X11-forwarding"]).sign(&key, &node.user_ca);
    assert!(session.authenticate_openssh_cert(me().as_str(), key, certificate).await.unwrap().success());
    session
}

/// A session whose programs look for cookies where [`cookies_of`] does.
async fn opened(node: &TestNode, on: &Handle<Client>) -> Channel<Msg> {
    let channel = on.channel_open_session().await.unwrap();
    channel.set_env(false, "XAUTHORITY", node.xauthority().to_str().unwrap()).await.unwrap();
    channel
}

/// Whether a display is given.
async fn asks(channel: &mut Channel<Msg>, single: bool, words: (&str, &str)) -> bool {
    channel.request_x11(true, single, words.0, words.1, 0).await.unwrap();
    loop {
        match soon(channel.wait()).await.unwrap() {
            ChannelMsg::Success => return true,
            ChannelMsg::Failure => return false,
            _ => {}
        }
    }
}

const COOKIE: &str = "00112233445566778899aabbccddeeff";

/// Runs something and waits for its first line.
async fn begin(channel: &mut Channel<Msg>, command: &str) -> String {
    channel.exec(true, command).await.unwrap();
    first_line(channel).await
}

async fn first_line(channel: &mut Channel<Msg>) -> String {
    let mut said = Vec::new();
    while !said.ends_with(b"\n") {
        if let ChannelMsg::Data { data } = soon(channel.wait()).await.unwrap() {
            said.extend_from_slice(&data);
        }
    }
    text(&said).trim_end().to_owned()
}

/// What programs on the node know of a display.
async fn cookies_of(node: &TestNode, display: u16) -> String {
    let mut xauth = Command::new("xauth");
    // Without its lock, for which others would wait.
    xauth.args(["-q", "-i", "-f"]).arg(node.xauthority()).args(["list", &format!("unix:{display}")]);
    text(&run(&mut xauth).await.stdout)
}

/// Nobody waits long for it.
async fn is_forgotten(node: &TestNode, display: u16) {
    soon(async { while !cookies_of(node, display).await.is_empty() {} }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_on_the_node_use_the_clients_display_while_the_session_lasts() {
    let node = displays(100, 119).await;
    let server = Server::start().await;
    for trust in ["-X", "-Y"] {
        let look = "echo $DISPLAY; xdpyinfo | grep dimensions; xauth -q list $DISPLAY";
        let mut ssh = node.ssh();
        let output = run(server.seen_by(ssh.args([trust, "127.0.0.1", look]))).await;
        let said = text(&output.stdout);
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines[0], "localhost:100.0", "{trust}: {said} {}", text(&output.stderr));
        assert!(lines[1].contains(SIZE), "{trust}: {said}");
        // What the node has is not the cookie of the display.
        assert!(lines[2].contains("unix:100") && lines[2].contains(PROTOCOL), "{trust}: {said}");
        assert!(!lines[2].contains("0123456789abcdef0123456789abcdef"));
        is_closed(100).await;
        is_forgotten(&node, 100).await;
    }
    let event = node.auth.event("T3008I", |_| true).await;
    assert_eq!((event.user.as_deref(), event.login.as_deref()), (Some("alice"), Some(me().as_str())));
    assert_eq!((event.fields["display"].as_str(), event.success), (Some("localhost:100.0"), Some(true)));
    let begun = node.auth.event("T3003I", |_| true).await;
    assert_eq!((&begun.fields["kind"], &begun.fields["addr"]), (&"x11".into(), &"localhost:100.0".into()));
    let ended = node.auth.event("T3003S", |event| event.fields["address"] == begun.fields["address"]).await;
    assert!(
        ended.fields["bytes_received"].as_u64() > Some(100) && ended.fields["bytes_sent"].as_u64() > Some(0)
    );
    // Nobody has one who does not ask.
    let without = node.run(&["-x"], &["echo display:$DISPLAY"]).await;
    assert_eq!(text(&without.stdout), "display:\n");
}

/// Row A12: the certificate, the roles and the node have to agree, and the session goes on without.
#[tokio::test(flavor = "multi_thread")]
async fn a12_a_display_is_given_where_certificate_roles_and_node_permit_it() {
    let node = displays(120, 129).await;
    let server = Server::start().await;
    let refused = async |node: &TestNode, because: &str| {
        let mut ssh = node.ssh();
        let output = run(server.seen_by(ssh.args(["-v", "-Y", "127.0.0.1", "echo display:$DISPLAY"]))).await;
        assert_eq!(text(&output.stdout), "display:\n", "{because}");
        let told = text(&output.stderr);
        assert!(told.contains("X11 forwarding request failed") && told.contains(because), "{told}");
        let event = node.auth.event("T3008W", |event| event.error.as_deref() == Some(because)).await;
        assert_eq!((event.event.as_str(), event.user.as_deref()), ("x11-forward", Some("alice")));
    };
    node.roles(access(|_| {})).await;
    refused(&node, "the roles do not permit X11 forwarding (permit_x11_forwarding)").await;
    node.roles(access(|spec| spec.options.permit_x11_forwarding = true)).await;
    let plain = UserCert::new().sign(&node.user_key, &node.user_ca);
    node.write_certificate("user", &plain, &node.user_key);
    let because = "the certificate does not permit X11 forwarding; a new one would if the roles do (permit_x11_forwarding)";
    refused(&node, because).await;
    assert_eq!(node.auth.count("T3008I"), 0);

    let node = TestNode::start().await;
    node.roles(access(|spec| spec.options.permit_x11_forwarding = true)).await;
    let certificate = UserCert::new().with(&["permit-X11-forwarding"]);
    node.write_certificate("user", &certificate.sign(&node.user_key, &node.user_ca), &node.user_key);
    refused(&node, "this node does not forward X11 (ssh_service.x11)").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn displays_are_asked_for_once_in_time_in_words_and_are_counted() {
    let node = displays(130, 161).await;
    let session = logged_in(&node).await;
    let mut channel = opened(&node, &session).await;
    for words in [
        ("", COOKIE),
        (PROTOCOL, ""),
        (PROTOCOL, "0g"),
        (PROTOCOL, "00\nadd :0 . 00"),
        ("MIT-MAGIC-COOKIE-1 00\nadd", COOKIE),
        (PROTOCOL, "000"),
        (&*"x".repeat(10_000), COOKIE),
    ] {
        assert!(!asks(&mut channel, false, words).await, "{words:?}");
    }
    assert!(asks(&mut channel, false, (PROTOCOL, COOKIE)).await);
    assert!(!asks(&mut channel, false, (PROTOCOL, COOKIE)).await, "a second one");
    assert_eq!(begin(&mut channel, "echo $DISPLAY; cat").await, "localhost:130.0");
    let mut late = opened(&node, &session).await;
    assert_eq!(begin(&mut late, "echo $DISPLAY.; cat").await, ".");
    assert!(!asks(&mut late, false, (PROTOCOL, COOKIE)).await, "too late");
    // Thirty-two of them for one connection, which are all that there are; another gets none, until one is given back.
    let mut channels = Vec::new();
    for _ in 1..32 {
        let mut channel = opened(&node, &session).await;
        assert!(asks(&mut channel, false, (PROTOCOL, COOKIE)).await);
        channels.push(channel);
    }
    let mut more = opened(&node, &session).await;
    assert!(!asks(&mut more, false, (PROTOCOL, COOKIE)).await);
    let is = |text: &'static str| move |event: &AuditEvent| event.error.as_deref() == Some(text);
    node.auth.event("T3008W", is("too many listeners on one connection")).await;
    let other = logged_in(&node).await;
    let mut theirs = opened(&node, &other).await;
    assert!(!asks(&mut theirs, false, (PROTOCOL, COOKIE)).await);
    node.auth.event("T3008W", is("no display of this node is free")).await;
    channels.pop().unwrap().close().await.unwrap();
    soon(async { while !asks(&mut theirs, false, (PROTOCOL, COOKIE)).await {} }).await;
    drop((session, other, channel, late, more, theirs, channels));
    for display in 130..=161 {
        is_closed(display).await;
    }
}

/// Row G4: on loopback addresses only; and what somebody listens on already is not taken over on either of them.
#[tokio::test(flavor = "multi_thread")]
async fn g4_displays_listen_on_loopback_where_nobody_else_does() {
    let node = displays(170, 172).await;
    let _four = TcpListener::bind(("127.0.0.1", port(170))).await.unwrap();
    let _six = TcpListener::bind(("::1", port(171))).await.unwrap();
    let session = logged_in(&node).await;
    let mut channel = opened(&node, &session).await;
    assert!(asks(&mut channel, false, (PROTOCOL, COOKIE)).await);
    assert_eq!(begin(&mut channel, "echo $DISPLAY; cat").await, "localhost:172.0");
    let listening = |table: &str| -> Vec<String> {
        let table = std::fs::read_to_string(table).unwrap();
        let locals = table.lines().filter_map(|line| line.split_whitespace().nth(1));
        locals.filter(|local| local.ends_with(&format!(":{:04X}", port(172)))).map(str::to_owned).collect()
    };
    assert_eq!(listening("/proc/net/tcp"), [format!("0100007F:{:04X}", port(172))]);
    assert_eq!(listening("/proc/net/tcp6"), [format!("{}01000000:{:04X}", "0".repeat(24), port(172))]);
}

/// Whoever has not the cookie of a display has not the display; a lock takes it from who has.
#[tokio::test(flavor = "multi_thread")]
async fn c8_another_user_needs_the_cookie_and_a_lock_ends_the_display() {
    let node = displays(180, 189).await;
    let server = Server::start().await;
    let mut ssh = node.ssh();
    ssh.args(["-Y", "127.0.0.1", "echo $DISPLAY; xauth -q nlist $DISPLAY; cat"]);
    let mut alice = server.seen_by(&mut ssh).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(alice.stdout.take().unwrap()).lines();
    assert_eq!(soon(lines.next_line()).await.unwrap().as_deref(), Some("localhost:180.0"));
    let bob = UserCert { key_id: "bob".to_owned(), ..UserCert::new().with(&["permit-X11-forwarding"]) };
    let key = private_key(3);
    node.write_certificate("bob", &bob.sign(&key, &node.user_ca), &key);
    // The same login here, so the cookies are the same file: without it, and with a wrong one, nothing is seen.
    let wrong = format!(
        "xdpyinfo | head -1; export DISPLAY=localhost:180.0 XAUTHORITY={}; xdpyinfo; \
         xauth -q add unix:180 . ffffffffffffffffffffffffffffffff; xdpyinfo; echo end",
        node.path("cookies").display()
    );
    let mut ssh = node.ssh_as("bob");
    let output = run(server.seen_by(ssh.args(["-Y", "127.0.0.1", &wrong]))).await;
    let said = text(&output.stdout);
    assert!(said.starts_with("name of display:    localhost:181.0\n"), "{said} {}", text(&output.stderr));
    assert_eq!(said.lines().skip(1).collect::<Vec<_>>(), ["end"], "{said}");
    assert_eq!(text(&output.stderr).matches("unable to open display").count(), 2);

    // A program of alice that is connected.
    let mut program = TcpStream::connect(("127.0.0.1", port(180))).await.unwrap();
    let begun = node
        .auth
        .event("T3003I", |event| event.fields["address"] == program.local_addr().unwrap().to_string());
    assert_eq!(begun.await.user.as_deref(), Some("alice"));
    let target = serde_json::from_value(serde_json::json!({"user": "alice"})).unwrap();
    let lock = Lock::new("l", LockSpec { target, message: "Go home".to_owned() });
    node.auth.view.send_modify(|view| view.locks = [lock].into_iter().collect());
    let _ = soon(program.read_to_end(&mut Vec::new())).await;
    soon(alice.wait()).await.unwrap();
    is_closed(180).await;
    let is_of_the_lock = |event: &AuditEvent| {
        event.fields.get("reason").is_some_and(|reason| reason.as_str().unwrap().contains("lock"))
    };
    let ended = node.auth.event("T3003S", is_of_the_lock).await;
    assert_eq!(ended.user.as_deref(), Some("alice"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_display_for_a_single_program_is_closed_behind_the_first() {
    let node = displays(190, 192).await;
    let session = logged_in(&node).await;
    let mut channel = opened(&node, &session).await;
    assert!(asks(&mut channel, true, (PROTOCOL, COOKIE)).await);
    assert_eq!(begin(&mut channel, "echo $DISPLAY; cat").await, "localhost:190.0");
    let mut first = TcpStream::connect(("127.0.0.1", port(190))).await.unwrap();
    is_closed(190).await;
    // Whoever has come stays.
    let begun = node.auth.event("T3003I", |_| true).await;
    assert_eq!(begun.fields["address"], first.local_addr().unwrap().to_string());
    first.write_all(b"x").await.unwrap();
    // Until the client goes, which never looks at it.
    drop((session, channel));
    node.auth.event("T3003S", |event| event.fields["address"] == begun.fields["address"]).await;
    let _ = soon(first.read_to_end(&mut Vec::new())).await;
}

/// What was told to the user's programs is taken back when none of them begins.
#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_is_taken_back_when_nothing_begins() {
    let node = displays(195, 197).await;
    let session = logged_in(&node).await;
    let mut channel = opened(&node, &session).await;
    assert!(asks(&mut channel, false, (PROTOCOL, COOKIE)).await);
    // As long as a command may be, and with its end longer than the system lets an argument be.
    channel.exec(true, vec![b'x'; 128 << 10]).await.unwrap();
    let mut status = None;
    soon(async {
        while let Some(message) = channel.wait().await {
            if let ChannelMsg::ExitStatus { exit_status } = message {
                status = Some(exit_status);
            }
        }
    })
    .await;
    assert_eq!(status, Some(126), "nothing was started");
    assert!(node.xauthority().exists(), "it was told");
    is_forgotten(&node, 195).await;
}

/// Who serves files shows nothing: no display is told to it.
#[tokio::test(flavor = "multi_thread")]
async fn servers_of_files_have_no_display() {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    // One that says what it is told, in place of the protocol.
    let says = "read line; echo display:$DISPLAY.; cat";
    let sessions = OsSessions::new(clock).with_sftp_server("/bin/sh", ["sh", "-c", says]);
    let node = displays_of(sessions, 198, 199).await;
    let session = logged_in(&node).await;
    let mut channel = opened(&node, &session).await;
    assert!(asks(&mut channel, false, (PROTOCOL, COOKIE)).await);
    channel.request_subsystem(true, "sftp").await.unwrap();
    channel.data(&b"go\n"[..]).await.unwrap();
    assert_eq!(first_line(&mut channel).await, "display:.");
    assert_eq!(cookies_of(&node, 198).await, "");
    // A program on the same connection has one.
    let mut program = opened(&node, &session).await;
    assert!(asks(&mut program, false, (PROTOCOL, COOKIE)).await);
    assert_eq!(begin(&mut program, "echo $DISPLAY; cat").await, "localhost:199.0");
    assert_ne!(cookies_of(&node, 199).await, "");
}
