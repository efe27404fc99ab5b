#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
use std::sync::Arc;

use teleport_core::entropy::SystemEntropy;
use teleport_core::task::TaskScope;
use tokio::io::DuplexStream;
use tokio::net::UnixListener;

use super::*;

const COMMENT: &str = "teleport example.com alice";

#[derive(Debug)]
struct Alice(SshKeyPair, String);

impl Identities for Alice {
    fn now(&self) -> Vec<Identity> {
        vec![Identity::new(self.0.clone(), &self.1, COMMENT).unwrap()]
    }
}

/// A certificate that its own key has signed: who signed it is no matter of an agent.
fn alice() -> Alice {
    let key = SshKeyPair::generate(&SystemEntropy::new()).unwrap();
    let mut builder = ssh_key::certificate::Builder::new(
        vec![7; 16],
        key.private().public_key().key_data().clone(),
        1_000_000_000,
        2_000_000_000,
    )
    .unwrap();
    builder.valid_principal("alice").unwrap();
    let certificate = builder.sign(key.private()).unwrap().to_openssh().unwrap();
    Alice(key, certificate)
}

fn field(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}

/// What a client signs to be let in with a key.
fn login(key: &[u8], method: &str, service: &str) -> Vec<u8> {
    let mut login = field(&[9; 32]);
    login.push(50);
    for part in [b"root", service.as_bytes(), method.as_bytes()] {
        login.extend(field(part));
    }
    login.push(1);
    login.extend(field(b"ssh-ed25519-cert-v01@openssh.com"));
    login.extend(field(key));
    login
}

fn sign_request(key: &[u8], data: &[u8]) -> Vec<u8> {
    [&[13][..], &field(key), &field(data), &[0; 4]].concat()
}

/// A conversation with an agent; it ends with the scope.
fn conversation(alice: Alice) -> (DuplexStream, TaskScope) {
    let (client, server) = tokio::io::duplex(1 << 20);
    let scope = TaskScope::new();
    let agent = AgentServer::new(Arc::new(alice));
    scope.spawn(async move {
        let _ = agent.converse(server).await;
    });
    (client, scope)
}

async fn ask(client: &mut DuplexStream, message: &[u8]) -> Vec<u8> {
    client.write_all(&field(message)).await.unwrap();
    let len = client.read_u32().await.unwrap();
    let mut answer = vec![0; len.try_into().unwrap()];
    client.read_exact(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn it_lists_and_signs_logins() {
    let alice = alice();
    let (key, blob) = (alice.0.clone(), encode(&parse(&alice.1).unwrap()).unwrap());
    let (mut client, _scope) = conversation(alice);
    let listed = ask(&mut client, &[11]).await;
    assert_eq!(listed, [&[12, 0, 0, 0, 1][..], &field(&blob), &field(COMMENT.as_bytes())].concat());
    let hostbound =
        [login(&blob, "publickey-hostbound-v00@openssh.com", "ssh-connection"), field(b"host key")].concat();
    for data in [login(&blob, "publickey", "ssh-connection"), hostbound] {
        let signature = [field(b"ssh-ed25519"), field(&key.sign(&data).unwrap())].concat();
        assert_eq!(
            ask(&mut client, &sign_request(&blob, &data)).await,
            [&[14][..], &field(&signature)].concat()
        );
    }
}

#[tokio::test]
async fn a12_nothing_but_logins_is_signed_and_nothing_is_changed() {
    let alice = alice();
    let blob = encode(&parse(&alice.1).unwrap()).unwrap();
    let plain = alice.0.private().public_key().to_bytes().unwrap();
    let (mut client, _scope) = conversation(alice);
    let good = login(&blob, "publickey", "ssh-connection");
    let add = [&[17][..], &field(b"ssh-ed25519"), &field(&[1; 32]), &field(&[2; 64]), &field(b"x")].concat();
    // An unknown constraint, of which an agent must not forget that it does not know it.
    let constrained = [&[25][..], &add[1..], &[255], &field(b"restrict@example.com"), &field(b"")].concat();
    for message in [
        add,
        constrained,
        [&[18][..], &field(&blob)].concat(),
        vec![19],
        [&[20][..], &field(b"reader"), &field(b"1234")].concat(),
        [&[22][..], &field(b"password")].concat(),
        [&[23][..], &field(b"password")].concat(),
        [&[27][..], &field(b"session-bind@openssh.com"), &field(b"key")].concat(),
        vec![200],
        sign_request(&plain, &login(&plain, "publickey", "ssh-connection")),
        sign_request(&blob, &login(&plain, "publickey", "ssh-connection")),
        sign_request(&blob, &login(&blob, "hostbased", "ssh-connection")),
        sign_request(&blob, &login(&blob, "publickey", "ssh-userauth")),
        sign_request(&blob, &login(&blob, "publickey-hostbound-v00@openssh.com", "ssh-connection")),
        sign_request(&blob, &[&good[..], b"x"].concat()),
        sign_request(&blob, &good[..good.len() - 1]),
        sign_request(&blob, b"SSHSIG\0\0\0\x04file"),
        sign_request(&blob, b""),
    ] {
        assert_eq!(ask(&mut client, &message).await, [5], "{message:?}");
    }
    // It is still there, and does what it is for.
    assert_eq!(ask(&mut client, &sign_request(&blob, &good)).await[0], 14);
}

#[tokio::test]
async fn a12_what_is_not_the_protocol_ends_the_conversation() {
    for bytes in [
        vec![0; 4],
        [&262_145_u32.to_be_bytes()[..], &[11]].concat(),
        u32::MAX.to_be_bytes().to_vec(),
        field(&[11, 0]),
        field(&[13]),
        field(&[&[13][..], &u32::MAX.to_be_bytes(), b"key"].concat()),
        field(&[&sign_request(b"key", b"data")[..], b"x"].concat()),
    ] {
        let (mut client, _scope) = conversation(alice());
        client.write_all(&bytes).await.unwrap();
        assert!(client.read_u8().await.is_err(), "{bytes:?}");
    }
    // As long as it may be, and refused for what it says.
    let (mut client, _scope) = conversation(alice());
    assert_eq!(ask(&mut client, &vec![200; MAX_FRAME]).await, [5]);
}

/// An agent that gives every message this answer.
async fn answered(answer: &'static [u8]) -> Result<(), AgentError> {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("agent");
    let listener = UnixListener::bind(&path).unwrap();
    let serve = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let len = stream.read_u32().await.unwrap();
        stream.read_exact(&mut vec![0; len.try_into().unwrap()]).await.unwrap();
        stream.write_all(answer).await.unwrap();
    };
    let agent = Agent::at(path);
    let alice = alice();
    let removed = agent.remove(&alice.1);
    tokio::join!(removed, serve).0
}

#[tokio::test]
async fn a12_answers_to_something_else_are_no_success() {
    assert!(answered(&[0, 0, 0, 1, SUCCESS]).await.is_ok());
    assert!(matches!(answered(&[0, 0, 0, 1, FAILURE]).await, Err(AgentError::Refused)));
    for answer in [
        // A list instead of a yes, a yes with more behind it, nothing, and what never ends.
        &[0, 0, 0, 5, 12, 0, 0, 0, 0][..],
        &[0, 0, 0, 1, 14],
        &[0, 0, 0, 2, SUCCESS, 0],
        &[0, 0, 0, 0],
        &[0xff, 0xff, 0xff, 0xff, SUCCESS],
        &[],
    ] {
        assert!(matches!(answered(answer).await, Err(AgentError::Unusable { .. })), "{answer:?}");
    }
}

#[tokio::test]
async fn a_socket_is_for_its_user_and_goes_with_the_agent() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("agent");
    let socket = AgentSocket::bind(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(AgentSocket::bind(&path).is_err(), "what is there is not replaced");
    let agent = AgentServer::new(Arc::new(alice()));
    let served = async {
        let mut client = UnixStream::connect(&path).await.unwrap();
        client.write_all(&field(&[11])).await.unwrap();
        client.read_u32().await.unwrap();
        client.read_u8().await.unwrap()
    };
    tokio::select! {
        () = agent.serve(socket) => {}
        first = served => assert_eq!(first, 12),
    }
    assert!(!path.exists());
}
