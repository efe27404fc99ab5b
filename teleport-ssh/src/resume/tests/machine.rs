//! What each side keeps, and what it makes of what it hears.

use std::time::Duration;

use bytes::BytesMut;
use tokio::io::ReadBuf;
use tokio::time::Instant;

use super::super::machine::{Machine, Next};
use super::super::pulse::{Beat, Pulse, Side};
use super::super::wire::{Control, Decoder, MAX_DATA, Violation, data_header};
use super::super::{ACK_EVERY, WINDOW};
use super::wires::Dice;

/// All that goes to the wire now.
fn said(machine: &mut Machine) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(next) = machine.next() {
        match next {
            Next::Close(bytes) | Next::Control(bytes) | Next::Data(bytes) => all.extend(bytes),
        }
    }
    all
}

fn hear(machine: &mut Machine, bytes: &[u8]) -> Result<(), Violation> {
    machine.receive(&mut Decoder::default(), &mut BytesMut::from(bytes))
}

fn take(machine: &mut Machine, most: usize) -> Vec<u8> {
    let mut bytes = vec![0; most];
    let mut out = ReadBuf::new(&mut bytes);
    machine.read(&mut out);
    out.filled().to_vec()
}

fn frame(data: &[u8]) -> Vec<u8> {
    [&data_header(data.len() as u32), data].concat()
}

fn control(control: Control) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    control.write(&mut bytes);
    bytes.to_vec()
}

#[test]
fn what_is_not_acknowledged_is_kept_and_said_again_from_where_it_is_missed() {
    let mut machine = Machine::default();
    assert_eq!(machine.write(b"one"), 3);
    assert_eq!(said(&mut machine), frame(b"one"));
    assert_eq!(machine.write(b"two"), 3);
    assert_eq!(said(&mut machine), frame(b"two"));
    assert_eq!(machine.write(b"new"), 3);
    for (theirs, again) in [(0, "one|two|new"), (2, "e|two|new"), (3, "two|new"), (4, "wo|new"), (6, "new")] {
        machine.resume(theirs, 0).unwrap();
        let again: Vec<u8> = again.split('|').flat_map(|piece| frame(piece.as_bytes())).collect();
        assert_eq!(said(&mut machine), again, "from {theirs}");
    }
    hear(&mut machine, &control(Control::Ack(4))).unwrap();
    assert!(machine.resume(3, 0).is_err(), "that is forgotten");
    assert!(machine.resume(10, 0).is_err(), "that was never said");
    machine.resume(4, 0).unwrap();
    assert_eq!(said(&mut machine), [frame(b"wo"), frame(b"new")].concat());
    hear(&mut machine, &control(Control::Ack(9))).unwrap();
    assert_eq!(machine.kept(), 0);
}

#[test]
fn what_comes_twice_is_taken_once() {
    let mut machine = Machine::default();
    hear(&mut machine, &frame(b"abcdef")).unwrap();
    assert_eq!(take(&mut machine, 2), b"ab");
    // The other side was told 3; the rest came over the old wire meanwhile.
    machine.resume(0, 3).unwrap();
    let mut decoder = Decoder::default();
    let mut rest = BytesMut::from(&[frame(b"de"), frame(b"fgh"), frame(b"i")].concat()[..]);
    machine.receive(&mut decoder, &mut rest).unwrap();
    assert_eq!(take(&mut machine, 100), b"cdefghi");
    assert_eq!(machine.received(), 9);
}

#[test]
fn nothing_is_acknowledged_that_the_present_wire_has_not_seen() {
    let mut machine = Machine::default();
    let many = vec![7; 2 * ACK_EVERY as usize];
    for piece in many.chunks(MAX_DATA) {
        hear(&mut machine, &frame(piece)).unwrap();
    }
    take(&mut machine, many.len());
    assert_eq!(said(&mut machine), control(Control::Ack(many.len() as u64)));
    machine.resume(0, ACK_EVERY + 1).unwrap();
    // Whether the acknowledgement arrived is not known.
    assert_eq!(said(&mut machine), control(Control::Ack(ACK_EVERY + 1)));
}

#[test]
fn nobody_says_more_than_there_is_room_for() {
    let mut machine = Machine::default();
    assert_eq!(machine.write(&vec![7; WINDOW + 1]), WINDOW);
    assert_eq!((machine.write(b"x"), machine.has_room()), (0, false));
    let all = said(&mut machine);
    let mut other = Machine::default();
    hear(&mut other, &all).unwrap();
    assert_eq!(hear(&mut other, &frame(b"x")), Err(Violation::Window));
    assert_eq!(take(&mut other, WINDOW).len(), WINDOW);
    hear(&mut machine, &said(&mut other)).unwrap();
    assert_eq!((machine.kept(), machine.write(b"x")), (0, 1));
}

#[test]
fn violations_are_seen() {
    let zero = data_header(0);
    let long = data_header(MAX_DATA as u32 + 1);
    let close = control(Control::Close);
    for (bytes, why) in [
        (vec![5], Violation::Kind),
        (vec![255], Violation::Kind),
        (zero.to_vec(), Violation::Len(0)),
        (long.to_vec(), Violation::Len(MAX_DATA as u32 + 1)),
        (control(Control::Ack(4)), Violation::Ack),
        (control(Control::Ack(u64::MAX)), Violation::Ack),
        ([control(Control::Ack(2)), control(Control::Ack(1))].concat(), Violation::Ack),
        ([close.clone(), frame(b"x")].concat(), Violation::AfterClose),
        ([close.clone(), close].concat(), Violation::AfterClose),
    ] {
        let mut machine = Machine::default();
        machine.write(b"abc");
        said(&mut machine);
        assert_eq!(hear(&mut machine, &bytes), Err(why), "{bytes:?}");
    }
}

#[test]
fn signs_of_life_are_answered_and_the_end_comes_last() {
    let mut machine = Machine::default();
    hear(&mut machine, &[frame(b"abc"), control(Control::Ping)].concat()).unwrap();
    assert!(machine.owes());
    take(&mut machine, 3);
    assert_eq!(said(&mut machine), [control(Control::Ack(3)), control(Control::Pong)].concat());
    machine.write(b"last");
    machine.close();
    assert_eq!(said(&mut machine), [frame(b"last"), control(Control::Close)].concat());
    assert_eq!(said(&mut machine), b"");
    // A new wire has not heard it.
    machine.resume(4, 3).unwrap();
    assert_eq!(said(&mut machine), [control(Control::Close)].concat());
}

/// Two sides between which any number of bytes arrives before the wire breaks, thousands of times.
#[test]
fn whatever_arrives_before_a_cut_nothing_is_lost_or_repeated() {
    for seed in 0..20 {
        let mut dice = Dice::new(seed);
        let (mut a, mut b) = (Machine::default(), Machine::default());
        let (mut wrote, mut heard) = ([const { Vec::<u8>::new() }; 2], [const { Vec::<u8>::new() }; 2]);
        for cut in 0..250 {
            let mut decoders = [Decoder::default(), Decoder::default()];
            let mut wires = [BytesMut::new(), BytesMut::new()];
            for _ in 0..dice.below(12) {
                for side in 0..2 {
                    let (own, other) = if side == 0 { (&mut a, &mut b) } else { (&mut b, &mut a) };
                    let data: Vec<u8> = (0..dice.below(3000)).map(|_| dice.below(256) as u8).collect();
                    let taken = own.write(&data);
                    wrote[side].extend(&data[..taken]);
                    if dice.below(8) == 0 {
                        own.ping();
                    }
                    let wire = &mut wires[side];
                    wire.extend(said(own));
                    let mut arrived = wire.split_to(dice.below(wire.len() + 1));
                    other.receive(&mut decoders[side], &mut arrived).unwrap();
                    // What is no whole frame yet.
                    arrived.unsplit(wires[side].split());
                    wires[side] = arrived;
                    heard[side].extend(take(other, dice.below(5000)));
                }
            }
            let (to_b, to_a) = (b.received(), a.received());
            // What is still on its way over the old wire may come after a side has said how much it has.
            if cut % 3 == 0 {
                let mut late = wires[0].split_to(dice.below(wires[0].len() + 1));
                b.receive(&mut decoders[0], &mut late).unwrap();
            }
            a.resume(to_b, to_a).unwrap();
            b.resume(to_a, to_b).unwrap();
        }
        for side in 0..2 {
            let (own, other) = if side == 0 { (&mut a, &mut b) } else { (&mut b, &mut a) };
            loop {
                let more = said(own);
                hear(other, &more).unwrap();
                heard[side].extend(take(other, WINDOW));
                let answers = said(other);
                if more.is_empty() && answers.is_empty() {
                    break;
                }
                // Only acknowledgements count here; the other direction has its own turn.
                heard[1 - side].extend({
                    hear(own, &answers).unwrap();
                    take(own, WINDOW)
                });
            }
        }
        assert!(heard == wrote, "seed {seed}");
    }
}

#[test]
fn silence_is_asked_and_then_believed() {
    let begun = Instant::now();
    let after = |seconds: u64| begun + Duration::from_secs(seconds);
    let mut pulse = Pulse::new(Side::Client, begun);
    assert_eq!(pulse.beat(after(14)), Beat::Wait(after(15)));
    assert_eq!(pulse.beat(after(15)), Beat::Ping);
    assert_eq!(pulse.beat(after(16)), Beat::Wait(after(25)));
    assert_eq!(pulse.beat(after(25)), Beat::Dead);
    // Anything is an answer.
    pulse.heard(after(24));
    assert_eq!(pulse.beat(after(25)), Beat::Wait(after(28)), "somebody may type");
    pulse.said(after(26));
    pulse.said(after(28));
    assert_eq!(pulse.beat(after(28)), Beat::Wait(after(29)));
    assert_eq!(pulse.beat(after(29)), Beat::Ping);
    assert_eq!(pulse.beat(after(39)), Beat::Dead);
    let mut node = Pulse::new(Side::Node, begun);
    node.said(after(1));
    assert_eq!(node.beat(after(44)), Beat::Wait(after(45)), "nodes do not ask");
    assert_eq!(node.beat(after(45)), Beat::Dead);
}
