#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]
use data_encoding::BASE64;
use ssh_key::PrivateKey;
use ssh_key::certificate::{Builder, CertType};
use ssh_key::private::Ed25519Keypair;
use teleport_core::access::Unwelcome;
use teleport_core::cert::{CertRejected, PublicKey, TrustBundle, X_CLUSTER, X_HOST_ROLE, proxy_principal};
use teleport_core::clock::Clock;
use teleport_core::id::{ClusterName, HostId, HostRole};
use teleport_core::origin::{Audience, MAX_STATEMENT_AGE};
use teleport_core::resource::{Lock, LockSpec, LockTarget, LockedNode};
use teleport_core::testing::{ManualClock, NoEntropy, RepeatableEntropy};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::identity::{HostIdentityHandle, HostMaterial};
use crate::keys::{SshKeyPair, TlsKeyPair};

const CLIENT: &str = "192.0.2.7:4711";
const PROXY: &str = "198.51.100.1:50000";

fn authority() -> PrivateKey {
    PrivateKey::from(Ed25519Keypair::from_seed(&[3; 32]))
}

fn trust() -> TrustBundle {
    let key = PublicKey::from_wire(&authority().public_key().to_bytes().unwrap()).unwrap();
    TrustBundle {
        cluster: ClusterName::new("example.com").unwrap(),
        user_ca: Vec::new(),
        openssh_ca: Vec::new(),
        host_ca: vec![key],
        user_tls_ca: Vec::new(),
        host_tls_ca: Vec::new(),
    }
}

fn id() -> HostId {
    "0f8fad5b-d9cb-469f-a165-70867728950e".parse().unwrap()
}

fn for_node() -> Audience {
    Audience::Node("1f8fad5b-d9cb-469f-a165-70867728950e".parse().unwrap())
}

/// An identity whose certificate is good, but says this role.
pub(crate) fn identity(role: HostRole, clock: &dyn Clock) -> HostIdentityHandle {
    let entropy = RepeatableEntropy::new(7);
    let (ssh, tls) = (SshKeyPair::generate(&entropy).unwrap(), TlsKeyPair::generate(&entropy).unwrap());
    let now = clock.now().unix_secs();
    let subject = ssh.private().public_key().key_data().clone();
    let mut builder = Builder::new(vec![1; 16], subject, now - 60, now + 3600).unwrap();
    builder.cert_type(CertType::Host).unwrap().key_id(format!("{} gate", id())).unwrap();
    builder.valid_principal(proxy_principal(&trust().cluster)).unwrap();
    builder.extension(X_CLUSTER, "example.com").unwrap();
    builder.extension(X_HOST_ROLE, role.as_str()).unwrap();
    HostIdentityHandle::new(HostMaterial {
        host_id: id(),
        name: "gate".parse().unwrap(),
        cluster: trust().cluster,
        role,
        ssh,
        ssh_certificate: builder.sign(&authority()).unwrap().to_openssh().unwrap(),
        tls,
        tls_certificate: Vec::new(),
        trust: trust(),
        valid_after: clock.now(),
        valid_before: clock.now(),
    })
}

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::default())
}

fn signer(role: HostRole, clock: &Arc<ManualClock>) -> OriginSigner {
    OriginSigner::new(identity(role, &**clock), Arc::clone(clock) as _, Arc::new(RepeatableEntropy::new(1)))
}

fn verifier(clock: &Arc<ManualClock>) -> OriginVerifier {
    OriginVerifier::new(for_node(), Arc::clone(clock) as _)
}

fn header(signer: &OriginSigner) -> Vec<u8> {
    signer.header(CLIENT.parse().unwrap(), for_node()).unwrap()
}

#[test]
fn c9_what_a_proxy_says_is_believed_once_and_by_whom_it_is_for() {
    let clock = clock();
    let (signer, verifier) = (signer(HostRole::Proxy, &clock), verifier(&clock));
    let said = header(&signer);
    let origin = verifier.verify(&said, &trust()).unwrap();
    assert_eq!((origin.client, origin.proxy.host_id), (CLIENT.parse().unwrap(), id()));
    assert_eq!(verifier.verify(&said, &trust()), Err(OriginRejected::Replayed));
    // Each connection has a statement of its own.
    verifier.verify(&header(&signer), &trust()).unwrap();
    let elsewhere = OriginVerifier::new(Audience::Auth, clock.clone());
    assert_eq!(elsewhere.verify(&header(&signer), &trust()), Err(OriginRejected::Audience));
    let late = header(&signer);
    clock.advance(MAX_STATEMENT_AGE + std::time::Duration::from_secs(1));
    assert!(matches!(verifier.verify(&late, &trust()), Err(OriginRejected::Time { future: false, .. })));
}

#[test]
fn c9_what_anybody_else_says_is_not() {
    let clock = clock();
    for role in [HostRole::Node, HostRole::Auth] {
        let said = header(&signer(role, &clock));
        let refused = verifier(&clock).verify(&said, &trust());
        assert_eq!(refused, Err(OriginRejected::Certificate(CertRejected::Name)), "{role}");
    }
    let nobody = TrustBundle { host_ca: Vec::new(), ..trust() };
    let said = header(&signer(HostRole::Proxy, &clock));
    let refused = verifier(&clock).verify(&said, &nobody);
    assert_eq!(refused, Err(OriginRejected::Certificate(CertRejected::Authority)));
    // The certificate of a proxy, which everybody is shown, with the signature of another key.
    let material = identity(HostRole::Proxy, &*clock).current();
    let stranger = SshKeyPair::generate(&RepeatableEntropy::new(9)).unwrap();
    let thief = HostIdentityHandle::new(HostMaterial { ssh: stranger, ..HostMaterial::clone(&material) });
    let thief = OriginSigner::new(thief, clock.clone(), Arc::new(RepeatableEntropy::new(1)));
    assert_eq!(verifier(&clock).verify(&header(&thief), &trust()), Err(OriginRejected::Signature));
}

#[test]
fn c9_no_byte_of_a_statement_can_be_changed() {
    let clock = clock();
    let (said, verifier) = (header(&signer(HostRole::Proxy, &clock)), verifier(&clock));
    for at in 0..said.len() {
        for bit in [1, 0x80] {
            let mut changed = said.clone();
            changed[at] ^= bit;
            assert!(verifier.verify(&changed, &trust()).is_err(), "byte {at}");
        }
    }
    verifier.verify(&said, &trust()).unwrap();
}

#[test]
fn nothing_is_said_without_randomness_or_by_a_key_that_is_broken() {
    let clock = clock();
    let identity = identity(HostRole::Proxy, &*clock);
    let silent = OriginSigner::new(identity.clone(), clock.clone(), Arc::new(NoEntropy));
    assert!(matches!(silent.header(CLIENT.parse().unwrap(), for_node()), Err(CannotState::Entropy(_))));
    let long = format!("ssh-ed25519 {}", BASE64.encode(&[0; 17 << 10]));
    let material = HostMaterial { ssh_certificate: long, ..HostMaterial::clone(&identity.current()) };
    let entropy = Arc::new(RepeatableEntropy::new(1));
    let broken = OriginSigner::new(HostIdentityHandle::new(material), clock.clone(), entropy);
    assert!(matches!(broken.header(CLIENT.parse().unwrap(), for_node()), Err(CannotState::Certificate(_))));
}

fn view(change: impl FnOnce(&mut AccessView)) -> AccessView {
    let mut view = AccessView::new(trust(), Vec::new());
    change(&mut view);
    view
}

fn locked() -> AccessView {
    let target = LockTarget { node: Some(LockedNode::Id(id())), ..LockTarget::default() };
    let lock = Lock::new("l", LockSpec { target, message: String::new() });
    view(|view| view.locks = [lock].into_iter().collect())
}

#[test]
fn c9_the_word_of_a_proxy_that_is_locked_or_removed_does_not_count() {
    let clock = clock();
    let (signer, verifier) = (signer(HostRole::Proxy, &clock), verifier(&clock));
    let arrive = |view: &AccessView| {
        let origin = verifier.verify(&header(&signer), &trust()).unwrap();
        Arrival::carried(PROXY.parse().unwrap(), origin, view, clock.now())
    };
    let good = view(|_| {});
    let client: SocketAddr = CLIENT.parse().unwrap();
    let arrival = arrive(&good);
    assert_eq!((arrival.client(), arrival.address(&good, clock.now())), (client, Some(client.ip())));
    let removed = view(|view| view.removed_proxies = [id()].into_iter().collect());
    let proxy = arrival.proxy().unwrap();
    assert!(matches!(locked().keep_way(proxy, clock.now()), Err(Unwelcome::Locked(_))));
    assert!(matches!(removed.keep_way(proxy, clock.now()), Err(Unwelcome::Way { .. })));
    for bad in [locked(), removed] {
        assert_eq!(arrival.address(&bad, clock.now()), None, "since then");
        let arrival = arrive(&bad);
        assert_eq!(arrival.client(), PROXY.parse().unwrap());
        // Nor later: what it said then is forgotten.
        assert_eq!((arrival.address(&bad, clock.now()), arrival.address(&good, clock.now())), (None, None));
    }
}

#[test]
fn c9_behind_the_address_of_a_proxy_that_says_nothing_there_is_anybody() {
    let now = clock().now();
    let direct = |address: &str| Arrival::direct(address.parse().unwrap());
    let known = view(|view| view.proxies = vec!["198.51.100.1".parse().unwrap()]);
    assert_eq!(direct(PROXY).address(&known, now), None);
    assert_eq!(direct("[::ffff:198.51.100.1]:1").address(&known, now), None);
    assert_eq!(direct(CLIENT).address(&known, now), Some("192.0.2.7".parse().unwrap()));
    assert_eq!(direct("[::ffff:192.0.2.7]:1").address(&known, now), Some("192.0.2.7".parse().unwrap()));
}

/// What is taken off the beginning when `sent` is sent in pieces, and all that comes behind it.
async fn taken(sent: &[u8], piece: usize) -> io::Result<(Option<Bytes>, Vec<u8>)> {
    let (mut far, mut near) = tokio::io::duplex(piece);
    let sending = async {
        // Who says nonsense is not listened to.
        let _ = far.write_all(sent).await;
        drop(far);
    };
    let reading = async {
        let (header, rest) = take_header(&mut near).await?;
        let mut rest = rest.to_vec();
        near.read_to_end(&mut rest).await?;
        drop(near);
        Ok((header, rest))
    };
    tokio::join!(reading, sending).0
}

#[tokio::test]
async fn a_statement_is_taken_off_the_beginning_in_whatever_pieces_it_comes() {
    let said = header(&signer(HostRole::Proxy, &clock()));
    for behind in [&b""[..], b"SSH-2.0-x\r\n and so on", &[7; 5000]] {
        let sent = [&said[..], behind].concat();
        for piece in [1, 7, 64 << 10] {
            let (header, rest) = taken(&sent, piece).await.unwrap();
            assert_eq!((header.unwrap(), rest), (said.clone().into(), behind.to_vec()));
        }
    }
}

#[tokio::test]
async fn what_begins_otherwise_comes_through_as_it_is() {
    let said = header(&signer(HostRole::Proxy, &clock()));
    for sent in [&b"SSH-2.0-x\r\n"[..], b"\x16\x03\x01", b"teleport-origin-v2\nSSH-2.0-x"] {
        assert_eq!(taken(sent, 3).await.unwrap(), (None, sent.to_vec()), "{sent:?}");
    }
    for sent in [&b""[..], b"teleport", &said[..100]] {
        assert_eq!(taken(sent, 3).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof, "{sent:?}");
    }
    let long = [teleport_core::origin::MAGIC, &[0xff; 100]].concat();
    assert_eq!(taken(&long, 1 << 10).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
}
