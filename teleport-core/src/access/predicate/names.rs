//! The words of predicates, in one place: what exists where, and what was probably meant.

use super::super::expr::{Expr, Mistake};
use super::Scope;
use super::compile::{List, Text, Value};
use crate::suggest::did_you_mean;

/// The functions that are no [transforms](super::super::transform::TRANSFORMS).
pub(super) const FUNCTIONS: [&str; 12] = [
    "contains",
    "contains_all",
    "contains_any",
    "equals",
    "exists",
    "has_prefix",
    "has_suffix",
    "labels_matching",
    "regexp.match",
    "search",
    "set",
    "split",
];

const QUERIES: &[Scope] = &[Scope::Queries];
const NODES: &[Scope] = &[Scope::Nodes, Scope::Queries];
const ROLES: &[Scope] = &[Scope::Nodes, Scope::Rules];
const RULES: &[Scope] = &[Scope::Rules];

/// Complete names, and where they exist.
const NAMES: [(&str, &[Scope]); 11] = [
    ("labels", NODES),
    ("name", QUERIES),
    ("resource.metadata.labels", &[Scope::Nodes, Scope::Rules, Scope::Queries]),
    ("resource.metadata.name", &[Scope::Nodes, Scope::Rules, Scope::Queries]),
    ("session.login", RULES),
    ("session.participants", RULES),
    ("session.server_hostname", RULES),
    ("session.server_id", RULES),
    ("user.metadata.name", ROLES),
    ("user.spec.roles", ROLES),
    ("user.spec.traits", ROLES),
];

/// Where something exists that does not exist everywhere.
fn places(scopes: &[Scope]) -> String {
    let place = |scope: &Scope| match scope {
        Scope::Nodes => "node_labels_expression",
        Scope::Queries => "queries",
        Scope::Rules => "`where` of rules",
    };
    scopes.iter().map(place).collect::<Vec<_>>().join(" and ")
}

/// What a name stands for.
pub(super) fn resolve(expr: &Expr, steps: &[String], scope: Scope) -> Result<Value, Mistake> {
    let steps: Vec<&str> = steps.iter().map(String::as_str).collect();
    let keyed = |what: &str| {
        Mistake::new(expr.at, format!("which of {what}?")).hint(format!("write {what}[\"name\"]"))
    };
    let name = steps.join(".");
    let known = NAMES.iter().find(|(known, _)| name == *known || name.starts_with(&format!("{known}.")));
    if let Some((_, scopes)) = known
        && !scopes.contains(&scope)
    {
        return Err(Mistake::new(expr.at, format!("{name:?} exists only in {}", places(scopes))));
    }
    let value = match steps.as_slice() {
        ["user", "metadata", "name"] => Value::Text(Text::UserName),
        ["user", "spec", "roles"] => Value::List(List::UserRoles),
        ["user", "spec", "traits", name] => Value::List(List::Trait((*name).to_owned())),
        ["user", "spec", "traits"] => return Err(keyed("user.spec.traits")),
        ["resource", "metadata", "name"] => Value::Text(Text::ResourceName),
        ["name"] if scope == Scope::Queries => Value::Text(Text::ResourceName),
        ["resource", "metadata", "labels", key] => Value::Text(Text::Label((*key).to_owned())),
        ["labels", key] if scope != Scope::Rules => Value::Text(Text::Label((*key).to_owned())),
        ["resource", "metadata", "labels"] => return Err(keyed("resource.metadata.labels")),
        ["labels"] if scope != Scope::Rules => return Err(keyed("labels")),
        ["session", "participants"] => Value::List(List::Participants),
        ["ssh_session" | "session_tracker", "participants"] if scope == Scope::Rules => {
            Value::List(List::Participants)
        }
        ["session", "login"] => Value::Text(Text::SessionLogin),
        ["session", "server_hostname"] => Value::Text(Text::SessionServerName),
        ["session", "server_id"] => Value::Text(Text::SessionServerId),
        _ => return Err(unknown(expr, &steps, scope)),
    };
    Ok(value)
}

fn unknown(expr: &Expr, steps: &[&str], scope: Scope) -> Mistake {
    let name = steps.join(".");
    let in_scope = NAMES.iter().filter(|(_, scopes)| scopes.contains(&scope)).map(|(name, _)| *name);
    let names: Vec<&str> = in_scope.collect();
    if FUNCTIONS.contains(&name.as_str()) {
        return Mistake::new(expr.at, format!("{name:?} is a function")).hint(format!("write {name}(…)"));
    }
    // A mistyped beginning is compared with beginnings of the same length.
    for known in &names {
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
