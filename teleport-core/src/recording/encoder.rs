//! Writes recordings.

use std::io;
use std::time::Duration;

use zstd::stream::raw::{CParameter, Encoder as Compressor, InBuffer, Operation, OutBuffer};

use super::index::{Entry, Index};
use super::layout::{
    Head, KIND_DISCONNECTED, KIND_EXITED, KIND_GAP, KIND_RESIZE, KIND_SIGNALED, KIND_STDERR, KIND_STDOUT,
    MAGIC, checksum, put_varint,
};
use super::{Decoder, OutputStream, RecordedEvent, RecordingMeta, SessionEnd};

/// A chunk is closed once it holds so much.
const CLOSE_AT: usize = 64 * 1024;
/// A segment ends with the chunk that makes it so long: what is lost with a damaged one, and what a seek reads in vain.
const SEGMENT_AT: usize = 256 * 1024;
/// Nor has it more chunks than this: of a session in which little happens a segment is some minutes.
const SEGMENT_CHUNKS: u32 = 512;
/// The most output in one event; longer output becomes several events.
const MAX_OUTPUT: usize = 128 * 1024;
/// Of the compressor. Higher levels gain little on terminal output.
const LEVEL: i32 = 1;
/// The same in a hurry.
const LEVEL_IN_A_HURRY: i32 = -3;
/// How far back the compressor looks, as a power of two: most of its memory. Readers allow 18.
const WINDOW_LOG: u32 = 17;

/// Writes a recording: events in, bytes of whole chunks out. What it keeps in memory does not grow with the recording.
pub struct Encoder {
    compressor: Compressor<'static>,
    /// Whether a segment is open, and what is in it.
    segment: Option<Segment>,
    /// What is in the open chunk before compression, in bytes.
    pending: usize,
    /// An event without its output, kept so that it is not allocated for each.
    head: Vec<u8>,
    /// The open chunk's data, as far as the compressor has let go of it.
    packed: Vec<u8>,
    /// What is ready to be taken.
    out: Vec<u8>,
    /// Bytes of the file before those of `out`.
    taken: u64,
    /// The time of the last event in milliseconds.
    last: u64,
    size: (u16, u16),
    index: Index,
    ended: bool,
    /// Of the compressor, and what it is to be.
    level: i32,
    wanted: i32,
}

#[derive(Clone, Copy, Default)]
struct Segment {
    /// Before compression, in bytes, without the open chunk.
    plain: usize,
    chunks: u32,
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder").field("pending", &self.pending).finish_non_exhaustive()
    }
}

impl Encoder {
    /// Begins a recording.
    ///
    /// # Errors
    /// When the compressor cannot be made (no memory).
    pub fn new(meta: &RecordingMeta) -> io::Result<Self> {
        let mut compressor = Compressor::new(LEVEL)?;
        compressor.set_parameter(CParameter::WindowLog(WINDOW_LOG))?;
        let size = meta.terminal.unwrap_or_default();
        let mut index = Index::default();
        index.largest = size;
        Ok(Self {
            compressor,
            segment: None,
            pending: 0,
            head: Vec::with_capacity(32),
            packed: Vec::new(),
            out: header(meta)?,
            taken: 0,
            last: 0,
            size,
            index,
            ended: false,
            level: LEVEL,
            wanted: LEVEL,
        })
    }

    /// What is appended to a recording that was cut after its last whole chunk: an end that says that the server ended before the
    /// session, in a segment of its own and without an index. `read` has read everything up to there.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] if nothing says what the recording is of; when the compressor cannot be made (no memory).
    pub fn interruption(read: &Decoder) -> io::Result<Vec<u8>> {
        let mut encoder = Self::new(read.meta().ok_or(io::ErrorKind::InvalidInput)?)?;
        encoder.out.clear();
        encoder.index.segments = read.next_segment();
        encoder.last = u64::try_from(read.now().as_millis()).unwrap_or(u64::MAX);
        // What size the terminal had last is not known.
        encoder.size = (0, 0);
        // Since the last event no time has passed, as far as anybody knows.
        encoder.put(KIND_DISCONNECTED, read.now(), &[], &[])?;
        encoder.close_chunk(true)?;
        Ok(encoder.out)
    }

    /// Says whether little time matters more than few bytes, from the next segment on: for a recorder that does not keep up.
    pub const fn hurry(&mut self, hurry: bool) {
        self.wanted = if hurry { LEVEL_IN_A_HURRY } else { LEVEL };
    }

    /// Adds output.
    ///
    /// # Errors
    /// Those of the compressor; [`io::ErrorKind::InvalidInput`] after the end.
    pub fn output(&mut self, at: Duration, stream: OutputStream, data: &[u8]) -> io::Result<()> {
        let kind = match stream {
            OutputStream::Stdout => KIND_STDOUT,
            OutputStream::Stderr => KIND_STDERR,
        };
        for data in data.chunks(MAX_OUTPUT) {
            self.put(kind, at, &[data.len() as u64], data)?;
            self.index.output = self.index.output.saturating_add(data.len() as u64);
        }
        Ok(())
    }

    /// Adds any event. After [`RecordedEvent::End`] comes the index, and nothing else.
    ///
    /// # Errors
    /// Those of the compressor; [`io::ErrorKind::InvalidInput`] after the end.
    pub fn event(&mut self, event: &RecordedEvent) -> io::Result<()> {
        match event {
            RecordedEvent::Output { at, stream, data } => self.output(*at, *stream, data),
            RecordedEvent::Resize { at, columns, rows } => {
                self.put(KIND_RESIZE, *at, &[(*columns).into(), (*rows).into()], &[])?;
                self.size = (*columns, *rows);
                let (most_columns, most_rows) = self.index.largest;
                self.index.largest = (most_columns.max(*columns), most_rows.max(*rows));
                Ok(())
            }
            RecordedEvent::Gap { at, lost } => self.put(KIND_GAP, *at, &[*lost], &[]),
            RecordedEvent::End { at, end } => {
                match end {
                    SessionEnd::Exited(status) => {
                        self.put(KIND_EXITED, *at, &[(*status).into()], &[])?;
                    }
                    SessionEnd::Signaled(name) => {
                        let name = name.get(..32).unwrap_or(name).as_bytes();
                        self.put(KIND_SIGNALED, *at, &[name.len() as u64], name)?;
                    }
                    SessionEnd::Disconnected => self.put(KIND_DISCONNECTED, *at, &[], &[])?,
                }
                self.ended = true;
                self.close_chunk(true)?;
                self.index.duration = Duration::from_millis(self.last);
                self.out.extend(self.index.to_bytes());
                Ok(())
            }
        }
    }

    /// How many bytes of events are not in a whole chunk yet.
    pub const fn pending(&self) -> usize {
        self.pending
    }

    /// Takes the whole chunks that are ready; with `flush`, closes the open one first.
    ///
    /// # Errors
    /// Those of the compressor.
    pub fn take(&mut self, flush: bool) -> io::Result<Vec<u8>> {
        if flush {
            self.close_chunk(false)?;
        }
        self.taken += self.out.len() as u64;
        Ok(std::mem::take(&mut self.out))
    }

    /// Adds an event to the open chunk, and closes it if it is full.
    fn put(&mut self, kind: u8, at: Duration, numbers: &[u64], data: &[u8]) -> io::Result<()> {
        if self.ended {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the recording has ended"));
        }
        if self.segment.is_none() {
            self.begin_segment()?;
        }
        // The clock of a session never goes back; if it seems to, no time has passed.
        let now = u64::try_from(at.as_millis()).unwrap_or(u64::MAX).max(self.last);
        let mut head = std::mem::take(&mut self.head);
        head.clear();
        head.push(kind);
        put_varint(&mut head, now - self.last);
        for number in numbers {
            put_varint(&mut head, *number);
        }
        self.last = now;
        self.compress(&head)?;
        self.compress(data)?;
        self.pending += head.len() + data.len();
        self.head = head;
        if self.pending >= CLOSE_AT { self.close_chunk(false) } else { Ok(()) }
    }

    fn begin_segment(&mut self) -> io::Result<()> {
        self.compressor.reinit()?;
        if self.level != self.wanted {
            self.compressor.set_parameter(CParameter::CompressionLevel(self.wanted))?;
            self.level = self.wanted;
        }
        let (columns, rows) = self.size;
        let head = Head { number: self.index.segments, time: self.last, columns, rows };
        let offset = self.taken + self.out.len() as u64;
        self.index.push(Entry { time: self.last, offset });
        self.out.extend(head.to_bytes());
        self.segment = Some(Segment::default());
        Ok(())
    }

    fn compress(&mut self, data: &[u8]) -> io::Result<()> {
        let mut input = InBuffer::around(data);
        while input.pos() < data.len() {
            self.packed.reserve(CLOSE_AT);
            let used = self.packed.len();
            self.compressor.run(&mut input, &mut OutBuffer::around_pos(&mut self.packed, used))?;
        }
        Ok(())
    }

    /// Closes the open chunk, and with the last one, or when it is long enough, the segment.
    fn close_chunk(&mut self, last: bool) -> io::Result<()> {
        let Some(mut segment) = self.segment.filter(|_| self.pending > 0) else { return Ok(()) };
        segment.plain += std::mem::take(&mut self.pending);
        segment.chunks += 1;
        let end = last || segment.plain >= SEGMENT_AT || segment.chunks >= SEGMENT_CHUNKS;
        loop {
            self.packed.reserve(CLOSE_AT);
            let used = self.packed.len();
            let mut output = OutBuffer::around_pos(&mut self.packed, used);
            let left = if end {
                self.compressor.finish(&mut output, true)?
            } else {
                self.compressor.flush(&mut output)?
            };
            if left == 0 {
                break;
            }
        }
        self.segment = (!end).then_some(segment);
        let len = u32::try_from(self.packed.len()).unwrap_or(u32::MAX).to_be_bytes();
        self.out.reserve(8 + self.packed.len());
        self.out.extend_from_slice(&len);
        self.out.extend_from_slice(&checksum(&[&len, &self.packed]).to_be_bytes());
        self.out.extend_from_slice(&self.packed);
        self.packed.clear();
        Ok(())
    }
}

/// The beginning of the file.
fn header(meta: &RecordingMeta) -> io::Result<Vec<u8>> {
    let json = if meta.is_short() {
        serde_json::to_vec(meta)?
    } else {
        serde_json::to_vec(&meta.clone().shortened())?
    };
    let len = u32::try_from(json.len()).unwrap_or(u32::MAX).to_be_bytes();
    let crc = checksum(&[MAGIC, &len, &json]).to_be_bytes();
    Ok([&MAGIC[..], &len, &crc, &json].concat())
}

#[cfg(test)]
impl Encoder {
    /// What it holds, in bytes, without the compressor, whose memory is bounded by its window.
    pub(super) fn capacity(&self) -> usize {
        self.packed.capacity() + self.out.capacity() + self.index.entries.capacity() * size_of::<Entry>()
    }
}
