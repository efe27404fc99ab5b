//! What is issued is what the platform accepts, and what must not be issued is not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use teleport_ca::CertificateAuthority;
use teleport_core::cert::{
    CertIssuer, CertKind, CertRejected, HostCheck, Identity, IssueError, IssuedCertificates, MAX_HOST_TTL,
    NO_LOGIN, Permits, PublicKey, SubjectKeys, TlsAuthority, TlsFields, TlsPublicKey, UserCheck, danger,
    verify_host, verify_tls, verify_user,
};
use teleport_core::clock::{SystemClock, Timestamp};
use teleport_core::entropy::{Entropy, EntropyError, SystemEntropy};
use teleport_core::id::{HostRole, OsLogin, RoleName, UserName};

use crate::support::{
    HOST_ID, HOUR, Subject, authority, backend, cluster, host_grant, now, sealer, ssh_fields, user_grant,
    with_tls_fields, x509_life, x509_serial, x509_spki,
};

const fn check(login: Option<&OsLogin>, now: Timestamp) -> UserCheck<'_> {
    UserCheck { login, peer: None, now }
}

#[tokio::test]
async fn a_user_is_accepted_as_what_was_granted() {
    let ca = authority().await;
    let grant = user_grant(&["root", "alice", "root"]);
    let issued = ca.issue_user(grant.clone(), &Subject::new(1).keys).await.unwrap();
    let root = OsLogin::new("root").unwrap();
    let identity =
        verify_user(&ssh_fields(&issued.ssh), &ca.trust_bundle(), check(Some(&root), now())).unwrap();
    assert_eq!(identity.user, grant.user);
    assert_eq!(identity.logins, grant.logins[..2]);
    assert_eq!(identity.roles, grant.roles);
    assert_eq!(identity.traits, grant.traits);
    assert_eq!(identity.permits, grant.permits);
    assert_eq!(identity.login_ip, grant.login_ip);
    assert_eq!((identity.mfa_device, identity.valid_after), (grant.mfa_device, issued.valid_after));
    assert_eq!(identity.serial, issued.serial);
    assert_eq!(identity.expires, issued.valid_before);

    let tls = with_tls_fields(&issued.tls, TlsAuthority::User, |fields| {
        verify_tls(fields, &ca.trust_bundle(), None, now()).unwrap()
    });
    let Identity::User(tls) = tls else { panic!("not a user") };
    assert_eq!((tls.user, tls.roles, tls.traits), (grant.user, grant.roles, grant.traits));
    assert_eq!((tls.serial, tls.expires), (issued.serial, issued.valid_before));
    assert_eq!((tls.mfa_device, tls.valid_after), (grant.mfa_device, issued.valid_after));
}

/// No member of the cluster takes it for another one.
#[tokio::test]
async fn a_server_that_is_no_member_has_its_names_and_nothing_else() {
    let ca = authority().await;
    let grant = |names: &[&str]| {
        let names = names.iter().map(|&name| name.to_owned()).collect();
        danger::unchecked_ssh_server_grant(names, cluster(), HOUR)
    };
    let key = Subject::new(3).keys.ssh;
    let issued = ca.issue_ssh_server(grant(&["db.example.com", "10.0.0.5"]), &key).await.unwrap();
    let fields = ssh_fields(&issued.ssh);
    assert_eq!((fields.kind, &fields.subject), (CertKind::Host, &key));
    assert_eq!(fields.principals, ["db.example.com", "10.0.0.5"]);
    assert_eq!((fields.key_id.as_str(), fields.serial), ("db.example.com", issued.serial));
    assert!(fields.extensions.is_empty() && fields.critical_options.is_empty());
    assert_eq!(fields.valid_before, issued.valid_before.unix_secs());
    assert_eq!(fields.valid_before - fields.valid_after, HOUR.as_secs() + 60);
    for role in [HostRole::Node, HostRole::Proxy, HostRole::Auth] {
        let check = HostCheck { name: "db.example.com", role, now: now() };
        assert_eq!(verify_host(&fields, &ca.trust_bundle(), check), Err(CertRejected::Field));
    }
    let refused = [
        vec![],
        vec!["a"; 33],
        vec!["db.example.com", "*.example.com"],
        vec!["a,b"],
        vec!["2001:DB8::7"],
        vec!["teleport-proxy"],
        vec!["Teleport-Proxy.example.com"],
        vec!["teleport.cluster.local"],
        vec!["x.teleport.cluster.local"],
        vec![HOST_ID],
        vec!["0f8fad5b-d9cb-469f-a165-70867728950e.example.com"],
    ];
    for names in refused {
        let outcome = ca.issue_ssh_server(grant(&names), &key).await;
        assert!(matches!(outcome, Err(IssueError::Refused { .. })), "{names:?}");
    }
    let elsewhere =
        danger::unchecked_ssh_server_grant(vec!["a".into()], "other.example".parse().unwrap(), HOUR);
    assert!(matches!(ca.issue_ssh_server(elsewhere, &key).await, Err(IssueError::Refused { .. })));
    let of_authority = ca.trust_bundle().user_ca[0].clone();
    let outcome = ca.issue_ssh_server(grant(&["a"]), &of_authority).await;
    assert!(matches!(outcome, Err(IssueError::Refused { .. })));
    let long = danger::unchecked_ssh_server_grant(vec!["a".into()], cluster(), Duration::MAX);
    let issued = ca.issue_ssh_server(long, &key).await.unwrap();
    assert!(issued.valid_before <= now().saturating_add(MAX_HOST_TTL));
}

#[tokio::test]
async fn a_host_is_accepted_under_each_of_its_names() {
    let ca = authority().await;
    let mut grant = host_grant("web-1", HostRole::Node);
    grant.addresses =
        vec!["10.0.0.5".into(), "web-1".into(), "web.internal".into(), "::FFFF:10.0.0.5".into()];
    let issued = ca.issue_host(grant, &Subject::new(2).keys).await.unwrap();
    let fields = ssh_fields(&issued.ssh);
    let id = HOST_ID;
    assert_eq!(
        fields.principals,
        [
            &format!("{id}.example.com"),
            id,
            "web-1.example.com",
            "web-1",
            "localhost",
            "127.0.0.1",
            "::1",
            "10.0.0.5",
            "web.internal",
        ]
    );
    for name in &fields.principals {
        let check = HostCheck { name, role: HostRole::Node, now: now() };
        let identity = verify_host(&fields, &ca.trust_bundle(), check).unwrap();
        assert_eq!((identity.host_id.to_string().as_str(), identity.name.as_str()), (id, "web-1"));
        let proxy = HostCheck { role: HostRole::Proxy, ..check };
        assert_eq!(verify_host(&fields, &ca.trust_bundle(), proxy).unwrap_err(), CertRejected::Name);
    }
    with_tls_fields(&issued.tls, TlsAuthority::Host, |tls| {
        let identity = verify_tls(tls, &ca.trust_bundle(), None, now()).unwrap();
        assert!(
            matches!(identity, Identity::Host(host) if host.role == HostRole::Node && host.serial == issued.serial)
        );
    });
}

#[tokio::test]
async fn who_may_log_in_nowhere_gets_the_placeholder() {
    let ca = authority().await;
    let issued = ca.issue_user(user_grant(&[]), &Subject::new(1).keys).await.unwrap();
    let fields = ssh_fields(&issued.ssh);
    assert_eq!(fields.principals, [NO_LOGIN]);
    let root = OsLogin::new("root").unwrap();
    let refused = verify_user(&fields, &ca.trust_bundle(), check(Some(&root), now()));
    assert_eq!(refused.unwrap_err(), CertRejected::Login);
    assert!(verify_user(&fields, &ca.trust_bundle(), check(None, now())).unwrap().logins.is_empty());
}

#[tokio::test]
async fn what_is_not_permitted_is_absent() {
    let ca = authority().await;
    for bits in 0..16_u8 {
        let mut grant = user_grant(&["root"]);
        grant.permits = Permits {
            agent_forwarding: bits & 1 != 0,
            port_forwarding: bits & 2 != 0,
            pty: bits & 4 != 0,
            x11_forwarding: bits & 8 != 0,
        };
        let permits = grant.permits;
        let fields = ssh_fields(&ca.sign_user_ssh(&grant, &Subject::new(1).keys.ssh).await.unwrap().openssh);
        assert_eq!(verify_user(&fields, &ca.trust_bundle(), check(None, now())).unwrap().permits, permits);
        let names: Vec<&str> = fields.extensions.iter().map(|(name, _)| name.as_str()).collect();
        assert!(names.is_sorted(), "{names:?}");
        let permitted = names.iter().filter(|name| name.starts_with("permit-")).count();
        assert_eq!(u32::try_from(permitted).unwrap(), bits.count_ones());
    }
}

#[tokio::test]
async fn a_bound_certificate_works_from_there_only() {
    let ca = authority().await;
    let mut grant = user_grant(&["root"]);
    grant.source_addresses = vec!["192.0.2.77/24".into(), "2001:db8::7".into()];
    let issued = ca.issue_user(grant, &Subject::new(1).keys).await.unwrap();
    let fields = ssh_fields(&issued.ssh);
    assert_eq!(
        fields.critical_options,
        [("source-address".to_owned(), "192.0.2.0/24,2001:db8::7".to_owned())]
    );
    for (peer, allowed) in
        [("192.0.2.1", true), ("::ffff:192.0.2.1", true), ("2001:db8::7", true), ("10.0.0.1", false)]
    {
        let peer = Some(peer.parse().unwrap());
        let check = UserCheck { login: None, peer, now: now() };
        assert_eq!(verify_user(&fields, &ca.trust_bundle(), check).is_ok(), allowed, "{peer:?}");
        let tls = |fields: &TlsFields<'_>| verify_tls(fields, &ca.trust_bundle(), peer, now()).is_ok();
        assert_eq!(with_tls_fields(&issued.tls, TlsAuthority::User, tls), allowed, "{peer:?}");
    }
}

/// Users are not hosts, hosts are not users, and another cluster's authority is nobody.
#[tokio::test]
async fn the_authorities_do_not_cross() {
    let (ca, other) = (authority().await, authority().await);
    let user = ca.issue_user(user_grant(&["root"]), &Subject::new(1).keys).await.unwrap();
    let host = ca.issue_host(host_grant("web-1", HostRole::Auth), &Subject::new(2).keys).await.unwrap();
    let trust = ca.trust_bundle();
    let as_host = HostCheck { name: "web-1", role: HostRole::Auth, now: now() };
    assert_eq!(verify_user(&ssh_fields(&host.ssh), &trust, check(None, now())), Err(CertRejected::Kind));
    assert_eq!(verify_host(&ssh_fields(&user.ssh), &trust, as_host), Err(CertRejected::Kind));
    for (tls, wrong) in [(&user.tls, TlsAuthority::Host), (&host.tls, TlsAuthority::User)] {
        let refused = with_tls_fields(tls, wrong, |fields| verify_tls(fields, &trust, None, now()));
        assert_eq!(refused.unwrap_err(), CertRejected::Kind);
    }
    // Kinds exchanged in the fields as well, so that the keys alone decide.
    let mut swapped = ssh_fields(&host.ssh);
    swapped.kind = CertKind::User;
    assert_eq!(verify_user(&swapped, &trust, check(None, now())), Err(CertRejected::Authority));
    let foreign = other.trust_bundle();
    assert_eq!(
        verify_user(&ssh_fields(&user.ssh), &foreign, check(None, now())),
        Err(CertRejected::Authority)
    );
    assert_eq!(verify_host(&ssh_fields(&host.ssh), &foreign, as_host), Err(CertRejected::Authority));
}

#[tokio::test]
async fn life_ends_when_it_says() {
    let ca = authority().await;
    let mut grant = user_grant(&["root"]);
    grant.ttl = Duration::MAX;
    let issued = ca.issue_user(grant, &Subject::new(1).keys).await.unwrap();
    let fields = ssh_fields(&issued.ssh);
    assert_eq!(fields.valid_before - fields.valid_after, 30 * 3600 + 60);
    let at = |secs| verify_user(&fields, &ca.trust_bundle(), check(None, Timestamp::from_unix_secs(secs)));
    assert!(at(fields.valid_before - 1).is_ok());
    assert_eq!(at(fields.valid_before).unwrap_err(), CertRejected::Expired);
    assert_eq!(at(fields.valid_after - 61).unwrap_err(), CertRejected::NotYetValid);
    let (after, before) = x509_life(&issued.tls);
    assert_eq!((after, before), (fields.valid_after, fields.valid_before));
}

#[tokio::test]
async fn every_issue_is_another_certificate() {
    let ca = authority().await;
    let keys = Subject::new(1).keys;
    let mut serials = std::collections::BTreeSet::new();
    for _ in 0..64 {
        let issued = ca.issue_user(user_grant(&["root"]), &keys).await.unwrap();
        assert!(serials.insert(issued.serial));
        let serial = x509_serial(&issued.tls);
        assert_eq!(serial.len(), 16, "{serial:?}");
        assert!((0x40..0x80).contains(&serial[0]), "positive and of full length");
    }
}

#[tokio::test]
async fn refuses_what_would_be_dangerous() {
    let ca = authority().await;
    let subject = Subject::new(1);
    let refused = |result: Result<IssuedCertificates, IssueError>, expected: &str| match result {
        Err(IssueError::Refused { reason }) => assert_eq!(reason, expected),
        other => panic!("{expected}: {other:?}"),
    };
    // The authority's own keys as subjects: such a certificate would look like an authority.
    let trust = ca.trust_bundle();
    for own in trust.user_ca.iter().chain(&trust.host_ca) {
        let keys = SubjectKeys { ssh: own.clone(), tls: subject.keys.tls.clone() };
        refused(ca.issue_user(user_grant(&["root"]), &keys).await, "the key is one of the authority");
        refused(
            ca.issue_host(host_grant("a", HostRole::Node), &keys).await,
            "the key is one of the authority",
        );
    }
    for own in trust.user_tls_ca.iter().chain(&trust.host_tls_ca) {
        let tls = TlsPublicKey::from_spki(&x509_spki(own.as_der())).unwrap();
        let keys = SubjectKeys { ssh: subject.keys.ssh.clone(), tls };
        refused(ca.issue_user(user_grant(&["root"]), &keys).await, "the key is one of the authority");
    }
    let zero = PublicKey::from_wire(&[&b"\0\0\0\x0bssh-ed25519\0\0\0\x20"[..], &[0; 32]].concat()).unwrap();
    let keys = SubjectKeys { ssh: zero, tls: subject.keys.tls.clone() };
    refused(ca.issue_user(user_grant(&["root"]), &keys).await, "the key gives no security");
    let many: Vec<String> = (0..33).map(|index| format!("u{index}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    refused(ca.issue_user(user_grant(&many), &subject.keys).await, "more than 32 logins");
    let mut huge = user_grant(&["root"]);
    huge.traits.insert("t".into(), vec!["x".repeat(16 * 1024)]);
    refused(ca.issue_user(huge, &subject.keys).await, "the certificate would be too large");
    refused(
        ca.issue_host(host_grant("teleport.cluster.local", HostRole::Node), &subject.keys).await,
        "a name or address belongs to another host or service",
    );
}

#[tokio::test]
async fn without_randomness_nothing_is_issued() {
    let failing = Arc::new(Failing::default());
    let (clock, entropy) = (Arc::new(SystemClock::new()), Arc::clone(&failing));
    let ca =
        CertificateAuthority::open_or_create(cluster(), backend(), sealer(0), clock, entropy).await.unwrap();
    failing.0.store(true, Ordering::SeqCst);
    let subject = Subject::new(1);
    let user = ca.issue_user(user_grant(&["root"]), &subject.keys).await;
    assert!(matches!(user, Err(IssueError::Unavailable { .. })));
    let host = ca.issue_host(host_grant("a", HostRole::Node), &subject.keys).await;
    assert!(matches!(host, Err(IssueError::Unavailable { .. })));
}

#[derive(Debug, Default)]
struct Failing(AtomicBool);

impl Entropy for Failing {
    fn fill(&self, out: &mut [u8]) -> Result<(), EntropyError> {
        if self.0.load(Ordering::SeqCst) { Err(EntropyError::new()) } else { SystemEntropy::new().fill(out) }
    }
}

/// Whatever a user or a role is called, a user is no service of the cluster.
#[tokio::test]
async fn no_name_makes_a_user_a_host() {
    let ca = authority().await;
    let mut grant = user_grant(&["root"]);
    grant.user = UserName::new(HOST_ID).unwrap();
    grant.roles =
        ["auth", "proxy", "Proxy", "node", "Admin"].map(|name| RoleName::new(name).unwrap()).to_vec();
    let issued = ca.issue_user(grant, &Subject::new(1).keys).await.unwrap();
    let trust = ca.trust_bundle();
    let identity =
        |authority| with_tls_fields(&issued.tls, authority, |fields| verify_tls(fields, &trust, None, now()));
    assert!(matches!(identity(TlsAuthority::User), Ok(Identity::User(_))));
    assert_eq!(identity(TlsAuthority::Host), Err(CertRejected::Kind));
    let check = HostCheck { name: HOST_ID, role: HostRole::Auth, now: now() };
    assert_eq!(verify_host(&ssh_fields(&issued.ssh), &trust, check), Err(CertRejected::Kind));
}
