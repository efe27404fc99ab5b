//! What those without a certificate may ask for, and how often, directly and through a proxy; and calls that panic.

use std::sync::Arc;

use async_trait::async_trait;
use hyper::StatusCode;
use teleport_core::api::{
    AcceptInvite, AdminApi as _, ApiErrorKind, CreateUser, JoinRequest, LoginRequest, PublicApi as _,
};
use teleport_core::audit::{AuditError, AuditEvent, AuditLog, AuditPage, AuditQuery, AuditSink, EventKind};
use teleport_core::auth::{Caller, one_time_code};
use teleport_core::clock::Clock as _;
use teleport_core::entropy::SystemEntropy;
use teleport_core::id::{HostId, HostRole, UserName};
use teleport_core::secret::SecretString;
use teleport_core::testing::{MemoryAudit, subject_keys};
use teleport_ssh::listener::limits::Limits;
use teleport_ssh::proxy_web::{WebClient, WebRates, WebTrust};
use teleport_ssh::rpc::ClientIdentity;

use super::hostile::{h2_at, post, whole};
use super::world::{World, soon};

const ALPN: &[u8] = b"teleport-auth@example.com";
const PASSWORD: &str = "correct horse battery";

fn guess() -> JoinRequest {
    JoinRequest {
        token: SecretString::new("0".repeat(32)),
        host_id: HostId::random(&SystemEntropy::new()).unwrap(),
        name: "web-1".parse().unwrap(),
        role: HostRole::Node,
        keys: subject_keys(1),
        addresses: Vec::new(),
        client_ip: None,
    }
}

/// A user who can log in, and the secret of the second factor.
async fn alice(world: &World) -> SecretString {
    let admin = world.service.acting_as(Caller::LocalAdmin);
    let user = CreateUser {
        name: UserName::new("alice").unwrap(),
        roles: vec!["access".parse().unwrap()],
        logins: vec!["root".parse().unwrap()],
        ttl: None,
    };
    let token = admin.create_user(user).await.unwrap().token;
    let info = admin.invite(token.clone()).await.unwrap();
    let code = one_time_code(&info.secret, world.clock.now()).unwrap();
    let password = SecretString::new(PASSWORD);
    admin.accept_invite(AcceptInvite { token, password, code, client_ip: None }).await.unwrap();
    world.clock.advance(std::time::Duration::from_secs(60));
    info.secret
}

fn login(world: &World, secret: &SecretString) -> LoginRequest {
    LoginRequest {
        user: "alice".to_owned(),
        password: SecretString::new(PASSWORD),
        code: one_time_code(secret, world.clock.now()).unwrap(),
        keys: subject_keys(2),
        ttl: None,
        client_ip: None,
    }
}

/// People log in at the proxy's own routes, which have rates: what it passes on does not lead around them.
#[tokio::test]
async fn a_flood_through_the_proxy_neither_blocks_logins_nor_fills_the_log() {
    let world = World::start().await;
    let secret = alice(&world).await;
    let web = world.web(WebRates::default()).await;
    let before = world.audit.events().len();
    let wrong = LoginRequest { password: SecretString::new("wrong"), ..login(&world, &secret) };
    let wrong = serde_json::to_vec(&serde_json::json!({
        "user": wrong.user, "password": "wrong horse battery", "code": "000000", "keys": wrong.keys,
    }));
    let wrong = wrong.unwrap();
    let (mut flood, honest) =
        (Vec::new(), WebClient::new(web.to_string(), WebTrust::pins(world.pins()), world.clock()));
    for _ in 0..20 {
        flood.push(h2_at(&world, web, ALPN).await);
    }
    let flooding = async {
        loop {
            for (sender, _) in &mut flood {
                for (path, body) in [("/v1/login", &wrong[..]), ("/v1/invites/show", br#"{"token":"0"}"#)] {
                    let (status, text) = post(sender, path, whole(body.to_vec())).await;
                    assert_eq!(status, StatusCode::UNAUTHORIZED, "{path} {text}");
                }
            }
        }
    };
    let right = login(&world, &secret);
    let response = tokio::select! {
        response = soon("a login", honest.login(&right)) => response,
        () = flooding => unreachable!("it has no end"),
    };
    response.unwrap();
    let kinds: Vec<_> = world.audit.events()[before..].iter().map(|event| event.code).collect();
    assert_eq!(kinds, [EventKind::UserLogin, EventKind::CertCreate]);
}

#[tokio::test]
async fn a_strangers_connection_is_good_for_a_few_calls() {
    let world = World::start().await;
    let web = world.web(WebRates::default()).await;
    for (to, protocol) in [(world.address, &b"h2"[..]), (web, ALPN)] {
        let (mut sender, _scope) = h2_at(&world, to, protocol).await;
        for _ in 0..4 {
            let (status, text) = post(&mut sender, "/v1/join", whole("{}")).await;
            assert_eq!(status, StatusCode::BAD_REQUEST, "{text}");
        }
        soon("the end of the connection", async {
            while sender.ready().await.is_ok() {
                tokio::task::yield_now().await
            }
        })
        .await;
    }
    // A client that has more to ask comes anew.
    let nobody = world.client(ClientIdentity::Anonymous(world.trust()));
    for _ in 0..20 {
        nobody.ping().await.unwrap();
    }
}

/// Tokens cannot be tried faster than at the proxy's own routes, and hosts that join there are not in the way of it.
#[tokio::test]
async fn tokens_are_tried_at_a_rate() {
    let world = World::start().await;
    let nobody = world.client(ClientIdentity::Anonymous(world.trust()));
    let mut tried = 0;
    let error = loop {
        let error = nobody.join(guess()).await.unwrap_err();
        match error.kind() {
            ApiErrorKind::Denied if tried < 1000 => tried += 1,
            _ => break error,
        }
    };
    assert_eq!((tried, error.kind()), (480, ApiErrorKind::TooMany), "{error:?}");
    let failures =
        world.audit.events().iter().filter(|event| event.code == EventKind::InstanceJoinFailure).count();
    // Who has nothing does not fill the audit log.
    assert_eq!(failures, 30);
    let (proxy, _) = world.as_host(HostRole::Proxy, "proxy-1").await;
    let token = world.token(HostRole::Node).await;
    proxy.join(JoinRequest { token, ..guess() }).await.unwrap();
}

/// An audit log with a defect.
#[derive(Debug)]
struct Broken(Arc<MemoryAudit>);

#[async_trait]
impl AuditSink for Broken {
    async fn emit(&self, events: Vec<AuditEvent>) -> Result<(), AuditError> {
        assert!(events.iter().all(|event| event.code != EventKind::InstanceJoinFailure), "a defect");
        self.0.emit(events).await
    }
}

#[async_trait]
impl AuditLog for Broken {
    async fn search(&self, query: AuditQuery) -> Result<AuditPage, AuditError> {
        self.0.search(query).await
    }
}

#[tokio::test]
async fn a_call_that_panics_is_counted_and_ends_alone() {
    let limits = Limits { penalties: false, ..Limits::default() };
    let world = World::start_over(limits, |log| Arc::new(Broken(log))).await;
    let (proxy, _) = world.as_host(HostRole::Proxy, "proxy-1").await;
    assert_eq!(world.door.counts().panics, 0);
    let error = soon("an answer", proxy.join(guess())).await.unwrap_err();
    assert_eq!(error.kind(), ApiErrorKind::Internal);
    // It is counted before the answer that says so, while the connection goes on.
    assert_eq!(world.door.counts().panics, 1);
    proxy.ping().await.unwrap();
    assert_eq!((world.door.counts().accepted, world.door.counts().connections), (1, 1));
    drop(proxy);
    soon("the end of the connection", async {
        while world.door.counts().connections > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(world.door.counts().panics, 1);
}
