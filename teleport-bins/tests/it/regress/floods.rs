//! Whoever sends without end, or never reads, or asks for work before a login. Rows B5, B9 and B10 of the list of threats.

use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::{World, runs};
use crate::hostile::connect;
use crate::processes::Three;
use crate::support::program::{run, shell};
use crate::support::wire::{Holder, Message, Wire};
use crate::support::{own_login, wait_for};
use crate::wire::{Wired, data, exec, source};

/// What one connection may make the daemon keep, in kilobytes.
const MOST: u64 = 8 << 10;

/// Row B5: a hundred thousand of what is refused, of what nobody asked for, and of what has to wait for keys that never come.
#[test]
fn b5_floods_leave_a_connection_small() {
    const FLOOD: usize = 100_000;
    const BATCH: usize = 500;
    // Each a process of its own: what the audit log makes of it is not looked at here.
    let three = Three::start(false);
    let holder = Holder::of(&three.machine.path("home"));
    let login = own_login();
    let (node, proxy) = (three.node.as_ref().unwrap(), three.proxy.as_ref().unwrap());
    let open = |kind: &str| Message::new(90).string(kind).number(9).number(1 << 20).number(1 << 15);
    let (open, unknown) = (open("x11").string("127.0.0.1").number(6000).bytes, open("nonesuch").bytes);
    let forward = Message::new(80).string("nonesuch").raw(&[1]).bytes;
    // The flood, and how many answers come to one of it.
    let floods: [(&str, &[u8], usize); 5] = [
        ("channels that are refused", &open, 1),
        // The library says it twice.
        ("channels that nobody knows", &unknown, 2),
        ("requests that are refused", &forward, 1),
        ("successes", &[81], 0),
        ("failures", &[82], 0),
    ];
    for (process, address) in [(node, node.address("node ssh")), (proxy, proxy.address("proxy ssh"))] {
        for (name, message, answers) in floods {
            let mut wire = Wire::logged_in(source(), address, &login, &holder);
            let mut batch = || {
                for _ in 0..BATCH {
                    wire.send(message);
                }
                for _ in 0..BATCH * answers {
                    assert!(matches!(wire.answer().unwrap()[0], 82 | 92), "{name}");
                }
            };
            // What it needs anyway, with what waits for the audit log.
            for _ in 0..20 {
                batch();
            }
            let resident = process.kilobytes("VmRSS");
            for _ in 0..FLOOD / BATCH {
                batch();
            }
            assert!(wire.is_alive(), "{name}");
            let grown = process.kilobytes("VmRSS").saturating_sub(resident);
            eprintln!("{name}: {grown} kB more");
            assert!(grown < MOST, "{name}: it grew by {grown} kB");
            wire.finish();
        }
        // New keys are begun, and what follows is no exchange of keys.
        let floods =
            [data(&[b'x'; 30_000]), Message::new(2).string([b'x'; 30_000]), exec(&"x".repeat(30_000))];
        for message in floods {
            let mut wire = Wire::logged_in(source(), address, &login, &holder);
            wire.open_session(1 << 20);
            let resident = process.kilobytes("VmRSS");
            wire.send(&Wire::offer().bytes);
            let patience = Duration::from_secs(2);
            // Either it hangs up, or it stops to read; a hundred megabytes it does not take.
            let taken = (0..3500).take_while(|_| wire.send_within(patience, &message.bytes)).count();
            let grown = process.kilobytes("VmRSS").saturating_sub(resident);
            assert!(grown < MOST, "{taken} while keys change: it grew by {grown} kB");
            drop(wire);
        }
    }
    three.works();
    for process in [node, proxy] {
        assert!(!process.logged().contains("panicked"), "{}", process.logged());
    }
}

/// Row B5: a program speaks without end, and the client reads none of it, whatever room it has said to have.
#[test]
fn b5_what_nobody_reads_is_not_kept() {
    const CLIENTS: u64 = 4;
    let wired = Wired::start();
    let word = format!("unread-{}", std::process::id());
    // What one that reads needs anyway.
    let mut reader = wired.session(1 << 30);
    reader.request(&exec("head -c 40000000 /dev/zero"));
    reader.wait_for(97);
    reader.finish();
    let resident = wired.kilobytes("VmRSS");
    let clients: Vec<Wire> = (0..CLIENTS)
        .map(|_| {
            let mut wire = wired.session(u32::MAX);
            wire.request(&exec(&format!("yes {word}")));
            wire.wait_for(94);
            wire
        })
        .collect();
    // Until all of them are held up: the daemon has nothing to do any more.
    wait_for("the daemon to stand still", || {
        let before = wired.target.process.processor_time();
        std::thread::sleep(Duration::from_millis(500));
        (wired.target.process.processor_time() - before < Duration::from_millis(50)).then_some(())
    });
    let grown = wired.kilobytes("VmRSS").saturating_sub(resident);
    assert!(grown < CLIENTS * MOST, "it grew by {grown} kB");
    assert!(runs(&word));
    drop(clients);
    wait_for("the end of those who spoke", || (!runs(&word)).then_some(()));
    wired.target.unharmed();
}

/// Row B9: exchanges of keys without a login are cheap, one source gets few of them, and many sources keep nobody out.
#[test]
fn b9_exchanges_of_keys_without_a_login_keep_nobody_out() {
    const KNOCKS: u32 = 400;
    let mut wired = Wired::start();
    for (number, address) in (0_u8..).zip(wired.ports()) {
        // One source, as fast as it can: each time it leaves without an attempt costs it a second.
        let began = Instant::now();
        let greeted = (0..KNOCKS)
            .filter(|_| {
                let mut word = [0; 8];
                let mut stream = connect([210, 1 + number], address).unwrap();
                stream.read_exact(&mut word).is_ok() && &word == b"SSH-2.0-"
            })
            .count();
        // Fifteen seconds of penalties, and as many as may be open at a time while those before them are still being counted.
        let most = 15 + 20 + began.elapsed().as_secs();
        assert!(u64::try_from(greeted).unwrap() <= most, "{greeted} of {KNOCKS} were let in");
    }
    // Many sources, and somebody who means no harm among them.
    let (over, exchanged) = (AtomicBool::new(false), AtomicU32::new(0));
    let ports = wired.ports();
    let worked = wired.target.process.processor_time();
    let target = &mut wired.target;
    std::thread::scope(|scope| {
        for address in ports {
            for _ in 0..2 {
                let (over, exchanged) = (&over, &exchanged);
                scope.spawn(move || {
                    while !over.load(Ordering::Relaxed) {
                        drop(Wire::connect(source(), address).exchange_keys());
                        exchanged.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        }
        let healthy = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| target.healthy()));
        over.store(true, Ordering::Relaxed);
        let took = healthy.unwrap();
        eprintln!("a login and a command among the exchanges took {took:?}");
    });
    let worked = wired.target.process.processor_time() - worked;
    let exchanged = exchanged.into_inner();
    eprintln!("{exchanged} exchanges of keys, {:?} of processor time each", worked / exchanged.max(1));
    assert!(exchanged > 20, "{exchanged}");
    wired.target.unharmed();
}

/// Row B10: a stream for which keys change many times is exact, both ways. `TELEPORT_STREAM_MIB` for a longer one than usual: 5120 is
/// beyond what a cipher of 32 bits can count.
#[test]
fn b10_long_streams_with_many_keys_are_exact() {
    let world = World::start();
    let length: u64 = std::env::var("TELEPORT_STREAM_MIB").map_or(192, |length| length.parse().unwrap());
    let block = world.cluster.dir().join("block");
    std::fs::write(&block, super::bytes((4 << 20) + 1)).unwrap();
    let stream = format!("for i in $(seq {}); do cat {}; done", length / 4, block.display());
    let wanted = run(shell(&format!("({stream}) | sha256sum"))).clean();
    let rekey = format!("-v -o RekeyLimit={}M", length / 16);
    for way in world.ways() {
        let log = world.cluster.dir().join("log");
        let line = way.line(&rekey);
        for piped in [
            format!("({stream}) | {line} sha256sum 2>{}", log.display()),
            format!("{line} '{stream}' 2>{} </dev/null | sha256sum", log.display()),
        ] {
            let began = Instant::now();
            let sum = long(&piped);
            let log = std::fs::read_to_string(&log).unwrap();
            assert_eq!(sum, wanted, "{piped}: {log}");
            let keys = log.matches("SSH2_MSG_NEWKEYS received").count();
            assert!(keys > 8, "{keys}: {log}");
            eprintln!("{length} MiB in {:?} with {keys} keys", began.elapsed());
        }
    }
}

/// What a line of the shell prints, however long that takes.
fn long(line: &str) -> String {
    let output = shell(line).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}
