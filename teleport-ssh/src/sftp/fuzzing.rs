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
