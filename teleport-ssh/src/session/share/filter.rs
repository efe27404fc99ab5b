//! What whoever joins a session is shown of what its program prints.
//!
//! A program may ask its terminal questions, whose answers arrive as if they were typed, write into the clipboard, and resize the
//! window; it may also make a terminal forget what it showed before. All that is between the program and its owner's terminal: with
//! several terminals there would be several answers. So the terminals of the others get everything but that.

use bytes::{Bytes, BytesMut};
use teleport_core::recording::Utf8;

use super::scanner::{Scanner, Sequence, Step};

/// "Who are you?"
const ENQ: u8 = 0x05;
const ESC: u8 = 0x1b;

/// Takes out what is not for the terminals of others.
#[derive(Debug, Default)]
pub(super) struct Filter {
    scanner: Scanner,
    /// Only whole characters are shown: terminals have their own ideas of bytes that are none.
    utf8: Utf8,
    /// Whether switches of modes are taken out as well: what a terminal was told of them before is not what counts now.
    modes: bool,
}

impl Filter {
    /// For what was printed before.
    pub(super) fn of_the_past() -> Self {
        Self { modes: true, ..Self::default() }
    }

    /// What of the next piece is shown; not copied if that is all of it and it has no sequences.
    pub(super) fn pass(&mut self, data: &Bytes) -> Bytes {
        let plain = |byte: &u8| byte.is_ascii() && !matches!(*byte, ESC | ENQ);
        if self.scanner.is_ground() && self.utf8.is_whole() && data.iter().all(plain) {
            return data.clone();
        }
        let mut shown = BytesMut::with_capacity(data.len());
        // U+0080 to U+009F are the same controls as `ESC @` to `ESC _`.
        let text: String = self
            .utf8
            .text(data)
            .chars()
            .filter(|character| !matches!(*character, '\u{80}'..='\u{9f}' | char::REPLACEMENT_CHARACTER))
            .collect();
        for byte in text.into_bytes() {
            match self.scanner.next(byte) {
                Step::Plain if byte == ENQ => {}
                Step::Plain => shown.extend_from_slice(&[byte]),
                Step::Within => {}
                Step::End(sequence) if self.shows(&sequence) => shown.extend_from_slice(self.scanner.raw()),
                Step::End(_) => {}
            }
        }
        shown.freeze()
    }

    fn shows(&self, sequence: &Sequence) -> bool {
        match sequence {
            Sequence::Other => false,
            Sequence::Osc(text) => {
                // Titles, and links.
                let number = text.split(|byte| *byte == b';').next().unwrap_or_default();
                matches!(number, b"0" | b"1" | b"2" | b"8")
            }
            // "Who are you?", in the oldest way.
            Sequence::Escape(bytes) => {
                bytes != b"Z" && !(self.modes && matches!(bytes.as_slice(), b"=" | b">"))
            }
            Sequence::Csi { inner, last } => {
                let first = inner.first().copied().unwrap_or_default();
                let marked = inner.last().is_some_and(|byte| (0x20..=0x2f).contains(byte));
                match last {
                    // Device attributes, reports, window operations, parameters, printing.
                    b'c' | b'n' | b't' | b'x' | b'i' => false,
                    // Questions that look like commands.
                    b'q' if first == b'>' => false,
                    b'u' if first == b'?' => false,
                    b'S' if first == b'?' => false,
                    // Requests for modes, presentation states, checksums, rectangles.
                    b'p' | b'w' | b'y' | b'u' | b'v' if marked && inner.last() != Some(&b'!') => false,
                    // What they showed before is their own.
                    b'J' => inner != b"3",
                    b'h' | b'l' => !(self.modes && first == b'?'),
                    _ => true,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, reason = "tests fail by panicking")]
    use proptest::prelude::*;

    use super::*;

    fn pass(text: &[u8]) -> Vec<u8> {
        Filter::default().pass(&Bytes::copy_from_slice(text)).to_vec()
    }

    #[test]
    fn f4_nobody_elses_terminal_is_asked_or_written_into() {
        for hidden in [
            &b"\x1b[c"[..],
            b"\x1b[>c",
            b"\x1b[0c",
            b"\x1b[6n",
            b"\x1b[?6n",
            b"\x1b[18t",
            b"\x1b[8;50;100t",
            b"\x1b[x",
            b"\x1b[3J",
            b"\x1b[?2026$p",
            b"\x1b[>q",
            b"\x1b[?u",
            b"\x1b[5i",
            b"\x1b[1$w",
            b"\x1b[1;1;1;1;1;1*y",
            b"\x1bZ",
            b"\x05",
            b"\xc2\x9b",
            b"\xc2\x9d\xc2\x9c\xc2\x90",
            b"\x1b]52;c;cm0gLXJm\x07",
            b"\x1b]10;?\x07",
            b"\x1b]4;1;?\x1b\\",
            b"\x1bP$qm\x1b\\",
            b"\x1bP+q544e\x1b\\",
            b"\x1b_Gi=31,a=q;AAAA\x1b\\",
            b"\x1bX..\x1b\\",
            b"\x1b^..\x1b\\",
            b"\x1b[1\x05m",
            b"\x1b\x05",
            b"\x1b]0;\x05\x07",
        ] {
            let text = [&b"a"[..], hidden, b"b"].concat();
            assert_eq!(pass(&text), b"ab", "{}", text.escape_ascii());
        }
        let long = [b"\x1b]0;", "x".repeat(20_000).as_bytes(), b"\x07"].concat();
        assert_eq!(pass(&[&long[..], b"b"].concat()), b"b");
    }

    #[test]
    fn whatever_draws_is_shown() {
        for shown in [
            &b"plain \xc3\xa9 text\r\n"[..],
            b"\x1b[1;31mred\x1b[0m",
            b"\x1b[2J\x1b[H\x1b[10;20H",
            b"\x1b[?1049h\x1b[?25l\x1b=\x1b>",
            b"\x1b[3;20r\x1b[2L\x1b[M\x1b[4@",
            b"\x1b]0;title\x07\x1b]2;title\x1b\\\x1b]8;;https://example.com\x07link\x1b]8;;\x07",
            b"\x1b(0lqqk\x1b(B\x1b7\x1b8\x1bM\x1bc\x1b#8",
            b"\x1b[!p\x1b[2 q\x1b[u\x1b[s\x1b[3S",
            b"\x1b[1;2\x1b[3m",
        ] {
            let expected: &[u8] = if shown == b"\x1b[1;2\x1b[3m" { b"\x1b[3m" } else { shown };
            assert_eq!(pass(shown), expected, "{}", shown.escape_ascii());
        }
        let mut past = Filter::of_the_past();
        let text = Bytes::from_static(b"a\x1b[?1049hb\x1b[?1000;1006hc\x1b=d\x1b[4he");
        assert_eq!(past.pass(&text), "abcd\x1b[4he");
    }

    proptest! {
        /// Wherever the stream is cut, the same is shown, and nothing that was not printed.
        #[test]
        fn cuts_change_nothing(
            text in proptest::collection::vec(prop_oneof![
                Just(b'\x1b'), Just(b'['), Just(b']'), Just(b'?'), Just(b'\\'), Just(b'\x07'), Just(b'P'), Just(b';'),
                Just(b'h'), Just(b'c'), Just(b'$'), Just(b'\x18'), Just(b'\x05'), any::<u8>(),
            ], 0..200),
            cuts in proptest::collection::vec(0..200_usize, 0..5),
        ) {
            let whole = pass(&text);
            let mut at: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).chain([0, text.len()]).collect();
            at.sort_unstable();
            let mut filter = Filter::default();
            let mut pieces = Vec::new();
            for window in at.windows(2) {
                pieces.extend_from_slice(&filter.pass(&Bytes::copy_from_slice(&text[window[0]..window[1]])));
            }
            prop_assert_eq!(&pieces, &whole);
            // A subsequence.
            let mut rest = text.iter();
            prop_assert!(whole.iter().all(|byte| rest.any(|other| other == byte)));
            // What is shown is shown again: nothing comes into being by taking out.
            prop_assert_eq!(pass(&whole), whole.clone());
        }
    }
}
