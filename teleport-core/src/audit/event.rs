//! One event.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::EventKind;
use crate::clock::Timestamp;
use crate::id::{HostId, NodeName, OsLogin, SessionId};

/// The longest text in an event, in bytes of JSON; longer ones are cut and marked with `…`.
const MAX_TEXT: usize = 4096;

/// What happened, as one line of JSON. Fields that do not apply are absent.
///
/// The auth service stamps `uid`, `time`, `cluster_name` and, for what a host reports, `server_id`: what a caller puts there
/// is overwritten. A host that gives an event a `uid` may send it again: it is written once, under a name that is derived from it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct AuditEvent {
    /// Its number in the log, which the log gives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<u64>,
    /// The name of what happened.
    pub event: String,
    /// Its code; says the kind.
    pub code: EventKind,
    /// Unique.
    #[serde(default)]
    pub uid: Uuid,
    /// When.
    #[serde(default)]
    pub time: Timestamp,
    /// Where.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cluster_name: String,
    /// The user (or, for a host's own actions, its identity).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The login on the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<String>,
    /// The host that reports it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_id: Option<HostId>,
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_hostname: Option<NodeName>,
    /// The session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sid: Option<SessionId>,
    /// The client's address. Written without its port if that is not known: then it is 0.
    #[serde(rename = "addr.remote", default, with = "address", skip_serializing_if = "Option::is_none")]
    pub remote: Option<SocketAddr>,
    /// Whether it went well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub success: Option<bool>,
    /// Why it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Whatever else the kind has to say.
    #[serde(flatten)]
    pub fields: Map<String, Value>,
}

/// An address as text, with its port if there is one.
mod address {
    use std::net::{IpAddr, SocketAddr};

    use serde::{Deserialize, Deserializer, Serializer};

    #[expect(clippy::ref_option, reason = "serde's signature")]
    pub(super) fn serialize<S: Serializer>(
        address: &Option<SocketAddr>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match address {
            Some(address) if address.port() == 0 => serializer.collect_str(&address.ip()),
            Some(address) => serializer.collect_str(address),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<SocketAddr>, D::Error> {
        Option::<String>::deserialize(deserializer)?
            .map(|text| {
                let alone = |_| text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 0));
                text.parse().or_else(alone).map_err(serde::de::Error::custom)
            })
            .transpose()
    }
}

/// What is counted is the length as it is written: six bytes for a control character, of which strangers can send many.
fn cut(mut text: String) -> String {
    let written = |c: char| match c {
        '"' | '\\' => 2,
        c if c.is_ascii_control() => 6,
        c => c.len_utf8(),
    };
    let mut room = MAX_TEXT;
    let end = text.char_indices().find_map(|(at, c)| match room.checked_sub(written(c)) {
        Some(left) => {
            room = left;
            None
        }
        None => Some(at),
    });
    if let Some(end) = end {
        text.truncate(end);
        text.push('…');
    }
    text
}

impl AuditEvent {
    /// The same, of another kind.
    #[must_use]
    pub fn of_kind(mut self, kind: EventKind) -> Self {
        self.event = kind.name().to_owned();
        self.code = kind;
        self.success = Some(kind.is_success());
        self
    }

    /// An event of this kind; `success` follows from the code.
    pub fn new(kind: EventKind) -> Self {
        Self {
            index: None,
            event: kind.name().to_owned(),
            code: kind,
            uid: Uuid::nil(),
            time: Timestamp::EPOCH,
            cluster_name: String::new(),
            user: None,
            login: None,
            server_id: None,
            server_hostname: None,
            sid: None,
            remote: None,
            success: Some(kind.is_success()),
            error: None,
            fields: Map::new(),
        }
    }

    /// Names the user.
    #[must_use]
    pub fn user(mut self, user: impl AsRef<str>) -> Self {
        self.user = Some(cut(user.as_ref().to_owned()));
        self
    }

    /// Names the login.
    #[must_use]
    pub fn login(mut self, login: &OsLogin) -> Self {
        self.login = Some(login.to_string());
        self
    }

    /// Names the session.
    #[must_use]
    pub const fn session(mut self, session: SessionId) -> Self {
        self.sid = Some(session);
        self
    }

    /// Names the host that reports it.
    #[must_use]
    pub fn server(mut self, id: HostId, name: &NodeName) -> Self {
        self.server_id = Some(id);
        self.server_hostname = Some(name.clone());
        self
    }

    /// Names the client's address.
    #[must_use]
    pub const fn remote(mut self, address: Option<SocketAddr>) -> Self {
        self.remote = address;
        self
    }

    /// Says why it failed. The text is for administrators.
    #[must_use]
    pub fn error(mut self, error: impl ToString) -> Self {
        self.error = Some(cut(error.to_string()));
        self
    }

    /// Cuts every text that is too long, as the builders do: for events that somebody else has built.
    #[cfg(feature = "auth")]
    pub(crate) fn shorten(&mut self) {
        for text in [&mut self.user, &mut self.login, &mut self.error].into_iter().flatten() {
            *text = cut(std::mem::take(text));
        }
        for value in self.fields.values_mut() {
            if let Value::String(text) = value {
                *text = cut(std::mem::take(text));
            }
        }
    }

    /// Whether a host of this id or name reported it, or is what it is about.
    pub fn is_of_node(&self, node: &str) -> bool {
        let field = |name| self.fields.get(name).and_then(Value::as_str) == Some(node);
        self.server_hostname.as_ref().is_some_and(|name| name.as_str() == node)
            || self.server_id.is_some_and(|id| id.to_string() == node)
            || field("node_name")
            || field("node_id")
            || field("host_id")
    }

    /// Adds a field of the kind's own. Texts that are too long are cut.
    #[must_use]
    pub fn field(mut self, name: &str, value: impl Into<Value>) -> Self {
        let value = match value.into() {
            Value::String(text) => Value::String(cut(text)),
            other => other,
        };
        self.fields.insert(name.to_owned(), value);
        self
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn is_one_flat_object() {
        let event = AuditEvent::new(EventKind::UserLoginFailure)
            .user("alice")
            .error("wrong password")
            .field("method", "local");
        let json = serde_json::to_string(&event).unwrap();
        assert!(json.contains(r#""event":"user.login","code":"T1000W""#), "{json}");
        assert!(json.contains(r#""method":"local""#) && json.contains(r#""success":false"#), "{json}");
        assert_eq!(serde_json::from_str::<AuditEvent>(&json).unwrap(), event);
    }

    #[test]
    fn an_address_without_a_port_is_written_alone() {
        for (address, written) in [
            ("192.0.2.7:4711", "192.0.2.7:4711"),
            ("192.0.2.7:0", "192.0.2.7"),
            ("[2001:db8::7]:4711", "[2001:db8::7]:4711"),
            ("[2001:db8::7]:0", "2001:db8::7"),
        ] {
            let event = AuditEvent::new(EventKind::UserLogin).remote(Some(address.parse().unwrap()));
            let json = serde_json::to_value(&event).unwrap();
            assert_eq!(json["addr.remote"], written);
            assert_eq!(serde_json::from_value::<AuditEvent>(json).unwrap(), event);
            // As it was written by 0.1.0.
            let mut old = serde_json::to_value(&event).unwrap();
            old["addr.remote"] = address.into();
            assert_eq!(serde_json::from_value::<AuditEvent>(old).unwrap(), event);
        }
        let event = AuditEvent::new(EventKind::UserLogin);
        let mut json = serde_json::to_value(&event).unwrap();
        assert!(json.get("addr.remote").is_none());
        json["addr.remote"] = "nowhere".into();
        assert!(serde_json::from_value::<AuditEvent>(json).is_err());
    }

    #[test]
    fn long_texts_are_cut_not_dropped() {
        let event = AuditEvent::new(EventKind::Exec).field("command", "é".repeat(5000));
        let text = event.fields.get("command").and_then(Value::as_str).unwrap();
        assert!(text.len() <= MAX_TEXT + '…'.len_utf8() && text.ends_with('…'));
        for text in ["\0", "\n", "\"", "\\", "a", "é", "😀", "\u{7f}", "\0a\""] {
            let event = AuditEvent::new(EventKind::Exec).user(text.repeat(5000));
            let json = serde_json::to_string(&event.user).unwrap();
            assert!(json.len() <= MAX_TEXT + 5, "{text:?}: {}", json.len());
            let whole = text.repeat(MAX_TEXT / 16);
            assert_eq!(AuditEvent::new(EventKind::Exec).user(whole.as_str()).user, Some(whole));
        }
    }
}
