//! The proxy's HTTPS.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use teleport_core::api::{
    AcceptInvite, AdminApi as _, ApiErrorKind, CreateUser, LoginRequest, PublicApi as _, TrustApi as _,
};
use teleport_core::audit::EventKind;
use teleport_core::auth::one_time_code;
use teleport_core::clock::Clock as _;
use teleport_core::id::{ClusterName, HostRole, OsLogin, RoleName, UserName};
use teleport_core::secret::SecretString;
use teleport_core::task::{Shutdown, TaskScope};
use teleport_core::testing::subject_keys;
use teleport_ssh::identity::HostIdentityHandle;
use teleport_ssh::proxy_web::{
    ProxyWeb, WebCertificate, WebCertificates, WebClient, WebError, WebRates, WebTrust, danger,
};
use teleport_ssh::rpc::{AuthClient, ClientIdentity, ProxyConnector, Rate};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use super::hostile::tls_over;
use super::world::{World, authority, cluster, pem, soon, user};

fn client(world: &World, address: std::net::SocketAddr, trust: WebTrust) -> WebClient {
    WebClient::new(address.to_string(), trust, world.clock())
}

fn kind<T: std::fmt::Debug>(result: Result<T, WebError>) -> ApiErrorKind {
    match result.unwrap_err() {
        WebError::Api(error) => error.kind(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_client_knows_its_proxy_by_pin_or_by_trust() {
    let world = World::start().await;
    let web = world.web(WebRates::default()).await;
    for trust in [WebTrust::pins(world.pins()), WebTrust::bundle(world.trust()), danger::unverified()] {
        let ping = client(&world, web, trust).ping().await.unwrap();
        assert_eq!(ping.cluster_name.as_str(), "example.com");
        assert_eq!(ping.proxy_ssh_address.as_deref(), Some("proxy.example.com:3023"));
    }
    let other = authority(&world.clock).await;
    let wrong = [
        WebTrust::pins(other.ca_pins()),
        WebTrust::pins(Vec::new()),
        WebTrust::bundle(other.trust_bundle()),
        // The right authority for hosts is none for the names of the internet.
        WebTrust::roots_pem(pem("CERTIFICATE", other.trust_bundle().host_tls_ca[0].as_der()).as_bytes())
            .unwrap(),
    ];
    for trust in wrong {
        let error = client(&world, web, trust).ping().await.unwrap_err();
        assert!(matches!(error, WebError::Untrusted { .. }), "{error:?}");
    }
    // The auth service itself is no proxy.
    let error = client(&world, world.address, WebTrust::pins(world.pins())).ping().await.unwrap_err();
    assert!(matches!(error, WebError::Untrusted { .. }), "{error:?}");
}

#[tokio::test]
async fn an_invited_user_logs_in_through_the_proxy() {
    let world = World::start().await;
    let client = client(&world, world.web(WebRates::default()).await, WebTrust::pins(world.pins()));
    let editor = world.as_user("root-admin", &["editor"]).await;
    let invite = editor
        .create_user(CreateUser {
            name: UserName::new("alice").unwrap(),
            roles: vec![RoleName::new("access").unwrap()],
            logins: vec![OsLogin::new("root").unwrap()],
            ttl: None,
        })
        .await
        .unwrap();
    assert_eq!(kind(client.invite(SecretString::new("0".repeat(32))).await), ApiErrorKind::NotFound);
    let info = client.invite(invite.token.clone()).await.unwrap();
    let password = SecretString::new("correct horse battery");
    let code = one_time_code(&info.secret, world.clock.now()).unwrap();
    let accept = AcceptInvite { token: invite.token, password: password.clone(), code, client_ip: None };
    client.accept(&accept).await.unwrap();
    assert_eq!(kind(client.accept(&accept).await), ApiErrorKind::NotFound);
    world.clock.advance(Duration::from_secs(60));
    let login = |user: &str, password: &SecretString, code: &SecretString| LoginRequest {
        user: user.to_owned(),
        password: password.clone(),
        code: code.clone(),
        keys: subject_keys(1),
        ttl: None,
        client_ip: Some("203.0.113.9".parse().unwrap()),
    };
    let code = one_time_code(&info.secret, world.clock.now()).unwrap();
    let mut texts = Vec::new();
    for attempt in [
        login("alice", &SecretString::new("wrong horse battery"), &code),
        login("nobody", &password, &code),
        login("alice", &password, &SecretString::new("000000")),
    ] {
        match client.login(&attempt).await.unwrap_err() {
            WebError::Api(error) => texts.push((error.kind(), error.message().to_owned())),
            other => panic!("{other:?}"),
        }
    }
    assert!(texts.iter().all(|text| *text == texts[0] && text.0 == ApiErrorKind::Denied), "{texts:?}");
    let response = client.login(&login("alice", &password, &code)).await.unwrap();
    assert_eq!(response.trust, world.trust());
    // Whatever the client says, the proxy tells the auth service where it is.
    let log = format!("{:?}", world.audit.events());
    assert!(log.contains("127.0.0.1") && !log.contains("203.0.113.9"));
    assert!(!log.contains("correct horse battery") && !log.contains(info.secret.expose()));
}

#[tokio::test]
async fn one_address_asks_only_so_often() {
    let world = World::start().await;
    let rates = WebRates { secrets: Rate::per_minute(20, 3), others: Rate::per_minute(60, 2) };
    let client = client(&world, world.web(rates).await, WebTrust::pins(world.pins()));
    let unknown = || client.invite(SecretString::new("0".repeat(32)));
    for _ in 0..3 {
        assert_eq!(kind(unknown().await), ApiErrorKind::NotFound);
    }
    assert_eq!(kind(unknown().await), ApiErrorKind::TooMany);
    // Other things have an account of their own.
    client.ping().await.unwrap();
    client.ping().await.unwrap();
    assert_eq!(kind(client.ping().await), ApiErrorKind::TooMany);
    world.clock.advance(Duration::from_secs(3));
    assert_eq!(kind(unknown().await), ApiErrorKind::NotFound);
    assert_eq!(kind(unknown().await), ApiErrorKind::TooMany);
    client.ping().await.unwrap();
}

pub(super) async fn http1(
    world: &World,
    web: std::net::SocketAddr,
    request: Request<Full<Bytes>>,
) -> (StatusCode, String) {
    http1_over(world, TcpStream::connect(web).await.unwrap(), request).await
}

async fn http1_over(world: &World, stream: TcpStream, request: Request<Full<Bytes>>) -> (StatusCode, String) {
    let stream = tls_over(world, stream, &[b"http/1.1"]).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    world.tasks.spawn(async move { _ = connection.await });
    let answer = soon("an answer", sender.send_request(request)).await.unwrap();
    // E5: nobody is sent elsewhere, whatever was asked.
    assert!(!answer.status().is_redirection() && !answer.headers().contains_key("location"), "{answer:?}");
    assert_eq!(answer.headers()["x-content-type-options"], "nosniff");
    assert_eq!(answer.headers()["cache-control"], "no-store");
    let status = answer.status();
    let bytes = answer.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(bytes.to_vec()).unwrap())
}

/// Where a user accepts an invite is where the proxy sees the user, whatever the request says, and not where the proxy is.
#[tokio::test]
async fn an_invite_is_accepted_from_the_clients_address() {
    let world = World::start().await;
    let web = world.web(WebRates::default()).await;
    let public = client(&world, web, WebTrust::pins(world.pins()));
    let editor = world.as_user("root-admin", &["editor"]).await;
    let alice = CreateUser {
        name: UserName::new("alice").unwrap(),
        roles: vec![RoleName::new("access").unwrap()],
        logins: Vec::new(),
        ttl: None,
    };
    let invite = editor.create_user(alice).await.unwrap();
    let info = public.invite(invite.token.clone()).await.unwrap();
    let accept = AcceptInvite {
        token: invite.token,
        password: SecretString::new("correct horse battery"),
        code: one_time_code(&info.secret, world.clock.now()).unwrap(),
        client_ip: Some("203.0.113.9".parse().unwrap()),
    };
    let request = Request::post("/webapi/invite/accept")
        .header("host", "proxy.example.com")
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(serde_json::to_vec(&accept).unwrap())))
        .unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.9:0".parse().unwrap()).unwrap();
    let (status, text) = http1_over(&world, socket.connect(web).await.unwrap(), request).await;
    assert_eq!(status, StatusCode::NO_CONTENT, "{text}");
    let event = world.audit.last(EventKind::UserPasswordChange).unwrap();
    assert_eq!(event.remote, Some("127.0.0.9:0".parse().unwrap()), "{event:?}");
}

#[tokio::test]
async fn browsers_are_served_as_well() {
    let world = World::start().await;
    let web = world.web(WebRates::default()).await;
    let request = |method: &str, path: &str, kind: &str, body: &str| {
        Request::builder()
            .method(method)
            .uri(path)
            .header("host", "proxy.example.com")
            .header("content-type", kind)
            .header("authorization", "Bearer 00000000000000000000000000000000")
            .header("x-forwarded-for", "203.0.113.9")
            .body(Full::new(Bytes::from(body.to_owned())))
            .unwrap()
    };
    let json = "application/json";
    for (method, path, kind, body, expected) in [
        ("GET", "/webapi/ping", json, "", StatusCode::OK),
        ("GET", "/webapi/find", json, "", StatusCode::OK),
        ("GET", "/webapi/invite", json, "", StatusCode::NOT_FOUND),
        ("GET", "/", json, "", StatusCode::NOT_FOUND),
        ("GET", "/webapi/login", json, "", StatusCode::NOT_FOUND),
        ("POST", "/webapi/ping", json, "{}", StatusCode::NOT_FOUND),
        ("POST", "/v1/ping", json, "{}", StatusCode::NOT_FOUND),
        ("POST", "/webapi/login", json, "{}", StatusCode::BAD_REQUEST),
        // What another site's form can send.
        ("POST", "/webapi/login", "text/plain", "{}", StatusCode::BAD_REQUEST),
        ("POST", "/webapi/invite", "application/x-www-form-urlencoded", "token=x", StatusCode::BAD_REQUEST),
    ] {
        let (status, text) = http1(&world, web, request(method, path, kind, body)).await;
        assert_eq!(status, expected, "{method} {path}: {text}");
    }
    assert!(!format!("{:?}", world.audit.events()).contains("203.0.113.9"));
    let (status, _) =
        http1(&world, web, request("POST", "/webapi/login", json, &" ".repeat(300 << 10))).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

/// Wherever a link says that one should be sent to after a login: the proxy sends nobody anywhere. Each answer is looked at by
/// [`http1_over`].
#[tokio::test]
async fn e5_nobody_is_sent_elsewhere() {
    let world = World::start().await;
    let web = world.web(WebRates::default()).await;
    for (method, page) in
        teleport_ssh::proxy_web::pages().chain([("GET", "/"), ("GET", "/web"), ("GET", "/webapi/")])
    {
        for elsewhere in ["//evil.example", "https:evil.example", "%5C%5Cevil.example", "javascript:alert(1)"]
        {
            for path in [
                format!("{page}?redirect={elsewhere}"),
                format!("{page}?redirect_url={elsewhere}&next={elsewhere}"),
                format!("{page}/{elsewhere}"),
                format!("/{elsewhere}/..{page}"),
            ] {
                let request = Request::builder()
                    .method(method)
                    .uri(&path)
                    .header("host", "evil.example")
                    .header("x-forwarded-host", "evil.example")
                    .header("referer", format!("https://{elsewhere}"))
                    .header("content-type", "application/json")
                    .body(Full::new(Bytes::from_static(b"{}")))
                    .unwrap();
                let (status, text) = http1(&world, web, request).await;
                assert!(!text.contains("evil"), "{method} {path}: {status} {text}");
            }
        }
    }
}

#[tokio::test]
async fn the_auth_service_is_reached_through_the_proxy() {
    let world = World::start().await;
    let web = world.web(WebRates::default()).await;
    world.make_user("alice", &["editor"]).await;
    let credentials = user(&world.ca, "alice", &["editor"], Duration::from_secs(3600)).await;
    let through = |cluster: &str| {
        let connector = ProxyConnector::new([web.to_string()], ClusterName::new(cluster).unwrap());
        let identity = ClientIdentity::User(credentials.clone());
        AuthClient::builder(Arc::new(connector), identity, world.clock()).build()
    };
    let alice = through("example.com");
    assert_eq!(alice.users().await.unwrap().len(), 1);
    // Long answers and long requests pass as well.
    for _ in 0..50 {
        alice.status().await.unwrap();
    }
    let error = soon("a refusal", through("other.example.com").users()).await.unwrap_err();
    assert_eq!(error.kind(), ApiErrorKind::Unavailable);
    // Who is nobody at the auth service is nobody through the proxy: its own rights are not lent.
    let connector = ProxyConnector::new([web.to_string()], ClusterName::new("example.com").unwrap());
    let nobody =
        AuthClient::builder(Arc::new(connector), ClientIdentity::Anonymous(world.trust()), world.clock())
            .build();
    nobody.ping().await.unwrap();
    assert_eq!(nobody.users().await.unwrap_err().kind(), ApiErrorKind::Denied);
}

#[tokio::test]
async fn a_proxy_that_drains_lets_go_of_what_it_passes_on() {
    let world = World::start().await;
    let (api, identity) = world.as_host(HostRole::Proxy, "proxy-1").await;
    let bound = ProxyWeb::builder(Arc::new(api), identity, world.clock())
        .listen("127.0.0.1:0".parse().unwrap())
        .pass_to(world.connector())
        .bind()
        .await
        .unwrap();
    let connector = ProxyConnector::new([bound.local_addr().unwrap().to_string()], cluster());
    let (shutdown, tasks) = (Shutdown::new(), TaskScope::new());
    tasks.spawn(bound.serve(shutdown.clone()));
    let node = HostIdentityHandle::new(world.host(HostRole::Node, "web-1").await);
    let node = AuthClient::builder(Arc::new(connector), ClientIdentity::Host(node), world.clock()).build();
    let mut views = node.watch_access().await.unwrap();
    soon("the first view", views.next()).await.unwrap().unwrap();
    shutdown.drain();
    let cut = soon("the end of the watch", views.next()).await.unwrap().unwrap_err();
    assert_eq!(cut.kind(), ApiErrorKind::Unavailable);
    soon("the end of the proxy", tasks.join()).await;
}

#[tokio::test]
async fn what_does_not_begin_with_tls_is_not_served() {
    let world = World::start().await;
    let web = world.web(WebRates::default()).await;
    for garbage in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], b"PROXY TCP4 203.0.113.9 1.1.1.1 1 2\r\n", &[0x16; 40_000]]
    {
        let mut stream = TcpStream::connect(web).await.unwrap();
        // The other side may have gone before everything is written.
        let _ = stream.write_all(garbage).await;
        let mut sink = [0; 64];
        soon("the end", async { while let Ok(1..) = stream.read(&mut sink).await {} }).await;
    }
    client(&world, web, WebTrust::pins(world.pins())).ping().await.unwrap();
}

#[tokio::test]
async fn browsers_may_be_shown_another_certificate() {
    let world = World::start().await;
    let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2026, 1, 1);
    params.not_after = rcgen::date_time_ymd(2036, 1, 1);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let chain = pem("CERTIFICATE", certificate.der());
    let shown =
        WebCertificate::from_pem(chain.as_bytes(), pem("PRIVATE KEY", &key.serialize_der()).as_bytes());
    let (api, _) = world.as_host(HostRole::Proxy, "proxy-1").await;
    let identity = HostIdentityHandle::new(world.host(HostRole::Proxy, "proxy-1").await);
    let bound = ProxyWeb::builder(Arc::new(api), identity, world.clock())
        .listen("127.0.0.1:0".parse().unwrap())
        .certificates(WebCertificates::new(shown))
        .bind()
        .await
        .unwrap();
    let web = bound.local_addr().unwrap();
    world.tasks.spawn(bound.serve(world.shutdown.clone()));
    let public = WebTrust::roots_pem(chain.as_bytes()).unwrap();
    WebClient::new(format!("localhost:{}", web.port()), public.clone(), world.clock()).ping().await.unwrap();
    // Not for another name.
    let error = client(&world, web, public).ping().await.unwrap_err();
    assert!(matches!(error, WebError::Untrusted { .. }), "{error:?}");
    // Who knows the cluster asks for its name and sees its certificate.
    client(&world, web, WebTrust::pins(world.pins())).ping().await.unwrap();
}

#[test]
fn certificates_from_files_are_checked() {
    let key = rcgen::KeyPair::generate().unwrap();
    let other = pem("PRIVATE KEY", &rcgen::KeyPair::generate().unwrap().serialize_der());
    let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let chain = pem("CERTIFICATE", params.self_signed(&key).unwrap().der());
    let key = pem("PRIVATE KEY", &key.serialize_der());
    assert!(WebCertificate::from_pem(chain.as_bytes(), key.as_bytes()).is_ok());
    for (chain, key) in [(&chain, &other), (&key, &key), (&chain, &chain), (&String::new(), &key)] {
        assert!(WebCertificate::from_pem(chain.as_bytes(), key.as_bytes()).is_err());
    }
    assert!(WebTrust::roots_pem(key.as_bytes()).is_err());
}
