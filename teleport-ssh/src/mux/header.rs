//! Headers of the PROXY protocol: what a load balancer says in front of a connection that it carries.
//!
//! Both versions are in one document, `doc/proxy-protocol.txt` of HAProxy. Of what they may say one thing is used here: from where the
//! client comes. This is our own code because there is little of it, and it is stricter than the crates there are: one takes any byte behind
//! the word `PROXY` and `+80` for a port, and refuses the health checks (`LOCAL`) of what it does not know the addresses of.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// What version 1 begins with.
pub(super) const WORD: &[u8] = b"PROXY ";
/// What version 2 begins with.
pub(super) const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The longest line of version 1, by its definition.
const MAX_LINE: usize = 107;
/// The shortest: `PROXY UNKNOWN`.
const MIN_LINE: usize = 15;
/// Signature, version and command, family, length.
const FIXED: usize = SIGNATURE.len() + 4;
/// The longest header of version 2 that is read: as much as a segment of TCP always has room for, by its definition, which is also more
/// than the longest addresses and what is known to be said beside them.
const MAX_HEADER: usize = 536;

/// A whole header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// From where the client comes. None if the connection is the sender's own: a health check, or one whose origin the sender does not know.
    pub(crate) source: Option<SocketAddr>,
}

/// How far a header is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beginning {
    /// All of it.
    Header(Header),
    /// At least so many bytes more of the header are to come: reading them reads nothing of what is behind it.
    Needs(usize),
}

/// Why what begins as a header is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeaderError {
    #[error("the header's addresses are not as its protocol says")]
    Addresses,
    #[error("it does not begin with a header")]
    Absent,
    #[error("the header is for another protocol than TCP")]
    Kind,
    #[error("the header is longer than any that is needed")]
    Long,
    #[error("the header is of a version or command that is not known")]
    Version,
}

impl Header {
    const OWN: Self = Self { source: None };

    /// Reads a header of which `bytes` have come, and nothing behind it.
    ///
    /// # Errors
    /// [`HeaderError`]; it is found out as soon as it can be.
    pub(crate) fn read(bytes: &[u8]) -> Result<Beginning, HeaderError> {
        if bytes.starts_with(WORD) {
            return line(bytes);
        }
        if bytes.starts_with(SIGNATURE) {
            return binary(bytes);
        }
        match [WORD, SIGNATURE].into_iter().find(|begin| begin.starts_with(bytes)) {
            Some(begin) => Ok(Beginning::Needs(begin.len() - bytes.len())),
            None => Err(HeaderError::Absent),
        }
    }

    fn of(ip: IpAddr, port: u16) -> Self {
        Self { source: Some((ip.to_canonical(), port).into()) }
    }
}

/// Version 1: a line of text.
fn line(bytes: &[u8]) -> Result<Beginning, HeaderError> {
    let Some(text) = bytes.strip_suffix(b"\r\n") else {
        if bytes.len() >= MAX_LINE {
            return Err(HeaderError::Long);
        }
        // A line that ends otherwise is none.
        let (last, before) = bytes.split_last().unwrap_or((&0, &[]));
        if before.contains(&b'\r') || before.contains(&b'\n') || *last == b'\n' {
            return Err(HeaderError::Addresses);
        }
        return Ok(Beginning::Needs(MIN_LINE.saturating_sub(bytes.len()).max(1)));
    };
    if bytes.len() > MAX_LINE {
        return Err(HeaderError::Long);
    }
    let text = std::str::from_utf8(text).map_err(|_| HeaderError::Addresses)?;
    if text.contains(['\r', '\n']) {
        return Err(HeaderError::Addresses);
    }
    let mut words = text.split(' ').skip(1);
    let header = match words.next() {
        // Whatever follows is to be ignored, by the definition.
        Some("UNKNOWN") => return Ok(Beginning::Header(Header::OWN)),
        Some("TCP4") => addresses::<Ipv4Addr>(&mut words),
        Some("TCP6") => addresses::<Ipv6Addr>(&mut words),
        _ => return Err(HeaderError::Kind),
    };
    match (header, words.next()) {
        (Some(header), None) => Ok(Beginning::Header(header)),
        _ => Err(HeaderError::Addresses),
    }
}

fn addresses<'a, A: FromStr + Into<IpAddr>>(words: &mut impl Iterator<Item = &'a str>) -> Option<Header> {
    let mut address = || words.next()?.parse::<A>().ok();
    let (source, _) = (address()?, address()?);
    let mut port = || {
        let text = words.next()?;
        let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
        if plain { text.parse::<u16>().ok() } else { None }
    };
    let (source_port, _) = (port()?, port()?);
    Some(Header::of(source.into(), source_port))
}

/// Version 2: addresses as they are on the wire.
fn binary(bytes: &[u8]) -> Result<Beginning, HeaderError> {
    let Some(&[command, family, high, low]) = bytes.get(SIGNATURE.len()..FIXED) else {
        return Ok(Beginning::Needs(FIXED.saturating_sub(bytes.len())));
    };
    let own = match command {
        0x20 => true,
        0x21 => false,
        _ => return Err(HeaderError::Version),
    };
    let whole = FIXED + usize::from(u16::from_be_bytes([high, low]));
    if whole > MAX_HEADER {
        return Err(HeaderError::Long);
    }
    let Some(rest) = bytes.get(FIXED..whole) else {
        return Ok(Beginning::Needs(whole.saturating_sub(bytes.len())));
    };
    // Of its own connections a sender may say what it likes.
    if own {
        return Ok(Beginning::Header(Header::OWN));
    }
    let header = match family {
        0x11 => rest.first_chunk::<12>().map(|&[a, b, c, d, _, _, _, _, high, low, _, _]| {
            Header::of(Ipv4Addr::new(a, b, c, d).into(), u16::from_be_bytes([high, low]))
        }),
        0x21 => rest.first_chunk::<36>().map(|all| {
            let mut ip = [0; 16];
            ip.copy_from_slice(all.first_chunk::<16>().unwrap_or(&[0; 16]));
            let port = all.get(32..34).and_then(|port| port.first_chunk::<2>()).copied().unwrap_or_default();
            Header::of(Ipv6Addr::from(ip).into(), u16::from_be_bytes(port))
        }),
        // It does not know from where the connection comes, or that is a socket of its own machine.
        0x00 => Some(Header::OWN),
        0x31 => (rest.len() >= 216).then_some(Header::OWN),
        _ => return Err(HeaderError::Kind),
    };
    header.map(Beginning::Header).ok_or(HeaderError::Addresses)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    /// As a reader does it: never more than is asked for.
    fn read(bytes: &[u8]) -> Result<(Header, usize), Option<HeaderError>> {
        let mut len = 0;
        loop {
            match Header::read(bytes.get(..len).ok_or(None)?).map_err(Some)? {
                Beginning::Header(header) => return Ok((header, len)),
                Beginning::Needs(more) => {
                    assert!(more > 0 && len + more <= MAX_HEADER);
                    len += more;
                }
            }
        }
    }

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let len = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [SIGNATURE, &[command, family], &len, rest].concat()
    }

    fn source(bytes: &[u8]) -> Option<String> {
        let behind = [bytes, b"SSH-2.0-x\r\n"].concat();
        let (header, len) = read(&behind).unwrap();
        assert_eq!(len, bytes.len(), "what is behind it is not read");
        header.source.map(|source| source.to_string())
    }

    #[test]
    fn the_client_is_where_the_header_says() {
        let says = |text: &str| source(text.as_bytes());
        assert_eq!(says("PROXY TCP4 203.0.113.9 192.0.2.1 56324 443\r\n").unwrap(), "203.0.113.9:56324");
        assert_eq!(says("PROXY TCP6 2001:db8::1 2001:db8::2 1 65535\r\n").unwrap(), "[2001:db8::1]:1");
        assert_eq!(says("PROXY TCP6 ::ffff:203.0.113.9 ::1 1 2\r\n").unwrap(), "203.0.113.9:1");
        let four = [203, 0, 113, 9, 192, 0, 2, 1, 0x12, 0x34, 1, 187];
        assert_eq!(source(&v2(0x21, 0x11, &four)).unwrap(), "203.0.113.9:4660");
        // With more said behind the addresses, as balancers do.
        let more = [&four[..], &[4, 0, 3, 0, 0, 0], &[0xea, 0, 2, 1, 2]].concat();
        assert_eq!(source(&v2(0x21, 0x11, &more)).unwrap(), "203.0.113.9:4660");
        let mut six = [0; 36];
        six[..4].copy_from_slice(&[0x20, 1, 0xd, 0xb8]);
        six[15] = 7;
        six[33] = 22;
        assert_eq!(source(&v2(0x21, 0x21, &six)).unwrap(), "[2001:db8::7]:22");
        let mut mapped = [0; 36];
        mapped[10..16].copy_from_slice(&[0xff, 0xff, 203, 0, 113, 9]);
        assert_eq!(source(&v2(0x21, 0x21, &mapped)).unwrap(), "203.0.113.9:0");
    }

    #[test]
    fn some_connections_are_the_senders_own() {
        assert_eq!(source(b"PROXY UNKNOWN\r\n"), None);
        assert_eq!(source(b"PROXY UNKNOWN ffff::1 anything at all\r\n"), None);
        assert_eq!(source(&v2(0x20, 0x00, &[])), None);
        assert_eq!(source(&v2(0x20, 0x77, &[1, 2, 3])), None);
        assert_eq!(source(&v2(0x21, 0x00, &[])), None);
        assert_eq!(source(&v2(0x21, 0x31, &[0; 216])), None);
    }

    #[test]
    fn whatever_else_is_refused() {
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(100));
        for (bytes, expected) in [
            (&b"SSH-2.0-x\r\n"[..], HeaderError::Absent),
            (b"PROXYTCP4 203.0.113.9 192.0.2.1 1 2\r\n", HeaderError::Absent),
            (b"PROXY UDP4 203.0.113.9 192.0.2.1 1 2\r\n", HeaderError::Kind),
            (b"PROXY  TCP4 203.0.113.9 192.0.2.1 1 2\r\n", HeaderError::Kind),
            (b"PROXY TCP4 203.0.113.9 192.0.2.1 1 2 \r\n", HeaderError::Addresses),
            (b"PROXY TCP4 203.0.113.9 192.0.2.1 +1 2\r\n", HeaderError::Addresses),
            (b"PROXY TCP4 203.0.113.9 192.0.2.1 01 2\r\n", HeaderError::Addresses),
            (b"PROXY TCP4 203.0.113.9 192.0.2.1 65536 2\r\n", HeaderError::Addresses),
            (b"PROXY TCP4 203.0.113.09 192.0.2.1 1 2\r\n", HeaderError::Addresses),
            (b"PROXY TCP4 2001:db8::1 192.0.2.1 1 2\r\n", HeaderError::Addresses),
            (b"PROXY TCP6 203.0.113.9 192.0.2.1 1 2\r\n", HeaderError::Addresses),
            (b"PROXY TCP4 203.0.113.9 192.0.2.1 1\r\n", HeaderError::Addresses),
            (b"PROXY TCP4 203.0.113.9 192.0.2.1 1 2\n", HeaderError::Addresses),
            (b"PROXY TCP4 203.0.113.9\rx192.0.2.1 1 2\r\n", HeaderError::Addresses),
            (long.as_bytes(), HeaderError::Long),
            (&v2(0x11, 0x11, &[0; 12]), HeaderError::Version),
            (&v2(0x22, 0x11, &[0; 12]), HeaderError::Version),
            (&v2(0x21, 0x12, &[0; 12]), HeaderError::Kind),
            (&v2(0x21, 0x41, &[0; 12]), HeaderError::Kind),
            (&v2(0x21, 0x11, &[0; 11]), HeaderError::Addresses),
            (&v2(0x21, 0x21, &[0; 35]), HeaderError::Addresses),
            (&v2(0x21, 0x31, &[0; 215]), HeaderError::Addresses),
            (&v2(0x21, 0x11, &[0; 521]), HeaderError::Long),
            (&v2(0x20, 0x00, &[0; 65_535]), HeaderError::Long),
        ] {
            assert_eq!(read(bytes), Err(Some(expected)), "{bytes:?}");
        }
        assert!(read(&v2(0x21, 0x11, &[0; 520])).is_ok());
    }
}
