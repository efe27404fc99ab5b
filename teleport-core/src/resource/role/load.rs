//! From a document to a role.

use std::fmt;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{Role, RoleConditions, RoleOptions, keys, original};
use crate::access::CompiledRole;
use crate::resource::{Metadata, plain_words};

/// One thing that is wrong with a document.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DocumentProblem {
    /// Where: `spec.allow.rules[0].where`. Empty for the whole.
    pub path: String,
    /// What is wrong there.
    pub message: String,
}

impl DocumentProblem {
    pub(crate) fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }
}

impl fmt::Display for DocumentProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.path, self.message)
        }
    }
}

/// A document is not what it should be. All that is wrong with it, in the order of the document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
#[non_exhaustive]
pub struct InvalidDocument {
    /// What is wrong; at least one.
    pub problems: Vec<DocumentProblem>,
}

impl From<DocumentProblem> for InvalidDocument {
    fn from(problem: DocumentProblem) -> Self {
        Self { problems: vec![problem] }
    }
}

/// A role as it was read from a document.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadedRole {
    /// The role, of our own version.
    pub role: Role,
    /// What the document says and nothing obeys, or what its author may have meant otherwise: one line each, with the place.
    pub ignored: Vec<String>,
}

/// Reads a role as administrators write it: of our own version `v1`, or of the versions `v3` to `v8` of the original.
///
/// Everything that can be wrong with it is found here: unknown keys, templates, predicates, regular expressions, kinds of
/// resources. What is loaded can be decided by.
///
/// Documents of the original have the defaults of their own version: in `v3` a role with logins and without `node_labels`
/// matches every node, since `v4` none. What is not about SSH, or not offered here, is left out and named in
/// [`LoadedRole::ignored`].
///
/// # Errors
/// [`InvalidDocument`], with everything that is wrong.
pub fn load_role(document: &Value) -> Result<LoadedRole, InvalidDocument> {
    let field = |name: &str| document.get(name).and_then(Value::as_str);
    if !document.is_object() {
        return Err(DocumentProblem::new(
            "",
            "a role is a map with the keys kind, version, metadata and spec",
        )
        .into());
    }
    if field("kind") != Some("role") {
        return Err(DocumentProblem::new("kind", "must be \"role\"").into());
    }
    let mut loaded = match field("version") {
        Some("v1") => {
            let mut problems = Vec::new();
            keys::check(document, &keys::ROLE, "", &mut problems);
            if !problems.is_empty() {
                return Err(InvalidDocument { problems });
            }
            LoadedRole { role: read(document.clone())?, ignored: Vec::new() }
        }
        Some(version @ ("v3" | "v4" | "v5" | "v6" | "v7" | "v8")) => original::load(document, version)?,
        _ => {
            let message = "must be \"v1\", or \"v3\" to \"v8\" for a role of the original";
            return Err(DocumentProblem::new("version", message).into());
        }
    };
    CompiledRole::new(loaded.role.clone())?;
    loaded.ignored.extend(unfinished_expressions(&loaded.role));
    Ok(loaded)
}

/// Entries that begin like a regular expression and do not end like one, so that they are none: whoever wrote them into a denial would
/// believe that it denies.
fn unfinished_expressions(role: &Role) -> Vec<String> {
    let mut told = Vec::new();
    for (side, conditions) in [("allow", &role.spec.allow), ("deny", &role.spec.deny)] {
        let labels = conditions.node_labels.source().iter();
        let labels = labels
            .flat_map(|(key, values)| values.iter().map(move |value| (format!("node_labels.{key}"), value)));
        let commands = conditions.commands.iter().flatten().enumerate();
        let commands = commands.map(|(index, entry)| (format!("commands[{index}]"), entry));
        for (path, entry) in labels.chain(commands) {
            if entry.starts_with('^') && !entry.ends_with('$') {
                told.push(format!("spec.{side}.{path}: {entry:?} is no regular expression, which ends with $; it stands for itself"));
            }
        }
    }
    told
}

/// Reads the values; the keys are known to be right.
pub(super) fn read(document: Value) -> Result<Role, InvalidDocument> {
    let mut problems = misfits(&document);
    match serde_json::from_value(document) {
        Ok(role) => Ok(role),
        Err(error) => {
            if problems.is_empty() {
                problems.push(DocumentProblem::new("", plain_words(&error.to_string())));
            }
            Err(InvalidDocument { problems })
        }
    }
}

/// The values that cannot be read, each with its place, which the reader of the whole does not tell.
fn misfits(document: &Value) -> Vec<DocumentProblem> {
    let mut problems = Vec::new();
    let spec = document.get("spec");
    let part = |name: &str| spec.and_then(|spec| spec.get(name));
    misfits_in::<Metadata>("metadata", document.get("metadata"), &mut problems);
    misfits_in::<RoleConditions>("spec.allow", part("allow"), &mut problems);
    misfits_in::<RoleConditions>("spec.deny", part("deny"), &mut problems);
    misfits_in::<RoleOptions>("spec.options", part("options"), &mut problems);
    problems
}

/// The values of one map that cannot be read, each by itself.
pub(in crate::resource) fn misfits_in<T: DeserializeOwned>(
    path: &str,
    map: Option<&Value>,
    problems: &mut Vec<DocumentProblem>,
) {
    for (key, value) in map.and_then(Value::as_object).into_iter().flatten() {
        let Err(error) = serde_json::from_value::<T>(json!({ key: value })) else { continue };
        let error = plain_words(&error.to_string());
        // What is not there is not wrong about this value.
        if !error.starts_with("missing field") {
            problems.push(DocumentProblem::new(keys::join(path, key), error));
        }
    }
}
