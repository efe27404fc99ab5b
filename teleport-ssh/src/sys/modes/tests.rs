#![allow(clippy::indexing_slicing, reason = "tests fail by panicking")]

use proptest::prelude::*;

use super::*;

fn blank() -> libc::termios {
    // SAFETY: a termios is plain numbers, for which zero is a value.
    unsafe { std::mem::zeroed() }
}

fn encode(modes: &[(u8, u32)]) -> Vec<u8> {
    modes.iter().flat_map(|(opcode, value)| [&[*opcode][..], &value.to_be_bytes()].concat()).collect()
}

#[test]
fn what_a_client_sends_is_what_applies() {
    let sent =
        [(1, 3), (3, 127), (2, 255), (36, 1), (42, 1), (51, 1), (53, 0), (90, 1), (91, 1), (129, 38_400)];
    let mut encoded = encode(&sent);
    encoded.push(0);
    let modes = TerminalModes::parse(&encoded);
    assert_eq!(modes.iter().collect::<Vec<_>>(), sent);

    let mut settings = blank();
    settings.c_lflag = libc::ECHO | libc::ISIG;
    settings.c_cc[libc::VQUIT] = 28;
    settings.c_cc[libc::VEOF] = 4;
    modes.apply(&mut settings);
    assert_eq!(settings.c_cc[libc::VINTR], 3);
    assert_eq!(settings.c_cc[libc::VERASE], 127);
    assert_eq!(settings.c_cc[libc::VQUIT], libc::_POSIX_VDISABLE);
    assert_eq!(settings.c_cc[libc::VEOF], 4, "not mentioned, not changed");
    assert_eq!(settings.c_iflag, libc::ICRNL | libc::IUTF8);
    assert_eq!(settings.c_lflag, libc::ISIG | libc::ICANON);
    assert_eq!(settings.c_cflag & libc::CSIZE, libc::CS8);
    // SAFETY: reads from settings that we own.
    assert_eq!(unsafe { libc::cfgetospeed(&raw const settings) }, libc::B38400);
}

#[test]
fn decoding_ends_where_it_must() {
    let good = encode(&[(53, 1)]);
    let after = encode(&[(51, 1)]);
    for middle in [vec![0], vec![160, 0, 0, 0, 1], vec![255, 0, 0, 0, 1], vec![0, 0, 0, 0, 0]] {
        let modes = TerminalModes::parse(&[good.clone(), middle.clone(), after.clone()].concat());
        assert_eq!(modes.iter().collect::<Vec<_>>(), [(53, 1)], "{middle:?}");
    }
    assert_eq!(TerminalModes::parse(&good[..4]), TerminalModes::default(), "a cut argument");
    assert_eq!(TerminalModes::parse(&[]), TerminalModes::default());

    let unknown = TerminalModes::parse(&[encode(&[(11, 1), (140, 7)]), good].concat());
    assert_eq!(unknown.iter().collect::<Vec<_>>(), [(53, 1)], "unknown opcodes are skipped");
}

#[test]
fn the_number_of_modes_is_bounded() {
    let many = encode(&vec![(53, 1); 100_000]);
    assert_eq!(TerminalModes::parse(&many).iter().count(), 256);
    assert_eq!(TerminalModes::from_pairs(std::iter::repeat((53, 1))).iter().count(), 256);
}

#[test]
fn seven_bits_alone_are_seven_bits() {
    let mut settings = blank();
    TerminalModes::from_pairs([(90, 1), (91, 0)]).apply(&mut settings);
    assert_eq!(settings.c_cflag & libc::CSIZE, libc::CS7);
}

proptest! {
    #[test]
    fn any_bytes_decode_and_apply(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let modes = TerminalModes::parse(&bytes);
        prop_assert!(modes.iter().count() <= 256);
        modes.apply(&mut blank());
    }

    #[test]
    fn pairs_and_bytes_agree(pairs in proptest::collection::vec((1u8..160, any::<u32>()), 0..200)) {
        prop_assert_eq!(TerminalModes::parse(&encode(&pairs)), TerminalModes::from_pairs(pairs));
    }
}
