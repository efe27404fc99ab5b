//! The command line and the lines of the older protocol of `scp`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use teleport_ssh::scp::fuzzing::read;

fuzz_target!(|text: &[u8]| read(text));
