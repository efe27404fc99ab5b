//! Reads recordings from their beginning to their end.

use std::io;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use zstd::stream::raw::{DParameter, Decoder as Decompressor, InBuffer, Operation, OutBuffer};

use super::index::Index;
use super::layout::{
    CHUNK_HEAD, Head, INDEX, KIND_DISCONNECTED, KIND_EXITED, KIND_GAP, KIND_RESIZE, KIND_SIGNALED,
    KIND_STDERR, KIND_STDOUT, MAGIC, MAX_CHUNK, MAX_META, MAX_PLAIN, MAX_WINDOW_LOG, SEGMENT, SEGMENT_HEAD,
    bytes, checksum, varint,
};
use super::{OutputStream, RecordedEvent, RecordingMeta, SessionEnd};

/// The bytes are not a recording of a version that is known, or are damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// A part is damaged; what came before it is sound.
    #[error("the recording is damaged after {intact} bytes: {what}")]
    Damaged {
        /// Bytes up to the damage.
        intact: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// It does not begin like a recording, or is of a newer version.
    #[error("not a recording, or one of a newer version")]
    NotARecording,
}

/// Reads a recording: bytes in, in pieces of any size; events out. It stops at what is damaged, and [`Decoder::skip`] goes on behind
/// it. Whoever can read a file at any place has more of [`Reader`](super::Reader).
pub struct Decoder {
    input: BytesMut,
    /// Where `input` begins in the file.
    offset: u64,
    state: State,
    /// The segment that is being read.
    head: Option<Head>,
    /// Where it begins.
    segment: u64,
    /// Whether what comes before the next event is not known: a jump, or damage.
    strange: bool,
    /// Events of the last chunk.
    plain: Bytes,
    /// The terminal's size, to be told before the next event.
    size: Option<(u16, u16)>,
    now: u64,
    meta: Option<RecordingMeta>,
    index: Option<Index>,
    ended: bool,
    failed: Option<(&'static str, Hop)>,
    decompressor: Decompressor<'static>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Begin,
    /// At the beginning of a head, a chunk or the index.
    Units,
    /// Chunks pass unread until the next segment.
    Skipping,
    /// Behind the index.
    End,
}

/// How to get behind a damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hop {
    /// So many bytes are the damaged unit.
    Over(usize),
    /// Nothing says where the next unit begins.
    Unknown,
}

type Failure = (&'static str, Hop);

/// What became of one unit of the file.
enum Unit {
    /// There is none, or not all of it.
    NeedsMore,
    Read,
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder").field("intact", &self.offset).finish_non_exhaustive()
    }
}

impl Decoder {
    /// A reader before the first byte.
    ///
    /// # Errors
    /// When the decompressor cannot be made (no memory).
    pub fn new() -> io::Result<Self> {
        let mut decompressor = Decompressor::new()?;
        decompressor.set_parameter(DParameter::WindowLogMax(MAX_WINDOW_LOG))?;
        Ok(Self {
            input: BytesMut::new(),
            offset: 0,
            state: State::Begin,
            head: None,
            segment: 0,
            strange: false,
            plain: Bytes::new(),
            size: None,
            now: 0,
            meta: None,
            index: None,
            ended: false,
            failed: None,
            decompressor,
        })
    }

    /// Gives it more bytes. Feed and read in turn: it holds what was not read yet.
    pub fn feed(&mut self, data: &[u8]) {
        self.input.extend_from_slice(data);
    }

    /// What the recording is of; known after the first event was asked for.
    pub const fn meta(&self) -> Option<&RecordingMeta> {
        self.meta.as_ref()
    }

    /// Bytes that were read as whole, sound parts of the file, or passed over.
    pub const fn intact(&self) -> u64 {
        self.offset
    }

    /// Whether bytes are held that are not a whole part: at the end of the input, that it was cut.
    pub fn is_cut(&self) -> bool {
        !self.input.is_empty()
    }

    /// Whether the end of the session was read. What ends without it was cut, or is still being written.
    pub const fn has_ended(&self) -> bool {
        self.ended
    }

    /// What the end of the file says about all of it; known once it was read.
    pub const fn index(&self) -> Option<&Index> {
        self.index.as_ref()
    }

    /// The next event; `None` when more bytes are needed.
    ///
    /// # Errors
    /// [`DecodeError`], again and again until [`Decoder::skip`].
    pub fn next_event(&mut self) -> Result<Option<RecordedEvent>, DecodeError> {
        if self.failed.is_none() {
            match self.read() {
                Ok(event) => return Ok(event),
                Err(failure) => self.failed = Some(failure),
            }
        }
        match self.failed {
            Some((what, _)) if self.meta.is_some() => Err(DecodeError::Damaged { intact: self.offset, what }),
            _ => Err(DecodeError::NotARecording),
        }
    }

    /// After [`DecodeError::Damaged`]: goes on behind the damage. Events follow from the next segment on, after the size that the
    /// terminal has there. `false` if nothing says where that is.
    ///
    /// Only lengths that were written as such are trusted. Bytes are never searched for what looks like a segment: users choose what
    /// is on their terminals, and could choose that.
    pub fn skip(&mut self) -> bool {
        let Some((_, Hop::Over(len))) = self.failed.filter(|_| self.meta.is_some()) else { return false };
        self.consume(len);
        self.failed = None;
        self.plain = Bytes::new();
        self.state = State::Skipping;
        self.strange = true;
        true
    }

    /// Goes on with the segment whose head is at `offset` of the file, whatever was read before; feed from there.
    /// Nothing there is earlier than `since`.
    pub(super) fn jump(&mut self, offset: u64, since: Duration) {
        self.input.clear();
        self.plain = Bytes::new();
        self.offset = offset;
        self.state = State::Units;
        self.head = None;
        self.strange = true;
        self.size = None;
        self.now = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        self.ended = false;
        self.index = None;
        self.failed = None;
    }

    /// Reads the description; `true` once it is known.
    pub(super) fn begin(&mut self) -> Result<bool, DecodeError> {
        if self.state == State::Begin {
            self.header().map_err(|_| DecodeError::NotARecording)?;
        }
        Ok(self.meta.is_some())
    }

    /// Where the segment begins that is being read, or would.
    pub(super) fn segment_offset(&self) -> u64 {
        if self.head.is_some() { self.segment } else { self.offset }
    }

    /// The number of the segment that follows what was read.
    pub(super) fn next_segment(&self) -> u32 {
        self.head.map_or(0, |head| head.number.saturating_add(1))
    }

    /// The time up to which was read.
    pub(super) const fn now(&self) -> Duration {
        Duration::from_millis(self.now)
    }

    /// Where the bytes end that were fed.
    pub(super) fn fed(&self) -> u64 {
        self.offset + self.input.len() as u64
    }

    fn consume(&mut self, len: usize) {
        let len = len.min(self.input.len());
        self.input.advance(len);
        self.offset += len as u64;
    }

    fn read(&mut self) -> Result<Option<RecordedEvent>, Failure> {
        loop {
            if let Some((columns, rows)) = self.size.take() {
                return Ok(Some(RecordedEvent::Resize { at: self.now(), columns, rows }));
            }
            if self.plain.is_empty() {
                let unit = match self.state {
                    State::Begin => self.header()?,
                    State::End if self.input.is_empty() => Unit::NeedsMore,
                    State::End => return Err(("something follows the end", Hop::Unknown)),
                    State::Skipping | State::Units => self.unit()?,
                };
                match unit {
                    Unit::NeedsMore => return Ok(None),
                    Unit::Read => continue,
                }
            }
            if self.ended {
                return Err(("something follows the end of the session", Hop::Over(0)));
            }
            let event = self.event().ok_or(("an event is malformed", Hop::Over(0)))?;
            self.ended = matches!(event, RecordedEvent::End { .. });
            return Ok(Some(event));
        }
    }

    fn header(&mut self) -> Result<Unit, Failure> {
        let begins = self.input.get(..MAGIC.len()).unwrap_or(&self.input);
        if !MAGIC.starts_with(begins) {
            return Err(("it does not begin like a recording", Hop::Unknown));
        }
        let Some(([magic @ .., a, b, c, d], rest)) = self.input.split_first_chunk::<12>() else {
            return Ok(Unit::NeedsMore);
        };
        let len = usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])).unwrap_or(usize::MAX);
        if len == 0 || len > MAX_META {
            return Err(("the description has an impossible length", Hop::Unknown));
        }
        let Some((crc, rest)) = rest.split_first_chunk::<4>() else { return Ok(Unit::NeedsMore) };
        let Some(json) = rest.get(..len) else { return Ok(Unit::NeedsMore) };
        if checksum(&[magic, &[*a, *b, *c, *d], json]) != u32::from_be_bytes(*crc) {
            return Err(("the description's checksum is wrong", Hop::Unknown));
        }
        let meta = serde_json::from_slice(json);
        self.meta = Some(meta.map_err(|_| ("it does not say what it is of", Hop::Unknown))?);
        self.consume(16 + len);
        self.state = State::Units;
        Ok(Unit::Read)
    }

    fn unit(&mut self) -> Result<Unit, Failure> {
        let Some((mark, _)) = self.input.split_first_chunk::<4>() else { return Ok(Unit::NeedsMore) };
        match *mark {
            SEGMENT => self.segment(),
            INDEX => self.read_index(),
            length => {
                let len = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
                if (1..=MAX_CHUNK).contains(&len) {
                    self.chunk(len)
                } else {
                    Err(("a chunk has an impossible length", Hop::Unknown))
                }
            }
        }
    }

    fn segment(&mut self) -> Result<Unit, Failure> {
        let Some((bytes, _)) = self.input.split_first_chunk::<SEGMENT_HEAD>() else {
            return Ok(Unit::NeedsMore);
        };
        let over = Hop::Over(SEGMENT_HEAD);
        let head = Head::parse(bytes).ok_or(("a segment's checksum is wrong", over))?;
        let next = self.head.map_or(Some(0), |before| before.number.checked_add(1));
        if next.is_none_or(|next| head.number < next) {
            return Err(("a segment comes twice", over));
        }
        if next != Some(head.number) && !self.strange {
            return Err(("a segment is missing", Hop::Over(0)));
        }
        if head.time < self.now {
            return Err(("time goes back", over));
        }
        if self.ended {
            return Err(("something follows the end of the session", over));
        }
        self.decompressor.reinit().map_err(|_| ("the decompressor fails", over))?;
        self.segment = self.offset;
        self.consume(SEGMENT_HEAD);
        if std::mem::take(&mut self.strange) && (head.columns, head.rows) != (0, 0) {
            self.size = Some((head.columns, head.rows));
        }
        self.now = head.time;
        self.head = Some(head);
        self.state = State::Units;
        Ok(Unit::Read)
    }

    fn chunk(&mut self, len: usize) -> Result<Unit, Failure> {
        let Some((head, rest)) = self.input.split_first_chunk::<CHUNK_HEAD>() else {
            return Ok(Unit::NeedsMore);
        };
        let Some(data) = rest.get(..len) else { return Ok(Unit::NeedsMore) };
        let over = Hop::Over(CHUNK_HEAD + len);
        if self.state == State::Skipping {
            self.consume(CHUNK_HEAD + len);
            return Ok(Unit::Read);
        }
        let [length @ .., a, b, c, d] = head;
        if checksum(&[length, data]) != u32::from_be_bytes([*a, *b, *c, *d]) {
            return Err(("a checksum is wrong", over));
        }
        if self.head.is_none() || self.strange {
            return Err(("a chunk is in no segment", over));
        }
        let plain =
            decompress(&mut self.decompressor, data).ok_or(("a chunk cannot be decompressed", over))?;
        self.plain = plain.into();
        self.consume(CHUNK_HEAD + len);
        Ok(Unit::Read)
    }

    fn read_index(&mut self) -> Result<Unit, Failure> {
        let Some((head, _)) = self.input.split_first_chunk::<8>() else { return Ok(Unit::NeedsMore) };
        let bad = ("the index is damaged", Hop::Unknown);
        let len = Index::len_of(*head).ok_or(bad)?;
        let Some(bytes) = self.input.get(..len) else { return Ok(Unit::NeedsMore) };
        let index = Index::parse(bytes, self.offset).ok_or(bad)?;
        // Behind damage the end may be what is missing.
        if !self.ended && !self.strange {
            return Err(("the session has an index and no end", Hop::Unknown));
        }
        self.index = Some(index);
        self.consume(len);
        self.state = State::End;
        Ok(Unit::Read)
    }

    /// `None` if it is malformed.
    fn event(&mut self) -> Option<RecordedEvent> {
        let input = &mut self.plain;
        let kind = *input.first()?;
        let _ = input.split_to(1);
        self.now = self.now.checked_add(varint(input)?)?;
        let at = Duration::from_millis(self.now);
        let narrow = |value: u64| u16::try_from(value).ok();
        Some(match kind {
            KIND_STDOUT => RecordedEvent::Output { at, stream: OutputStream::Stdout, data: bytes(input)? },
            KIND_STDERR => RecordedEvent::Output { at, stream: OutputStream::Stderr, data: bytes(input)? },
            KIND_RESIZE => {
                RecordedEvent::Resize { at, columns: narrow(varint(input)?)?, rows: narrow(varint(input)?)? }
            }
            KIND_GAP => RecordedEvent::Gap { at, lost: varint(input)? },
            KIND_EXITED => {
                RecordedEvent::End { at, end: SessionEnd::Exited(u32::try_from(varint(input)?).ok()?) }
            }
            KIND_SIGNALED => {
                let name = String::from_utf8(bytes(input)?.to_vec()).ok()?;
                RecordedEvent::End { at, end: SessionEnd::Signaled(name) }
            }
            KIND_DISCONNECTED => RecordedEvent::End { at, end: SessionEnd::Disconnected },
            _ => return None,
        })
    }
}

/// A chunk's events; `None` if it is not what comes next in its zstd frame, or is longer than allowed, or empty.
fn decompress(decompressor: &mut Decompressor<'_>, data: &[u8]) -> Option<Vec<u8>> {
    let mut plain = Vec::new();
    let mut input = InBuffer::around(data);
    loop {
        plain.reserve(64 * 1024);
        let used = plain.len();
        decompressor.run(&mut input, &mut OutBuffer::around_pos(&mut plain, used)).ok()?;
        if plain.len() > MAX_PLAIN {
            return None;
        }
        // With room left in the output it has nothing more to say.
        let drained = plain.len() < plain.capacity();
        if drained && input.pos() == data.len() {
            return (!plain.is_empty()).then_some(plain);
        }
        if drained && plain.len() == used {
            // Behind the end of the frame.
            return None;
        }
    }
}

#[cfg(test)]
impl Decoder {
    /// What it holds, in bytes, without the decompressor, whose memory is bounded by the window that it allows.
    pub(super) fn capacity(&self) -> usize {
        self.input.capacity() + self.plain.len()
    }
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
