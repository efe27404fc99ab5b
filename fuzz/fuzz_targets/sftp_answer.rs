//! What a server of files answers, read as our client reads it: nothing comes of an answer that was not in it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use teleport_ssh::sftp::fuzzing::answered;

fuzz_target!(|packet: &[u8]| answered(packet));
