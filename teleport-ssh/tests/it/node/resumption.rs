//! Connections that go on over another one, seen from outside: the client here is written from the description of the protocol and not
//! with the product's own. And clients that know nothing of it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use ring::agreement::{EphemeralPrivateKey, UnparsedPublicKey, X25519, agree_ephemeral};
use ring::rand::SystemRandom;
use ring::{hkdf, hmac};
use russh::client;
use teleport_core::audit::AuditEvent;
use teleport_core::task::TaskScope;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, DuplexStream};
use tokio::net::{TcpSocket, TcpStream};
use tokio::process::Command;
use tokio::sync::oneshot;

use super::hostile::Client;
use super::support::{PATIENCE, TestNode, UserCert, me, run, text};

const MARK: &str = " teleport-resume-v1";
const MAGIC: &[u8] = b"SSH-0.0-teleport-resume-v1\n";

/// Waits for what has a deadline in every test.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.unwrap()
}

/// A connection from an address of loopback, behind the node's name.
async fn dial(node: &TestNode, from: &str) -> (BufReader<TcpStream>, String) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(from.parse().unwrap(), 0)).unwrap();
    let mut wire = BufReader::new(soon(socket.connect(node.address)).await.unwrap());
    let mut name = String::new();
    soon(wire.read_line(&mut name)).await.unwrap();
    assert_eq!(name.trim_end().matches(MARK).count(), 1, "{name:?}");
    (wire, name)
}

/// What a client keeps of a connection that it can resume.
struct Ours {
    id: [u8; 16],
    client: hmac::Key,
    node: hmac::Key,
    /// How much of the node's bytes it has.
    received: u64,
}

/// Begins a connection that can be resumed. What is returned besides is for the SSH library; the wire breaks, and the position is told,
/// when the sender is dropped.
async fn begin(
    node: &TestNode,
    from: &str,
    scope: &TaskScope,
) -> (DuplexStream, oneshot::Sender<()>, oneshot::Receiver<Ours>) {
    let (mut wire, name) = dial(node, from).await;
    let private = EphemeralPrivateKey::generate(&X25519, &SystemRandom::new()).unwrap();
    let public = private.compute_public_key().unwrap();
    wire.write_all(&[MAGIC, &[1], public.as_ref()].concat()).await.unwrap();
    let mut accepted = [0; 52];
    soon(wire.read_exact(&mut accepted)).await.unwrap();
    let (theirs, id) = (&accepted[..32], <[u8; 16]>::try_from(&accepted[32..48]).unwrap());
    assert_eq!(u32::from_be_bytes(accepted[48..].try_into().unwrap()), 600, "seconds that it is kept");
    let secret = agree_ephemeral(private, &UnparsedPublicKey::new(&X25519, theirs), <[u8]>::to_vec).unwrap();
    let secret = hkdf::Salt::new(hkdf::HKDF_SHA256, b"teleport-resume-v1").extract(&secret);
    let key = |side: &[u8]| {
        let info = [side, public.as_ref(), theirs, &id];
        hmac::Key::from(secret.expand(&info, hmac::HMAC_SHA256).unwrap())
    };
    let mut ours = Ours { id, client: key(b"client"), node: key(b"node"), received: 0 };
    let (library, mut near) = tokio::io::duplex(1 << 20);
    near.write_all(name.as_bytes()).await.unwrap();
    let (cut, is_cut) = oneshot::channel();
    let (tell, told) = oneshot::channel();
    scope.spawn(async move {
        tokio::select! {
            () = frames(&mut wire, &mut near, &mut ours.received) => {}
            _ = is_cut => {}
        }
        wire.get_ref().set_zero_linger().unwrap();
        drop(wire);
        let _ = tell.send(ours);
        // For the library nothing has happened.
        std::future::pending::<()>().await;
        drop(near);
    });
    (library, cut, told)
}

/// Carries bytes in frames, which is all that a wire is for. Less goes over it than makes acknowledgements necessary.
async fn frames(wire: &mut BufReader<TcpStream>, near: &mut DuplexStream, received: &mut u64) {
    let (mut read, mut said) = (VecDeque::new(), [0; 4096]);
    let (mut node, mut library) = ([0; 4096], tokio::io::split(near));
    loop {
        tokio::select! {
            len = library.0.read(&mut said) => {
                let len = len.unwrap();
                let header = u32::try_from(len).unwrap().to_be_bytes();
                wire.write_all(&[&[0][..], &header, &said[..len]].concat()).await.unwrap();
            }
            len = wire.read(&mut node) => {
                let len = len.unwrap();
                assert_ne!(len, 0, "the node does not hang up");
                read.extend(&node[..len]);
            }
        }
        loop {
            let bytes = read.make_contiguous();
            let (taken, data) = match bytes {
                [0, a, b, c, d, rest @ ..] => {
                    let len = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
                    match rest.get(..len) {
                        Some(data) => (5 + len, data.to_vec()),
                        None => break,
                    }
                }
                [1, rest @ ..] if rest.len() >= 8 => (9, Vec::new()),
                [2, ..] => {
                    wire.write_all(&[3]).await.unwrap();
                    (1, Vec::new())
                }
                [3, ..] => (1, Vec::new()),
                [] | [0 | 1, ..] => break,
                other => panic!("{other:?}"),
            };
            *received += data.len() as u64;
            library.1.write_all(&data).await.unwrap();
            read.drain(..taken);
        }
    }
}

/// What the node says to a client that comes back from there. `proof` is what it proves with.
async fn again(node: &TestNode, from: &str, ours: &Ours, proof: &hmac::Key) -> Vec<u8> {
    let (mut wire, _) = dial(node, from).await;
    let (nonce, position) = ([7; 16], ours.received.to_be_bytes());
    wire.write_all(&[MAGIC, &[2], &ours.id, &nonce, &position].concat()).await.unwrap();
    let mut answer = vec![0];
    soon(wire.read_exact(&mut answer)).await.unwrap();
    if answer == [0] {
        return answer;
    }
    let mut challenge = [0; 56];
    soon(wire.read_exact(&mut challenge)).await.unwrap();
    let (theirs, rest) = challenge.split_at(16);
    let (their_position, their_proof) = rest.split_at(8);
    let said = [&nonce[..], theirs, &position, their_position].concat();
    hmac::verify(&ours.node, &said, their_proof).expect("the node proves that it is the same");
    wire.write_all(hmac::sign(proof, &said).as_ref()).await.unwrap();
    answer.resize(2, 0);
    soon(wire.read_exact(&mut answer[1..])).await.unwrap();
    answer
}

/// Who is bound to an address does not take the connection elsewhere, though it proves that it is its own; who does not prove
/// it is told nothing, and is not told of.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_goes_on_only_from_where_its_client_may_be() {
    let node = TestNode::start().await;
    let scope = TaskScope::new();
    let (stream, cut, told) = begin(&node, "127.0.0.1", &scope).await;
    let mut session = soon(client::connect_stream(Arc::default(), stream, Client)).await.unwrap();
    let bound = UserCert::new().critical("source-address", "127.0.0.1,127.0.0.3");
    let (key, certificate) = (Arc::new(node.user_key.clone()), bound.sign(&node.user_key, &node.user_ca));
    let login = me();
    let login = session.authenticate_openssh_cert(login.as_str(), key, certificate);
    assert!(soon(login).await.unwrap().success());
    drop(cut);
    let ours = soon(told).await.unwrap();

    // Somebody else's proof: that of the node, sent back to it; and a connection that there is not.
    assert_eq!(again(&node, "127.0.0.1", &ours, &ours.node).await, [1, 0]);
    let other = Ours { id: [1; 16], client: ours.client.clone(), node: ours.node.clone(), received: 0 };
    assert_eq!(again(&node, "127.0.0.1", &other, &ours.client).await, [0]);
    assert_eq!(again(&node, "127.0.0.2", &ours, &ours.client).await, [1, 0]);
    let from = |event: &AuditEvent, from: &str| event.remote.unwrap().ip().to_string() == from;
    let refused = node.auth.event("T3012W", |event| from(event, "127.0.0.2")).await;
    assert_eq!(refused.error.as_deref(), Some("the certificate is bound to another source address"));
    assert_eq!((refused.user.as_deref(), refused.success), (Some("alice"), Some(false)));
    assert_eq!(refused.fields["addr.local"], node.address.to_string());
    assert!(refused.fields["addr.before"].as_str().unwrap().starts_with("127.0.0.1:"), "{refused:?}");
    assert_eq!((node.auth.count("T3012W"), node.auth.count("T3012I")), (1, 0));

    // Nothing of that has harmed the connection, which goes on from where it may.
    assert_eq!(again(&node, "127.0.0.3", &ours, &ours.client).await, [1, 1]);
    let resumed = node.auth.event("T3012I", |event| from(event, "127.0.0.3")).await;
    assert!(resumed.fields["addr.before"].as_str().unwrap().starts_with("127.0.0.1:"), "{resumed:?}");
    assert_eq!((node.auth.count("T3012W"), node.auth.count("T3012I")), (1, 1));
}

/// What stands behind the node's name is a comment for all others.
#[tokio::test(flavor = "multi_thread")]
async fn ssh_keyscan_takes_the_nodes_name_as_it_is() {
    let node = TestNode::start().await;
    let port = node.address.port().to_string();
    let scan = ["-T", "60", "-t", "ed25519", "-p", &port, "127.0.0.1"];
    let output = run(Command::new("ssh-keyscan").args(scan)).await;
    let said = text(&output.stderr) + &text(&output.stdout);
    assert!(said.contains(MARK), "{said}");
    assert!(text(&output.stdout).contains("ssh-ed25519 "), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_ssh_shares_a_connection_to_a_node_that_can_resume() {
    let node = TestNode::start().await;
    let control = format!("ControlPath={}", node.path("control").display());
    let _master = node.hold(&["-o", "ControlMaster=yes", "-o", &control]).await;
    let through = ["-o", "ControlMaster=no", "-o", control.as_str(), "-o", "ProxyCommand=false"];
    for round in 0..3 {
        let output = node.run(&through, &[&format!("echo {round}; exit {round}")]).await;
        assert_eq!((text(&output.stdout), output.status.code()), (format!("{round}\n"), Some(round)));
    }
    assert_eq!(node.status.counts().accepted, 1);
    // The client has seen the mark, and speaks plain SSH.
    let output = node.run(&["-v"], &["true"]).await;
    let said = text(&output.stderr);
    assert!(
        said.lines().any(|line| line.contains("remote software version") && line.contains(MARK)),
        "{said}"
    );
}
