//! Strangers who do not mean well: raw bytes, stalled handshakes, floods, messages out of order.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use russh::client;
use russh::keys::PublicKeyOrCertificate;
use teleport_core::access::LoginGrant;
use teleport_ssh::listener::limits::Limits;
use teleport_ssh::session::{ExitStatus, SessionChannel, SessionService};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::support::{PATIENCE, TestNode, UserCert, lenient, me, private_key, text};

async fn connect(node: &TestNode) -> TcpStream {
    TcpStream::connect(node.address).await.unwrap()
}

/// Reads until the other side hangs up; says how long that took.
async fn until_hung_up(stream: &mut TcpStream) -> Duration {
    let started = Instant::now();
    let mut rest = [0; 4096];
    tokio::time::timeout(PATIENCE, async {
        while !matches!(stream.read(&mut rest).await, Ok(0) | Err(_)) {}
    })
    .await
    .unwrap();
    started.elapsed()
}

/// B8: whatever comes, one connection ends and the node lives.
#[tokio::test(flavor = "multi_thread")]
async fn garbage_ends_one_connection_only() {
    let node = TestNode::start().await;
    let pseudo = |seed: u64, len: usize| -> Vec<u8> {
        let mut state = seed;
        (0..len)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 56) as u8
            })
            .collect()
    };
    let mut inputs: Vec<Vec<u8>> = vec![
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        b"PROXY TCP4 10.0.0.1 10.0.0.2 1 22\r\nSSH-2.0-x\r\n".to_vec(),
        b"\r\n\r\n\x00\r\nQUIT\n".to_vec(),
        b"SSH-1.5-old\r\n".to_vec(),
        b"SSH-2.0-".repeat(5000),
        vec![b'x'; 300_000],
        b"line\r\n".repeat(100_000),
    ];
    for seed in 0..40 {
        inputs.push(pseudo(seed, 2000));
        inputs.push([b"SSH-2.0-x\r\n".as_slice(), &pseudo(seed + 1000, 3000)].concat());
    }
    // Packets whose declared length is extreme, before any key exchange.
    for length in [0_u32, 1, 4, 5, 1 << 16, 1 << 28, u32::MAX] {
        inputs.push([b"SSH-2.0-x\r\n".as_slice(), &length.to_be_bytes(), &[0; 64]].concat());
    }
    for input in inputs {
        let mut stream = connect(&node).await;
        // The node may hang up while we write.
        let _ = stream.write_all(&input).await;
        let _ = stream.shutdown().await;
        until_hung_up(&mut stream).await;
    }
    assert_eq!(node.status.counts().panics, 0);
    assert!(node.run(&[], &["true"]).await.status.success());
}

/// B7, G-8: who stalls is cut by a deadline of ours.
#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_handshake_is_cut() {
    let grace = Duration::from_millis(700);
    let node = TestNode::with(|builder| builder.limits(Limits { login_grace: grace, ..lenient() })).await;
    for said in ["", "SSH-2.0-", "SSH-2.0-slow\r\n"] {
        let mut stream = connect(&node).await;
        stream.write_all(said.as_bytes()).await.unwrap();
        let took = until_hung_up(&mut stream).await;
        assert!(took >= grace / 2 && took < Duration::from_secs(10), "{said:?}: {took:?}");
    }
    // A byte now and then does not buy time.
    let (mut read, mut write) = connect(&node).await.into_split();
    let started = Instant::now();
    let dripping = async {
        for byte in b"SSH-2.0-dripping-and-dripping-and-dripping".iter().cycle() {
            if write.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let reading = async { while !matches!(read.read(&mut [0; 512]).await, Ok(0) | Err(_)) {} };
    tokio::time::timeout(PATIENCE, async {
        tokio::select! { () = dripping => {}, () = reading => {} }
    })
    .await
    .unwrap();
    assert!(started.elapsed() < Duration::from_secs(10));
    wait_for(&node, |counts| counts.0 == 0).await;
}

async fn wait_for(node: &TestNode, wanted: impl Fn((u32, u32)) -> bool) {
    tokio::time::timeout(PATIENCE, async {
        loop {
            let counts = node.status.counts();
            if wanted((counts.connections, counts.startups)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
}

/// B6, G-10: thousands of half-open connections neither grow beyond the bound nor harm a healthy client.
#[tokio::test(flavor = "multi_thread")]
async fn half_open_floods_are_bounded_and_harm_nobody() {
    let limits = Limits { startup_begin: 50, startup_full: 60, ..lenient() };
    let node = TestNode::with(|builder| builder.limits(limits)).await;
    let mut held = Vec::new();
    for number in 0..400 {
        let mut stream = connect(&node).await;
        if number % 2 == 0 {
            let _ = stream.write_all(b"SSH-2.0-half\r\n").await;
        }
        held.push(stream);
    }
    wait_for(&node, |(connections, _)| connections <= 60).await;
    tokio::time::timeout(PATIENCE, async {
        while node.status.counts().accepted + node.status.counts().refused < 400 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    let counts = node.status.counts();
    assert!(counts.startups <= 60 && counts.refused >= 300, "{counts:?}");
    held.truncate(0);
    wait_for(&node, |(connections, _)| connections == 0).await;
    assert!(node.run(&[], &["true"]).await.status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_source_cannot_take_all_places() {
    let limits = Limits { per_source: 5, penalties: false, ..Limits::default() };
    let node = TestNode::with(|builder| builder.limits(limits)).await;
    let mut held = Vec::new();
    for _ in 0..5 {
        let mut stream = connect(&node).await;
        let mut hello = [0; 8];
        stream.read_exact(&mut hello).await.unwrap();
        assert_eq!(&hello, b"SSH-2.0-");
        held.push(stream);
    }
    let mut sixth = connect(&node).await;
    let mut word = Vec::new();
    tokio::time::timeout(PATIENCE, sixth.read_to_end(&mut word)).await.unwrap().unwrap();
    assert_eq!(text(&word), "Exceeded MaxStartups\r\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_fails_again_and_again_must_wait() {
    let limits = Limits { penalties: true, ..lenient() };
    let node = TestNode::with(|builder| builder.limits(limits)).await;
    let key = private_key(50);
    node.write_certificate("bad", &UserCert::new().sign(&key, &private_key(51)), &key);
    // Each costs five seconds; from fifteen on, the source waits. At once, so that a slow machine does not sit them out meanwhile.
    let attempts = (0..12).map(|_| async {
        super::support::run(node.ssh_as("bad").args(["127.0.0.1", "true"])).await.status.code()
    });
    let codes = futures_util::future::join_all(attempts).await;
    assert!(codes.iter().all(|code| *code == Some(255)), "{codes:?}");
    wait_for(&node, |(connections, _)| connections == 0).await;
    assert!(
        !node.run(&[], &["true"]).await.status.success(),
        "even the good one waits: it is the same address"
    );
    assert!(node.status.counts().refused > 0);

    // Unless it is a proxy's, behind which there are others.
    node.auth.view.send_modify(|view| view.proxies = vec![Ipv4Addr::LOCALHOST.into()]);
    node.status.view().wait_for(|view| !view.proxies.is_empty()).await;
    let let_in = async { while !node.run(&[], &["true"]).await.status.success() {} };
    tokio::time::timeout(PATIENCE, let_in).await.unwrap();
}

/// Whoever has a certificate of the cluster is known: that the login is not theirs is no offence of the address.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_is_denied_locks_nobody_out() {
    let limits = Limits { penalties: true, ..lenient() };
    let node = TestNode::with(|builder| builder.limits(limits)).await;
    let key = private_key(50);
    let elsewhere = UserCert { principals: vec!["somebody-else".into()], ..UserCert::new() };
    node.write_certificate("denied", &elsewhere.sign(&key, &node.user_ca), &key);
    for _ in 0..6 {
        let output = super::support::run(node.ssh_as("denied").args(["127.0.0.1", "true"])).await;
        assert!(text(&output.stderr).contains("Permission denied"), "{}", text(&output.stderr));
    }
    wait_for(&node, |(connections, _)| connections == 0).await;
    assert!(node.run(&[], &["true"]).await.status.success());
    assert_eq!(node.status.counts().refused, 0);
}

pub(crate) struct Client;

impl client::Handler for Client {
    type Error = russh::Error;

    async fn check_server_key(&mut self, _key: &PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        Ok(true)
    }
}

pub(crate) async fn client(address: SocketAddr) -> client::Handle<Client> {
    // It stops altogether when a channel's queue is full, so what these tests leave unread must be little.
    client::connect(Arc::new(client::Config::default()), address, Client).await.unwrap()
}

/// Counts what reaches it.
#[derive(Debug, Default)]
struct Counting(std::sync::atomic::AtomicUsize);

#[async_trait]
impl SessionService for Counting {
    async fn run(&self, _grant: LoginGrant, _channel: SessionChannel) -> ExitStatus {
        self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        ExitStatus::Code(0)
    }
}

/// B2: channel messages before authentication are never dispatched, and an offered or refused key is nobody's identity (A2).
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_dispatched_before_authentication() {
    let service = Arc::new(Counting::default());
    let node = TestNode::serving(Arc::clone(&service) as _, |builder| builder).await;
    for attempts in 0..4 {
        let mut session = client(node.address).await;
        let key = Arc::new(private_key(2));
        let certificate = UserCert::new().sign(&key, &private_key(60));
        if attempts > 0 {
            let result =
                session.authenticate_openssh_cert(me().as_str(), Arc::clone(&key), certificate).await;
            assert!(!result.unwrap().success());
        }
        if attempts > 1 {
            assert!(!session.authenticate_none(me().as_str()).await.unwrap().success());
        }
        if attempts > 2 {
            assert!(!session.authenticate_password(me().as_str(), "").await.unwrap().success());
        }
        let open = tokio::time::timeout(Duration::from_millis(500), session.channel_open_session()).await;
        assert!(!matches!(open, Ok(Ok(_))), "a channel was opened without authentication");
    }
    assert_eq!(service.0.load(std::sync::atomic::Ordering::SeqCst), 0);
    assert_eq!(node.auth.count("T2000I"), 0);
}

/// A2: a password, however empty, and an answer to no question are refused.
#[tokio::test(flavor = "multi_thread")]
async fn only_certificates_authenticate() {
    let node = TestNode::start().await;
    let mut session = client(node.address).await;
    assert!(!session.authenticate_none(me().as_str()).await.unwrap().success());
    assert!(!session.authenticate_password(me().as_str(), "").await.unwrap().success());
    assert!(!session.authenticate_password(me().as_str(), "secret").await.unwrap().success());
    let key = russh::keys::PrivateKeyWithHashAlg::new(Arc::new(private_key(2)), None);
    assert!(!session.authenticate_publickey(me().as_str(), key).await.unwrap().success());
    let key = Arc::new(private_key(2));
    let good = UserCert::new().sign(&key, &node.user_ca);
    // A refused attempt leaves nothing behind that would harm or help the next one.
    assert!(session.authenticate_openssh_cert(me().as_str(), key, good).await.unwrap().success());
    drop(session);
    assert_eq!(node.auth.count("T3007W"), 0, "it ended well");

    let mut session = client(node.address).await;
    assert!(!session.authenticate_password(me().as_str(), "secret").await.unwrap().success());
    drop(session);
    node.auth.event("T3007W", |event| event.fields["method"] == "passwords").await;
}

/// B5: refused opens leave the session and the node as they are.
#[tokio::test(flavor = "multi_thread")]
async fn refused_channels_stop_nothing() {
    let node = TestNode::with(|builder| builder.max_sessions(1)).await;
    let mut session = client(node.address).await;
    let key = Arc::new(private_key(2));
    let good = UserCert::new().sign(&key, &node.user_ca);
    assert!(session.authenticate_openssh_cert(me().as_str(), key, good).await.unwrap().success());
    let channel = session.channel_open_session().await.unwrap();
    channel.exec(true, "exec sleep 1000").await.unwrap();
    node.auth.event("T2000I", |_| true).await;
    for _ in 0..2000 {
        assert!(session.channel_open_session().await.is_err());
    }
    assert_eq!(node.status.sessions().len(), 1);
    drop(channel);
    drop(session);
}

/// B5: requests wait in the channel's queue like input does, each as long as a packet may be; they are counted like it.
#[tokio::test(flavor = "multi_thread")]
async fn requests_that_nobody_reads_are_not_kept() {
    let node = TestNode::start().await;
    let mut session = client(node.address).await;
    let key = Arc::new(private_key(2));
    let good = UserCert::new().sign(&key, &node.user_ca);
    assert!(session.authenticate_openssh_cert(me().as_str(), key, good).await.unwrap().success());
    let channel = session.channel_open_session().await.unwrap();
    let long = "x".repeat(30_000);
    let flood = async {
        // Sending fails once the connection is cut.
        while channel.set_env(false, "LANG", long.as_str()).await.is_ok() {}
    };
    tokio::time::timeout(PATIENCE, flood).await.unwrap();
}

/// B1: what is offered, seen from outside.
#[tokio::test(flavor = "multi_thread")]
async fn only_the_intended_algorithms_are_offered() {
    let node = TestNode::start().await;
    for (option, good, bad) in [
        ("KexAlgorithms", "curve25519-sha256", "diffie-hellman-group14-sha256"),
        ("Ciphers", "aes256-gcm@openssh.com", "aes128-cbc"),
        ("Ciphers", "chacha20-poly1305@openssh.com", "3des-cbc"),
        ("Ciphers", "aes256-ctr", "aes192-ctr"),
        ("Ciphers", "aes128-gcm@openssh.com", "aes128-ctr"),
        ("MACs", "hmac-sha2-512-etm@openssh.com", "hmac-sha1"),
        ("HostKeyAlgorithms", "ssh-ed25519-cert-v01@openssh.com", "rsa-sha2-512"),
    ] {
        let with = |value: &str| {
            vec![
                "-o".to_owned(),
                "Ciphers=aes256-ctr".to_owned(),
                "-o".to_owned(),
                format!("{option}={value}"),
            ]
        };
        let with = |value: &str| if option == "MACs" { with(value) } else { with(value)[2..].to_vec() };
        let run = async |value: &str| {
            let options = with(value);
            node.run(&options.iter().map(String::as_str).collect::<Vec<_>>(), &["true"]).await
        };
        let output = run(good).await;
        assert!(output.status.success(), "{option} {good}: {}", text(&output.stderr));
        let output = run(bad).await;
        assert!(!output.status.success(), "{option} {bad}");
        assert!(text(&output.stderr).contains("no matching"), "{}", text(&output.stderr));
    }
    let output = node.run(&["-v"], &["true"]).await;
    assert!(text(&output.stderr).contains("Teleport_"), "our name");
    let output = node.run(&["-vvv"], &["true"]).await;
    assert!(text(&output.stderr).contains("kex-strict-s-v00@openssh.com"), "strict key exchange");
}

/// G-14: keys are changed in the middle of a stream, and nothing is lost.
#[tokio::test(flavor = "multi_thread")]
async fn rekeying_in_the_middle_of_a_stream_loses_nothing() {
    let node = TestNode::start().await;
    let output = node.run(&["-o", "RekeyLimit=1M"], &["head -c 24000000 /dev/zero | tr '\\0' 'x'"]).await;
    assert_eq!(output.stdout.len(), 24_000_000, "{}", text(&output.stderr));
    assert!(output.stdout.iter().all(|byte| *byte == b'x'));
    assert!(output.status.success());
}
