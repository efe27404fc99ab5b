//! What a node reads off a client's conversation with an SFTP server, for the audit log: however the bytes are cut, it is the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use teleport_ssh::sftp::fuzzing::watched;

fuzz_target!(|data: &[u8]| {
    let [piece, high, low, rest @ ..] = data else { return };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    let (client, server) = rest.split_at(length.min(rest.len()));
    let whole = watched(client, server, usize::MAX);
    assert_eq!(watched(client, server, usize::from(*piece)), whole);
    let (done, [files, ..]) = whole;
    assert!(done.len() <= client.len() / 5, "each takes a request");
    assert!(files <= done.len() as u64);
    for done in &done {
        assert!(done.path.len() <= 3 * client.len());
    }
});
