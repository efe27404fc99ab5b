//! Certificates that administrators have made for others.

use std::time::Duration;

use teleport_core::api::{
    AdminApi, ApiErrorKind, PresenceApi, ProxyRecord, ResourceApi, SignHost, SignUser, SigningApi, UpdateUser,
};
use teleport_core::audit::EventKind;
use teleport_core::auth::{AuthHandle, Caller};
use teleport_core::cert::{Identity, MAX_HOST_TTL, MAX_USER_TTL, MIN_USER_TTL};
use teleport_core::id::HostRole;
use teleport_core::label::Labels;
use teleport_core::resource::{NodeRecord, Role, RoleConditions, RoleOptions, RoleSpec, Rule, Verb};
use teleport_core::testing::{UnsignedIssuer, subject_keys};

use crate::cluster::{CLUSTER, Cluster};

/// A user who holds one role with this rule.
async fn with_rule(cluster: &Cluster, name: &str, kinds: &[&str], verb: Verb) -> AuthHandle {
    let resources = kinds.iter().map(|&kind| kind.to_owned()).collect();
    let rules = vec![Rule { resources, verbs: vec![verb], condition: None }];
    let allow = RoleConditions { rules, ..RoleConditions::default() };
    let role = Role::new(name, RoleSpec { allow, ..RoleSpec::default() });
    cluster.admin().create_role(role).await.unwrap();
    cluster.as_user(&cluster.member(name, &[name]).await)
}

fn user(cluster: &Cluster, name: &str, ttl: Option<u64>) -> SignUser {
    SignUser { user: name.parse().unwrap(), keys: subject_keys(cluster.unique()), ttl }
}

fn server(cluster: &Cluster, names: &[&str]) -> SignHost {
    let names = names.iter().map(|&name| name.to_owned()).collect();
    SignHost { names, key: subject_keys(cluster.unique()).ssh, ttl: None }
}

#[tokio::test]
async fn a_user_gets_what_a_login_would_give_and_the_log_says_from_whom() {
    let cluster = Cluster::new().await;
    let mut role = cluster.admin().role("access".parse().unwrap()).await.unwrap();
    role.spec.options.max_session_ttl = Duration::from_secs(7200);
    cluster.admin().replace_role(role).await.unwrap();
    cluster.member("bot", &["access"]).await;
    let signer = with_rule(&cluster, "signer", &["user_cert"], Verb::Create).await;

    let request = user(&cluster, "bot", None);
    let keys = request.keys.clone();
    let response = signer.sign_user(request).await.unwrap();
    assert_eq!((response.user.as_str(), response.logins[0].as_str()), ("bot", "root"));
    let said = UnsignedIssuer::read(&response.certificates);
    assert_eq!(said["keys"], serde_json::to_value(&keys).unwrap());
    assert_eq!((&said["roles"][0], &said["traits"]["logins"][0]), (&"access".into(), &"root".into()));
    assert!(said["login_ip"].is_null(), "nobody logged in from anywhere: {said}");
    let event = cluster.audit.last(EventKind::CertCreate).unwrap();
    assert_eq!(event.code.code(), "TC000I");
    assert_eq!((event.user.as_deref(), &event.fields["issued_by"]), (Some("bot"), &"signer".into()));
    assert_eq!(event.fields["cert_type"], "user");
    assert_eq!(event.fields["serial"], response.certificates.serial);

    // No longer than the roles of the user allow, whatever the one who asks may have.
    for (asked, expected) in [
        (None, Duration::from_secs(7200)),
        (Some(u64::MAX), Duration::from_secs(7200)),
        (Some(600), Duration::from_secs(600)),
        (Some(0), MIN_USER_TTL),
    ] {
        let response = signer.sign_user(user(&cluster, "bot", asked)).await.unwrap();
        assert_eq!(response.certificates.valid_before, cluster.now().saturating_add(expected), "{asked:?}");
    }
    let unlimited = cluster.admin().sign_user(user(&cluster, "signer", Some(u64::MAX))).await.unwrap();
    assert_eq!(unlimited.certificates.valid_before, cluster.now().saturating_add(MAX_USER_TTL));

    // What the user is at that moment.
    let fewer = UpdateUser { roles: Some(Vec::new()), ..UpdateUser::default() };
    cluster.admin().update_user("bot".parse().unwrap(), fewer).await.unwrap();
    let response = signer.sign_user(user(&cluster, "bot", None)).await.unwrap();
    assert!(response.roles.is_empty() && response.logins.is_empty(), "{response:?}");
    // A role that binds certificates to the address of the login has none to bind this to.
    let pin = RoleOptions { pin_source_ip: true, ..RoleOptions::default() };
    let pinned = Role::new("pinned", RoleSpec { options: pin, ..RoleSpec::default() });
    cluster.admin().create_role(pinned).await.unwrap();
    cluster.member("desk", &["access", "pinned"]).await;
    let refused = signer.sign_user(user(&cluster, "desk", None)).await.unwrap_err();
    assert!(refused.message().contains("to the address of the login"), "{refused}");
    // Whoever could not log in gets none, and the one who asks hears why.
    let mut over = cluster.admin().user("bot".parse().unwrap()).await.unwrap();
    over.metadata.expires = Some(cluster.now().saturating_add(Duration::from_secs(59)));
    cluster.admin().replace_user(over).await.unwrap();
    let refused = signer.sign_user(user(&cluster, "bot", None)).await.unwrap_err();
    assert_eq!(refused.kind(), ApiErrorKind::Invalid);
    assert!(refused.message().starts_with("user bot gets no certificates now: "), "{refused}");
    let missing = signer.sign_user(user(&cluster, "nobody", None)).await.unwrap_err();
    assert_eq!((missing.kind(), missing.message()), (ApiErrorKind::NotFound, "user nobody not found"));
    assert_eq!(cluster.audit.last(EventKind::ApiFailure).unwrap().fields["operation"], "sign_user");
}

#[tokio::test]
async fn nobody_signs_by_a_role_that_does_not_say_so() {
    let cluster = Cluster::new().await;
    let everything = with_rule(&cluster, "everything", &["*"], Verb::Any).await;
    let builtin = cluster.as_user(&cluster.member("alice", &["access", "editor", "auditor"]).await);
    let users = with_rule(&cluster, "users", &["user_cert"], Verb::Create).await;
    let hosts = with_rule(&cluster, "hosts", &["host_cert"], Verb::Create).await;
    let readers = with_rule(&cluster, "readers", &["user_cert", "host_cert"], Verb::Read).await;
    let issued = cluster.issuer.issued();
    for (api, may_user, may_host) in [
        (&everything, false, false),
        (&builtin, false, false),
        (&users, true, false),
        (&hosts, false, true),
        (&readers, false, false),
        (&cluster.as_host(&cluster.host("web-1", HostRole::Node)), false, false),
        (&cluster.as_host(&cluster.host("gate", HostRole::Proxy)), false, false),
        (&cluster.as_host(&cluster.host("auth", HostRole::Auth)), true, true),
        (&cluster.anonymous(), false, false),
        (&cluster.admin(), true, true),
    ] {
        let signed = api.sign_user(user(&cluster, "alice", None)).await.map(drop);
        assert_eq!(signed.map_err(|error| error.kind()), may_user.then_some(()).ok_or(ApiErrorKind::Denied));
        let signed = api.sign_host(server(&cluster, &["db.example.net"])).await.map(drop);
        assert_eq!(signed.map_err(|error| error.kind()), may_host.then_some(()).ok_or(ApiErrorKind::Denied));
    }
    assert_eq!(cluster.issuer.issued() - issued, 6);
}

#[tokio::test]
async fn a_server_gets_the_names_that_were_given_and_no_member_s() {
    let cluster = Cluster::new().await;
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
    let from = |host, remote: &str| {
        cluster.auth.acting_as(Caller::Identity(Identity::Host(host), Some(remote.parse().unwrap())))
    };
    from(gate, "192.0.2.2:5000").announce_proxy(proxy).await.unwrap();
    let node = cluster.host("web-1", HostRole::Node);
    let record = NodeRecord {
        host_id: node.host_id,
        name: node.name.clone(),
        address: "web1.example.net:3022".to_owned(),
        labels: Labels::default(),
        sub_kind: teleport_core::resource::NodeKind::Teleport,
        proxy_ids: Vec::new(),
        version: "1".to_owned(),
    };
    from(node.clone(), "198.51.100.7:5001").announce_node(record).await.unwrap();

    // The auth host itself, who may take any name for a member of its own process.
    let id = node.host_id.to_string();
    for name in [
        "gate",
        "GATE.example.com",
        "proxy.example.net",
        "192.0.2.1",
        CLUSTER,
        "web-1",
        "Web-1.Example.com",
        "web1.example.net",
        &id,
        "*.example.com",
        "a,b",
        "",
    ] {
        for api in [cluster.admin(), cluster.as_host(&cluster.host("auth", HostRole::Auth))] {
            let error = api.sign_host(server(&cluster, &["fine.example.net", name])).await.unwrap_err();
            assert_eq!(error.kind(), ApiErrorKind::Invalid, "{name}: {error}");
            assert!(
                name.is_empty() || error.message().to_lowercase().contains(&name.to_lowercase()),
                "{error}"
            );
        }
    }
    let many: Vec<String> = (0..33).map(|number| format!("host-{number}")).collect();
    for names in [Vec::new(), many.iter().map(String::as_str).collect()] {
        let error = cluster.admin().sign_host(server(&cluster, &names)).await.unwrap_err();
        assert!(error.message().contains("between 1 and 32"), "{error}");
    }
    assert_eq!(cluster.issuer.issued(), 0);
    assert_eq!(cluster.audit.last(EventKind::ApiFailure).unwrap().fields["operation"], "sign_host");

    let names = ["DB.example.com", "db.example.com", "10.0.0.5", "localhost"];
    let signed = cluster.admin().sign_host(server(&cluster, &names)).await.unwrap();
    assert_eq!(signed.certificate.valid_before, cluster.now().saturating_add(MAX_HOST_TTL));
    let event = cluster.audit.last(EventKind::CertCreate).unwrap();
    assert_eq!(event.fields["names"], serde_json::json!(["db.example.com", "10.0.0.5", "localhost"]));
    assert_eq!((event.user.as_deref(), &event.fields["cert_type"]), (Some("local-admin"), &"host".into()));
}
