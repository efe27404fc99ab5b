//! The form of a recording, version 1.
//!
//! ```text
//! file    = magic frame*
//! magic   = "TPREC" 0x00 0x00 0x01            the last byte is the version
//! frame   = length:u32 crc:u32 payload        big-endian; crc is CRC-32 (IEEE) of the payload
//! payload = a zstd frame of at most 1 MiB; decompressed at most 256 KiB: event*
//! event   = kind:u8 delta:varint body         delta: milliseconds since the event before
//! kind 0 meta    length:varint JSON           the first event of a file, and only that
//! kind 1 stdout  length:varint bytes
//! kind 2 stderr  length:varint bytes
//! kind 3 resize  columns:varint rows:varint
//! kind 4 gap     lost:varint                  bytes of output that could not be kept
//! kind 5 exited  status:varint
//! kind 6 signal  length:varint name           without "SIG"
//! kind 7 disconnected
//! varint  = unsigned LEB128, at most 10 bytes
//! ```
//!
//! Frames are independent: a file that was cut or damaged plays up to the damage. Writer and reader need
//! constant memory.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};

use super::{OutputStream, RecordedEvent, RecordingMeta, SessionEnd};

const MAGIC: &[u8; 8] = b"TPREC\0\0\x01";
/// The longest payload of a frame before compression.
const MAX_PLAIN: usize = 256 * 1024;
/// A frame is closed once it holds so much.
const CLOSE_AT: usize = 64 * 1024;
/// The longest payload of a frame.
const MAX_PAYLOAD: usize = 1 << 20;
/// The most output in one event; longer output becomes several events.
const MAX_CHUNK: usize = 128 * 1024;
/// Fast enough for the byte path; higher levels gain little on terminal output.
const LEVEL: i32 = 1;

/// The bytes are not a recording of a version that is known, or are damaged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// A frame is damaged; what came before it is sound.
    #[error("the recording is damaged after {intact} bytes: {what}")]
    Damaged {
        /// Bytes up to the last sound frame.
        intact: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// It does not begin like a recording, or is of a newer version.
    #[error("not a recording, or one of a newer version")]
    NotARecording,
}

/// Writes a recording: events in, bytes of whole frames out.
pub struct Encoder {
    plain: Vec<u8>,
    /// The compressor's output, kept so that it is neither cleared nor allocated for each frame.
    packed: Vec<u8>,
    out: Vec<u8>,
    last: u64,
    compressor: zstd::bulk::Compressor<'static>,
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder").field("pending", &self.plain.len()).finish_non_exhaustive()
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let low = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

fn millis(at: Duration) -> u64 {
    u64::try_from(at.as_millis()).unwrap_or(u64::MAX)
}

impl Encoder {
    /// Begins a recording.
    ///
    /// # Errors
    /// When the compressor cannot be made (no memory).
    pub fn new(meta: &RecordingMeta) -> std::io::Result<Self> {
        let compressor = zstd::bulk::Compressor::new(LEVEL)?;
        let plain = Vec::with_capacity(CLOSE_AT);
        let mut encoder = Self { plain, packed: Vec::new(), out: MAGIC.to_vec(), last: 0, compressor };
        let json = serde_json::to_vec(meta)?;
        encoder.plain.extend([0, 0]);
        encoder.put_bytes(&json);
        encoder.close_frame()?;
        Ok(encoder)
    }

    fn put_bytes(&mut self, bytes: &[u8]) {
        put_varint(&mut self.plain, bytes.len() as u64);
        self.plain.extend_from_slice(bytes);
    }

    fn begin(&mut self, kind: u8, at: Duration) {
        // The clock of a session never goes back; if it seems to, no time has passed.
        let at = millis(at).max(self.last);
        self.plain.push(kind);
        put_varint(&mut self.plain, at - self.last);
        self.last = at;
    }

    /// Adds output. Copies `data` once.
    ///
    /// # Errors
    /// Those of the compressor.
    pub fn output(&mut self, at: Duration, stream: OutputStream, data: &[u8]) -> std::io::Result<()> {
        for chunk in data.chunks(MAX_CHUNK) {
            let kind = match stream {
                OutputStream::Stdout => 1,
                OutputStream::Stderr => 2,
            };
            self.begin(kind, at);
            self.put_bytes(chunk);
            self.close_if_full()?;
        }
        Ok(())
    }

    /// Adds any event.
    ///
    /// # Errors
    /// Those of the compressor.
    pub fn event(&mut self, event: &RecordedEvent) -> std::io::Result<()> {
        match event {
            RecordedEvent::Output { at, stream, data } => return self.output(*at, *stream, data),
            RecordedEvent::Resize { at, columns, rows } => {
                self.begin(3, *at);
                put_varint(&mut self.plain, (*columns).into());
                put_varint(&mut self.plain, (*rows).into());
            }
            RecordedEvent::Gap { at, lost } => {
                self.begin(4, *at);
                put_varint(&mut self.plain, *lost);
            }
            RecordedEvent::End { at, end } => match end {
                SessionEnd::Exited(status) => {
                    self.begin(5, *at);
                    put_varint(&mut self.plain, (*status).into());
                }
                SessionEnd::Signaled(name) => {
                    self.begin(6, *at);
                    self.put_bytes(name.get(..32).unwrap_or(name).as_bytes());
                }
                SessionEnd::Disconnected => self.begin(7, *at),
            },
        }
        self.close_if_full()
    }

    fn close_if_full(&mut self) -> std::io::Result<()> {
        if self.plain.len() >= CLOSE_AT { self.close_frame() } else { Ok(()) }
    }

    fn close_frame(&mut self) -> std::io::Result<()> {
        if self.plain.is_empty() {
            return Ok(());
        }
        self.packed.clear();
        self.packed.reserve(zstd::zstd_safe::compress_bound(self.plain.len()));
        let len = self.compressor.compress_to_buffer(&self.plain, &mut self.packed)?;
        self.out.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes());
        self.out.extend_from_slice(&crc32fast::hash(&self.packed).to_be_bytes());
        self.out.extend_from_slice(&self.packed);
        self.plain.clear();
        Ok(())
    }

    /// How many bytes of events are not in a whole frame yet.
    pub fn pending(&self) -> usize {
        self.plain.len()
    }

    /// Takes the whole frames that are ready; with `flush`, closes the open one first.
    ///
    /// # Errors
    /// Those of the compressor.
    pub fn take(&mut self, flush: bool) -> std::io::Result<Vec<u8>> {
        if flush {
            self.close_frame()?;
        }
        Ok(std::mem::take(&mut self.out))
    }
}

/// Reads a recording: bytes in, in pieces of any size; events out.
pub struct Decoder {
    input: BytesMut,
    started: bool,
    intact: u64,
    plain: Bytes,
    now: u64,
    meta: Option<RecordingMeta>,
    decompressor: zstd::bulk::Decompressor<'static>,
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder").field("intact", &self.intact).finish_non_exhaustive()
    }
}

fn varint(input: &mut Bytes) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = *input.first()?;
        let _ = input.split_to(1);
        let low = u64::from(byte & 0x7f);
        value |= low.checked_shl(shift).filter(|shifted| shifted >> shift == low)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn bytes(input: &mut Bytes) -> Option<Bytes> {
    let len = usize::try_from(varint(input)?).ok()?;
    (len <= input.len()).then(|| input.split_to(len))
}

impl Decoder {
    /// A reader before the first byte.
    ///
    /// # Errors
    /// When the decompressor cannot be made (no memory).
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            input: BytesMut::new(),
            started: false,
            intact: 0,
            plain: Bytes::new(),
            now: 0,
            meta: None,
            decompressor: zstd::bulk::Decompressor::new()?,
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

    /// Bytes that were consumed in whole, sound frames.
    pub const fn intact(&self) -> u64 {
        self.intact
    }

    /// Whether bytes are held that are not a whole frame: at the end of the input, that it was cut.
    pub fn is_cut(&self) -> bool {
        !self.input.is_empty()
    }

    /// The next event; `None` when more bytes are needed.
    ///
    /// # Errors
    /// [`DecodeError`]; the reader is then at its end.
    pub fn next_event(&mut self) -> Result<Option<RecordedEvent>, DecodeError> {
        loop {
            if self.plain.is_empty() && !self.open_frame()? {
                return Ok(None);
            }
            let intact = self.intact;
            let damaged = move |what| DecodeError::Damaged { intact, what };
            if let Some(event) = self.event().ok_or_else(|| damaged("an event is malformed"))? {
                if self.meta.is_none() {
                    return Err(damaged("it does not say what it is of"));
                }
                return Ok(Some(event));
            }
        }
    }

    fn open_frame(&mut self) -> Result<bool, DecodeError> {
        if !self.started {
            match self.input.get(..MAGIC.len()) {
                None if MAGIC.starts_with(&self.input) => return Ok(false),
                Some(magic) if magic == MAGIC => {}
                _ => return Err(DecodeError::NotARecording),
            }
            self.input.advance(MAGIC.len());
            self.started = true;
            self.intact = MAGIC.len() as u64;
        }
        let damaged = |what| DecodeError::Damaged { intact: self.intact, what };
        let Some(([a, b, c, d, crc @ ..], rest)) = self.input.split_first_chunk::<8>() else {
            return Ok(false);
        };
        let len = usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])).unwrap_or(usize::MAX);
        if len == 0 || len > MAX_PAYLOAD {
            return Err(damaged("a frame has an impossible length"));
        }
        let Some(payload) = rest.get(..len) else { return Ok(false) };
        if crc32fast::hash(payload).to_be_bytes() != *crc {
            return Err(damaged("a checksum is wrong"));
        }
        let plain = self
            .decompressor
            .decompress(payload, MAX_PLAIN)
            .map_err(|_| damaged("a frame cannot be decompressed"))?;
        if plain.is_empty() {
            return Err(damaged("a frame is empty"));
        }
        self.plain = plain.into();
        self.input.advance(8 + len);
        self.intact += 8 + len as u64;
        Ok(true)
    }

    /// `None` for a malformed event, `Some(None)` for one that is not for the reader.
    #[expect(clippy::option_option, reason = "two different absences, private")]
    fn event(&mut self) -> Option<Option<RecordedEvent>> {
        let input = &mut self.plain;
        let kind = *input.first()?;
        let _ = input.split_to(1);
        self.now = self.now.checked_add(varint(input)?)?;
        let at = Duration::from_millis(self.now);
        let narrow = |value: u64| u16::try_from(value).ok();
        Some(Some(match kind {
            0 => {
                let json = bytes(input)?;
                if self.meta.is_some() {
                    return None;
                }
                self.meta = Some(serde_json::from_slice(&json).ok()?);
                return Some(None);
            }
            1 => RecordedEvent::Output { at, stream: OutputStream::Stdout, data: bytes(input)? },
            2 => RecordedEvent::Output { at, stream: OutputStream::Stderr, data: bytes(input)? },
            3 => {
                RecordedEvent::Resize { at, columns: narrow(varint(input)?)?, rows: narrow(varint(input)?)? }
            }
            4 => RecordedEvent::Gap { at, lost: varint(input)? },
            5 => RecordedEvent::End { at, end: SessionEnd::Exited(u32::try_from(varint(input)?).ok()?) },
            6 => {
                let name = String::from_utf8(bytes(input)?.to_vec()).ok()?;
                RecordedEvent::End { at, end: SessionEnd::Signaled(name) }
            }
            7 => RecordedEvent::End { at, end: SessionEnd::Disconnected },
            _ => return None,
        }))
    }
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
