//! The words of predicates, in one place: what exists where, and what was probably meant.

use super::super::expr::{Expr, Mistake};
use super::Scope;
use super::compile::{List, Text, Value};
use crate::suggest::did_you_mean;

/// The functions that are no [transforms](super::super::transform::TRANSFORMS).
pub(super) const FUNCTIONS: [&str; 10] = [
    "contains",
    "contains_all",
    "contains_any",
    "equals",
    "exists",
    "has_prefix",
    "has_suffix",
    "labels_matching",
    "regexp.match",
    "set",
];

/// Complete names, for suggestions.
const NODE_NAMES: [&str; 6] = [
    "labels",
    "resource.metadata.labels",
    "resource.metadata.name",
    "user.metadata.name",
    "user.spec.roles",
    "user.spec.traits",
];
const RULE_NAMES: [&str; 9] = [
    "resource.metadata.labels",
    "resource.metadata.name",
    "session.login",
    "session.participants",
    "session.server_hostname",
    "session.server_id",
    "user.metadata.name",
    "user.spec.roles",
    "user.spec.traits",
];

/// What a name stands for.
pub(super) fn resolve(expr: &Expr, steps: &[String], scope: Scope) -> Result<Value, Mistake> {
    let steps: Vec<&str> = steps.iter().map(String::as_str).collect();
    let keyed = |what: &str| {
        Mistake::new(expr.at, format!("which of {what}?")).hint(format!("write {what}[\"name\"]"))
    };
    let value = match (scope, steps.as_slice()) {
        (_, ["user", "metadata", "name"]) => Value::Text(Text::UserName),
        (_, ["user", "spec", "roles"]) => Value::List(List::UserRoles),
        (_, ["user", "spec", "traits", name]) => Value::List(List::Trait((*name).to_owned())),
        (_, ["user", "spec", "traits"]) => return Err(keyed("user.spec.traits")),
        (_, ["resource", "metadata", "name"]) => Value::Text(Text::ResourceName),
        (_, ["resource", "metadata", "labels", key]) | (Scope::Nodes, ["labels", key]) => {
            Value::Text(Text::Label((*key).to_owned()))
        }
        (_, ["resource", "metadata", "labels"]) => return Err(keyed("resource.metadata.labels")),
        (Scope::Nodes, ["labels"]) => return Err(keyed("labels")),
        (Scope::Rules, ["session" | "ssh_session" | "session_tracker", "participants"]) => {
            Value::List(List::Participants)
        }
        (Scope::Rules, ["session", "login"]) => Value::Text(Text::SessionLogin),
        (Scope::Rules, ["session", "server_hostname"]) => Value::Text(Text::SessionServerName),
        (Scope::Rules, ["session", "server_id"]) => Value::Text(Text::SessionServerId),
        _ => return Err(unknown(expr, &steps, scope)),
    };
    Ok(value)
}

fn unknown(expr: &Expr, steps: &[&str], scope: Scope) -> Mistake {
    let name = steps.join(".");
    let (names, others): (&[&str], &[&str]) = match scope {
        Scope::Nodes => (&NODE_NAMES, &RULE_NAMES),
        Scope::Rules => (&RULE_NAMES, &NODE_NAMES),
    };
    if others.iter().any(|other| name == *other || name.starts_with(&format!("{other}."))) {
        let place = match scope {
            Scope::Nodes => "only in `where` of rules",
            Scope::Rules => "only in node_labels_expression",
        };
        return Mistake::new(expr.at, format!("{name:?} exists {place}"));
    }
    if FUNCTIONS.contains(&name.as_str()) {
        return Mistake::new(expr.at, format!("{name:?} is a function")).hint(format!("write {name}(…)"));
    }
    // A mistyped beginning is compared with beginnings of the same length.
    for known in names {
        let known_steps: Vec<&str> = known.split('.').collect();
        let beginning = steps.get(..known_steps.len()).map(|steps| steps.join("."));
        if beginning
            .as_deref()
            .is_some_and(|beginning| crate::suggest::nearest(beginning, [*known]).is_some())
        {
            let wrong = beginning.unwrap_or_default();
            return Mistake::new(expr.at, format!("there is no {wrong:?}; did you mean {known:?}?"));
        }
    }
    let near = did_you_mean(&name, names.iter().copied());
    let mistake = Mistake::new(expr.at, format!("there is no {name:?}{near}"));
    if near.is_empty() { mistake.hint(format!("there are {}", names.join(", "))) } else { mistake }
}
