//! Entries of the log as messages of RFC 5424.

use std::borrow::Cow;

use serde::Deserialize;

use crate::clock::Timestamp;

/// "log audit" of RFC 5424 section 6.2.1.
const FACILITY: u8 = 13;
const APP_NAME: &str = "teleport";

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    event: Cow<'a, str>,
    #[serde(borrow)]
    code: Cow<'a, str>,
    time: Timestamp,
}

/// A header field: printable ASCII without spaces, not longer than `max`.
fn header(text: &str, max: usize) -> String {
    let printable: String = text.chars().filter(char::is_ascii_graphic).take(max).collect();
    if printable.is_empty() { "-".to_owned() } else { printable }
}

/// A line of the log as a syslog message: facility 13 ("log audit"), the severity by the last letter of the event's code
/// (informational, warning, error), the event's time and name in the header, the line itself as the text. Without framing.
///
/// `None` if the line is no entry.
pub fn syslog_message(line: &[u8], host: &str, pid: u32) -> Option<Vec<u8>> {
    let head: Head<'_> = serde_json::from_slice(line).ok()?;
    let severity = match head.code.as_bytes().last() {
        Some(b'E') => 3,
        Some(b'W') => 4,
        _ => 6,
    };
    let start = format!(
        "<{}>1 {} {} {APP_NAME} {pid} {} - ",
        FACILITY * 8 + severity,
        head.time,
        header(host, 255),
        header(&head.event, 32),
    );
    Some([start.as_bytes(), line].concat())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;
    use crate::audit::{AuditEvent, EventKind};

    fn message(kind: EventKind, host: &str) -> String {
        let mut event = AuditEvent::new(kind).user("al\"ice\n");
        event.time = Timestamp::from_unix_millis(1_795_228_845_123);
        let line = serde_json::to_vec(&event).unwrap();
        String::from_utf8(syslog_message(&line, host, 42).unwrap()).unwrap()
    }

    #[test]
    fn is_one_message_of_rfc_5424() {
        let text = message(EventKind::UserLogin, "auth-1");
        assert!(
            text.starts_with(
                "<110>1 2026-11-21T02:40:45.123Z auth-1 teleport 42 user.login - {\"event\":\"user.login\""
            ),
            "{text}"
        );
        assert!(!text.contains('\n'), "{text}");
        assert!(message(EventKind::UserLoginFailure, "a").starts_with("<108>1 "));
        assert!(message(EventKind::ApiFailure, "a").starts_with("<107>1 "));
    }

    #[test]
    fn headers_are_printable_and_short() {
        assert!(message(EventKind::UserLogin, "").contains(" - teleport "));
        assert!(message(EventKind::UserLogin, "a b\u{e9}\r\n<1>c").contains(" ab<1>c teleport "));
        let text = message(EventKind::ResetTokenCreate, &"h".repeat(300));
        assert!(text.contains(&format!(" {} teleport", "h".repeat(255))));
        for kind in EventKind::ALL {
            assert!(kind.name().len() <= 32, "{kind}: message ids have at most 32 letters");
        }
        assert_eq!(syslog_message(b"{}", "a", 1), None);
        assert_eq!(syslog_message(b"", "a", 1), None);
    }
}
