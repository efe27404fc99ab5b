//! What may be done to a text, in templates and in predicates.

use regex::{Captures, Regex, Replacer};

use super::expr::{Expr, ExprKind, Mistake};
use crate::pattern;

/// The functions from texts to texts.
pub(super) const TRANSFORMS: [&str; 4] = ["email.local", "regexp.replace", "strings.lower", "strings.upper"];

/// The longest result, in bytes: all traits of a user have no more. Replacements within replacements would otherwise double a text
/// again and again.
const MAX_RESULT: usize = 8 << 10;

/// There is a result, but it is too long to go on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooLong;

/// Replaces until the result is too long.
struct Bounded<'w>(&'w str);

impl Replacer for Bounded<'_> {
    fn replace_append(&mut self, captures: &Captures<'_>, result: &mut String) {
        if result.len() <= MAX_RESULT {
            captures.expand(self.0, result);
        }
    }
}

/// A function from texts to texts. What it gives no result for is left out.
#[derive(Clone, Debug)]
pub(super) enum Transform {
    /// The part before the `@`; nothing for what is no address.
    EmailLocal,
    Lower,
    /// Every match replaced, `$1` standing for a group; nothing if there is no match.
    Replace {
        regex: Regex,
        with: String,
    },
    Upper,
}

impl Transform {
    /// From a call of one of [`TRANSFORMS`]: the function, and its first argument. `None` for other names.
    pub(super) fn from_call<'e>(
        call: &'e Expr,
        name: &str,
        args: &'e [Expr],
    ) -> Result<Option<(Self, &'e Expr)>, Mistake> {
        let usage = |usage: &str| Mistake::new(call.at, format!("{name} has other arguments")).hint(usage);
        Ok(Some(match (name, args) {
            ("email.local", [of]) => (Self::EmailLocal, of),
            ("strings.lower", [of]) => (Self::Lower, of),
            ("strings.upper", [of]) => (Self::Upper, of),
            ("regexp.replace", [of, expression, with]) => {
                let regex = literal(expression, "the expression")?;
                let regex =
                    pattern::regex(regex).map_err(|error| Mistake::new(expression.at, error.to_string()))?;
                (Self::Replace { regex, with: literal(with, "the replacement")?.to_owned() }, of)
            }
            ("regexp.replace", _) => {
                return Err(usage("write regexp.replace(value, \"expression\", \"replacement\")"));
            }
            ("email.local" | "strings.lower" | "strings.upper", _) => {
                return Err(usage(&format!("write {name}(value)")));
            }
            _ => return Ok(None),
        }))
    }

    pub(super) fn apply(&self, value: &str) -> Result<Option<String>, TooLong> {
        let result = match self {
            Self::EmailLocal => email_local(value),
            Self::Lower => Some(value.to_lowercase()),
            Self::Replace { regex, with } => {
                regex.is_match(value).then(|| regex.replace_all(value, Bounded(with)).into_owned())
            }
            Self::Upper => Some(value.to_uppercase()),
        };
        match result {
            Some(long) if long.len() > MAX_RESULT => Err(TooLong),
            result => Ok(result),
        }
    }
}

fn email_local(value: &str) -> Option<String> {
    // `Alice <alice@example.com>` is an address too.
    let inside = value.rsplit_once('<').and_then(|(_, rest)| rest.trim_end().strip_suffix('>'));
    let (local, domain) = inside.unwrap_or(value).trim().rsplit_once('@')?;
    (!local.is_empty() && !domain.is_empty()).then(|| local.to_owned())
}

/// A text that must be known when the expression is written.
pub(super) fn literal<'e>(expr: &'e Expr, what: &str) -> Result<&'e str, Mistake> {
    match &expr.kind {
        ExprKind::Text(text) => Ok(text),
        _ => Err(Mistake::new(expr.at, format!("{what} must be a text in double quotes"))),
    }
}
