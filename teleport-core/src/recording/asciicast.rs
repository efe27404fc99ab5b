//! Export to asciicast, the form of asciinema: a header line, then a line for each event.

use std::time::Duration;

use serde_json::{Value, json};

use super::utf8::Utf8;
use super::{Missing, RecordedEvent, RecordingMeta, SessionEnd};

/// Which asciicast.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum CastVersion {
    /// Version 2, which every tool of asciinema reads.
    #[default]
    V2,
    /// Version 3, of asciinema 3: it also has the exit status.
    V3,
}

/// Writes asciicast lines.
///
/// Output is text there: bytes of a character that is split between two events wait for the rest; bytes that are no UTF-8 become
/// U+FFFD. Apart from that it is what was recorded, with whatever it makes a terminal do. The output of a session without a terminal
/// gets a return before each line feed, as a terminal would have added it.
#[derive(Debug)]
pub struct Asciicast {
    version: CastVersion,
    /// Of the last line: version 3 has intervals.
    last: Duration,
    utf8: Utf8,
    has_terminal: bool,
}

impl Asciicast {
    /// A writer, and its first line.
    pub fn begin(version: CastVersion, meta: &RecordingMeta) -> (Self, String) {
        let (columns, rows) =
            meta.terminal.filter(|(columns, rows)| *columns > 0 && *rows > 0).unwrap_or((80, 24));
        let title = format!("{} as {} on {}", meta.user, meta.login, meta.host_name);
        let mut header = match version {
            CastVersion::V2 => json!({"version": 2, "width": columns, "height": rows}),
            CastVersion::V3 => json!({"version": 3, "term": {"cols": columns, "rows": rows}}),
        };
        if let Some(fields) = header.as_object_mut() {
            fields.insert("timestamp".into(), meta.started.unix_secs().into());
            fields.insert("title".into(), title.into());
            if let Some(command) = &meta.command {
                fields.insert("command".into(), command.as_str().into());
            }
        }
        let has_terminal = meta.terminal.is_some();
        let cast = Self { version, last: Duration::ZERO, utf8: Utf8::new(), has_terminal };
        (cast, line(&header))
    }

    /// The line of an event; `None` for one that has none.
    pub fn line(&mut self, event: &RecordedEvent) -> Option<String> {
        let (code, text) = match event {
            RecordedEvent::Output { data, .. } => {
                let mut text = self.utf8.text(data);
                if !self.has_terminal {
                    text = text.replace('\n', "\r\n");
                }
                ("o", text)
            }
            RecordedEvent::Resize { columns, rows, .. } => ("r", format!("{columns}x{rows}")),
            RecordedEvent::Gap { lost, .. } => ("m", format!("{lost} bytes were not recorded")),
            RecordedEvent::End { end, .. } => match (self.version, end) {
                (CastVersion::V3, SessionEnd::Exited(status)) => ("x", status.to_string()),
                (_, SessionEnd::Exited(status)) => ("m", format!("exit status {status}")),
                (_, SessionEnd::Signaled(name)) => ("m", format!("killed by SIG{name}")),
                (_, SessionEnd::Disconnected) => ("m", "disconnected".to_owned()),
            },
        };
        (!text.is_empty()).then(|| self.at(event.at(), code, &text))
    }

    /// The line that says what cannot be read.
    pub fn missing(&mut self, missing: &Missing) -> String {
        self.at(missing.from, "m", "a part of the recording is damaged")
    }

    fn at(&mut self, at: Duration, code: &str, text: &str) -> String {
        let since = match self.version {
            CastVersion::V2 => at,
            CastVersion::V3 => at.saturating_sub(self.last),
        };
        self.last = self.last.max(at);
        line(&json!([since.as_secs_f64(), code, text]))
    }
}

/// Of the control characters, JSON must escape those below U+0020. Some terminals act on others.
fn line(value: &Value) -> String {
    let mut line = String::new();
    for character in value.to_string().chars() {
        match character {
            '\u{7f}'..='\u{9f}' => line.push_str(&format!("\\u{:04x}", u32::from(character))),
            _ => line.push(character),
        }
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::super::OutputStream::Stdout;
    use super::super::testing::{meta, ms, output};
    use super::*;

    #[test]
    fn version_2_has_times() {
        let (mut cast, header) = Asciicast::begin(CastVersion::V2, &meta());
        let header: Value = serde_json::from_str(&header).unwrap();
        let expected = json!({"version": 2, "width": 80, "height": 24, "timestamp": 1_800_000_000,
            "title": "alice as root on web-1"});
        assert_eq!(header, expected);
        assert_eq!(cast.line(&output(500, Stdout, b"caf\xc3")).unwrap(), "[0.5,\"o\",\"caf\"]\n");
        assert_eq!(
            cast.line(&output(750, Stdout, b"\xa9\x1b[0m")).unwrap(),
            "[0.75,\"o\",\"é\\u001b[0m\"]\n"
        );
        let line = cast.line(&output(1000, Stdout, b"\xff!\xc2\x9b\x7f")).unwrap();
        assert_eq!(line, "[1.0,\"o\",\"\u{fffd}!\\u009b\\u007f\"]\n");
        assert_eq!(cast.line(&output(1000, Stdout, b"\xe2\x82")), None);
        let resize = RecordedEvent::Resize { at: ms(1500), columns: 132, rows: 43 };
        assert_eq!(cast.line(&resize).unwrap(), "[1.5,\"r\",\"132x43\"]\n");
        let end = RecordedEvent::End { at: ms(2000), end: SessionEnd::Exited(3) };
        assert_eq!(cast.line(&end).unwrap(), "[2.0,\"m\",\"exit status 3\"]\n");
    }

    #[test]
    fn version_3_has_intervals_and_the_exit_status() {
        let meta = RecordingMeta { command: Some("make".into()), terminal: None, ..meta() };
        let (mut cast, header) = Asciicast::begin(CastVersion::V3, &meta);
        let header: Value = serde_json::from_str(&header).unwrap();
        let expected = json!({"version": 3, "term": {"cols": 80, "rows": 24}, "timestamp": 1_800_000_000,
            "title": "alice as root on web-1", "command": "make"});
        assert_eq!(header, expected);
        assert_eq!(cast.line(&output(500, Stdout, "a\nb\n")).unwrap(), "[0.5,\"o\",\"a\\r\\nb\\r\\n\"]\n");
        let gap = RecordedEvent::Gap { at: ms(750), lost: 9 };
        assert_eq!(cast.line(&gap).unwrap(), "[0.25,\"m\",\"9 bytes were not recorded\"]\n");
        let missing = Missing { from: ms(750), to: None, offset: 0, bytes: 0, what: "" };
        assert_eq!(cast.missing(&missing), "[0.0,\"m\",\"a part of the recording is damaged\"]\n");
        let end = RecordedEvent::End { at: ms(2000), end: SessionEnd::Exited(3) };
        assert_eq!(cast.line(&end).unwrap(), "[1.25,\"x\",\"3\"]\n");
    }
}
