//! Logins: the rows E1 to E4 of the threat list.

use std::time::Duration;

use serde_json::json;
use teleport_core::api::{
    AdminApi, ApiErrorKind, IdentityApi, LoginRequest, PublicApi, ReissueRequest, ResetUser, ResourceApi,
};
use teleport_core::audit::EventKind;
use teleport_core::auth::Caller;
use teleport_core::cert::{Identity, UserIdentity};
use teleport_core::id::HostRole;
use teleport_core::resource::{CertExtension, builtin_roles};
use teleport_core::secret::SecretString;
use teleport_core::storage::BackendExt;
use teleport_core::testing::{UnsignedIssuer, subject_keys};
use tokio::time::Instant;

use crate::cluster::{Cluster, PASSWORD, at_once};

fn reason(cluster: &Cluster) -> String {
    cluster.audit.last(EventKind::UserLoginFailure).unwrap().error.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn e1_two_hundred_logins_with_one_code_one_succeeds() {
    // The lock would stop most of them before; here each must be stopped by the code alone.
    let cluster = Cluster::with(|config| {
        config.lockout.failures = 1000;
        config.password.queue = 1000;
    })
    .await;
    let second = cluster.second();
    let secret = cluster.sign_up("alice").await;
    for round in 1..=3_usize {
        cluster.next_step();
        let code = cluster.code(&secret);
        let attempts = (0..200).map(|number| {
            let request = cluster.login("alice", PASSWORD, code.clone());
            let service = if number % 2 == 0 { cluster.auth.clone() } else { second.clone() };
            let caller = cluster.web_caller();
            async move { service.acting_as(caller).login(request).await }
        });
        let outcomes = at_once(attempts).await;
        let succeeded = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        assert_eq!(succeeded, 1);
        assert_eq!(cluster.issuer.issued(), u64::try_from(round).unwrap());
        // Not in a step before, either.
        let old = cluster.login("alice", PASSWORD, code);
        assert!(cluster.web().login(old).await.is_err());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn e1_guesses_at_the_same_moment_do_not_get_more_tries() {
    let cluster = Cluster::with(|config| config.password.queue = 1000).await;
    let secret = cluster.sign_up("alice").await;
    cluster.next_step();
    let right = cluster.code(&secret);
    let wrong: u32 = right.expose().parse::<u32>().unwrap() ^ 1;
    let attempts = (0..60).map(|_| {
        let request = cluster.login("alice", PASSWORD, SecretString::new(format!("{wrong:06}")));
        let service = cluster.auth.clone();
        let caller = cluster.web_caller();
        async move { service.acting_as(caller).login(request).await }
    });
    assert!(at_once(attempts).await.iter().all(Result::is_err));
    let looked_at = cluster
        .audit
        .events()
        .iter()
        .filter(|event| event.code == EventKind::UserLoginFailure)
        .filter(|event| event.error.as_deref() == Some("the one-time code is wrong"))
        .count();
    assert_eq!(looked_at, 5, "five codes were looked at, the others were not");
}

#[tokio::test]
async fn e2_a_failure_is_durable_before_it_is_answered() {
    // So long that the call is dropped before the attempt is looked at.
    let cluster = Cluster::with(|config| config.password.memory = 19_456).await;
    let secret = cluster.sign_up("alice").await;
    cluster.next_step();
    for _ in 0..5 {
        let wrong = cluster.login("alice", "wrong password", cluster.code(&secret));
        // The process dies in the middle of the call, as soon as the attempt is charged and before it is looked at.
        let service = cluster.second();
        let api = service.acting_as(cluster.web_caller());
        let mut call = Box::pin(api.login(wrong));
        let charged = async || cluster.backend.get(&"lockouts/alice".parse().unwrap()).await.unwrap();
        let before = charged().await;
        while charged().await == before {
            if futures_util::poll!(call.as_mut()).is_ready() {
                assert_ne!(charged().await, before, "answered before it was charged");
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(call);
    }
    assert!(cluster.admin().users().await.unwrap()[0].locked_until.is_some());
    cluster.next_step();
    let right = cluster.login("alice", PASSWORD, cluster.code(&secret));
    assert!(cluster.web().login(right).await.is_err());
    assert_eq!(reason(&cluster), "locked after too many failures");
}

#[tokio::test]
async fn e2_a_lock_holds_for_half_an_hour_and_an_administrator_ends_it() {
    let cluster = Cluster::new().await;
    let secret = cluster.sign_up("alice").await;
    cluster.next_step();
    for _ in 0..5 {
        let wrong = cluster.login("alice", PASSWORD, SecretString::new("000000"));
        assert!(cluster.web().login(wrong).await.is_err());
    }
    let attempt = async || {
        cluster.next_step();
        cluster.web().login(cluster.login("alice", PASSWORD, cluster.code(&secret))).await
    };
    assert!(attempt().await.is_err());
    cluster.clock.advance(Duration::from_secs(28 * 60));
    assert!(attempt().await.is_err());
    cluster.clock.advance(Duration::from_secs(60));
    assert!(attempt().await.is_ok());
    // A success forgets the failures before it.
    for _ in 0..4 {
        let wrong = cluster.login("alice", PASSWORD, SecretString::new("000000"));
        assert!(cluster.web().login(wrong).await.is_err());
    }
    assert!(attempt().await.is_ok());
    for _ in 0..5 {
        let wrong = cluster.login("alice", PASSWORD, SecretString::new("000000"));
        assert!(cluster.web().login(wrong).await.is_err());
    }
    assert!(cluster.admin().users().await.unwrap()[0].locked_until.is_some());
    cluster.admin().reset_user("alice".parse().unwrap(), ResetUser::default()).await.unwrap();
    assert!(cluster.admin().users().await.unwrap()[0].locked_until.is_none());
    // The old password went with the reset.
    assert!(attempt().await.is_err());
    assert_eq!(reason(&cluster), "the user has no password or second factor yet");
}

#[tokio::test]
async fn e3_other_spellings_share_the_counter() {
    let cluster = Cluster::new().await;
    let secret = cluster.sign_up("alice").await;
    cluster.next_step();
    for spelling in ["Alice", "ALICE", " alice", "alice ", "aLiCe"] {
        let wrong = cluster.login(spelling, "wrong password", cluster.code(&secret));
        assert!(cluster.web().login(wrong).await.is_err());
    }
    let right = cluster.login("alice", PASSWORD, cluster.code(&secret));
    assert!(cluster.web().login(right).await.is_err());
    assert_eq!(reason(&cluster), "locked after too many failures");
}

#[tokio::test]
async fn guessing_names_does_not_fill_the_storage() {
    let cluster = Cluster::with(|config| config.password.memory = 8).await;
    for number in 0..3000 {
        let guess = cluster.login(&format!("nobody{number}"), "x", SecretString::new("000000"));
        assert!(cluster.web().login(guess).await.is_err());
    }
    let counters =
        cluster.backend.list(&teleport_core::storage::Prefix::new("unknown_logins").unwrap()).await;
    assert!(counters.unwrap().len() <= 1024);
    assert!(
        cluster
            .backend
            .list(&teleport_core::storage::Prefix::new("lockouts").unwrap())
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn e4_a_huge_password_costs_nothing() {
    let cluster = Cluster::with(|config| {
        // One hash would take minutes.
        config.password.memory = 1 << 20;
        config.password.passes = 64;
    })
    .await;
    let request = cluster.login("alice", &"x".repeat(1 << 20), SecretString::new("000000"));
    let web = cluster.web();
    let answer = tokio::time::timeout(Duration::from_secs(30), web.login(request)).await;
    assert_eq!(answer.expect("nothing is hashed").unwrap_err().kind(), ApiErrorKind::Invalid);
    assert!(cluster.audit.events().is_empty());
}

#[tokio::test]
async fn ttl_is_the_least_of_what_everybody_wants() {
    let cluster = Cluster::new().await;
    let secret = cluster.sign_up("alice").await;
    let life = async |ttl: Option<u64>| {
        cluster.next_step();
        let request = LoginRequest { ttl, ..cluster.login("alice", PASSWORD, cluster.code(&secret)) };
        let response = cluster.web().login(request).await.unwrap();
        response.certificates.valid_before.saturating_since(cluster.now()).as_secs()
    };
    assert_eq!(life(None).await, 12 * 3600);
    assert_eq!(life(Some(600)).await, 600);
    assert_eq!(life(Some(0)).await, 60);
    assert_eq!(life(Some(u64::MAX)).await, 30 * 3600);
    let mut access = cluster.admin().role("access".parse().unwrap()).await.unwrap();
    access.metadata.revision = None;
    access.spec.options.max_session_ttl = Duration::from_secs(3600);
    let value = serde_json::to_vec(&access).unwrap();
    cluster.backend.put(&"roles/access".parse().unwrap(), value.into(), None).await.unwrap();
    assert_eq!(life(None).await, 3600);
    assert_eq!(life(Some(7200)).await, 3600);
}

#[tokio::test]
async fn the_certificate_says_what_roles_give_and_where_the_login_came_from() {
    let cluster = Cluster::new().await;
    let secret = cluster.sign_up("alice").await;
    cluster.next_step();
    let elsewhere: std::net::IpAddr = "203.0.113.5".parse().unwrap();
    let claimed = Some(elsewhere);
    let response =
        cluster.web().login(cluster.login("alice", PASSWORD, cluster.code(&secret))).await.unwrap();
    let said = UnsignedIssuer::read(&response.certificates);
    assert_eq!(said["login_ip"], serde_json::Value::Null, "the proxy's own address is not the user's");
    assert_eq!(said["logins"], serde_json::json!(["root"]));
    assert_eq!(said["permits"]["pty"], true);
    assert_eq!(said["permits"]["x11_forwarding"], false);

    cluster.next_step();
    let proxy = Identity::Host(cluster.host("proxy", HostRole::Proxy));
    let request =
        LoginRequest { client_ip: claimed, ..cluster.login("alice", PASSWORD, cluster.code(&secret)) };
    let response = cluster.auth.acting_as(Caller::Identity(proxy, None)).login(request).await.unwrap();
    assert_eq!(UnsignedIssuer::read(&response.certificates)["login_ip"], "203.0.113.5");
    let event = cluster.audit.last(EventKind::UserLogin).unwrap();
    assert_eq!((event.user.as_deref(), event.remote.unwrap().ip()), (Some("alice"), elsewhere));
}

/// E4: by the time that a login takes nobody learns whether a user exists. Hundreds of attempts of each kind, in pairs whose order
/// changes; Welch's t over the faster half of each, for the slower ones are those in which the machine did something else. A
/// difference below a twentieth is lost in the noise of a busy machine and does not count, and neither does one that does not show
/// again with the same sign: what somebody could learn from would show each time.
#[tokio::test]
async fn e4_unknown_users_take_as_long() {
    let cluster = Cluster::with(|config| {
        // Much more than all else that an attempt costs in a build for tests, where reading a record takes long.
        config.password.memory = 16 << 10;
        config.lockout.failures = u32::MAX;
    })
    .await;
    let seed = cluster.sign_up("alice").await;
    // As many devices as anybody may have make no difference, either.
    for number in 2..=8 {
        cluster.next_step();
        crate::account::add(&cluster, &format!("device-{number}"), &seed).await.unwrap();
    }
    let mut longer = None;
    for _ in 0..3 {
        let (t, known, unknown) = compare(&cluster, ["alice", "nobody"], 300).await;
        println!("t = {t:.1}, known {known:.6} s, unknown {unknown:.6} s");
        if t.abs() < 4.5 || (known - unknown).abs() < 0.05 * known {
            return;
        }
        let sign = *longer.get_or_insert(t > 0.0);
        if sign != (t > 0.0) {
            return;
        }
    }
    panic!("the time tells whether a user exists");
}

/// Welch's t of the times of failed logins, and the means of the two users in seconds.
async fn compare(cluster: &Cluster, users: [&str; 2], rounds: usize) -> (f64, f64, f64) {
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..rounds + 10 {
        for turn in 0..2 {
            // Neither is always the second.
            let index = (round + turn) % 2;
            let request = cluster.login(users[index], "wrong password", SecretString::new("000000"));
            let start = Instant::now();
            assert!(cluster.web().login(request).await.is_err());
            if round >= 10 {
                times[index].push(start.elapsed().as_secs_f64());
            }
        }
    }
    let [(known, known_error), (unknown, unknown_error)] = times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times.truncate(times.len() / 2);
        let count = f64::from(u32::try_from(times.len()).unwrap());
        let mean = times.iter().sum::<f64>() / count;
        let variance = times.iter().map(|time| (time - mean).powi(2)).sum::<f64>() / (count - 1.0);
        (mean, variance / count)
    });
    ((known - unknown) / (known_error + unknown_error).sqrt(), known, unknown)
}

/// `pin_source_ip` and `cert_extensions`, from the login to what is derived from it.
#[tokio::test]
async fn a9_certificates_are_bound_to_the_address_of_the_login_and_stay_so() {
    let cluster = Cluster::new().await;
    let secret = cluster.sign_up("alice").await;
    let role = |pin: bool| {
        let mut role = builtin_roles().into_iter().find(|role| role.metadata.name == "access").unwrap();
        role.spec.options.pin_source_ip = pin;
        let extension = |name: &str, value: &str| CertExtension::new(name, value);
        role.spec.options.cert_extensions = vec![
            extension("login@github.com", "{{internal.logins}}"),
            extension("none@example.com", "{{external.x}}"),
        ];
        role
    };
    cluster.admin().replace_role(role(true)).await.unwrap();
    let attempt = async |caller: Caller, client_ip: Option<&str>| {
        cluster.next_step();
        let mut request = cluster.login("alice", PASSWORD, cluster.code(&secret));
        request.client_ip = client_ip.map(|address| address.parse().unwrap());
        cluster.auth.acting_as(caller).login(request).await
    };
    // Nobody says where it comes from.
    for caller in [Caller::LocalAdmin, cluster.web_caller()] {
        let error = attempt(caller, None).await.unwrap_err();
        assert_eq!(error.kind(), ApiErrorKind::Denied);
        assert!(error.message().contains("bind certificates to the address of the login"), "{error}");
        assert!(reason(&cluster).contains("bind certificates"));
    }
    let issued = attempt(cluster.web_caller(), Some("::ffff:198.51.100.7")).await.unwrap();
    let content = UnsignedIssuer::read(&issued.certificates);
    assert_eq!(content["source_addresses"], json!(["198.51.100.7"]));
    assert_eq!(content["extensions"], json!([["login@github.com", "root"]]));

    // What is derived from it is as bound, whoever asks from wherever, and whatever roles say by then.
    let mut identity = cluster.user("alice", &["access"], &["root"]);
    identity.login_ip = Some("198.51.100.7".parse().unwrap());
    identity.source_addresses = vec!["198.51.100.7".to_owned()];
    identity.extensions = vec![("login@github.com".to_owned(), "root".to_owned())];
    let derive = async |identity: &UserIdentity| {
        let request = ReissueRequest { keys: subject_keys(9), ttl: None };
        let issued = cluster.as_user(identity).reissue_user(request).await;
        issued.map(|issued| UnsignedIssuer::read(&issued.certificates))
    };
    cluster.admin().replace_role(role(false)).await.unwrap();
    let content = derive(&identity).await.unwrap();
    assert_eq!(content["source_addresses"], json!(["198.51.100.7"]));
    assert_eq!(content["extensions"], json!([["login@github.com", "root"]]));
    // What the first certificate did not say, the second does not say either.
    identity.extensions = vec![("login@github.com".to_owned(), "admin".to_owned())];
    assert_eq!(derive(&identity).await.unwrap()["extensions"], json!([]));
    // Roles that bind from now on bind what is derived from now on.
    identity.source_addresses.clear();
    assert_eq!(derive(&identity).await.unwrap()["source_addresses"], json!([]));
    cluster.admin().replace_role(role(true)).await.unwrap();
    assert_eq!(derive(&identity).await.unwrap()["source_addresses"], json!(["198.51.100.7"]));
    identity.login_ip = None;
    assert_eq!(derive(&identity).await.unwrap_err().kind(), ApiErrorKind::Denied);
}
