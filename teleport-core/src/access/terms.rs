//! What would count in a session, in the words of the options, for administrators.

use std::fmt;
use std::time::Duration;

use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::checker::AccessChecker;
use super::decide::NodeFacts;
use super::policy::SessionPolicy;
use crate::cert::{MAX_USER_TTL, MIN_USER_TTL};
use crate::id::OsLogin;
use crate::resource::format_span;

/// What counts in a session that is allowed: the merged options of all roles, and the lists of those that grant it.
///
/// Serialised as a map whose keys are the options of roles; displayed as a line for each of them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionTerms {
    /// The longest life of a certificate that is issued now.
    pub max_session_ttl: Duration,
    /// Whether certificates are bound to the address of the login.
    pub pin_source_ip: bool,
    /// The extensions that certificates get.
    pub cert_extensions: Vec<(String, String)>,
    /// What counts in the session: what the node enforces.
    pub policy: SessionPolicy,
}

impl SessionTerms {
    /// For a login that the roles allow, with a certificate that is issued now.
    pub(super) fn new(checker: &AccessChecker<'_>, facts: &NodeFacts<'_>, login: &OsLogin) -> Self {
        Self {
            max_session_ttl: checker
                .max_session_ttl()
                .unwrap_or(MAX_USER_TTL)
                .clamp(MIN_USER_TTL, MAX_USER_TTL),
            pin_source_ip: checker.pin_source_ip(),
            cert_extensions: checker.cert_extensions(),
            policy: checker.session_policy(checker.permits(), facts, login),
        }
    }

    /// Each option with its value, and what it means if there is none.
    fn entries(&self) -> Vec<(&'static str, Value, &'static str)> {
        let policy = &self.policy;
        let span = |span: Option<Duration>| json!(span.map(format_span));
        let extensions = self.cert_extensions.iter().map(|(name, value)| format!("{name}={value}"));
        let allowed = policy.destinations.allowed().map(|entries| entries.collect::<Vec<_>>());
        let commands = policy.commands.allowed().map(|entries| entries.collect::<Vec<_>>());
        vec![
            ("max_session_ttl", span(Some(self.max_session_ttl)), ""),
            ("shell", json!(policy.shell()), ""),
            ("commands", json!(commands), "any"),
            ("ssh_file_copy", json!(policy.file_copy), ""),
            ("forward_agent", json!(policy.agent_forwarding), ""),
            ("local_forwarding", json!(policy.local_forwarding), ""),
            ("remote_forwarding", json!(policy.remote_forwarding), ""),
            ("permit_open", json!(allowed), "anywhere"),
            ("deny_open", json!(policy.destinations.denied().collect::<Vec<_>>()), ""),
            ("permit_x11_forwarding", json!(policy.x11_forwarding), ""),
            ("client_idle_timeout", span(policy.idle_timeout), "as the cluster says"),
            ("disconnect_expired_cert", json!(policy.disconnect_expired_cert), ""),
            ("max_connections", json!(policy.max_connections), "any number"),
            ("max_sessions", json!(policy.max_sessions), "any number"),
            ("record_session", json!(policy.recording), ""),
            ("lock", json!(policy.lock_mode), "as the cluster says"),
            ("pin_source_ip", json!(self.pin_source_ip), ""),
            ("cert_extensions", json!(extensions.collect::<Vec<_>>()), ""),
        ]
    }
}

impl Serialize for SessionTerms {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.entries().into_iter().map(|(option, value, _)| (option, value)))
    }
}

impl fmt::Display for SessionTerms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (option, value, none) in self.entries() {
            let text = match &value {
                Value::Null => none.to_owned(),
                Value::Bool(yes) => (if *yes { "yes" } else { "no" }).to_owned(),
                Value::String(text) => text.clone(),
                Value::Array(entries) if entries.is_empty() => "none".to_owned(),
                Value::Array(entries) => {
                    entries.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
                }
                other => other.to_string(),
            };
            writeln!(f, "{option}: {text}")?;
        }
        Ok(())
    }
}
