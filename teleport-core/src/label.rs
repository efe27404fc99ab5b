//! Labels of nodes, and the matchers of roles.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use regex::Regex;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The most labels of one node.
pub const MAX_LABELS: usize = 64;
/// The longest label value, in bytes.
pub const MAX_VALUE_LEN: usize = 256;

/// A text is not a label, or a matcher is malformed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidLabel {
    /// The key breaks its rule.
    #[error("a label's key is 1 to 64 letters, digits and any of `_ - . / :`, not {key:?}")]
    Key {
        /// The key.
        key: String,
    },
    /// `*` as a key with another value than `*`.
    #[error("the label key `*` needs the value `*`")]
    LonelyWildcard,
    /// The expression between `^` and `$` is not a regular expression, or is too large.
    #[error("{pattern:?} is not a valid regular expression")]
    Pattern {
        /// The pattern.
        pattern: String,
    },
    /// Not of the form `key=value,key=value`.
    #[error("labels are written key=value,key=value; {text:?} is not")]
    Syntax {
        /// The offending part.
        text: String,
    },
    /// More than [`MAX_LABELS`].
    #[error("a node has at most {MAX_LABELS} labels")]
    TooMany,
    /// The value has control characters or is longer than [`MAX_VALUE_LEN`] bytes.
    #[error("a label's value has at most {MAX_VALUE_LEN} bytes and no control characters: {key}")]
    Value {
        /// The key whose value it is.
        key: String,
    },
}

fn is_key(key: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./:".contains(&byte);
    !key.is_empty() && key.len() <= 64 && key.bytes().all(allowed)
}

/// The labels of a node: checked keys and values, at most [`MAX_LABELS`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(BTreeMap<String, String>);

impl Labels {
    /// Checks labels.
    ///
    /// # Errors
    /// [`InvalidLabel`].
    pub fn new(labels: impl IntoIterator<Item = (String, String)>) -> Result<Self, InvalidLabel> {
        let mut checked = BTreeMap::new();
        for (key, value) in labels {
            if !is_key(&key) {
                return Err(InvalidLabel::Key { key });
            }
            if value.len() > MAX_VALUE_LEN || value.chars().any(char::is_control) {
                return Err(InvalidLabel::Value { key });
            }
            checked.insert(key, value);
        }
        if checked.len() > MAX_LABELS { Err(InvalidLabel::TooMany) } else { Ok(Self(checked)) }
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// All labels in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether each of `wanted` is present with exactly its value.
    pub fn contains(&self, wanted: &Self) -> bool {
        wanted.iter().all(|(key, value)| self.get(key) == Some(value))
    }
}

/// `key=value,key=value`, sorted.
impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (key, value)) in self.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{key}={value}")?;
        }
        Ok(())
    }
}

/// Reads `key=value,key=value`; the empty text is no labels.
impl FromStr for Labels {
    type Err = InvalidLabel;

    fn from_str(text: &str) -> Result<Self, InvalidLabel> {
        let pairs = text.split(',').filter(|part| !part.trim().is_empty()).map(|part| {
            let (key, value) =
                part.split_once('=').ok_or_else(|| InvalidLabel::Syntax { text: part.to_owned() })?;
            Ok((key.trim().to_owned(), value.trim().to_owned()))
        });
        Self::new(pairs.collect::<Result<Vec<_>, _>>()?)
    }
}

impl Serialize for Labels {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(BTreeMap::<String, String>::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[derive(Clone, Debug)]
enum Pattern {
    Any,
    Exact(String),
    Regex(Regex),
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, InvalidLabel> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let compile = |expression: &str| {
            let regex = regex::RegexBuilder::new(expression).size_limit(1 << 20).build();
            regex.map_err(|_| InvalidLabel::Pattern { pattern: text.to_owned() })
        };
        let expression = if text.len() >= 2 && text.starts_with('^') && text.ends_with('$') {
            // It must be one by itself, and matches whole values: in `^a|b$` each anchor binds one side only.
            compile(text)?;
            format!("^(?:{text})$")
        } else if text.contains('*') {
            let parts: Vec<String> = text.split('*').map(regex::escape).collect();
            format!("^(?s){}$", parts.join(".*"))
        } else {
            return Ok(Self::Exact(text.to_owned()));
        };
        compile(&expression).map(Self::Regex)
    }

    fn matches(&self, value: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => exact == value,
            Self::Regex(regex) => regex.is_match(value),
        }
    }
}

/// Which nodes a rule of a role is about: keys are ANDed, the values of a key ORed. `*` is a wild card in values, `^…$` a
/// regular expression; `*: *` matches every node. **Empty matches nothing.**
///
/// Serialised as a map from key to a value or a list of values.
#[derive(Clone, Debug, Default)]
pub struct LabelMatcher {
    source: BTreeMap<String, Vec<String>>,
    patterns: BTreeMap<String, Vec<Pattern>>,
}

impl PartialEq for LabelMatcher {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for LabelMatcher {}

impl LabelMatcher {
    /// Compiles a matcher.
    ///
    /// # Errors
    /// [`InvalidLabel`].
    pub fn new(source: BTreeMap<String, Vec<String>>) -> Result<Self, InvalidLabel> {
        let mut patterns = BTreeMap::new();
        for (key, values) in &source {
            if key == "*" {
                if values.iter().any(|value| value != "*") || values.is_empty() {
                    return Err(InvalidLabel::LonelyWildcard);
                }
            } else if !is_key(key) {
                return Err(InvalidLabel::Key { key: key.clone() });
            }
            let compiled = values.iter().map(|value| Pattern::parse(value)).collect::<Result<Vec<_>, _>>()?;
            patterns.insert(key.clone(), compiled);
        }
        Ok(Self { source, patterns })
    }

    /// The matcher of every node.
    pub fn everything() -> Self {
        let star = || "*".to_owned();
        Self {
            source: BTreeMap::from([(star(), vec![star()])]),
            patterns: BTreeMap::from([(star(), vec![Pattern::Any])]),
        }
    }

    /// Whether it has no keys, and so matches nothing.
    pub fn is_empty(&self) -> bool {
        self.source.is_empty()
    }

    /// Whether it matches.
    pub fn matches(&self, labels: &Labels) -> bool {
        !self.patterns.is_empty()
            && self.patterns.iter().all(|(key, patterns)| {
                key == "*"
                    || labels
                        .get(key)
                        .is_some_and(|value| patterns.iter().any(|pattern| pattern.matches(value)))
            })
    }
}

impl Serialize for LabelMatcher {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.source.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for LabelMatcher {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum OneOrMany {
            One(String),
            Many(Vec<String>),
        }
        let source = BTreeMap::<String, OneOrMany>::deserialize(deserializer)?;
        let source = source.into_iter().map(|(key, values)| match values {
            OneOrMany::One(value) => (key, vec![value]),
            OneOrMany::Many(values) => (key, values),
        });
        Self::new(source.collect()).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    fn matches(matcher: &str, labels: &str) -> bool {
        let matcher: LabelMatcher = serde_json::from_str(matcher).unwrap();
        matcher.matches(&labels.parse().unwrap())
    }

    #[test]
    fn keys_are_anded_and_values_ored() {
        for (matcher, labels, expected) in [
            (r"{}", "a=1", false),
            (r#"{"*":"*"}"#, "", true),
            (r#"{"env":"prod"}"#, "env=prod", true),
            (r#"{"env":"prod"}"#, "env=production", false),
            (r#"{"env":["prod","test"]}"#, "env=test", true),
            (r#"{"env":"prod","os":"linux"}"#, "env=prod", false),
            (r#"{"env":"prod","os":"linux"}"#, "env=prod,os=linux", true),
            (r#"{"env":"p*d"}"#, "env=prod", true),
            (r#"{"env":"p.*d"}"#, "env=prod", false),
            (r#"{"env":"^p.*d$"}"#, "env=prod", true),
            (r#"{"env":"^prod|test$"}"#, "env=prod", true),
            (r#"{"env":"^prod|test$"}"#, "env=test", true),
            (r#"{"env":"^prod|test$"}"#, "env=production", false),
            (r#"{"env":"^prod|test$"}"#, "env=latest", false),
            (r#"{"env":"*"}"#, "os=linux", false),
            (r#"{"env":[]}"#, "env=prod", false),
        ] {
            assert_eq!(matches(matcher, labels), expected, "{matcher} against {labels}");
        }
    }

    #[test]
    fn malformed_matchers_are_refused() {
        for bad in [
            r#"{"*":"prod"}"#,
            r#"{"*":[]}"#,
            r#"{"env":"^($"}"#,
            r#"{"env":"^a)|(b$"}"#,
            r#"{"a b":"x"}"#,
            r#"{"env":"^(((a{99}){99}){99})$"}"#,
        ] {
            assert!(serde_json::from_str::<LabelMatcher>(bad).is_err(), "{bad}");
        }
        assert!("novalue".parse::<Labels>().is_err());
        assert!("a b=c".parse::<Labels>().is_err());
        assert!(format!("a={}", "x".repeat(300)).parse::<Labels>().is_err());
    }
}
