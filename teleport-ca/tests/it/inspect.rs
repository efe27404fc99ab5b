//! Descriptions for people.

use proptest::prelude::*;
use ssh_key::certificate::{Builder, CertType};
use teleport_ca::inspect::describe;
use teleport_core::cert::CertKind;
use teleport_core::clock::Timestamp;
use teleport_core::id::HostRole;

use crate::support::{HOST_ID, Subject, authority, host_grant, user_grant};
use teleport_core::cert::CertIssuer;

#[tokio::test]
async fn shows_every_field() {
    let ca = authority().await;
    let subject = Subject::new(1);
    let mut grant = user_grant(&["root", "alice"]);
    grant.source_addresses = vec!["192.0.2.0/24".into()];
    let issued = ca.sign_user_ssh(&grant, &subject.keys.ssh).await.unwrap();
    let described = describe(&format!("{} alice@laptop\n", issued.openssh)).unwrap();
    assert_eq!((described.kind, described.serial), (CertKind::User, issued.serial));
    assert!(described.signature_matches);
    assert!(!described.is_expired(Timestamp::from_unix_secs(issued.valid_before.unix_secs() - 1)));
    assert!(described.is_expired(issued.valid_before));
    let expected = format!(
        "Type:       ssh-ed25519-cert-v01@openssh.com user certificate\n\
         Key:        {}\n\
         Signed by:  {}\n\
         Key ID:     alice\n\
         Serial:     {}\n\
         Valid:      {} to {}\n\
         Principals: root\n\
         \x20           alice\n\
         Critical:   source-address 192.0.2.0/24\n\
         Extensions: login-ip@teleport-rs 192.0.2.7\n\
         \x20           mfa-device@teleport-rs 5f0fad5b-d9cb-469f-a165-70867728950e\n\
         \x20           permit-port-forwarding\n\
         \x20           permit-pty\n\
         \x20           roles@teleport-rs [\"access\"]\n\
         \x20           route-to-cluster@teleport-rs example.com\n\
         \x20           traits@teleport-rs {{\"team\":[\"blue\",\"größer, \\\"x\\\"\"]}}\n",
        subject.keys.ssh.fingerprint(),
        ca.trust_bundle().user_ca[0].fingerprint(),
        issued.serial,
        issued.valid_after,
        issued.valid_before,
    );
    assert_eq!(described.to_string(), expected);
}

#[tokio::test]
async fn names_the_host() {
    let ca = authority().await;
    let issued = ca.issue_host(host_grant("web-1", HostRole::Proxy), &Subject::new(2).keys).await.unwrap();
    let described = describe(&issued.ssh).unwrap();
    assert_eq!((described.kind, described.key_id), (CertKind::Host, format!("{HOST_ID} web-1")));
}

/// Whoever made the certificate: its text does not move the cursor of who looks at it.
#[test]
fn a_hostile_certificate_is_safe_to_show() {
    let key = Subject::new(3);
    let mut builder = Builder::new([7; 16], key.ssh.public_key(), 0, u64::MAX).unwrap();
    builder.cert_type(CertType::User).unwrap();
    builder.key_id("a\u{1b}[2J\nKey ID: root\u{7}").unwrap();
    builder.valid_principal("root\r,x\u{202e}").unwrap();
    builder.extension("e\u{9b}@x", "v\0\u{1b}").unwrap();
    let cert = builder.sign(&key.ssh).unwrap().to_openssh().unwrap();
    let described = describe(&cert).unwrap();
    assert_eq!(described.valid_before, Timestamp::MAX);
    let shown = described.to_string();
    assert_eq!(shown.lines().count(), 8, "{shown}");
    assert!(!shown.chars().any(|c| (c.is_control() && c != '\n') || c == '\u{202e}'), "{shown:?}");
}

#[tokio::test]
async fn says_when_the_signature_is_another_one() {
    let ca = authority().await;
    let issued = ca.sign_user_ssh(&user_grant(&["root"]), &Subject::new(1).keys.ssh).await.unwrap();
    let (name, base64) = issued.openssh.split_once(' ').unwrap();
    let mut bytes = data_encoding::BASE64.decode(base64.as_bytes()).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    let described = describe(&format!("{name} {}", data_encoding::BASE64.encode(&bytes))).unwrap();
    assert!(!described.signature_matches);
    assert!(described.to_string().contains("the signature does not match"));
}

#[test]
fn refuses_other_texts() {
    let key = Subject::new(1).keys.ssh.to_string();
    let long = format!("ssh-ed25519-cert-v01@openssh.com {}", "A".repeat(1 << 20));
    for text in
        ["", " ", "ssh-ed25519-cert-v01@openssh.com", "ssh-ed25519-cert-v01@openssh.com AAAA", &key, &long]
    {
        assert!(describe(text).is_err(), "{text:.40}");
    }
}

proptest! {
    #[test]
    fn no_damage_makes_it_panic(seed: u64, flips in prop::collection::vec((any::<prop::sample::Index>(), 1_u8..), 1..4), cut: prop::sample::Index) {
        let key = Subject::new(4);
        let mut builder = Builder::new(seed.to_be_bytes(), key.ssh.public_key(), 0, 1 << 40).unwrap();
        builder.cert_type(CertType::Host).unwrap();
        builder.key_id("id").unwrap();
        builder.valid_principal("a").unwrap();
        let good = builder.sign(&key.ssh).unwrap();
        let mut bytes = good.to_bytes().unwrap();
        for (index, flip) in flips {
            *index.get_mut(&mut bytes) ^= flip;
        }
        bytes.truncate(cut.index(2 * bytes.len()));
        let text = format!("ssh-ed25519-cert-v01@openssh.com {}", data_encoding::BASE64.encode(&bytes));
        if let Ok(described) = describe(&text) {
            let damaged = bytes != good.to_bytes().unwrap();
            prop_assert!(!(damaged && described.signature_matches));
            prop_assert!(!described.to_string().is_empty());
        }
    }

    #[test]
    fn no_text_makes_it_panic(text in ".{0,200}") {
        prop_assert!(describe(&text).is_err());
    }
}
