//! The first message of a client that resumes connections, as a node reads it, a node's answers, as a client does, and the frames behind them, as both
//! do. The first byte is
//! how many come at once.
#![no_main]

use libfuzzer_sys::fuzz_target;
use teleport_ssh::resume::fuzzing::{answers, frames, hello};

fuzz_target!(|input: &[u8]| {
    let Some((piece, bytes)) = input.split_first() else { return };
    hello(bytes);
    answers(bytes);
    frames(bytes, usize::from(*piece), b"said before");
});
