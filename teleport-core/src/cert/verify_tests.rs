#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
use super::*;
use crate::id::ClusterName;

fn key(byte: u8) -> PublicKey {
    let mut blob = b"\0\0\0\x0bssh-ed25519\0\0\0\x20".to_vec();
    blob.extend([byte; 32]);
    PublicKey::from_wire(&blob).unwrap()
}

const NOW: u64 = 1_800_000_000;

fn trust() -> TrustBundle {
    TrustBundle {
        cluster: ClusterName::new("example.com").unwrap(),
        user_ca: vec![key(1)],
        openssh_ca: Vec::new(),
        host_ca: vec![key(2)],
        user_tls_ca: Vec::new(),
        host_tls_ca: Vec::new(),
    }
}

fn fields(kind: CertKind) -> CertFields {
    let host = kind == CertKind::Host;
    let id = "0f8fad5b-d9cb-469f-a165-70867728950e";
    CertFields {
        kind,
        subject: key(9),
        authority: key(if host { 2 } else { 1 }),
        signature_algorithm: "ssh-ed25519".into(),
        serial: 7,
        key_id: if host { format!("{id} web-1") } else { "alice".into() },
        principals: if host { vec![id.into(), "web-1".into()] } else { vec!["root".into(), "alice".into()] },
        valid_after: NOW - 60,
        valid_before: NOW + 3600,
        critical_options: Vec::new(),
        extensions: if host {
            vec![(X_HOST_ROLE.into(), "node".into()), (X_CLUSTER.into(), "example.com".into())]
        } else {
            vec![(X_ROLES.into(), "[\"access\"]".into()), ("permit-pty".into(), String::new())]
        },
    }
}

fn user(change: impl FnOnce(&mut CertFields)) -> Result<UserIdentity, CertRejected> {
    let mut fields = fields(CertKind::User);
    change(&mut fields);
    let login = OsLogin::new("root").unwrap();
    let peer = Some("192.0.2.7".parse().unwrap());
    verify_user(
        &fields,
        &trust(),
        UserCheck { login: Some(&login), peer, now: Timestamp::from_unix_secs(NOW) },
    )
}

fn host(name: &str, change: impl FnOnce(&mut CertFields)) -> Result<HostIdentity, CertRejected> {
    let mut fields = fields(CertKind::Host);
    change(&mut fields);
    let now = Timestamp::from_unix_secs(NOW);
    verify_host(&fields, &trust(), HostCheck { name, role: HostRole::Node, now })
}

#[test]
fn accepts_a_good_user() {
    let identity = user(|_| {}).unwrap();
    assert_eq!(identity.user.as_str(), "alice");
    assert_eq!(identity.roles[0].as_str(), "access");
    assert!(identity.permits.pty && !identity.permits.port_forwarding);
    assert!(
        user(|cert| cert.critical_options = vec![("source-address".into(), "192.0.2.0/24".into())]).is_ok()
    );
    assert!(user(|cert| cert.valid_after = NOW + 60).is_ok());
}

#[test]
fn refuses_each_broken_user() {
    use CertRejected as R;
    type Change = fn(&mut CertFields);
    let options = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
    let cases: Vec<(Change, R)> = vec![
        (|cert| cert.kind = CertKind::Host, R::Kind),
        (|cert| cert.authority = key(2), R::Authority),
        (|cert| cert.authority = key(3), R::Authority),
        (|cert| cert.signature_algorithm = "ssh-rsa".into(), R::Algorithm),
        (|cert| cert.valid_before = NOW, R::Expired),
        (|cert| cert.valid_after = NOW + 61, R::NotYetValid),
        (|cert| cert.valid_before = u64::MAX, R::Lifetime),
        (|cert| cert.valid_after = 0, R::Lifetime),
        (|cert| cert.valid_after = u64::MAX, R::Lifetime),
        (|cert| cert.valid_after = cert.valid_before, R::Lifetime),
        (|cert| cert.principals.clear(), R::Principals),
        (|cert| cert.principals = vec![String::new()], R::Principals),
        (|cert| cert.principals = vec!["*".into()], R::Principals),
        (|cert| cert.principals = vec!["alice,root".into()], R::Principals),
        (|cert| cert.principals = vec!["root ".into()], R::Principals),
        (|cert| cert.principals = vec!["root\0".into()], R::Principals),
        (|cert| cert.principals = vec!["ROOT".into()], R::Login),
        (|cert| cert.principals = vec![NO_LOGIN.into()], R::Login),
        (|cert| cert.principals = vec!["root".into(); 33], R::Principals),
        (|cert| cert.key_id = "Alice".into(), R::Field),
        (|cert| cert.key_id = "alice\n".into(), R::Field),
        (|cert| cert.extensions = vec![(X_ROLES.into(), "access".into())], R::Field),
        (|cert| cert.extensions = vec![("x\u{1b}".into(), String::new())], R::Field),
    ];
    for (index, (change, expected)) in cases.into_iter().enumerate() {
        assert_eq!(user(change).unwrap_err(), expected, "case {index}");
    }
    for (name, value, expected) in [
        ("verify-required", "", R::Option),
        ("force-command", "", R::Option),
        ("source-address", "", R::Option),
        ("source-address", "nonsense", R::Option),
        ("source-address", "10.0.0.0/8", R::SourceAddress),
    ] {
        assert_eq!(
            user(|cert| cert.critical_options = options(name, value)).unwrap_err(),
            expected,
            "{name}"
        );
    }
}

/// A connection may go on from another address only if it could have begun there.
#[test]
fn a3_an_address_is_judged_again_where_a_connection_goes_on() {
    let bound = |networks: &str| {
        let option = ("source-address".to_owned(), networks.to_owned());
        user(|cert| cert.critical_options = vec![option]).unwrap()
    };
    let at = |address: &str| Some(address.parse().unwrap());
    let identity = bound("192.0.2.0/24,2001:db8::/32");
    for address in ["192.0.2.200", "::ffff:192.0.2.1", "2001:db8::7"] {
        assert_eq!(identity.may_come_from(at(address)), Ok(()), "{address}");
    }
    for address in [at("192.0.3.1"), at("::1"), None] {
        assert_eq!(identity.may_come_from(address), Err(CertRejected::SourceAddress), "{address:?}");
    }
    assert_eq!(user(|_| ()).unwrap().may_come_from(None), Ok(()), "who is not bound comes from everywhere");
}

#[test]
fn a3_a_critical_option_that_comes_twice_is_refused() {
    for (name, strict, loose) in
        [("source-address", "10.0.0.0/8", "0.0.0.0/0"), ("force-command", "/bin/false", "/bin/sh")]
    {
        let option = |value: &str| (name.to_owned(), value.to_owned());
        for pair in [[strict, loose], [loose, strict], [loose, loose]] {
            let twice = pair.map(option).to_vec();
            assert_eq!(
                user(|cert| cert.critical_options = twice).unwrap_err(),
                CertRejected::Option,
                "{pair:?}"
            );
        }
        assert!(user(|cert| cert.critical_options = vec![option(loose)]).is_ok(), "{name}");
    }
}

#[test]
fn a_host_is_known_by_its_names_only() {
    use CertRejected as R;
    assert_eq!(host("web-1", |_| {}).unwrap().name.as_str(), "web-1");
    assert_eq!(host("web-2", |_| {}).unwrap_err(), R::Name);
    assert_eq!(host("web-1", |cert| cert.authority = key(1)).unwrap_err(), R::Authority);
    assert_eq!(host("web-1", |cert| cert.kind = CertKind::User).unwrap_err(), R::Kind);
    assert_eq!(host("web-1", |cert| cert.principals.clear()).unwrap_err(), R::Principals);
    assert_eq!(host("web-1", |cert| cert.extensions[0].1 = "proxy".into()).unwrap_err(), R::Name);
    assert_eq!(host("web-1", |cert| cert.extensions[1].1 = "other.com".into()).unwrap_err(), R::Name);
    assert_eq!(host("web-1", |cert| cert.extensions.clear()).unwrap_err(), R::Field);
    assert_eq!(host("web-1", |cert| cert.valid_before = NOW).unwrap_err(), R::Expired);
    assert_eq!(host("web-1", |cert| cert.key_id = "web-1".into()).unwrap_err(), R::Field);
}
