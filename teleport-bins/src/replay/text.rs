//! Events as JSON.

use serde_json::{Value, json};
use teleport_core::recording::{Missing, OutputStream, RecordedEvent, SessionEnd, Utf8};

fn millis(at: std::time::Duration) -> u64 {
    u64::try_from(at.as_millis()).unwrap_or(u64::MAX)
}

/// An event as JSON: `ms`, `event` and what belongs to it. `utf8` joins characters that are split between events.
pub(super) fn event(event: &RecordedEvent, utf8: &mut Utf8) -> Value {
    let ms = millis(event.at());
    match event {
        RecordedEvent::Output { data, stream, .. } => {
            let stream = if *stream == OutputStream::Stderr { "stderr" } else { "stdout" };
            json!({"ms": ms, "event": "print", "stream": stream, "data": utf8.text(data)})
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

/// A part that cannot be read, as JSON.
pub(super) fn missing(missing: &Missing) -> Value {
    json!({"ms": millis(missing.from), "event": "missing", "until": missing.to.map(millis), "reason": missing.what})
}

/// How a session ended, for people.
pub(super) fn how(end: &SessionEnd) -> String {
    match end {
        SessionEnd::Exited(status) => format!("exit status {status}"),
        SessionEnd::Signaled(name) => format!("killed by SIG{}", crate::cli::sanitize(name)),
        _ => "disconnected".to_owned(),
    }
}
