//! What of recorded output may reach a terminal: what draws, and nothing that makes the terminal do or say something.

use vte::{Params, Parser, Perform};

use super::utf8::Utf8;

/// Passes terminal output on without whatever is more than drawing, as if it had been typed by a stranger: it was.
///
/// Output is parsed like a terminal does it, and what is allowed is written anew from what was understood. So there is nothing
/// that this understands otherwise than the terminal. Control strings (OSC, DCS, APC, PM, SOS) go, whatever they say: the clipboard,
/// titles, hyperlinks, colours, requests for settings. So do questions that a terminal answers as if somebody had typed, modes that
/// change what keys and the mouse send, and everything that moves or resizes the window, prints, or is not known.
///
/// Sequences may be split between calls. Memory is constant.
pub struct TerminalFilter {
    parser: Parser,
    /// The parser sees whole characters: it has its own ideas of bytes that are none.
    utf8: Utf8,
    plain: bool,
    left: Left,
}

/// What was left behind that text alone does not undo.
#[derive(Clone, Copy, Debug, Default)]
struct Left {
    /// The alternate screen is shown.
    alternate: bool,
    /// There are margins, or the origin is another.
    margins: bool,
}

impl std::fmt::Debug for TerminalFilter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TerminalFilter").field("plain", &self.plain).finish_non_exhaustive()
    }
}

impl TerminalFilter {
    /// Keeps what draws.
    pub fn drawing() -> Self {
        Self { parser: Parser::new(), utf8: Utf8::new(), plain: false, left: Left::default() }
    }

    /// Keeps text, line feeds and tabs only.
    pub fn text() -> Self {
        Self { parser: Parser::new(), utf8: Utf8::new(), plain: true, left: Left::default() }
    }

    /// What of the next output may pass: always valid UTF-8, with U+FFFD for what was none.
    pub fn pass(&mut self, data: &[u8]) -> String {
        let text = String::with_capacity(data.len());
        let mut out = Allowed { text, plain: self.plain, left: self.left };
        self.parser.advance(&mut out, self.utf8.text(data).as_bytes());
        self.left = out.left;
        out.text
    }

    /// What brings a terminal back to normal after all that has passed: colours, character sets, the cursor, margins, screens.
    pub fn restore(&self) -> String {
        let mut text = String::from(NORMAL);
        if self.left.margins {
            // Without them the cursor would go to the first line.
            text.push_str("\x1b[?6l\x1b[?69l\x1b[r\x1b[999;1H");
        }
        if self.left.alternate {
            text.push_str("\x1b[?1049l");
        }
        text
    }
}

/// No colours, ASCII, a visible cursor, wrapped lines, no reverse video, no insertion.
const NORMAL: &str = "\x1b[m\x1b(B\x0f\x1b[?25h\x1b[?7h\x1b[?5l\x1b[4l";

/// Collects what is allowed.
struct Allowed {
    text: String,
    plain: bool,
    left: Left,
}

const ESCAPE: char = '\u{1b}';

/// Modes of DEC terminals that change how things are drawn.
const DRAWING_MODES: [u16; 12] = [
    5,    // reverse video
    6,    // origin
    7,    // automatic wrap
    12,   // blinking cursor
    25,   // visible cursor
    45,   // reverse wrap
    47,   // alternate screen
    69,   // left and right margins
    1045, // extended reverse wrap
    1047, // alternate screen
    1048, // saved cursor
    1049, // both
];

impl Allowed {
    fn mode(&mut self, mode: u16, on: bool) {
        match mode {
            6 | 69 => self.left.margins |= on,
            47 | 1047 | 1049 => self.left.alternate = on,
            _ => {}
        }
    }

    fn sequence(&mut self, params: &Params, intermediates: &[u8], action: char) {
        self.text.extend([ESCAPE, '[']);
        let (private, last): (Vec<u8>, Vec<u8>) =
            intermediates.iter().partition(|byte| (b'<'..=b'?').contains(*byte));
        self.text.extend(private.into_iter().map(char::from));
        let alone = params.len() == 1 && params.iter().all(|parameter| *parameter == [0]);
        // `CSI s` saves the cursor, and `CSI 0 s` is a margin.
        if !alone {
            for (number, parameter) in params.iter().enumerate() {
                if number > 0 {
                    self.text.push(';');
                }
                for (number, part) in parameter.iter().enumerate() {
                    if number > 0 {
                        self.text.push(':');
                    }
                    self.text.push_str(&part.to_string());
                }
            }
        }
        self.text.extend(last.into_iter().map(char::from));
        self.text.push(action);
    }
}

impl Perform for Allowed {
    fn print(&mut self, character: char) {
        if !character.is_control() {
            self.text.push(character);
        }
    }

    fn execute(&mut self, byte: u8) {
        let allowed = match byte {
            b'\n' | b'\t' => true,
            // Bell, back, vertical tab, form feed, return, the two character sets. Not ENQ, which is answered.
            0x07 | 0x08 | 0x0b..=0x0f => !self.plain,
            _ => false,
        };
        if allowed {
            self.text.push(char::from(byte));
        }
    }

    fn csi_dispatch(&mut self, params: &Params, intermediates: &[u8], ignore: bool, action: char) {
        if self.plain || ignore {
            return;
        }
        let allowed = match (intermediates, action) {
            // Characters, movement, erasing, insertion, scrolling, tabs, repetition; colours, margins, the saved cursor.
            (
                [],
                '@'..='I'
                | 'K'..='M'
                | 'P'
                | 'S'
                | 'X'
                | 'Z'
                | '`'
                | 'a'
                | 'b'
                | 'd'..='g'
                | 'm'
                | 'r'
                | 's'
                | 'u',
            ) => true,
            // With more parameters it is about the mouse.
            ([], 'T') => params.len() <= 1,
            // What was on the viewer's terminal before stays there to be scrolled back to.
            ([], 'J') => params.iter().all(|parameter| *parameter != [3]),
            // Insertion.
            ([], 'h' | 'l') => params.iter().all(|parameter| *parameter == [4]),
            // The form of the cursor.
            ([b' '], 'q') => true,
            // Soft reset.
            ([b'!'], 'p') => true,
            // Selective erasing.
            ([b'?'], 'J' | 'K') => true,
            ([b'?'], 'h' | 'l') => {
                let drawing = |parameter: &[u16]| match parameter {
                    [mode] => DRAWING_MODES.contains(mode),
                    _ => false,
                };
                if !params.iter().all(drawing) {
                    // Some may be allowed: they are written one by one.
                    for parameter in params.iter().filter(|parameter| drawing(parameter)) {
                        for mode in parameter {
                            self.mode(*mode, action == 'h');
                            self.text.push_str(&format!("\u{1b}[?{mode}{action}"));
                        }
                    }
                    return;
                }
                for parameter in params {
                    parameter.iter().for_each(|mode| self.mode(*mode, action == 'h'));
                }
                true
            }
            _ => false,
        };
        if allowed {
            self.left.margins |= intermediates.is_empty() && action == 'r';
            self.sequence(params, intermediates, action);
        }
    }

    fn esc_dispatch(&mut self, intermediates: &[u8], ignore: bool, byte: u8) {
        if self.plain || ignore {
            return;
        }
        let allowed = match (intermediates, byte) {
            // The saved cursor, lines up and down, a tab stop.
            ([], b'7' | b'8' | b'D' | b'E' | b'H' | b'M') => true,
            ([], b'c') => {
                // As far as it draws: a real reset also takes what the viewer has set.
                self.text.push_str(NORMAL);
                if std::mem::take(&mut self.left.alternate) {
                    self.text.push_str("\x1b[?1049l");
                }
                self.text.push_str("\x1b[?6l\x1b[?69l\x1b[r\x1b[H\x1b[2J");
                false
            }
            // ASCII, British, and lines.
            ([b'(' | b')' | b'*' | b'+'], b'0' | b'A' | b'B') => true,
            // Double size, and the test picture.
            ([b'#'], b'3'..=b'6' | b'8') => true,
            _ => false,
        };
        if allowed {
            self.text.push(ESCAPE);
            self.text.extend(intermediates.iter().copied().chain([byte]).map(char::from));
        }
    }
}

#[cfg(test)]
#[path = "filter_tests.rs"]
mod tests;
