//! Our own client through the proxy to a real `sshd`.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::stream;
use teleport_core::id::OsLogin;
use teleport_core::task::TaskScope;
use teleport_ssh::client::openssh::ProxyAddress;
use teleport_ssh::client::{
    Agent, ConnectError, ExitStatus, NodeConnection, SessionRequest, Terminal, TerminalSize,
};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use super::{DEADLINE, PROXY, World, os_user, run, text};

async fn connect(world: &World, target: &str) -> Result<NodeConnection, ConnectError> {
    let user = world.user("alice").await;
    let client = world.client(&user);
    let proxy = client.proxy(&world.address()).await?;
    client.node(proxy, &target.parse().unwrap(), &OsLogin::new(&os_user()).unwrap()).await
}

async fn execute(
    node: &NodeConnection,
    request: SessionRequest,
    stdin: &[u8],
) -> (String, String, ExitStatus) {
    let session = node.session(&request).await.unwrap();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let running = session.run(stdin, &mut out, &mut err, stream::empty());
    let status = tokio::time::timeout(DEADLINE, running).await.unwrap().unwrap();
    (text(&out), text(&err), status)
}

fn command(line: &str) -> SessionRequest {
    SessionRequest { command: Some(line.to_owned()), ..SessionRequest::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_have_their_streams_apart_and_their_status() {
    let world = World::start().await;
    let id = world.sshd("web").await;
    let node = connect(&world, "web").await.unwrap();
    assert_eq!(node.host().host_id, id);
    let (out, err, status) = execute(&node, command("cat; echo err >&2; exit 9"), b"in\nto").await;
    assert_eq!((out.as_str(), err.as_str(), status), ("in\nto", "err", ExitStatus::Code(9)));
    let (_, _, status) = execute(&node, command("kill -TERM $$"), b"").await;
    assert_eq!(status, ExitStatus::Signal { name: "TERM".to_owned() });
    // Several at once on one connection.
    let (one, two) = tokio::join!(execute(&node, command("cat"), b"1"), execute(&node, command("cat"), b"2"));
    assert_eq!((one.0.as_str(), two.0.as_str()), ("1", "2"));
    node.disconnect().await;
    let by_id = connect(&world, &id.to_string()).await.unwrap();
    by_id.disconnect().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_has_a_terminal_of_the_right_size() {
    let world = World::start().await;
    world.sshd("web").await;
    let node = connect(&world, "web").await.unwrap();
    let size = |columns, rows| TerminalSize { columns, rows };
    let terminal = Terminal { term: "vt100".to_owned(), size: size(91, 37) };
    let request = SessionRequest { terminal: Some(terminal), ..SessionRequest::default() };
    let session = node.session(&request).await.unwrap();
    let (keys, mut typed) = tokio::io::duplex(1024);
    let (mut screen, shown) = tokio::io::duplex(1024);
    let (resize, sizes) = tokio::sync::mpsc::channel(1);
    let sizes = Box::pin(stream::unfold(sizes, |mut sizes| async { Some((sizes.recv().await?, sizes)) }));
    let user = async {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut seen = String::new();
        let mut buffer = [0; 1024];
        typed
            .write_all(b"stty size; echo term=$TERM; trap 'stty size; exit 5' WINCH; echo re''ady\n")
            .await
            .unwrap();
        let mut resized = false;
        loop {
            let read = screen.read(&mut buffer).await.unwrap();
            if read == 0 {
                return seen;
            }
            seen += &String::from_utf8_lossy(&buffer[..read]);
            if !resized && seen.contains("ready") {
                resized = true;
                resize.send(size(100, 50)).await.unwrap();
            }
            if resized {
                // A shell that waits for a line runs the trap after it; once it is gone, nobody reads lines.
                let _ = typed.write_all(b"\n").await;
            }
        }
    };
    let running = session.run(keys, shown, tokio::io::sink(), sizes);
    let (status, seen) = tokio::time::timeout(DEADLINE, async { tokio::join!(running, user) }).await.unwrap();
    assert_eq!(status.unwrap(), ExitStatus::Code(5), "{seen}");
    for expected in ["37 91", "term=vt100", "50 100"] {
        assert!(seen.contains(expected), "{expected} in {seen}");
    }
    node.disconnect().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxys_words_reach_the_user() {
    let world = World::start().await;
    world.sshd("twin").await;
    world.sshd("twin").await;
    for (target, says) in [
        ("nobody", "node nobody:0 not found: it is not registered, offline, or not yours to see"),
        ("twin", "twin is ambiguous, use the id of one of these nodes, as in <login>@<id>."),
        ("twin@leaf", "cluster leaf is not known here"),
    ] {
        let error = connect(&world, target).await.unwrap_err();
        let said = error.to_string();
        assert!(matches!(error, ConnectError::Refused { .. }), "{error:?}");
        assert!(said.contains(says.trim_start_matches("node nobody:0")), "{said}");
    }
    assert!(matches!(connect(&world, "env=test").await, Err(ConnectError::Labels)));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_agent_holds_the_certificate_for_a_while() {
    let world = World::start().await;
    world.sshd("web").await;
    let user = world.user("alice").await;
    let socket = world.dir.path().join("agent");
    let mut ssh_agent = Command::new("ssh-agent");
    ssh_agent.args(["-D", "-a"]).arg(&socket).stdout(std::process::Stdio::null());
    let mut child = ssh_agent.spawn().unwrap();
    let agent = Agent::at(&socket);
    let certificate = &user.credentials.certificate;
    let added = async {
        // The agent takes a moment to open its socket.
        while agent
            .add(&user.credentials.ssh, certificate, "alice", std::time::Duration::from_secs(600))
            .await
            .is_err()
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, added).await.unwrap();
    let listed = |socket: std::path::PathBuf| async move {
        let mut list = Command::new("ssh-add");
        list.arg("-l").env("SSH_AUTH_SOCK", socket);
        text(&run(list).await.stdout)
    };
    let seen = listed(socket.clone()).await;
    assert!(seen.contains("alice") && seen.contains("(ED25519-CERT)"), "{seen}");
    // Stock ssh with nothing but the agent.
    let mut ssh = Command::new("ssh");
    let known_hosts = user.files.known_hosts.display();
    ssh.args([
        "-F",
        "none",
        "-o",
        "IdentityFile=none",
        "-o",
        "BatchMode=yes",
        "-o",
        "StrictHostKeyChecking=yes",
        "-o",
        PROXY,
    ]);
    ssh.args(["-o", &format!("UserKnownHostsFile={known_hosts}"), "-p", &world.proxy.port().to_string()]);
    ssh.args(["-s", "x@127.0.0.1", "proxy:nobody:0"]).env("SSH_AUTH_SOCK", &socket);
    let said = text(&run(ssh).await.stderr);
    assert!(said.contains("not registered"), "authenticated and refused for the right reason: {said}");
    agent.remove(certificate).await.unwrap();
    assert!(!listed(socket).await.contains("alice"));
    assert!(agent.remove(certificate).await.is_err());
    child.kill().unwrap();
    child.wait().unwrap();
    world.stop().await;
}

/// A door before the proxy's that refuses so many connections, then lets in.
async fn crowded(world: &World, refusals: usize) -> (ProxyAddress, Arc<AtomicUsize>, TaskScope) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = ProxyAddress::parse(&listener.local_addr().unwrap().to_string()).unwrap();
    let (asked, proxy) = (Arc::new(AtomicUsize::new(0)), world.proxy);
    let count = Arc::clone(&asked);
    let scope = TaskScope::new();
    scope.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            match count.fetch_add(1, Ordering::SeqCst) {
                // Without a word, then with one.
                0 if refusals > 0 => {}
                number if number < refusals => {
                    let _ = stream.write_all(b"Exceeded MaxStartups\r\n").await;
                }
                _ => {
                    let mut inner = TcpStream::connect(proxy).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut stream, &mut inner).await;
                }
            }
        }
    });
    (address, asked, scope)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overloaded_proxy_is_asked_a_few_times() {
    let world = World::start().await;
    let user = world.user("alice").await;
    let client = world.client(&user);
    let (address, asked, _door) = crowded(&world, 3).await;
    client.proxy(&address).await.unwrap().disconnect().await;
    assert_eq!(asked.load(Ordering::SeqCst), 4);

    let (address, asked, _door) = crowded(&world, usize::MAX).await;
    let error = client.proxy(&address).await.map(drop).unwrap_err();
    let expected = format!("the proxy at {} is overloaded; try again in a moment", address.to_authority());
    assert_eq!(error.to_string(), expected);
    assert_eq!(asked.load(Ordering::SeqCst), 4);
    world.stop().await;
}
