//! Lines of a file, forwards and backwards, in bounded memory.

use std::io;

/// How much is read at a time.
pub(super) const BLOCK: usize = 64 * 1024;

/// No event is so long; a longer line means that the file is damaged.
pub(super) const MAX_LINE: usize = 4 << 20;

/// Something that can be read at any place.
pub(super) trait ReadAt {
    fn read_exact_at(&self, out: &mut [u8], offset: u64) -> io::Result<()>;
}

impl ReadAt for std::fs::File {
    fn read_exact_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(self, out, offset)
    }
}

impl<T: ReadAt> ReadAt for &T {
    fn read_exact_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        (**self).read_exact_at(out, offset)
    }
}

/// A line without its newline, and the places before and behind it (behind its newline). One that is longer than [`MAX_LINE`] has no text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) text: Vec<u8>,
}

impl Line {
    /// Whether it is longer than any entry.
    pub(super) const fn is_too_long(&self) -> bool {
        self.end - self.start > self.text.len() as u64 + 1
    }
}

/// The complete lines between two places of a file; what follows the last newline is left out, as it is being
/// written or was cut by a crash.
pub(super) struct Lines<F> {
    backwards: bool,
    /// Forwards: the bytes from `low` on, after the first `taken`. Backwards: those before `high`.
    buffer: Vec<u8>,
    file: F,
    high: u64,
    low: u64,
    taken: usize,
}

impl<F: ReadAt> Lines<F> {
    /// Lines between `low`, which is the start of a line, and `high`.
    pub(super) const fn new(file: F, low: u64, high: u64, backwards: bool) -> Self {
        Self { backwards, buffer: Vec::new(), file, high, low, taken: 0 }
    }

    pub(super) fn next(&mut self) -> io::Result<Option<Line>> {
        if self.backwards { self.previous_line() } else { self.next_line() }
    }

    /// Forwards: where the next line begins.
    pub(super) const fn place(&self) -> u64 {
        self.low
    }

    fn next_line(&mut self) -> io::Result<Option<Line>> {
        let mut searched = self.taken;
        // Bytes of a line that is too long, before the buffer.
        let mut dropped = 0;
        loop {
            let unsearched = self.buffer.get(searched..).unwrap_or_default();
            if let Some(at) = unsearched.iter().position(|byte| *byte == b'\n') {
                let newline = searched + at;
                let text = self.buffer.get(self.taken..newline).unwrap_or_default();
                let start = self.low;
                self.low += dropped + text.len() as u64 + 1;
                let text =
                    if dropped + text.len() as u64 > MAX_LINE as u64 { Vec::new() } else { text.to_vec() };
                self.taken = newline + 1;
                return Ok(Some(Line { start, end: self.low, text }));
            }
            self.buffer.drain(..self.taken);
            self.taken = 0;
            if self.buffer.len() > MAX_LINE {
                dropped += self.buffer.len() as u64;
                self.buffer.clear();
            }
            searched = self.buffer.len();
            let read = self.low + dropped + searched as u64;
            let want = block(self.high.saturating_sub(read));
            if want == 0 {
                return Ok(None);
            }
            self.buffer.resize(searched + want, 0);
            self.file.read_exact_at(self.buffer.get_mut(searched..).unwrap_or_default(), read)?;
        }
    }

    fn previous_line(&mut self) -> io::Result<Option<Line>> {
        // The tail of the body that is known to have no newline.
        let mut searched = 0;
        // Bytes of a line that is too long, behind the buffer, and whether they end with a newline.
        let (mut dropped, mut is_ended) = (0, false);
        loop {
            // The newline that ends the line itself does not separate it from the one before.
            let body = match dropped {
                0 => self.buffer.split_last().map_or(&[][..], |(_, body)| body),
                _ => &self.buffer[..],
            };
            let read = self.high - dropped - self.buffer.len() as u64;
            let unsearched = body.get(..body.len() - searched).unwrap_or_default();
            let begin = match unsearched.iter().rposition(|byte| *byte == b'\n') {
                Some(newline) => Some(newline + 1),
                None if read <= self.low && (dropped > 0 || !self.buffer.is_empty()) => Some(0),
                None => None,
            };
            if let Some(begin) = begin {
                let mut text = self.buffer.split_off(begin);
                let end = self.high;
                let start = end - dropped - text.len() as u64;
                self.high = start;
                if dropped == 0 {
                    is_ended = text.pop() == Some(b'\n');
                }
                if is_ended {
                    if dropped > 0 || text.len() > MAX_LINE {
                        text.clear();
                    }
                    return Ok(Some(Line { start, end, text }));
                }
                (searched, dropped) = (0, 0);
                continue;
            }
            if self.buffer.len() > MAX_LINE {
                if dropped == 0 {
                    is_ended = self.buffer.last() == Some(&b'\n');
                }
                dropped += self.buffer.len() as u64;
                self.buffer.clear();
                searched = 0;
            } else {
                searched = body.len();
            }
            let want = block(read.saturating_sub(self.low));
            if want == 0 {
                return Ok(None);
            }
            let mut block = vec![0; want];
            self.file.read_exact_at(&mut block, read - want as u64)?;
            block.append(&mut self.buffer);
            self.buffer = block;
        }
    }
}

fn block(left: u64) -> usize {
    usize::try_from(left).unwrap_or(BLOCK).min(BLOCK)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
    use super::*;

    impl ReadAt for Vec<u8> {
        fn read_exact_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
            let offset = offset as usize;
            out.copy_from_slice(self.get(offset..offset + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        }
    }

    fn all(file: &Vec<u8>, low: u64, high: u64, backwards: bool) -> Vec<Line> {
        let mut lines = Lines::new(file, low, high, backwards);
        std::iter::from_fn(|| lines.next().unwrap()).collect()
    }

    #[test]
    fn both_directions_see_the_same_lines() {
        // Lines around the size of a block, empty ones, and an unfinished one at the end.
        let lengths = [0, 1, BLOCK - 2, BLOCK - 1, BLOCK, BLOCK + 1, 0, 0, 3 * BLOCK + 5, 7];
        let mut file = Vec::new();
        for (number, len) in lengths.into_iter().enumerate() {
            file.resize(file.len() + len, b'a' + number as u8);
            file.push(b'\n');
        }
        let whole = file.len() as u64;
        file.extend_from_slice(b"unfinished");
        for high in [whole, file.len() as u64] {
            let forwards = all(&file, 0, high, false);
            assert_eq!(forwards.iter().map(|line| line.text.len()).collect::<Vec<_>>(), lengths);
            for line in &forwards {
                assert_eq!(file[line.start as usize..line.end as usize - 1], line.text[..]);
            }
            let mut backwards = all(&file, 0, high, true);
            backwards.reverse();
            assert_eq!(backwards, forwards);
            // From any line on, and up to any line.
            for cut in 0..forwards.len() {
                let at = forwards[cut].start;
                assert_eq!(all(&file, at, high, false), forwards[cut..]);
                assert_eq!(all(&file, 0, at, true).len(), cut);
            }
        }
        assert!(all(&Vec::new(), 0, 0, false).is_empty() && all(&Vec::new(), 0, 0, true).is_empty());
        assert!(all(&b"x".to_vec(), 0, 1, true).is_empty());
    }

    #[test]
    fn a_line_that_is_too_long_is_passed_over_without_all_the_memory() {
        let parts: [&[u8]; 5] =
            [b"one\n", &vec![b'x'; MAX_LINE + 3 * BLOCK], b"\ntwo\n\n", &vec![b'y'; MAX_LINE], b"\nend"];
        let file = parts.concat();
        for backwards in [false, true] {
            let mut lines = Lines::new(&file, 0, file.len() as u64, backwards);
            let (mut seen, mut most) = (Vec::new(), 0);
            while let Some(line) = lines.next().unwrap() {
                most = most.max(lines.buffer.capacity());
                seen.push((line.end - line.start, line.is_too_long(), line.text.len()));
            }
            if backwards {
                seen.reverse();
            }
            let long = (MAX_LINE + 3 * BLOCK + 1) as u64;
            let longest = (MAX_LINE as u64 + 1, false, MAX_LINE);
            assert_eq!(seen, [(4, false, 3), (long, true, 0), (4, false, 3), (1, false, 0), longest]);
            assert!(most <= 3 * MAX_LINE, "{most}");
        }
        // Nothing else.
        for file in [vec![b'x'; MAX_LINE + 3 * BLOCK], [&vec![b'x'; 2 * MAX_LINE][..], b"\n"].concat()] {
            let count = usize::from(file.ends_with(b"\n"));
            for backwards in [false, true] {
                assert_eq!(all(&file, 0, file.len() as u64, backwards).len(), count);
            }
        }
    }
}
