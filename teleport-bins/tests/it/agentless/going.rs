//! Who goes in the middle: users, and the proxy.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::{Server, ssh, token};
use crate::support::cluster::{Home, TestCluster};
use crate::support::program::run;
use crate::support::relay::{Fault, Relay};
use crate::support::{accept, wait_for};

fn start(home: &Home, target: &str, command: &str) -> Child {
    let mut client = home.ssh();
    client.args([target, command]);
    client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// A server, registered where somebody else listens.
fn behind(cluster: &TestCluster, port: u16) -> Server {
    let server = Server::stock(cluster, "plain");
    let joined = server.join_at(cluster, port, &["--token", &token(cluster)]);
    assert!(joined.status.success(), "{joined:?}");
    wait_for("the server in the list", || server.listed(cluster));
    server
}

/// For a server all users are one address. It makes that wait when logins are begun and left, so none is.
#[test]
fn a_login_that_was_begun_is_brought_to_its_end_whoever_goes() {
    let cluster = TestCluster::start();
    let between = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = behind(&cluster, between.local_addr().unwrap().port());
    let home = cluster.alice();
    let mut client = start(&home, &server.target(), "echo in");
    let mut proxy = accept(&between);
    // Under way.
    let mut said = vec![0; 8];
    proxy.read_exact(&mut said).unwrap();
    client.kill().unwrap();
    client.wait().unwrap();
    // Nobody waits for it any more, and it is there as before.
    proxy.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    loop {
        let mut more = [0; 4096];
        match proxy.read(&mut more) {
            Ok(0) => panic!("the login was left with its user"),
            Ok(length) => said.extend_from_slice(&more[..length]),
            Err(error) => break assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
        }
    }
    proxy.set_read_timeout(None).unwrap();
    let mut sshd = TcpStream::connect(("127.0.0.1", server.sshd.port())).unwrap();
    sshd.write_all(&said).unwrap();
    let (mut from, mut to) = (sshd.try_clone().unwrap(), proxy.try_clone().unwrap());
    let answers = std::thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Both);
    });
    let _ = std::io::copy(&mut proxy, &mut sshd);
    let _ = sshd.shutdown(Shutdown::Both);
    answers.join().unwrap();
    let log = server.sshd.log();
    assert!(log.contains("Accepted publickey"), "{log}");
}

/// Of logins that the server refuses, the next one waits. Nobody else does.
#[test]
fn logins_that_are_not_there_are_refused_and_others_go_on() {
    let cluster = TestCluster::start();
    let server = Server::new(&cluster, "plain", "");
    let home =
        cluster.user("eve", &["access"], &["not-there-1", "not-there-2", &crate::support::own_login()]);
    assert_eq!(ssh(&home, &[&server.target(), "echo in"]).clean(), "in\n");
    let (first, second) = (server.target_as("not-there-1"), server.target_as("not-there-2"));
    let children = [start(&home, &first, "true"), start(&home, &second, "true")];
    assert_eq!(ssh(&home, &[&server.target(), "echo in"]).clean(), "in\n");
    for child in children {
        let refused = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(refused.status.code() == Some(255) && said.contains("denied access"), "{said}");
    }
}

/// Connections that wait for the next session, and of which nobody says any more that they are gone.
#[test]
fn a_connection_that_has_died_while_it_waited_is_not_missed() {
    let cluster = TestCluster::start();
    let server = Server::stock(&cluster, "plain");
    let relay = Relay::start(server.sshd.port());
    let joined = server.join_at(&cluster, relay.port(), &["--token", &token(&cluster)]);
    assert!(joined.status.success(), "{joined:?}");
    wait_for("the server in the list", || server.listed(&cluster));
    let home = cluster.alice();
    let control = format!("ControlPath={}", cluster.dir().join("mux").display());
    let mut master = home.ssh();
    master.args(["-o", &control, "-o", "ControlMaster=yes", "-f", "-N", &server.target()]);
    master.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    assert!(master.status().unwrap().success());
    let session = || {
        let mut ssh = home.ssh();
        ssh.args(["-o", &control, "-o", "ProxyCommand=false", &server.target(), "echo in"]);
        ssh
    };
    assert_eq!(run(session()).clean(), "in\n");
    assert_eq!(server.sshd.connections(), 1);
    // No answer comes through the first one, and those that come later are as they should be once the network is again.
    relay.fail(Fault::Stall);
    let mut next = session();
    let next = next.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for("another connection", || (relay.connections() > 1).then_some(()));
    relay.heal();
    let output = next.wait_with_output().unwrap();
    assert_eq!(output.stdout, b"in\n", "{}", String::from_utf8_lossy(&output.stderr));
    let mut exit = Command::new("ssh");
    exit.arg("-F").arg(&home.ssh_config).args(["-o", &control, "-O", "exit", &server.target()]);
    let _ = exit.stderr(Stdio::null()).status();
}

#[test]
fn a_proxy_that_stops_lets_sessions_on_servers_end() {
    let cluster = TestCluster::start();
    let server = Server::new(&cluster, "plain", "");
    let home = cluster.alice();
    let there = cluster.dir().join("there");
    let mut session = start(&home, &server.target(), &format!("touch {}; cat", there.display()));
    wait_for("the session", || there.exists().then_some(()));
    let draining = std::thread::spawn(move || cluster.drain());
    wait_for("nobody else to be let in", || {
        (ssh(&home, &[&server.target(), "true"]).code() == 255).then_some(())
    });
    let mut input = session.stdin.take().unwrap();
    input.write_all(b"still here\n").unwrap();
    let mut line = [0; 11];
    session.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    assert_eq!(&line, b"still here\n");
    assert!(!draining.is_finished());
    drop(input);
    assert_eq!(session.wait().unwrap().code(), Some(0));
    assert!(draining.join().unwrap(), "nothing had to be cut");
}
