//! What may happen once happens once, whichever services are asked at the same time.

use std::sync::Arc;

use futures_util::future::join_all;
use teleport_core::api::AcceptInvite;
use teleport_core::clock::SystemClock;
use teleport_core::entropy::SystemEntropy;
use teleport_core::id::{HostId, HostRole, NodeName};
use teleport_core::secret::SecretString;
use teleport_ssh::client::openssh::ProxyAddress;
use teleport_ssh::client::{LoginInput, login};
use teleport_ssh::join::{JoinError, JoinOptions, join};
use teleport_ssh::proxy_web::{WebClient, WebTrust};

use super::{Several, Store, on_each};
use crate::processes::NONE;
use crate::support::daemon::{Services, fixed_port};
use crate::support::user::{App, User, link};
use crate::support::{own_login, wait_for};

on_each!(
    i5_a_hundred_uses_of_a_token_on_two_services_one_joins,
    g2_a_code_and_an_invite_are_good_once_on_two_services,
);

/// Rounds of a hundred attempts each. `TELEPORT_ROUNDS=100` are the ten thousand of the goal.
fn rounds() -> usize {
    std::env::var("TELEPORT_ROUNDS").map_or(2, |rounds| rounds.parse().unwrap())
}

async fn i5_a_hundred_uses_of_a_token_on_two_services_one_joins(store: Store) {
    let two = Several::two(store);
    for round in 0..rounds() {
        let (token, pin) = two.machine.token(&two.names[round % 2], &["--type=node", "--uses=1"]);
        let attempts = (0..100).map(|number| {
            let options = JoinOptions {
                servers: vec![format!("127.0.0.1:{}", two.ports[number % 2])],
                token: SecretString::new(token.as_str()),
                pins: vec![pin.parse().unwrap()],
                require_pin: true,
                known: None,
                host_id: HostId::random(&SystemEntropy::new()).unwrap(),
                name: NodeName::new(&format!("node-{number}")).unwrap(),
                role: HostRole::Node,
                addresses: Vec::new(),
            };
            async move { join(options, Arc::new(SystemClock::new()), &SystemEntropy::new()).await }
        });
        let outcomes = join_all(attempts).await;
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "round {round}");
        for error in outcomes.into_iter().filter_map(Result::err) {
            assert!(matches!(error, JoinError::Refused { .. }), "{error:?}");
        }
    }
    let joined = wait_for("the events of both", || {
        let events = two.machine.events(&two.names[0]);
        let of = |code: &str| {
            events.iter().filter(|event| event["code"] == code && event["role"] == "node").count()
        };
        let (joined, refused) = (of("TJ002I"), of("TJ002E"));
        (joined + refused == 100 * rounds()).then_some(joined)
    });
    assert_eq!(joined, rounds());
}

/// Two proxies, each with an auth service of its own, and the same request at both.
async fn g2_a_code_and_an_invite_are_good_once_on_two_services(store: Store) {
    let two = Several::two(store);
    let mut proxies = Vec::new();
    let mut pin = String::new();
    for number in 0..2 {
        let name = format!("proxy-{number}");
        let server = format!("  auth_server: 127.0.0.1:{}\n", two.ports[number]);
        let ports = (fixed_port(), fixed_port());
        two.machine.configure(&name, &server, &Services { proxy: Some(ports), ..NONE }.yaml());
        let (token, its_pin) = two.machine.token(&two.names[number], &["--type=proxy", "--uses=1"]);
        pin = its_pin;
        let process = two.machine.start(&name, &[&format!("--token={token}"), &format!("--ca-pin={pin}")]);
        proxies.push((format!("127.0.0.1:{}", ports.0), process));
    }
    let client = |number: usize| {
        let trust = WebTrust::pins(vec![pin.parse().unwrap()]);
        WebClient::new(&proxies[number].0, trust, Arc::new(SystemClock::new()))
    };
    let logins = format!("--logins={}", own_login());
    let printed = two.machine.tctl(&two.names[0], &["users", "add", "alice", &logins]).clean();
    // The invite: at both services at once, with a password of one's own each time.
    let invite = link(&printed);
    let (_, token) = invite.split_once("/web/invite/").unwrap();
    let token = SecretString::new(token.split('#').next().unwrap());
    let shown = client(0).invite(token.clone()).await.unwrap();
    let mut app = App::new(shown.secret.expose());
    let code = app.code();
    let attempts = (0..4).map(|number| {
        let request = AcceptInvite {
            token: token.clone(),
            password: SecretString::new(format!("correct horse of {number}")),
            code: SecretString::new(code.as_str()),
            client_ip: None,
        };
        let client = client(number % 2);
        async move { client.accept(&request).await }
    });
    let outcomes = join_all(attempts).await;
    let won: Vec<usize> = (0..4).filter(|number| outcomes[*number].is_ok()).collect();
    assert_eq!(won.len(), 1, "{outcomes:?}");
    let password = format!("correct horse of {}", won[0]);
    let mut alice = User { name: "alice".to_owned(), password, app };
    for _ in 0..3 {
        let code = alice.app.code();
        // Fewer than lock the user.
        let attempts = (0..4).map(|number| {
            let (client, code, password) = (client(number % 2), code.clone(), alice.password.clone());
            let proxy = ProxyAddress::parse(&proxies[number % 2].0).unwrap();
            async move {
                let input = LoginInput {
                    user: "alice".to_owned(),
                    password: SecretString::new(password),
                    code: SecretString::new(code),
                    ttl: None,
                };
                login(&client, proxy, input, &SystemClock::new(), &SystemEntropy::new()).await
            }
        });
        let outcomes = join_all(attempts).await;
        let won = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        assert_eq!(won, 1, "{:?}", outcomes.iter().map(|outcome| outcome.as_ref().err()).collect::<Vec<_>>());
    }
    // Failures are counted for the user, wherever they happen: five in all, not five at each.
    let wrong = alice.app.wrong_code();
    for number in 0..5 {
        let proxy = ProxyAddress::parse(&proxies[number % 2].0).unwrap();
        let input = LoginInput {
            user: "alice".to_owned(),
            password: SecretString::new("wrong"),
            code: SecretString::new(wrong.as_str()),
            ttl: None,
        };
        login(&client(number % 2), proxy, input, &SystemClock::new(), &SystemEntropy::new())
            .await
            .unwrap_err();
    }
    let code = alice.app.code();
    for (number, (address, _)) in proxies.iter().enumerate() {
        let proxy = ProxyAddress::parse(address).unwrap();
        let input = LoginInput {
            user: "alice".to_owned(),
            password: SecretString::new(alice.password.as_str()),
            code: SecretString::new(code.as_str()),
            ttl: None,
        };
        let locked = login(&client(number), proxy, input, &SystemClock::new(), &SystemEntropy::new()).await;
        assert!(locked.is_err(), "five failures lock at both services");
    }
}
