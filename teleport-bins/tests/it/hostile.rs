//! Strangers at every port of a real daemon: garbage, silence, floods. It lives, stays small, and serves the others.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::time::Instant;

use crate::support::cluster::TestCluster;
use crate::support::daemon::{Machine, Process, Services};
use crate::support::program::{own, run};
use crate::support::user::User;
use crate::support::{LIMIT, bytes, own_login};

/// What each kind of port speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Speaks {
    Ssh,
    Tls,
}

/// A whole cluster in one daemon, and a user.
pub(crate) struct Target {
    pub(crate) process: Process,
    /// A user for each visit: nobody has to wait for the next one-time code.
    users: Vec<User>,
    pub(crate) machine: Machine,
}

impl Target {
    pub(crate) fn start() -> Self {
        Self::with_logins(&own_login())
    }

    /// The same with users who may be these on the node.
    pub(crate) fn with_logins(logins: &str) -> Self {
        let machine = Machine::new();
        let services = Services { auth: Some(0), proxy: Some((0, 0)), node: Some((0, "env: test")) };
        machine.configure("all", "", &services.yaml());
        let process = machine.start("all", &[]);
        machine.wait_for_nodes("all", 1);
        let logins = format!("--logins={logins}");
        let user = |name: &&str| {
            let printed = machine.tctl("all", &["users", "add", name, &logins]).clean();
            User::accept(name, &printed, &machine.path("home"))
        };
        let users = ["bob", "alice"].iter().map(user).collect();
        Self { process, users, machine }
    }

    fn ports(&self) -> [(&'static str, SocketAddr, Speaks); 4] {
        [
            ("auth", self.process.address("auth"), Speaks::Tls),
            ("proxy", self.process.address("proxy"), Speaks::Tls),
            ("proxy ssh", self.process.address("proxy ssh"), Speaks::Ssh),
            ("node ssh", self.process.address("node ssh"), Speaks::Ssh),
        ]
    }

    pub(crate) fn tsh(&self, arguments: &[&str]) -> Command {
        let mut command = own("tsh");
        command.env("TELEPORT_HOME", self.machine.path("home")).args(arguments);
        command
    }

    /// Somebody who means no harm logs in and runs a command; returns how long that took.
    #[track_caller]
    pub(crate) fn healthy(&mut self) -> Duration {
        let began = Instant::now();
        let proxy = format!("--proxy={}", self.process.address("proxy"));
        let login = self.tsh(&["login", "--force", &proxy]);
        self.users.pop().unwrap().login(login).clean();
        assert_eq!(
            run(self.tsh(&["ssh", &format!("{}@all", own_login()), "echo healthy"])).clean(),
            "healthy\n"
        );
        began.elapsed()
    }

    /// Nothing panicked, and the daemon ends in good order.
    #[track_caller]
    pub(crate) fn unharmed(mut self) {
        assert!(self.process.runs());
        let logged = self.process.logged();
        assert!(!logged.contains("panicked"), "{logged}");
        self.process.stop();
    }
}

/// From an address of loopback that is nobody else's, so that what it earns is its own.
pub(crate) fn connect(source: [u8; 2], to: SocketAddr) -> std::io::Result<TcpStream> {
    TestCluster::block_on(async {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.bind((Ipv4Addr::new(127, 1, source[0], source[1]), 0).into())?;
        let stream = socket.connect(to).await?.into_std()?;
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        Ok(stream)
    })
}

/// Sends, and reads until the other side ends the connection. Returns what it said.
fn exchange(mut stream: TcpStream, bytes: &[u8]) -> Vec<u8> {
    // It may have hung up already.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("it does not end the connection: {error}"),
    }
    answer
}

/// An SSH packet before encryption.
fn packet(payload: &[u8]) -> Vec<u8> {
    let padding = 8 - (payload.len() + 5) % 8 + 8;
    let length = u32::try_from(payload.len() + padding + 1).unwrap();
    let mut packet = length.to_be_bytes().to_vec();
    packet.push(u8::try_from(padding).unwrap());
    packet.extend_from_slice(payload);
    packet.resize(packet.len() + padding, 0);
    packet
}

fn after_banner(bytes: &[u8]) -> Vec<u8> {
    [b"SSH-2.0-stranger\r\n".as_slice(), bytes].concat()
}

/// Row B8: whatever comes, one connection ends, and the daemon lives.
#[test]
fn b8_garbage_at_every_port_ends_that_connection_only() {
    let mut target = Target::start();
    target.healthy();
    let before = target.process.kilobytes("VmRSS");
    let huge_length = [0xff, 0xff, 0xff, 0xff, 4].repeat(4);
    let cases: Vec<Vec<u8>> = vec![
        Vec::new(),
        b"\0".to_vec(),
        bytes(100_000),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        b"PROXY TCP4 10.0.0.1 10.0.0.2 1 22\r\nSSH-2.0-x\r\n".to_vec(),
        b"\r\n\r\n\0\r\nQUIT\n".to_vec(),
        // A banner without an end, and many lines before one.
        b"SSH-2.0-".iter().copied().chain(std::iter::repeat_n(b'a', 1 << 20)).collect(),
        b"line\r\n".repeat(100_000),
        b"SSH-1.5-old\r\n".to_vec(),
        after_banner(&huge_length),
        after_banner(&bytes(50_000)),
        after_banner(&packet(&[])),
        // A TLS record that says it is longer than it may be, and a hello of lies.
        [b"\x16\x03\x01\xff\xff".as_slice(), &bytes(70_000)].concat(),
        [b"\x16\x03\x01\x00\x30\x01\xff\xff\xff\x03\x03".as_slice(), &bytes(37)].concat(),
    ];
    for (at, (name, address, _)) in target.ports().into_iter().enumerate() {
        for (number, bytes) in cases.iter().enumerate() {
            let source = [u8::try_from(at).unwrap(), u8::try_from(number + 1).unwrap()];
            let answer = exchange(connect(source, address).unwrap(), bytes);
            assert!(answer.len() < 64 << 10, "{name} case {number} answers with {} bytes", answer.len());
        }
    }
    target.healthy();
    let grown = target.process.kilobytes("VmRSS").saturating_sub(before);
    assert!(grown < 32 << 10, "it grew by {grown} kB");
    target.unharmed();
}

/// Rows B1 and B2: before the key exchange nothing else is taken, and nothing that belongs behind authentication is ever answered.
#[test]
fn b1_b2_messages_before_their_time_open_nothing() {
    let target = Target::start();
    // recipient, window, packet size, type, ...
    let open = [&[90, 0, 0, 0, 7][..], b"session", &[0; 12]].concat();
    let request = [&[98, 0, 0, 0, 0, 0, 0, 0, 5][..], b"shell\x01"].concat();
    let global = [&[80, 0, 0, 0, 13][..], b"tcpip-forward", &[1, 0, 0, 0, 0, 0, 0, 0, 22]].concat();
    let userauth =
        [&[50, 0, 0, 0, 4][..], b"root", &[0, 0, 0, 14], b"ssh-connection", &[0, 0, 0, 4], b"none"].concat();
    let messages: Vec<(&str, Vec<u8>)> = vec![
        ("a channel", open),
        ("a shell", request),
        ("a forwarding", global),
        ("a login", userauth),
        ("a success", vec![52]),
        ("new keys", vec![21]),
        ("half a key exchange", vec![20, 1, 2, 3]),
        ("an unknown message", vec![255]),
    ];
    for (name, address, speaks) in target.ports() {
        if speaks != Speaks::Ssh {
            continue;
        }
        for (number, (what, message)) in messages.iter().enumerate() {
            let source = [u8::from(name == "node ssh") + 10, u8::try_from(number + 1).unwrap()];
            let answer = exchange(connect(source, address).unwrap(), &after_banner(&packet(message)));
            let text = String::from_utf8_lossy(&answer);
            assert!(text.starts_with("SSH-2.0-"), "{name}: {what}: {text:?}");
            // What follows the banner is the server's own offer of algorithms (20) or its farewell (1), never an acceptance.
            let mut rest = &answer[answer.iter().position(|byte| *byte == b'\n').unwrap() + 1..];
            while let [a, b, c, d, _, kind, ..] = rest {
                assert!(matches!(kind, 20 | 1 | 3), "{name}: {what} is answered by message {kind}");
                let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
                rest = rest.get(4 + length..).unwrap_or_default();
            }
        }
    }
    target.unharmed();
}

/// Row B6: those who stall take no place from the others.
#[test]
fn b6_stalled_handshakes_keep_nobody_waiting() {
    let mut target = Target::start();
    let alone = target.healthy();
    let mut stalled = Vec::new();
    for (at, (_, address, speaks)) in target.ports().into_iter().enumerate() {
        for number in 0..60_u8 {
            let source = [u8::try_from(20 + at).unwrap(), 1 + number / 10];
            let Ok(mut stream) = connect(source, address) else { continue };
            let beginning: &[u8] = match (speaks, number % 3) {
                (_, 0) => b"",
                (Speaks::Ssh, 1) => b"SSH-2.0-slow",
                (Speaks::Ssh, _) => b"SSH-2.0-slow\r\n\0\0\x04",
                (Speaks::Tls, 1) => b"\x16",
                (Speaks::Tls, _) => b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            };
            let _ = stream.write_all(beginning);
            stalled.push(stream);
        }
    }
    assert!(stalled.len() >= 200, "{}", stalled.len());
    let among = target.healthy();
    assert!(among < 5 * alone + Duration::from_secs(5), "{among:?} instead of {alone:?}");
    drop(stalled);
    target.unharmed();
}

/// Row B6 and the limits of section 4: thousands of half-open connections cost a bounded part of memory.
#[test]
fn b6_floods_of_half_open_connections_are_bounded() {
    raise_limit();
    let mut target = Target::start();
    let alone = target.healthy();
    let before = target.process.kilobytes("VmRSS");
    let mut open = Vec::new();
    for (at, (_, address, speaks)) in target.ports().into_iter().enumerate() {
        for number in 0..1000_u16 {
            // Nine attackers at each port: together they stay below the number from which on chance decides who is let in.
            let source = [u8::try_from(30 + at).unwrap(), u8::try_from(1 + number % 9).unwrap()];
            let Ok(mut stream) = connect(source, address) else { continue };
            let beginning: &[u8] = if speaks == Speaks::Ssh { b"SSH-2.0-flood\r\n" } else { b"\x16\x03" };
            let _ = stream.write_all(beginning);
            open.push(stream);
        }
    }
    assert!(open.len() > 3000, "{}", open.len());
    let grown = target.process.kilobytes("VmRSS").saturating_sub(before);
    assert!(grown < 64 << 10, "it grew by {grown} kB");
    let among = target.healthy();
    assert!(among < 5 * alone + Duration::from_secs(5), "{among:?} instead of {alone:?}");
    drop(open);
    target.unharmed();
}

/// Two ends of each connection are in two processes, but thousands of ours are in this one.
fn raise_limit() {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let wanted = hard.min(65_536);
    if soft < wanted {
        setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).unwrap();
    }
}

/// Rows C2 and C3 as stock clients see them: the proxy is a way to registered nodes and nothing else.
#[test]
fn c2_c3_the_proxy_is_neither_a_login_host_nor_a_way_to_anything_else() {
    let mut target = Target::start();
    target.healthy();
    let file = target.machine.path("ssh_config");
    std::fs::write(&file, run(target.tsh(&["config"])).clean()).unwrap();
    let alias = "teleport-proxy.test.local";
    let ssh = |arguments: &[&str]| {
        let mut ssh = Command::new("ssh");
        ssh.arg("-F").arg(&file).args(arguments).env_remove("SSH_AUTH_SOCK");
        run(ssh)
    };
    for arguments in [
        vec![alias],
        vec!["-tt", alias],
        vec![alias, "id"],
        vec!["-s", alias, "sftp"],
        vec!["-s", alias, "proxy:all:0:0:0"],
        vec!["-s", alias, "nonsense"],
    ] {
        let output = ssh(&arguments);
        assert!(output.stdout.is_empty() && output.code() != 0, "{arguments:?}: {output:?}");
    }
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port();
    let ports = [port, target.process.address("auth").port(), target.process.address("proxy").port()];
    let hosts = ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0", "169.254.169.254"];
    for (host, port) in hosts.iter().flat_map(|host| ports.map(|port| (host, port))) {
        let output = ssh(&["-W", &format!("{host}:{port}"), alias]);
        assert!(output.stdout.is_empty() && output.code() != 0, "{host}:{port}: {output:?}");
        let output = ssh(&["-s", alias, &format!("proxy:{host}:{port}")]);
        assert!(output.stdout.is_empty() && output.code() != 0, "{host}:{port}: {output:?}");
    }
    other.set_nonblocking(true).unwrap();
    assert_eq!(other.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "nobody was dialled");
    let refused = target.machine.events("all").into_iter();
    let refused = refused.filter(|event| event["success"] == false && event["user"] == "alice").count();
    assert!(refused >= 30, "each refusal is in the audit log: {refused}");
    target.healthy_again();
    target.unharmed();
}

impl Target {
    /// The way to the node is as good as before.
    #[track_caller]
    fn healthy_again(&self) {
        assert_eq!(run(self.tsh(&["ssh", "all", "echo healthy"])).clean(), "healthy\n");
    }
}

/// Row D4: a token does not let a host become one that exists.
#[test]
fn nobody_joins_under_the_id_of_another() {
    let machine = Machine::new();
    let none = || Services { auth: None, proxy: None, node: None };
    machine.configure("auth", "", &Services { auth: Some(0), ..none() }.yaml());
    let auth = machine.start("auth", &[]);
    let server = format!("  auth_server: {}\n", auth.address("auth"));
    let (token, pin) = machine.token("auth", &["--type=node"]);
    let joining = [format!("--token={token}"), format!("--ca-pin={pin}")];
    let joining = joining.each_ref().map(String::as_str);
    for name in ["victim", "thief"] {
        machine.configure(name, &server, &Services { node: Some((0, "")), ..none() }.yaml());
    }
    let victim = machine.start("victim", &joining);
    machine.wait_for_nodes("auth", 1);
    // The id is public; the keys are not.
    let id = machine.path("victim/identity/node/host_uuid");
    let stolen = machine.path("thief/identity/node");
    for dir in ["thief", "thief/identity", "thief/identity/node"] {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new().mode(0o700).create(machine.path(dir)).unwrap();
    }
    std::fs::copy(&id, stolen.join("host_uuid")).unwrap();
    let line = machine.cannot_start("thief", &joining);
    assert!(line.contains("could not join"), "{line}");
    let refused: Vec<_> =
        machine.events("auth").into_iter().filter(|event| event["code"] == "TJ002E").collect();
    assert_eq!(refused.len(), 1, "{refused:?}");
    machine.wait_for_nodes("auth", 1);
    victim.stop();
    auth.stop();
}

/// The judge of SSH servers finds nothing that fails.
#[test]
fn ssh_audit_reports_no_failure() {
    let target = Target::start();
    for (name, address, speaks) in target.ports() {
        if speaks != Speaks::Ssh {
            continue;
        }
        let mut audit = Command::new(ssh_audit());
        audit.args(["--no-colors", "--skip-rate-test", "-p", &address.port().to_string(), "127.0.0.1"]);
        let output = run(audit);
        let report = output.out();
        assert!(report.contains("(kex) mlkem768x25519-sha256"), "{name}: {report} {}", output.stderr);
        assert!(report.contains("kex-strict-s-v00@openssh.com"), "{name}: {report}");
        assert!(!report.contains("[fail]"), "{name}: {report}");
    }
    target.unharmed();
}

/// Where `.ci/test` puts it, else the one of the machine.
fn ssh_audit() -> std::path::PathBuf {
    let target = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let ours = target.join("tools/bin/ssh-audit");
    if ours.exists() { ours } else { "ssh-audit".into() }
}
