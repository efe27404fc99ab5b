//! Hundreds of broken certificates and dozens of good ones, against the acceptance function and against a live node.

use std::sync::Arc;

use russh::client;
use russh::keys::PublicKeyOrCertificate;
use ssh_key::certificate::CertType;
use ssh_key::encoding::Encode;
use ssh_key::{Certificate, PrivateKey, SigningKey};
use teleport_core::cert::{CertRejected, HostCheck, TrustBundle, UserCheck};
use teleport_core::clock::{Clock, SystemClock, Timestamp};
use teleport_core::id::{ClusterName, HostRole};
use teleport_ssh::authn;

use super::support::{PATIENCE, TestNode, UserCert, me, neutral, private_key};

const HOUR: u64 = 3600;

fn now() -> u64 {
    SystemClock::new().now().unix_secs()
}

fn holder() -> PrivateKey {
    private_key(2)
}

fn user_ca() -> PrivateKey {
    private_key(1)
}

fn host_ca() -> PrivateKey {
    private_key(3)
}

fn trust() -> TrustBundle {
    TrustBundle {
        cluster: ClusterName::new("example.com").unwrap(),
        user_ca: vec![neutral(&user_ca())],
        openssh_ca: Vec::new(),
        host_ca: vec![neutral(&host_ca())],
        user_tls_ca: Vec::new(),
        host_tls_ca: Vec::new(),
    }
}

fn with(change: impl FnOnce(&mut UserCert)) -> UserCert {
    let mut certificate = UserCert::new();
    change(&mut certificate);
    certificate
}

/// Certificates that a library reads without complaint, and that nobody may accept.
fn well_formed_mutants() -> Vec<(String, Certificate)> {
    let (holder, ca) = (holder(), user_ca());
    let mut mutants = Vec::new();
    let mut add = |name: String, certificate: UserCert, authority: &PrivateKey| {
        if let Ok(certificate) = certificate.try_sign(&holder, authority) {
            mutants.push((name, certificate));
        }
    };
    for seed in 3..40 {
        add(format!("authority {seed}"), UserCert::new(), &private_key(seed));
    }
    add("signed by its own holder".into(), UserCert::new(), &holder);
    let host = || with(|cert| cert.kind = CertType::Host);
    add("host certificate of the user authority".into(), host(), &ca);
    add("host certificate of the host authority".into(), host(), &host_ca());
    add("user certificate of the host authority".into(), UserCert::new(), &host_ca());
    let login = me().to_string();
    let mut odd: Vec<Vec<String>> = vec![vec![], vec![login.clone(); 33]];
    for text in [
        String::new(),
        "*".into(),
        "?".into(),
        format!("{login},other"),
        format!("other,{login}"),
        format!("{login} "),
        format!(" {login}"),
        format!("{login}\0"),
        format!("{login}\n"),
        format!("{login}\r"),
        format!("{login}\t"),
        format!("{login}*"),
        format!("{login}/"),
        format!("{login}@host"),
        format!("-{login}"),
        format!("{login}\u{200b}"),
        format!("{login}\u{1b}[0m"),
        login.to_uppercase(),
        "r\u{301}oot".into(),
        "other".into(),
        "-teleport-nologin".into(),
        "x".repeat(65),
        "x".repeat(4000),
        "$(id)".into(),
        "`id`".into(),
        "%u".into(),
        "~".into(),
        "..".into(),
        "!root".into(),
    ] {
        odd.push(vec![text.clone()]);
        // One bad principal spoils the good ones, except for names that are merely others.
        if !matches!(text.as_str(), "other" | "-teleport-nologin") && text != login.to_uppercase() {
            odd.push(vec![login.clone(), text.clone()]);
            odd.push(vec![text, login.clone()]);
        }
    }
    for principals in odd {
        let name = format!(
            "principals {:?}",
            principals.iter().map(|text| text.chars().take(20).collect::<String>()).collect::<Vec<_>>()
        );
        add(name, with(|cert| cert.principals = principals), &ca);
    }
    let now = now();
    let times: Vec<(u64, u64)> = vec![
        (0, u64::MAX),
        (0, now + HOUR),
        (now - 60, u64::MAX),
        (now - 60, i64::MAX as u64),
        (now - 60, i64::MAX as u64 + 1),
        (now - 60, now + 30 * HOUR + 600),
        (now - 60, now + 365 * 24 * HOUR),
        (now + 300, now + HOUR),
        (now + 24 * HOUR, now + 25 * HOUR),
        (now - 2 * HOUR, now),
        (now - 2 * HOUR, now - 1),
        (now - 2 * HOUR, now - 60),
        (now - 31 * HOUR, now + 60),
        (1, 2),
        (0, 1),
        (0, 0),
    ];
    for (valid_after, valid_before) in times {
        let name = format!(
            "valid from now{:+} to now{:+}",
            valid_after.wrapping_sub(now) as i64,
            valid_before.wrapping_sub(now) as i64
        );
        add(name, with(|cert| (cert.valid_after, cert.valid_before) = (valid_after, valid_before)), &ca);
    }
    for option in [
        "verify-required",
        "no-such-option",
        "Force-Command",
        "force-command ",
        "source-Address",
        "permit-pty",
        "x@example.com",
        "roles@teleport-rs",
        "no-touch-required",
        "",
        " ",
        "\u{1b}",
    ] {
        for value in ["", "yes", "127.0.0.1"] {
            add(
                format!("critical option {option:?}={value:?}"),
                UserCert::new().critical(option, value),
                &ca,
            );
        }
    }
    for value in [
        "",
        "nonsense",
        "10.0.0.0/8",
        "127.0.0.1/33",
        "::1",
        "127.0.0.2",
        "127.0.0.1,",
        ",127.0.0.1",
        "127.0.0.1 ",
        "localhost",
        "*",
        "0.0.0.0",
        "!127.0.0.1",
        "127.1",
        "0127.0.0.1",
        "300.0.0.1",
        "127.0.0.1,nonsense",
        "::ffff:127.0.0.2",
    ] {
        add(format!("source-address {value:?}"), UserCert::new().critical("source-address", value), &ca);
    }
    add("force-command empty".into(), UserCert::new().critical("force-command", ""), &ca);
    add("force-command with control".into(), UserCert::new().critical("force-command", "a\nb"), &ca);
    for key_id in [
        "",
        "Alice",
        "alice ",
        " alice",
        "alice\n",
        "alice\0",
        "alice\u{1b}[1m",
        "a,b",
        "a/b",
        "../x",
        "-x",
        "alice\u{7}",
        "ALICE",
        "\u{e9}",
        "a b",
        "@",
        ".",
        "_a",
        "a\u{202e}b",
    ] {
        add(format!("key id {key_id:?}"), with(|cert| cert.key_id = key_id.into()), &ca);
    }
    add("key id of 65".into(), with(|cert| cert.key_id = "a".repeat(65)), &ca);
    for (name, value) in [
        ("roles@teleport-rs", "access"),
        ("roles@teleport-rs", "{}"),
        ("roles@teleport-rs", "[1]"),
        ("roles@teleport-rs", "[\"a b\"]"),
        ("roles@teleport-rs", "[\"access\""),
        ("roles@teleport-rs", "[\"access\"]x"),
        ("traits@teleport-rs", "[]"),
        ("traits@teleport-rs", "{"),
        ("traits@teleport-rs", "{\"logins\":1}"),
        ("login-ip@teleport-rs", "nowhere"),
        ("login-ip@teleport-rs", ""),
        ("mfa-device@teleport-rs", ""),
        ("mfa-device@teleport-rs", "phone"),
        ("mfa-device@teleport-rs", "0F8FAD5B-D9CB-469F-A165-70867728950E"),
        ("x\n", ""),
        ("x", "\u{0}"),
        ("x", "a\u{1b}b"),
    ] {
        let change = |cert: &mut UserCert| {
            cert.extensions.retain(|(known, _)| known != name);
            cert.extensions.push((name.into(), value.into()));
        };
        add(format!("extension {name:?}={value:?}"), with(change), &ca);
    }
    for count in [64, 200, 1000] {
        let change = |cert: &mut UserCert| {
            for number in 0..count {
                cert.extensions.push((format!("x{number}"), "y".repeat(300)));
            }
        };
        add(format!("{count} long extensions"), with(change), &ca);
    }
    mutants
}

/// Bytes that are nearly a good certificate.
fn malformed_mutants() -> Vec<(String, Vec<u8>)> {
    let (holder, ca) = (holder(), user_ca());
    let good = UserCert::new().sign(&holder, &ca);
    let bytes = good.to_bytes().unwrap();
    let mut mutants = Vec::new();
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] = changed[at].wrapping_add(1 + (at % 254) as u8);
        mutants.push((format!("byte {at}"), changed));
    }
    for at in (0..bytes.len()).step_by(3) {
        mutants.push((format!("cut at {at}"), bytes[..at].to_vec()));
    }
    for at in (0..bytes.len() - 4).step_by(2) {
        for length in [0, 1, 1 << 28, u32::MAX] {
            let mut changed = bytes.clone();
            changed[at..at + 4].copy_from_slice(&length.to_be_bytes());
            if changed != bytes {
                mutants.push((format!("length {length} at {at}"), changed));
            }
        }
    }
    for extra in [1, 4, 1000, 17_000] {
        mutants.push((format!("{extra} bytes more"), [&bytes[..], &vec![0; extra]].concat()));
    }
    // The holder's certificate, and deeper ones, in the place of the authority's key.
    let mut authority = good;
    for depth in 1..=9 {
        let (signature_key, signature) =
            (authority.to_bytes().unwrap(), UserCert::new().sign(&holder, &holder));
        let encoded = signature.to_bytes().unwrap();
        let tail = signature.signature_key().encoded_len_prefixed().unwrap()
            + signature.signature().encoded_len_prefixed().unwrap();
        let mut forged = encoded[..encoded.len() - tail].to_vec();
        signature_key.encode(&mut forged).unwrap();
        sign(&holder, &forged).encode_prefixed(&mut forged.clone()).unwrap();
        let signed = sign(&holder, &forged);
        signed.encode_prefixed(&mut forged).unwrap();
        mutants.push((format!("nested {depth} deep"), forged.clone()));
        match Certificate::from_bytes(&forged) {
            Ok(nested) => authority = nested,
            Err(_) => break,
        }
    }
    // Subjects and authorities of algorithms that are not accepted, in otherwise plain certificates.
    for algorithm in [
        "ssh-rsa-cert-v01@openssh.com",
        "ssh-dss-cert-v01@openssh.com",
        "ecdsa-sha2-nistp521-cert-v01@openssh.com",
        "sk-ssh-ed25519-cert-v01@openssh.com",
        "sk-ecdsa-sha2-nistp256-cert-v01@openssh.com",
        "rsa-sha2-512-cert-v01@openssh.com",
        "ssh-ed25519",
        "ssh-ed25519-cert-v00@openssh.com",
        "",
    ] {
        let mut forged = Vec::new();
        algorithm.encode(&mut forged).unwrap();
        forged.extend_from_slice(&bytes[4 + "ssh-ed25519-cert-v01@openssh.com".len()..]);
        mutants.push((format!("algorithm {algorithm:?}"), forged));
    }
    mutants
}

fn sign(key: &impl SigningKey, message: &[u8]) -> ssh_key::Signature {
    key.try_sign(message).unwrap()
}

fn good_ones() -> Vec<(String, Certificate)> {
    let (holder, ca) = (holder(), user_ca());
    let mut good = Vec::new();
    let mut add = |name: String, certificate: UserCert| good.push((name, certificate.sign(&holder, &ca)));
    let (login, now) = (me().to_string(), now());
    add("plain".into(), UserCert::new());
    for others in 0..32 {
        let mut principals: Vec<String> = (0..others).map(|number| format!("other{number}")).collect();
        principals.insert(others / 2, login.clone());
        add(format!("{others} other principals"), with(|cert| cert.principals = principals));
    }
    for (after, before) in
        [(60, 60), (0, HOUR), (60, 30 * HOUR), (HOUR, 29 * HOUR), (29 * HOUR, HOUR), (60, 12 * HOUR)]
    {
        let change =
            |cert: &mut UserCert| (cert.valid_after, cert.valid_before) = (now - after, now + before);
        add(format!("from {after} s ago for {before} s"), with(change));
    }
    for value in ["127.0.0.1", "127.0.0.0/8", "10.0.0.0/8,127.0.0.1", "0.0.0.0/0", "::1,127.0.0.1/32"] {
        add(format!("source-address {value}"), UserCert::new().critical("source-address", value));
    }
    for command in ["true", "/bin/sh -c 'exit 0'"] {
        add(format!("force-command {command}"), UserCert::new().critical("force-command", command));
    }
    for extension in [
        "permit-X11-forwarding",
        "permit-agent-forwarding",
        "permit-port-forwarding",
        "permit-user-rc",
        "unknown@example.com",
    ] {
        add(
            format!("extension {extension}"),
            with(|cert| cert.extensions.push((extension.into(), String::new()))),
        );
    }
    for user in ["a", "alice@example.com", "0", "x.y-z_w"] {
        add(format!("user {user}"), with(|cert| cert.key_id = user.into()));
    }
    good
}

/// G-4: at least 500 mutants and 50 good ones at the function that every listener calls. Also A1, A4, A5, A6, A10.
#[test]
fn mutants_are_refused_and_good_ones_accepted() {
    let (trust, login) = (trust(), me());
    let peer = Some("127.0.0.1".parse().unwrap());
    let mut mutants: Vec<(String, Vec<u8>)> =
        well_formed_mutants().into_iter().map(|(name, cert)| (name, cert.to_bytes().unwrap())).collect();
    let well_formed = mutants.len();
    mutants.extend(malformed_mutants());
    assert!(well_formed >= 150 && mutants.len() >= 500, "{well_formed} of {}", mutants.len());
    // Not before they were made: some end at that very second.
    let time = Timestamp::from_unix_secs(now());
    let check = UserCheck { login: Some(&login), peer, now: time };
    let accepted: Vec<&String> = mutants
        .iter()
        .filter(|(_, bytes)| authn::user_from_bytes(bytes, &trust, check).is_ok())
        .map(|(name, _)| name)
        .collect();
    assert!(accepted.is_empty(), "accepted: {accepted:?}");
    // None of them is a host, either.
    for (name, bytes) in &mutants {
        let check = HostCheck { name: login.as_str(), role: HostRole::Node, now: time };
        assert!(authn::host_from_bytes(bytes, &trust, check).is_err(), "{name}");
    }
    let good = good_ones();
    assert!(good.len() >= 50, "{}", good.len());
    for (name, certificate) in good {
        let bytes = certificate.to_bytes().unwrap();
        let check = UserCheck { now: Timestamp::from_unix_secs(now()), ..check };
        assert_eq!(authn::user_from_bytes(&bytes, &trust, check).map(drop), Ok(()), "{name}");
    }
}

/// A4, A10: what refuses them is what should.
#[test]
fn the_reason_is_the_right_one() {
    let (trust, login) = (trust(), me());
    let check = UserCheck { login: Some(&login), peer: None, now: Timestamp::from_unix_secs(now()) };
    let reason = |certificate: UserCert, authority: &PrivateKey| {
        let bytes = certificate.sign(&holder(), authority).to_bytes().unwrap();
        authn::user_from_bytes(&bytes, &trust, check).unwrap_err()
    };
    assert_eq!(reason(UserCert::new(), &host_ca()), CertRejected::Authority);
    assert_eq!(reason(with(|cert| cert.kind = CertType::Host), &user_ca()), CertRejected::Kind);
    assert_eq!(reason(with(|cert| cert.principals.clear()), &user_ca()), CertRejected::Principals);
    assert_eq!(reason(with(|cert| cert.valid_before = now() - 1), &user_ca()), CertRejected::Expired);
}

struct AnyServer;

impl client::Handler for AnyServer {
    type Error = russh::Error;

    async fn check_server_key(&mut self, _key: &PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        Ok(true)
    }
}

async fn accepted(node: &TestNode, certificate: &Certificate) -> bool {
    let config = Arc::new(client::Config::default());
    let attempt = async {
        let mut session = client::connect(config, node.address, AnyServer).await?;
        session.authenticate_openssh_cert(me().as_str(), Arc::new(holder()), certificate.clone()).await
    };
    match tokio::time::timeout(PATIENCE, attempt).await.unwrap() {
        Ok(result) => result.success(),
        // The node may also hang up.
        Err(_) => false,
    }
}

/// The same through the protocol: every mutant that can be sent, and every good one.
#[tokio::test(flavor = "multi_thread")]
async fn a_live_node_agrees() {
    let node = TestNode::start().await;
    let mutants = well_formed_mutants();
    let mut wrong = Vec::new();
    for (name, certificate) in &mutants {
        if accepted(&node, certificate).await {
            wrong.push(name);
        }
    }
    assert!(wrong.is_empty(), "accepted: {wrong:?}");
    for (name, certificate) in good_ones() {
        assert!(accepted(&node, &certificate).await, "refused: {name}");
    }
    assert_eq!(node.status.counts().panics, 0);
    // What the SSH library lets through to us, we tell of.
    assert!(node.auth.count("T3007W") > mutants.len() / 2);
}
