//! What goes over the wire: how a connection that can be resumed begins, how it is resumed, and its frames.
//!
//! ```text
//! node                                         client
//! "SSH-2.0-… teleport-resume-v1\r\n"  ───────▶
//!                                    ◀───────  MAGIC, 1, public key (32)                        a new connection
//! public key (32), id (16), seconds (4) ─────▶
//!                                              or
//!                                    ◀───────  MAGIC, 2, id (16), nonce (16), position (8)      an old one
//! 1, nonce (16), position (8), proof (32) ───▶                                                  or 0: no
//!                                    ◀───────  proof (32)
//! 1 ─────────────────────────────────────────▶                                                  or 0: no
//!
//! and then, both ways, frames:   0, length (4), bytes     the next bytes of the stream
//!                                1, position (8)          so many were taken
//!                                2                        are you there?
//!                                3                        yes
//!                                4                        the stream ends here
//! ```
//!
//! Numbers are big-endian; a position is a number of bytes of the stream since its beginning. Frames of the client may follow its first
//! message at once.

use std::fmt;

use bytes::{Buf as _, Bytes, BytesMut};

/// What a node that can resume says behind its name (the comments of RFC 4253 section 4.2). Whoever takes it away, or adds it, breaks the
/// key exchange, which covers it.
pub(crate) const MARK: &str = "teleport-resume-v1";
/// How the client's first message begins, where others say their name. Proxies let nothing pass that does not begin with `SSH-`.
pub(crate) const MAGIC: &[u8] = b"SSH-0.0-teleport-resume-v1\n";

const NEW: u8 = 1;
const AGAIN: u8 = 2;
/// That what was asked for is granted; everything else is a refusal.
pub(super) const YES: u8 = 1;
/// A refusal. Of whatever kind: whoever asks learns nothing from it.
pub(super) const NO: u8 = 0;

const NEW_LEN: usize = MAGIC.len() + 1 + 32;
const AGAIN_LEN: usize = MAGIC.len() + 1 + 16 + 16 + 8;

/// Which connection. Random, and secret from nobody: to resume one takes its keys.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ResumeId(pub(super) [u8; 16]);

impl fmt::Debug for ResumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

/// A number that is used once.
pub(super) type Nonce = [u8; 16];

/// The first message of a client that can resume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hello {
    /// It wants a connection that it can resume later.
    New {
        /// Its public key for this connection.
        key: [u8; 32],
    },
    /// It had one, and wants to go on with it.
    Again(Again),
}

/// Which connection is to go on, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Again {
    pub(super) id: ResumeId,
    pub(super) nonce: Nonce,
    /// How much of the node's bytes the client has.
    pub(super) received: u64,
}

/// What the first bytes of a client are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opening {
    /// A message of so many bytes.
    Hello(Hello, usize),
    /// Those of any SSH client.
    Other,
    /// That cannot be said yet.
    Partial,
}

impl Hello {
    pub(super) fn to_bytes(self) -> Vec<u8> {
        match self {
            Self::New { key } => [MAGIC, &[NEW], &key].concat(),
            Self::Again(Again { id, nonce, received }) => {
                [MAGIC, &[AGAIN], &id.0, &nonce, &received.to_be_bytes()].concat()
            }
        }
    }

    /// Looks at the first bytes of a client. A message of a kind that is not known is an SSH client's word: that of one with which
    /// nobody can talk.
    pub(crate) fn read(bytes: &[u8]) -> Opening {
        let Some(rest) = bytes.strip_prefix(MAGIC) else {
            return if MAGIC.starts_with(bytes) { Opening::Partial } else { Opening::Other };
        };
        let Some((kind, rest)) = rest.split_first() else { return Opening::Partial };
        match *kind {
            NEW => match rest.first_chunk() {
                Some(key) => Opening::Hello(Self::New { key: *key }, NEW_LEN),
                None => Opening::Partial,
            },
            AGAIN => match Again::read(rest) {
                Some(again) => Opening::Hello(Self::Again(again), AGAIN_LEN),
                None => Opening::Partial,
            },
            _ => Opening::Other,
        }
    }
}

impl Again {
    fn read(bytes: &[u8]) -> Option<Self> {
        let (id, rest) = bytes.split_first_chunk()?;
        let (nonce, rest) = rest.split_first_chunk()?;
        let received = u64::from_be_bytes(*rest.first_chunk()?);
        Some(Self { id: ResumeId(*id), nonce: *nonce, received })
    }
}

/// What a node answers to [`Hello::New`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Accepted {
    pub(super) key: [u8; 32],
    pub(super) id: ResumeId,
    /// For how many seconds the node keeps a connection that was lost.
    pub(super) keeps: u32,
}

impl Accepted {
    pub(super) const LEN: usize = 32 + 16 + 4;

    pub(super) fn to_bytes(self) -> Vec<u8> {
        [&self.key[..], &self.id.0, &self.keeps.to_be_bytes()].concat()
    }

    pub(super) fn read(bytes: &[u8; Self::LEN]) -> Option<Self> {
        let (key, rest) = bytes.split_first_chunk()?;
        let (id, rest) = rest.split_first_chunk()?;
        Some(Self { key: *key, id: ResumeId(*id), keeps: u32::from_be_bytes(*rest.first_chunk()?) })
    }
}

/// What a node that has the connection answers to [`Hello::Again`], behind [`YES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Challenge {
    pub(super) nonce: Nonce,
    /// How much of the client's bytes the node has.
    pub(super) received: u64,
    pub(super) proof: [u8; 32],
}

impl Challenge {
    pub(super) const LEN: usize = 16 + 8 + 32;

    pub(super) fn to_bytes(self) -> Vec<u8> {
        [&self.nonce[..], &self.received.to_be_bytes(), &self.proof].concat()
    }

    pub(super) fn read(bytes: &[u8; Self::LEN]) -> Option<Self> {
        let (nonce, rest) = bytes.split_first_chunk()?;
        let (received, rest) = rest.split_first_chunk()?;
        Some(Self { nonce: *nonce, received: u64::from_be_bytes(*received), proof: *rest.first_chunk()? })
    }
}

/// The longest piece of the stream in one frame, in bytes.
pub(super) const MAX_DATA: usize = 256 << 10;
/// What stands before the bytes of a data frame.
pub(super) const DATA_HEADER: usize = 5;

const DATA: u8 = 0;
const ACK: u8 = 1;
const PING: u8 = 2;
const PONG: u8 = 3;
const CLOSE: u8 = 4;

/// The header of a data frame.
pub(super) const fn data_header(len: u32) -> [u8; DATA_HEADER] {
    let [a, b, c, d] = len.to_be_bytes();
    [DATA, a, b, c, d]
}

/// What is no data, in its place between data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Control {
    /// So many bytes were taken.
    Ack(u64),
    Close,
    Ping,
    Pong,
}

impl Control {
    pub(super) fn write(self, to: &mut BytesMut) {
        match self {
            Self::Ack(position) => {
                to.extend_from_slice(&[ACK]);
                to.extend_from_slice(&position.to_be_bytes());
            }
            Self::Close => to.extend_from_slice(&[CLOSE]),
            Self::Ping => to.extend_from_slice(&[PING]),
            Self::Pong => to.extend_from_slice(&[PONG]),
        }
    }
}

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    Control(Control),
    /// The next bytes of the stream: a data frame, or a piece of one.
    Data(Bytes),
}

/// The other side does not follow the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Violation {
    #[error("more was acknowledged than was sent, or less than before")]
    Ack,
    #[error("something came behind the end")]
    AfterClose,
    #[error("a frame of no known kind")]
    Kind,
    #[error("a piece of {0} bytes")]
    Len(u32),
    #[error("more was sent than there is room for")]
    Window,
}

/// Reads frames of one wire, from its first one on.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    /// What is still to come of a data frame.
    left: usize,
}

impl Decoder {
    /// The next frame, or piece of one, of what was read; `None` if more must be read first.
    pub(super) fn next(&mut self, read: &mut BytesMut) -> Result<Option<Frame>, Violation> {
        if self.left == 0 {
            let Some(kind) = read.first() else { return Ok(None) };
            let control = match *kind {
                DATA => {
                    let Some(header) = read.first_chunk::<DATA_HEADER>() else { return Ok(None) };
                    let [_, a, b, c, d] = *header;
                    let len = u32::from_be_bytes([a, b, c, d]);
                    self.left = usize::try_from(len).unwrap_or(usize::MAX);
                    if self.left == 0 || self.left > MAX_DATA {
                        return Err(Violation::Len(len));
                    }
                    read.advance(DATA_HEADER);
                    None
                }
                ACK => {
                    let Some(position) = read.get(1..).and_then(|rest| rest.first_chunk()) else {
                        return Ok(None);
                    };
                    let position = u64::from_be_bytes(*position);
                    read.advance(9);
                    Some(Control::Ack(position))
                }
                PING | PONG | CLOSE => {
                    let control = match *kind {
                        PING => Control::Ping,
                        PONG => Control::Pong,
                        _ => Control::Close,
                    };
                    read.advance(1);
                    Some(control)
                }
                _ => return Err(Violation::Kind),
            };
            if let Some(control) = control {
                return Ok(Some(Frame::Control(control)));
            }
        }
        if read.is_empty() {
            return Ok(None);
        }
        let piece = read.split_to(self.left.min(read.len())).freeze();
        self.left -= piece.len();
        Ok(Some(Frame::Data(piece)))
    }
}
