//! Ways in for fuzzers. No part of the API.

use super::FileOperation;
use super::watch::{Totals, Watch};

/// What a node sees of a client that sends `client` in pieces of `piece` bytes and is answered by `server`: what was done, and how many
/// files were opened, bytes read and bytes written.
pub fn watched(client: &[u8], server: &[u8], piece: usize) -> (Vec<FileOperation>, [u64; 3]) {
    let mut watch = Watch::default();
    for piece in client.chunks(piece.max(1)) {
        watch.client(piece);
    }
    for piece in server.chunks(piece.max(1)) {
        watch.server(piece);
    }
    let mut done = watch.done();
    let (mut left, Totals { files, read, written }) = watch.finish();
    // Those without an answer come in no order.
    left.sort_by_key(|done| format!("{done:?}"));
    done.extend(left);
    (done, [files, read, written])
}

/// Reads what a server answers, as the client does, and checks that nothing comes of it that was not in it.
pub fn answered(packet: &[u8]) {
    super::client::fuzzed(packet);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn answers_are_read_or_refused(
            kind in prop::sample::select(vec![101_u8, 102, 103, 104, 105, 201]),
            number in 0_u32..40,
            rest in prop::collection::vec(prop_oneof![Just(0_u8), Just(1), Just(4), any::<u8>()], 0..96),
        ) {
            let packet = [&[kind, 0, 0, 0, 7][..], &number.to_be_bytes(), &rest].concat();
            super::answered(&packet);
        }
    }
}
