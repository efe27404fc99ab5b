//! Which keys documents may have. Every unknown one is a mistake, found with its place and a suggestion.

use serde_json::Value;

use super::load::DocumentProblem;
use crate::suggest::did_you_mean;

/// The keys below a place in a document.
#[derive(Debug)]
pub(in crate::resource) enum Shape {
    /// A list of such.
    List(&'static Shape),
    /// Named ones.
    Map(&'static [(&'static str, Shape)]),
    /// Whatever there is; the reader of the value decides.
    Value,
}

use Shape::{List, Map, Value as Leaf};

const CONDITIONS: Shape = Map(&[
    ("commands", Leaf),
    (
        "join_sessions",
        List(&Map(&[
            ("kinds", Leaf),
            ("modes", Leaf),
            ("name", Leaf),
            ("roles", Leaf),
            ("with_login", Leaf),
        ])),
    ),
    ("logins", Leaf),
    ("node_labels", Leaf),
    ("node_labels_expression", Leaf),
    ("permit_open", Leaf),
    ("rules", List(&Map(&[("resources", Leaf), ("verbs", Leaf), ("where", Leaf)]))),
]);

const OPTIONS: Shape = Map(&[
    ("cert_extensions", List(&Map(&[("mode", Leaf), ("name", Leaf), ("type", Leaf), ("value", Leaf)]))),
    ("client_idle_timeout", Leaf),
    ("disconnect_expired_cert", Leaf),
    ("forward_agent", Leaf),
    ("lock", Leaf),
    ("max_connections", Leaf),
    ("max_session_ttl", Leaf),
    ("max_sessions", Leaf),
    ("permit_x11_forwarding", Leaf),
    ("pin_source_ip", Leaf),
    ("port_forwarding", Leaf),
    ("record_session", Map(&[("default", Leaf), ("ssh", Leaf)])),
    ("ssh_file_copy", Leaf),
    (
        "ssh_port_forwarding",
        Map(&[("local", Map(&[("enabled", Leaf)])), ("remote", Map(&[("enabled", Leaf)]))]),
    ),
]);

/// What all resources have in common.
pub(in crate::resource) const METADATA: Shape =
    Map(&[("description", Leaf), ("expires", Leaf), ("labels", Leaf), ("name", Leaf), ("revision", Leaf)]);

/// A role of our own version.
pub(in crate::resource) const ROLE: Shape = Map(&[
    ("kind", Leaf),
    ("metadata", METADATA),
    ("spec", Map(&[("allow", CONDITIONS), ("deny", CONDITIONS), ("options", OPTIONS)])),
    ("version", Leaf),
]);

/// Adds a problem for every key of `value` that `shape` does not know.
pub(in crate::resource) fn check(
    value: &Value,
    shape: &Shape,
    path: &str,
    problems: &mut Vec<DocumentProblem>,
) {
    match (shape, value) {
        (Map(known), Value::Object(object)) => {
            for (key, value) in object {
                let below = join(path, key);
                match known.iter().find(|(name, _)| name == key) {
                    Some((_, shape)) => check(value, shape, &below, problems),
                    None => problems.push(unknown(&below, key, known.iter().map(|(name, _)| *name))),
                }
            }
        }
        (List(of), Value::Array(items)) => {
            for (index, item) in items.iter().enumerate() {
                check(item, of, &format!("{path}[{index}]"), problems);
            }
        }
        // A value of the wrong type is the reader's to find.
        _ => {}
    }
}

pub(in crate::resource) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

pub(in crate::resource) fn unknown<'a>(
    path: &str,
    key: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> DocumentProblem {
    DocumentProblem::new(path, format!("there is no such key{}", did_you_mean(key, known)))
}
