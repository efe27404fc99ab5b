//! Export to asciicast version 2, the form of asciinema: a header line, then a line for each event.

use serde_json::json;

use super::{RecordedEvent, RecordingMeta, SessionEnd};

/// Writes asciicast lines. Output is text there: bytes of a character that is split between two events wait for the rest;
/// bytes that are no UTF-8 become U+FFFD.
#[derive(Debug, Default)]
pub struct Asciicast {
    partial: Vec<u8>,
}

impl Asciicast {
    /// A writer before the first event.
    pub const fn new() -> Self {
        Self { partial: Vec::new() }
    }

    /// The first line.
    pub fn header(meta: &RecordingMeta) -> String {
        let (width, height) = meta.terminal.unwrap_or((80, 25));
        let title = format!("{} as {} on {}", meta.user, meta.login, meta.host_name);
        let header = json!({
            "version": 2, "width": width, "height": height, "timestamp": meta.started.unix_secs(),
            "title": title, "command": meta.command,
        });
        format!("{header}\n")
    }

    /// The line of an event; `None` for one that has none.
    pub fn line(&mut self, event: &RecordedEvent) -> Option<String> {
        let at = event.at().as_secs_f64();
        let line = match event {
            RecordedEvent::Output { data, .. } => {
                self.partial.extend_from_slice(data);
                json!([at, "o", self.complete_text()?])
            }
            RecordedEvent::Resize { columns, rows, .. } => json!([at, "r", format!("{columns}x{rows}")]),
            RecordedEvent::Gap { lost, .. } => json!([at, "m", format!("{lost} bytes were not recorded")]),
            RecordedEvent::End { end, .. } => {
                let how = match end {
                    SessionEnd::Disconnected => "disconnected".to_owned(),
                    SessionEnd::Exited(status) => format!("exit status {status}"),
                    SessionEnd::Signaled(name) => format!("killed by SIG{name}"),
                };
                json!([at, "m", how])
            }
        };
        Some(format!("{line}\n"))
    }

    fn complete_text(&mut self) -> Option<String> {
        let cut = match std::str::from_utf8(&self.partial) {
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            _ => self.partial.len(),
        };
        let rest = self.partial.split_off(cut);
        let text = String::from_utf8_lossy(&self.partial).into_owned();
        self.partial = rest;
        (!text.is_empty()).then_some(text)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::recording::OutputStream;

    #[test]
    fn a_character_may_be_split_between_events() {
        let output = |millis, data: &'static [u8]| RecordedEvent::Output {
            at: Duration::from_millis(millis),
            stream: OutputStream::Stdout,
            data: Bytes::from_static(data),
        };
        let mut cast = Asciicast::new();
        assert_eq!(cast.line(&output(500, b"caf\xc3")).unwrap(), "[0.5,\"o\",\"caf\"]\n");
        assert_eq!(cast.line(&output(750, b"\xa9\x1b[0m")).unwrap(), "[0.75,\"o\",\"é\\u001b[0m\"]\n");
        assert_eq!(cast.line(&output(1000, b"\xff!")).unwrap(), "[1.0,\"o\",\"\u{fffd}!\"]\n");
        assert_eq!(cast.line(&output(1000, b"\xe2\x82")), None);
        let end = RecordedEvent::End { at: Duration::from_secs(2), end: SessionEnd::Exited(3) };
        assert_eq!(cast.line(&end).unwrap(), "[2.0,\"m\",\"exit status 3\"]\n");
    }
}
