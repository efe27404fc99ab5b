//! Recorded output as plain text, and events as JSON.

use serde_json::{Value, json};
use teleport_core::recording::{OutputStream, RecordedEvent, SessionEnd};

/// Removes escape sequences from output, also those that are split between events (ECMA-48).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Plain(State);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Text,
    /// After the byte that begins U+0080 to U+00BF.
    Latin,
    Escape,
    Control,
    /// OSC, DCS, PM, APC, SOS: until ST or BEL.
    String,
    StringEscape,
}

impl Plain {
    pub(super) const fn new() -> Self {
        Self(State::Text)
    }

    /// The text of the next piece of output: line ends and tabs stay, every other control character goes.
    pub(super) fn strip(&mut self, data: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(data.len());
        for &byte in data {
            // U+0080 to U+009F are `C2 80` to `C2 9F`; some terminals take them for `ESC [` and the like.
            if self.0 == State::Latin {
                self.0 = State::Text;
                if (0x80..0xa0).contains(&byte) {
                    continue;
                }
                out.push(0xc2);
            }
            self.0 = match (self.0, byte) {
                (State::Text | State::Latin | State::Escape | State::Control, 0x1b) => State::Escape,
                (State::Text, 0xc2) => State::Latin,
                (State::Text | State::Latin, _) => {
                    if byte >= 0x20 && byte != 0x7f || matches!(byte, b'\n' | b'\t') {
                        out.push(byte);
                    }
                    State::Text
                }
                (State::Escape, b'[') => State::Control,
                (State::Escape, b']' | b'P' | b'^' | b'_' | b'X') => State::String,
                // An intermediate byte: one more follows, as in `ESC ( B`.
                (State::Escape, 0x20..=0x2f) => State::Escape,
                (State::Escape, _) => State::Text,
                (State::Control, 0x40..=0x7e) => State::Text,
                (State::Control, _) => State::Control,
                (State::String, 0x07) => State::Text,
                (State::String, 0x1b) => State::StringEscape,
                (State::String, _) => State::String,
                (State::StringEscape, b'\\') => State::Text,
                (State::StringEscape, _) => State::String,
            };
        }
        out
    }
}

/// An event as JSON: `ms`, `event` and what belongs to it.
pub(super) fn json(event: &RecordedEvent) -> Value {
    let ms = u64::try_from(event.at().as_millis()).unwrap_or(u64::MAX);
    match event {
        RecordedEvent::Output { data, stream, .. } => {
            let stream = if *stream == OutputStream::Stderr { "stderr" } else { "stdout" };
            json!({"ms": ms, "event": "print", "stream": stream, "data": String::from_utf8_lossy(data)})
        }
        RecordedEvent::Resize { columns, rows, .. } => {
            json!({"ms": ms, "event": "resize", "size": format!("{columns}:{rows}")})
        }
        RecordedEvent::Gap { lost, .. } => json!({"ms": ms, "event": "gap", "lost": lost}),
        RecordedEvent::End { end, .. } => match end {
            SessionEnd::Exited(status) => json!({"ms": ms, "event": "end", "exitCode": status}),
            SessionEnd::Signaled(name) => json!({"ms": ms, "event": "end", "signal": name}),
            _ => json!({"ms": ms, "event": "end", "reason": "disconnected"}),
        },
        _ => json!({"ms": ms, "event": "unknown"}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_vanish_wherever_they_are_split() {
        let input: &[u8] = b"\x1b[1;31mred\x1b[0m\r\n\x1b]0;title\x07\x1b]52;c;aGk=\x1b\\plain\x1b(B\xc2\x9b31m\xc2\x90 caf\xc3\xa9\xc2\xa0\x7f\x08\t!\x1bP1$r\x1b[x\x1b\\.";
        for size in 1..input.len() {
            let mut plain = Plain::new();
            let text: Vec<u8> = input.chunks(size).flat_map(|piece| plain.strip(piece)).collect();
            assert_eq!(String::from_utf8_lossy(&text), "red\nplain31m café\u{a0}\t!.", "pieces of {size}");
        }
    }
}
