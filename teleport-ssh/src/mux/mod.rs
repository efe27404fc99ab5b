//! What the first bytes of a connection say, at ports where clients of several protocols come: which protocol it is, and, where a
//! load balancer stands before the port, whose connection it carries.
//!
//! Everything here is a function of bytes. Who reads them, and for how long, is [`listener`](crate::listener)'s and
//! [`proxy_web`](crate::proxy_web)'s.

#[doc(hidden)]
pub mod fuzzing;
mod header;
mod sources;

pub(crate) use self::header::{Beginning, Header};
pub(crate) use self::sources::Expect;
pub use self::sources::{HeaderMode, ProxyProtocol, SourceError};

/// What a client's first bytes are the beginning of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// HTTP without TLS.
    Http,
    /// It may be one of the others once more is there.
    Partial,
    /// A header of the PROXY protocol, version 1 or 2.
    ProxyHeader,
    /// SSH: the client's identification (RFC 4253, section 4.2).
    Ssh,
    /// TLS: a handshake record.
    Tls,
    /// Nothing that is spoken here.
    Unknown,
}

/// Enough bytes to tell what it is; fewer may do.
pub(crate) const LONGEST: usize = header::SIGNATURE.len();

const SSH: &[u8] = b"SSH-";
const TLS_HANDSHAKE: &[u8] = &[0x16];
/// The methods of HTTP, and what HTTP/2 begins with.
const HTTP: [&[u8]; 10] = [
    b"CONNECT ",
    b"DELETE ",
    b"GET ",
    b"HEAD ",
    b"OPTIONS ",
    b"PATCH ",
    b"POST ",
    b"PRI * ",
    b"PUT ",
    b"TRACE ",
];

/// What begins with `bytes`.
pub(crate) fn protocol(bytes: &[u8]) -> Protocol {
    let others = [
        (SSH, Protocol::Ssh),
        (TLS_HANDSHAKE, Protocol::Tls),
        (header::WORD, Protocol::ProxyHeader),
        (header::SIGNATURE, Protocol::ProxyHeader),
    ];
    let known = || others.into_iter().chain(HTTP.map(|method| (method, Protocol::Http)));
    match known().find(|(begin, _)| bytes.starts_with(begin)) {
        Some((_, protocol)) => protocol,
        None if known().any(|(begin, _)| begin.starts_with(bytes)) => Protocol::Partial,
        None => Protocol::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_are_known_by_their_first_bytes() {
        for (bytes, expected) in [
            (&b""[..], Protocol::Partial),
            (b"S", Protocol::Partial),
            (b"SSH", Protocol::Partial),
            (b"SSH-2.0-OpenSSH_9.2p1\r\n", Protocol::Ssh),
            (b"SSH-1.5-old\n", Protocol::Ssh),
            (b"ssh-2.0-x", Protocol::Unknown),
            (b"\x16", Protocol::Tls),
            (b"\x16\x03\x01", Protocol::Tls),
            (b"\x15\x03\x01", Protocol::Unknown),
            (b"P", Protocol::Partial),
            (b"PR", Protocol::Partial),
            (b"PRI * HTTP/2.0\r\n", Protocol::Http),
            (b"PROXY", Protocol::Partial),
            (b"PROXY TCP4 ", Protocol::ProxyHeader),
            (b"PROXYX", Protocol::Unknown),
            (b"\r\n\r\n\0\r\nQUIT", Protocol::Partial),
            (b"\r\n\r\n\0\r\nQUIT\n\x21\x11", Protocol::ProxyHeader),
            (b"\r\n\r\nGET / HTTP/1.1", Protocol::Unknown),
            (b"GET", Protocol::Partial),
            (b"GET / HTTP/1.1\r\n", Protocol::Http),
            (b"get / HTTP/1.1\r\n", Protocol::Unknown),
            (b"CONNECT host:22 HTTP/1.1\r\n", Protocol::Http),
            (b"\0", Protocol::Unknown),
        ] {
            assert_eq!(protocol(bytes), expected, "{bytes:?}");
        }
        assert_ne!(protocol(&[b'S'; LONGEST]), Protocol::Partial);
    }
}
