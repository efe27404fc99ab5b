//! What is issued is what the platform accepts, and what must not be issued is not.

use teleport_core::cert::{
    CertIssuer, CertRejected, HostCheck, Identity, IssueError, NO_LOGIN, TlsAuthority, UserCheck,
    verify_host, verify_tls, verify_user,
};
use teleport_core::id::{HostRole, OsLogin};

use crate::support::{HOST_ID, Subject, authority, host_grant, now, ssh_fields, user_grant, with_tls_fields};

const fn check(login: Option<&OsLogin>, now: teleport_core::clock::Timestamp) -> UserCheck<'_> {
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
    assert_eq!(identity.serial, issued.serial);
    assert_eq!(identity.expires, issued.valid_before);

    let tls = with_tls_fields(&issued.tls, TlsAuthority::User, |fields| {
        verify_tls(fields, &ca.trust_bundle(), None, now()).unwrap()
    });
    let Identity::User(tls) = tls else { panic!("not a user") };
    assert_eq!((tls.user, tls.roles, tls.traits), (grant.user, grant.roles, grant.traits));
    assert_eq!((tls.serial, tls.expires), (issued.serial, issued.valid_before));
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
