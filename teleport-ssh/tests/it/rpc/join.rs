//! Joining: the token goes to the right cluster or nowhere.

use std::sync::Arc;
use std::time::Duration;

use teleport_core::api::{ApiErrorKind, AuditApi as _, TrustApi as _};
use teleport_core::audit::EventKind;
use teleport_core::cert::CaPin;
use teleport_core::clock::{Clock as _, Timestamp};
use teleport_core::entropy::SystemEntropy;
use teleport_core::id::{HostId, HostRole, NodeName};
use teleport_core::secret::SecretString;
use teleport_core::testing::ManualClock;
use teleport_ssh::identity::{HostIdentityHandle, HostMaterial};
use teleport_ssh::join::{JoinError, JoinOptions, join, join_with_keys};
use teleport_ssh::proxy_web::WebRates;
use teleport_ssh::rpc::ClientIdentity;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::world::{World, soon};

fn options(world: &World, token: SecretString) -> JoinOptions {
    JoinOptions {
        servers: vec![world.address.to_string()],
        token,
        pins: world.pins(),
        require_pin: true,
        known: None,
        host_id: HostId::random(&SystemEntropy::new()).unwrap(),
        name: NodeName::new("web-1").unwrap(),
        role: HostRole::Node,
        addresses: vec!["192.0.2.1".to_owned()],
    }
}

async fn attempt(world: &World, options: JoinOptions) -> Result<HostMaterial, JoinError> {
    soon("the end of the attempt", join(options, world.clock(), &SystemEntropy::new())).await
}

#[tokio::test]
async fn by_pin_at_the_auth_service_and_through_a_proxy() {
    let world = World::start().await;
    let proxy = world.web(WebRates::default()).await;
    for server in [world.address, proxy] {
        let token = world.token(HostRole::Node).await;
        let options = JoinOptions { servers: vec![server.to_string()], ..options(&world, token) };
        let id = options.host_id;
        let material = attempt(&world, options).await.unwrap();
        assert_eq!((material.host_id, &material.trust), (id, &world.trust()));
        let client = world.client(ClientIdentity::Host(HostIdentityHandle::new(material)));
        client.trust().await.unwrap();
    }
    // Each joined from this machine, whoever passed it on.
    let joins: Vec<_> =
        world.audit.events().into_iter().filter(|event| event.code == EventKind::InstanceJoin).collect();
    assert_eq!(joins.len(), 2);
    assert!(joins.iter().all(|event| format!("{event:?}").contains("127.0.0.1")), "{joins:?}");
}

#[tokio::test]
async fn a_clock_that_is_off_is_called_that() {
    let world = World::start().await;
    for off in [-3 * 3600_i64, 30 * 24 * 3600] {
        let now = world.clock.now().unix_secs().saturating_add_signed(off);
        let clock = Arc::new(ManualClock::new(Timestamp::from_unix_secs(now)));
        let options = options(&world, world.token(HostRole::Node).await);
        let error = soon("a refusal", join(options, clock, &SystemEntropy::new())).await.unwrap_err();
        assert!(matches!(error, JoinError::Clock { .. }), "{error:?}");
        assert!(error.to_string().contains("clocks"), "{error}");
    }
}

/// A man in the middle: notes every byte that passes between a host and a server.
async fn tap(
    server: std::net::SocketAddr,
) -> (std::net::SocketAddr, Arc<std::sync::Mutex<Vec<u8>>>, teleport_core::task::TaskScope) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (tasks, noted) = (teleport_core::task::TaskScope::new(), Arc::clone(&seen));
    tasks.spawn(async move {
        while let Ok((host, _)) = listener.accept().await {
            let (mut from_host, mut to_host) = host.into_split();
            let (mut from_server, mut to_server) = TcpStream::connect(server).await.unwrap().into_split();
            let up = async {
                let mut buffer = [0; 4096];
                while let Ok(len @ 1..) = from_host.read(&mut buffer).await {
                    noted.lock().unwrap().extend_from_slice(&buffer[..len]);
                    if to_server.write_all(&buffer[..len]).await.is_err() {
                        break;
                    }
                }
                let _ = to_server.shutdown().await;
            };
            let down = async {
                let _ = tokio::io::copy(&mut from_server, &mut to_host).await;
                let _ = to_host.shutdown().await;
            };
            tokio::join!(up, down);
        }
    });
    (address, seen, tasks)
}

#[tokio::test]
async fn an_impostor_never_gets_the_token() {
    let (genuine, impostor) = (World::start().await, World::start().await);
    // The same cluster name, other keys. It would take any token: its own audit log says that it was never asked.
    let (address, seen, _tap) = tap(impostor.address).await;
    let mut options = options(&genuine, genuine.token(HostRole::Node).await);
    options.servers = vec![address.to_string()];
    let error = attempt(&genuine, options.clone()).await.unwrap_err();
    match &error {
        JoinError::Pin { seen, .. } => assert_eq!(*seen, impostor.pins()),
        other => panic!("{other:?}"),
    }
    assert!(error.to_string().contains("tctl status"), "{error}");
    assert!(impostor.audit.events().is_empty());
    // A ClientHello and an alert; no application data of the size of a request.
    let sent = seen.lock().unwrap().clone();
    assert!(!sent.is_empty() && sent.len() < 1024, "{} bytes", sent.len());
    assert!(!sent.windows(16).any(|window| options.token.expose().as_bytes().starts_with(window)));
    // The same with the cluster as it is known from before.
    options.pins.clear();
    options.known = Some(genuine.trust());
    assert!(matches!(attempt(&genuine, options).await, Err(JoinError::Pin { .. })));
    assert!(impostor.audit.events().is_empty());
}

#[tokio::test]
async fn a_leaf_is_not_pinned() {
    let world = World::start().await;
    let (_, leaf) = x509_parser::parse_x509_certificate(&world.identity.current().tls_certificate)
        .map(|(rest, certificate)| (rest.len(), CaPin::of_spki(certificate.public_key().raw)))
        .unwrap();
    let mut options = options(&world, world.token(HostRole::Node).await);
    options.pins = vec![leaf];
    assert!(matches!(attempt(&world, options).await, Err(JoinError::Pin { .. })));
}

#[tokio::test]
async fn without_a_pin_only_if_that_is_allowed() {
    let world = World::start().await;
    let mut options = options(&world, world.token(HostRole::Node).await);
    options.pins.clear();
    let error = attempt(&world, options.clone()).await.unwrap_err();
    assert!(matches!(error, JoinError::PinRequired) && error.to_string().contains("tctl status"));
    options.require_pin = false;
    attempt(&world, options.clone()).await.unwrap();
    options.known = Some(world.trust());
    options.require_pin = true;
    options.host_id = HostId::random(&SystemEntropy::new()).unwrap();
    attempt(&world, options).await.unwrap();
}

#[tokio::test]
async fn a_refusal_says_what_to_do_and_not_why() {
    let world = World::start().await;
    let token = world.token(HostRole::Node).await;
    let wrong = JoinOptions { token: SecretString::new("f".repeat(32)), ..options(&world, token.clone()) };
    let other_role = JoinOptions { role: HostRole::Proxy, ..options(&world, token.clone()) };
    let mut texts = Vec::new();
    for (options, role) in [(wrong, "node"), (other_role, "proxy")] {
        let error = attempt(&world, options).await.unwrap_err();
        assert!(matches!(&error, JoinError::Refused { source, .. } if source.kind() == ApiErrorKind::Denied));
        assert!(error.to_string().contains(&format!("tctl tokens add --type={role}")), "{error}");
        texts.push(error.to_string().replace(role, "ROLE"));
    }
    world.clock.advance(Duration::from_secs(3600));
    let expired = attempt(&world, options(&world, token)).await.unwrap_err();
    texts.push(expired.to_string().replace("node", "ROLE"));
    assert!(texts.iter().all(|text| *text == texts[0]), "{texts:?}");
    assert_eq!(world.audit.count(EventKind::InstanceJoinFailure), 3);
}

#[tokio::test]
async fn a_join_whose_answer_was_lost_can_be_repeated() {
    let world = World::start().await;
    let keys = HostMaterial::generate_keys(&SystemEntropy::new()).unwrap();
    let options = options(&world, world.token(HostRole::Node).await);
    for _ in 0..2 {
        join_with_keys(options.clone(), keys.clone(), world.clock()).await.unwrap();
    }
    // Somebody else with the same id is somebody else.
    assert!(matches!(attempt(&world, options).await, Err(JoinError::Refused { .. })));
}

#[tokio::test]
async fn servers_that_are_not_there_are_passed_over() {
    let world = World::start().await;
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mut options = options(&world, world.token(HostRole::Node).await);
    options.servers.insert(0, closed.to_string());
    attempt(&world, options.clone()).await.unwrap();
    options.servers.truncate(1);
    let error = attempt(&world, options).await.unwrap_err();
    assert!(error.to_string().contains(&closed.to_string()), "{error}");
    let (node, _) = world.as_host(HostRole::Node, "web-2").await;
    node.emit_events(Vec::new()).await.unwrap();
}
