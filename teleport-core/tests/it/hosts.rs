//! Join, renewal and presence: the rows D2, D4, I5, A10 of the threat list, and the clock.

use std::time::Duration;

use teleport_core::api::{
    AdminApi, ApiErrorKind, CreateToken, IdentityApi, JoinRequest, PresenceApi, ProxyRecord, PublicApi,
    RenewRequest, SignHost, SigningApi,
};
use teleport_core::audit::EventKind;
use teleport_core::auth::Caller;
use teleport_core::cert::{CLOCK_SKEW, HostIdentity, Identity};
use teleport_core::id::{HostRole, NodeName};
use teleport_core::label::Labels;
use teleport_core::resource::{NODE_ONLINE_FOR, NODE_RETENTION, NodeRecord};
use teleport_core::secret::SecretString;
use teleport_core::testing::{UnsignedIssuer, subject_keys};
use teleport_core::token::StaticToken;

use crate::cluster::{Cluster, at_once};

fn token(uses: Option<u32>) -> CreateToken {
    CreateToken { roles: vec![HostRole::Node], ttl: None, uses, labels: Labels::default(), value: None }
}

fn join(cluster: &Cluster, token: &SecretString) -> (HostIdentity, JoinRequest) {
    let host = cluster.host("web-1", HostRole::Node);
    let request = JoinRequest {
        token: token.clone(),
        host_id: host.host_id,
        name: NodeName::new("web-1").unwrap(),
        role: HostRole::Node,
        keys: subject_keys(cluster.unique()),
        addresses: Vec::new(),
        client_ip: None,
    };
    (host, request)
}

fn reason(cluster: &Cluster) -> String {
    cluster.audit.last(EventKind::InstanceJoinFailure).unwrap().error.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i5_a_hundred_hosts_one_use_one_joins() {
    let cluster = Cluster::new().await;
    let second = cluster.second();
    for uses in [1_usize, 7] {
        let made = cluster.admin().create_token(token(Some(u32::try_from(uses).unwrap()))).await.unwrap();
        let attempts = (0..100).map(|number| {
            let (_, request) = join(&cluster, &made.token);
            let service = if number % 2 == 0 { cluster.auth.clone() } else { second.clone() };
            async move { service.acting_as(Caller::Anonymous { remote: None }).join(request).await }
        });
        let before = cluster.issuer.issued();
        let outcomes = at_once(attempts).await;
        let joined = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        let denied = outcomes
            .iter()
            .filter(|outcome| outcome.as_ref().is_err_and(|error| error.kind() == ApiErrorKind::Denied));
        assert_eq!((joined, denied.count()), (uses, 100 - uses));
        assert_eq!(cluster.issuer.issued() - before, u64::try_from(uses).unwrap());
    }
    assert_eq!(cluster.audit.count(EventKind::InstanceJoin), 8);
    assert_eq!(cluster.audit.count(EventKind::InstanceJoinFailure), 192);
}

/// The service that took the use died before it answered, and another one is asked.
#[tokio::test]
async fn i5_a_host_asks_again_by_its_token_and_nobody_else_does() {
    let cluster = Cluster::new().await;
    let second = cluster.second();
    let made = cluster.admin().create_token(token(Some(1))).await.unwrap();
    let (_, request) = join(&cluster, &made.token);
    cluster.anonymous().join(request.clone()).await.unwrap();
    let other = second.acting_as(Caller::Anonymous { remote: None });
    for _ in 0..3 {
        other.join(request.clone()).await.unwrap();
    }
    // By other keys it is not the same host; another host has no use left, nor has this one by another token that is used up.
    let thief = JoinRequest { keys: subject_keys(cluster.unique()), ..request.clone() };
    let (_, stranger) = join(&cluster, &made.token);
    let used_up = cluster.admin().create_token(token(Some(1))).await.unwrap();
    other.join(join(&cluster, &used_up.token).1).await.unwrap();
    let by_another = JoinRequest { token: used_up.token, ..request.clone() };
    for (denied, why) in [(thief, "no uses left"), (stranger, "no uses left"), (by_another, "no uses left")] {
        assert_eq!(other.join(denied).await.unwrap_err().kind(), ApiErrorKind::Denied);
        assert!(reason(&cluster).contains(why), "{}", reason(&cluster));
    }
    // Neither does it use up what others may have of a token.
    let three = cluster.admin().create_token(token(Some(3))).await.unwrap();
    let (_, first) = join(&cluster, &three.token);
    for _ in 0..5 {
        cluster.anonymous().join(first.clone()).await.unwrap();
    }
    for _ in 0..2 {
        other.join(join(&cluster, &three.token).1).await.unwrap();
    }
    other.join(join(&cluster, &three.token).1).await.unwrap_err();
    // The token's end is its end for everybody.
    cluster.clock.advance(Duration::from_secs(3600));
    cluster.anonymous().join(first).await.unwrap_err();
    assert!(reason(&cluster).contains("expired"));
}

#[tokio::test]
async fn d2_the_log_says_why_and_the_answer_does_not() {
    let cluster = Cluster::new().await;
    let made = cluster.admin().create_token(token(None)).await.unwrap();
    let api = cluster.anonymous();
    let (_, good) = join(&cluster, &made.token);

    let mut texts = Vec::new();
    let mut check = async |request: JoinRequest, why: &str| {
        let error = api.join(request).await.unwrap_err();
        assert_eq!(error.kind(), ApiErrorKind::Denied);
        texts.push(error.to_string());
        let logged = reason(&cluster);
        assert!(logged.contains(why), "{logged}");
    };
    let with = |secret: &str| JoinRequest { token: SecretString::new(secret), ..good.clone() };
    check(with(""), "no such token").await;
    check(with(&made.token.expose().to_uppercase()), "no such token").await;
    check(with(&made.token.expose()[..31]), "no such token").await;
    check(with(&made.info.id), "no such token").await;
    check(JoinRequest { role: HostRole::Auth, ..good.clone() }, "role auth").await;
    check(JoinRequest { addresses: vec!["*".to_owned()], ..good.clone() }, "cannot be a name").await;
    cluster.clock.advance(Duration::from_secs(30 * 60));
    check(good.clone(), "expired").await;
    // Long after, only the hash would be known; then it is a token like any other that does not exist.
    cluster.clock.advance(Duration::from_secs(25 * 3600));
    check(good, "no such token").await;
    texts.dedup();
    assert_eq!(texts, ["access denied"]);
    assert_eq!(cluster.issuer.issued(), 0);
}

#[tokio::test]
async fn d4_a_live_id_cannot_be_taken() {
    let cluster = Cluster::new().await;
    let made =
        cluster.admin().create_token(CreateToken { ttl: Some(30 * 86_400), ..token(None) }).await.unwrap();
    let (mut host, first) = join(&cluster, &made.token);
    cluster.anonymous().join(first.clone()).await.unwrap();
    let thief = JoinRequest { keys: subject_keys(cluster.unique()), ..first.clone() };
    cluster.anonymous().join(thief.clone()).await.unwrap_err();
    assert!(reason(&cluster).contains("bound to other keys"));

    // A renewal binds the id to the new keys, for as long as the new certificate lives.
    cluster.clock.advance(Duration::from_secs(6 * 86_400));
    host.expires = cluster.now().saturating_add(Duration::from_secs(86_400));
    let keys = subject_keys(cluster.unique());
    let renewed = cluster
        .as_host(&host)
        .renew_host(RenewRequest { keys: keys.clone(), addresses: Vec::new() })
        .await
        .unwrap();
    let said = UnsignedIssuer::read(&renewed.certificates);
    assert_eq!(said["host_id"], host.host_id.to_string());
    assert_eq!((&said["name"], &said["role"]), (&"web-1".into(), &"node".into()));
    cluster.clock.advance(Duration::from_secs(6 * 86_400));
    cluster.anonymous().join(thief.clone()).await.unwrap_err();
    cluster.anonymous().join(first.clone()).await.unwrap_err();
    cluster.anonymous().join(JoinRequest { keys, ..first }).await.unwrap();

    // When nobody has renewed it, the id is free; a little later than the certificate ends, by whatever clock.
    cluster.clock.advance(Duration::from_secs(7 * 86_400 + 60));
    cluster.anonymous().join(thief.clone()).await.unwrap_err();
    cluster.clock.advance(Duration::from_secs(3600));
    cluster.anonymous().join(thief).await.unwrap();
}

#[tokio::test]
async fn static_tokens_admit_and_cannot_be_deleted() {
    let secret = SecretString::new("a-static-token-of-the-file");
    let fixed = StaticToken::new(vec![HostRole::Node], &secret).unwrap();
    let cluster = Cluster::with(|config| config.static_tokens.push(fixed)).await;
    for _ in 0..3 {
        cluster.anonymous().join(join(&cluster, &secret).1).await.unwrap();
    }
    let listed = cluster.admin().tokens().await.unwrap();
    assert!(listed[0].is_static && listed[0].expires.is_none());
    let error = cluster.admin().delete_token(secret.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ApiErrorKind::Invalid);
    let same = CreateToken { value: Some(secret), ..token(None) };
    assert_eq!(cluster.admin().create_token(same).await.unwrap_err().kind(), ApiErrorKind::Conflict);
}

#[tokio::test]
async fn only_a_proxy_is_believed_about_the_address_of_its_client() {
    let cluster = Cluster::new().await;
    let made = cluster.admin().create_token(token(None)).await.unwrap();
    let claimed = Some("203.0.113.5".parse().unwrap());
    let request = || JoinRequest { client_ip: claimed, ..join(&cluster, &made.token).1 };
    let seen = || cluster.audit.last(EventKind::InstanceJoin).unwrap().remote.unwrap().ip();

    cluster.anonymous().join(request()).await.unwrap();
    assert_eq!(seen().to_string(), "192.0.2.99");
    let proxy = Identity::Host(cluster.host("proxy", HostRole::Proxy));
    let remote = Some("192.0.2.1:5000".parse().unwrap());
    cluster.auth.acting_as(Caller::Identity(proxy, remote)).join(request()).await.unwrap();
    assert_eq!(seen().to_string(), "203.0.113.5");
}

/// D4: nor a name that a server was certified for that is no member, until its newest certificate has ended.
#[tokio::test]
async fn d4_a_host_takes_no_name_of_a_certified_server() {
    let cluster = Cluster::new().await;
    let sign = async |names: &[&str], ttl: Option<u64>| {
        let names = names.iter().map(|&name| name.to_owned()).collect();
        let request = SignHost { names, key: subject_keys(cluster.unique()).ssh, ttl };
        cluster.admin().sign_host(request).await.unwrap();
    };
    sign(&["db1.other.com", "DB2.example.com", "192.0.2.7", "localhost"], None).await;
    let made = cluster.admin().create_token(token(None)).await.unwrap();
    let at = |ip: &str| Caller::Anonymous { remote: Some(format!("{ip}:5000").parse().unwrap()) };
    let join = async |name: &str, addresses: &[&str], ip: &str| {
        let request = JoinRequest {
            name: NodeName::new(name).unwrap(),
            addresses: addresses.iter().map(|&address| address.to_owned()).collect(),
            ..join(&cluster, &made.token).1
        };
        cluster.auth.acting_as(at(ip)).join(request).await
    };
    for (name, addresses) in [
        ("db1.other.com", &[][..]),
        ("Db1.Other.Com", &[]),
        // In the certificate it becomes db2.example.com.
        ("db2", &[]),
        ("web-1", &["db1.other.com"]),
        ("web-1", &["::ffff:192.0.2.7"]),
    ] {
        let error = join(name, addresses, "198.51.100.7").await.unwrap_err();
        assert_eq!(error.kind(), ApiErrorKind::Denied, "{name} {addresses:?}");
        assert!(reason(&cluster).contains("a certified server is found"), "{name} {addresses:?}");
    }
    for (name, addresses, ip) in [
        ("db1", &[][..], "198.51.100.7"),
        ("other.com", &["localhost"], "198.51.100.7"),
        // The host is that machine.
        ("web-7", &["192.0.2.7"], "192.0.2.7"),
    ] {
        assert!(join(name, addresses, ip).await.is_ok(), "{name}");
    }
    let node = cluster.host("web-1", HostRole::Node);
    let api =
        cluster.auth.acting_as(Caller::Identity(Identity::Host(node.clone()), "198.51.100.7:1".parse().ok()));
    let renewal =
        RenewRequest { keys: subject_keys(cluster.unique()), addresses: vec!["db1.other.com".to_owned()] };
    assert_eq!(api.renew_host(renewal).await.unwrap_err().kind(), ApiErrorKind::Invalid);
    // A short one is the last one.
    sign(&["db2.example.com"], Some(60)).await;
    cluster.clock.advance(Duration::from_secs(59));
    join("db2", &[], "198.51.100.7").await.unwrap_err();
    cluster.clock.advance(Duration::from_secs(1) + CLOCK_SKEW * 2);
    join("db2", &[], "198.51.100.7").await.unwrap();
    join("db1.other.com", &[], "198.51.100.7").await.unwrap_err();
}

/// D4, A11: no node takes a name by which a proxy, the cluster or a certified server is found, neither at the join nor later.
#[tokio::test]
async fn d4_a_node_takes_no_name_of_a_proxy() {
    let cluster = Cluster::new().await;
    let from = |host: &HostIdentity, remote: &str| {
        let remote = Some(remote.parse().unwrap());
        cluster.auth.acting_as(Caller::Identity(Identity::Host(host.clone()), remote))
    };
    let gate = cluster.host("gate", HostRole::Proxy);
    let proxy = ProxyRecord {
        host_id: gate.host_id,
        name: gate.name.clone(),
        web_address: "proxy.example.net:443".to_owned(),
        ssh_address: "192.0.2.1:3023".to_owned(),
        peer_address: None,
        tunnels: 0,
        version: "1".to_owned(),
    };
    from(&gate, "192.0.2.2:5000").announce_proxy(proxy).await.unwrap();

    let made = cluster.admin().create_token(token(Some(3))).await.unwrap();
    let named = |name: &str, addresses: &[&str]| JoinRequest {
        name: NodeName::new(name).unwrap(),
        addresses: addresses.iter().map(|&address| address.to_owned()).collect(),
        ..join(&cluster, &made.token).1
    };
    for request in [
        named("gate", &[]),
        named("Gate", &[]),
        named("gate.example.com", &[]),
        named("proxy.example.net", &[]),
        named("example.com", &[]),
        named("web-1", &["10.0.0.1", "proxy.example.NET"]),
        named("web-1", &["192.0.2.1"]),
        named("web-1", &["gate"]),
    ] {
        let error = cluster.anonymous().join(request.clone()).await.unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (ApiErrorKind::Denied, "access denied"));
        assert!(
            reason(&cluster).contains("by which a proxy, the cluster or a certified server is found"),
            "{request:?}"
        );
    }
    assert_eq!(cluster.issuer.issued(), 0);
    assert_eq!(cluster.admin().tokens().await.unwrap()[0].uses_left, Some(3), "a refusal costs no use");
    // All that a proxy passes on comes from its own address, and from a loopback address on the auth service's machine; and what
    // a proxy in this process asks for others is asked by nobody of this process.
    for (from, reported) in [
        (Caller::Anonymous { remote: "192.0.2.2:5001".parse().ok() }, None),
        (Caller::Anonymous { remote: "127.0.0.1:5001".parse().ok() }, None),
        (Caller::Anonymous { remote: None }, None),
        (Caller::Identity(Identity::Host(gate.clone()), None), None),
        (Caller::Identity(Identity::Host(gate.clone()), None), "127.0.0.1".parse().ok()),
        (Caller::Identity(Identity::Host(gate.clone()), None), "192.0.2.2".parse().ok()),
    ] {
        let request = JoinRequest { client_ip: reported, ..named("gate", &["proxy.example.net"]) };
        let error = cluster.auth.acting_as(from.clone()).join(request).await.unwrap_err();
        assert_eq!(error.kind(), ApiErrorKind::Denied, "{from} {reported:?}");
    }
    cluster.anonymous().join(named("web-1", &["web-1.example.net"])).await.unwrap();

    let node = cluster.host("web-1", HostRole::Node);
    let api = from(&node, "198.51.100.7:5000");
    let renewal = |address: &str| RenewRequest {
        keys: subject_keys(cluster.unique()),
        addresses: vec![address.to_owned()],
    };
    let record = |address: &str| NodeRecord {
        host_id: node.host_id,
        name: node.name.clone(),
        address: address.to_owned(),
        labels: Labels::default(),
        sub_kind: teleport_core::resource::NodeKind::Teleport,
        proxy_ids: Vec::new(),
        version: "1".to_owned(),
    };
    for address in ["proxy.example.net", "192.0.2.1", "gate"] {
        let error = api.renew_host(renewal(address)).await.unwrap_err();
        assert_eq!(error.kind(), ApiErrorKind::Invalid, "{error}");
        let error = api.announce_node(record(&format!("{address}:3022"))).await.unwrap_err();
        assert!(error.to_string().contains("by which a proxy"), "{error}");
        let denied = cluster.audit.last(EventKind::ApiDenied).unwrap();
        assert!(denied.error.unwrap().contains(address));
    }
    // In the process of the auth service the proxy's names are the node's, too.
    cluster.as_host(&node).renew_host(renewal("proxy.example.net")).await.unwrap();
    for passed_on in ["192.0.2.2:5002", "127.0.0.1:5002"] {
        from(&node, passed_on).renew_host(renewal("proxy.example.net")).await.unwrap_err();
    }
    api.renew_host(renewal("198.51.100.7")).await.unwrap();
    api.announce_node(record("198.51.100.7:3022")).await.unwrap();
}

#[tokio::test]
async fn a_silent_node_goes_offline_and_then_away() {
    let cluster = Cluster::new().await;
    let mut host = cluster.host("web-1", HostRole::Node);
    let record = NodeRecord {
        host_id: host.host_id,
        name: host.name.clone(),
        address: "192.0.2.7:3022".to_owned(),
        labels: Labels::default(),
        sub_kind: teleport_core::resource::NodeKind::Teleport,
        proxy_ids: Vec::new(),
        version: "1".to_owned(),
    };
    cluster.as_host(&host).announce_node(record).await.unwrap();
    let announced = cluster.now();
    cluster.clock.advance(NODE_ONLINE_FOR);
    let listed = cluster.admin().nodes().await.unwrap();
    assert!(!listed[0].is_online(cluster.now()));
    assert_eq!(listed[0].last_seen, announced);
    assert_eq!(cluster.admin().status().await.unwrap().nodes_online, 0);

    cluster.as_host(&host).keep_alive().await.unwrap();
    let heard = cluster.now();
    assert_eq!(cluster.admin().nodes().await.unwrap()[0].last_seen, heard);
    assert_eq!(cluster.admin().status().await.unwrap().nodes_online, 1);

    cluster.clock.set(heard.saturating_add(NODE_RETENTION));
    assert!(cluster.admin().nodes().await.unwrap().is_empty());
    host.expires = cluster.now().saturating_add(Duration::from_secs(60));
    let error = cluster.as_host(&host).keep_alive().await.unwrap_err();
    assert_eq!(error.kind(), ApiErrorKind::NotFound);
}
