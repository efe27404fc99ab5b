//! The terminal modes of `pty-req`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use teleport_ssh::sys::modes::TerminalModes;

fuzz_target!(|data: &[u8]| {
    let modes = TerminalModes::parse(data);
    let pairs: Vec<(u8, u32)> = modes.iter().collect();
    assert!(pairs.len() <= 256 && pairs.len() <= data.len() / 5);
    assert!(pairs.iter().all(|(opcode, _)| (1..160).contains(opcode)));
    assert_eq!(TerminalModes::from_pairs(pairs), modes);
});
