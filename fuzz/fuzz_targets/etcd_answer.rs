//! What a server of etcd answers, read as each kind of answer that our client knows: nothing panics, nothing is stored beyond what came.
#![no_main]

use libfuzzer_sys::fuzz_target;
use teleport_backend::etcd::read_answers;

fuzz_target!(|stream: &[u8]| {
    let read = read_answers(stream);
    // Three for each message, which has five bytes at least, and one for each item, which has more than its key.
    assert!(read <= stream.len());
});
