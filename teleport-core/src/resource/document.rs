//! From a document of any kind to what it describes.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::plain_words;
use super::role::keys::{METADATA, Shape, check, join, unknown};
use super::role::misfits_in;
use super::{
    DocumentProblem, InvalidDocument, Lock, Metadata, Resource, Role, Secrets, Token, User, load_role,
};
use crate::suggest::did_you_mean;

/// What a document describes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[expect(clippy::large_enum_variant, reason = "documents are few, and taken apart at once")]
pub enum Document {
    /// A lock.
    Lock(Lock),
    /// A role.
    Role(Role),
    /// The secrets of a cluster, in a backup.
    Secrets(Secrets),
    /// What is shown and cannot be written: `node`, `cert_authority`.
    Shown(&'static str),
    /// A join token.
    Token(Token),
    /// A user.
    User(User),
}

impl Document {
    /// The kind in documents.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Lock(_) => "lock",
            Self::Role(_) => "role",
            Self::Secrets(_) => "secrets",
            Self::Shown(kind) => kind,
            Self::Token(_) => "token",
            Self::User(_) => "user",
        }
    }
}

/// What was read from a document.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadedDocument {
    /// What it describes.
    pub document: Document,
    /// What it says and nothing here does: one line each, with the place. Empty for documents of our own version.
    pub ignored: Vec<String>,
}

const KINDS: [&str; 7] = ["cert_authority", "lock", "node", "role", "secrets", "token", "user"];

const USER: Shape = Shape::Map(&[
    ("kind", Shape::Value),
    ("metadata", METADATA),
    ("spec", Shape::Map(&[("roles", Shape::Value), ("traits", Shape::Value)])),
    ("version", Shape::Value),
]);

const TOKEN: Shape = Shape::Map(&[
    ("kind", Shape::Value),
    ("metadata", METADATA),
    (
        "spec",
        Shape::Map(&[
            ("labels", Shape::Value),
            ("roles", Shape::Value),
            ("secret", Shape::Value),
            ("uses", Shape::Value),
        ]),
    ),
    ("version", Shape::Value),
]);

const LOCK: Shape = Shape::Map(&[
    ("kind", Shape::Value),
    ("metadata", METADATA),
    (
        "spec",
        Shape::Map(&[
            ("message", Shape::Value),
            (
                "target",
                Shape::Map(&[
                    ("login", Shape::Value),
                    ("mfa_device", Shape::Value),
                    ("node", Shape::Value),
                    ("role", Shape::Value),
                    ("serial", Shape::Value),
                    ("user", Shape::Value),
                ]),
            ),
        ]),
    ),
    ("version", Shape::Value),
]);

const SECRETS: Shape = Shape::Map(&[
    ("kind", Shape::Value),
    ("metadata", METADATA),
    (
        "spec",
        Shape::Map(&[
            ("check", Shape::Value),
            ("cluster", Shape::Value),
            (
                "records",
                Shape::List(&Shape::Map(&[
                    ("expires", Shape::Value),
                    ("key", Shape::Value),
                    ("value", Shape::Value),
                ])),
            ),
        ]),
    ),
    ("version", Shape::Value),
]);

/// Reads a document as administrators write it: roles, users, tokens and locks of our own version `v1` or of the original's, the secrets
/// of a backup, and what is only shown.
///
/// # Errors
/// [`InvalidDocument`], with everything that is wrong, unknown keys included.
pub fn load_document(document: &Value) -> Result<LoadedDocument, InvalidDocument> {
    let Some(kind) = document.get("kind").and_then(Value::as_str) else {
        let message = if document.is_object() {
            "a resource says what it is: kind: role, user, token or lock"
        } else {
            "a resource is a map with the keys kind, version, metadata and spec"
        };
        return Err(DocumentProblem::new("", message).into());
    };
    let mut ignored = Vec::new();
    let version = document.get("version").and_then(Value::as_str).unwrap_or_default();
    let document = match (kind, version) {
        ("role", _) => {
            let loaded = load_role(document)?;
            ignored = loaded.ignored;
            Document::Role(loaded.role)
        }
        ("user", "v1") => Document::User(read(document, &USER)?),
        ("user", "v2") => Document::User(read(&original_user(document, &mut ignored)?, &USER)?),
        ("token", "v1") => Document::Token(read(document, &TOKEN)?),
        ("token", "v2") => Document::Token(read(&original_token(document, &mut ignored)?, &TOKEN)?),
        ("lock", "v1") => Document::Lock(read(document, &LOCK)?),
        ("lock", "v2") => Document::Lock(read(&original_lock(document, &mut ignored)?, &LOCK)?),
        ("secrets", "v1") => Document::Secrets(read(document, &SECRETS)?),
        ("node", _) => Document::Shown("node"),
        ("cert_authority", _) => Document::Shown("cert_authority"),
        ("lock" | "token" | "user", _) => {
            let message = format!("must be \"v1\", or \"v2\" for a {kind} of the original");
            return Err(DocumentProblem::new("version", message).into());
        }
        ("secrets", _) => return Err(DocumentProblem::new("version", "must be \"v1\"").into()),
        _ => {
            let near = did_you_mean(kind, KINDS);
            let message = format!("there are no resources of the kind {kind:?}{near}");
            return Err(DocumentProblem::new("kind", message).into());
        }
    };
    Ok(LoadedDocument { document, ignored })
}

/// Checks the keys, reads the values.
fn read<S: DeserializeOwned>(document: &Value, shape: &Shape) -> Result<Resource<S>, InvalidDocument> {
    let mut problems = Vec::new();
    check(document, shape, "", &mut problems);
    if !problems.is_empty() {
        return Err(InvalidDocument { problems });
    }
    for part in ["metadata", "spec"] {
        if document.get(part).is_some_and(|part| !part.is_object()) {
            return Err(DocumentProblem::new(part, "must be a map").into());
        }
    }
    serde_json::from_value(document.clone()).map_err(|error| {
        misfits_in::<Metadata>("metadata", document.get("metadata"), &mut problems);
        misfits_in::<S>("spec", document.get("spec"), &mut problems);
        if problems.is_empty() {
            problems.push(DocumentProblem::new("", plain_words(&error.to_string())));
        }
        InvalidDocument { problems }
    })
}

fn entries(value: Option<&Value>) -> impl Iterator<Item = (&String, &Value)> {
    value.and_then(Value::as_object).into_iter().flatten()
}

/// What programs write for what nobody has set.
fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.is_empty(),
        Value::Bool(value) => !value,
        Value::Null => true,
        Value::Number(_) => false,
        Value::Object(entries) => entries.values().all(says_nothing),
        Value::String(text) => text.is_empty() || text.starts_with("0001-01-01"),
    }
}

/// A document of the original in our form: metadata that we have, and the keys of the specification that `take` knows.
fn original(
    document: &Value,
    known: &[&str],
    ignored: &mut Vec<String>,
    mut take: impl FnMut(&str, &Value, &mut Map<String, Value>, &mut Vec<DocumentProblem>) -> bool,
) -> Result<Value, InvalidDocument> {
    let (mut problems, mut metadata, mut spec) = (Vec::new(), Map::new(), Map::new());
    let top = ["kind", "metadata", "spec", "sub_kind", "version"];
    for (key, _) in entries(Some(document)) {
        if !top.contains(&key.as_str()) {
            problems.push(unknown(key, key, top));
        }
    }
    let ours = ["description", "expires", "labels", "name"];
    for (key, value) in entries(document.get("metadata")) {
        match key.as_str() {
            name if ours.contains(&name) => drop(metadata.insert(key.clone(), value.clone())),
            "id" | "namespace" | "revision" => {}
            _ => problems.push(unknown(&join("metadata", key), key, ours)),
        }
    }
    for (key, value) in entries(document.get("spec")) {
        let path = join("spec", key);
        if take(key, value, &mut spec, &mut problems) {
            continue;
        }
        if !known.contains(&key.as_str()) {
            problems.push(unknown(&path, key, known.iter().copied()));
        } else if !says_nothing(value) {
            ignored.push(format!("{path}: not offered, or kept elsewhere"));
        }
    }
    if !problems.is_empty() {
        return Err(InvalidDocument { problems });
    }
    let kind = document.get("kind");
    Ok(json!({ "kind": kind, "version": "v1", "metadata": metadata, "spec": spec }))
}

fn original_user(document: &Value, ignored: &mut Vec<String>) -> Result<Value, InvalidDocument> {
    let known = [
        "created_by",
        "expires",
        "github_identities",
        "local_auth",
        "oidc_identities",
        "roles",
        "saml_identities",
        "status",
        "traits",
        "trusted_device_ids",
    ];
    original(document, &known, ignored, |key, value, spec, _| {
        let taken = matches!(key, "roles" | "traits");
        if taken && !value.is_null() {
            // A trait without values is written as null.
            let value = match value.as_object() {
                Some(traits) => {
                    let set = traits.iter().filter(|(_, values)| !values.is_null());
                    Value::Object(set.map(|(name, values)| (name.clone(), values.clone())).collect())
                }
                None => value.clone(),
            };
            spec.insert(key.to_owned(), value);
        }
        taken
    })
}

/// What is locked must be locked here, too, and not less and not more of it: a target that is not known refuses the document.
fn original_lock(document: &Value, ignored: &mut Vec<String>) -> Result<Value, InvalidDocument> {
    let known = ["created_at", "created_by", "expires", "message", "target"];
    let mut expires = None;
    let mut ours = original(document, &known, ignored, |key, value, spec, problems| match key {
        "message" => {
            spec.insert(key.to_owned(), value.clone());
            true
        }
        "expires" => {
            expires = (!says_nothing(value)).then(|| value.clone());
            true
        }
        // The audit log knows it.
        "created_at" | "created_by" => true,
        "target" => {
            let mut target = Map::new();
            for (part, value) in entries(Some(value)).filter(|(_, value)| !says_nothing(value)) {
                match part.as_str() {
                    "login" | "mfa_device" | "node" | "role" | "user" => {
                        target.insert(part.clone(), value.clone());
                    }
                    "server_id" => drop(target.insert("node".to_owned(), value.clone())),
                    _ => problems.push(DocumentProblem::new(
                        format!("spec.target.{part}"),
                        "there is nothing here that could be locked so",
                    )),
                }
            }
            spec.insert(key.to_owned(), Value::Object(target));
            true
        }
        _ => false,
    })?;
    if let (Some(at), Some(metadata)) = (expires, ours.get_mut("metadata").and_then(Value::as_object_mut)) {
        metadata.insert("expires".to_owned(), at);
    }
    Ok(ours)
}

fn original_token(document: &Value, ignored: &mut Vec<String>) -> Result<Value, InvalidDocument> {
    let known =
        ["allow", "bot_name", "join_method", "roles", "suggested_agent_matcher_labels", "suggested_labels"];
    let mut ours = original(document, &known, ignored, |key, value, spec, problems| match key {
        "roles" => {
            let lower = |role: &Value| match role {
                Value::String(role) => Value::String(role.to_ascii_lowercase()),
                other => other.clone(),
            };
            spec.insert(key.to_owned(), value.as_array().into_iter().flatten().map(lower).collect());
            true
        }
        "join_method" => {
            if !says_nothing(value) && value != "token" {
                let message = format!("hosts join by tokens only, not by {value}");
                problems.push(DocumentProblem::new("spec.join_method", message));
            }
            true
        }
        "suggested_labels" => {
            let mut labels = Map::new();
            for (label, values) in entries(Some(value)) {
                match values.as_array().map(Vec::as_slice) {
                    Some([one]) => drop(labels.insert(label.clone(), one.clone())),
                    _ => problems.push(DocumentProblem::new(
                        format!("spec.suggested_labels.{label}"),
                        "a label has one value here",
                    )),
                }
            }
            spec.insert("labels".to_owned(), Value::Object(labels));
            true
        }
        _ => false,
    })?;
    // The name of a token is its secret there.
    let name = ours.pointer_mut("/metadata/name").map(Value::take).unwrap_or_default();
    if let Some(spec) = ours.get_mut("spec").and_then(Value::as_object_mut) {
        spec.insert("secret".to_owned(), name);
    }
    if let Some(metadata) = ours.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("name".to_owned(), json!(""));
    }
    Ok(ours)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]
    use super::*;
    use crate::id::HostRole;

    fn load(document: &Value) -> Result<Document, String> {
        load_document(document).map(|loaded| loaded.document).map_err(|error| error.to_string())
    }

    #[test]
    fn every_kind_is_read() {
        let user = load(&json!({"kind": "user", "version": "v1", "metadata": {"name": "alice"},
            "spec": {"roles": ["access"], "traits": {"logins": ["root"]}}}));
        let Ok(Document::User(user)) = user else { panic!("{user:?}") };
        assert_eq!(user.spec.roles.len(), 1);
        let token = load(&json!({"kind": "token", "version": "v1", "metadata": {"name": ""},
            "spec": {"roles": ["node"], "uses": 2, "secret": "a-secret-of-some-length"}}));
        let Ok(Document::Token(token)) = token else { panic!("{token:?}") };
        assert_eq!(token.spec.uses, Some(2));
        let role = json!({"kind": "role", "version": "v1", "metadata": {"name": "r"}, "spec": {}});
        assert_eq!(load(&role).unwrap().kind(), "role");
        for kind in ["node", "cert_authority"] {
            assert_eq!(load(&json!({"kind": kind})), Ok(Document::Shown(kind)));
        }
    }

    #[test]
    fn those_of_the_original_are_read_and_say_what_they_ignore() {
        let loaded = load_document(&json!({"kind": "user", "version": "v2",
            "metadata": {"name": "alice", "id": 5, "revision": "x"},
            "spec": {"roles": ["access"], "traits": {"logins": ["root"], "db_users": null},
                "status": {"is_locked": false, "lock_expires": "0001-01-01T00:00:00Z"},
                "oidc_identities": [{"connector_id": "x"}], "created_by": {"time": "2024-01-01T00:00:00Z"}}}))
        .unwrap();
        let Document::User(user) = &loaded.document else { panic!("{loaded:?}") };
        assert_eq!((user.spec.traits.len(), user.metadata.revision), (1, None));
        assert_eq!(loaded.ignored.len(), 2, "{:?}", loaded.ignored);
        let token = load(
            &json!({"kind": "token", "version": "v2", "metadata": {"name": "a-secret-of-some-length"},
            "spec": {"roles": ["Node", "Proxy"], "join_method": "token", "suggested_labels": {"env": ["prod"]}}}),
        );
        let Ok(Document::Token(token)) = token else { panic!("{token:?}") };
        assert_eq!(token.spec.roles, [HostRole::Node, HostRole::Proxy]);
        assert_eq!(token.spec.secret.unwrap().expose(), "a-secret-of-some-length");
        assert_eq!((token.metadata.name.as_str(), token.spec.labels.get("env")), ("", Some("prod")));
    }

    #[test]
    fn locks_of_the_original_lock_the_same_or_are_refused() {
        let v2 = |target: Value, expires: &str| {
            json!({"kind": "lock", "version": "v2", "metadata": {"name": "l", "id": 1},
                "spec": {"target": target, "message": "m", "expires": expires, "created_by": "x"}})
        };
        let id = "0f8fad5b-d9cb-469f-a165-70867728950e";
        let lock = load(&v2(json!({"user": "alice", "login": "", "server_id": id}), "2030-01-01T00:00:00Z"));
        let Ok(Document::Lock(lock)) = lock else { panic!("{lock:?}") };
        assert_eq!(lock.spec.target.to_string(), format!("user:\"alice\" node:\"{id}\""));
        assert_eq!(lock.metadata.expires.unwrap().to_string(), "2030-01-01T00:00:00.000Z");
        let endless = load(&v2(json!({"user": "alice"}), "0001-01-01T00:00:00Z"));
        let Ok(Document::Lock(endless)) = endless else { panic!("{endless:?}") };
        assert_eq!(endless.metadata.expires, None);
        let error = load(&v2(json!({"user": "alice", "windows_desktop": "d"}), "")).unwrap_err();
        assert!(error.contains("spec.target.windows_desktop"), "{error}");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (document, part) in [
            (json!([]), "kind, version, metadata and spec"),
            (json!({}), "kind: role, user, token or lock"),
            (json!({"kind": "roel"}), "did you mean \"role\"?"),
            (json!({"kind": "user"}), "version: must be \"v1\""),
            (json!({"kind": "user", "version": "v1", "spec": {"rolse": []}}), "did you mean \"roles\"?"),
            (json!({"kind": "user", "version": "v1", "spec": []}), "spec: must be a map"),
            (json!({"kind": "user", "version": "v1", "metadata": {"name": "a"}, "spec": {}}), "roles"),
            (json!({"kind": "user", "version": "v2", "spec": {"rolse": []}}), "did you mean \"roles\"?"),
            (json!({"kind": "token", "version": "v1", "spec": {"role": []}}), "did you mean \"roles\"?"),
            (
                json!({"kind": "token", "version": "v2", "metadata": {"name": "x"}, "spec": {"roles": [], "join_method": "iam"}}),
                "spec.join_method",
            ),
            (
                json!({"kind": "user", "version": "v1", "metadata": {"name": "a"}, "spec": {"roles": "access"}}),
                "spec.roles: a list is wanted here",
            ),
            (
                json!({"kind": "user", "version": "v1", "metadata": {"name": "a", "expires": "soon"}, "spec": {"roles": []}}),
                "metadata.expires: not an RFC 3339 time",
            ),
            (
                json!({"kind": "role", "version": "v1", "metadata": {"name": "a", "expires": "soon"}, "spec": {}}),
                "metadata.expires: not an RFC 3339 time",
            ),
            (
                json!({"kind": "role", "version": "v1", "metadata": {"name": "a"}, "spec": {"allow": {"node_labels": {"env": 5}}}}),
                "spec.allow.node_labels: a value is a text or a list of texts",
            ),
        ] {
            let error = load(&document).unwrap_err();
            assert!(error.contains(part), "{document}: {error}");
        }
    }
}
