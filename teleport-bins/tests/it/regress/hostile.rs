//! A client that logs in and then breaks the rules of channels and requests, and one that does not even log in. Whatever it does, its own
//! connection ends at most, nothing is kept of it, and whoever comes next works as ever.

use crate::support::wire::{Message, Wire, public_key};
use crate::wire::{Wired, data, exec, source};

fn open(kind: &str, number: u32) -> Message {
    Message::new(90).string(kind).number(number).number(1 << 20).number(32 << 10)
}

fn request(name: &str) -> Message {
    Message::new(98).number(0).string(name).raw(&[1])
}

impl Wired {
    /// Somebody else logs in and works, and the daemon ends in good order.
    #[track_caller]
    fn healthy_after_all(mut self) {
        self.target.healthy();
        self.target.unharmed();
    }
}

/// Row B2: what belongs behind a login is not acted on before it, whichever message it is and however often a login has failed.
#[test]
fn b2_nothing_is_dispatched_before_the_login() {
    let wired = Wired::start();
    let marker = wired.target.machine.path("marker");
    let touch = format!("touch {}", marker.display());
    let bodies: [(u8, Message); 8] = [
        (52, Message::new(52)),
        (80, Message::new(80).string("tcpip-forward").raw(&[1]).string("127.0.0.1").number(0)),
        (81, Message::new(81)),
        (90, open("session", 0)),
        (91, Message::new(91).number(0).number(0).number(1 << 20).number(1 << 15)),
        (93, Message::new(93).number(0).number(u32::MAX)),
        (94, data(b"input")),
        (98, exec(&touch)),
    ];
    let message = |kind: u8| {
        let known = bodies.iter().find(|(known, _)| *known == kind).map(|(_, message)| message.clone());
        known.unwrap_or_else(|| Message::new(kind).number(0)).bytes
    };
    for address in wired.ports() {
        for kind in (80..=100).chain([52, 60, 61, 255]) {
            for failed in [false, true] {
                let mut wire = Wire::connect(source(), address).exchange_keys();
                if failed {
                    wire = wire.greeted();
                    let none = Message::new(50).string(&wired.login).string("ssh-connection").string("none");
                    wire.send(&none.bytes);
                    assert_eq!(wire.answer().unwrap()[0], 51);
                }
                wire.send(&message(kind));
                // A session as well: a channel that counted as opened would run it.
                wire.send(&open("session", 0).bytes);
                wire.send(&exec(&touch).bytes);
                // Whoever still listens is asked for a login that fails, so that all of the above was read.
                wire.send(&Message::new(5).string("ssh-userauth").bytes);
                let request = public_key(&wired.login, &wired.holder.certificate, true);
                wire.send(
                    &request.string(Message::inner().string("ssh-ed25519").string([0; 64]).bytes).bytes,
                );
                let answers = wire.finish();
                let opened = answers.iter().any(|answer| matches!(answer, 52 | 81 | 91 | 94 | 98 | 99));
                assert!(!opened, "{kind}, {failed}: {answers:?}");
                assert!(!marker.exists(), "{kind}, {failed}");
            }
        }
    }
    // With the login it would have run.
    let mut wire = wired.session(1 << 20);
    wire.request(&exec(&touch));
    wire.wait_for(97);
    assert!(marker.exists());
    wired.healthy_after_all();
}

/// Messages of channels in an order that makes no sense, on channels that are not there or not any more.
#[test]
fn messages_of_channels_out_of_their_order_end_one_connection_at_most() {
    let wired = Wired::start();
    let of = |kind: u8, channel: u32| Message::new(kind).number(channel);
    let with_text = |message: Message| message.string("text");
    let eof = of(96, 0);
    let close = of(97, 0);
    let elsewhere: Vec<Message> = [1, 77, u32::MAX]
        .into_iter()
        .flat_map(|channel| {
            [
                of(91, channel).number(0).number(1 << 20).number(1 << 15),
                with_text(of(92, channel).number(1)).string("en"),
                of(93, channel).number(1 << 20),
                with_text(of(94, channel)),
                with_text(of(95, channel).number(1)),
                of(96, channel),
                of(97, channel),
                with_text(of(98, channel)).raw(&[1]),
                of(99, channel),
                of(100, channel),
            ]
        })
        .collect();
    let disorders: Vec<Vec<Message>> = vec![
        // Answers to what nobody asked, and the opening of what is open.
        vec![
            of(99, 0),
            of(100, 0),
            of(91, 0).number(0).number(9).number(9),
            with_text(of(92, 0).number(2)).string(""),
        ],
        vec![data(b"before anything runs"), eof.clone(), exec("cat")],
        vec![exec("cat"), eof.clone(), data(b"after the end"), eof.clone(), eof.clone()],
        vec![exec("cat"), close.clone(), data(b"after the end"), close.clone(), eof.clone(), exec("cat")],
        vec![close.clone(), exec("cat"), close.clone()],
        vec![
            exec("cat"),
            exec("cat"),
            request("shell"),
            request("subsystem").string("sftp"),
            request("pty-req"),
        ],
        vec![
            request("window-change"),
            request("signal").string("KILL"),
            request("break").number(0),
            exec("cat"),
        ],
        vec![with_text(of(95, 0).number(1)), with_text(of(95, 0).number(u32::MAX)), exec("cat")],
        vec![exec("cat"), request("exit-status").number(0), request("exit-signal").string("KILL")],
        vec![of(93, 0).number(0), of(93, 0).number(u32::MAX), of(93, 0).number(u32::MAX), exec("cat")],
    ];
    for address in wired.ports() {
        for disorder in disorders.iter().map(Vec::as_slice).chain(elsewhere.iter().map(std::slice::from_ref))
        {
            let mut wire = Wire::logged_in(source(), address, &wired.login, &wired.holder);
            wire.open_session(1 << 20);
            for message in disorder {
                wire.send(&message.bytes);
            }
            // It is answered, or has ended.
            wire.is_alive();
            wire.finish();
        }
        // A channel of the same number twice.
        let mut wire = Wire::logged_in(source(), address, &wired.login, &wired.holder);
        for _ in 0..3 {
            wire.send(&open("session", 0).bytes);
        }
        wire.is_alive();
        wire.finish();
    }
    wired.healthy_after_all();
}

/// What nobody knows is refused where an answer is wanted, and ignored where none is; the connection is as good as before.
#[test]
fn unknown_requests_are_refused_and_change_nothing() {
    let wired = Wired::start();
    let mut wire = wired.session(1 << 20);
    for name in ["nonesuch", "nonesuch@example.com", "", "\0", "sh\nell", &"n".repeat(30_000)] {
        wire.send(&Message::new(98).number(0).string(name).raw(&[0]).bytes);
        wire.request(&request(name));
        assert_eq!(wire.answer().map(|answer| answer[0]), Some(100), "{name:.40?}");
        wire.send(&Message::new(80).string(name).raw(&[0]).bytes);
        wire.send(&Message::new(80).string(name).raw(&[1]).bytes);
        assert_eq!(wire.answer().map(|answer| answer[0]), Some(82), "{name:.40?}");
        wire.send(&open(name, 9).bytes);
        assert_eq!(wire.answer().map(|answer| answer[0]), Some(92), "{name:.40?}");
        // The library says it twice.
        assert!(wire.is_alive());
    }
    for unknown in [8, 19, 54, 101, 191, 192, 255] {
        wire.send(&[unknown, 1, 2, 3, 4]);
    }
    assert!(wire.is_alive());
    wire.request(&exec("echo as before"));
    let output = wire.wait_for(94);
    assert!(output.ends_with(b"as before\n"));
    wire.wait_for(97);
    wire.finish();
    wired.healthy_after_all();
}

/// Sizes that no terminal has, names that no terminal has, and modes that are none.
#[test]
fn sizes_of_terminals_that_no_terminal_has() {
    const ODD: [u32; 7] = [0, 1, 255, 0xffff, 0x1_0000, 0x8000_0000, u32::MAX];
    let wired = Wired::start();
    let terminal = |term: &[u8], size: u32, modes: &[u8]| {
        request("pty-req").string(term).number(size).number(size).number(size).number(size).string(modes)
    };
    let program = "stty size; trap '' WINCH; echo ready; read line; stty size; exit 5";
    for size in ODD {
        let mut wire = wired.session(1 << 20);
        wire.request(&terminal(b"xterm", size, &[0]));
        wire.wait_for(99);
        wire.request(&exec(program));
        let mut shown = String::new();
        let until = |wire: &mut Wire, shown: &mut String, word: &str| {
            while !shown.contains(word) {
                shown.push_str(&String::from_utf8_lossy(&wire.wait_for(94)[9..]));
            }
        };
        until(&mut wire, &mut shown, "ready");
        for changed in ODD {
            let change = Message::new(98).number(0).string("window-change").raw(&[0]);
            wire.send(&change.number(changed).number(changed).number(changed).number(changed).bytes);
        }
        assert!(wire.is_alive());
        wire.send(&data(b"on\n").bytes);
        let status = loop {
            let answer = wire.answer().unwrap_or_else(|| panic!("{size}: {shown}"));
            match answer[0] {
                94 => shown.push_str(&String::from_utf8_lossy(&answer[9..])),
                98 if answer.windows(11).any(|part| part == b"exit-status") => {
                    break answer[answer.len() - 1];
                }
                _ => {}
            }
        };
        assert_eq!(status, 5, "{size}: {shown}");
        // What the kernel cannot say is said as the most that it can; of what is no size nothing is made that programs divide by.
        let rows: u32 = shown.split_whitespace().next().unwrap().parse().unwrap();
        assert!(rows == size.min(0xffff) || size == 0 && rows > 0, "{size}: {shown}");
        wire.finish();
    }
    // Either refused, or a terminal.
    let long = vec![b'x'; 100_000];
    let terms: [&[u8]; 6] =
        [b"", b"\0", b"xterm\nevil", b"\x1b]0;title\x07", b"../../etc/passwd", &long[..30_000]];
    let mut modes: Vec<Vec<u8>> =
        vec![Vec::new(), vec![1], vec![1, 0, 0], vec![255; 1000], long[..30_000].to_vec()];
    modes.push((0..=255_u8).flat_map(|opcode| [opcode, 0xff, 0xff, 0xff, 0xff]).collect());
    modes.push([128, 0, 0, 0, 0, 129, 0xff, 0xff, 0xff, 0xff, 0].to_vec());
    let terms = terms.iter().map(|term| (terminal(term, 80, &[0]), true));
    let modes = modes.iter().map(|modes| (terminal(b"xterm", 80, modes), modes.first() == Some(&128)));
    for (asked, must) in terms.chain(modes) {
        let mut wire = wired.session(1 << 20);
        wire.request(&asked);
        wire.request(&exec("echo shown"));
        let mut shown = Vec::new();
        let mut kinds = Vec::new();
        while let Some(answer) = wire.answer() {
            kinds.push(answer[0]);
            match answer[0] {
                94 => shown.extend_from_slice(&answer[9..]),
                97 => break,
                _ => {}
            }
        }
        let (shown, asked) = (String::from_utf8_lossy(&shown), String::from_utf8_lossy(&asked.bytes));
        // Modes that are none are no terminal, or end the connection; they are never taken for others.
        assert!(
            shown.contains("shown") || !must && kinds.is_empty(),
            "{shown:?} {kinds:?} {:.99}",
            asked.escape_debug().to_string()
        );
        wire.finish();
    }
    wired.healthy_after_all();
}

/// Ten thousand channels on one connection: as many sessions as there may be, a refusal for each of the others, and room again once the
/// first are closed. Row B5.
#[test]
fn b5_ten_thousand_channels_on_one_connection() {
    const CHANNELS: u32 = 10_000;
    let wired = Wired::start();
    for address in wired.ports() {
        let mut wire = Wire::logged_in(source(), address, &wired.login, &wired.holder);
        let mut opened = Vec::new();
        let mut resident = 0;
        let mut number = 0;
        while number < CHANNELS {
            for _ in 0..50 {
                wire.send(&open("session", 1 + number).bytes);
                number += 1;
            }
            for _ in 0..50 {
                let answer = wire.answer().unwrap();
                match answer[0] {
                    91 => opened.push([answer[5], answer[6], answer[7], answer[8]]),
                    92 => {}
                    other => panic!("message {other}"),
                }
            }
            if number == 1000 {
                resident = wired.kilobytes("VmRSS");
            }
        }
        let grown = wired.kilobytes("VmRSS").saturating_sub(resident);
        assert!(grown < 8 << 10, "it grew by {grown} kB");
        assert!((1..=1000).contains(&opened.len()), "{}", opened.len());
        // Each is closed, and closed in answer.
        for channel in &opened {
            wire.send(&[&[97][..], channel].concat());
        }
        for _ in &opened {
            wire.wait_for(97);
        }
        // One after the other, there is room for all of them.
        for number in 0..2000 {
            wire.send(&open("session", number).bytes);
            let answer = wire.answer().unwrap();
            assert_eq!(answer[0], 91, "{number}: {answer:?}");
            wire.send(&[&[97][..], &answer[5..9]].concat());
            wire.wait_for(97);
        }
        let grown = wired.kilobytes("VmRSS").saturating_sub(resident);
        assert!(grown < 8 << 10, "it grew by {grown} kB");
        wire.finish();
    }
    wired.healthy_after_all();
}
