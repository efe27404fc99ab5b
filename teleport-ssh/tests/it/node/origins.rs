//! Where clients are: only a proxy of the cluster may say it, for one node, at once, and once. Row C9 of the threat list.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use ssh_key::certificate::{Builder, CertType};
use ssh_key::{PrivateKey, SigningKey};
use teleport_core::api::AccessView;
use teleport_core::cert::{X_CLUSTER, X_HOST_ROLE};
use teleport_core::clock::{Clock, SystemClock, Timestamp};
use teleport_core::id::HostId;
use teleport_core::origin::{Audience, MAX_HEADER_LEN, Nonce, Statement};
use teleport_core::resource::{Lock, LockSpec};
use teleport_core::task::TaskScope;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::time::Instant;

use super::support::{PATIENCE, TestNode, UserCert, me, neutral, private_key, run, text};

const PROXY: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";
const CLIENT: &str = "192.0.2.7:4711";

/// What happens to what is known.
type Change = Box<dyn FnOnce(&mut AccessView)>;

/// What a proxy, or whoever says to be one, sends before its client's bytes.
struct Words {
    client: SocketAddr,
    audience: Audience,
    issued: Timestamp,
    role: &'static str,
    authority: PrivateKey,
    signer: PrivateKey,
}

fn nonce() -> Nonce {
    use teleport_core::entropy::{EntropyExt, SystemEntropy};
    Nonce::new(SystemEntropy::new().bytes().unwrap())
}

impl Words {
    fn header(&self) -> Vec<u8> {
        let now = SystemClock::new().now().unix_secs();
        let subject = private_key(4).public_key().key_data().clone();
        let mut builder = Builder::new([9; 32], subject, now - 60, now + 3600).unwrap();
        builder.cert_type(CertType::Host).unwrap().key_id(format!("{PROXY} gate")).unwrap();
        builder.valid_principal("teleport-proxy.example.com").unwrap();
        builder.extension(X_CLUSTER, "example.com").unwrap();
        builder.extension(X_HOST_ROLE, self.role).unwrap();
        let certificate = builder.sign(&self.authority).unwrap().to_bytes().unwrap();
        let statement = Statement::new(self.client, self.audience, self.issued, nonce());
        let mut header = statement.unsigned(&certificate).unwrap();
        let signature = sign(&self.signer, &header);
        header.extend(signature);
        header
    }
}

fn sign(key: &PrivateKey, message: &[u8]) -> Vec<u8> {
    let key: &dyn SigningKey = key;
    key.try_sign(message).unwrap().as_bytes().to_vec()
}

async fn change(node: &TestNode, change: impl FnOnce(&mut AccessView)) {
    node.auth.view.send_modify(change);
    let wanted = node.auth.view.borrow().clone();
    let known = node.status.view().wait_for(|view| *view == wanted);
    tokio::time::timeout(PATIENCE, known).await.unwrap();
}

/// A node that trusts an authority of hosts of which the test has the key, and what a proxy says to it.
async fn node() -> (TestNode, impl Fn() -> Words) {
    let node = TestNode::start().await;
    change(&node, |view| view.trust.host_ca.push(neutral(&private_key(3)))).await;
    let id = node.auth.announced(1).await.host_id;
    let words = move || Words {
        client: CLIENT.parse().unwrap(),
        audience: Audience::Node(id),
        issued: SystemClock::new().now(),
        role: "proxy",
        authority: private_key(3),
        signer: private_key(4),
    };
    (node, words)
}

/// A port whose clients are carried to the node, each behind what `says` gives. It closes with the scope.
async fn gate(node: &TestNode, says: impl Fn() -> Vec<u8> + Send + 'static) -> (SocketAddr, TaskScope) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, to, scope) = (listener.local_addr().unwrap(), node.address, TaskScope::new());
    let carried = Arc::new(TaskScope::new());
    scope.spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let header = says();
            carried.spawn(async move {
                let mut node = TcpStream::connect(to).await.unwrap();
                // A node that does not believe it hangs up.
                let _ = node.write_all(&header).await;
                let _ = tokio::io::copy_bidirectional(&mut client, &mut node).await;
            });
        }
    });
    (address, scope)
}

fn through(node: &TestNode, gate: SocketAddr, user: &str) -> Command {
    let mut ssh = node.ssh_as(user);
    // The first port that is said counts.
    let mut first = Command::new("ssh");
    first.args(["-p", &gate.port().to_string()]).args(ssh.as_std().get_args());
    first.stdin(Stdio::null()).kill_on_drop(true);
    ssh = first;
    ssh
}

/// Who is bound to an address comes in where a proxy says that the client is there, and nowhere else.
#[tokio::test(flavor = "multi_thread")]
async fn c9_a_proxy_says_where_its_client_is() {
    let (node, words) = node().await;
    let bound = UserCert::new().critical("source-address", "192.0.2.7");
    node.write_certificate("bound", &bound.sign(&node.user_key, &node.user_ca), &node.user_key);
    let elsewhere = Words { client: "192.0.2.8:4711".parse().unwrap(), ..words() };
    let (here, _here) = gate(&node, {
        let words = words();
        move || words_of(&words).header()
    })
    .await;
    let (there, _there) = gate(&node, move || words_of(&elsewhere).header()).await;

    let output = run(through(&node, here, "bound").args(["127.0.0.1", "echo $SSH_CLIENT"])).await;
    assert_eq!(
        text(&output.stdout),
        format!("192.0.2.7 4711 {}\n", node.address.port()),
        "{}",
        text(&output.stderr)
    );
    let event = node.auth.event("T2000I", |_| true).await;
    assert_eq!(event.remote, Some(CLIENT.parse().unwrap()));
    let event = node.auth.event("T2004I", |_| true).await;
    assert_eq!(event.remote, Some(CLIENT.parse().unwrap()));

    let output = run(through(&node, there, "bound").args(["127.0.0.1", "echo in"])).await;
    assert_eq!((output.status.code(), output.stdout.len()), (Some(255), 0));
    let event = node.auth.event("T3007W", |event| event.user.is_some()).await;
    assert_eq!(event.error.as_deref(), Some("the certificate is bound to another source address"));
    assert_eq!(event.remote, Some("192.0.2.8:4711".parse().unwrap()));
    // Directly the address is that of the socket.
    let output = run(node.ssh_as("bound").args(["127.0.0.1", "echo in"])).await;
    assert_eq!((output.status.code(), output.stdout.len()), (Some(255), 0));
    // Who is not bound comes in from everywhere.
    for gate in [here, there] {
        let output = run(through(&node, gate, "user").args(["127.0.0.1", "echo in"])).await;
        assert_eq!(text(&output.stdout), "in\n", "{}", text(&output.stderr));
    }
    // A proxy of which the cluster knows the address, and which says nothing.
    change(&node, |view| view.proxies = vec!["127.0.0.1".parse().unwrap()]).await;
    let local = UserCert::new().critical("source-address", "127.0.0.1");
    node.write_certificate("local", &local.sign(&node.user_key, &node.user_ca), &node.user_key);
    let (silent, _silent) = gate(&node, Vec::new).await;
    let output = run(through(&node, silent, "local").args(["127.0.0.1", "echo in"])).await;
    assert_eq!((output.status.code(), output.stdout.len()), (Some(255), 0));
}

fn words_of(words: &Words) -> Words {
    let Words { client, audience, role, authority, signer, .. } = words;
    let (authority, signer) = (authority.clone(), signer.clone());
    Words { client: *client, audience: *audience, issued: SystemClock::new().now(), role, authority, signer }
}

/// What the node says to somebody who begins like this, until it hangs up.
async fn answer(node: &TestNode, begin: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    // It may hang up before all is sent.
    let _ = stream.write_all(begin).await;
    let mut said = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut said)).await.expect("it hangs up");
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn c9_nobody_else_says_it() {
    let (node, words) = node().await;
    let minute = Duration::from_secs(61);
    let now = SystemClock::new().now();
    let good = words().header();
    let mut replayed = TcpStream::connect(node.address).await.unwrap();
    replayed.write_all(&good).await.unwrap();
    replayed.write_all(b"SSH-2.0-x\r\n").await.unwrap();
    let mut said = Vec::new();
    while !String::from_utf8_lossy(&said).contains("curve25519") {
        let read = tokio::time::timeout(PATIENCE, replayed.read_buf(&mut said)).await.unwrap().unwrap();
        assert_ne!(read, 0, "a good statement opens the handshake");
    }
    let mut flipped = words().header();
    let at = flipped.len() - 70;
    flipped[at] ^= 1;
    let other = Audience::Node(HostId::from_uuid(Default::default()));
    let long = [teleport_core::origin::MAGIC, &[0xff; 2], &vec![0; MAX_HEADER_LEN]].concat();
    let cases = [
        (good, "was used before"),
        (flipped, "the signature of the statement of a client's address is wrong"),
        (Words { signer: private_key(5), ..words() }.header(), "the signature of the statement"),
        (
            Words { role: "node", ..words() }.header(),
            "is not of a proxy of this cluster: the certificate names another",
        ),
        (Words { role: "auth", ..words() }.header(), "is not of a proxy of this cluster"),
        (Words { authority: private_key(4), ..words() }.header(), "not a trusted authority"),
        (Words { authority: private_key(1), ..words() }.header(), "not a trusted authority"),
        (Words { audience: other, ..words() }.header(), "is meant for another host"),
        (Words { audience: Audience::Auth, ..words() }.header(), "is meant for another host"),
        (Words { issued: now.saturating_sub(minute), ..words() }.header(), "s old (at most 60 s)"),
        (Words { issued: now.saturating_add(minute * 2), ..words() }.header(), "s ahead (at most 60 s)"),
        (long, "is malformed"),
    ];
    for (header, why) in cases {
        let said = answer(&node, &[&header[..], b"SSH-2.0-x\r\n"].concat()).await;
        let said = String::from_utf8(said).expect("nothing but the greeting, which comes first");
        assert_eq!((said.starts_with("SSH-2.0-"), said.lines().count()), (true, 1), "{why}: {said}");
        let event =
            node.auth.event("T3007W", |event| event.error.as_deref().is_some_and(|text| text.contains(why)));
        let event = event.await;
        // What was said counts for nothing, in the audit log either.
        assert_eq!(event.remote.unwrap().ip(), node.address.ip(), "{why}");
    }
    // Others' ways of saying it, and a second word after the first.
    let twice = [words().header(), words().header()].concat();
    for begin in [
        &b"PROXY TCP4 192.0.2.7 192.0.2.8 4711 22\r\n"[..],
        b"PROXY UNKNOWN\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\xc0\0\x02\x08\x12\x67\0\x16",
        b"Teleport-Proxy{\"clientAddr\":\"192.0.2.7:4711\"}\0",
        &twice,
    ] {
        let said = answer(&node, &[begin, b"SSH-2.0-x\r\n"].concat()).await;
        let said = String::from_utf8(said).expect("nothing but the greeting");
        assert_eq!(said.lines().count(), 1, "{begin:?}: {said}");
    }
    assert_eq!(text(&node.run(&[], &["echo in"]).await.stdout), "in\n");
}

/// Nobody has to be known to a client that waits for the node's word first.
#[tokio::test(flavor = "multi_thread")]
async fn who_connects_directly_needs_to_know_nothing_of_it() {
    let (node, _) = node().await;
    let port = node.address.port().to_string();
    let output =
        run(Command::new("ssh-keyscan").args(["-T", "60", "-t", "ed25519", "-p", &port, "127.0.0.1"])).await;
    assert!(text(&output.stdout).contains("ssh-ed25519 "), "{}", text(&output.stderr));
}

/// What a proxy carries ends when the proxy is locked, or removed.
#[tokio::test(flavor = "multi_thread")]
async fn a8_what_a_locked_proxy_carries_ends_and_does_not_begin() {
    let (node, words) = node().await;
    let (gate, _gate) = gate(&node, {
        let words = words();
        move || words_of(&words).header()
    })
    .await;
    let good = node.auth.view.borrow().clone();
    let lock = |target: serde_json::Value| {
        let target = serde_json::from_value(target).unwrap();
        let lock = Lock::new("l", LockSpec { target, message: "Taken over".to_owned() });
        [lock].into_iter().collect()
    };
    let causes: [(Change, &str, &str, Option<&str>); 3] = [
        (
            Box::new(move |view| view.locks = lock(json!({"node": PROXY}))),
            "is in force: Taken over",
            "is in force: Taken over",
            Some("is in force: Taken over"),
        ),
        (
            Box::new(move |view| view.locks = lock(json!({"node": "gate"}))),
            "lock targeting node:\"gate\" is in force: Taken over",
            "is in force: Taken over",
            Some("is in force: Taken over"),
        ),
        (
            Box::new(|view| view.removed_proxies = [PROXY.parse().unwrap()].into_iter().collect()),
            "the proxy is not one of the cluster any more",
            "which was removed from the cluster",
            None,
        ),
    ];
    for (cause, says, audited, told) in causes {
        let mut direct = node.hold(&[]).await;
        let mut live = through(&node, gate, "user");
        live.args(["127.0.0.1", "echo up; exec sleep 300"]).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut live = live.spawn().unwrap();
        let mut lines = BufReader::new(live.stdout.take().unwrap()).lines();
        let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap();
        assert_eq!(line.as_deref(), Some("up"));
        let began = Instant::now();
        change(&node, cause).await;
        let ended = tokio::time::timeout(PATIENCE, live.wait_with_output()).await.unwrap().unwrap();
        assert_eq!(ended.status.code(), Some(255));
        assert!(text(&ended.stderr).contains(says), "{says}: {}", text(&ended.stderr));
        // A second, and what a busy machine makes of it.
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        let ends = |event: &teleport_core::audit::AuditEvent| {
            event.fields["reason"].as_str().unwrap().ends_with(audited)
        };
        let event = node.auth.event("T3006I", ends).await;
        assert_eq!(event.user.as_deref(), Some("alice"));

        let output = run(through(&node, gate, "user").args(["127.0.0.1", "echo in"])).await;
        assert_eq!((output.status.code(), output.stdout.len()), (Some(255), 0));
        if let Some(told) = told {
            assert!(text(&output.stderr).contains(told), "{}", text(&output.stderr));
        }
        let event = node
            .auth
            .event("T3007W", |event| event.error.as_deref().is_some_and(|why| why.ends_with(audited)));
        // What such a proxy says counts for nothing.
        assert_eq!(event.await.remote.unwrap().ip(), node.address.ip());
        // Other ways are as they were.
        direct.stdin.take().unwrap().write_all(b"bye\n").await.unwrap();
        assert!(tokio::time::timeout(PATIENCE, direct.wait()).await.unwrap().unwrap().success());
        assert_eq!(text(&node.run(&[], &["echo in"]).await.stdout), "in\n");
        change(&node, |view| view.clone_from(&good)).await;
        let output = run(through(&node, gate, "user").args(["127.0.0.1", "echo in"])).await;
        assert_eq!(text(&output.stdout), "in\n", "{}", me());
    }
}
