//! Ways in for fuzzers, past the signatures that they cannot make. No part of the API.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::FutureExt as _;
use teleport_core::cert::{Identity, TlsAuthority, TlsFields, TrustBundle, verify_tls};
use teleport_core::clock::Timestamp;
use tokio::io::{AsyncRead, ReadBuf};

use super::x509::{Leaf, authority_spki};
use crate::proxy_web;

/// What is made of a certificate for which `authority` was found to vouch.
pub fn identity(
    der: &[u8],
    authority: TlsAuthority,
    trust: &TrustBundle,
    now: Timestamp,
) -> Option<Identity> {
    let leaf = Leaf::parse(der).ok()?;
    let fields = TlsFields {
        authority,
        common_name: &leaf.common_name,
        subject: &leaf.subject,
        serial: leaf.serial,
        not_before: leaf.not_before,
        not_after: leaf.not_after,
    };
    verify_tls(&fields, trust, None, now).ok()
}

/// The key of a certificate that a joining host is shown as its authority.
pub fn authority_key(der: &[u8]) -> Option<Vec<u8>> {
    authority_spki(der)
}

/// What a proxy sees of a client that begins like this and sends it in pieces of `piece` bytes: how much it read, and the protocols that are
/// asked for. `None` if it is not TLS.
pub fn client_hello(begin: &[u8], piece: usize) -> Option<(usize, Vec<Vec<u8>>)> {
    let mut pieces = Pieces { rest: begin, piece: piece.max(1) };
    // All is there, so nothing waits.
    let hello = proxy_web::hello(&mut pieces).now_or_never()?.ok()?;
    begin.starts_with(&hello.bytes).then(|| (hello.bytes.len(), hello.protocols))
}

struct Pieces<'a> {
    rest: &'a [u8],
    piece: usize,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let len = self.piece.min(out.remaining()).min(self.rest.len());
        let (now, later) = self.rest.split_at_checked(len).unwrap_or_default();
        out.put_slice(now);
        self.rest = later;
        Poll::Ready(Ok(()))
    }
}
