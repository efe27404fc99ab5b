//! What a connection to a port of several protocols begins with, and the header that a load balancer puts before it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use teleport_ssh::mux::fuzzing::{ENOUGH, first_bytes, header};

/// The longest header of either version.
const MOST: usize = 536;

fuzz_target!(|data: &[u8]| {
    let known = first_bytes(data);
    assert!(!known.is_empty() || data.len() < ENOUGH, "so many bytes say what it is");
    // What was told is not told otherwise when more comes.
    for len in 0..data.len().min(2 * ENOUGH) {
        let before = first_bytes(&data[..len]);
        assert!(before.is_empty() || before == known, "{before} became {known}");
    }
    let Some((len, source)) = header(data) else { return };
    assert_eq!(known, "PROXY");
    assert!(len <= data.len().min(MOST));
    // Nothing behind a header changes it, and without its end it is none.
    assert_eq!(header(&data[..len]), Some((len, source)));
    assert_eq!(header(&data[..len - 1]), None);
    if let Some(source) = source {
        assert_eq!(source.ip().to_canonical(), source.ip());
    }
});
