//! Where a client is, in the words of the proxy that carries it.
//!
//! A node sees the address of the proxy for whoever comes through it, and so does an auth service in another process. So the proxy
//! begins each connection that it carries with a [`Statement`]: the client's address, for whom it is meant, when it was made, and a
//! number that is used once; signed with its host key, and with its host certificate beside it. Only after that come the client's bytes.
//!
//! ```text
//! "teleport-origin-v1\n"   what everything that follows is recognised by
//! u16                      the number of bytes from here to the end
//! u16, certificate         the proxy's SSH host certificate in its wire form
//! statement                see `Statement`
//! 64 bytes                 Ed25519 signature over all that precedes it
//! ```
//!
//! Numbers are big-endian. There is one encoding of each statement, and nothing else is one. Neither SSH nor TLS nor HTTP nor the PROXY
//! protocol begins like this: whoever connects directly needs to know nothing of it.
//!
//! This module reads, writes and decides ([`Seen::accept`]); an adapter checks the two signatures in between.

mod seen;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use uuid::Uuid;

pub use self::seen::{Origin, OriginCheck, OriginRejected, Seen};
use crate::cert::MAX_CERT_LEN;
use crate::clock::Timestamp;
use crate::id::HostId;

/// The first bytes of every statement on the wire. As it is signed with the rest, nothing else that a host key signs is a statement.
pub const MAGIC: &[u8] = b"teleport-origin-v1\n";
/// How far the time of a statement may be from the verifier's, either way: on its way it is for a moment, and clocks differ a little.
pub const MAX_STATEMENT_AGE: Duration = Duration::from_secs(60);

const SIGNATURE_LEN: usize = 64;
const MAX_STATEMENT_LEN: usize = 1 + 16 + 2 + 1 + 16 + 8 + 16;
const MAX_BODY_LEN: usize = 2 + MAX_CERT_LEN + MAX_STATEMENT_LEN + SIGNATURE_LEN;
/// The longest statement on the wire, with all that belongs to it, in bytes.
pub const MAX_HEADER_LEN: usize = MAGIC.len() + 2 + MAX_BODY_LEN;

const OF_IPV4: u8 = 4;
const OF_IPV6: u8 = 6;
const FOR_AUTH: u8 = 1;
const FOR_NODE: u8 = 2;

/// For whom a statement is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "both ends must know all")]
pub enum Audience {
    /// The auth service of the cluster: whoever carries a connection there does not know which of its servers answers.
    Auth,
    /// One node.
    Node(HostId),
}

/// A number that is used once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nonce([u8; 16]);

impl Nonce {
    /// From random bytes.
    pub const fn new(random: [u8; 16]) -> Self {
        Self(random)
    }
}

/// What a proxy says of a client.
///
/// ```text
/// u8     4 or 6           u8        1 for the auth service, 2 for a node
/// 4, 16  its address      (16       the node's id)
/// u16    its port         u64       when, in milliseconds since the epoch
///                         16        the number that is used once
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Statement {
    client: SocketAddr,
    audience: Audience,
    issued: Timestamp,
    nonce: Nonce,
}

impl Statement {
    /// That a client at `client` is carried to `audience`.
    pub fn new(client: SocketAddr, audience: Audience, issued: Timestamp, nonce: Nonce) -> Self {
        // An address has one form; flow labels and scopes mean something to the proxy's machine only.
        let client = SocketAddr::new(client.ip().to_canonical(), client.port());
        Self { client, audience, issued, nonce }
    }

    /// Where the client is.
    pub const fn client(&self) -> SocketAddr {
        self.client
    }

    /// All that goes over the wire but the signature, over which it is made. `certificate` is the proxy's host certificate in its wire form.
    ///
    /// # Errors
    /// [`Malformed`] for a certificate longer than any may be.
    pub fn unsigned(&self, certificate: &[u8]) -> Result<Vec<u8>, Malformed> {
        let mut body = Vec::with_capacity(MAX_STATEMENT_LEN);
        match self.client.ip() {
            IpAddr::V4(address) => {
                body.push(OF_IPV4);
                body.extend(address.octets());
            }
            IpAddr::V6(address) => {
                body.push(OF_IPV6);
                body.extend(address.octets());
            }
        }
        body.extend(self.client.port().to_be_bytes());
        match self.audience {
            Audience::Auth => body.push(FOR_AUTH),
            Audience::Node(id) => {
                body.push(FOR_NODE);
                body.extend(id.uuid().as_bytes());
            }
        }
        body.extend(self.issued.unix_millis().to_be_bytes());
        body.extend(self.nonce.0);
        let len = 2 + certificate.len() + body.len() + SIGNATURE_LEN;
        if certificate.len() > MAX_CERT_LEN {
            return Err(Malformed);
        }
        let short = |len: usize| u16::try_from(len).map(u16::to_be_bytes).map_err(|_| Malformed);
        Ok([MAGIC, &short(len)?, &short(certificate.len())?, certificate, &body].concat())
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        let (address, rest) = match *kind {
            OF_IPV4 => {
                let (octets, rest) = rest.split_first_chunk::<4>()?;
                (IpAddr::V4(Ipv4Addr::from(*octets)), rest)
            }
            OF_IPV6 => {
                let (octets, rest) = rest.split_first_chunk::<16>()?;
                (IpAddr::V6(Ipv6Addr::from(*octets)), rest)
            }
            _ => return None,
        };
        let (port, rest) = rest.split_first_chunk::<2>()?;
        let (kind, rest) = rest.split_first()?;
        let (audience, rest) = match *kind {
            FOR_AUTH => (Audience::Auth, rest),
            FOR_NODE => {
                let (id, rest) = rest.split_first_chunk::<16>()?;
                (Audience::Node(HostId::from_uuid(Uuid::from_bytes(*id))), rest)
            }
            _ => return None,
        };
        let (millis, nonce) = rest.split_first_chunk::<8>()?;
        let millis = u64::from_be_bytes(*millis);
        let issued = Timestamp::from_unix_millis(millis);
        // One encoding: an IPv4 address is never written as an IPv6 one, and no time lies beyond the last.
        let canonical = address.to_canonical() == address && issued.unix_millis() == millis;
        let nonce = Nonce(nonce.try_into().ok()?);
        canonical.then(|| Self {
            client: SocketAddr::new(address, u16::from_be_bytes(*port)),
            audience,
            issued,
            nonce,
        })
    }
}

/// The bytes begin like a statement and are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the statement of a client's address is malformed")]
#[non_exhaustive]
pub struct Malformed;

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "there is no fourth possibility")]
pub enum Beginning {
    /// Those of a statement of so many bytes, signature and all. All of them are there.
    Header(usize),
    /// The client's own: there is no statement.
    Other,
    /// That cannot be said yet, or the statement has not come to its end.
    Partial,
}

/// Looks at the first bytes of a connection. As long as the answer is [`Beginning::Partial`] there are fewer than [`MAX_HEADER_LEN`].
///
/// # Errors
/// [`Malformed`], as early as that can be said.
pub fn beginning(bytes: &[u8]) -> Result<Beginning, Malformed> {
    let Some(rest) = bytes.strip_prefix(MAGIC) else {
        return Ok(if MAGIC.starts_with(bytes) { Beginning::Partial } else { Beginning::Other });
    };
    let Some((len, body)) = rest.split_first_chunk::<2>() else { return Ok(Beginning::Partial) };
    let len = usize::from(u16::from_be_bytes(*len));
    if len > MAX_BODY_LEN {
        return Err(Malformed);
    }
    if body.len() < len {
        return Ok(Beginning::Partial);
    }
    Ok(Beginning::Header(MAGIC.len() + 2 + len))
}

/// A statement as it came, with what is needed to believe it. **Nothing of it is verified.**
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Header<'a> {
    /// The host certificate of whoever makes the statement, in its wire form.
    pub certificate: &'a [u8],
    /// What is stated.
    pub statement: Statement,
    /// What the signature is over.
    pub signed: &'a [u8],
    /// By the key of the certificate.
    pub signature: &'a [u8; SIGNATURE_LEN],
}

impl<'a> Header<'a> {
    /// Reads a whole statement, and nothing behind it.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        Self::read(bytes).ok_or(Malformed)
    }

    fn read(bytes: &'a [u8]) -> Option<Self> {
        if beginning(bytes) != Ok(Beginning::Header(bytes.len())) {
            return None;
        }
        let (signed, signature) = bytes.split_last_chunk::<SIGNATURE_LEN>()?;
        let body = signed.strip_prefix(MAGIC)?.get(2..)?;
        let (len, rest) = body.split_first_chunk::<2>()?;
        let (certificate, statement) = rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
        (certificate.len() <= MAX_CERT_LEN).then_some(())?;
        Some(Self { certificate, statement: Statement::read(statement)?, signed, signature })
    }
}

#[cfg(test)]
mod tests;
