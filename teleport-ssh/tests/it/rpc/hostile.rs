//! Peers that do not behave: each is one connection that ends, and nobody else notices.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::http2::SendRequest;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use teleport_core::api::{PublicApi as _, TrustApi as _};
use teleport_core::clock::Clock as _;
use teleport_core::id::HostRole;
use teleport_core::task::TaskScope;
use teleport_core::testing::ManualClock;
use teleport_ssh::keys::TlsKeyPair;
use teleport_ssh::listener::limits::Limits;
use teleport_ssh::rpc::ClientIdentity;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::world::{World, soon};

#[derive(Debug)]
struct Time(Arc<ManualClock>);

impl rustls::time_provider::TimeProvider for Time {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0.now().unix_secs())))
    }
}

/// How any client does TLS, without a certificate.
fn tls_config(world: &World, protocols: &[&[u8]]) -> Arc<rustls::ClientConfig> {
    tls_config_as(world, protocols, None)
}

/// The same with a certificate (DER) and its key.
fn tls_config_as(
    world: &World,
    protocols: &[&[u8]],
    identity: Option<(&[u8], &TlsKeyPair)>,
) -> Arc<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    for authority in world.trust().host_tls_ca {
        roots.add(CertificateDer::from(authority.as_der())).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_details(provider, Arc::new(Time(world.clock.clone())))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match identity {
        None => config.with_no_client_auth(),
        Some((certificate, key)) => {
            let key = PrivatePkcs8KeyDer::from(key.to_pkcs8().expose().to_vec());
            config.with_client_auth_cert(vec![certificate.to_vec().into()], key.into()).unwrap()
        }
    };
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}

fn service_name() -> ServerName<'static> {
    ServerName::try_from("teleport.cluster.local").unwrap()
}

/// TLS as any client does it, without a certificate.
pub(super) async fn tls(
    world: &World,
    to: std::net::SocketAddr,
    protocols: &[&[u8]],
) -> std::io::Result<TlsStream<TcpStream>> {
    tls_over(world, TcpStream::connect(to).await?, protocols).await
}

/// The same with a certificate (DER) and its key.
pub(super) async fn tls_as(
    world: &World,
    to: std::net::SocketAddr,
    protocols: &[&[u8]],
    identity: (&[u8], &TlsKeyPair),
) -> std::io::Result<TlsStream<TcpStream>> {
    let config = tls_config_as(world, protocols, Some(identity));
    TlsConnector::from(config).connect(service_name(), TcpStream::connect(to).await?).await
}

/// The same over a connection that is there already.
pub(super) async fn tls_over(
    world: &World,
    stream: TcpStream,
    protocols: &[&[u8]],
) -> std::io::Result<TlsStream<TcpStream>> {
    TlsConnector::from(tls_config(world, protocols)).connect(service_name(), stream).await
}

/// The first words of TLS.
pub(super) fn client_hello(world: &World, protocols: &[&[u8]]) -> Vec<u8> {
    let config = tls_config(world, protocols);
    let mut connection = rustls::ClientConnection::new(config, service_name()).unwrap();
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).unwrap();
    bytes
}

pub(super) type Body = UnsyncBoxBody<Bytes, std::convert::Infallible>;

#[derive(Clone)]
struct Executor(TaskScope);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Executor {
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}

async fn h2(world: &World) -> (SendRequest<Body>, TaskScope) {
    h2_at(world, world.address, b"h2").await
}

/// HTTP/2 without a certificate.
pub(super) async fn h2_at(
    world: &World,
    to: std::net::SocketAddr,
    protocol: &[u8],
) -> (SendRequest<Body>, TaskScope) {
    let scope = TaskScope::new();
    let stream = tls(world, to, &[protocol]).await.unwrap();
    let handshake = hyper::client::conn::http2::handshake(Executor(scope.clone()), TokioIo::new(stream));
    let (sender, connection) = handshake.await.unwrap();
    scope.spawn(async move { _ = connection.await });
    (sender, scope)
}

pub(super) fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed_unsync()
}

pub(super) async fn post(sender: &mut SendRequest<Body>, path: &str, body: Body) -> (StatusCode, String) {
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("https://teleport.cluster.local{path}"))
        .body(body)
        .unwrap();
    let answer = soon("an answer", sender.send_request(request)).await.unwrap();
    let status = answer.status();
    let bytes = soon("its body", answer.into_body().collect()).await.unwrap().to_bytes();
    (status, String::from_utf8_lossy(&bytes).into_owned())
}

#[tokio::test]
async fn bodies_have_limits() {
    let world = World::start().await;
    let (mut sender, _scope) = h2(&world).await;
    let (status, text) = post(&mut sender, "/v1/join", whole(vec![b' '; (256 << 10) + 1])).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{text}");
    assert!(text.contains("longer than 262144 bytes"), "{text}");
    // Without a length, and without an end.
    let endless = stream::repeat_with(|| Ok(Frame::data(Bytes::from_static(&[b' '; 4096]))));
    let (mut sender, _scope) = h2(&world).await;
    let request = Request::builder()
        .method(Method::POST)
        .uri("https://teleport.cluster.local/v1/join")
        .body(StreamBody::new(endless).boxed_unsync())
        .unwrap();
    let answer = soon("an answer", sender.send_request(request)).await.unwrap();
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn what_is_not_a_request_is_answered_and_forgotten() {
    let world = World::start().await;
    let deep = "[".repeat(10_000);
    for (path, body, expected) in [
        ("/v1/join", deep.as_str(), StatusCode::BAD_REQUEST),
        ("/v1/join", "", StatusCode::BAD_REQUEST),
        ("/v1/join", "{", StatusCode::BAD_REQUEST),
        ("/v1/join", r#"{"token":"hunter2","name":"x","role":"node","admin":true}"#, StatusCode::BAD_REQUEST),
        ("/v1/login", r#"{"user":"x","password":"hunter2"}"#, StatusCode::UNAUTHORIZED),
        ("/v1/nothing", "", StatusCode::NOT_FOUND),
        ("/v1/../v1/join", "", StatusCode::NOT_FOUND),
        ("/v1/tokens", "{}", StatusCode::UNAUTHORIZED),
    ] {
        let (mut sender, _scope) = h2(&world).await;
        let (status, text) = post(&mut sender, path, whole(body.to_owned())).await;
        assert_eq!(status, expected, "{path} {text}");
        assert!(text.starts_with(r#"{"error":{"code":""#), "{text}");
        assert!(!text.contains("hunter2"));
    }
}

/// Reads until the other side ends the connection.
async fn end(mut stream: impl AsyncRead + Unpin) {
    let mut sink = [0; 1024];
    soon("the end of the connection", async { while let Ok(1..) = stream.read(&mut sink).await {} }).await;
}

#[tokio::test]
async fn garbage_ends_its_connection_only() {
    let world = World::start().await;
    let (node, _) = world.as_host(HostRole::Node, "web-1").await;
    node.trust().await.unwrap();
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"SSH-2.0-OpenSSH_9.2\r\n",
        &[0xff; 4096],
        b"\x16\x03\x01\xff\xff\x01",
    ] {
        let mut stream = TcpStream::connect(world.address).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        stream.shutdown().await.unwrap();
        end(stream).await;
    }
    // Garbage inside TLS.
    let mut stream = tls(&world, world.address, &[b"h2"]).await.unwrap();
    stream.write_all(&[0x42; 1024]).await.unwrap();
    end(stream).await;
    // HTTP/1.1 is not spoken here.
    assert!(tls(&world, world.address, &[b"http/1.1"]).await.is_err());
    node.trust().await.unwrap();
}

#[tokio::test]
async fn who_stalls_is_shown_out() {
    let grace = Duration::from_millis(500);
    let world = World::start_with(Limits { login_grace: grace, penalties: false, ..Limits::default() }).await;
    let silent = TcpStream::connect(world.address).await.unwrap();
    let mut half = TcpStream::connect(world.address).await.unwrap();
    half.write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").await.unwrap();
    // TLS, and then no HTTP; or its first bytes only.
    let wordless = tls(&world, world.address, &[b"h2"]).await.unwrap();
    let mut preface = tls(&world, world.address, &[b"h2"]).await.unwrap();
    preface.write_all(b"PRI * HTTP/2.0\r\n\r\n").await.unwrap();
    tokio::join!(end(silent), end(half), end(wordless), end(preface));
}

/// Whoever shows no certificate joins or logs in, and goes.
#[tokio::test]
async fn a_stranger_who_keeps_asking_is_shown_out() {
    let grace = Duration::from_millis(500);
    let world = World::start_with(Limits { login_grace: grace, penalties: false, ..Limits::default() }).await;
    let (node, _) = world.as_host(HostRole::Node, "web-1").await;
    let mut views = node.watch_access().await.unwrap();
    let (mut sender, _scope) = h2(&world).await;
    let asking = async {
        loop {
            let request = Request::get("https://teleport.cluster.local/v1/ping").body(whole("")).unwrap();
            let Ok(answer) = sender.send_request(request).await else { break };
            assert_eq!(answer.status(), StatusCode::OK);
        }
    };
    soon("the end of the stranger", asking).await;
    let still = tokio::time::timeout(Duration::ZERO, async {
        while let Some(view) = futures_util::StreamExt::next(&mut views).await {
            view.unwrap();
        }
    });
    assert!(still.await.is_err(), "who is known stays");
}

#[tokio::test]
async fn a_crowd_of_strangers_does_not_keep_others_out() {
    let limits = Limits { per_source: 8, penalties: false, ..Limits::default() };
    let world = World::start_with(limits).await;
    let (node, _) = world.as_host(HostRole::Node, "web-1").await;
    node.trust().await.unwrap();
    let mut crowd = Vec::new();
    for _ in 0..8 {
        crowd.push(TcpStream::connect(world.address).await.unwrap());
    }
    // There is no room for a ninth stranger from here.
    let ninth = TcpStream::connect(world.address).await.unwrap();
    end(ninth).await;
    // Who is known is not one of them.
    node.trust().await.unwrap();
    // Who goes makes room.
    drop(crowd);
    let nobody = world.client(ClientIdentity::Anonymous(world.trust()));
    let admitted = async {
        while nobody.ping().await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    soon("room for one", admitted).await;
}

#[tokio::test]
async fn hundreds_of_half_open_connections_cost_the_others_nothing() {
    let limits = Limits {
        per_source: 2000,
        startup_begin: 2000,
        startup_full: 2000,
        penalties: false,
        ..Limits::default()
    };
    let world = World::start_with(limits).await;
    let mut crowd = Vec::new();
    for index in 0..400 {
        let mut stream = TcpStream::connect(world.address).await.unwrap();
        if index % 2 == 0 {
            stream.write_all(b"\x16\x03\x01").await.unwrap();
        }
        crowd.push(stream);
    }
    let (node, _) = world.as_host(HostRole::Node, "web-1").await;
    let answer = tokio::time::timeout(Duration::from_secs(5), node.trust()).await;
    answer.expect("an answer in the crowd").unwrap();
}
