//! Texts that stand for many: `*` is any run of characters, `^…$` a regular expression, everything else itself.

use regex::{Regex, RegexBuilder};

/// The most memory that one compiled expression may take, in bytes. Matching takes linear time in any case.
const MAX_COMPILED: usize = 1 << 18;
/// The most memory for the states that matching keeps, in bytes.
const MAX_STATES: usize = 1 << 18;

/// A text between `^` and `$` is not a regular expression, or too large a one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{pattern:?} is not a valid regular expression: {reason}")]
pub(crate) struct InvalidPattern {
    pub(crate) pattern: String,
    pub(crate) reason: String,
}

/// Compiles an expression within bounds.
pub(crate) fn regex(expression: &str) -> Result<Regex, InvalidPattern> {
    let built = RegexBuilder::new(expression).size_limit(MAX_COMPILED).dfa_size_limit(MAX_STATES).build();
    built.map_err(|error| {
        let reason = match &error {
            regex::Error::CompiledTooBig(_) => "it is too large".to_owned(),
            // The library draws the expression over several lines; the last one says what is wrong.
            other => {
                let text = other.to_string();
                let last = text.lines().last().unwrap_or_default();
                last.strip_prefix("error: ").unwrap_or(last).to_owned()
            }
        };
        InvalidPattern { pattern: expression.to_owned(), reason }
    })
}

/// A compiled pattern.
#[derive(Clone, Debug)]
pub(crate) enum Pattern {
    Any,
    Exact(Box<str>),
    /// The text before the first `*`, those between, and the one after the last.
    Glob {
        first: Box<str>,
        middle: Box<[Box<str>]>,
        last: Box<str>,
    },
    Regex(Regex),
}

impl Pattern {
    /// Compiles `text`.
    pub(crate) fn parse(text: &str) -> Result<Self, InvalidPattern> {
        if text == "*" {
            return Ok(Self::Any);
        }
        if text.len() >= 2 && text.starts_with('^') && text.ends_with('$') {
            // It must be one by itself, and matches whole values: in `^a|b$` each anchor binds one side only.
            regex(text)?;
            let whole = regex(&format!("^(?:{text})$"));
            return whole
                .map(Self::Regex)
                .map_err(|error| InvalidPattern { pattern: text.to_owned(), ..error });
        }
        let Some((first, rest)) = text.split_once('*') else { return Ok(Self::Exact(text.into())) };
        let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
        let middle = middle.split('*').filter(|part| !part.is_empty()).map(Into::into).collect();
        Ok(Self::Glob { first: first.into(), middle, last: last.into() })
    }

    /// Whether it stands for `value`, all of it.
    pub(crate) fn matches(&self, value: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => **exact == *value,
            Self::Glob { first, middle, last } => {
                let inside = value.strip_prefix(&**first).and_then(|rest| rest.strip_suffix(&**last));
                let Some(mut rest) = inside else { return false };
                // Each part at its first place leaves the most room for the next.
                middle.iter().all(|part| match rest.split_once(&**part) {
                    Some((_, after)) => {
                        rest = after;
                        true
                    }
                    None => false,
                })
            }
            Self::Regex(regex) => regex.is_match(value),
        }
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, Self::Any) => true,
            (Self::Exact(one), Self::Exact(other)) => one == other,
            (
                Self::Glob { first, middle, last },
                Self::Glob { first: other_first, middle: other_middle, last: other_last },
            ) => first == other_first && middle == other_middle && last == other_last,
            (Self::Regex(one), Self::Regex(other)) => one.as_str() == other.as_str(),
            _ => false,
        }
    }
}

impl Eq for Pattern {}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn stands_for_whole_texts() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("a", "a", true),
            ("a", "A", false),
            ("", "", true),
            ("a*", "a", true),
            ("a*", "ba", false),
            ("*a", "ba", true),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("a**b", "ab", true),
            ("a*b*c", "axxbxxc", true),
            ("a*b*c", "acb", false),
            ("*b*", "abc", true),
            ("*ab*ab*", "ab", false),
            ("*ab*ab*", "abab", true),
            ("p.*d", "prod", false),
            ("^p.*d$", "prod", true),
            ("^a|b$", "ab", false),
            ("^a|b$", "b", true),
            ("é*", "éa", true),
            ("^", "^", true),
        ] {
            assert_eq!(Pattern::parse(pattern).unwrap().matches(text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn bad_expressions_say_why() {
        for (pattern, reason) in [
            ("^($", "unclosed group"),
            ("^a)|(b$", "unopened group"),
            ("^(((a{99}){99}){99})$", "it is too large"),
        ] {
            let error = Pattern::parse(pattern).unwrap_err();
            assert!(error.to_string().contains(reason), "{error}");
            assert_eq!(error.pattern, pattern);
        }
    }

    proptest! {
        /// The same as the regular expression that says what a glob is.
        #[test]
        fn a_glob_is_what_its_expression_is(pattern in "[ab*]{0,8}", text in "[ab]{0,8}") {
            let parts: Vec<String> = pattern.split('*').map(regex::escape).collect();
            let expected = Regex::new(&format!("^(?s){}$", parts.join(".*"))).unwrap().is_match(&text);
            prop_assert_eq!(Pattern::parse(&pattern).unwrap().matches(&text), expected);
        }
    }
}
