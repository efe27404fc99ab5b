//! What a terminal shows at the moment, as far as it must be known to show it to somebody who comes later.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};

use super::filter::Filter;
use super::scanner::{Scanner, Sequence, Step};

/// How much of what was printed is kept, in bytes: some screens full of lines.
const MAX_KEPT: usize = 64 << 10;
/// In how many pieces, before they are put together: what is in many pieces costs more than its bytes.
const MAX_PIECES: usize = 1024;

/// Modes that are remembered: those that programs switch and that a terminal begins without, but for the last two.
const MODES: [u16; 11] = [1, 1000, 1002, 1003, 1004, 1005, 1006, 1015, 2004, 25, 7];
/// The modes with which a terminal begins.
const FIRST_ON: [u16; 2] = [25, 7];
/// Other names of the alternate screen.
const ALTERNATE: [u16; 3] = [47, 1047, 1049];

/// A terminal's recent past. What programs draw on the alternate screen is not part of it: they draw it again when they are told
/// of another size, and nothing of it stays when they leave.
#[derive(Debug, Default)]
pub(super) struct Screen {
    kept: VecDeque<Bytes>,
    length: usize,
    /// Whether something was thrown away: then the first line may be half of one.
    cut: bool,
    scanner: Scanner,
    alternate: bool,
    keypad: bool,
    /// Those that are not as at the beginning.
    switched: Vec<u16>,
}

impl Screen {
    /// Whether a program draws on all of the screen.
    pub(super) const fn is_alternate(&self) -> bool {
        self.alternate
    }

    /// Takes note of what is shown. Keeps the piece itself, not a copy.
    pub(super) fn show(&mut self, data: &Bytes) {
        if self.scanner.is_ground() && !data.contains(&0x1b) {
            if !self.alternate {
                self.keep(data.clone());
            }
            return;
        }
        let mut from = 0;
        for (at, byte) in data.iter().enumerate() {
            if let Step::End(sequence) = self.scanner.next(*byte) {
                let before = self.alternate;
                self.take(&sequence);
                if before != self.alternate {
                    if !before {
                        self.keep(data.slice(from..=at));
                    }
                    from = at + 1;
                }
            }
        }
        if !self.alternate {
            self.keep(data.slice(from..));
        }
    }

    fn keep(&mut self, data: Bytes) {
        let data = match data.len().checked_sub(MAX_KEPT) {
            Some(more) if more > 0 => {
                self.kept.clear();
                self.length = 0;
                self.cut = true;
                data.slice(more..)
            }
            _ => data,
        };
        if data.is_empty() {
            return;
        }
        self.length += data.len();
        self.kept.push_back(data);
        while let Some(more) = self.length.checked_sub(MAX_KEPT).filter(|more| *more > 0)
            && let Some(oldest) = self.kept.front_mut()
        {
            let gone = more.min(oldest.len());
            oldest.advance(gone);
            if oldest.is_empty() {
                self.kept.pop_front();
            }
            self.length -= gone;
            self.cut = true;
        }
        if self.kept.len() > MAX_PIECES {
            let mut whole = BytesMut::with_capacity(self.length);
            self.kept.drain(..).for_each(|piece| whole.extend_from_slice(&piece));
            self.kept.push_back(whole.freeze());
        }
    }

    fn take(&mut self, sequence: &Sequence) {
        match sequence {
            Sequence::Csi { inner, last: last @ (b'h' | b'l') } => {
                let Some((b'?', numbers)) = inner.split_first() else { return };
                for number in numbers.split(|byte| *byte == b';') {
                    let number = std::str::from_utf8(number).ok().and_then(|text| text.parse().ok());
                    self.switch(number.unwrap_or_default(), *last == b'h');
                }
            }
            Sequence::Csi { inner, last: b'p' } if inner == b"!" => self.reset(),
            Sequence::Escape(bytes) => match bytes.as_slice() {
                b"=" => self.keypad = true,
                b">" => self.keypad = false,
                b"c" => {
                    self.alternate = false;
                    self.reset();
                }
                _ => {}
            },
            _ => {}
        }
    }

    fn switch(&mut self, mode: u16, on: bool) {
        if ALTERNATE.contains(&mode) {
            self.alternate = on;
        } else if MODES.contains(&mode) {
            self.switched.retain(|known| *known != mode);
            if on != FIRST_ON.contains(&mode) {
                self.switched.push(mode);
            }
        }
    }

    fn reset(&mut self) {
        self.switched.clear();
        self.keypad = false;
    }

    /// What makes a terminal of so many rows show the same, as far as it can be known. What it showed before goes into its own past.
    pub(super) fn replay(&self, rows: u32) -> Bytes {
        let mut past = BytesMut::with_capacity(self.length);
        self.kept.iter().for_each(|piece| past.extend_from_slice(piece));
        let mut past = past.freeze();
        if self.cut {
            let line = past.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            past = past.slice(line..);
        }
        let past = Filter::of_the_past().pass(&past);
        let rows = rows.clamp(1, 500);
        let mut text = format!("\x1b[0m\x1b[{rows};1H").into_bytes();
        text.resize(text.len() + rows as usize, b'\n');
        text.extend_from_slice(b"\x1b[H\x1b[2J");
        text.extend_from_slice(&past);
        if self.alternate {
            text.extend_from_slice(b"\x1b[?1049h\x1b[H\x1b[2J");
        }
        if self.keypad {
            text.extend_from_slice(b"\x1b=");
        }
        for mode in &self.switched {
            let switch = if FIRST_ON.contains(mode) { 'l' } else { 'h' };
            text.extend_from_slice(format!("\x1b[?{mode}{switch}").as_bytes());
        }
        text.into()
    }

    /// What gives a terminal that showed this back to its user.
    pub(super) fn undo(&self) -> Bytes {
        let mut text = Vec::new();
        for mode in &self.switched {
            let switch = if FIRST_ON.contains(mode) { 'h' } else { 'l' };
            text.extend_from_slice(format!("\x1b[?{mode}{switch}").as_bytes());
        }
        if self.keypad {
            text.extend_from_slice(b"\x1b>");
        }
        if self.alternate {
            text.extend_from_slice(b"\x1b[?1049l");
        }
        text.extend_from_slice(b"\x1b[0m");
        text.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn screen(pieces: &[&'static [u8]]) -> Screen {
        let mut screen = Screen::default();
        pieces.iter().for_each(|piece| screen.show(&Bytes::from_static(piece)));
        screen
    }

    fn replay(screen: &Screen) -> String {
        let text = String::from_utf8_lossy(&screen.replay(2)).into_owned();
        text.strip_prefix("\x1b[0m\x1b[2;1H\n\n\x1b[H\x1b[2J").map(str::to_owned).unwrap_or(text)
    }

    #[test]
    fn what_was_printed_is_shown_and_no_question_is_asked_again() {
        let screen = screen(&[b"$ ls\r\n", b"a b\x1b[6n\r\n\x1b[1", b"m$ "]);
        assert_eq!(replay(&screen), "$ ls\r\na b\r\n\x1b[1m$ ");
        assert_eq!(&screen.undo()[..], b"\x1b[0m");
    }

    #[test]
    fn what_is_drawn_on_the_other_screen_is_left_out() {
        let mut editor = screen(&[b"$ vi\r\n\x1b[?104", b"9h\x1b[?1h\x1b=\x1b[?25ldrawn\x1b[H", b"more"]);
        assert!(editor.is_alternate());
        assert_eq!(replay(&editor), "$ vi\r\n\x1b[?1049h\x1b[H\x1b[2J\x1b=\x1b[?1h\x1b[?25l");
        assert_eq!(&editor.undo()[..], b"\x1b[?1l\x1b[?25h\x1b>\x1b[?1049l\x1b[0m");
        editor.show(&Bytes::from_static(b"x\x1b[?25h\x1b[?1l\x1b>\x1b[?1049l\r\n$ "));
        assert!(!editor.is_alternate());
        assert_eq!(replay(&editor), "$ vi\r\n\r\n$ ");
        editor.show(&Bytes::from_static(b"\x1b[?1049;1000h\x1bc$"));
        assert_eq!(replay(&editor), "$ vi\r\n\r\n$ $");
    }

    #[test]
    fn what_is_kept_is_bounded_and_begins_with_a_line() {
        let mut long = Screen::default();
        for number in 0..100_000 {
            long.show(&Bytes::from(format!("line {number}\r\n")));
        }
        assert!(long.length <= MAX_KEPT && long.kept.len() <= MAX_PIECES + 1);
        let text = replay(&long);
        assert!(text.starts_with("line ") && text.ends_with("line 99999\r\n"), "{}", text.len());
        assert!(text.len() > MAX_KEPT / 2);
        long.show(&Bytes::from(vec![b'x'; 3 * MAX_KEPT]));
        assert_eq!(long.length, MAX_KEPT);
        // Without a copy.
        let piece = Bytes::from(vec![b'y'; 100]);
        long.show(&piece);
        assert_eq!(long.kept.back().map(|kept| kept.as_ptr()), Some(piece.as_ptr()));
    }
}
