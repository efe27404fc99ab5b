//! Where clients of the auth service are, as a proxy says that carries them: rows A3, A8 and C9 of the threat list.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use teleport_core::api::{
    ApiErrorKind, ApiResult, IdentityApi as _, PublicApi as _, ReissueRequest, ResourceApi as _,
    TrustApi as _,
};
use teleport_core::auth::Caller;
use teleport_core::cert::danger::unchecked_user_grant;
use teleport_core::cert::{CertIssuer as _, SubjectKeys};
use teleport_core::id::{HostRole, OsLogin, RoleName, UserName};
use teleport_core::origin::{Audience, MAGIC, Nonce, Statement};
use teleport_core::resource::{Lock, LockSpec, LockTarget, LockedNode};
use teleport_core::testing::subject_keys;
use teleport_ssh::identity::{HostIdentityHandle, HostMaterial};
use teleport_ssh::proxy_web::ProxyWeb;
use teleport_ssh::rpc::{AuthClient, BoxedIo, ClientIdentity, Connector, ProxyConnector, UserCredentials};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use super::hostile::client_hello;
use super::origin::in_one_process;
use super::world::{World, cluster, soon, user};

/// Connects from an address of this machine.
#[derive(Debug)]
struct From {
    address: IpAddr,
    to: SocketAddr,
    way: Arc<dyn Connector>,
}

#[async_trait]
impl Connector for From {
    async fn connect(&self) -> io::Result<BoxedIo> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((self.address, 0).into())?;
        Ok(Box::new(socket.connect(self.to).await?))
    }

    fn protocol(&self) -> Vec<u8> {
        self.way.protocol()
    }
}

struct Proxy {
    web: SocketAddr,
    material: HostMaterial,
}

async fn proxy(world: &World, way: Arc<dyn Connector>) -> Proxy {
    let material = world.host(HostRole::Proxy, "gate").await;
    let identity = HostIdentityHandle::new(material.clone());
    let own = ClientIdentity::Host(identity.clone());
    let api = AuthClient::builder(Arc::clone(&way), own, world.clock()).build();
    let web = world.serve_web(ProxyWeb::builder(Arc::new(api), identity, world.clock()).pass_to(way)).await;
    Proxy { web, material }
}

/// A user whose certificate is bound to this address.
async fn bound_to(world: &World, address: &str) -> UserCredentials {
    world.make_user("alice", &["editor"]).await;
    let (ssh, tls) = HostMaterial::generate_keys(&teleport_core::entropy::SystemEntropy::new()).unwrap();
    let mut grant = unchecked_user_grant(UserName::new("alice").unwrap(), Duration::from_secs(3600));
    grant.roles = vec![RoleName::new("editor").unwrap()];
    grant.logins = vec![OsLogin::new("root").unwrap()];
    grant.source_addresses = vec![address.to_owned()];
    let keys = SubjectKeys { ssh: ssh.public(), tls: tls.public() };
    let certificates = world.ca.issue_user(grant, &keys).await.unwrap();
    UserCredentials { tls, certificate: certificates.tls, trust: world.trust() }
}

/// A client at `address`, through a proxy or, without one, directly.
fn at(world: &World, address: &str, web: Option<SocketAddr>, identity: ClientIdentity) -> AuthClient {
    let way: Arc<dyn Connector> = match web {
        Some(web) => Arc::new(ProxyConnector::new([web.to_string()], cluster())),
        None => world.connector(),
    };
    let to = web.unwrap_or(world.address);
    let way = Arc::new(From { address: address.parse().unwrap(), to, way });
    AuthClient::builder(way, identity, world.clock()).build()
}

async fn reissues(client: &AuthClient) -> ApiResult<()> {
    let request = ReissueRequest { keys: subject_keys(1), ttl: None };
    soon("an answer", client.reissue_user(request)).await.map(drop)
}

/// Who is bound is let in from the own address alone, whichever way it is; and not from the proxy's because a proxy carries it.
async fn only_from_the_own_address(world: &World, web: SocketAddr) {
    let alice = bound_to(world, "127.0.0.2").await;
    let at_proxy = bound_to(world, "127.0.0.1").await;
    for way in [Some(web), None] {
        for (user, from, lets_in) in [
            (&alice, "127.0.0.2", true),
            (&alice, "127.0.0.1", false),
            (&alice, "127.0.0.3", false),
            // The proxy calls from this address.
            (&at_proxy, "127.0.0.2", false),
            (&at_proxy, "127.0.0.1", true),
        ] {
            let client = at(world, from, way, ClientIdentity::User(user.clone()));
            let answer = reissues(&client).await;
            assert_eq!(answer.is_ok(), lets_in, "{way:?} {from}: {answer:?}");
        }
    }
    let events = world.audit.events();
    let seen = events.iter().filter(|event| event.code.code() == "TC000I").filter_map(|event| event.remote);
    let seen: Vec<_> = seen.map(|at| (at.ip().to_string(), at.port() != 0)).collect();
    for from in ["127.0.0.1", "127.0.0.2"] {
        assert!(seen.iter().filter(|(ip, port)| ip == from && *port).count() >= 2, "{seen:?}");
    }
}

#[tokio::test]
async fn a3_who_is_bound_comes_through_a_proxy_from_the_own_address_alone() {
    let world = World::start().await;
    let proxy = proxy(&world, world.connector()).await;
    only_from_the_own_address(&world, proxy.web).await;
}

#[tokio::test]
async fn a3_also_through_one_in_the_process_of_the_auth_service() {
    let world = World::start().await;
    let way = in_one_process(&world).await;
    let proxy = proxy(&world, way).await;
    only_from_the_own_address(&world, proxy.web).await;
}

/// A proxy whose way to the auth service leads through another one.
#[tokio::test]
async fn a3_also_through_two_of_them() {
    let world = World::start().await;
    let inner = proxy(&world, world.connector()).await;
    let way: Arc<dyn Connector> = Arc::new(ProxyConnector::new([inner.web.to_string()], cluster()));
    let outer = proxy(&world, way).await;
    only_from_the_own_address(&world, outer.web).await;
}

/// What anybody but a proxy says is heard neither by the auth service nor by a proxy in front of it.
#[tokio::test]
async fn c9_nobody_else_says_where_a_client_is() {
    let world = World::start().await;
    let proxy = proxy(&world, world.connector()).await;
    let node = world.host(HostRole::Node, "web-1").await;
    let hello = client_hello(&world, &[b"teleport-auth@example.com"]);
    let said = |material: &HostMaterial, key: &HostMaterial, audience, ago: u64, nonce| {
        let issued = teleport_core::clock::Clock::now(&*world.clock).saturating_sub(Duration::from_secs(ago));
        let statement =
            Statement::new("192.0.2.7:4711".parse().unwrap(), audience, issued, Nonce::new([nonce; 16]));
        let base64 = material.ssh_certificate.split_whitespace().nth(1).unwrap();
        let certificate = data_encoding::BASE64.decode(base64.as_bytes()).unwrap();
        let mut header = statement.unsigned(&certificate).unwrap();
        let key = ssh_key::PrivateKey::from_openssh(key.ssh.to_openssh().expose()).unwrap();
        let key: &dyn ssh_key::SigningKey = &key;
        let signature = key.try_sign(&header).unwrap();
        header.extend(signature.as_bytes());
        header
    };
    let gate = &proxy.material;
    let good = said(gate, gate, Audience::Auth, 0, 1);
    let answers = async |port: SocketAddr, begin: &[u8], hello: &[u8]| {
        let mut stream = TcpStream::connect(port).await.unwrap();
        let _ = stream.write_all(&[begin, hello].concat()).await;
        let mut first = [0];
        matches!(soon("an answer or the end", stream.read(&mut first)).await, Ok(1)) && first[0] == 0x16
    };
    assert!(answers(world.address, b"", &hello).await && answers(proxy.web, b"", &hello).await);
    assert!(answers(world.address, &good, &hello).await, "the test speaks as a proxy does");
    let cases = [
        ("replayed", good),
        ("of a node", said(&node, &node, Audience::Auth, 0, 2)),
        ("signed by another", said(gate, &node, Audience::Auth, 0, 3)),
        ("for a node", said(gate, gate, Audience::Node(node.host_id), 0, 4)),
        ("old", said(gate, gate, Audience::Auth, 61, 5)),
        ("too long", [MAGIC, &[0xff, 0xff]].concat()),
        ("unsigned", said(gate, gate, Audience::Auth, 0, 6)[..100].to_vec()),
        ("PROXY protocol", b"PROXY TCP4 192.0.2.7 192.0.2.8 4711 22\r\n".to_vec()),
        (
            "PROXY protocol 2",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\xc0\0\x02\x08\x12\x67\0\x16".to_vec(),
        ),
        ("twice", [said(gate, gate, Audience::Auth, 0, 7), said(gate, gate, Audience::Auth, 0, 8)].concat()),
    ];
    for (what, header) in &cases {
        for port in [world.address, proxy.web] {
            assert!(!answers(port, header, &hello).await, "{what} at {port}");
        }
    }
    // A proxy's own pages are for those who come themselves.
    let pages = client_hello(&world, &[b"h2"]);
    assert!(answers(proxy.web, b"", &pages).await);
    assert!(!answers(proxy.web, &said(gate, gate, Audience::Auth, 0, 9), &pages).await);
}

/// Through a proxy that is locked users and strangers do not come, and what they had ends; hosts come, and hear of the lock.
#[tokio::test]
async fn a8_what_a_locked_proxy_carries_ends_but_for_hosts() {
    let world = World::start().await;
    let gate = proxy(&world, world.connector()).await;
    let admin = world.service.acting_as(Caller::LocalAdmin);
    let alice = || async { bound_to(&world, "127.0.0.2").await };
    world.make_user("alice", &["editor"]).await;
    let unbound = user(&world.ca, "alice", &["editor"], Duration::from_secs(3600)).await;
    let user = at(&world, "127.0.0.2", Some(gate.web), ClientIdentity::User(unbound));
    let stranger = || at(&world, "127.0.0.2", Some(gate.web), ClientIdentity::Anonymous(world.trust()));
    let host = HostIdentityHandle::new(world.host(HostRole::Node, "web-1").await);
    let node = at(&world, "127.0.0.3", Some(gate.web), ClientIdentity::Host(host));
    let mut views = node.watch_access().await.unwrap();
    soon("the first view", views.next()).await.unwrap().unwrap();
    reissues(&user).await.unwrap();
    stranger().ping().await.unwrap();

    let target = LockTarget { node: Some(LockedNode::Id(gate.material.host_id)), ..LockTarget::default() };
    let lock = Lock::new("l", LockSpec { target, message: "Taken over".to_owned() });
    admin.create_lock(lock).await.unwrap();
    let view = soon("the lock, through the locked proxy", views.next()).await.unwrap().unwrap();
    assert_eq!(view.locks.len(), 1);
    // The proxy's own, and the node's.
    let ended = async {
        while world.door.counts().connections > 2 {
            tokio::task::yield_now().await;
        }
    };
    soon("the end of the user's connection", ended).await;
    let error = reissues(&user).await.unwrap_err();
    assert!(error.to_string().contains("is in force: Taken over"), "{error}");
    let error = soon("a refusal", stranger().ping()).await.unwrap_err();
    assert_eq!(error.kind(), ApiErrorKind::Denied, "{error}");
    node.trust().await.unwrap();
    // The word of such a proxy does not count: it may not say that somebody is where a credential is bound to.
    let fresh = at(&world, "127.0.0.2", Some(gate.web), ClientIdentity::User(alice().await));
    assert!(reissues(&fresh).await.is_err());
    let direct = at(&world, "127.0.0.2", None, ClientIdentity::User(alice().await));
    reissues(&direct).await.unwrap();

    admin.delete_lock("l".parse().unwrap()).await.unwrap();
    soon("the end of the lock", async { while !views.next().await.unwrap().unwrap().locks.is_empty() {} })
        .await;
    let again = at(&world, "127.0.0.2", Some(gate.web), ClientIdentity::User(alice().await));
    reissues(&again).await.unwrap();
}
