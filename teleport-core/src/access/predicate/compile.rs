//! Expressions to conditions: every name, type and argument is checked once.

use super::super::expr::{Expr, ExprKind, Mistake};
use super::super::transform::{TRANSFORMS, Transform, literal};
use super::Scope;
use super::names::{self, FUNCTIONS};
use crate::pattern::Pattern;
use crate::suggest::did_you_mean;

/// True, false or undecided.
#[derive(Clone, Debug)]
pub(super) enum Condition {
    All(Vec<Condition>),
    Any(Vec<Condition>),
    Constant(bool),
    Contains(List, Text),
    ContainsAll(List, List),
    ContainsAny(List, List),
    Exists(List),
    HasPrefix(List, Text),
    HasSuffix(List, Text),
    Match(List, Pattern),
    Not(Box<Condition>),
    SameList(List, List),
    SameText(Text, Text),
    /// Words in lower case.
    Search(Vec<String>),
}

/// One text, or none.
#[derive(Clone, Debug)]
pub(super) enum Text {
    Label(String),
    Literal(String),
    Mapped(Box<Text>, Transform),
    ResourceName,
    SessionLogin,
    SessionServerId,
    SessionServerName,
    UserName,
}

/// Several texts.
#[derive(Clone, Debug)]
pub(super) enum List {
    LabelsMatching(Pattern),
    Mapped(Box<List>, Transform),
    Participants,
    Split(Text, String),
    Texts(Vec<Text>),
    Trait(String),
    UserRoles,
}

/// What an expression is.
pub(super) enum Value {
    Condition(Condition),
    List(List),
    Text(Text),
}

impl Value {
    const fn kind(&self) -> &'static str {
        match self {
            Self::Condition(_) => "a condition",
            Self::List(_) => "a list",
            Self::Text(_) => "a text",
        }
    }
}

pub(super) fn condition(expr: &Expr, scope: Scope) -> Result<Condition, Mistake> {
    match value(expr, scope)? {
        Value::Condition(condition) => Ok(condition),
        other => {
            let mistake = Mistake::new(expr.at, format!("this is {}, not a condition", other.kind()));
            Err(match other {
                Value::List(_) => mistake.hint("compare it by contains(list, item)"),
                _ => mistake.hint("compare it by `== \"…\"`"),
            })
        }
    }
}

fn text(expr: &Expr, scope: Scope) -> Result<Text, Mistake> {
    match value(expr, scope)? {
        Value::Text(text) => Ok(text),
        other => {
            let mistake = Mistake::new(expr.at, format!("expected a text, this is {}", other.kind()));
            Err(match other {
                Value::List(_) => mistake.hint("use contains(list, item), with the list first"),
                _ => mistake,
            })
        }
    }
}

/// A list; a text is one of a single value, or of none if it is not there.
fn list(expr: &Expr, scope: Scope) -> Result<List, Mistake> {
    match value(expr, scope)? {
        Value::List(list) => Ok(list),
        Value::Text(text) => Ok(List::Texts(vec![text])),
        Value::Condition(_) => Err(Mistake::new(expr.at, "expected a list, this is a condition")),
    }
}

fn value(expr: &Expr, scope: Scope) -> Result<Value, Mistake> {
    let conditions =
        |parts: &[Expr]| parts.iter().map(|part| condition(part, scope)).collect::<Result<_, _>>();
    Ok(match &expr.kind {
        ExprKind::And(parts) => Value::Condition(Condition::All(conditions(parts)?)),
        ExprKind::Bool(constant) => Value::Condition(Condition::Constant(*constant)),
        ExprKind::Call { name, args } => call(expr, name, args, scope)?,
        ExprKind::Equal { left, right, negated } => {
            let same = same(left, right, scope)?;
            Value::Condition(if *negated { Condition::Not(Box::new(same)) } else { same })
        }
        ExprKind::Not(inner) => Value::Condition(Condition::Not(Box::new(condition(inner, scope)?))),
        ExprKind::Or(parts) => Value::Condition(Condition::Any(conditions(parts)?)),
        ExprKind::Path(steps) => names::resolve(expr, steps, scope)?,
        ExprKind::Text(text) => Value::Text(Text::Literal(text.clone())),
    })
}

fn same(left: &Expr, right: &Expr, scope: Scope) -> Result<Condition, Mistake> {
    match (value(left, scope)?, value(right, scope)?) {
        (Value::Text(left), Value::Text(right)) => Ok(Condition::SameText(left, right)),
        (Value::List(left), Value::List(right)) => Ok(Condition::SameList(left, right)),
        (one, other) => {
            let (one, other_kind) = (one.kind(), other.kind());
            let mistake = Mistake::new(left.at, format!("{one} cannot equal {other_kind}"));
            Err(mistake.hint("whether a list has an item is contains(list, item)"))
        }
    }
}

fn call(expr: &Expr, name: &str, args: &[Expr], scope: Scope) -> Result<Value, Mistake> {
    if let Some((transform, of)) = Transform::from_call(expr, name, args)? {
        return match value(of, scope)? {
            Value::Text(text) => Ok(Value::Text(Text::Mapped(Box::new(text), transform))),
            Value::List(list) => Ok(Value::List(List::Mapped(Box::new(list), transform))),
            Value::Condition(_) => Err(Mistake::new(of.at, "expected a text or a list, this is a condition")),
        };
    }
    let pattern = |expr: &Expr| {
        let text = literal(expr, "the pattern")?;
        if text.starts_with('^') && !text.ends_with('$') {
            let mistake = Mistake::new(
                expr.at,
                format!("{text:?} begins like a regular expression and ends otherwise"),
            );
            return Err(
                mistake.hint("it matches the whole text: end it with `$`, after `.*` if anything may follow")
            );
        }
        Pattern::parse(text).map_err(|error| Mistake::new(expr.at, error.to_string()))
    };
    let condition = match (name, args) {
        ("contains", [of, item]) => {
            if matches!(value(of, scope)?, Value::Text(_)) {
                let mistake = Mistake::new(of.at, "contains() needs a list first, this is a text");
                return Err(mistake.hint("swap the arguments, or compare by `==`"));
            }
            Condition::Contains(list(of, scope)?, text(item, scope)?)
        }
        ("contains_all", [of, items]) => Condition::ContainsAll(list(of, scope)?, list(items, scope)?),
        ("contains_any", [of, items]) => Condition::ContainsAny(list(of, scope)?, list(items, scope)?),
        ("equals", [left, right]) => same(left, right, scope)?,
        ("exists", [of]) => Condition::Exists(list(of, scope)?),
        ("has_prefix" | "hasPrefix", [of, with]) => {
            Condition::HasPrefix(list(of, scope)?, text(with, scope)?)
        }
        ("has_suffix", [of, with]) => Condition::HasSuffix(list(of, scope)?, text(with, scope)?),
        ("labels_matching", [keys]) => match scope {
            Scope::Nodes | Scope::Queries => return Ok(Value::List(List::LabelsMatching(pattern(keys)?))),
            Scope::Rules => {
                return Err(Mistake::new(
                    expr.at,
                    "labels_matching() exists only in node_labels_expression and queries",
                ));
            }
        },
        ("regexp.match", [of, expression]) => Condition::Match(list(of, scope)?, pattern(expression)?),
        ("search", words) => {
            if scope != Scope::Queries {
                return Err(Mistake::new(expr.at, "search() exists only in queries"));
            }
            let words = words.iter().map(|word| literal(word, "a word").map(str::to_lowercase));
            Condition::Search(words.collect::<Result<_, _>>()?)
        }
        ("split", [of, at]) => {
            let at = literal(at, "the separator")?.to_owned();
            return Ok(Value::List(List::Split(text(of, scope)?, at)));
        }
        ("set", items) => {
            let items = items.iter().map(|item| text(item, scope)).collect::<Result<_, _>>()?;
            return Ok(Value::List(List::Texts(items)));
        }
        _ => return Err(unknown(expr, name)),
    };
    Ok(Value::Condition(condition))
}

fn unknown(expr: &Expr, name: &str) -> Mistake {
    let usage = match name {
        "contains" => "contains(list, item)",
        "contains_all" => "contains_all(list, items)",
        "contains_any" => "contains_any(list, items)",
        "equals" => "equals(a, b)",
        "exists" => "exists(x)",
        "has_prefix" | "hasPrefix" => "has_prefix(x, \"text\")",
        "has_suffix" => "has_suffix(x, \"text\")",
        "labels_matching" => "labels_matching(\"pattern\")",
        "regexp.match" => "regexp.match(x, \"pattern\")",
        "split" => "split(text, \"separator\")",
        _ => {
            let known = || FUNCTIONS.into_iter().chain(TRANSFORMS);
            let near = did_you_mean(name, known());
            let mistake = Mistake::new(expr.at, format!("there is no function {name:?}{near}"));
            if !near.is_empty() {
                return mistake;
            }
            return mistake.hint(format!("there are {}", known().collect::<Vec<_>>().join(", ")));
        }
    };
    Mistake::new(expr.at, format!("{name}() has other arguments")).hint(format!("write {usage}"))
}
