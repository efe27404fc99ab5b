//! HTTPS, SSH and tunnels at one port, and what keeps those apart who are slow or many there.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use teleport_core::entropy::SystemEntropy;
use teleport_core::id::HostRole;
use teleport_ssh::listener::Door;
use teleport_ssh::listener::limits::Limits;
use teleport_ssh::proxy::{Direct, ProxyServer};
use teleport_ssh::proxy_web::{ProxyWeb, ProxyWebBuilder, SSH_ALPN, WebClient, WebTrust};
use teleport_ssh::tunnel::Tunnels;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::hostile::{tls, tls_as};
use super::world::{World, soon};

/// For what takes as long as a slow client may.
const PATIENTLY: Duration = Duration::from_secs(120);

struct Port {
    at: SocketAddr,
    tunnels_at: Option<SocketAddr>,
    tunnels: Tunnels,
    web: Door,
    ssh: Door,
}

fn many() -> Limits {
    Limits {
        per_source: 2000,
        startup_begin: 2000,
        startup_full: 2000,
        penalties: false,
        ..Limits::default()
    }
}

fn few(per_source: u32) -> Limits {
    Limits { per_source, ..many() }
}

/// A proxy with one port.
async fn open(
    world: &World,
    of_ssh: Limits,
    change: impl FnOnce(ProxyWebBuilder) -> ProxyWebBuilder,
) -> Port {
    let (api, identity) = world.as_host(HostRole::Proxy, "proxy-1").await;
    let api = Arc::new(api);
    let entropy = Arc::new(SystemEntropy::new());
    let ssh = ProxyServer::builder(identity.clone(), api.clone(), world.clock(), entropy);
    let ssh = ssh.listen_nowhere().limits(of_ssh).bind().await.unwrap();
    assert!(ssh.local_addr().is_err());
    let tunnels = Tunnels::new(Arc::new(Direct::new()));
    let web = ProxyWeb::builder(api, identity, world.clock())
        .listen("127.0.0.1:0".parse().unwrap())
        .ssh(ssh.entrance())
        .tunnels(tunnels.clone())
        .ssh_address("proxy.example.com:0");
    let web = change(web).bind().await.unwrap();
    let (at, tunnels_at) = (web.local_addr().unwrap(), web.tunnel_addr());
    let port = Port { at, tunnels_at, tunnels, web: web.door(), ssh: ssh.door() };
    world.tasks.spawn(web.serve(world.shutdown.clone()));
    world.tasks.spawn(ssh.serve(world.shutdown.clone()));
    port
}

fn client(world: &World, at: SocketAddr) -> WebClient {
    WebClient::new(at.to_string(), WebTrust::pins(world.pins()), world.clock())
}

/// What is answered first.
async fn first_line(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut line = Vec::new();
    let reading = async {
        while let Ok(byte) = stream.read_u8().await {
            line.push(byte);
            if byte == b'\n' {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENTLY, reading).await.expect("an answer or the end");
    String::from_utf8(line).unwrap()
}

async fn said(to: SocketAddr, pieces: &[&[u8]]) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for piece in pieces {
        // It may have hung up already.
        let _ = stream.write_all(piece).await;
    }
    let line = first_line(&mut stream).await;
    (stream, line)
}

async fn is_ssh(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> bool {
    stream.write_all(b"SSH-2.0-test\r\n").await.unwrap();
    first_line(stream).await.starts_with("SSH-2.0-")
}

async fn until(what: &str, is: impl Fn() -> bool) {
    let waiting = async {
        while !is() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENTLY, waiting).await.unwrap_or_else(|_| panic!("waited in vain for: {what}"));
}

#[tokio::test]
async fn every_protocol_is_known_by_its_first_bytes() {
    let world = World::start().await;
    let port = open(&world, many(), |web| web.limits(many()).pass_to(world.connector())).await;
    let ping = client(&world, port.at).ping().await.unwrap();
    assert_eq!(ping.proxy_ssh_address, Some(format!("proxy.example.com:{}", port.at.port())));
    assert_eq!(ping.proxy_tunnel_address, None, "they are here as well");
    assert!(is_ssh(&mut TcpStream::connect(port.at).await.unwrap()).await);
    let (_, line) = said(port.at, &[b"S", b"S", b"H-2", b".0-slow\r\n"]).await;
    assert!(line.starts_with("SSH-2.0-"), "{line}");
    // For whoever may speak nothing but TLS.
    let mut within = tls(&world, port.at, &[SSH_ALPN]).await.unwrap();
    assert!(is_ssh(&mut within).await);
    assert!(tls(&world, port.at, &[b"something-else"]).await.is_err());
    let (mut stream, line) = said(port.at, &[b"GET /webapi/ping HTTP/1.1\r\nHost: x\r\n\r\n"]).await;
    assert_eq!(line, "HTTP/1.1 400 Bad Request\r\n");
    let mut rest = String::new();
    soon("the rest", stream.read_to_string(&mut rest)).await.unwrap();
    assert!(
        rest.ends_with("\r\n\r\nThis port speaks HTTPS: write https:// in front of the address.\n"),
        "{rest}"
    );
    for garbage in
        [&b"\0\0\0\0"[..], b"ssh-2.0-x\r\n", b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nSSH-2.0-x\r\n"]
    {
        assert_eq!(said(port.at, &[garbage]).await.1, "", "{garbage:?}");
    }
    // Another proxy's word is for the auth service, which speaks TLS.
    assert_eq!(said(port.at, &[b"teleport-origin-v1\n\0\x02\0\0", b"SSH-2.0-x\r\n"]).await.1, "");
}

#[tokio::test]
async fn a_port_without_ssh_leads_nobody_there() {
    let world = World::start().await;
    let web = world.web(teleport_ssh::proxy_web::WebRates::default()).await;
    assert_eq!(said(web, &[b"SSH-2.0-x\r\n"]).await.1, "");
    assert!(tls(&world, web, &[SSH_ALPN]).await.is_err());
}

/// Row G-8 at the shared port: whoever is slow in any of its protocols is cut, keeps nobody out, and leaves nothing behind.
#[tokio::test]
async fn g8_who_is_slow_at_the_shared_port_is_cut_and_holds_up_nobody() {
    let world = World::start().await;
    let of_ssh = Limits { login_grace: Duration::from_secs(20), ..many() };
    let port = open(&world, of_ssh, |web| web.limits(many())).await;
    let beginnings: [&[u8]; 9] = [
        b"",
        b"S",
        b"SSH",
        b"SSH-2.0-slow",
        b"\x16\x03\x01",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET",
        b"PROXY",
        b"teleport-origin-v1\n\x01",
    ];
    let mut slow = Vec::new();
    for beginning in beginnings.iter().cycle().take(450) {
        let mut stream = TcpStream::connect(port.at).await.unwrap();
        stream.write_all(beginning).await.unwrap();
        slow.push(stream);
    }
    // Meanwhile everybody else is served.
    client(&world, port.at).ping().await.unwrap();
    assert!(is_ssh(&mut TcpStream::connect(port.at).await.unwrap()).await);
    for stream in &mut slow {
        let mut answer = Vec::new();
        let end = tokio::time::timeout(PATIENTLY, stream.read_to_end(&mut answer));
        let _ = end.await.expect("it is cut");
    }
    until("all places", || port.web.counts().connections == 0 && port.ssh.counts().connections == 0).await;
}

/// Row G-10 at the shared port: SSH counts where SSH counts, once.
#[tokio::test]
async fn g10_ssh_at_the_shared_port_has_the_limits_of_ssh_and_no_others() {
    let world = World::start().await;
    let port = open(&world, few(3), |web| web.limits(few(4))).await;
    let mut inside = Vec::new();
    for _ in 0..3 {
        let (stream, line) = said(port.at, &[b"SSH-2.0-x\r\n"]).await;
        assert!(line.starts_with("SSH-2.0-"), "{line}");
        inside.push(stream);
    }
    assert_eq!(said(port.at, &[b"SSH-2.0-x\r\n"]).await.1, "Exceeded MaxStartups\r\n");
    until("they count no more at the port itself", || port.web.counts().connections == 0).await;
    assert_eq!(port.ssh.counts().startups, 3);
    client(&world, port.at).ping().await.unwrap();
    until("the ping has gone", || port.web.counts().connections == 0).await;
    // The port has room for so many who have not said yet what they want.
    let mut silent = Vec::new();
    for _ in 0..4 {
        silent.push(TcpStream::connect(port.at).await.unwrap());
    }
    until("all of them are in", || port.web.counts().connections == 4).await;
    assert_eq!(said(port.at, &[]).await.1, "Exceeded MaxStartups\r\n");
    drop((inside, silent));
    until("room again", || port.web.counts().connections == 0 && port.ssh.counts().connections == 0).await;
    assert!(is_ssh(&mut TcpStream::connect(port.at).await.unwrap()).await);
}

/// Row G-10 at the port of tunnels, if they have one: strangers are bounded there, and a tunnel is none.
#[tokio::test]
async fn g10_strangers_at_the_port_of_tunnels_are_bounded_and_tunnels_are_none() {
    let world = World::start().await;
    let own = |web: ProxyWebBuilder| {
        web.limits(few(4)).tunnels_at("127.0.0.1:0".parse().unwrap(), "proxy.example.com")
    };
    let port = open(&world, many(), own).await;
    let at = port.tunnels_at.unwrap();
    let ping = client(&world, port.at).ping().await.unwrap();
    assert_eq!(ping.proxy_tunnel_address, Some(format!("proxy.example.com:{}", at.port())));
    let node = world.host(HostRole::Node, "web-1").await;
    let shown = (&node.tls_certificate[..], &node.tls);
    let asked = tls_as(&world, port.at, &[b"teleport-reversetunnel"], shown).await;
    let refusal = asked.expect_err("the web port takes none").to_string();
    assert!(refusal.contains("NoApplicationProtocol"), "{refusal}");
    // Nothing else is spoken here.
    assert_eq!(said(at, &[b"SSH-2.0-x\r\n"]).await.1, "");
    assert_eq!(said(at, &[b"GET / HTTP/1.1\r\n\r\n"]).await.1, "");
    for protocol in [&b"h2"[..], SSH_ALPN, b"teleport-auth@example.com"] {
        assert!(tls(&world, at, &[protocol]).await.is_err(), "{protocol:?}");
    }
    let mut tunnel = tls_as(&world, at, &[b"teleport-reversetunnel"], shown).await.unwrap();
    let mut first = [0; 24];
    soon("the proxy's first word", tunnel.read_exact(&mut first)).await.unwrap();
    assert!(port.tunnels.has(node.host_id));
    let mut silent = Vec::new();
    for _ in 0..4 {
        silent.push(TcpStream::connect(at).await.unwrap());
    }
    // The tunnel has left them all the places.
    assert_eq!(said(at, &[]).await.1, "Exceeded MaxStartups\r\n");
    drop(silent);
    let again = async { while tls_as(&world, at, &[b"teleport-reversetunnel"], shown).await.is_err() {} };
    tokio::time::timeout(PATIENTLY, again).await.expect("room again");
}
