//! Texts that stand for many: `*` is any run of characters, `^…$` a regular expression, everything else itself.

use regex::{Regex, RegexBuilder};

/// The most memory that one compiled expression may take, in bytes. Matching takes linear time in any case.
const MAX_COMPILED: usize = 1 << 18;
/// The sizes of compiled expressions that are told apart.
const SIZES: [usize; 4] = [8 << 10, 32 << 10, 128 << 10, MAX_COMPILED];
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

/// How much memory an expression takes, as the next of a few sizes; nothing if it is none.
pub(crate) fn memory(expression: &str) -> usize {
    let fits = |limit: &&usize| RegexBuilder::new(expression).size_limit(**limit).build().is_ok();
    SIZES.iter().find(fits).copied().unwrap_or_default()
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
    Regex {
        known: Known,
        regex: Regex,
    },
}

/// What is known of the matches of an expression without running it, which takes much longer than comparing texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// These are all.
    All(Box<[Box<str>]>),
    /// Each begins with this text, which may be empty.
    Prefix(Box<str>),
}

/// Whether the character stands for itself, wherever it is.
fn is_plain(letter: char) -> bool {
    !matches!(letter, '\\' | '.' | '+' | '*' | '?' | '(' | ')' | '|' | '[' | ']' | '{' | '}' | '^' | '$')
}

impl Known {
    /// Of the expression `inner`, which stands between `^` and `$`.
    fn of(inner: &str) -> Self {
        Self::all(inner).map_or_else(|| Self::Prefix(Self::prefix(inner).into()), Self::All)
    }

    /// The matches, if the expression is a text, or one with a single choice between texts: `web-(1|2)`, `prod|test`.
    fn all(inner: &str) -> Option<Box<[Box<str>]>> {
        let plain = |text: &str| text.chars().all(is_plain);
        let (before, choice, after) = match inner.split_once('(') {
            Some((before, rest)) => {
                let (choice, after) = rest.split_once(')')?;
                (before, choice.strip_prefix("?:").unwrap_or(choice), after)
            }
            None => ("", inner, ""),
        };
        let known = plain(before) && plain(after) && choice.split('|').all(plain);
        known.then(|| choice.split('|').map(|text| format!("{before}{text}{after}").into()).collect())
    }

    /// The text that whatever the expression matches begins with; short or empty where that is not obvious.
    fn prefix(inner: &str) -> &str {
        // A choice outside of all parentheses has a beginning of its own.
        if inner.contains('|') {
            let mut depth = 0_i32;
            for letter in inner.chars() {
                match letter {
                    '(' => depth += 1,
                    ')' => depth -= 1,
                    '|' if depth <= 0 => return "",
                    // Here a parenthesis may be none.
                    '\\' | '[' | '#' => return "",
                    _ => {}
                }
            }
        }
        let end = inner.find(|letter| !is_plain(letter)).unwrap_or(inner.len());
        let (text, rest) = inner.split_at_checked(end).unwrap_or_default();
        // What is repeated may not be there at all.
        if rest.starts_with(['*', '?', '{', '+']) {
            text.char_indices().next_back().and_then(|(at, _)| text.get(..at)).unwrap_or_default()
        } else {
            text
        }
    }
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
            let regex = whole.map_err(|error| InvalidPattern { pattern: text.to_owned(), ..error })?;
            let known = Known::of(text.get(1..text.len() - 1).unwrap_or_default());
            return Ok(Self::Regex { known, regex });
        }
        let Some((first, rest)) = text.split_once('*') else { return Ok(Self::Exact(text.into())) };
        let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
        let middle = middle.split('*').filter(|part| !part.is_empty()).map(Into::into).collect();
        Ok(Self::Glob { first: first.into(), middle, last: last.into() })
    }

    /// What it costs to find that it does not stand for a text, as a rank.
    pub(crate) const fn rank(&self) -> u8 {
        match self {
            Self::Exact(_) | Self::Regex { known: Known::All(_), .. } => 0,
            Self::Glob { .. } => 1,
            Self::Regex { known: Known::Prefix(_), .. } => 2,
            // It stands for everything.
            Self::Any => 3,
        }
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
            Self::Regex { known: Known::All(texts), .. } => texts.iter().any(|text| **text == *value),
            Self::Regex { known: Known::Prefix(prefix), regex } => {
                value.starts_with(&**prefix) && regex.is_match(value)
            }
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
            (Self::Regex { regex: one, .. }, Self::Regex { regex: other, .. }) => {
                one.as_str() == other.as_str()
            }
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

    #[test]
    fn what_is_obvious_is_known() {
        let prefix = |text: &str| Known::Prefix(text.into());
        let all = |texts: &[&str]| Known::All(texts.iter().map(|text| Box::from(*text)).collect());
        for (inner, expected) in [
            ("", all(&[""])),
            ("team-1", all(&["team-1"])),
            ("team-(1|2)", all(&["team-1", "team-2"])),
            ("(?:a|)b", all(&["ab", "b"])),
            ("a|b", all(&["a", "b"])),
            ("te(a|b)|x", prefix("")),
            ("te(a|b)(c|d)", prefix("te")),
            ("te(a|b)?", prefix("te")),
            ("te(a|[0-9])", prefix("")),
            ("te([0-9])", prefix("te")),
            ("ab?c", prefix("a")),
            ("ab{0,2}", prefix("a")),
            ("é*", prefix("")),
            ("a.b", prefix("a")),
            (r"a\.b", prefix("a")),
            ("(?i)abc", prefix("")),
            (r"ab\(|c", prefix("")),
            ("ab[(]|c", prefix("")),
            ("ab(?x)#(\n|c", prefix("")),
            ("ab(c|d*)e", prefix("ab")),
            ("ab$c", prefix("ab")),
        ] {
            assert_eq!(Known::of(inner), expected, "{inner}");
        }
    }

    proptest! {
        /// What is known of the beginning changes no answer.
        #[test]
        fn an_expression_matches_what_it_matches(
            inner in r"(a|b|ab|\(|\)|\||\?|\*|\[ab\]|\\\(|\.|\^|\$|#|\(\?i\)|\(\?x\)|\{0,1\}){0,8}",
            text in "[abAB(#]{0,5}",
        ) {
            let written = format!("^{inner}$");
            if let Ok(pattern) = Pattern::parse(&written) {
                let expected = Regex::new(&format!("^(?:{written})$")).unwrap().is_match(&text);
                prop_assert_eq!(pattern.matches(&text), expected, "{}", written);
            }
        }

        /// The same as the regular expression that says what a glob is.
        #[test]
        fn a_glob_is_what_its_expression_is(pattern in "[ab*]{0,8}", text in "[ab]{0,8}") {
            let parts: Vec<String> = pattern.split('*').map(regex::escape).collect();
            let expected = Regex::new(&format!("^(?s){}$", parts.join(".*"))).unwrap().is_match(&text);
            prop_assert_eq!(Pattern::parse(&pattern).unwrap().matches(&text), expected);
        }
    }
}
