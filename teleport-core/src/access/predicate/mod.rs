//! Conditions in roles: `where` of rules, and `node_labels_expression`.

mod compile;
mod eval;
mod facts;
mod names;
mod reads;
#[cfg(test)]
mod tests;

use std::fmt;

use self::compile::Condition;
pub use self::facts::{Facts, ResourceFacts, SessionFacts, Subject};
use self::reads::Read;
use super::expr::{InvalidExpression, parse};
use crate::cert::Traits;
use crate::resource::NodeRecord;

/// Where a predicate stands, and so what it can speak about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Scope {
    /// `node_labels_expression`: about the user and a node.
    Nodes,
    /// A search among nodes, as in `tsh ls --query`: about a node.
    Queries,
    /// `where` of a rule: about the user and a resource or session.
    Rules,
}

/// A compiled condition.
///
/// | about | in |
/// | --- | --- |
/// | `user.metadata.name`, `user.spec.roles`, `user.spec.traits["name"]` | `node_labels_expression`, `where` |
/// | `resource.metadata.name`, `resource.metadata.labels["key"]` | everywhere; the resource may be a node |
/// | `labels["key"]`, `labels.key`, `labels_matching("pattern")` | `node_labels_expression`, queries |
/// | `name` | queries |
/// | `session.participants`, `session.login`, `session.server_id`, `session.server_hostname` | `where` |
///
/// | function | is true if |
/// | --- | --- |
/// | `a == b`, `a != b`, `equals(a, b)` | the texts, or the lists as sets, are (not) the same |
/// | `contains(list, item)` | the item is in the list |
/// | `contains_any(list, items)`, `contains_all(list, items)` | one of the items is, or all are and there is one |
/// | `regexp.match(x, "pattern")` | a value is matched, as a whole, by a `*` pattern or a `^…$` expression |
/// | `has_prefix(x, "text")`, `has_suffix(x, "text")` | a value begins or ends so |
/// | `exists(x)` | there is a value |
/// | `search("text", …)` | each text occurs in the node's name, address or labels, in any case of letters; in queries |
///
/// `set("a", "b")` is a list, and so is `split(text, ",")`, of what stands between the commas; `email.local(x)`, `regexp.replace(x, "expression", "replacement")`, `strings.lower(x)` and
/// `strings.upper(x)` change each value. `&&` binds closer than `||`, `!` closer than both. A label or trait that is not
/// there has no value: it equals the empty text, and is contained in nothing and matched by nothing.
///
/// ```
/// use teleport_core::access::{Predicate, Scope};
///
/// Predicate::new(r#"contains(user.spec.traits["teams"], labels["team"])"#, Scope::Nodes)?;
///
/// let source = r#"lables["env"] == "prod""#;
/// let error = Predicate::new(source, Scope::Nodes).unwrap_err();
/// assert_eq!(error.to_string(), r#"column 1: there is no "lables"; did you mean "labels"?"#);
/// # Ok::<(), teleport_core::access::InvalidExpression>(())
/// ```
#[derive(Clone)]
pub struct Predicate {
    source: String,
    condition: Condition,
}

impl Predicate {
    /// Compiles a condition. All that can be wrong with it is found here; evaluation cannot fail.
    ///
    /// # Errors
    /// [`InvalidExpression`].
    pub fn new(source: &str, scope: Scope) -> Result<Self, InvalidExpression> {
        let compiled = parse(source).and_then(|expr| compile::condition(&expr, scope));
        match compiled {
            Ok(condition) => Ok(Self { source: source.to_owned(), condition }),
            Err(mistake) => Err(mistake.in_source(source)),
        }
    }

    /// A condition that was not understood: its value is always the one that allows least.
    pub(super) fn constant(source: &str, value: bool) -> Self {
        Self { source: source.to_owned(), condition: Condition::Constant(value) }
    }

    /// The condition as it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The keys of the labels on which it depends; `None` if it depends on more of the resource.
    pub(super) fn labels(&self) -> Option<Vec<&str>> {
        let mut keys = Some(Vec::new());
        self.condition.reads(&mut |read| match (read, &mut keys) {
            (Read::Label(key), Some(keys)) => keys.push(key),
            (_, keys) => *keys = None,
        });
        keys
    }

    /// What it asks of a resource of `kind` that those who decide about such resources do not know: it would never decide
    /// about one, only about all or none.
    pub(super) fn unanswered(&self, kind: &str) -> Option<&'static str> {
        let of_sessions = matches!(kind, "session" | "session_tracker");
        let mut unanswered = None;
        self.condition.reads(&mut |read| {
            let (what, known) = match read {
                Read::Label(_) | Read::Labels => ("its labels", false),
                Read::Name => ("its name", of_sessions),
                Read::Session => ("a session", of_sessions),
            };
            if !known {
                unanswered = Some(what);
            }
        });
        unanswered
    }

    /// Whether it holds of a node, whoever asks: for [`Scope::Queries`]. What depends on the user does not hold.
    pub fn matches_node(&self, node: &NodeRecord) -> bool {
        static NO_TRAITS: Traits = Traits::new();
        let subject = Subject::new("", &[], &NO_TRAITS);
        let resource = ResourceFacts {
            name: Some(node.name.as_str()),
            address: Some(&node.address),
            labels: Some(node.labels.as_map()),
            session: None,
        };
        self.evaluate(&Facts { subject, resource }) == Some(true)
    }

    /// Whether it holds; `None` if that depends on a fact that is not given.
    pub fn evaluate(&self, facts: &Facts<'_>) -> Option<bool> {
        self.condition.evaluate(facts)
    }
}

impl fmt::Debug for Predicate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Predicate({:?})", self.source)
    }
}

impl fmt::Display for Predicate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}
