//! Clients that break the rules of SSH with a handshake of their own, at the SSH ports of a real daemon: rows A2, A6, B3, B4 and B7.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::Signal;

use crate::hostile::Target;
use crate::support::own_login;
use crate::support::wire::{Holder, Message, Wire, fields, public_key};

/// Where nobody was before: what one connection earns is not the next one's.
pub(crate) fn source() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::SeqCst)
}

/// A daemon, and somebody who may log in there.
pub(crate) struct Wired {
    pub(crate) target: Target,
    pub(crate) holder: Holder,
    pub(crate) login: String,
}

impl Wired {
    pub(crate) fn start() -> Self {
        let mut target = Target::start();
        target.healthy();
        let holder = Holder::of(&target.machine.path("home"));
        Self { target, holder, login: own_login() }
    }

    pub(crate) fn node(&self) -> SocketAddr {
        self.target.process.address("node ssh")
    }

    pub(crate) fn ports(&self) -> [SocketAddr; 2] {
        [self.node(), self.target.process.address("proxy ssh")]
    }

    pub(crate) fn session(&self, window: u32) -> Wire {
        let mut wire = Wire::logged_in(source(), self.node(), &self.login, &self.holder);
        wire.open_session(window);
        wire
    }

    pub(crate) fn kilobytes(&self, name: &str) -> u64 {
        self.target.process.kilobytes(name)
    }

    /// How many events of this code name this user.
    fn events(&self, code: &str, user: &str) -> usize {
        let events = self.target.machine.events("all");
        events.iter().filter(|event| event["code"] == code && event["user"] == user).count()
    }
}

pub(crate) fn exec(command: &str) -> Message {
    Message::new(98).number(0).string("exec").raw(&[1]).string(command)
}

pub(crate) fn data(bytes: &[u8]) -> Message {
    Message::new(94).number(0).string(bytes)
}

/// Who is not logged in asked for a channel.
fn assert_nothing_opened(wire: Wire) {
    let answers = wire.finish();
    assert!(!answers.iter().any(|kind| matches!(kind, 52 | 91)), "{answers:?}");
}

/// How an attempt is signed, on which connection.
type Signing<'a> = &'a dyn Fn(&Wire) -> Vec<u8>;

/// Row A2: who somebody is, is what was signed; an offer, however good, and a signature by another key give nothing.
#[test]
fn a2_the_identity_is_that_of_the_signature() {
    let mut wired = Wired::start();
    // Another user with another key. `healthy` logs in the second of the target's users.
    let alice = Holder::of(&wired.target.machine.path("home"));
    wired.target.healthy();
    let bob = Holder::of(&wired.target.machine.path("home"));
    assert!(alice.certificate != bob.certificate);
    let login = wired.login.clone();
    for address in wired.ports() {
        let start = || Wire::connect(source(), address).exchange_keys().greeted();
        let offer = public_key(&login, &bob.certificate, false);
        let request = public_key(&login, &bob.certificate, true);

        // Offered, and never signed: nothing opens.
        let mut wire = start();
        wire.send(&offer.bytes);
        assert_eq!(wire.answer().unwrap()[0], 60);
        wire.send(&Message::new(90).string("session").number(0).number(1 << 20).number(1 << 15).bytes);
        assert_nothing_opened(wire);

        // Offered, then signed by the key of somebody else; signed for another connection, another login, or not at all.
        let elsewhere = bob.sign(&start().to_sign(&request));
        let own = |wire: &Wire| alice.sign(&wire.to_sign(&request));
        let other = |wire: &Wire| bob.sign(&wire.to_sign(&public_key("nobody", &bob.certificate, true)));
        let signatures: [Signing<'_>; 5] = [&own, &other, &|_| elsewhere.clone(), &|_| Vec::new(), &|_| {
            Message::inner().string("ssh-ed25519").string([0; 64]).bytes
        }];
        for signature in signatures {
            let mut wire = start();
            wire.send(&offer.bytes);
            assert_eq!(wire.answer().unwrap()[0], 60);
            let signature = signature(&wire);
            wire.send(&request.clone().string(signature).bytes);
            assert!(wire.answer().is_none_or(|answer| answer[0] == 51));
            wire.send(&Message::new(90).string("session").number(0).number(1 << 20).number(1 << 15).bytes);
            assert_nothing_opened(wire);
        }
    }

    // Bob is offered, Alice signs with her own certificate: she is Alice.
    let (by_alice, by_bob) = (wired.events("T2000I", "alice"), wired.events("T2000I", "bob"));
    let mut wire = Wire::connect(source(), wired.node()).exchange_keys().greeted();
    wire.send(&public_key(&login, &bob.certificate, false).bytes);
    assert_eq!(wire.answer().unwrap()[0], 60);
    assert_eq!(wire.log_in(&login, &alice), 52);
    wire.open_session(1 << 20);
    wire.request(&exec("echo done"));
    wire.wait_for(97);
    assert_eq!(wired.events("T2000I", "bob"), by_bob);
    assert_eq!(wired.events("T2000I", "alice"), by_alice + 1);
    wired.target.unharmed();
}

/// Row B3: a length or count that lies, in every place that has one, makes the server neither keep memory nor fall.
#[test]
fn b3_lengths_that_lie_cost_nothing() {
    let wired = Wired::start();
    let login = wired.login.as_str();
    let key = public_key(login, &wired.holder.certificate, true);
    let inner = fields(&wired.holder.certificate);
    let signature = Message::inner().string("ssh-ed25519").string([1; 64]);
    let with_fields = Message::new(50)
        .string(login)
        .string("ssh-connection")
        .string("publickey")
        .raw(&[1])
        .string("ssh-ed25519-cert-v01@openssh.com")
        .nested(&inner)
        .nested(&signature);
    let request = |name: &str| Message::new(98).number(0).string(name).raw(&[1]);
    let open = |kind: &str| Message::new(90).string(kind).number(1).number(1 << 20).number(1 << 15);
    let before_keys =
        [Wire::offer(), Message::new(30).string([9; 32]), Message::new(1).number(2).string("bye").string("")];
    let before_login = [
        Message::new(5).string("ssh-userauth"),
        key,
        with_fields,
        Message::new(50).string(login).string("ssh-connection").string("none"),
        Message::new(50).string(login).string("ssh-connection").string("password").raw(&[0]).string("secret"),
        Message::new(50)
            .string(login)
            .string("ssh-connection")
            .string("keyboard-interactive")
            .string("")
            .string("pam"),
        // Answers to questions that nobody asked.
        Message::new(61).count(1).string("answer"),
        // Extensions.
        Message::new(7).count(1).string("server-sig-algs").string("ssh-ed25519"),
        Message::new(2).string("nothing"),
        Message::new(4).raw(&[1]).string("nothing").string("en"),
    ];
    let logged_in = [
        Message::new(80).string("tcpip-forward").raw(&[1]).string("localhost").number(0),
        Message::new(80).string("hostkeys-prove-00@openssh.com").raw(&[1]).string("key"),
        open("session"),
        open("direct-tcpip").string("node").number(22).string("127.0.0.1").number(1),
        open("direct-streamlocal@openssh.com").string("/tmp/x").string("").number(0),
        open("x11").string("127.0.0.1").number(6000),
        request("pty-req")
            .string("xterm")
            .number(80)
            .number(25)
            .number(0)
            .number(0)
            .nested(&Message::inner().raw(&[1, 0, 0, 0, 1, 0])),
        request("env").string("LANG").string("C"),
        request("exec").string("true"),
        request("subsystem").string("sftp"),
        request("signal").string("TERM"),
        request("exit-signal").string("TERM").raw(&[0]).string("").string(""),
        request("x11-req").raw(&[0]).string("MIT-MAGIC-COOKIE-1").string("00").number(0),
        data(b"input"),
        Message::new(95).number(0).number(1).string("input"),
        Message::new(92).number(0).number(1).string("no").string("en"),
        Message::new(50).string(login).string("ssh-connection").string("none"),
    ];
    let round = |lies: &dyn Fn(&Message) -> Vec<Vec<u8>>| {
        for address in wired.ports() {
            for bytes in before_keys.iter().flat_map(lies) {
                let mut wire = Wire::connect(source(), address);
                wire.send(&bytes);
                wire.finish();
            }
            for bytes in before_login.iter().flat_map(lies) {
                let mut wire = Wire::connect(source(), address).exchange_keys().greeted();
                wire.send(&bytes);
                wire.finish();
            }
            let login = || {
                let mut wire = Wire::logged_in(source(), address, login, &wired.holder);
                wire.open_session(1 << 20);
                wire
            };
            for message in &logged_in {
                let mut wire = login();
                for bytes in lies(message) {
                    wire.send(&bytes);
                    // Some are taken as they are, some end the connection.
                    if !wire.is_alive() {
                        wire = login();
                    }
                }
                wire.finish();
            }
        }
    };
    // The same without a lie, for what connections cost anyway.
    round(&|message| vec![message.bytes.clone(); message.lengths.len()]);
    let (resident, reserved) = (wired.kilobytes("VmHWM"), wired.kilobytes("VmPeak"));
    round(&Message::lies);
    let grown = wired.kilobytes("VmHWM").saturating_sub(resident);
    assert!(grown < 16 << 10, "it grew by {grown} kB");
    // Four billion bytes would show even where nobody writes to them.
    let grown = wired.kilobytes("VmPeak").saturating_sub(reserved);
    assert!(grown < 1 << 20, "it reserved {grown} kB more");
    wired.target.unharmed();
}

/// Row A6: certificates of any size and keys of any shape are refused at the cost of any other refusal.
#[test]
fn a6_odd_keys_and_huge_certificates_are_refused_at_once() {
    let wired = Wired::start();
    let login = wired.login.as_str();
    let good = &wired.holder.certificate;
    let at = 4 + 32 + 4 + 32;
    assert_eq!(good[at..at + 4], [0, 0, 0, 32], "the key follows algorithm and nonce");
    let with_key = |key: &[u8]| [&good[..at], &Message::inner().string(key).bytes, &good[at + 36..]].concat();
    let certificate = "ssh-ed25519-cert-v01@openssh.com";
    let rsa = |bits: usize, exponent: &[u8]| {
        let mut modulus = vec![0xff; bits / 8];
        modulus.insert(0, 0);
        Message::inner().string("ssh-rsa").string(exponent).string(modulus).bytes
    };
    let mut small = [0; 32];
    small[0] = 1;
    let nested = Message::inner().string(certificate).string(good).bytes;
    let huge = |size: usize| {
        let nonce = vec![7; size];
        [&Message::inner().string(certificate).string(nonce).bytes[..], &good[at..]].concat()
    };
    let mut cases: Vec<(String, &str, Vec<u8>)> = Vec::new();
    for length in [0, 31, 33, 64, 4096] {
        cases.push((format!("a key of {length} bytes"), certificate, with_key(&vec![9; length])));
    }
    for point in [[0; 32], [0xff; 32], small] {
        cases.push((format!("the point {point:02x?}"), certificate, with_key(&point)));
    }
    for size in [17 << 10, 100 << 10, 200 << 10] {
        cases.push((format!("a certificate of {size} bytes"), certificate, huge(size)));
    }
    for bits in [1024, 8200, 65_536, 1_000_000] {
        cases.push((format!("RSA with {bits} bits"), "rsa-sha2-512", rsa(bits, &[1, 0, 1])));
        cases.push((format!("RSA with {bits} bits, as SHA-1"), "ssh-rsa", rsa(bits, &[1, 0, 1])));
    }
    for exponent in [&[0][..], &[1], &[2], &[1, 0, 0, 0, 0, 0, 0, 0, 0]] {
        cases.push((format!("RSA with the exponent {exponent:?}"), "rsa-sha2-256", rsa(2048, exponent)));
    }
    let curve = Message::inner().string("ecdsa-sha2-nistp256").string("nistp256");
    for point in [vec![4; 65], vec![0; 65], vec![4; 64], vec![2; 33], vec![0]] {
        let name = format!("a point of P-256 of {} bytes", point.len());
        cases.push((name, "ecdsa-sha2-nistp256", curve.clone().string(point).bytes));
    }
    cases.push(("a certificate within".to_owned(), certificate, nested.clone()));
    cases.push(("a certificate as a plain key".to_owned(), "ssh-ed25519", good.clone()));
    cases.push(("a certificate within, as a plain key".to_owned(), "ssh-ed25519", nested));

    let attempts = 5;
    // Whatever is done with the key of an attempt, in milliseconds of the daemon's processor time.
    let cost = |address: SocketAddr, algorithm: &str, key: &[u8], signed: bool| {
        let before = wired.target.process.processor_time();
        for _ in 0..attempts {
            let mut wire = Wire::connect(source(), address).exchange_keys().greeted();
            let request = Message::new(50).string(login).string("ssh-connection").string("publickey");
            let request = request.raw(&[u8::from(signed)]).string(algorithm).string(key);
            let request = match signed {
                true => request.string(Message::inner().string(algorithm).string([3; 64]).bytes),
                false => request,
            };
            wire.send(&request.bytes);
            let answer = wire.answer();
            // What is well-formed may be offered; nothing of it is ever accepted.
            let allowed: &[u8] = if signed { &[51, 1] } else { &[51, 60, 1] };
            assert!(answer.is_none_or(|answer| allowed.contains(&answer[0])));
            wire.finish();
        }
        (wired.target.process.processor_time() - before).as_secs_f64() * 1000.0 / f64::from(attempts)
    };
    for address in wired.ports() {
        let mut usual = 0.0_f64;
        for _ in 0..4 {
            usual = usual.max(cost(
                address,
                "ssh-ed25519",
                &Message::inner().string("ssh-ed25519").string([9; 32]).bytes,
                true,
            ));
        }
        let resident = wired.kilobytes("VmRSS");
        for (name, algorithm, key) in &cases {
            for signed in [false, true] {
                let mut costs = cost(address, algorithm, key, signed);
                // Somebody else's work may have been in between.
                for _ in 0..2 {
                    if costs > usual + 20.0 {
                        costs = costs.min(cost(address, algorithm, key, signed));
                    }
                }
                assert!(costs < usual + 20.0, "{name}: {costs} ms instead of {usual} ms");
            }
        }
        let grown = wired.kilobytes("VmRSS").saturating_sub(resident);
        assert!(grown < 16 << 10, "it grew by {grown} kB");
    }
    wired.target.unharmed();
}

/// Row B4: a window cannot be driven over its end, a client that never makes room holds nothing but its own session up, and packets
/// that are too long end the connection that sent them at most.
#[test]
fn b4_windows_and_packets_beyond_their_bounds() {
    let wired = Wired::start();
    // Twice all that a window can be.
    let mut wire = wired.session(u32::MAX);
    wire.request(&exec("cat"));
    wire.wait_for(99);
    for _ in 0..2 {
        wire.send(&Message::new(93).number(0).number(u32::MAX).bytes);
    }
    wire.send(&data(b"hello\n").bytes);
    if wire.is_alive() {
        wire.send(&Message::new(96).number(0).bytes);
        wire.wait_for(97);
    }
    wire.finish();

    // No room, ever.
    let resident = wired.kilobytes("VmRSS");
    let mut silent: Vec<Wire> = (0..4).map(|_| wired.session(0)).collect();
    for wire in &mut silent {
        wire.request(&exec("head -c 400000000 /dev/zero"));
        wire.wait_for(99);
    }
    for _ in 0..50 {
        assert!(silent.iter_mut().all(Wire::is_alive), "the connections are as good as before");
    }
    let grown = wired.kilobytes("VmRSS").saturating_sub(resident);
    assert!(grown < 4 * (8 << 10), "it grew by {grown} kB");
    // Room for seven bytes is room for seven bytes.
    for wire in &mut silent {
        wire.send(&Message::new(93).number(0).number(7).bytes);
        let mut received = 0;
        while received < 7 {
            let output = wire.wait_for(94);
            received += output.len() - 9;
        }
        assert_eq!(received, 7);
        assert!(wire.is_alive());
    }
    drop(silent);

    // A packet that is longer than any may be, and more than the window that was given.
    for length in [33 << 10, 40 << 10, 100 << 10, 250 << 10, 300 << 10] {
        let mut wire = wired.session(1 << 20);
        wire.request(&exec("cat > /dev/null"));
        wire.wait_for(99);
        wire.send(&data(&vec![b'x'; length]).bytes);
        let _ = wire.is_alive();
        wire.finish();
    }
    wired.target.unharmed();
}

/// Row B7: storms of signals, of window changes and of variables, from a client and at the daemon itself.
#[test]
fn b7_storms_harm_nobody() {
    let mut wired = Wired::start();
    let mut wire = wired.session(1 << 24);
    let request = |name: &str, reply: bool| Message::new(98).number(0).string(name).raw(&[u8::from(reply)]);
    // Variables without end: nothing is begun on that channel any more, if the connection is not ended.
    let mut greedy = wired.session(1 << 20);
    for number in 0..5000 {
        let env = request("env", false).string(format!("LC_STORM_{number}")).string("x".repeat(100));
        greedy.send(&env.bytes);
    }
    greedy.request(&exec("echo never"));
    let answers = greedy.finish();
    assert!(!answers.contains(&99), "{answers:?}");
    let terminal =
        request("pty-req", true).string("xterm").number(80).number(25).number(0).number(0).string([0]);
    wire.request(&terminal);
    wire.wait_for(99);
    wire.request(&exec("trap '' USR1 WINCH; echo ready; read line; echo \"got $line\"; exit 5"));
    let mut seen = String::new();
    while !seen.contains("ready") {
        seen.push_str(&String::from_utf8_lossy(&wire.wait_for(94)[9..]));
    }
    let resident = wired.kilobytes("VmRSS");
    for round in 0..20_000_u32 {
        let change = request("window-change", false).number(1 + round % 500).number(25).number(0).number(0);
        wire.send(&change.bytes);
        if round % 4 == 0 {
            wire.send(&request("env", false).string("LANG").string("C").bytes);
            wire.send(&request("signal", false).string("USR1").bytes);
        }
        if round % 40 == 0 {
            wired.target.process.signal(if round % 80 == 0 { Signal::SIGHUP } else { Signal::SIGCHLD });
        }
    }
    assert!(wire.is_alive());
    let grown = wired.kilobytes("VmRSS").saturating_sub(resident);
    assert!(grown < 16 << 10, "it grew by {grown} kB");
    // Somebody else logs in and works meanwhile, and the session is as good as before.
    wired.target.healthy();
    wire.send(&data(b"hello\n").bytes);
    while !seen.contains("got hello") {
        seen.push_str(&String::from_utf8_lossy(&wire.wait_for(94)[9..]));
    }
    let status = loop {
        let answer = wire.wait_for(98);
        if answer.windows(11).any(|part| part == b"exit-status") {
            break answer[answer.len() - 1];
        }
    };
    assert_eq!(status, 5, "{seen}");
    wire.finish();
    wired.target.unharmed();
}
