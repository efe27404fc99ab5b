//! Ways in for fuzzers. No part of the API.

use std::net::SocketAddr;

use super::{Beginning, Header, LONGEST, Protocol, protocol};

/// What these bytes are the beginning of.
pub fn first_bytes(bytes: &[u8]) -> &'static str {
    match protocol(bytes) {
        Protocol::Http => "HTTP",
        Protocol::Partial => "",
        Protocol::ProxyHeader => "PROXY",
        Protocol::Ssh => "SSH",
        Protocol::Tls => "TLS",
        Protocol::Unknown => "?",
    }
}

/// So many bytes are always enough to tell.
pub const ENOUGH: usize = LONGEST;

/// Reads a header as a server does: how long it is and where the client is. `None` if it is none, or not whole.
pub fn header(bytes: &[u8]) -> Option<(usize, Option<SocketAddr>)> {
    let mut len = 0;
    loop {
        match Header::read(bytes.get(..len)?).ok()? {
            Beginning::Header(header) => return Some((len, header.source)),
            Beginning::Needs(more) => {
                assert!(more > 0, "it goes on");
                len += more;
            }
        }
    }
}
