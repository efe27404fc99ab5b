//! What a SOCKS client says before it is connected: versions 4, 4a and 5, without authentication, `CONNECT` only.
//!
//! Pure: [`next_event`] looks at the bytes that came so far. Whoever drives it keeps at most [`MAX_REQUEST`] of them.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::spec::{Destination, host};

/// No request is longer.
pub const MAX_REQUEST: usize = 1024;
/// The longest user name of version 4, which says nothing here.
const MAX_USER: usize = 255;

/// What is wrong with a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SocksError {
    /// It wants something else than to connect.
    #[error("the SOCKS client wants something else than to connect")]
    Command,
    /// Names a host that can be none.
    #[error("the SOCKS client names a host that can be none")]
    Host,
    /// It offers no way without authentication.
    #[error("the SOCKS client wants to authenticate")]
    Method,
    /// It speaks something else.
    #[error("this is not SOCKS 4 or 5")]
    Protocol,
    /// It says too much.
    #[error("the SOCKS client's request is too long")]
    TooLong,
}

/// The version that a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "there are no others")]
pub enum SocksVersion {
    /// 4 or 4a.
    Four,
    /// 5.
    Five,
}

impl SocksVersion {
    /// The answer to a request.
    pub const fn answer(self, connected: bool) -> &'static [u8] {
        match (self, connected) {
            (Self::Four, true) => &[0, 90, 0, 0, 0, 0, 0, 0],
            (Self::Four, false) => &[0, 91, 0, 0, 0, 0, 0, 0],
            (Self::Five, true) => &[5, 0, 0, 1, 0, 0, 0, 0, 0, 0],
            // General failure: what it was is in the log.
            (Self::Five, false) => &[5, 1, 0, 1, 0, 0, 0, 0, 0, 0],
        }
    }

    /// What is said to a client before the connection is cut; version 5 may be told of the methods only.
    pub const fn refusal(greeted: bool) -> &'static [u8] {
        if greeted { Self::Five.answer(false) } else { &[5, 0xff] }
    }
}

/// What a client says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "whoever drives it must think of each")]
pub enum SocksEvent {
    /// Where it wants to be connected.
    Connect(SocksVersion, Destination),
    /// That no authentication is fine; the answer is `05 00`, and the request follows.
    Greeting,
}

/// What `input` begins with, and how many bytes that is; `None` if more has to come. `greeted` after [`SocksEvent::Greeting`].
///
/// # Errors
/// [`SocksError`]: nothing that may come makes it better.
pub fn next_event(input: &[u8], greeted: bool) -> Result<Option<(usize, SocksEvent)>, SocksError> {
    let mut reader = Reader { input, at: 0 };
    let read = match (input.first(), greeted) {
        (None, _) => None,
        (Some(4), false) => four(&mut reader)?,
        (Some(5), false) => greeting(&mut reader)?,
        (Some(5), true) => five(&mut reader)?,
        (Some(_), _) => return Err(SocksError::Protocol),
    };
    match read {
        Some(event) => Ok(Some((reader.at, event))),
        None if input.len() >= MAX_REQUEST => Err(SocksError::TooLong),
        None => Ok(None),
    }
}

struct Reader<'a> {
    input: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let taken = self.input.get(self.at..)?.get(..count)?;
        self.at += count;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    /// Up to a zero, which goes with it.
    fn text(&mut self, max: usize) -> Result<Option<&'a [u8]>, SocksError> {
        let rest = self.input.get(self.at..).unwrap_or_default();
        match rest.iter().take(max + 1).position(|byte| *byte == 0) {
            Some(end) => {
                let text = self.take(end);
                self.at += 1;
                Ok(text)
            }
            None if rest.len() > max => Err(SocksError::TooLong),
            None => Ok(None),
        }
    }
}

fn named(name: &[u8], port: [u8; 2]) -> Result<Destination, SocksError> {
    let name = std::str::from_utf8(name).ok().and_then(host).ok_or(SocksError::Host)?;
    tcp(name.to_owned(), port)
}

fn tcp(host: String, port: [u8; 2]) -> Result<Destination, SocksError> {
    match u16::from_be_bytes(port) {
        0 => Err(SocksError::Host),
        port => Ok(Destination::Tcp { host, port }),
    }
}

fn four(reader: &mut Reader<'_>) -> Result<Option<SocksEvent>, SocksError> {
    let Some([_, command]) = reader.array() else { return Ok(None) };
    if command != 1 {
        return Err(SocksError::Command);
    }
    let (Some(port), Some(address)) = (reader.array(), reader.array::<4>()) else { return Ok(None) };
    if reader.text(MAX_USER)?.is_none() {
        return Ok(None);
    }
    let to = match address {
        // 4a: an address that is none says that a name follows.
        [0, 0, 0, last] if last != 0 => match reader.text(MAX_USER)? {
            Some(name) => named(name, port)?,
            None => return Ok(None),
        },
        address => tcp(Ipv4Addr::from(address).to_string(), port)?,
    };
    Ok(Some(SocksEvent::Connect(SocksVersion::Four, to)))
}

fn greeting(reader: &mut Reader<'_>) -> Result<Option<SocksEvent>, SocksError> {
    let Some([_, count]) = reader.array() else { return Ok(None) };
    let Some(methods) = reader.take(count.into()) else { return Ok(None) };
    if methods.contains(&0) { Ok(Some(SocksEvent::Greeting)) } else { Err(SocksError::Method) }
}

fn five(reader: &mut Reader<'_>) -> Result<Option<SocksEvent>, SocksError> {
    let Some([_, command, _, kind]) = reader.array() else { return Ok(None) };
    if command != 1 {
        return Err(SocksError::Command);
    }
    let to = match kind {
        1 => match (reader.array::<4>(), reader.array()) {
            (Some(address), Some(port)) => tcp(Ipv4Addr::from(address).to_string(), port)?,
            _ => return Ok(None),
        },
        3 => {
            let Some([len]) = reader.array() else { return Ok(None) };
            match (reader.take(len.into()), reader.array()) {
                (Some(name), Some(port)) => named(name, port)?,
                _ => return Ok(None),
            }
        }
        4 => match (reader.array::<16>(), reader.array()) {
            (Some(address), Some(port)) => tcp(Ipv6Addr::from(address).to_string(), port)?,
            _ => return Ok(None),
        },
        _ => return Err(SocksError::Protocol),
    };
    Ok(Some(SocksEvent::Connect(SocksVersion::Five, to)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, reason = "tests fail by panicking")]
    use proptest::prelude::*;

    use super::*;

    fn connect(version: SocksVersion, host: &str, port: u16) -> SocksEvent {
        SocksEvent::Connect(version, Destination::Tcp { host: host.to_owned(), port })
    }

    #[test]
    fn requests_of_every_version_are_read_whole() {
        let (four, five) = (SocksVersion::Four, SocksVersion::Five);
        for (input, greeted, event) in [
            (&b"\x04\x01\x00\x50\x7f\x00\x00\x01me\x00"[..], false, connect(four, "127.0.0.1", 80)),
            (
                b"\x04\x01\x01\xbb\x00\x00\x00\x07\x00db.example.com\x00",
                false,
                connect(four, "db.example.com", 443),
            ),
            (b"\x05\x02\x02\x00", false, SocksEvent::Greeting),
            (b"\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x50", true, connect(five, "127.0.0.1", 80)),
            (b"\x05\x01\x00\x03\x02db\x00\x50", true, connect(five, "db", 80)),
            (b"\x05\x01\x00\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x00\x50", true, connect(five, "::1", 80)),
        ] {
            for end in 0..input.len() {
                assert_eq!(next_event(&input[..end], greeted), Ok(None), "{end} of {input:?}");
            }
            // What follows is for whoever is connected.
            let more = [input, b"GET /"].concat();
            assert_eq!(next_event(&more, greeted), Ok(Some((input.len(), event))), "{input:?}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        use SocksError::{Command, Host, Method, Protocol, TooLong};
        let long = [b"\x04\x01\x00\x50\x7f\x00\x00\x01".to_vec(), vec![b'x'; 256]].concat();
        let name = |name: &[u8]| {
            let len = u8::try_from(name.len()).unwrap_or(255);
            [&[5, 1, 0, 3, len][..], name, &[0, 80]].concat()
        };
        for (input, greeted, why) in [
            (b"GET / HTTP/1.1\r\n".to_vec(), false, Protocol),
            (b"\x04\x02\x00\x50\x7f\x00\x00\x01\x00".to_vec(), false, Command),
            (b"\x05\x01\x02".to_vec(), false, Method),
            (b"\x05\x00".to_vec(), false, Method),
            (b"\x05\x02\x00\x01".to_vec(), true, Command),
            (b"\x05\x03\x00\x01".to_vec(), true, Command),
            (b"\x05\x01\x00\x09".to_vec(), true, Protocol),
            (b"\x04\x01".to_vec(), true, Protocol),
            (b"\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x00".to_vec(), true, Host),
            (long, false, TooLong),
            (name(b""), true, Host),
            (name(b"$(id)"), true, Host),
            (name(b"a\nb"), true, Host),
            (name(b"-oProxyCommand=x"), true, Host),
            (name(b"\xff\xfe"), true, Host),
        ] {
            assert_eq!(next_event(&input, greeted), Err(why), "{input:?}");
        }
    }

    proptest! {
        #[test]
        fn no_input_is_waited_for_beyond_the_bound(input in proptest::collection::vec(any::<u8>(), MAX_REQUEST), first in 4_u8..6, greeted: bool) {
            let input = [&[first, 1][..], &input].concat();
            prop_assert_ne!(next_event(&input[..MAX_REQUEST], greeted), Ok(None));
        }

        #[test]
        fn no_more_is_taken_than_came(input in proptest::collection::vec(any::<u8>(), 0..64), first in 4_u8..6, greeted: bool) {
            let input = [&[first, 1][..], &input].concat();
            if let Ok(Some((taken, _))) = next_event(&input, greeted) {
                prop_assert!(taken <= input.len());
                prop_assert!(next_event(&input[..taken - 1], greeted) == Ok(None));
            }
        }
    }
}
