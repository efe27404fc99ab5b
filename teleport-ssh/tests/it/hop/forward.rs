//! Our client's forwards, through the proxy to a real `sshd`; and what it makes of a node that opens more than it was asked for.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use futures_util::future::join_all;
use futures_util::stream;
use teleport_core::id::OsLogin;
use teleport_core::secret::SecretBytes;
use teleport_core::task::TaskScope;
use teleport_ssh::client::agent::{Identities, Identity};
use teleport_ssh::client::forward::{
    BindAddress, BoundForward, Destination, Display, Forward, ForwardError, ForwardedAgent, ForwardedDisplay,
    Listen, ListenOptions, RemoteForward, Target,
};
use teleport_ssh::client::{NodeConnection, SessionRequest};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{DEADLINE, TestUser, World, os_user, text};

struct Hop {
    world: World,
    user: TestUser,
    node: Arc<NodeConnection>,
    connections: TaskScope,
    listening: TaskScope,
}

impl Hop {
    async fn start() -> Self {
        let world = World::start().await;
        world.sshd("web").await;
        let user = world.user("alice").await;
        let node = Arc::new(connect(&world, &user).await);
        Self { world, user, node, connections: TaskScope::new(), listening: TaskScope::new() }
    }

    /// Begins to listen here.
    async fn here(&self, listen: Listen, to: Target) -> Vec<SocketAddr> {
        let bound = BoundForward::bind(Forward { listen, to }, ListenOptions::default()).await.unwrap();
        let addresses = bound.addresses();
        self.listening.spawn(bound.serve(Arc::clone(&self.node), self.connections.clone()));
        addresses
    }

    /// Lets the node listen.
    async fn there(&self, listen: Listen, to: Target) -> u16 {
        let forward = self.node.forward_remote(Forward { listen, to }).await.unwrap();
        let port = forward.port();
        self.listening.spawn(forward.serve(self.connections.clone()));
        port
    }

    async fn end(self) {
        self.node.disconnect().await;
        self.world.stop().await;
    }
}

async fn connect(world: &World, user: &TestUser) -> NodeConnection {
    let client = world.client(user);
    let proxy = client.proxy(&world.address()).await.unwrap();
    client.node(proxy, &"web".parse().unwrap(), &OsLogin::new(&os_user()).unwrap()).await.unwrap()
}

const fn any_port() -> Listen {
    Listen::Tcp { bind: BindAddress::Loopback, port: 0 }
}

fn port(address: SocketAddr) -> Target {
    Target::To(Destination::Tcp { host: address.ip().to_string(), port: address.port() })
}

fn socket(path: &Path) -> Destination {
    Destination::Unix(path.to_owned())
}

/// Reads all until its end and only then answers: how much it was, and the same once more.
async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    stream.write_all(format!("{}:", all.len()).as_bytes()).await.unwrap();
    stream.write_all(&all).await.unwrap();
    stream.shutdown().await.unwrap();
}

async fn tcp_server(scope: &TaskScope) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let each = scope.clone();
    scope.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            each.spawn(answer(stream));
        }
    });
    address
}

fn unix_server(scope: &TaskScope, path: &Path) {
    let listener = UnixListener::bind(path).unwrap();
    let each = scope.clone();
    scope.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            each.spawn(answer(stream));
        }
    });
}

/// Says this much of what no short period has, ends, and reads all.
async fn check(mut stream: impl AsyncRead + AsyncWrite + Unpin, len: u32) {
    let bytes: Vec<u8> = (0..len).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    stream.write_all(&bytes).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut all = Vec::new();
    timeout(DEADLINE, stream.read_to_end(&mut all)).await.unwrap().unwrap();
    let expected = [format!("{len}:").as_bytes(), &bytes].concat();
    assert!(all == expected, "{} bytes instead of {}", all.len(), expected.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_and_sockets_go_both_ways_with_their_ends() {
    let hop = Hop::start().await;
    let servers = TaskScope::new();
    let (tcp, dir) = (tcp_server(&servers).await, hop.world.dir.path().join("sockets"));
    std::fs::create_dir(&dir).unwrap();
    let served = dir.join("served");
    unix_server(&servers, &served);
    for to in [port(tcp), Target::To(socket(&served))] {
        // Here, on a port and on a socket.
        let addresses = hop.here(any_port(), to.clone()).await;
        assert!(!addresses.is_empty() && addresses.iter().all(|address| address.ip().is_loopback()));
        for address in addresses {
            check(TcpStream::connect(address).await.unwrap(), 300_000).await;
        }
        let path = dir.join("here");
        hop.here(Listen::Unix(path.clone()), to.clone()).await;
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        check(UnixStream::connect(&path).await.unwrap(), 300_000).await;
        // At the node.
        let at = hop.there(any_port(), to.clone()).await;
        check(TcpStream::connect(("127.0.0.1", at)).await.unwrap(), 300_000).await;
        let there = dir.join("there");
        hop.there(Listen::Unix(there.clone()), to).await;
        check(UnixStream::connect(&there).await.unwrap(), 300_000).await;
        hop.listening.abort().await;
        assert!(!path.exists(), "a socket goes with its forward");
        std::fs::remove_file(&there).unwrap();
    }
    hop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_does_not_read_stops_nobody_else_while_less_than_the_bound_waits() {
    let hop = Hop::start().await;
    let servers = TaskScope::new();
    // Says more than all sockets on the way hold, and half of what may wait, to whoever connects.
    let endless = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let flood = endless.local_addr().unwrap();
    servers.spawn(async move {
        let mut streams = Vec::new();
        while let Ok((stream, _)) = endless.accept().await {
            streams.push(TaskScope::new());
            streams.last().unwrap().spawn(async move {
                let mut stream = stream;
                for _ in 0..256 {
                    if stream.write_all(&[7; 65536]).await.is_err() {
                        return;
                    }
                }
                std::future::pending::<()>().await;
            });
        }
    });
    let flood = hop.here(any_port(), port(flood)).await;
    let mut deaf = TcpStream::connect(flood[0]).await.unwrap();
    // It does come.
    assert_eq!(deaf.read_u8().await.unwrap(), 7);
    let tcp = tcp_server(&servers).await;
    let addresses = hop.here(any_port(), port(tcp)).await;
    let to = addresses[0];
    let all = (0..200).map(|_| async move {
        check(TcpStream::connect(to).await.unwrap(), 20_000).await;
    });
    join_all(all).await;
    hop.end().await;
}

/// What a SOCKS proxy answers to these bytes, and what comes behind.
async fn socks(at: SocketAddr, says: &[&[u8]], answers: &[usize]) -> (TcpStream, Vec<Vec<u8>>) {
    let mut stream = TcpStream::connect(at).await.unwrap();
    let mut said = Vec::new();
    for (bytes, len) in says.iter().zip(answers) {
        stream.write_all(bytes).await.unwrap();
        let mut answer = vec![0; *len];
        timeout(DEADLINE, stream.read_exact(&mut answer)).await.unwrap().unwrap();
        said.push(answer);
    }
    (stream, said)
}

#[tokio::test(flavor = "multi_thread")]
async fn socks_clients_of_every_version_are_connected() {
    let hop = Hop::start().await;
    let servers = TaskScope::new();
    let server = tcp_server(&servers).await.port().to_be_bytes();
    let here = hop.here(any_port(), Target::Dynamic).await[0];
    let there = SocketAddr::from(([127, 0, 0, 1], hop.there(any_port(), Target::Dynamic).await));
    // Nobody listens there.
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = gone.local_addr().unwrap().port().to_be_bytes();
    drop(gone);
    for proxy in [here, there] {
        let four = [b"\x04\x01", &server[..], b"\x7f\0\0\x01me\0"].concat();
        let (stream, said) = socks(proxy, &[&four], &[8]).await;
        assert_eq!(said, [[0, 90, 0, 0, 0, 0, 0, 0]]);
        check(stream, 1000).await;
        let named = [b"\x04\x01", &server[..], b"\0\0\0\x01\0localhost\0"].concat();
        let (stream, _) = socks(proxy, &[&named], &[8]).await;
        check(stream, 1000).await;
        let five = [b"\x05\x01\0\x03\x09localhost", &server[..]].concat();
        let (stream, said) = socks(proxy, &[b"\x05\x01\0", &five], &[2, 10]).await;
        assert_eq!((said[0].as_slice(), said[1][1]), (&[5, 0][..], 0));
        check(stream, 1000).await;
        // All at once, with the first bytes of what goes through.
        let mut eager = TcpStream::connect(proxy).await.unwrap();
        eager.write_all(&[b"\x05\x01\0", &five[..], b"early"].concat()).await.unwrap();
        eager.shutdown().await.unwrap();
        let mut all = Vec::new();
        timeout(DEADLINE, eager.read_to_end(&mut all)).await.unwrap().unwrap();
        assert_eq!(all[12..], *b"5:early");
        let refused = [b"\x05\x01\0\x01\x7f\0\0\x01", &nobody[..]].concat();
        let (_, said) = socks(proxy, &[b"\x05\x01\0", &refused], &[2, 10]).await;
        assert_eq!(said[1][1], 1, "nobody is there");
        let (mut stream, said) = socks(proxy, &[b"\x05\x01\x02"], &[2]).await;
        assert_eq!(said[0], [5, 255]);
        assert_eq!(stream.read(&mut [0; 9]).await.unwrap(), 0);
    }
    hop.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_listened_on_is_told() {
    let hop = Hop::start().await;
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = taken.local_addr().unwrap().port();
    let on = |bind| Forward { listen: Listen::Tcp { bind, port }, to: Target::Dynamic };
    let here = BoundForward::bind(on(BindAddress::Loopback), ListenOptions::default()).await;
    assert!(matches!(here, Err(ForwardError::Listen { .. })), "{here:?}");
    // Not both of loopback's, one of which is free.
    let forward = on(BindAddress::Host("127.0.0.1".to_owned()));
    let there = hop.node.forward_remote(forward.clone()).await;
    assert!(matches!(there, Err(ForwardError::Refused { .. })), "{there:?}");
    drop(taken);
    // What was refused may be asked for again; what stands may not.
    let first = hop.node.forward_remote(forward.clone()).await.unwrap();
    let twice = hop.node.forward_remote(forward).await;
    assert!(matches!(twice, Err(ForwardError::Twice { .. })), "{twice:?}");
    drop(first);
    // A file that is none of ours is not removed, whatever is asked for.
    let file = hop.world.dir.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    let on_file = Forward { listen: Listen::Unix(file.clone()), to: Target::Dynamic };
    let options = ListenOptions { unlink: true, ..ListenOptions::default() };
    assert!(BoundForward::bind(on_file, options).await.is_err());
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
    // An old socket is, if that is asked for.
    let old = hop.world.dir.path().join("old");
    drop(std::os::unix::net::UnixListener::bind(&old).unwrap());
    let on_old = Forward { listen: Listen::Unix(old), to: Target::Dynamic };
    assert!(BoundForward::bind(on_old.clone(), ListenOptions::default()).await.is_err());
    BoundForward::bind(on_old, options).await.unwrap();
    hop.end().await;
}

#[derive(Debug)]
struct Own(teleport_ssh::client::Credentials);

impl Identities for Own {
    fn now(&self) -> Vec<Identity> {
        vec![Identity::new(self.0.ssh.clone(), &self.0.certificate, "own certificate").unwrap()]
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_at_the_node_may_ask_the_agent_if_that_is_wanted() {
    let hop = Hop::start().await;
    let agent = ForwardedAgent::Own(Arc::new(Own(hop.user.credentials.clone())));
    hop.listening.spawn(hop.node.forward_agent(agent, hop.connections.clone()).unwrap());
    let listed = |agent: bool| {
        let node = Arc::clone(&hop.node);
        async move {
            let command = Some("ssh-add -l; echo $?".to_owned());
            let request = SessionRequest { command, agent, ..SessionRequest::default() };
            let (mut out, session) = (Vec::new(), node.session(&request).await.unwrap());
            let run = session.run(tokio::io::empty(), &mut out, tokio::io::sink(), stream::empty());
            timeout(DEADLINE, run).await.unwrap().unwrap();
            text(&out)
        }
    };
    // For sshd it is one agent for the whole connection.
    assert_eq!(listed(false).await, "2");
    let with = listed(true).await;
    assert!(with.contains("own certificate (ED25519-CERT)") && with.ends_with("\n0"), "{with}");
    hop.end().await;
}

/// What a program says to a display first, with this cookie.
fn hello(cookie: &[u8]) -> Vec<u8> {
    [b"l\0\x0b\0\0\0\x12\0\x10\0\0\0MIT-MAGIC-COOKIE-1\0\0", cookie].concat()
}

/// A display of this machine, and what the programs of the node have said to it, of which only the cookie was changed.
#[tokio::test(flavor = "multi_thread")]
async fn windows_come_with_the_real_cookie_which_the_node_never_sees() {
    let hop = Hop::start().await;
    let path = hop.world.dir.path().join("X:7");
    let listener = UnixListener::bind(&path).unwrap();
    let (seen, mut heard) = mpsc::unbounded_channel();
    hop.listening.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut said = vec![0; hello(&[0; 16]).len()];
            if stream.read_exact(&mut said).await.is_ok() {
                stream.write_all(b"welcome").await.unwrap();
                seen.send(said).unwrap();
            }
        }
    });
    let real = [0xab; 16];
    let display = Display::parse(path.to_str().unwrap()).unwrap();
    let cookie = Some(SecretBytes::new(real.to_vec()));
    let display = Arc::new(ForwardedDisplay::new(display, cookie, &*hop.world.entropy).unwrap());
    hop.listening.spawn(hop.node.forward_x11(Arc::clone(&display), hop.connections.clone()).unwrap());
    // What the node has of it: a display of its own, and the made-up cookie.
    let command = Some("echo $DISPLAY; xauth -q list $DISPLAY; cat".to_owned());
    let request = SessionRequest { command, display: Some(display), ..SessionRequest::default() };
    let session = hop.node.session(&request).await.unwrap();
    let (mut out, to) = tokio::io::duplex(1 << 12);
    let (keep, stdin) = tokio::io::duplex(1);
    hop.connections.spawn(async move {
        session.run(stdin, to, tokio::io::sink(), stream::empty()).await.unwrap();
    });
    let mut told = String::new();
    while told.lines().count() < 2 || !told.ends_with('\n') {
        let mut part = [0; 1000];
        let read = timeout(DEADLINE, out.read(&mut part)).await.unwrap().unwrap();
        assert_ne!(read, 0, "{told}");
        told.push_str(&text(&part[..read]));
        told.push_str(if part[read - 1] == b'\n' { "\n" } else { "" });
    }
    let (number, cookie) = told.split_once('\n').unwrap();
    let number: u16 = number.split([':', '.']).nth(1).unwrap().parse().unwrap();
    let cookie = cookie.split_ascii_whitespace().last().unwrap();
    let made_up: Vec<u8> =
        (0..32).step_by(2).map(|at| u8::from_str_radix(&cookie[at..at + 2], 16).unwrap()).collect();
    assert_ne!(made_up, real);
    let say = async |cookie: &[u8]| {
        let mut program = TcpStream::connect(("127.0.0.1", 6000 + number)).await.unwrap();
        program.write_all(&hello(cookie)).await.unwrap();
        let mut answer = Vec::new();
        let _ = timeout(DEADLINE, program.read_to_end(&mut answer)).await.unwrap();
        text(&answer)
    };
    // Not even the real one is let through: it is not what the node was given.
    assert_eq!(say(&real).await, "");
    assert_eq!(say(&[0; 16]).await, "");
    assert_eq!(say(&made_up).await, "welcome");
    assert_eq!(heard.recv().await.unwrap(), hello(&real));
    assert!(heard.try_recv().is_err(), "nobody else was heard");
    drop(keep);
    hop.end().await;
}

/// A node of the cluster that opens channels of every kind towards whoever comes, and tells what became of each.
#[derive(Clone)]
struct Grabbing(mpsc::UnboundedSender<(&'static str, bool)>, u16);

impl russh::server::Handler for Grabbing {
    type Error = russh::Error;

    async fn auth_openssh_certificate(
        &mut self,
        _: &str,
        _: &ssh_key::Certificate,
    ) -> Result<russh::server::Auth, Self::Error> {
        Ok(russh::server::Auth::Accept)
    }

    async fn tcpip_forward(
        &mut self,
        _: &str,
        _: &mut u32,
        session: &mut russh::server::Session,
    ) -> Result<bool, Self::Error> {
        let (node, tell, port) = (session.handle(), self.0.clone(), u32::from(self.1));
        let opening = async move {
            let outcomes = [
                ("session", node.channel_open_session().await.is_ok()),
                ("agent", node.channel_open_agent().await.is_ok()),
                ("x11", node.channel_open_x11("127.0.0.1", 6000).await.is_ok()),
                ("direct", node.channel_open_direct_tcpip("127.0.0.1", port, "127.0.0.1", 1).await.is_ok()),
                ("streamlocal", node.channel_open_forwarded_streamlocal("/run/docker.sock").await.is_ok()),
                (
                    "other port",
                    node.channel_open_forwarded_tcpip("localhost", 23, "127.0.0.1", 1).await.is_ok(),
                ),
                ("other address", node.channel_open_forwarded_tcpip("", 2222, "127.0.0.1", 1).await.is_ok()),
                (
                    "asked for",
                    node.channel_open_forwarded_tcpip("localhost", 2222, "127.0.0.1", 1).await.is_ok(),
                ),
            ];
            for outcome in outcomes {
                let _ = tell.send(outcome);
            }
        };
        GRABBING.spawn(opening);
        Ok(true)
    }
}

static GRABBING: std::sync::LazyLock<TaskScope> = std::sync::LazyLock::new(TaskScope::new);

#[tokio::test(flavor = "multi_thread")]
async fn c1_a_node_opens_nothing_here_that_was_not_asked_for() {
    let world = World::start().await;
    let user = world.user("alice").await;
    let servers = TaskScope::new();
    let inside = tcp_server(&servers).await;
    let material = world.node_material("web").await;
    let private = ssh_key::PrivateKey::from_openssh(material.ssh.to_openssh().expose()).unwrap();
    let certificate = ssh_key::Certificate::from_openssh(&material.ssh_certificate).unwrap();
    let config = russh::server::Config {
        keys: vec![private],
        certificates: vec![certificate],
        preferred: russh::Preferred {
            key: Cow::Owned(vec![russh::keys::Algorithm::Ed25519]),
            ..russh::Preferred::default()
        },
        ..russh::server::Config::default()
    };
    let (tell, mut told) = mpsc::unbounded_channel();
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    servers.spawn(async move {
        let running =
            russh::server::run_stream(Arc::new(config), theirs, Grabbing(tell, inside.port())).await.unwrap();
        let _ = running.await;
    });
    let login = OsLogin::new(&os_user()).unwrap();
    let node = world.client(&user).node_over(ours, "web", &login).await.unwrap();
    let forward =
        Forward { listen: Listen::Tcp { bind: BindAddress::Loopback, port: 2222 }, to: port(inside) };
    let forward: RemoteForward = node.forward_remote(forward).await.unwrap();
    servers.spawn(forward.serve(TaskScope::new()));
    let mut seen = Vec::new();
    while seen.len() < 8 {
        seen.push(timeout(DEADLINE, told.recv()).await.unwrap().unwrap());
    }
    let accepted: Vec<_> = seen.iter().filter(|(_, accepted)| *accepted).map(|(kind, _)| *kind).collect();
    assert_eq!(accepted, ["asked for"], "{seen:?}");
    world.stop().await;
}
