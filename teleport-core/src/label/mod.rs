//! Labels of nodes, and the matchers of roles.

mod matcher;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use self::matcher::LabelMatcher;
pub(crate) use self::matcher::ResolvedKey;

/// The most labels of one node.
pub const MAX_LABELS: usize = 64;
/// The most regular expressions of one matcher: each takes memory wherever roles are held.
pub const MAX_EXPRESSIONS: usize = 256;
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
    #[error("{pattern:?} is not a valid regular expression: {reason}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Not of the form `key=value,key=value`.
    #[error("labels are written key=value,key=value; {text:?} is not")]
    Syntax {
        /// The offending part.
        text: String,
    },
    /// A template that cannot be.
    #[error("{value:?}: {reason}")]
    Template {
        /// The value.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// More than [`MAX_EXPRESSIONS`] regular expressions.
    #[error("a matcher has at most {MAX_EXPRESSIONS} regular expressions")]
    TooManyExpressions,
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

    /// All labels.
    pub const fn as_map(&self) -> &BTreeMap<String, String> {
        &self.0
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_labels_are_refused() {
        assert!("novalue".parse::<Labels>().is_err());
        assert!("a b=c".parse::<Labels>().is_err());
        assert!(format!("a={}", "x".repeat(300)).parse::<Labels>().is_err());
    }
}
