//! Below the sessions: greetings, ciphers, new keys, and bytes that were changed on their way.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};

use super::{World, bytes};
use crate::hostile::connect;
use crate::support::program::Output;

const CIPHERS: [&str; 4] =
    ["chacha20-poly1305@openssh.com", "aes256-gcm@openssh.com", "aes128-gcm@openssh.com", "aes256-ctr"];
const MACS: [&str; 2] = ["hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com"];

/// Options of `ssh` for each cipher, with each of the codes that it needs.
fn suites() -> Vec<[String; 2]> {
    let mut suites = Vec::new();
    for cipher in CIPHERS {
        let macs = if cipher.ends_with("ctr") { &MACS[..] } else { &MACS[..1] };
        for mac in macs {
            suites.push([format!("-oCiphers={cipher}"), format!("-oMACs={mac}")]);
        }
    }
    suites
}

#[test]
fn every_cipher_and_code_carries_a_session() {
    let world = World::start();
    for way in world.ways() {
        for options in suites() {
            let options = options.each_ref().map(String::as_str);
            let output = way.run_with(&options, "cat; exit 5", b"through\n");
            assert_eq!((output.code(), output.out()), (5, "through\n"), "{options:?} {}", output.stderr);
        }
        for refused in
            [["-oCiphers=aes128-ctr"; 1], ["-oCiphers=3des-cbc"], ["-oKexAlgorithms=ecdh-sha2-nistp256"]]
        {
            let output = way.run(&refused, "echo reached");
            assert_eq!((output.code(), output.out()), (255, ""), "{refused:?}");
            assert!(output.stderr.contains("no matching"), "{}", output.stderr);
        }
    }
}

fn new_keys(output: &Output) -> usize {
    output.stderr.matches("SSH2_MSG_NEWKEYS received").count()
}

#[test]
fn keys_change_again_and_again_and_nothing_is_lost() {
    let world = World::start();
    let content = bytes(1 << 20);
    for way in world.ways() {
        for options in suites() {
            let [cipher, mac] = options.each_ref().map(String::as_str);
            // Both ways at once.
            let output = way.run_with(&[cipher, mac, "-v", "-oRekeyLimit=64k"], "cat", &content);
            assert!(output.code() == 0 && output.stdout == content, "{cipher} {mac} {}", output.stderr);
            assert!(new_keys(&output) > 10, "{}", output.stderr);
        }
        // One way each.
        // What is on its way already comes before the new keys.
        let down = way.run(&["-v", "-oRekeyLimit=64k"], "head -c 16000000 /dev/zero");
        assert!(down.stdout.len() == 16_000_000 && new_keys(&down) > 3, "{}", down.stderr);
        let up = way.run_with(&["-v", "-oRekeyLimit=16k"], "wc -c", &content);
        assert!(up.out().trim() == "1048576" && new_keys(&up) > 10, "{}", up.stderr);
        // By time, while nothing is said.
        let before = new_keys(&way.run(&["-v"], "true"));
        let idle = way.run(&["-v", "-oRekeyLimit=default 1"], "sleep 3; echo awake; exit 6");
        assert_eq!((idle.code(), idle.out()), (6, "awake\n"));
        assert!(new_keys(&idle) > before, "{}", idle.stderr);
    }
}

/// Which bytes are changed.
#[derive(Clone, Copy, Debug)]
enum Changed {
    OfClient,
    OfServer,
}

/// Passes one connection on and changes one bit of the byte with this number.
fn meddler(to: SocketAddr, changed: Changed, at: u64) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let client = listener.accept().unwrap().0;
        let server = TcpStream::connect(to).unwrap();
        std::thread::scope(|scope| {
            let (of_client, of_server) = match changed {
                Changed::OfClient => (at, u64::MAX),
                Changed::OfServer => (u64::MAX, at),
            };
            let (client, server) = (&client, &server);
            scope.spawn(move || pass(client, server, of_client));
            pass(server, client, of_server);
        });
    });
    address
}

fn pass(mut from: &TcpStream, mut to: &TcpStream, changed: u64) {
    let (mut part, mut passed) = ([0; 4096], 0);
    while let Ok(length @ 1..) = from.read(&mut part) {
        if let Some(byte) =
            changed.checked_sub(passed).and_then(|at| part[..length].get_mut(usize::try_from(at).ok()?))
        {
            *byte ^= 1 << (changed % 8);
        }
        passed += u64::try_from(length).unwrap();
        if to.write_all(&part[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}

/// A bit that changes on its way ends the connection, and nothing but the beginning of what was sent ever arrives.
#[test]
fn a_bit_that_changes_on_its_way_ends_the_connection() {
    let world = World::start();
    let content = bytes(40_000);
    let (file, copy) = (world.cluster.dir().join("content"), world.cluster.dir().join("copy"));
    std::fs::write(&file, &content).unwrap();
    for options in suites() {
        let [cipher, mac] = options.each_ref().map(String::as_str);
        // Whoever waits for the rest of a packet that was said to be longer is given more to read.
        let options = [cipher, mac, "-oServerAliveInterval=1", "-oServerAliveCountMax=5"];
        // Behind the exchange of keys, in the login, and in what is sent.
        for at in [2600, 3001, 9002, 12_003, 20_006] {
            let way = world.at(meddler(world.node, Changed::OfClient, at));
            let output = way.run_with(&options, &format!("cat > {}", copy.display()), &content);
            assert_ne!(output.code(), 0, "{at} {cipher} {mac}");
            let arrived = std::fs::read(&copy).unwrap_or_default();
            assert!(content.starts_with(&arrived) && arrived.len() < content.len(), "{at} {cipher} {mac}");
            let _ = std::fs::remove_file(&copy);
        }
        for at in [2600, 9002, 20_006] {
            let way = world.at(meddler(world.node, Changed::OfServer, at));
            let output = way.run(&options, &format!("cat {}", file.display()));
            assert_ne!(output.code(), 0, "{at} {cipher} {mac}");
            assert!(content.starts_with(&output.stdout) && output.stdout.len() < content.len(), "{at}");
        }
    }
    // And without a change it would have arrived.
    let way = world.at(meddler(world.node, Changed::OfClient, u64::MAX));
    assert!(way.run_with(&[], "cat", &content).stdout == content);
}

/// What comes as a greeting, and whether keys are exchanged then.
#[test]
fn only_the_second_protocol_is_spoken() {
    let world = World::start();
    let greetings = [
        (&b"SSH-2.0-client\r\n"[..], true),
        (b"SSH-2.0-client with a comment\r\n", true),
        (b"SSH-2.0-\r\n", true),
        (b"SSH-1.99-old\r\n", true),
        (b"SSH-1.5-old\r\n", false),
        (b"SSH-1.0-old\r\n", false),
        (b"SSH-9.9-new\r\n", false),
        (b"SSH-2.1-new\r\n", false),
        (b"ssh-2.0-small\r\n", false),
        (b"hello\r\nSSH-2.0-late\r\n", false),
        (b"\r\n", false),
    ];
    for (number, (greeting, spoken)) in (1_u8..).zip(greetings) {
        for address in [world.node, world.cluster.ssh()] {
            // What one of them earns, no other has to wait for.
            let mut stream = connect([200, number], address).unwrap();
            stream.write_all(greeting).unwrap();
            // An offer, and nothing more.
            let _ = stream.write_all(&[0, 0, 0, 12, 10, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            let _ = stream.shutdown(Shutdown::Write);
            let mut answer = Vec::new();
            // A reset says as much as an end.
            let _ = stream.read_to_end(&mut answer);
            assert!(answer.starts_with(b"SSH-2.0-Teleport_"), "{:?}", String::from_utf8_lossy(&answer));
            let line = answer.iter().position(|byte| *byte == b'\n').unwrap();
            let offered = answer.get(line + 6) == Some(&20);
            assert!(offered || !spoken, "{:?}", String::from_utf8_lossy(greeting));
            assert!(answer.len() < 4096);
        }
    }
    assert_eq!(world.direct().run(&[], "echo healthy").out(), "healthy\n");
}
