//! Reads a recording from any time on, wherever its bytes are.

use std::io;
use std::time::Duration;

use super::decoder::{DecodeError, Decoder};
use super::index::{Index, MAX_INDEX};
use super::{RecordedEvent, RecordingMeta};

/// How many bytes it asks for. Whoever reads may give more or fewer.
const PIECE: usize = 64 * 1024;

/// What a [`Reader`] has or wants.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// Nothing follows.
    End(Ending),
    /// The next event.
    Event(RecordedEvent),
    /// A seek leads elsewhere: what was shown until now is to be cleared. The terminal's size follows as an event.
    Jump,
    /// Here a part is missing: it is damaged.
    Missing(Missing),
    /// Call [`Reader::feed`] with what stands in the file from `offset`; about `len` bytes are wanted.
    Read {
        /// From where.
        offset: u64,
        /// How many bytes are wanted.
        len: usize,
    },
}

/// How a recording ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ending {
    /// With the end of the session.
    Complete,
    /// Before it: the session was still running, or its node or the upload was interrupted.
    Unfinished,
}

/// A part of a recording that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Missing {
    /// The time of the last event before it.
    pub from: Duration,
    /// The time with which it goes on behind it; `None` if nothing follows.
    pub to: Option<Duration>,
    /// Where it is in the file.
    pub offset: u64,
    /// How many bytes of the file; 0 if that is not known.
    pub bytes: u64,
    /// What is wrong.
    pub what: &'static str,
}

/// Reads a recording that lies somewhere: it says which bytes it needs and does no I/O, so it works on files, over a network and
/// in a browser. It holds a piece of the file, the events of one chunk and the index; the length of the recording does not matter.
///
/// ```
/// # use teleport_core::recording::{Reader, Step};
/// # fn read(file: &[u8]) -> Result<(), Box<dyn std::error::Error>> {
/// let mut reader = Reader::new(Some(file.len() as u64))?;
/// reader.seek(std::time::Duration::from_secs(60), 0);
/// loop {
///     match reader.step()? {
///         Step::Read { offset, len } => {
///             let rest = file.get(usize::try_from(offset)?..).unwrap_or_default();
///             reader.feed(rest.get(..len).unwrap_or(rest));
///         }
///         Step::Event(event) => println!("{:?}", event.at()),
///         Step::Missing(missing) => println!("{missing:?}"),
///         Step::End(ending) => break println!("{ending:?}"),
///         _ => {}
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Reader {
    decoder: Decoder,
    /// How long the file is, if that is known.
    len: Option<u64>,
    index: Known,
    /// Whether the index is needed before anything else.
    needs_index: bool,
    /// Where the first segment is, once that is known.
    first: Option<u64>,
    /// What the last [`Step::Read`] was for.
    asked: Asked,
    /// Nothing stands behind what was fed.
    at_end: bool,
    /// Where to go on.
    wanted: Option<Wanted>,
    /// Where a seek has led to, until a segment was found there.
    landing: Option<u64>,
    /// Since where and when events are missing, and why.
    damage: Option<(u64, Duration, &'static str)>,
    /// An event that comes behind what is missing.
    held: Option<RecordedEvent>,
    /// The end was told.
    done: Option<Ending>,
}

#[derive(Debug)]
enum Known {
    /// There is none, or none that can be believed.
    Absent,
    Found(Index),
    /// The end of the file, as far as it was read.
    Reading(Vec<u8>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Next,
    Nothing,
    Tail,
}

#[derive(Clone, Copy, Debug)]
struct Wanted {
    time: Duration,
    lead: u64,
    /// It does not matter what was shown until now.
    anew: bool,
}

impl Reader {
    /// Of a recording that is `len` bytes long, from its beginning. Without the length it is read without its index.
    ///
    /// # Errors
    /// When the decompressor cannot be made (no memory).
    pub fn new(len: Option<u64>) -> io::Result<Self> {
        Ok(Self {
            decoder: Decoder::new()?,
            len,
            index: if len.is_some() { Known::Reading(Vec::new()) } else { Known::Absent },
            needs_index: false,
            first: None,
            asked: Asked::Nothing,
            at_end: false,
            wanted: None,
            landing: None,
            damage: None,
            held: None,
            done: None,
        })
    }

    /// What the recording is of; known before the first event.
    pub const fn meta(&self) -> Option<&RecordingMeta> {
        self.decoder.meta()
    }

    /// What the end of the file says about all of it; known after a seek, after [`Reader::want_index`] or at the end. `None` if there
    /// is no index.
    pub const fn index(&self) -> Option<&Index> {
        match &self.index {
            Known::Found(index) => Some(index),
            _ => self.decoder.index(),
        }
    }

    /// The time up to which was read.
    pub const fn position(&self) -> Duration {
        self.decoder.now()
    }

    /// Reads the index before anything else.
    pub const fn want_index(&mut self) {
        self.needs_index = true;
    }

    /// Goes on so that every event from `time` on follows. Those that come before it make what is on the screen then and are to be
    /// shown without a pause: at least `lead` bytes of the file of them, if there are so many. Where there is no index it reads on,
    /// or, to go back, from the beginning.
    pub fn seek(&mut self, time: Duration, lead: u64) {
        self.wanted = Some(Wanted { time, lead, anew: false });
        self.needs_index = true;
    }

    /// The same for a screen that was lost: with [`Step::Jump`] in any case.
    pub fn redraw(&mut self, time: Duration, lead: u64) {
        self.wanted = Some(Wanted { time, lead, anew: true });
        self.needs_index = true;
    }

    /// What the last [`Step::Read`] asked for; nothing if the file ends there.
    pub fn feed(&mut self, bytes: &[u8]) {
        match std::mem::replace(&mut self.asked, Asked::Nothing) {
            Asked::Next if bytes.is_empty() => self.at_end = true,
            Asked::Next => self.decoder.feed(bytes),
            Asked::Tail if bytes.is_empty() => self.index = Known::Absent,
            Asked::Tail => {
                if let Known::Reading(tail) = &mut self.index {
                    let room = MAX_INDEX.saturating_sub(tail.len());
                    tail.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
                }
            }
            Asked::Nothing => {}
        }
    }

    /// What comes next.
    ///
    /// # Errors
    /// [`DecodeError::NotARecording`]. Damage behind the description is no error: it is told as [`Step::Missing`].
    pub fn step(&mut self) -> Result<Step, DecodeError> {
        loop {
            let Some(first) = self.first else {
                if self.decoder.begin()? {
                    self.first = Some(self.decoder.intact());
                    continue;
                }
                if self.at_end {
                    return Err(DecodeError::NotARecording);
                }
                return Ok(self.read_on());
            };
            if self.needs_index
                && let Some(step) = self.read_tail()
            {
                return Ok(step);
            }
            self.needs_index = false;
            if let Some(wanted) = self.wanted.take()
                && let Some(step) = self.go_to(wanted, first)
            {
                return Ok(step);
            }
            if let Some(event) = self.held.take() {
                return Ok(Step::Event(event));
            }
            if let Some(ending) = self.done {
                return Ok(Step::End(ending));
            }
            match self.decoder.next_event() {
                Ok(Some(event)) => {
                    self.landing = None;
                    let Some((offset, from, what)) = self.damage.take() else {
                        return Ok(Step::Event(event));
                    };
                    let bytes = self.decoder.segment_offset().saturating_sub(offset);
                    let to = Some(event.at());
                    self.held = Some(event);
                    return Ok(Step::Missing(Missing { from, to, offset, bytes, what }));
                }
                Ok(None) if !self.at_end => return Ok(self.read_on()),
                Ok(None) if self.decoder.has_ended() => self.done = Some(Ending::Complete),
                // Cut, or a length is damaged so that it leads behind the end.
                Ok(None) => self.pass("it is cut", false),
                Err(DecodeError::Damaged { what, .. }) => {
                    if self.landing == Some(self.decoder.intact()) && self.landing != Some(first) {
                        // The index leads to no segment. What leads there from the beginning does.
                        self.jump(first, Duration::ZERO);
                        self.landing = Some(first);
                    } else {
                        self.pass(what, true);
                    }
                }
                Err(error) => return Err(error),
            }
            if let Some(step) = self.missing_end() {
                return Ok(step);
            }
        }
    }

    fn read_on(&mut self) -> Step {
        self.asked = Asked::Next;
        Step::Read { offset: self.decoder.fed(), len: PIECE }
    }

    /// Reads the end of the file for the index; `None` once it is known whether there is one.
    fn read_tail(&mut self) -> Option<Step> {
        let (Known::Reading(tail), Some(len)) = (&self.index, self.len) else { return None };
        let begin = len.saturating_sub(MAX_INDEX as u64);
        let offset = begin + tail.len() as u64;
        if offset < len {
            self.asked = Asked::Tail;
            return Some(Step::Read { offset, len: usize::try_from(len - offset).unwrap_or(PIECE) });
        }
        self.index = Index::find(tail, len).map_or(Known::Absent, Known::Found);
        None
    }

    fn jump(&mut self, offset: u64, since: Duration) {
        self.decoder.jump(offset, since);
        self.at_end = false;
        self.held = None;
        self.done = None;
    }

    /// Where a seek leads; it says so if that is not where it reads now.
    fn go_to(&mut self, wanted: Wanted, first: u64) -> Option<Step> {
        let entry = match &self.index {
            Known::Found(index) => index.before(wanted.time).map(|entry| {
                let from = entry.offset.saturating_sub(wanted.lead);
                index.at_or_before(from).map_or(first, |entry| entry.offset)
            }),
            _ => None,
        };
        let here = self.decoder.segment_offset();
        let back = wanted.time < self.decoder.now();
        if !wanted.anew && !back && entry.is_none_or(|entry| entry <= here) {
            return None;
        }
        self.damage = None;
        let offset = entry.unwrap_or(first);
        self.jump(offset, Duration::ZERO);
        self.landing = Some(offset);
        Some(Step::Jump)
    }

    /// Goes on behind what cannot be read, or to the end.
    fn pass(&mut self, what: &'static str, skip: bool) {
        let (offset, now) = (self.decoder.intact(), self.decoder.now());
        if self.damage.is_none() && (skip || self.index_behind(offset).is_some()) {
            self.damage = Some((offset, now, what));
        }
        if skip && self.decoder.skip() {
            return;
        }
        if matches!(self.index, Known::Reading(_)) {
            // Once more, with the index.
            self.needs_index = true;
            return;
        }
        match self.index_behind(offset) {
            Some(behind) => self.jump(behind, now),
            None => self.done = Some(Ending::Unfinished),
        }
    }

    /// The first segment behind `offset` that the index knows.
    fn index_behind(&self, offset: u64) -> Option<u64> {
        match &self.index {
            Known::Found(index) => index.behind(offset).map(|entry| entry.offset),
            _ => None,
        }
    }

    /// What is missing at the end.
    fn missing_end(&mut self) -> Option<Step> {
        self.done?;
        let (offset, from, what) = self.damage.take()?;
        let bytes = self.len.unwrap_or_default().saturating_sub(offset);
        Some(Step::Missing(Missing { from, to: None, offset, bytes, what }))
    }
}

#[cfg(test)]
impl Reader {
    /// What it holds, in bytes, without the decompressor.
    pub(super) fn capacity(&self) -> usize {
        let index = match &self.index {
            Known::Absent => 0,
            Known::Found(index) => index.entries.capacity() * 16,
            Known::Reading(tail) => tail.capacity(),
        };
        self.decoder.capacity() + index
    }
}

#[cfg(test)]
#[path = "reader_tests.rs"]
mod tests;
