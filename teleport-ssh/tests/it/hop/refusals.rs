//! What a proxy does not do (C2, C3), said clearly and recorded.

use std::net::Ipv4Addr;
use std::sync::Arc;

use ssh_key::{Certificate, PrivateKey};
use teleport_core::audit::{AuditEvent, EventKind};
use teleport_core::clock::{Clock, SystemClock};
use teleport_core::origin::{Audience, OriginCheck, OriginRejected, Seen};
use teleport_core::resource::Role;
use tokio::net::TcpListener;

use super::{CLUSTER, PROXY, World, os_user, run, text};

#[tokio::test(flavor = "multi_thread")]
async fn c3_the_proxy_is_no_login_host() {
    let world = World::start().await;
    world.sshd("web").await;
    let user = world.user("alice").await;
    let only_a_proxy = "this is a proxy";
    for (arguments, says, kind) in [
        (&["HOST"][..], only_a_proxy, EventKind::SessionRejected),
        (&["-tt", "HOST"], "PTY allocation request failed", EventKind::SessionRejected),
        (&["HOST", "id"], only_a_proxy, EventKind::ExecFailure),
        (&["HOST", ""], only_a_proxy, EventKind::SessionRejected),
        (&["HOST", "scp -f /etc/passwd"], only_a_proxy, EventKind::ExecFailure),
        (&["HOST", "proxy:web:0"], only_a_proxy, EventKind::ExecFailure),
        (&["-s", "HOST", "sftp"], "the only subsystem is proxy:", EventKind::SubsystemFailure),
        (&["-s", "HOST", "proxysites"], "the only subsystem is proxy:", EventKind::SubsystemFailure),
        (
            &["-s", "HOST", "proxy:@example.test"],
            "the auth service is not reached",
            EventKind::SubsystemFailure,
        ),
        (
            &["-s", "HOST", "proxy:web:0@default@leaf"],
            "cluster leaf is not known",
            EventKind::SubsystemFailure,
        ),
        (
            &["-s", "HOST", "proxy:web:0@prod@leaf"],
            "namespaces are not supported",
            EventKind::SubsystemFailure,
        ),
        (&["-s", "HOST", "proxy:`id`:0"], "the host must be", EventKind::SubsystemFailure),
        (
            &["-o", "ExitOnForwardFailure=yes", "-N", "-R", "0:127.0.0.1:1", "HOST"],
            "remote port forwarding failed",
            EventKind::PortFailure,
        ),
    ] {
        let mut ssh = world.ssh(&user);
        ssh.args(["-o", "RequestTTY=auto", "-o", PROXY, "-p", &world.proxy.port().to_string()]);
        ssh.args(arguments.iter().map(|word| if *word == "HOST" { "x@127.0.0.1" } else { word }));
        let output = run(ssh).await;
        assert!(!output.status.success(), "{arguments:?}");
        assert_eq!(text(&output.stdout), "", "{arguments:?}");
        assert!(text(&output.stderr).contains(says), "{arguments:?}: {}", text(&output.stderr));
        world.event(kind, |event| event.user.as_deref() == Some("alice") && event.error.is_some()).await;
        world.access.events.lock().unwrap().clear();
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c2_the_proxy_dials_nothing_but_registered_nodes() {
    let world = World::start().await;
    world.sshd("web").await;
    let user = world.user("alice").await;
    // Something of this machine that answers, as the auth service would.
    let bystander = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = bystander.local_addr().unwrap().port();
    let secret = world.node_material("secret").await;
    world.register(secret.host_id, "secret", bystander.local_addr().unwrap(), "env=secret").await;
    for target in [
        format!("127.0.0.1:{port}"),
        format!("localhost:{port}"),
        format!("[::ffff:127.0.0.1]:{port}"),
        format!("[::1]:{port}"),
        format!("2130706433:{port}"),
        format!("0.0.0.0:{port}"),
        format!("127.1:{port}"),
        format!("web:{port}"),
        format!("secret:{port}"),
        format!("{}:{port}", secret.host_id),
        "169.254.169.254:80".to_owned(),
        format!("127.0.0.1:{}", world.proxy.port()),
        "nobody:22".to_owned(),
    ] {
        let mut ssh = world.ssh(&user);
        ssh.args(["-o", PROXY, "-p", &world.proxy.port().to_string(), "-W", &target, "x@127.0.0.1"]);
        let output = run(ssh).await;
        let said = text(&output.stderr);
        assert!(!output.status.success() && text(&output.stdout).is_empty(), "{target}");
        // The same words, whether there is no such node, it is not for this user, or at another port.
        assert!(
            said.contains("not found: it is not registered, offline, or not yours to see"),
            "{target}: {said}"
        );
        let asked = target.replace(['[', ']'], "");
        world.event(EventKind::PortFailure, |event| event.fields["target"] == asked).await;
    }
    let knocked = tokio::time::timeout(std::time::Duration::from_millis(1), bystander.accept()).await;
    assert!(knocked.is_err(), "nobody was dialled");
    world.stop().await;
}

/// Such a role may hold denials. The user hears that access is denied; why is in the audit log.
#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_refuses_holders_of_a_role_that_cannot_be_read() {
    let world = World::start().await;
    world.sshd("web").await;
    let user = world.user("alice").await;
    world.access.view.send_modify(|view| view.roles = vec![Role::unreadable("access")].into());
    let unreadable = |event: &AuditEvent| {
        event.error.as_deref().is_some_and(|error| error.contains("role access cannot be read"))
    };
    let refused = async {
        // The first ones may be faster than the change.
        loop {
            let mut ssh = world.ssh(&user);
            ssh.args([
                "-o",
                PROXY,
                "-p",
                &world.proxy.port().to_string(),
                "-s",
                "x@127.0.0.1",
                "proxy:web:0",
            ]);
            let output = run(ssh).await;
            if text(&output.stderr).contains("access denied") {
                return;
            }
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), refused).await.expect("it is refused");
    world.event(EventKind::SubsystemFailure, unreadable).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registered_address_that_is_not_ssh_gets_and_gives_no_byte() {
    let world = World::start().await;
    let user = world.user("alice").await;
    let web = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let liar = world.node_material("liar").await;
    world.register(liar.host_id, "liar", web.local_addr().unwrap(), "env=test").await;
    let mut ssh = world.ssh(&user);
    ssh.args(["-o", PROXY, "-p", &world.proxy.port().to_string(), "-W", "liar:22", "x@127.0.0.1"]);
    ssh.stdin(
        std::fs::File::open(super::script(world.dir.path(), "request", "GET / HTTP/1.1\r\n\r\n")).unwrap(),
    );
    let served = async {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (mut stream, _) = web.accept().await.unwrap();
        let mut heard = Vec::new();
        // The proxy may cut the connection before our words arrive.
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nsecret").await;
        let _ = stream.read_to_end(&mut heard).await;
        heard
    };
    let both = async { tokio::join!(run(ssh), served) };
    let (output, heard) = tokio::time::timeout(super::DEADLINE, both).await.unwrap();
    assert_eq!((text(&output.stdout).as_str(), heard.as_slice()), ("", &b""[..]));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ambiguous_name_is_answered_with_ids() {
    let world = World::start().await;
    let user = world.user("alice").await;
    let (one, two) = (world.sshd("twin").await, world.sshd("twin").await);
    let hidden = world.node_material("twin").await;
    world.register(hidden.host_id, "twin", "127.0.0.1:9".parse().unwrap(), "env=secret").await;
    let mut ssh = world.ssh(&user);
    ssh.args(["-o", PROXY, "-p", &world.proxy.port().to_string(), "-W", "twin:22", "x@127.0.0.1"]);
    let said = text(&run(ssh).await.stderr);
    assert!(said.contains("twin:22 is ambiguous"), "{said}");
    assert!(said.contains(&one.to_string()) && said.contains(&two.to_string()), "{said}");
    assert!(!said.contains(&hidden.host_id.to_string()), "{said}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c4_only_user_certificates_of_this_cluster_open_the_proxy() {
    let world = World::start().await;
    world.sshd("web").await;
    let user = world.user("alice").await;
    let other = World::start().await;
    let stranger = other.user("alice").await;
    // A plain key; a certificate of another authority of the same name.
    let plain = world.user("plain").await;
    std::fs::remove_file(&plain.files.certificate).unwrap();
    for (who, reason) in [(&plain, "plain key"), (&stranger, "trusted authority")] {
        let mut ssh = std::process::Command::new("ssh");
        // The first of several values counts: this cluster's proxy is to be believed.
        ssh.args(["-o", &format!("UserKnownHostsFile={}", user.files.known_hosts.display())]);
        ssh.args(world.options(who)).args([
            "-o",
            PROXY,
            "-p",
            &world.proxy.port().to_string(),
            "-W",
            "web:22",
            "x@127.0.0.1",
        ]);
        ssh.stdin(std::process::Stdio::null()).env_remove("SSH_AUTH_SOCK");
        let said = text(&run(ssh).await.stderr);
        assert!(said.contains("Permission denied") && !said.contains(reason), "{reason}: {said}");
        failed(&world, reason).await;
    }
    // A host's certificate, as no stock client would present it.
    let host = world.node_material("web").await;
    let config = Arc::new(russh::client::Config::default());
    let mut raw = russh::client::connect(config, world.proxy, Careless).await.unwrap();
    let key = Arc::new(PrivateKey::from_openssh(host.ssh.to_openssh().expose()).unwrap());
    let certificate = Certificate::from_openssh(&host.ssh_certificate).unwrap();
    assert!(!raw.authenticate_openssh_cert("root", key, certificate).await.unwrap().success());
    failed(&world, "wrong kind").await;
    assert_eq!(
        world.access.events.lock().unwrap().iter().filter(|event| event.code == EventKind::Port).count(),
        0
    );
    other.stop().await;
    world.stop().await;
}

async fn failed(world: &World, reason: &str) {
    let because = |event: &AuditEvent| event.error.as_deref().is_some_and(|error| error.contains(reason));
    world.event(EventKind::AuthFailure, because).await;
}

/// A client that believes every host.
struct Careless;

impl russh::client::Handler for Careless {
    type Error = russh::Error;

    async fn check_server_key(
        &mut self,
        _: &russh::keys::PublicKeyOrCertificate,
    ) -> Result<bool, russh::Error> {
        Ok(true)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_node_decides_stays_with_the_node() {
    let world = World::start().await;
    world.sshd("web").await;
    let user = world.user("alice").await;
    let options = world.options(&user).iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ");
    let mut ssh = world.ssh(&user);
    let jump =
        format!("ssh {options} -o {PROXY} -W [%h]:%p -p {} {}@127.0.0.1", world.proxy.port(), os_user());
    ssh.arg("-o").arg(format!("ProxyCommand={jump}")).arg(format!("nobody@web.{CLUSTER}")).arg("id");
    let output = run(ssh).await;
    assert!(text(&output.stderr).contains("Permission denied"), "{}", text(&output.stderr));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c3_channels_that_stock_clients_rarely_open_are_refused_too() {
    let world = World::start().await;
    world.sshd("web").await;
    let user = world.user("alice").await;
    let config = Arc::new(russh::client::Config::default());
    let mut raw = russh::client::connect(config, world.proxy, Careless).await.unwrap();
    let key = Arc::new(PrivateKey::from_openssh(user.credentials.ssh.to_openssh().expose()).unwrap());
    let certificate = Certificate::from_openssh(&user.credentials.certificate).unwrap();
    assert!(raw.authenticate_openssh_cert("x", key, certificate).await.unwrap().success());
    assert!(raw.channel_open_x11("127.0.0.1", 6000).await.is_err());
    assert!(raw.channel_open_direct_streamlocal("/run/docker.sock").await.is_err());
    assert!(raw.tcpip_forward("0.0.0.0", 0).await.is_err());
    assert!(raw.streamlocal_forward("/tmp/x").await.is_err());
    let mut channel = raw.channel_open_session().await.unwrap();
    channel.agent_forward(true).await.unwrap();
    assert!(matches!(answer(&mut channel).await, Some(russh::ChannelMsg::Failure)));
    channel.request_x11(true, false, "MIT-MAGIC-COOKIE-1", "00", 0).await.unwrap();
    assert!(matches!(answer(&mut channel).await, Some(russh::ChannelMsg::Failure)));
    channel.set_env(true, "LD_PRELOAD", "/tmp/x.so").await.unwrap();
    assert!(matches!(answer(&mut channel).await, Some(russh::ChannelMsg::Failure)));
    channel.request_pty(true, "xterm", 80, 25, 0, 0, &[]).await.unwrap();
    assert!(matches!(answer(&mut channel).await, Some(russh::ChannelMsg::Failure)));
    for request in ["x11", "direct-streamlocal /run/docker.sock", "tcpip-forward 0.0.0.0:0"] {
        world.event(EventKind::PortFailure, |event| event.fields["request"] == request).await;
    }
    for request in ["auth-agent-req", "x11-req", "pty-req"] {
        world.event(EventKind::SessionRejected, |event| event.fields["request"] == request).await;
    }
    // A hundred channels and not one more.
    let mut open = vec![channel];
    while open.len() < 100 {
        open.push(raw.channel_open_session().await.unwrap());
    }
    assert!(raw.channel_open_session().await.is_err());
    assert!(raw.channel_open_direct_tcpip("web", 22, "127.0.0.1", 1).await.is_err());
    // The connection is still good, and a closed channel makes room.
    open.pop().unwrap().close().await.unwrap();
    let again = async {
        while raw.channel_open_direct_tcpip("web", 22, "127.0.0.1", 1).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(super::DEADLINE, again).await.unwrap();
    world.stop().await;
}

async fn answer(channel: &mut russh::Channel<russh::client::Msg>) -> Option<russh::ChannelMsg> {
    tokio::time::timeout(super::DEADLINE, channel.wait()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn b5_requests_that_nobody_reads_are_not_kept() {
    let world = World::start().await;
    let user = world.user("alice").await;
    let key = Arc::new(PrivateKey::from_openssh(user.credentials.ssh.to_openssh().expose()).unwrap());
    let certificate = Certificate::from_openssh(&user.credentials.certificate).unwrap();
    for request in ["env", "signal", "x11-req"] {
        let config = Arc::new(russh::client::Config::default());
        let mut raw = russh::client::connect(config, world.proxy, Careless).await.unwrap();
        let good = raw.authenticate_openssh_cert("x", Arc::clone(&key), certificate.clone()).await.unwrap();
        assert!(good.success());
        let channel = raw.channel_open_session().await.unwrap();
        let long = "x".repeat(30_000);
        let flood = async {
            // Sending fails once the connection is cut.
            for _ in 0..100_000 {
                let sent = match request {
                    "env" => channel.set_env(false, "LANG", long.as_str()).await,
                    "signal" => channel.signal(russh::Sig::Custom(long.clone())).await,
                    _ => channel.request_x11(false, false, long.as_str(), "00", 0).await,
                };
                if sent.is_err() {
                    return;
                }
            }
            panic!("the proxy took 3 GB of {request}");
        };
        tokio::time::timeout(super::DEADLINE, flood).await.unwrap();
    }
    world.stop().await;
}

/// C9: what a client says of its address is not heard, in whatever way it says it.
#[tokio::test(flavor = "multi_thread")]
async fn c9_the_proxy_hears_the_address_of_nobody() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let world = World::start().await;
    world.sshd("web").await;
    let user = world.user("alice").await;
    // A statement of the proxy itself, which a node may have kept.
    world.client(&user).proxy(&world.address()).await.unwrap().disconnect().await;
    let mut ssh = world.ssh(&user);
    ssh.args(["-o", PROXY, "-p", &world.proxy.port().to_string(), "-W", "web:22", "x@127.0.0.1"]);
    ssh.stdin(std::fs::File::open(super::script(world.dir.path(), "greeting", "SSH-2.0-x\r\n")).unwrap());
    run(ssh).await;
    let kept = world.origins.lock().unwrap().first().cloned().expect("the node heard it");
    for begin in [
        &b"PROXY TCP4 192.0.2.7 192.0.2.8 4711 22\r\n"[..],
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\xc0\0\x02\x08\x12\x67\0\x16",
        b"Teleport-Proxy{\"clientAddr\":\"192.0.2.7:4711\"}\0",
        &kept,
    ] {
        let mut stream = tokio::net::TcpStream::connect(world.proxy).await.unwrap();
        let _ = stream.write_all(&[begin, b"SSH-2.0-x\r\n"].concat()).await;
        let mut said = Vec::new();
        let _ =
            tokio::time::timeout(super::DEADLINE, stream.read_to_end(&mut said)).await.expect("it hangs up");
        let said = String::from_utf8(said).expect("nothing but the greeting");
        assert_eq!((said.starts_with("SSH-2.0-"), said.lines().count()), (true, 1), "{begin:?}: {said}");
    }
    // Nor through it: whoever does not begin with `SSH-` reaches no node.
    let before = world.origins.lock().unwrap().len();
    let mut ssh = world.ssh(&user);
    ssh.args(["-o", PROXY, "-p", &world.proxy.port().to_string(), "-W", "web:22", "x@127.0.0.1"]);
    let file = world.dir.path().join("kept");
    std::fs::write(&file, &kept).unwrap();
    ssh.stdin(std::fs::File::open(file).unwrap());
    let _ = run(ssh).await;
    assert_eq!(world.origins.lock().unwrap().len(), before);
    world.stop().await;
}

/// Each connection is told of to the node that it goes to, with the address that the proxy sees.
#[tokio::test(flavor = "multi_thread")]
async fn c9_the_proxy_says_where_each_client_is() {
    let world = World::start().await;
    let nodes = [world.sshd("web").await, world.sshd("db").await];
    let user = world.user("alice").await;
    let mut seen = Seen::default();
    for (name, id) in ["web", "db"].into_iter().zip(nodes) {
        for from in ["127.0.0.1", "127.0.0.2"] {
            let mut ssh = world.ssh(&user);
            let options =
                world.options(&user).iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ");
            let port = world.proxy.port();
            let door = format!("ssh {options} -b {from} -o {PROXY} -W [%h]:%p -p {port} x@127.0.0.1");
            ssh.arg("-o").arg(format!("ProxyCommand={door}"));
            ssh.arg(format!("{}@{name}.{CLUSTER}", os_user())).arg("echo in");
            super::assert_ok(&run(ssh).await, "in");
            let said = world.origins.lock().unwrap().pop().unwrap();
            let (fields, statement) = teleport_ssh::authn::statement_from_bytes(&said).unwrap();
            let trust = world.ca.trust_bundle();
            let now = SystemClock::new().now();
            let check = OriginCheck { trust: &trust, audience: Audience::Node(id), now };
            let origin = seen.accept(&fields, &statement, check).unwrap();
            assert_eq!(
                (origin.client.ip().to_string().as_str(), origin.proxy.name.as_str()),
                (from, "proxy")
            );
            assert_ne!(origin.client.port(), 0);
            assert_eq!(seen.accept(&fields, &statement, check), Err(OriginRejected::Replayed));
        }
    }
    world.stop().await;
}
