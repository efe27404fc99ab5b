//! What is refused on registered servers, and in which words.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use teleport_core::audit::EventKind;

use super::{Server, of, role, ssh, token};
use crate::support::cluster::{Home, TestCluster};
use crate::support::own_login;
use crate::support::program::{own, run};
use crate::support::{accept, wait_for};

fn tctl(cluster: &TestCluster, arguments: &[&str]) {
    let mut tctl = own("tctl");
    tctl.arg("--data-dir").arg(cluster.dir().join("cluster")).args(arguments);
    let output = run(tctl);
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn locked_servers_and_proxies_serve_nobody() {
    let cluster = TestCluster::start();
    let (server, other) = (Server::new(&cluster, "plain", ""), Server::new(&cluster, "other", ""));
    let home = cluster.alice();
    let id = server.listed(&cluster).unwrap().record.host_id.to_string();
    tctl(&cluster, &["lock", &format!("--server-id={id}"), "--message=repairs"]);
    let refused = wait_for("the lock", || {
        Some(ssh(&home, &[&server.target(), "echo in"])).filter(|output| output.code() == 255)
    });
    assert_eq!(refused.out(), "", "{refused:?}");
    assert!(refused.stderr.contains("repairs"), "{refused:?}");
    assert_eq!(ssh(&home, &[&other.target(), "echo in"]).clean(), "in\n");
    let before = server.sshd.connections();
    ssh(&home, &[&server.target(), "echo in"]);
    assert_eq!(server.sshd.connections(), before, "the server hears of nothing");
}

/// What a server is counts for those who are on it, too.
#[test]
fn a_server_with_other_labels_loses_whom_it_is_closed_to_now() {
    let cluster = TestCluster::start();
    let server = Server::new(&cluster, "plain", "env=dev");
    role(
        &cluster,
        "dev",
        serde_json::json!({"allow": {"logins": [own_login()], "node_labels": {"env": "dev"}}}),
    );
    let (dora, alice) = (cluster.user("dora", &["dev"], &[]), cluster.alice());
    let begin = |home: &Home, mark: &str| {
        let there = cluster.dir().join(mark);
        let mut ssh = home.ssh();
        ssh.arg(server.target()).arg(format!("touch {}; cat", there.display()));
        ssh.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let session = ssh.spawn().unwrap();
        wait_for("the session", || there.exists().then_some(()));
        session
    };
    let (mut ended, mut goes_on) = (begin(&dora, "dora"), begin(&alice, "alice"));
    let joined = server.join(&cluster, &["--labels", "env=prod"]);
    assert!(joined.status.success(), "{joined:?}");
    assert_eq!(ended.wait().unwrap().code(), Some(255));
    goes_on.stdin.as_mut().unwrap().write_all(b"still here").unwrap();
    let output = goes_on.wait_with_output().unwrap();
    assert_eq!((output.stdout, output.status.code()), (b"still here".to_vec(), Some(0)));
    let node = server.listed(&cluster).unwrap();
    cluster.event(EventKind::SessionEnd, |event| of(event, &node) && event.user.as_deref() == Some("dora"));
}

#[test]
fn what_would_be_sockets_of_the_proxy_is_refused_in_words() {
    let cluster = TestCluster::start();
    let server = Server::new(&cluster, "plain", "");
    let home = cluster.alice();
    let target = server.target();
    let there = cluster.dir().join("socket");
    let here = cluster.dir().join("here");
    let mut client = home.ssh();
    client.args(["-N", "-L", &format!("{}:{}", here.display(), there.display()), &target]);
    client.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut client = client.spawn().unwrap();
    wait_for("the forward", || here.exists().then_some(()));
    let mut stream = UnixStream::connect(&here).unwrap();
    assert_eq!(stream.read_to_end(&mut Vec::new()).unwrap(), 0);
    client.kill().unwrap();
    let socket = String::from_utf8(client.wait_with_output().unwrap().stderr).unwrap();
    assert!(socket.contains("no connections of this kind"), "{socket}");
    let remote = format!("{}:127.0.0.1:1", there.display());
    let remote = ssh(&home, &["-o", "ExitOnForwardFailure=yes", "-R", &remote, &target, "true"]);
    assert_eq!(remote.code(), 255, "{remote:?}");
    assert!(!there.exists());
    // The session goes on without.
    let mut display = home.ssh();
    display.args(["-o", "ForwardX11=yes", "-o", "ForwardX11Trusted=yes", &target, "echo ${DISPLAY:-none}"]);
    let display = run(display);
    assert_eq!(display.out(), "none\n", "{display:?}");
    let agent = ssh(&home, &["-A", &target, "echo ${SSH_AUTH_SOCK:-none}"]);
    assert_eq!(agent.out(), "none\n", "{agent:?}");
}

/// A server that says nothing, one that hangs up, and one that speaks something else.
#[test]
fn a_server_that_does_not_speak_is_given_up() {
    let cluster = TestCluster::start();
    let server = Server::stock(&cluster, "plain");
    let impostor = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = impostor.local_addr().unwrap().port();
    let joined = server.join_at(&cluster, port, &["--token", &token(&cluster)]);
    assert!(joined.status.success(), "{joined:?}");
    wait_for("the server in the list", || server.listed(&cluster));
    let home = cluster.alice();
    let acting = |act: fn(std::net::TcpStream)| {
        let mut client = home.ssh();
        client.args([&server.target(), "echo in"]).stdin(Stdio::null());
        let client = client.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        act(accept(&impostor));
        let output = client.wait_with_output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for (what, act) in [
        ("hangs up", (|stream| drop(stream)) as fn(std::net::TcpStream)),
        ("speaks something else", |mut stream| {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }),
        // Whatever it sends is bounded.
        ("sends without an end", |mut stream| while stream.write_all(&[b'x'; 65536]).is_ok() {}),
        ("stops in the key exchange", |mut stream| {
            let _ = stream.write_all(b"SSH-2.0-silent\r\n");
            // It goes on when the proxy has given up, which it does within its time.
            let _ = stream.read_to_end(&mut Vec::new());
        }),
    ] {
        let (code, said) = acting(act);
        assert_eq!(code, Some(255), "{what}: {said}");
        assert!(said.contains("teleport: no connection to the SSH server of this node"), "{what}: {said}");
    }
}
