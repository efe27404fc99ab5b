//! What is forwarded: by stock `ssh`, and by clients that ask for more than they may.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use russh::{ChannelMsg, client};
use teleport_core::access::LoginGrant;
use teleport_core::audit::AuditEvent;
use teleport_core::clock::{Clock, SystemClock, Timestamp};
use teleport_core::resource::{Lock, LockSpec, RoleOptions, RoleSpec, Switch};
use teleport_core::task::TaskScope;
use teleport_ssh::node::GatewayPorts;
use teleport_ssh::session::{ExitStatus, LoginRefused, OsSessions, SessionChannel, SessionService, Sockets};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::process::Child;

use super::commands::access;
use super::hostile::{Client, client};
use super::support::{PATIENCE, TestNode, UserCert, bytes, me, run, text};

/// What certificates need for everything here.
const EXTENSIONS: [&str; 3] = ["permit-X11-forwarding", "permit-agent-forwarding", "permit-port-forwarding"];

/// Waits for what has a deadline in every test.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.unwrap()
}

/// With a certificate that permits to forward.
fn permitted(node: &TestNode) {
    let certificate = UserCert::new().with(&EXTENSIONS);
    node.write_certificate("user", &certificate.sign(&node.user_key, &node.user_ca), &node.user_key);
}

async fn forwarding_node() -> TestNode {
    let node = TestNode::start().await;
    permitted(&node);
    node
}

/// Sends back what comes, and `over` once the other side has ended its own.
struct Echo {
    address: SocketAddr,
    _scope: TaskScope,
}

impl Echo {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let scope = TaskScope::new();
        let serving = scope.clone();
        scope.spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                serving.spawn(async move {
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                    let _ = write.write_all(b"over").await;
                });
            }
        });
        Self { address, _scope: scope }
    }

    fn port(&self) -> u32 {
        self.address.port().into()
    }
}

/// A client of our own, logged in.
async fn logged_in(node: &TestNode, certificate: UserCert) -> client::Handle<Client> {
    let mut session = client(node.address).await;
    let key = Arc::new(node.user_key.clone());
    let certificate = certificate.sign(&key, &node.user_ca);
    assert!(session.authenticate_openssh_cert(me().as_str(), key, certificate).await.unwrap().success());
    session
}

/// Opens a channel, and gives what the node says to it if it refuses.
async fn open(
    session: &client::Handle<Client>,
    host: &str,
    port: u32,
) -> Result<russh::Channel<client::Msg>, russh::ChannelOpenFailure> {
    match soon(session.channel_open_direct_tcpip(host, port, "127.0.0.1", 1)).await {
        Ok(channel) => Ok(channel),
        Err(russh::Error::ChannelOpenFailure(why)) => Err(why),
        Err(other) => panic!("{other}"),
    }
}

/// Stock `ssh` without a session, which forwards as `options` say. It is up when `path` can be connected to.
async fn tunnel(node: &TestNode, options: &[&str]) -> Child {
    let mut ssh = node.ssh();
    ssh.args(["-N", "-o", "ExitOnForwardFailure=yes"]).args(options).arg("127.0.0.1");
    ssh.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

async fn unix(path: &std::path::Path) -> UnixStream {
    soon(async {
        loop {
            match UnixStream::connect(path).await {
                Ok(stream) => return stream,
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
            }
        }
    })
    .await
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_forward_carries_all_bytes_and_the_end_of_each_side() {
    let node = forwarding_node().await;
    let echo = Echo::start().await;
    let to = echo.address.to_string();
    let sent = bytes(20 << 20);
    let mut ssh = node
        .ssh()
        .args(["-W", &to, "127.0.0.1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stdin, mut stdout) = (ssh.stdin.take().unwrap(), ssh.stdout.take().unwrap());
    let sending = async {
        stdin.write_all(&sent).await.unwrap();
        // The echo says its last word after this.
        drop(stdin);
    };
    let mut received = Vec::new();
    soon(async { tokio::join!(sending, stdout.read_to_end(&mut received)) }).await.1.unwrap();
    assert!(received.ends_with(b"over"));
    received.truncate(received.len() - 4);
    assert!(received == sent, "{} bytes of {}", received.len(), sent.len());

    let begun = node.auth.event("T3003I", |_| true).await;
    assert_eq!((begun.user.as_deref(), begun.login.as_deref()), (Some("alice"), Some(me().as_str())));
    assert_eq!(begun.fields["kind"], "direct-tcpip");
    assert_eq!((&begun.fields["addr"], &begun.fields["address"]), (&to.clone().into(), &to.into()));
    assert_eq!((begun.success, begun.remote.is_some()), (Some(true), true));
    assert_eq!(begun.fields["addr.local"], node.address.to_string());
    let ended = node.auth.event("T3003S", |_| true).await;
    assert_eq!(ended.fields["bytes_received"], 20 << 20);
    assert_eq!(ended.fields["bytes_sent"], (20 << 20) + 4);
    assert!(!ended.fields.contains_key("reason"), "{ended:?}");
}

/// The other side ends first, and the client goes on for as long as it likes.
#[tokio::test(flavor = "multi_thread")]
async fn who_has_ended_a_side_still_hears_the_other() {
    let node = forwarding_node().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let session = logged_in(&node, UserCert::new().with(&EXTENSIONS)).await;
    let mut channel = open(&session, "127.0.0.1", port.into()).await.unwrap();
    let (mut stream, _) = soon(listener.accept()).await.unwrap();
    stream.write_all(b"mine").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut heard = Vec::new();
    loop {
        match soon(channel.wait()).await.unwrap() {
            ChannelMsg::Data { data } => heard.extend_from_slice(&data),
            ChannelMsg::Eof => break,
            _ => {}
        }
    }
    assert_eq!(heard, b"mine");
    for _ in 0..3 {
        channel.data(&b"yours"[..]).await.unwrap();
        let mut word = [0; 5];
        soon(stream.read_exact(&mut word)).await.unwrap();
        assert_eq!(&word, b"yours");
    }
    channel.eof().await.unwrap();
    assert_eq!(soon(stream.read(&mut [0; 9])).await.unwrap(), 0);
    // Both have ended: the channel is closed by the node.
    soon(async { while !matches!(channel.wait().await, None | Some(ChannelMsg::Close)) {} }).await;
    // Whoever breaks off ends it as well.
    let mut channel = open(&session, "127.0.0.1", port.into()).await.unwrap();
    let (stream, _) = soon(listener.accept()).await.unwrap();
    stream.set_zero_linger().unwrap();
    drop(stream);
    soon(async { while !matches!(channel.wait().await, None | Some(ChannelMsg::Close)) {} }).await;
    node.auth.event("T3003S", |event| event.fields.contains_key("reason")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_ssh_forwards_from_sockets_and_by_socks() {
    let node = forwarding_node().await;
    let echo = Echo::start().await;
    let path = node.path("local");
    let port = free_port();
    let local = format!("{}:localhost:{}", path.display(), echo.address.port());
    let dynamic = format!("127.0.0.1:{port}");
    let mut tunnel = tunnel(&node, &["-L", &local, "-D", &dynamic]).await;
    let mut stream = unix(&path).await;
    soon(stream.write_all(b"hello")).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut said = String::new();
    soon(stream.read_to_string(&mut said)).await.unwrap();
    assert_eq!(said, "helloover");

    // SOCKS5, by name and by address; the name is the node's to look up.
    for (kind, host) in [(3, &b"\x09localhost"[..]), (1, &[127, 0, 0, 1])] {
        let mut stream = soon(TcpStream::connect(("127.0.0.1", port))).await.unwrap();
        stream.write_all(&[5, 1, 0]).await.unwrap();
        let mut chosen = [0; 2];
        soon(stream.read_exact(&mut chosen)).await.unwrap();
        let asked = [&[5, 1, 0, kind], host, &echo.address.port().to_be_bytes()].concat();
        stream.write_all(&asked).await.unwrap();
        let mut answer = [0; 10];
        soon(stream.read_exact(&mut answer)).await.unwrap();
        assert_eq!(answer[1], 0);
        stream.write_all(b"hello").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut said = String::new();
        soon(stream.read_to_string(&mut said)).await.unwrap();
        assert_eq!(said, "helloover");
    }
    node.auth.event("T3003I", |event| event.fields["addr"] == format!("localhost:{}", echo.port())).await;
    tunnel.kill().await.unwrap();
}

/// Who asks, what stands against it, and how it is told: to the client, who was let in, and to the audit log.
#[tokio::test(flavor = "multi_thread")]
async fn c1_each_connection_is_decided_by_the_newest_roles_and_the_certificate() {
    let node = forwarding_node().await;
    let echo = Echo::start().await;
    let told =
        async |session: &client::Handle<Client>, host: &str| match open(session, host, echo.port()).await {
            Ok(channel) => {
                channel.close().await.unwrap();
                "open".to_owned()
            }
            Err(why) => format!("{why:?}"),
        };
    let session = logged_in(&node, UserCert::new().with(&EXTENSIONS)).await;
    assert_eq!(told(&session, "127.0.0.1").await, "open");
    let set = async |change: fn(&mut RoleSpec)| node.roles(access(change)).await;

    set(|spec| spec.options.port_forwarding = false).await;
    let refused =
        "the roles do not permit local port forwarding (port_forwarding, ssh_port_forwarding.local)";
    assert!(!told(&session, "127.0.0.1").await.contains("open"), "roles count at once");
    node.auth.event("T3003E", |event| event.error.as_deref() == Some(refused)).await;
    set(|spec| {
        spec.options.ssh_port_forwarding.local = Some(Switch { enabled: false });
    })
    .await;
    assert_ne!(told(&session, "127.0.0.1").await, "open", "the direction counts");
    set(|spec| {
        spec.options = RoleOptions { port_forwarding: false, ..RoleOptions::default() };
        spec.options.ssh_port_forwarding.local = Some(Switch { enabled: true });
    })
    .await;
    assert_eq!(told(&session, "127.0.0.1").await, "open");
    set(|spec| spec.allow.permit_open = Some(vec!["192.0.2.1:*".to_owned()])).await;
    assert_ne!(told(&session, "127.0.0.1").await, "open");
    assert_ne!(told(&session, "localhost").await, "open", "each address of a name is asked for");
    node.auth.event("T3003E", |event| event.error.as_ref().unwrap().contains("permit_open")).await;
    set(|spec| spec.deny.permit_open = Some(vec!["127.0.0.0/8:*".to_owned()])).await;
    for host in ["127.0.0.1", "0.0.0.0", "0", "127.1", "::ffff:127.0.0.1", "[::ffff:7f00:1]", "2130706433"] {
        // Whatever cannot be looked up here would not be told so.
        assert_eq!(told(&session, host).await, "AdministrativelyProhibited", "{host}");
    }
    set(|_| {}).await;
    assert_eq!(told(&session, "127.0.0.1").await, "open");

    // The certificate must permit it, whatever roles say.
    let without = UserCert::new().with(&EXTENSIONS).without("permit-port-forwarding");
    let plain = logged_in(&node, without).await;
    assert_ne!(told(&plain, "127.0.0.1").await, "open");
    let certificate = |event: &AuditEvent| {
        event.error.as_ref().is_some_and(|why| why.starts_with("the certificate does not permit"))
    };
    node.auth.event("T3003E", certificate).await;
    // In the stock client's words.
    node.write_certificate("plain", &UserCert::new().sign(&node.user_key, &node.user_ca), &node.user_key);
    let output = run(node.ssh_as("plain").args(["-W", "127.0.0.1:22", "127.0.0.1"])).await;
    let said = text(&output.stderr);
    assert!(
        said.contains("administratively prohibited: the certificate does not permit local port"),
        "{said}"
    );

    // A role that is taken away ends the connection; a login that is not granted any more has nothing.
    set(|spec| spec.allow.logins = vec!["somebody-else".to_owned()]).await;
    soon(async {
        while !session.is_closed() {
            tokio::task::yield_now().await
        }
    })
    .await;
}

/// Row C1: as a login that is not there any more.
#[derive(Debug)]
struct Gone(OsSessions, AtomicBool);

#[async_trait]
impl SessionService for Gone {
    async fn sockets(
        &self,
        grant: &LoginGrant,
        now: Timestamp,
    ) -> Result<Option<Arc<dyn Sockets>>, LoginRefused> {
        if self.1.load(Ordering::SeqCst) {
            return Err(LoginRefused::new("there is no such account"));
        }
        self.0.sockets(grant, now).await
    }

    async fn run(&self, grant: LoginGrant, channel: SessionChannel) -> ExitStatus {
        self.0.run(grant, channel).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c1_nothing_is_forwarded_as_a_login_that_the_host_does_not_have() {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let service = Arc::new(Gone(OsSessions::new(clock), AtomicBool::new(false)));
    let node = TestNode::serving(Arc::clone(&service) as _, |builder| builder).await;
    let echo = Echo::start().await;
    let session = logged_in(&node, UserCert::new().with(&EXTENSIONS)).await;
    assert!(open(&session, "127.0.0.1", echo.port()).await.is_ok());
    service.1.store(true, Ordering::SeqCst);
    let why = open(&session, "127.0.0.1", echo.port()).await.unwrap_err();
    assert!(matches!(why, russh::ChannelOpenFailure::AdministrativelyProhibited), "{why:?}");
    let event = node.auth.event("T3003E", |_| true).await;
    assert!(event.error.unwrap().contains("there is no such account"));

    // A login that never was one is not let in at all.
    let nobody = "no-such-login-here";
    let mut certificate = UserCert { principals: vec![nobody.into()], ..UserCert::new().with(&EXTENSIONS) };
    certificate.extensions.retain(|(name, _)| !name.starts_with("traits"));
    let traits = format!("{{\"logins\":[\"{nobody}\"]}}");
    certificate.extensions.push(("traits@teleport-rs".into(), traits));
    let node = forwarding_node().await;
    let mut session = client(node.address).await;
    let key = Arc::new(node.user_key.clone());
    let certificate = certificate.sign(&key, &node.user_ca);
    assert!(!session.authenticate_openssh_cert(nobody, key, certificate).await.unwrap().success());
    let event = node.auth.event("T3007W", |_| true).await;
    assert!(event.error.unwrap().contains("there is no account"));
}

/// Who comes to join sessions comes without a login, and there is nobody as whom something could be forwarded.
#[tokio::test(flavor = "multi_thread")]
async fn c1_who_comes_to_join_has_nothing_forwarded() {
    let node = forwarding_node().await;
    node.roles(access(|spec| {
        let entry = serde_json::json!({"roles": ["access"], "kinds": ["ssh"], "modes": ["observer"]});
        spec.allow.join_sessions = vec![serde_json::from_value(entry).unwrap()];
    }))
    .await;
    let mut session = client(node.address).await;
    let key = Arc::new(node.user_key.clone());
    let nologin = vec!["-teleport-nologin".to_owned()];
    let certificate = UserCert { principals: nologin, ..UserCert::new().with(&EXTENSIONS) };
    let certificate = certificate.sign(&key, &node.user_ca);
    assert!(session.authenticate_openssh_cert("+join", key, certificate).await.unwrap().success());
    assert!(open(&session, "127.0.0.1", 22).await.is_err());
    node.auth.event("T3003E", |event| event.error.as_ref().unwrap().contains("join sessions")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_reached_is_said_and_written_down() {
    let node = forwarding_node().await;
    let session = logged_in(&node, UserCert::new().with(&EXTENSIONS)).await;
    let closed = free_port().into();
    for (host, port) in [
        ("127.0.0.1", closed),
        ("no-such-host.invalid", 80),
        ("", 80),
        ("127.0.0.1", 0),
        ("127.0.0.1", 65536 + 22),
        ("a b", 80),
    ] {
        let why = open(&session, host, port).await.unwrap_err();
        assert!(matches!(why, russh::ChannelOpenFailure::ConnectFailed), "{host} {port}: {why:?}");
        let addr = format!("{host}:{port}");
        node.auth.event("T3003E", |event| event.fields["addr"] == addr).await;
    }
    let output = run(node.ssh().args(["-W", &format!("127.0.0.1:{closed}"), "127.0.0.1"])).await;
    assert!(text(&output.stderr).contains("connect failed: Connection refused"), "{}", text(&output.stderr));
    assert_eq!(node.auth.count("T3003I"), 0);
}

/// A connection of which the audit log does not hear is not forwarded, as a session is not begun.
#[tokio::test(flavor = "multi_thread")]
async fn c11_nothing_is_forwarded_before_it_is_in_the_audit_log() {
    let node = forwarding_node().await;
    let session = logged_in(&node, UserCert::new().with(&EXTENSIONS)).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    node.auth.go_away(true);
    let opening = open(&session, "127.0.0.1", port.into());
    let watched = async {
        let (mut stream, _) = soon(listener.accept()).await.unwrap();
        // It is closed again, and nothing was said on it.
        assert_eq!(soon(stream.read(&mut [0; 9])).await.unwrap(), 0);
    };
    let (opened, ()) = tokio::join!(opening, watched);
    assert!(matches!(opened.unwrap_err(), russh::ChannelOpenFailure::ResourceShortage));
}

/// Row B5: thousands that are refused leave nothing behind, and the places of those that ended are free. The audit log is told of all, and not
/// by as many events.
#[tokio::test(flavor = "multi_thread")]
async fn b5_refused_channels_leave_nothing_behind() {
    let node = TestNode::with(|builder| builder.max_forwarded(8)).await;
    let echo = Echo::start().await;
    let session = logged_in(&node, UserCert::new().with(&EXTENSIONS)).await;
    let mut refused = 0_u64;
    for round in 0..3 {
        let mut held = Vec::new();
        for _ in 0..8 {
            // A place is free when the node has closed the channel, which the client may not have heard yet.
            let channel = soon(async {
                loop {
                    match open(&session, "127.0.0.1", echo.port()).await {
                        Ok(channel) => return channel,
                        Err(_) => refused += 1,
                    }
                    tokio::task::yield_now().await;
                }
            });
            held.push(channel.await);
        }
        for _ in 0..3400 {
            let why = open(&session, "127.0.0.1", echo.port()).await.unwrap_err();
            assert!(matches!(why, russh::ChannelOpenFailure::ResourceShortage), "{why:?}");
            refused += 1;
        }
        for channel in &mut held {
            channel.data(&b"hello"[..]).await.unwrap();
            loop {
                if let ChannelMsg::Data { data } = soon(channel.wait()).await.unwrap() {
                    assert_eq!(&data[..], b"hello", "round {round}");
                    break;
                }
            }
            channel.close().await.unwrap();
        }
    }
    node.auth.event("T3003E", |event| event.error.as_ref().unwrap().contains("at most 8")).await;
    drop(session);
    soon(async {
        let more = |event: &AuditEvent| event.fields.get("more_before").map_or(0, |n| n.as_u64().unwrap());
        while node.auth.events("T3003E").iter().map(|event| 1 + more(event)).sum::<u64>() < refused {
            tokio::task::yield_now().await;
        }
        assert_eq!(node.auth.events("T3003E").iter().map(|event| 1 + more(event)).sum::<u64>(), refused);
    })
    .await;
    // A hundred, and one in ten seconds, of which there are not many.
    assert!((101..200).contains(&node.auth.count("T3003E")), "{}", node.auth.count("T3003E"));
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_waits_for_what_is_forwarded_and_not_for_what_could_be() {
    let mut node = forwarding_node().await;
    let echo = Echo::start().await;
    let session = logged_in(&node, UserCert::new().with(&EXTENSIONS)).await;
    let idle = logged_in(&node, UserCert::new().with(&EXTENSIONS)).await;
    let listens = soon(idle.tcpip_forward("localhost", 0)).await.unwrap();
    let busy = soon(session.tcpip_forward("localhost", 0)).await.unwrap();
    let mut channel = open(&session, "127.0.0.1", echo.port()).await.unwrap();
    node.shutdown.drain();
    // Nobody has come by that listener, and nobody will.
    is_closed(listens.try_into().unwrap()).await;
    soon(async {
        while !idle.is_closed() {
            tokio::task::yield_now().await
        }
    })
    .await;
    // Nothing is added to what is waited for.
    assert!(matches!(
        open(&session, "127.0.0.1", echo.port()).await.unwrap_err(),
        russh::ChannelOpenFailure::ResourceShortage
    ));
    let mut late = TcpStream::connect(("127.0.0.1", u16::try_from(busy).unwrap())).await.unwrap();
    assert_eq!(soon(late.read(&mut [0; 9])).await.unwrap_or(0), 0, "led nowhere");
    let refused = |event: &AuditEvent| {
        event.error.as_deref() == Some("the node is shutting down")
            && event.fields["kind"] == "forwarded-tcpip"
    };
    node.auth.event("T3003E", refused).await;
    channel.data(&b"still"[..]).await.unwrap();
    let mut heard = Vec::new();
    while heard != b"still" {
        if let ChannelMsg::Data { data } = soon(channel.wait()).await.unwrap() {
            heard.extend_from_slice(&data);
        }
    }
    assert!(!*node.ended.borrow() && !session.is_closed(), "it is waited for");
    channel.eof().await.unwrap();
    soon(node.ended.wait_for(|ended| *ended)).await.unwrap();
    assert_eq!(node.auth.count("T3003S"), 3, "the last events were written before the end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_connections_are_carried_at_once() {
    teleport_ssh::sys::limits::raise_nofile_limit().unwrap();
    let node = forwarding_node().await;
    let echo = Echo::start().await;
    let session = Arc::new(logged_in(&node, UserCert::new().with(&EXTENSIONS)).await);
    let mut channels = Vec::new();
    for _ in 0..1000 {
        channels.push(open(&session, "127.0.0.1", echo.port()).await.unwrap());
    }
    // All of them speak, and all are heard, while all are open.
    for round in 0..3_u8 {
        for (number, channel) in channels.iter().enumerate() {
            let word = [&(number as u32).to_be_bytes()[..], &[round]].concat();
            channel.data(&word[..]).await.unwrap();
        }
        for (number, channel) in channels.iter_mut().enumerate() {
            let word = [&(number as u32).to_be_bytes()[..], &[round]].concat();
            loop {
                if let ChannelMsg::Data { data } = soon(channel.wait()).await.unwrap() {
                    assert_eq!(&data[..], &word[..], "{number}");
                    break;
                }
            }
        }
    }
    for channel in &channels {
        channel.eof().await.unwrap();
    }
    for channel in &mut channels {
        let mut last = Vec::new();
        while let Some(message) = soon(channel.wait()).await {
            if let ChannelMsg::Data { data } = message {
                last.extend_from_slice(&data);
            }
        }
        assert_eq!(last, b"over");
    }
    soon(async {
        while node.auth.count("T3003S") < 1000 {
            tokio::task::yield_now().await
        }
    })
    .await;
    assert_eq!(node.auth.count("T3003I"), 1000);
}

/// A stock client that has the node listen on any port, and that port.
async fn listening(node: &TestNode, to: SocketAddr, options: &[&str]) -> (Child, u16) {
    let to = format!("0:{to}");
    let mut tunnel = tunnel(node, &[options, &["-R", &to]].concat()).await;
    let mut stderr = tokio::io::BufReader::new(tunnel.stderr.take().unwrap());
    let mut said = String::new();
    let line = tokio::io::AsyncBufReadExt::read_line(&mut stderr, &mut said);
    soon(line).await.unwrap();
    let port = said.strip_prefix("Allocated port ").and_then(|rest| rest.split(' ').next());
    let port = port.unwrap_or_else(|| panic!("{said}")).parse().unwrap();
    tunnel.stderr = Some(stderr.into_inner());
    (tunnel, port)
}

async fn echoes(mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin, size: usize) {
    let sent = bytes(size);
    let mut said = Vec::new();
    soon(async {
        let (mut read, mut write) = tokio::io::split(&mut stream);
        let sending = async {
            write.write_all(&sent).await.unwrap();
            write.shutdown().await.unwrap();
        };
        tokio::join!(sending, read.read_to_end(&mut said)).1.unwrap();
    })
    .await;
    assert!(said.ends_with(b"over") && said[..said.len() - 4] == sent, "{} bytes", said.len());
}

/// Waits until nobody listens there any more.
async fn is_closed(port: u16) {
    soon(async { while TcpStream::connect(("127.0.0.1", port)).await.is_ok() {} }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_listens_for_a_client_on_loopback_as_long_as_it_is_there() {
    let node = forwarding_node().await;
    let echo = Echo::start().await;
    let (mut tunnel, port) = listening(&node, echo.address, &[]).await;
    for address in ["127.0.0.1", "::1"] {
        echoes(TcpStream::connect((address, port)).await.unwrap(), 3 << 20).await;
    }
    let begun = node.auth.event("T3003I", |event| event.fields["kind"] == "tcpip-forward").await;
    assert_eq!((begun.user.as_deref(), begun.login.as_deref()), (Some("alice"), Some(me().as_str())));
    let led = node.auth.event("T3003S", |event| event.fields["kind"] == "forwarded-tcpip").await;
    assert_eq!(
        (&led.fields["bytes_sent"], &led.fields["bytes_received"]),
        (&(3 << 20).into(), &((3 << 20) + 4).into())
    );
    assert!(led.fields["address"].as_str().unwrap().starts_with("127.0.0.1:"));
    // Not for others, whatever the client asks for.
    let everywhere = format!("0.0.0.0:0:{}", echo.address);
    let _second = self::tunnel(&node, &["-R", &everywhere]).await;
    let other = node
        .auth
        .event("T3003I", |event| event.fields["addr"].as_str().unwrap().starts_with("0.0.0.0:"))
        .await;
    let other: u16 = other.fields["addr"].as_str().unwrap().rsplit(':').next().unwrap().parse().unwrap();
    assert!(TcpStream::connect(("127.0.0.2", other)).await.is_err());
    echoes(TcpStream::connect(("127.0.0.1", other)).await.unwrap(), 10).await;

    tunnel.kill().await.unwrap();
    is_closed(port).await;
    node.auth.event("T3003S", |event| event.fields["kind"] == "tcpip-forward").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_choose_the_address_where_that_is_configured() {
    let node = TestNode::with(|builder| builder.gateway_ports(GatewayPorts::ClientSpecified)).await;
    permitted(&node);
    let echo = Echo::start().await;
    let to = format!("127.0.0.3:0:{}", echo.address);
    let _tunnel = tunnel(&node, &["-R", &to]).await;
    let begun = node.auth.event("T3003I", |event| event.fields["kind"] == "tcpip-forward").await;
    let address: SocketAddr = begun.fields["addr"].as_str().unwrap().parse().unwrap();
    assert_eq!(address.ip().to_string(), "127.0.0.3");
    echoes(TcpStream::connect(address).await.unwrap(), 10).await;
    assert!(TcpStream::connect(("127.0.0.1", address.port())).await.is_err());
}

/// Row C7: what a connection listens on belongs to it; another, of whoever it is, neither ends nor takes it.
#[tokio::test(flavor = "multi_thread")]
async fn c7_a_listener_belongs_to_its_connection() {
    let node = forwarding_node().await;
    let echo = Echo::start().await;
    let (mut tunnel, port) = listening(&node, echo.address, &[]).await;
    let mut others = vec![logged_in(&node, UserCert::new().with(&EXTENSIONS)).await];
    let bob = UserCert { key_id: "bob".into(), ..UserCert::new().with(&EXTENSIONS) };
    others.push(logged_in(&node, bob).await);
    for other in &mut others {
        for address in ["", "localhost", "127.0.0.1", "0.0.0.0"] {
            assert!(soon(other.cancel_tcpip_forward(address, port.into())).await.is_err(), "{address}");
            assert!(soon(other.tcpip_forward(address, port.into())).await.is_err(), "{address}");
        }
    }
    node.auth.event("T3003E", |event| event.user.as_deref() == Some("bob")).await;
    echoes(TcpStream::connect(("127.0.0.1", port)).await.unwrap(), 10).await;
    // Its own, it ends; what came through stays.
    let bound = soon(others[1].tcpip_forward("localhost", 0)).await.unwrap();
    assert!(soon(others[0].cancel_tcpip_forward("localhost", bound)).await.is_err());
    assert!(
        soon(others[1].cancel_tcpip_forward("127.0.0.1", bound)).await.is_err(),
        "by the name that it was given"
    );
    soon(others[1].cancel_tcpip_forward("localhost", bound)).await.unwrap();
    assert!(TcpStream::connect(("127.0.0.1", bound as u16)).await.is_err(), "closed when the answer comes");
    assert!(soon(others[1].cancel_tcpip_forward("localhost", bound)).await.is_err(), "once");
    // Free for others when it is gone.
    tunnel.kill().await.unwrap();
    is_closed(port).await;
    soon(async { while others[0].tcpip_forward("localhost", port.into()).await.is_err() {} }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_cancels_a_listener_and_keeps_what_came_through_it() {
    let node = forwarding_node().await;
    let echo = Echo::start().await;
    let control = node.path("control");
    let control = control.to_str().unwrap();
    let port = free_port();
    let remote = format!("127.0.0.1:{port}:{}", echo.address);
    let mut master = tunnel(&node, &["-M", "-S", control, "-R", &remote]).await;
    let mut stream = soon(async {
        loop {
            match TcpStream::connect(("127.0.0.1", port)).await {
                Ok(stream) => return stream,
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
            }
        }
    })
    .await;
    stream.write_all(b"a").await.unwrap();
    soon(stream.read_exact(&mut [0])).await.unwrap();
    let cancel = run(node.ssh().args(["-S", control, "-O", "cancel", "-R", &remote, "127.0.0.1"])).await;
    assert!(cancel.status.success(), "{}", text(&cancel.stderr));
    is_closed(port).await;
    echoes(stream, 100_000).await;
    master.kill().await.unwrap();
}

/// Row C1, of listeners: the certificate, the roles in their direction, at each connection that comes, and the ports of the host.
#[tokio::test(flavor = "multi_thread")]
async fn c1_who_may_have_the_node_listen_is_decided_by_the_newest_roles() {
    let node = forwarding_node().await;
    let echo = Echo::start().await;
    let (_tunnel, port) = listening(&node, echo.address, &[]).await;
    let session = logged_in(&node, UserCert::new().with(&EXTENSIONS)).await;
    let plain = logged_in(&node, UserCert::new()).await;
    assert!(soon(plain.tcpip_forward("localhost", 0)).await.is_err());
    node.auth.event("T3003E", |event| event.error.as_ref().unwrap().starts_with("the certificate")).await;
    assert!(soon(session.tcpip_forward("localhost", 65_536)).await.is_err());
    assert!(soon(session.tcpip_forward("a\nb", 0)).await.is_err());
    node.roles(access(|spec| spec.options.ssh_port_forwarding.remote = Some(Switch { enabled: false })))
        .await;
    assert!(soon(session.tcpip_forward("localhost", 0)).await.is_err());
    let mut late = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    assert_eq!(soon(late.read(&mut [0; 9])).await.unwrap_or(0), 0, "who comes now is led nowhere");
    assert!(open(&session, "127.0.0.1", echo.port()).await.is_ok(), "the other direction is another matter");
    let refused =
        "the roles do not permit remote port forwarding (port_forwarding, ssh_port_forwarding.remote)";
    for kind in ["tcpip-forward", "forwarded-tcpip"] {
        let is = |event: &AuditEvent| event.error.as_deref() == Some(refused) && event.fields["kind"] == kind;
        node.auth.event("T3003E", is).await;
    }
    // In the stock client's words.
    let options = ["-v", "-N", "-o", "ExitOnForwardFailure=yes", "-R", "0:127.0.0.1:1"];
    let output = node.run(&options, &[]).await;
    let said = text(&output.stderr);
    assert!(!output.status.success() && said.contains("remote port forwarding failed"), "{said}");
    assert!(said.contains(refused), "{said}");
}

/// As somebody who is not root.
#[derive(Debug)]
struct Plain(Arc<dyn Sockets>);

impl Sockets for Plain {
    fn tcp(&self, address: SocketAddr) -> std::io::Result<tokio::net::TcpSocket> {
        self.0.tcp(address)
    }
    fn listen_tcp(&self, address: SocketAddr) -> std::io::Result<TcpListener> {
        self.0.listen_tcp(address)
    }
    fn is_root(&self) -> bool {
        false
    }
}

#[derive(Debug)]
struct NotRoot(OsSessions);

#[async_trait]
impl SessionService for NotRoot {
    async fn sockets(
        &self,
        grant: &LoginGrant,
        now: Timestamp,
    ) -> Result<Option<Arc<dyn Sockets>>, LoginRefused> {
        let sockets = self.0.sockets(grant, now).await?;
        Ok(sockets.map(|sockets| Arc::new(Plain(sockets)) as Arc<dyn Sockets>))
    }

    async fn run(&self, grant: LoginGrant, channel: SessionChannel) -> ExitStatus {
        self.0.run(grant, channel).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_of_the_host_are_for_root_alone_and_listeners_are_counted() {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let node = TestNode::serving(Arc::new(NotRoot(OsSessions::new(clock))), |builder| builder).await;
    let session = logged_in(&node, UserCert::new().with(&EXTENSIONS)).await;
    for port in [1, 22, 1023] {
        assert!(soon(session.tcpip_forward("localhost", port)).await.is_err(), "{port}");
    }
    node.auth.event("T3003E", |event| event.error.as_ref().unwrap().contains("below 1024")).await;
    let mut ports = Vec::new();
    for _ in 0..256 {
        ports.push(soon(session.tcpip_forward("localhost", 0)).await.unwrap());
    }
    assert!(soon(session.tcpip_forward("localhost", 0)).await.is_err());
    soon(session.cancel_tcpip_forward("localhost", ports.pop().unwrap())).await.unwrap();
    ports.push(soon(session.tcpip_forward("localhost", 0)).await.unwrap());
    drop(session);
    for port in ports {
        is_closed(port.try_into().unwrap()).await;
    }
}

/// Requests of the connection that nobody knows are answered in their order, and change nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_forwards_nothing_says_so() {
    #[derive(Debug)]
    struct Nothing;
    #[async_trait]
    impl SessionService for Nothing {
        async fn run(&self, _grant: LoginGrant, _channel: SessionChannel) -> ExitStatus {
            ExitStatus::Code(0)
        }
    }
    let node = TestNode::serving(Arc::new(Nothing), |builder| builder).await;
    let session = logged_in(&node, UserCert::new().with(&EXTENSIONS)).await;
    assert!(open(&session, "127.0.0.1", 22).await.is_err());
    assert!(soon(session.tcpip_forward("localhost", 0)).await.is_err());
    let is = |event: &AuditEvent| event.error.as_deref() == Some("this node forwards nothing");
    node.auth.event("T3003E", is).await;
}

/// Row C8: what runs over a connection ends with the right to be there.
#[tokio::test(flavor = "multi_thread")]
async fn c8_a_lock_ends_what_is_forwarded() {
    let node = forwarding_node().await;
    let echo = Echo::start().await;
    let path = node.path("local");
    let local = format!("{}:{}", path.display(), echo.address);
    let mut tunnel = tunnel(&node, &["-L", &local]).await;
    let mut stream = unix(&path).await;
    stream.write_all(b"hello").await.unwrap();
    soon(stream.read_exact(&mut [0; 5])).await.unwrap();
    let target = serde_json::from_value(serde_json::json!({"user": "alice"})).unwrap();
    let lock = Lock::new("l", LockSpec { target, message: "Go home".to_owned() });
    node.auth.view.send_modify(|view| view.locks = [lock].into_iter().collect());
    // Not even an `over`: it is cut.
    let mut rest = Vec::new();
    let _ = soon(stream.read_to_end(&mut rest)).await;
    assert_eq!(rest, b"");
    soon(tunnel.wait()).await.unwrap();
    let ended = node.auth.event("T3003S", |_| true).await;
    assert!(ended.fields["reason"].as_str().unwrap().contains("lock"), "{ended:?}");
}
