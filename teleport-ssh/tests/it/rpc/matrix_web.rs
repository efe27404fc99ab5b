//! Every page of the proxy with every kind of secret (D2): a table, measured over HTTPS.
//!
//! The rows are those of the proxy's own list of pages, which its router reads: a page that is added has no row in the golden
//! file.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use serde_json::{Value, json};
use teleport_core::api::{AcceptInvite, AdminApi as _, CreateToken, CreateUser, PublicApi as _, ResetUser};
use teleport_core::auth::{Caller, one_time_code};
use teleport_core::clock::Clock as _;
use teleport_core::entropy::SystemEntropy;
use teleport_core::id::{HostId, HostRole, UserName};
use teleport_core::label::Labels;
use teleport_core::secret::SecretString;
use teleport_core::testing::subject_keys;
use teleport_ssh::proxy_web::{WebRates, pages};
use teleport_ssh::rpc::Rate;

use super::web::http1;
use super::world::World;
use crate::golden::Table;

const PASSWORD: &str = "correct horse battery";

/// What is shown: the columns.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Shown {
    Nothing,
    Wrong,
    Join,
    JoinOfProxies,
    JoinExpired,
    JoinUsed,
    JoinOtherCase,
    JoinPrefix,
    JoinHash,
    Invite,
    InviteExpired,
    InviteUsed,
    Reset,
    Password,
}

impl Shown {
    const ALL: [(Self, &str); 14] = [
        (Self::Nothing, "nothing"),
        (Self::Wrong, "wrong"),
        (Self::Join, "join-token"),
        (Self::JoinOfProxies, "of-proxies"),
        (Self::JoinExpired, "expired"),
        (Self::JoinUsed, "used"),
        (Self::JoinOtherCase, "case"),
        (Self::JoinPrefix, "prefix"),
        (Self::JoinHash, "hash"),
        (Self::Invite, "invite"),
        (Self::InviteExpired, "expired"),
        (Self::InviteUsed, "used"),
        (Self::Reset, "reset"),
        (Self::Password, "password+code"),
    ];
}

const LEGEND: [&str; 5] = [
    "Every page of the proxy with every kind of secret in the place of the one that it wants: the HTTP status.",
    "`join-token` is one for nodes, with which a node joins; `of-proxies` one for proxies, shown by a node; `case` and `prefix` are",
    "the first with other capitals and without its end, `hash` is what the auth service stores of it. The second `expired` and `used`",
    "are invites. Invites and tokens are not good for anything but inviting and joining, and nothing but a password and a code",
    "logs in.",
];

struct Secrets {
    world: World,
    web: SocketAddr,
    seed: SecretString,
    used_join: SecretString,
    expired_join: SecretString,
    used_invite: SecretString,
    expired_invite: SecretString,
}

async fn join_token(world: &World, role: HostRole, uses: Option<u32>) -> SecretString {
    let labels = Labels::default();
    let request = CreateToken { roles: vec![role], ttl: Some(600), uses, labels, value: None };
    world.service.acting_as(Caller::LocalAdmin).create_token(request).await.unwrap().token
}

async fn invite(world: &World, name: &str) -> SecretString {
    let user = CreateUser {
        name: UserName::new(name).unwrap(),
        roles: vec!["access".parse().unwrap()],
        logins: Vec::new(),
        ttl: Some(600),
    };
    world.service.acting_as(Caller::LocalAdmin).create_user(user).await.unwrap().token
}

/// Accepts an invite and gives the secret of the second factor.
async fn accept(world: &World, token: &SecretString) -> SecretString {
    let admin = world.service.acting_as(Caller::LocalAdmin);
    let info = admin.invite(token.clone()).await.unwrap();
    let code = one_time_code(&info.secret, world.clock.now()).unwrap();
    let password = SecretString::new(PASSWORD);
    admin
        .accept_invite(AcceptInvite { token: token.clone(), password, code, client_ip: None })
        .await
        .unwrap();
    info.secret
}

fn join(token: &str) -> Value {
    json!({
        "token": token,
        "host_id": HostId::random(&SystemEntropy::new()).unwrap(),
        "name": "web-1",
        "role": "node",
        "keys": subject_keys(1),
        "addresses": [],
    })
}

impl Secrets {
    async fn new() -> Self {
        let world = World::start().await;
        let much = Rate::per_minute(1000, 1000);
        let web = world.web(WebRates { secrets: much, others: much }).await;
        let (expired_join, expired_invite) =
            (join_token(&world, HostRole::Node, None).await, invite(&world, "late").await);
        let used_invite = invite(&world, "alice").await;
        let seed = accept(&world, &used_invite).await;
        // Beyond the life of a token and of an invite; and the next code is another one.
        world.clock.advance(Duration::from_secs(601));
        let used_join = join_token(&world, HostRole::Node, Some(1)).await;
        let secrets = Self { world, web, seed, used_join, expired_join, used_invite, expired_invite };
        let (status, text) =
            secrets.ask("POST", "/v1/webapi/host/credentials", None, &join(secrets.used_join.expose())).await;
        assert_eq!(status, "200", "{text}");
        secrets
    }

    async fn ask(&self, method: &str, path: &str, bearer: Option<&str>, body: &Value) -> (String, String) {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "proxy.example.com")
            .header("content-type", "application/json");
        if let Some(token) = bearer {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let body = Full::new(Bytes::from(serde_json::to_vec(body).unwrap()));
        let (status, text) = http1(&self.world, self.web, request.body(body).unwrap()).await;
        (status.as_str().to_owned(), text)
    }

    /// A secret of this kind, and a user whom it may concern. Fresh ones, because some are good once; and who fails too often is
    /// locked.
    async fn shown(&self, shown: Shown, number: usize) -> (String, String) {
        let world = &self.world;
        let name = format!("user-{number}");
        let good_join = || join_token(world, HostRole::Node, None);
        let secret = match shown {
            Shown::Nothing => SecretString::new(""),
            Shown::Wrong => SecretString::new("0".repeat(32)),
            Shown::Join => good_join().await,
            Shown::JoinOfProxies => join_token(world, HostRole::Proxy, None).await,
            Shown::JoinExpired => self.expired_join.clone(),
            Shown::JoinUsed => self.used_join.clone(),
            Shown::JoinOtherCase => SecretString::new(good_join().await.expose().to_uppercase()),
            Shown::JoinPrefix => {
                let token = good_join().await;
                SecretString::new(token.expose()[..token.expose().len() - 1].to_owned())
            }
            Shown::JoinHash => {
                let token = good_join().await;
                let digest = ring::digest::digest(&ring::digest::SHA256, token.expose().as_bytes());
                SecretString::new(data_encoding::HEXLOWER.encode(digest.as_ref()))
            }
            Shown::Invite => invite(world, &name).await,
            Shown::InviteExpired => self.expired_invite.clone(),
            Shown::InviteUsed => self.used_invite.clone(),
            Shown::Reset => {
                accept(world, &invite(world, &name).await).await;
                let reset = world.service.acting_as(Caller::LocalAdmin);
                reset.reset_user(UserName::new(&name).unwrap(), ResetUser::default()).await.unwrap().token
            }
            Shown::Password => return (PASSWORD.to_owned(), "alice".to_owned()),
        };
        (secret.expose().to_owned(), name)
    }

    async fn status(&self, method: &str, path: &str, secret: &str, user: &str) -> String {
        let code = one_time_code(&self.seed, self.world.clock.now()).unwrap();
        let code = code.expose();
        let (bearer, body) = match (method, path) {
            ("GET", _) => (Some(secret), Value::Null),
            (_, "/v1/webapi/host/credentials") => (None, join(secret)),
            (_, "/webapi/login") => {
                (None, json!({ "user": user, "password": secret, "code": code, "keys": subject_keys(2) }))
            }
            (_, "/webapi/invite") => (None, json!({ "token": secret })),
            (_, "/webapi/invite/accept") => {
                let code = match self
                    .world
                    .service
                    .acting_as(Caller::LocalAdmin)
                    .invite(SecretString::new(secret))
                    .await
                {
                    Ok(info) => one_time_code(&info.secret, self.world.clock.now()).unwrap(),
                    Err(_) => SecretString::new("000000"),
                };
                (None, json!({ "token": secret, "password": PASSWORD, "code": code.expose() }))
            }
            _ => panic!("{method} {path} is a new page: say here how a secret is shown to it"),
        };
        let (status, text) = self.ask(method, path, bearer, &body).await;
        assert!(secret.is_empty() || !text.contains(secret), "{path} {text}");
        status
    }
}

#[tokio::test]
async fn d2_matrix_of_the_proxys_pages() {
    let secrets = Secrets::new().await;
    let names: Vec<_> = Shown::ALL.iter().map(|(_, name)| *name).collect();
    let mut table = Table::new(&LEGEND, "page", 36, &names);
    let mut number = 0;
    for (method, path) in pages() {
        let mut cells = Vec::new();
        for (shown, _) in Shown::ALL {
            number += 1;
            let (secret, user) = secrets.shown(shown, number).await;
            cells.push(secrets.status(method, path, &secret, &user).await);
        }
        table.row(&format!("{method} {path}"), &cells);
    }
    table.is_golden("matrix-proxy-pages.txt");
}
