//! The beginning of a connection to the proxy's HTTPS, at which it looks before anybody answers.
#![no_main]

use libfuzzer_sys::fuzz_target;
use teleport_ssh::rpc::fuzzing::client_hello;

/// Twice what is looked at: the last piece that is read may be long.
const MOST: usize = 32 << 10;

fuzz_target!(|data: &[u8]| {
    let Some((read, protocols)) = client_hello(data, usize::MAX) else { return };
    assert_eq!(data[0], 0x16, "nothing else is TLS");
    assert!(read <= data.len().min(MOST), "{read} bytes are kept");
    assert!(protocols.iter().map(Vec::len).sum::<usize>() < read, "protocols come from the hello");
    // However it comes, it says the same.
    for piece in [1, 7, 1000] {
        let (later, same) = client_hello(data, piece).expect("it is TLS");
        assert!(later <= read.max(piece));
        assert_eq!(same, protocols);
    }
});
