//! The index at the end of a finished recording: where the segments are, and what a player wants to know beforehand.

use std::time::Duration;

use bytes::Buf;

use super::layout::{INDEX, INDEX_END, checksum};

/// The most entries. When there would be more, every other one is dropped: the memory of a writer is bounded, and a seek reads
/// a thousandth of the recording at most, or a segment.
pub(super) const MAX_ENTRIES: usize = 1024;
const ENTRY: usize = 16;
/// Duration, output, segments, largest size.
const FIXED: usize = 8 + 8 + 4 + 2 + 2;
/// Mark, length and checksum; length and mark again.
const FRAME: usize = 12 + 8;

/// The most bytes of an index: a reader that has as many from the end of a file has all of it.
pub(super) const MAX_INDEX: usize = FRAME + FIXED + MAX_ENTRIES * ENTRY;

/// A segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// That of its head: milliseconds since the beginning of the session. No event of the segment is earlier, and none before it is
    /// later.
    pub(super) time: u64,
    /// Where its head is in the file.
    pub(super) offset: u64,
}

/// What the end of a finished recording says about all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Index {
    /// How long the session lasted.
    pub duration: Duration,
    /// Bytes of output that are in the recording.
    pub output: u64,
    /// How many segments it has.
    pub segments: u32,
    /// The largest terminal that the session ever had, columns and rows each for itself; 0 and 0 without a terminal.
    pub largest: (u16, u16),
    pub(super) entries: Vec<Entry>,
    /// Each how manieth segment has an entry, less one.
    step: u32,
}

impl Index {
    /// Takes note of the next segment.
    pub(super) fn push(&mut self, entry: Entry) {
        let number = self.segments;
        self.segments = number.saturating_add(1);
        let stride = self.step.saturating_add(1);
        if !number.is_multiple_of(stride) {
            return;
        }
        if self.entries.len() == MAX_ENTRIES {
            let mut keep = false;
            self.entries.retain(|_| {
                keep = !keep;
                keep
            });
            self.step = stride.saturating_mul(2) - 1;
            // It is the one after an odd entry: a multiple of the new stride as well.
        }
        self.entries.push(entry);
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(FIXED + self.entries.len() * ENTRY);
        let duration = u64::try_from(self.duration.as_millis()).unwrap_or(u64::MAX);
        body.extend(duration.to_be_bytes());
        body.extend(self.output.to_be_bytes());
        body.extend(self.segments.to_be_bytes());
        body.extend(self.largest.0.to_be_bytes());
        body.extend(self.largest.1.to_be_bytes());
        for entry in &self.entries {
            body.extend(entry.time.to_be_bytes());
            body.extend(entry.offset.to_be_bytes());
        }
        let len = u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes();
        let crc = checksum(&[&INDEX, &len, &body, &len, &INDEX_END]).to_be_bytes();
        [&INDEX[..], &len, &crc, &body, &len, &INDEX_END].concat()
    }

    /// How long the index is that begins so; `None` if no index does. Needs eight bytes.
    pub(super) fn len_of(head: [u8; 8]) -> Option<usize> {
        let [a, b, c, d, len @ ..] = head;
        let len = usize::try_from(u32::from_be_bytes(len)).ok()?;
        let sound = (FIXED..=MAX_INDEX - FRAME).contains(&len) && (len - FIXED).is_multiple_of(ENTRY);
        ([a, b, c, d] == INDEX && sound).then_some(len + FRAME)
    }

    /// The index that ends a file whose last bytes these are and which has `file_len` bytes; `None` if none does.
    pub(super) fn find(tail: &[u8], file_len: u64) -> Option<Self> {
        let (rest, mark) = tail.split_last_chunk::<4>()?;
        let (_, len) = rest.split_last_chunk::<4>()?;
        if *mark != INDEX_END {
            return None;
        }
        let len = usize::try_from(u32::from_be_bytes(*len)).ok()?.checked_add(FRAME)?;
        let begin = tail.len().checked_sub(len)?;
        Self::parse(tail.get(begin..)?, file_len.checked_sub(len as u64)?)
    }

    /// Parses a whole index that begins at `offset` of the file.
    pub(super) fn parse(bytes: &[u8], offset: u64) -> Option<Self> {
        let (head, _) = bytes.split_first_chunk::<8>()?;
        if Self::len_of(*head)? != bytes.len() {
            return None;
        }
        let (crc, rest) = bytes.get(8..)?.split_first_chunk::<4>()?;
        let (body, end) = rest.split_last_chunk::<8>()?;
        let [.., a, b, c, d] = *end;
        let crc = u32::from_be_bytes(*crc);
        if [a, b, c, d] != INDEX_END || checksum(&[head, body, end]) != crc {
            return None;
        }
        let mut body = body;
        let mut index = Self {
            duration: Duration::from_millis(body.get_u64()),
            output: body.get_u64(),
            segments: body.get_u32(),
            largest: (body.get_u16(), body.get_u16()),
            entries: Vec::with_capacity(body.remaining() / ENTRY),
            step: 0,
        };
        while body.has_remaining() {
            let entry = Entry { time: body.get_u64(), offset: body.get_u64() };
            let follows =
                index.entries.last().is_none_or(|last| last.time <= entry.time && last.offset < entry.offset);
            if !follows || entry.offset >= offset {
                return None;
            }
            index.entries.push(entry);
        }
        (index.entries.len() as u64 <= u64::from(index.segments)).then_some(index)
    }

    /// Where a reader begins who wants all that is shown from `time`: the last segment that begins earlier, or the first.
    pub(super) fn before(&self, time: Duration) -> Option<Entry> {
        let time = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let after = self.entries.partition_point(|entry| entry.time < time);
        self.entries.get(after.saturating_sub(1)).copied()
    }

    /// The last segment with an entry that begins at `offset` or before.
    pub(super) fn at_or_before(&self, offset: u64) -> Option<Entry> {
        let after = self.entries.partition_point(|entry| entry.offset <= offset);
        self.entries.get(after.checked_sub(1)?).copied()
    }

    /// The first segment with an entry that begins behind `offset`.
    pub(super) fn behind(&self, offset: u64) -> Option<Entry> {
        self.entries.get(self.entries.partition_point(|entry| entry.offset <= offset)).copied()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
    use super::*;

    fn index(segments: u64) -> Index {
        let mut index = Index::default();
        for number in 0..segments {
            index.push(Entry { time: number * 10, offset: 100 + number * 1000 });
            assert!(index.entries.len() <= MAX_ENTRIES);
            assert!(index.entries.capacity() <= MAX_ENTRIES);
        }
        index
    }

    #[test]
    fn entries_thin_out_evenly() {
        for segments in [0, 1, 2, MAX_ENTRIES as u64, MAX_ENTRIES as u64 + 1, 5000, 1_000_000] {
            let index = index(segments);
            assert_eq!(u64::from(index.segments), segments);
            let expected = u64::from(index.step) + 1;
            let steps = index.entries.windows(2).map(|pair| (pair[1].offset - pair[0].offset) / 1000);
            assert!(steps.into_iter().all(|step| step == expected), "{segments}");
            if segments > 0 {
                assert_eq!(index.entries[0].offset, 100);
                let most = (MAX_ENTRIES as u64 / 2).min(segments);
                assert!(index.entries.len() as u64 >= most, "{segments}: {}", index.entries.len());
                let last = index.entries[index.entries.len() - 1];
                assert!((100 + segments * 1000 - last.offset) / 1000 <= expected, "{segments}");
            }
            let bytes = index.to_bytes();
            assert!(bytes.len() <= MAX_INDEX);
            let before = 100 + segments * 1000;
            let read = Index::find(&bytes, before + bytes.len() as u64).unwrap();
            assert_eq!(read.entries, index.entries);
        }
    }

    #[test]
    fn a_time_is_found_in_the_last_segment_that_begins_earlier() {
        let index = index(4);
        let offset = |millis| index.before(Duration::from_millis(millis)).map(|entry| entry.offset);
        assert_eq!([offset(0), offset(10), offset(11), offset(1000)], [100, 100, 1100, 3100].map(Some));
        let behind = |offset| index.behind(offset).map(|entry| entry.offset);
        assert_eq!(
            [behind(0), behind(100), behind(3099), behind(3100)],
            [Some(100), Some(1100), Some(3100), None]
        );
        let upto = |offset| index.at_or_before(offset).map(|entry| entry.offset);
        assert_eq!([upto(99), upto(100), upto(1099), upto(9999)], [None, Some(100), Some(100), Some(3100)]);
        assert_eq!(Index::default().before(Duration::ZERO), None);
    }

    #[test]
    fn a_damaged_index_is_none() {
        let bytes = index(3).to_bytes();
        let len = 3100 + bytes.len() as u64;
        assert!(Index::find(&bytes, len).is_some());
        for at in 0..bytes.len() {
            for bit in [0x01, 0x80] {
                let mut damaged = bytes.clone();
                damaged[at] ^= bit;
                assert_eq!(Index::find(&damaged, len), None, "byte {at}");
            }
            assert_eq!(Index::find(&bytes[at + 1..], len), None);
        }
        // Sound in itself, but of another file: it speaks of what is not there.
        assert_eq!(Index::find(&bytes, len - 1101), None);
        let mut wrong = index(3);
        wrong.entries.swap(0, 2);
        assert_eq!(Index::find(&wrong.to_bytes(), len), None);
        let mut wrong = index(3);
        wrong.segments = 2;
        assert_eq!(Index::find(&wrong.to_bytes(), len), None);
    }
}
