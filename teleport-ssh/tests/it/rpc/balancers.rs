//! Load balancers that say where their clients are, in headers of the PROXY protocol.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use teleport_core::api::ApiErrorKind;
use teleport_core::entropy::SystemEntropy;
use teleport_core::id::HostRole;
use teleport_ssh::listener::Door;
use teleport_ssh::listener::limits::Limits;
use teleport_ssh::mux::{HeaderMode, ProxyProtocol};
use teleport_ssh::proxy::ProxyServer;
use teleport_ssh::proxy_web::{ProxyWeb, WebClient, WebError, WebRates, WebTrust};
use teleport_ssh::rpc::{AuthServer, Rate};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::hostile::client_hello;
use super::world::{World, soon};

/// For what takes as long as a slow balancer may.
const PATIENTLY: Duration = Duration::from_secs(120);
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Takes headers of one balancer.
fn of(balancer: &str, mode: HeaderMode) -> ProxyProtocol {
    ProxyProtocol::new(mode, [balancer]).unwrap()
}

fn v1(client: &str) -> Vec<u8> {
    format!("PROXY TCP4 {client} 192.0.2.1 40000 443\r\n").into_bytes()
}

fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let len = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[command, family], &len, rest].concat()
}

fn v2_of(client: Ipv4Addr) -> Vec<u8> {
    // With something said behind the addresses, as balancers do.
    let rest = [&client.octets()[..], &[192, 0, 2, 1, 0x9c, 0x40, 1, 187], &[4, 0, 2, 0, 0]].concat();
    v2(0x21, 0x11, &rest)
}

async fn connect(from: Ipv4Addr, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    let stream = socket.connect(to).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

async fn web(world: &World, protocol: ProxyProtocol, rates: WebRates, limits: Limits) -> (SocketAddr, Door) {
    let (api, identity) = world.as_host(HostRole::Proxy, "proxy-1").await;
    let web = ProxyWeb::builder(Arc::new(api), identity, world.clock());
    let web = web.listen("127.0.0.1:0".parse().unwrap()).proxy_protocol(protocol).rates(rates).limits(limits);
    let bound = web.bind().await.unwrap();
    let (at, door) = (bound.local_addr().unwrap(), bound.door());
    world.tasks.spawn(bound.serve(world.shutdown.clone()));
    (at, door)
}

fn limits(per_source: u32) -> Limits {
    Limits { per_source, startup_begin: 2000, startup_full: 2000, penalties: false, ..Limits::default() }
}

/// A balancer that says this before each connection.
async fn balancer(world: &World, to: SocketAddr, header: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    world.tasks.spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut server = TcpStream::connect(to).await.unwrap();
            server.write_all(&header).await.unwrap();
            // One after the other will do.
            let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
        }
    });
    at
}

#[tokio::test]
async fn clients_are_where_a_trusted_balancer_says() {
    let world = World::start().await;
    let once = WebRates { others: Rate::per_minute(1, 1), ..WebRates::default() };
    let (at, _) = web(&world, of("127.0.0.0/8", HeaderMode::On), once, limits(64)).await;
    let ping = async |header: Vec<u8>| {
        let balancer = balancer(&world, at, header).await;
        let trust = WebTrust::pins(world.pins());
        match WebClient::new(balancer.to_string(), trust, world.clock()).ping().await {
            Ok(_) => true,
            Err(WebError::Api(error)) if error.kind() == ApiErrorKind::TooMany => false,
            Err(error) => panic!("{error:?}"),
        }
    };
    // Each address may ask once.
    assert!(ping(v1("203.0.113.1")).await);
    assert!(!ping(v1("203.0.113.1")).await);
    assert!(!ping(v2_of(Ipv4Addr::new(203, 0, 113, 1))).await, "the same by the other version");
    assert!(!ping(b"PROXY TCP6 ::ffff:203.0.113.1 ::1 1 2\r\n".to_vec()).await, "and written otherwise");
    assert!(ping(v2_of(Ipv4Addr::new(203, 0, 113, 2))).await);
    assert!(ping(b"PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\n".to_vec()).await);
    // What is the balancer's own is the balancer's, as what begins without a header.
    assert!(ping(v2(0x20, 0, &[])).await);
    assert!(!ping(b"PROXY UNKNOWN\r\n".to_vec()).await);
    assert!(!ping(v2(0x21, 0x31, &[b'x'; 216])).await);
    assert!(!ping(Vec::new()).await);
}

/// Whether TLS is answered behind these bytes.
async fn serves(world: &World, from: Ipv4Addr, to: SocketAddr, header: &[u8]) -> bool {
    let mut stream = connect(from, to).await;
    // It may have hung up already.
    let _ = stream.write_all(&[header, &client_hello(world, &[b"h2"])].concat()).await;
    let answer = tokio::time::timeout(PATIENTLY, stream.read_u8()).await.expect("an answer or the end");
    match answer {
        Ok(0x16) => true,
        Ok(other) => panic!("answered by {other}"),
        Err(_) => false,
    }
}

#[tokio::test]
async fn headers_are_taken_from_those_who_are_named_and_as_their_protocol_says() {
    let world = World::start().await;
    let (trusted, other) = (Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 0, 2));
    let (good, none) = (v1("203.0.113.1"), Vec::new());
    let good_v2 = v2_of(Ipv4Addr::new(203, 0, 113, 1));
    for (mode, expected) in [
        // Of the trusted one with and without a header; of somebody else.
        (HeaderMode::Off, [false, true, false, true]),
        (HeaderMode::On, [true, true, false, true]),
        (HeaderMode::Required, [true, false, false, false]),
    ] {
        let (at, _) = web(&world, of("127.0.0.1", mode), WebRates::default(), limits(64)).await;
        for header in [&good, &good_v2] {
            for ((from, header), expected) in
                [(trusted, header), (trusted, &none), (other, header), (other, &none)]
                    .into_iter()
                    .zip(expected)
            {
                assert_eq!(serves(&world, from, at, header).await, expected, "{mode:?} {from} {header:?}");
            }
        }
        let twice = [&good[..], &good].concat();
        for wrong in [
            &twice[..],
            b"PROXY\r\n",
            b"PROXY TCP4 nobody 192.0.2.1 1 2\r\n",
            b"PROXY TCP4 203.0.113.1 192.0.2.1 1 2 and more\r\n",
            &[&b"PROXY UNKNOWN "[..], &[b'x'; 200], b"\r\n"].concat(),
            &v2(0x21, 0x12, &[0; 12]),
            &v2(0x31, 0x11, &[0; 12]),
            &v2(0x21, 0x11, &[0; 4]),
            &v2(0x21, 0x11, &[0; 65_535]),
        ] {
            assert!(!serves(&world, trusted, at, wrong).await, "{mode:?} {wrong:?}");
        }
    }
}

#[tokio::test]
async fn limits_go_by_the_header_and_not_by_the_balancer() {
    let world = World::start().await;
    let (at, door) = web(&world, of("127.0.0.1", HeaderMode::Required), WebRates::default(), limits(2)).await;
    // Those of whom nothing is known yet count for nobody.
    let mut waiting = Vec::new();
    for _ in 0..20 {
        let mut stream = connect(Ipv4Addr::LOCALHOST, at).await;
        stream.write_all(b"PROXY TCP4 203.0").await.unwrap();
        waiting.push(stream);
    }
    let mut inside = Vec::new();
    for _ in 0..2 {
        let mut stream = connect(Ipv4Addr::LOCALHOST, at).await;
        stream.write_all(&v1("203.0.113.1")).await.unwrap();
        inside.push(stream);
    }
    soon("both are in", async {
        while door.counts().startups < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let mut third = connect(Ipv4Addr::LOCALHOST, at).await;
    third.write_all(&v1("203.0.113.1")).await.unwrap();
    let mut said = Vec::new();
    let _ = soon("its end", third.read_to_end(&mut said)).await;
    assert_eq!(said, b"Exceeded MaxStartups\r\n");
    assert!(serves(&world, Ipv4Addr::LOCALHOST, at, &v1("203.0.113.2")).await);
    // Slow headers are cut.
    for stream in &mut waiting {
        let end = tokio::time::timeout(PATIENTLY, stream.read_u8()).await;
        assert!(end.expect("it is cut").is_err());
    }
}

#[tokio::test]
async fn ssh_and_the_auth_service_take_headers_as_well() {
    let world = World::start().await;
    let (api, identity) = world.as_host(HostRole::Proxy, "proxy-1").await;
    let required = || of("127.0.0.1", HeaderMode::Required);
    let ssh = ProxyServer::builder(identity, Arc::new(api), world.clock(), Arc::new(SystemEntropy::new()))
        .listen("127.0.0.1:0".parse().unwrap())
        .proxy_protocol(required())
        .bind()
        .await
        .unwrap();
    let at = ssh.local_addr().unwrap();
    world.tasks.spawn(ssh.serve(world.shutdown.clone()));
    for (from, header, answered) in [
        (Ipv4Addr::LOCALHOST, v1("203.0.113.1"), true),
        (Ipv4Addr::LOCALHOST, Vec::new(), false),
        (Ipv4Addr::new(127, 0, 0, 2), v1("203.0.113.1"), false),
    ] {
        let mut stream = connect(from, at).await;
        let _ = stream.write_all(&[&header[..], b"SSH-2.0-x\r\n"].concat()).await;
        let mut first = [0; 8];
        let read = tokio::time::timeout(PATIENTLY, stream.read_exact(&mut first)).await;
        assert_eq!(read.expect("an answer or the end").is_ok(), answered, "{from} {header:?}");
        assert!(!answered || first == *b"SSH-2.0-");
    }
    let auth = AuthServer::builder(Arc::new(world.service.clone()), world.identity.clone(), world.clock())
        .listen("127.0.0.1:0".parse().unwrap())
        .proxy_protocol(required())
        .bind()
        .await
        .unwrap();
    let at = auth.local_addr().unwrap();
    world.tasks.spawn(auth.serve(world.shutdown.clone()));
    assert!(serves(&world, Ipv4Addr::LOCALHOST, at, &v1("203.0.113.1")).await);
    assert!(!serves(&world, Ipv4Addr::LOCALHOST, at, b"").await);
    assert!(!serves(&world, Ipv4Addr::new(127, 0, 0, 2), at, &v1("203.0.113.1")).await);
}
