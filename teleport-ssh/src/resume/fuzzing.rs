//! Ways in for fuzzers. No part of the API.

use bytes::BytesMut;
use futures_util::FutureExt as _;
use tokio::io::ReadBuf;

use super::WINDOW;
use super::client::identification;
use super::machine::{Machine, Next};
use super::wire::{Accepted, Challenge, Decoder, Hello, Opening};

/// Reads the first bytes of a client as a node does: what is read is written as it came, and nothing else is taken off.
pub fn hello(bytes: &[u8]) {
    match Hello::read(bytes) {
        Opening::Hello(hello, len) => assert_eq!(bytes.get(..len), Some(&hello.to_bytes()[..])),
        Opening::Partial => assert!(bytes.len() < 128, "so much is no beginning"),
        Opening::Other => {}
    }
}

/// Reads a node's answers as a client does: what is read is written as it came.
pub fn answers(bytes: &[u8]) {
    if let Some(bytes) = bytes.first_chunk()
        && let Some(accepted) = Accepted::read(bytes)
    {
        assert_eq!(&accepted.to_bytes()[..], bytes);
    }
    if let Some(bytes) = bytes.first_chunk()
        && let Some(challenge) = Challenge::read(bytes)
    {
        assert_eq!(&challenge.to_bytes()[..], bytes);
    }
    let mut stream = bytes;
    if let Some(Ok((read, Some(end)))) = identification(&mut stream).now_or_never() {
        assert!(read.get(..end).is_some_and(|name| name.ends_with(b"\n")), "a line");
    }
}

/// Reads what comes after it, in pieces of `piece` bytes, by a side that has said `said`: what comes of it was sent, and what is kept has
/// a bound.
pub fn frames(bytes: &[u8], piece: usize, said: &[u8]) {
    let (mut machine, mut decoder, mut read) = (Machine::default(), Decoder::default(), BytesMut::new());
    machine.write(said);
    while let Some(Next::Control(_) | Next::Data(_)) = machine.next() {}
    let mut taken = 0;
    for piece in bytes.chunks(piece.max(1)) {
        read.extend_from_slice(piece);
        let received = machine.receive(&mut decoder, &mut read);
        let mut out = vec![0; WINDOW];
        let mut out = ReadBuf::new(&mut out);
        machine.read(&mut out);
        taken += out.filled().len();
        while machine.next().is_some() {}
        if received.is_err() {
            break;
        }
    }
    assert!(taken <= bytes.len(), "nothing comes that was not sent");
    assert!(machine.received() == taken as u64);
}
