//! Ways through the node to somewhere else: as a jump host of its own, and for programs that speak SOCKS, at either end.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use super::{Way, World, host};
use crate::support::cluster::CLUSTER;
use crate::support::daemon::fixed_port;
use crate::support::program::run;
use crate::support::{LIMIT, own_login, wait_for};

/// A program that ends with the value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `ssh` without a session, until the end of the test.
fn tunnel(way: &Way, options: &[&str]) -> Running {
    let mut ssh = way.program("ssh", &["-N", "-oExitOnForwardFailure=yes"]);
    ssh.args(options).arg(host()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    Running(ssh.spawn().unwrap())
}

/// Asks who listens at `proxy` for a connection to `to`, by the fifth version of SOCKS; `None` if that is refused.
fn by_socks(proxy: u16, to: SocketAddr) -> Option<TcpStream> {
    let mut stream = wait_for("who speaks SOCKS", || TcpStream::connect(("127.0.0.1", proxy)).ok());
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.write_all(b"\x05\x01\0").unwrap();
    let mut chosen = [0; 2];
    stream.read_exact(&mut chosen).unwrap();
    assert_eq!(chosen, [5, 0]);
    // By name, which is resolved at the other end.
    let name = to.ip().to_string();
    let mut ask = vec![5, 1, 0, 3, u8::try_from(name.len()).unwrap()];
    ask.extend_from_slice(name.as_bytes());
    ask.extend_from_slice(&to.port().to_be_bytes());
    stream.write_all(&ask).unwrap();
    let mut answer = [0; 10];
    stream.read_exact(&mut answer).ok()?;
    (answer[1] == 0).then_some(stream)
}

/// Who listens there hears a word, and answers with another.
fn greets(listener: &TcpListener, mut near: TcpStream) {
    let mut far = listener.accept().unwrap().0;
    far.set_read_timeout(Some(LIMIT)).unwrap();
    near.write_all(b"hello").unwrap();
    let mut word = [0; 5];
    far.read_exact(&mut word).unwrap();
    assert_eq!(&word, b"hello");
    far.write_all(b"world").unwrap();
    drop(far);
    let mut rest = String::new();
    near.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "world");
}

#[test]
fn programs_that_speak_socks_come_out_at_either_end() {
    let world = World::start();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let open = listener.local_addr().unwrap();
    let closed = SocketAddr::from(([127, 0, 0, 1], fixed_port()));
    for way in world.ways() {
        for option in ["-D", "-R"] {
            // With `-R` and no destination the node listens, and the client connects.
            let port = fixed_port();
            let tunnel = tunnel(&way, &[option, &port.to_string()]);
            for _ in 0..3 {
                greets(&listener, by_socks(port, open).expect("a way"));
            }
            assert!(by_socks(port, closed).is_none());
            greets(&listener, by_socks(port, open).expect("as before"));
            drop(tunnel);
        }
    }
}

#[test]
fn a_node_is_a_jump_host_for_others() {
    let world = World::start();
    let second = world.cluster.add_node("second", "");
    let alias = format!("teleport-proxy.{CLUSTER}");
    let target = format!("{}@second.{CLUSTER}", own_login());
    let ssh = |jumps: &str, port: Option<u16>| {
        let mut ssh = world.home.ssh();
        ssh.args(["-J", jumps]);
        if let Some(port) = port {
            ssh.args(["-o", "HostName=127.0.0.1", "-o", &format!("Port={port}")]);
            ssh.args(["-o", &format!("HostKeyAlias=second.{CLUSTER}")]);
        }
        ssh.arg(&target).arg("cat; echo $SSH_CONNECTION; exit 4");
        crate::support::program::run_with(ssh, b"in\n")
    };
    // Proxy, node, node.
    let chain = ssh(&format!("{alias},{}", host()), Some(second.port()));
    assert_eq!(chain.code(), 4, "{}", chain.stderr);
    assert!(chain.out().starts_with("in\n127.0.0.1 "), "{}", chain.out());
    // One that is not what it should be is no way, wherever in the chain it stands.
    for jumps in
        [format!("{alias},{}@absent.{CLUSTER}", own_login()), format!("{alias},somebody@node.{CLUSTER}")]
    {
        let output = ssh(&jumps, Some(second.port()));
        assert_eq!((output.code(), output.out()), (255, ""), "{jumps}");
    }
    // The name that must be proven is that of the target.
    let wrong = ssh(&format!("{alias},{}", host()), Some(world.node.port()));
    assert_eq!((wrong.code(), wrong.out()), (255, ""));
    assert!(wrong.stderr.contains("name is not a listed principal"), "{}", wrong.stderr);
    // `-W` over the node is the same as a hop.
    let mut way = Command::new("ssh");
    way.arg("-F").arg(&world.home.ssh_config).args(["-W", &second.to_string()]).arg(host());
    let greeting = run(way);
    assert!(greeting.out().starts_with("SSH-2.0-Teleport_"), "{greeting:?}");
}
