#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]
use ssh_key::certificate::Builder;
use ssh_key::private::Ed25519Keypair;
use ssh_key::{PrivateKey, SigningKey};
use teleport_core::clock::Timestamp;
use teleport_core::id::{ClusterName, OsLogin};

use super::*;

const NOW: u64 = 1_800_000_000;
/// Made by `ssh-keygen` for these tests.
const P256: &str = "-----BEGIN OPENSSH PRIVATE KEY-----\n\
    b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAaAAAABNlY2RzYS\n\
    1zaGEyLW5pc3RwMjU2AAAACG5pc3RwMjU2AAAAQQTvAeamgHiJk97+iHYknJiaLUNuJY5E\n\
    5AoBv6RyjVcpcRVtT/7TaM4jLHZau2NAU0aDhHnJ79pOfQ3z4ozmz3FMAAAAmG2GH0Zthh\n\
    9GAAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBO8B5qaAeImT3v6I\n\
    diScmJotQ24ljkTkCgG/pHKNVylxFW1P/tNoziMsdlq7Y0BTRoOEecnv2k59DfPijObPcU\n\
    wAAAAgbrEx76uPXcPbM500yH4n1V/pqNNb5Ngf7MNnxijRIOcAAAAA\n\
    -----END OPENSSH PRIVATE KEY-----";
const P384: &str = "-----BEGIN OPENSSH PRIVATE KEY-----\n\
    b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAiAAAABNlY2RzYS\n\
    1zaGEyLW5pc3RwMzg0AAAACG5pc3RwMzg0AAAAYQQo0FlgiiJyKZ7uABOwPIvwtRg2kPsw\n\
    UDrDdF6sQw5O6hiPC3JNCa8zVPom192+WvUSPCsZ4s3ZDLcL6atXKNikAhjKn01Dw4/ZJs\n\
    muwNjnH8MUz3YGdgMGHnKnFF8OJ2kAAADQvUcqV71HKlcAAAATZWNkc2Etc2hhMi1uaXN0\n\
    cDM4NAAAAAhuaXN0cDM4NAAAAGEEKNBZYIoicime7gATsDyL8LUYNpD7MFA6w3RerEMOTu\n\
    oYjwtyTQmvM1T6Jtfdvlr1EjwrGeLN2Qy3C+mrVyjYpAIYyp9NQ8OP2SbJrsDY5x/DFM92\n\
    BnYDBh5ypxRfDidpAAAAMQDR7jondbZVWEXwfWwV5PbdoWMq6z1/E/lp8rUlFVoxmUr8ii\n\
    cXmIxKB+9T0kRQfXsAAAAAAQIDBAUGBw==\n\
    -----END OPENSSH PRIVATE KEY-----";

fn private(seed: u8) -> PrivateKey {
    PrivateKey::from(Ed25519Keypair::from_seed(&[seed; 32]))
}

fn public(key: &PrivateKey) -> PublicKey {
    PublicKey::from_wire(&key.public_key().to_bytes().unwrap()).unwrap()
}

fn trust(user_ca: &PrivateKey) -> TrustBundle {
    TrustBundle {
        cluster: ClusterName::new("example.com").unwrap(),
        user_ca: vec![public(user_ca)],
        openssh_ca: Vec::new(),
        host_ca: vec![public(&private(2))],
        user_tls_ca: Vec::new(),
        host_tls_ca: Vec::new(),
    }
}

fn builder(subject: KeyData) -> Builder {
    let mut builder = Builder::new([7; 32], subject, NOW - 60, NOW + 3600).unwrap();
    builder.key_id("alice").unwrap();
    builder.valid_principal("root").unwrap();
    builder
}

fn check(trust: &TrustBundle, certificate: &Certificate) -> Result<UserIdentity, CertRejected> {
    let login = OsLogin::new("root").unwrap();
    let check = UserCheck { login: Some(&login), peer: None, now: Timestamp::from_unix_secs(NOW) };
    let parsed = user(certificate, trust, check).map(|(identity, _)| identity);
    assert_eq!(parsed, user_from_bytes(&certificate.to_bytes().unwrap(), trust, check));
    parsed
}

#[test]
fn accepts_each_algorithm_of_authority_and_subject() {
    let keys = [private(1), PrivateKey::from_openssh(P256).unwrap(), PrivateKey::from_openssh(P384).unwrap()];
    for authority in &keys {
        for subject in &keys {
            // Several times: the integers of an ECDSA signature differ in length.
            for round in 0..8 {
                let mut builder = builder(subject.public_key().key_data().clone());
                builder.serial(round).unwrap();
                let certificate = builder.sign(authority).unwrap();
                let identity = check(&trust(authority), &certificate).unwrap();
                assert_eq!((identity.user.as_str(), identity.serial), ("alice", round));
            }
        }
    }
}

/// `cert_nested`: a certificate in the place of the authority's key, at any depth, is no authority.
#[test]
fn cert_nested() {
    let ca = private(1);
    let holder = private(5);
    let trust = trust(&ca);
    let mut authority = builder(holder.public_key().key_data().clone()).sign(&ca).unwrap();
    for depth in 1..=20 {
        let forged = with_authority(&authority, &holder);
        // Either the library does not read it, or it is not accepted.
        match Certificate::from_bytes(&forged) {
            Ok(forged) => {
                assert_eq!(parse(&forged).unwrap_err(), CertRejected::Malformed, "depth {depth}");
                authority = forged;
            }
            Err(_) => break,
        }
        assert!(
            user_from_bytes(
                &forged,
                &trust,
                UserCheck { login: None, peer: None, now: Timestamp::from_unix_secs(NOW) }
            )
            .is_err()
        );
    }
}

/// A user certificate whose authority's key is the certificate `authority`, signed by its holder.
fn with_authority(authority: &Certificate, holder: &PrivateKey) -> Vec<u8> {
    let template = builder(private(6).public_key().key_data().clone()).sign(holder).unwrap();
    let encoded = template.to_bytes().unwrap();
    let plain = template.signature_key().encoded_len_prefixed().unwrap()
        + template.signature().encoded_len_prefixed().unwrap();
    let mut forged = encoded[..encoded.len() - plain].to_vec();
    authority.to_bytes().unwrap().encode(&mut forged).unwrap();
    sign(holder, &forged).encode_prefixed(&mut forged).unwrap();
    forged
}

fn sign(key: &impl SigningKey, message: &[u8]) -> Signature {
    key.try_sign(message).unwrap()
}

#[test]
fn a_changed_byte_anywhere_is_refused() {
    let ca = private(1);
    let bytes = builder(private(5).public_key().key_data().clone()).sign(&ca).unwrap().to_bytes().unwrap();
    let trust = trust(&ca);
    let check = UserCheck { login: None, peer: None, now: Timestamp::from_unix_secs(NOW) };
    assert!(user_from_bytes(&bytes, &trust, check).is_ok());
    for at in 0..bytes.len() {
        for bit in [1, 0x80] {
            let mut changed = bytes.clone();
            changed[at] ^= bit;
            assert!(user_from_bytes(&changed, &trust, check).is_err(), "byte {at}");
        }
        assert!(user_from_bytes(&bytes[..at], &trust, check).is_err(), "cut at {at}");
    }
    let longer = [&bytes[..], &[0]].concat();
    assert_eq!(user_from_bytes(&longer, &trust, check).unwrap_err(), CertRejected::Malformed);
    let huge = vec![0; MAX_CERT_LEN + 1];
    assert_eq!(user_from_bytes(&huge, &trust, check).unwrap_err(), CertRejected::Malformed);
}

#[test]
fn integers_have_one_spelling() {
    assert!(fixed::<64>(&[]).is_none());
    let good = [&[0, 0, 0, 1, 5][..], &[0, 0, 0, 2, 0, 0x80]].concat();
    let read = fixed::<64>(&good).unwrap();
    assert_eq!((read[31], read[63]), (5, 0x80));
    for bad in [
        [&[0, 0, 0, 2, 0, 5][..], &[0, 0, 0, 1, 5]].concat(),
        [&[0, 0, 0, 1, 0x85][..], &[0, 0, 0, 1, 5]].concat(),
        [&[0, 0, 0, 0][..], &[0, 0, 0, 1, 5]].concat(),
        [&good[..], &[0]].concat(),
        [&[0, 0, 0, 33][..], &[1; 33], &[0, 0, 0, 1, 5]].concat(),
        [&[0xff, 0xff, 0xff, 0xff][..], &[1; 33]].concat(),
    ] {
        assert!(fixed::<64>(&bad).is_none(), "{bad:?}");
    }
}
