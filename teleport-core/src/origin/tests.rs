#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
use proptest::prelude::*;

use super::*;
use crate::cert::{
    CertFields, CertKind, CertRejected, PublicKey, TrustBundle, X_CLUSTER, X_HOST_ROLE, proxy_principal,
};
use crate::id::{ClusterName, HostRole};

const NOW: Timestamp = Timestamp::from_unix_secs(1_800_000_000);
const CLIENT: &str = "192.0.2.7:4711";

fn node() -> HostId {
    "1f8fad5b-d9cb-469f-a165-70867728950e".parse().unwrap()
}

fn statement() -> Statement {
    Statement::new(CLIENT.parse().unwrap(), Audience::Node(node()), NOW, Nonce::new([7; 16]))
}

fn wire(statement: &Statement, certificate: &[u8]) -> Vec<u8> {
    [statement.unsigned(certificate).unwrap(), vec![9; SIGNATURE_LEN]].concat()
}

fn key(byte: u8) -> PublicKey {
    let mut blob = b"\0\0\0\x0bssh-ed25519\0\0\0\x20".to_vec();
    blob.extend([byte; 32]);
    PublicKey::from_wire(&blob).unwrap()
}

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

fn proxy() -> CertFields {
    let trust = trust();
    CertFields {
        kind: CertKind::Host,
        subject: key(9),
        authority: key(2),
        signature_algorithm: "ssh-ed25519".into(),
        serial: 7,
        key_id: "0f8fad5b-d9cb-469f-a165-70867728950e gate".into(),
        principals: vec!["gate".into(), proxy_principal(&trust.cluster)],
        valid_after: NOW.unix_secs() - 600,
        valid_before: NOW.unix_secs() + 3600,
        critical_options: Vec::new(),
        extensions: vec![(X_HOST_ROLE.into(), "proxy".into()), (X_CLUSTER.into(), "example.com".into())],
    }
}

fn accept(seen: &mut Seen, statement: &Statement, now: Timestamp) -> Result<Origin, OriginRejected> {
    let trust = trust();
    seen.accept(&proxy(), statement, OriginCheck { trust: &trust, audience: Audience::Node(node()), now })
}

#[test]
fn a_good_statement_is_believed_and_says_who_made_it() {
    let origin = accept(&mut Seen::default(), &statement(), NOW).unwrap();
    assert_eq!(origin.client, CLIENT.parse().unwrap());
    assert_eq!((origin.proxy.role, origin.proxy.name.as_str()), (HostRole::Proxy, "gate"));
}

#[test]
fn c9_only_a_proxy_of_the_cluster_is_believed() {
    type Change = fn(&mut CertFields);
    let cases: [(Change, CertRejected); 8] = [
        (|fields| fields.authority = key(3), CertRejected::Authority),
        (|fields| fields.authority = key(1), CertRejected::Authority),
        (|fields| fields.kind = CertKind::User, CertRejected::Kind),
        (|fields| fields.extensions[0].1 = "node".into(), CertRejected::Name),
        (|fields| fields.extensions[0].1 = "auth".into(), CertRejected::Name),
        (|fields| fields.extensions[1].1 = "other.com".into(), CertRejected::Name),
        (|fields| fields.principals = vec!["gate".into()], CertRejected::Name),
        (|fields| fields.valid_before = NOW.unix_secs(), CertRejected::Expired),
    ];
    let trust = trust();
    let check = OriginCheck { trust: &trust, audience: Audience::Node(node()), now: NOW };
    for (change, why) in cases {
        let mut fields = proxy();
        change(&mut fields);
        let refused = Seen::default().accept(&fields, &statement(), check);
        assert_eq!(refused, Err(OriginRejected::Certificate(why)));
    }
}

#[test]
fn c9_a_statement_is_for_one_host() {
    let trust = trust();
    let of = |audience| Statement::new(CLIENT.parse().unwrap(), audience, NOW, Nonce::new([7; 16]));
    let audiences = [Audience::Auth, Audience::Node(node()), Audience::Node(HostId::from_uuid(Uuid::nil()))];
    for made_for in audiences {
        for audience in audiences {
            let check = OriginCheck { trust: &trust, audience, now: NOW };
            let outcome = Seen::default().accept(&proxy(), &of(made_for), check);
            let expected = if made_for == audience { None } else { Some(OriginRejected::Audience) };
            assert_eq!(outcome.err(), expected);
        }
    }
}

#[test]
fn c9_a_statement_is_good_for_a_moment_and_once() {
    let mut seen = Seen::default();
    let second = Duration::from_secs(1);
    let late = NOW.saturating_add(MAX_STATEMENT_AGE);
    let refused = accept(&mut seen, &statement(), late.saturating_add(second)).unwrap_err();
    assert_eq!(refused, OriginRejected::Time { by: MAX_STATEMENT_AGE + second, future: false });
    let early = NOW.saturating_sub(MAX_STATEMENT_AGE);
    let refused = accept(&mut seen, &statement(), early.saturating_sub(second)).unwrap_err();
    assert_eq!(refused, OriginRejected::Time { by: MAX_STATEMENT_AGE + second, future: true });
    assert!(refused.to_string().contains("61 s ahead"), "{refused}");

    accept(&mut seen, &statement(), early).unwrap();
    for now in [early, NOW, late] {
        assert_eq!(accept(&mut seen, &statement(), now), Err(OriginRejected::Replayed));
    }
    // The clock runs on, and is set back.
    let later = Statement { issued: late.saturating_add(MAX_STATEMENT_AGE), ..statement() };
    accept(&mut seen, &later, late.saturating_add(MAX_STATEMENT_AGE)).unwrap();
    assert_eq!(accept(&mut seen, &statement(), late), Err(OriginRejected::Replayed));
    accept(&mut seen, &Statement { nonce: Nonce::new([8; 16]), ..statement() }, late).unwrap();
}

#[test]
fn what_is_remembered_is_bounded_and_forgotten() {
    let mut seen = Seen::default();
    let numbered = |number: u32, issued| {
        let mut nonce = [0; 16];
        nonce[..4].copy_from_slice(&number.to_be_bytes());
        Statement { nonce: Nonce::new(nonce), issued, ..statement() }
    };
    for number in 0..u32::try_from(1 << 16).unwrap() {
        accept(&mut seen, &numbered(number, NOW), NOW).unwrap();
    }
    assert_eq!(accept(&mut seen, &numbered(1 << 16, NOW), NOW), Err(OriginRejected::Full));
    // What one proxy does takes nothing from another.
    let other = CertFields { key_id: "2f8fad5b-d9cb-469f-a165-70867728950e gate".into(), ..proxy() };
    let check = OriginCheck { trust: &trust(), audience: Audience::Node(node()), now: NOW };
    Seen(seen.0.clone()).accept(&other, &numbered(1 << 16, NOW), check).unwrap();
    // A clock that was wrong leaves nothing behind, in neither direction.
    for now in [NOW.saturating_add(Duration::from_secs(121)), NOW.saturating_sub(Duration::from_secs(121))] {
        let mut seen = Seen(seen.0.clone());
        accept(&mut seen, &numbered(1 << 16, now), now).unwrap();
        assert_eq!(seen.0.len(), 1);
    }
}

#[test]
fn the_wire_form_is_this_one() {
    let wire = wire(&statement(), b"certificate");
    let mut expected = b"teleport-origin-v1\n".to_vec();
    expected.extend([0, 2 + 11 + 48 + 64]);
    expected.extend(b"\0\x0bcertificate");
    expected.extend([4, 192, 0, 2, 7, 0x12, 0x67, 2]);
    expected.extend(b"\x1f\x8f\xad\x5b\xd9\xcb\x46\x9f\xa1\x65\x70\x86\x77\x28\x95\x0e");
    expected.extend(1_800_000_000_000_u64.to_be_bytes());
    expected.extend([7; 16]);
    expected.extend([9; 64]);
    assert_eq!(wire, expected);
    let header = Header::parse(&wire).unwrap();
    assert_eq!((header.certificate, header.statement), (&b"certificate"[..], statement()));
    assert_eq!((header.signed, header.signature), (&wire[..wire.len() - 64], &[9; 64]));
}

#[test]
fn the_beginning_says_what_it_is_as_early_as_it_can() {
    let wire = wire(&statement(), b"certificate");
    for end in 0..wire.len() {
        assert_eq!(beginning(&wire[..end]), Ok(Beginning::Partial), "{end}");
        assert!(Header::parse(&wire[..end]).is_err());
    }
    assert_eq!(beginning(&wire), Ok(Beginning::Header(wire.len())));
    let more = [&wire[..], b"SSH-2.0-x\r\n"].concat();
    assert_eq!(beginning(&more), Ok(Beginning::Header(wire.len())));
    assert!(Header::parse(&more).is_err());
    for other in [
        &b"S"[..],
        b"SSH-2.0-x\r\n",
        b"\x16\x03\x01",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        b"\r\n\r\n\0\r\nQUIT\n",
        b"teleport-origin-v2\n",
        b"Teleport-origin-v1\n",
    ] {
        assert_eq!(beginning(other), Ok(Beginning::Other), "{other:?}");
    }
    let long = [MAGIC, &u16::MAX.to_be_bytes()].concat();
    assert_eq!(beginning(&long), Err(Malformed));
    assert!(statement().unsigned(&[0; MAX_CERT_LEN + 1]).is_err());
    let longest = statement().unsigned(&[0; MAX_CERT_LEN]).unwrap().len() + SIGNATURE_LEN;
    assert!(longest <= MAX_HEADER_LEN, "{longest}");
}

#[test]
fn there_is_one_encoding() {
    let wire = wire(&statement(), b"");
    let at = MAGIC.len() + 4;
    let broken = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut wire = wire.clone();
        change(&mut wire);
        assert!(Header::parse(&wire).is_err());
    };
    broken(&|wire| wire[at] = 5);
    broken(&|wire| wire[at] = OF_IPV6);
    broken(&|wire| wire[at + 7] = 0);
    broken(&|wire| wire[at + 7] = FOR_AUTH);
    broken(&|wire| wire[at + 24] = 0xff);
    broken(&|wire| wire[at - 1] = 1);
    broken(&|wire| wire.insert(wire.len() - 64, 0));
    broken(&|wire| {
        wire[MAGIC.len() + 1] += 1;
        wire.insert(at + 48, 0);
    });
    // An IPv4 address in the form of an IPv6 one.
    broken(&|wire| {
        wire[at] = OF_IPV6;
        wire[MAGIC.len() + 1] += 12;
        wire.splice(at + 1..at + 1, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
    });
    let mapped =
        Statement::new("[::ffff:192.0.2.7]:4711".parse().unwrap(), Audience::Auth, NOW, Nonce([0; 16]));
    assert_eq!(mapped.client(), CLIENT.parse().unwrap());
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        client: SocketAddr, node: Option<[u8; 16]>, millis in 0..=Timestamp::MAX.unix_millis(), nonce: [u8; 16],
        certificate in proptest::collection::vec(any::<u8>(), 0..2000),
    ) {
        let audience = node.map_or(Audience::Auth, |id| Audience::Node(HostId::from_uuid(Uuid::from_bytes(id))));
        let statement = Statement::new(client, audience, Timestamp::from_unix_millis(millis), Nonce(nonce));
        let wire = wire(&statement, &certificate);
        let header = Header::parse(&wire).unwrap();
        prop_assert_eq!((header.statement, header.certificate), (statement, &certificate[..]));
    }

    #[test]
    fn what_is_read_would_be_written_so(
        at in 0_usize..150, byte: u8, cut in 0_usize..150,
    ) {
        let mut wire = wire(&statement(), b"cert");
        let at = at % wire.len();
        wire[at] = byte;
        wire.truncate(wire.len() - cut % 3);
        if let Ok(header) = Header::parse(&wire) {
            let again = header.statement.unsigned(header.certificate).unwrap();
            prop_assert_eq!(&again[..], header.signed);
        }
    }
}
