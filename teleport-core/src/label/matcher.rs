//! Which nodes a role is about.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{InvalidLabel, Labels, MAX_EXPRESSIONS, is_key};
use crate::access::Template;
use crate::cert::Traits;
use crate::pattern::Pattern;

/// Which nodes a rule of a role is about: keys are ANDed, the values of a key ORed. `*` is a wild card in values, `^…$` a
/// regular expression; `*: *` matches every node. **Empty matches nothing.**
///
/// A value may be a [`Template`], such as `{{external.team}}`: it stands for the user's values, and these for themselves. A
/// `*` in somebody's trait is no wild card.
///
/// Serialised as a map from key to a value or a list of values.
#[derive(Clone, Debug, Default)]
pub struct LabelMatcher {
    source: BTreeMap<String, Vec<String>>,
    keys: Vec<KeyMatcher>,
}

/// What one label must be.
#[derive(Clone, Debug)]
struct KeyMatcher {
    key: String,
    patterns: Vec<Pattern>,
    templates: Vec<Template>,
}

/// A matcher for one user: what the templates stand for is known.
#[derive(Clone, Debug)]
pub(crate) struct ResolvedMatcher<'a> {
    /// Whether it has keys at all; without, it matches nothing.
    pub(crate) matches_some: bool,
    /// What the labels must be, apart from `*: *`.
    pub(crate) keys: Vec<ResolvedKey<'a>>,
}

/// What one label must be, for one user.
#[derive(Clone, Debug)]
pub(crate) struct ResolvedKey<'a> {
    pub(crate) key: &'a str,
    patterns: &'a [Pattern],
    texts: Vec<String>,
}

impl ResolvedKey<'_> {
    /// Whether a label with this value, or its absence, will do.
    pub(crate) fn matches(&self, value: Option<&str>) -> bool {
        value.is_some_and(|value| {
            self.patterns.iter().any(|pattern| pattern.matches(value))
                || self.texts.iter().any(|text| text == value)
        })
    }
}

impl PartialEq for LabelMatcher {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for LabelMatcher {}

impl KeyMatcher {
    fn new(key: &str, values: &[String]) -> Result<Self, InvalidLabel> {
        let mut matcher = Self { key: key.to_owned(), patterns: Vec::new(), templates: Vec::new() };
        for value in values {
            // In a regular expression `}}` may just end two repetitions.
            if value.contains("{{") || (value.contains("}}") && !value.starts_with('^')) {
                matcher.templates.push(template(value)?);
                continue;
            }
            let pattern = Pattern::parse(value)
                .map_err(|error| InvalidLabel::Pattern { pattern: error.pattern, reason: error.reason })?;
            matcher.patterns.push(pattern);
        }
        Ok(matcher)
    }
}

fn template(value: &str) -> Result<Template, InvalidLabel> {
    let refused = |reason: String| InvalidLabel::Template { value: value.to_owned(), reason };
    let outside = || {
        let (before, rest) = value.split_once("{{").unwrap_or((value, ""));
        [before, rest.rsplit_once("}}").map_or("", |(_, after)| after)]
    };
    if value.starts_with('^') || outside().iter().any(|part| part.contains('*')) {
        return Err(refused("a value has a template or a pattern, not both".to_owned()));
    }
    Template::new(value).map_err(|error| refused(error.to_string()))
}

impl LabelMatcher {
    /// Compiles a matcher.
    ///
    /// # Errors
    /// [`InvalidLabel`].
    pub fn new(source: BTreeMap<String, Vec<String>>) -> Result<Self, InvalidLabel> {
        let expressions = source.values().flatten().filter(|value| value.starts_with('^'));
        if expressions.count() > MAX_EXPRESSIONS {
            return Err(InvalidLabel::TooManyExpressions);
        }
        let mut keys = Vec::with_capacity(source.len());
        for (key, values) in &source {
            if key == "*" {
                if values.iter().any(|value| value != "*") || values.is_empty() {
                    return Err(InvalidLabel::LonelyWildcard);
                }
            } else if is_key(key) {
                keys.push(KeyMatcher::new(key, values)?);
            } else {
                return Err(InvalidLabel::Key { key: key.clone() });
            }
        }
        // All must match, so those come first that cost least to find wrong, and with the fewest values most often are.
        keys.sort_by_key(|key| {
            (key.patterns.iter().map(Pattern::rank).max(), key.patterns.len() + key.templates.len())
        });
        Ok(Self { source, keys })
    }

    /// The matcher of every node.
    pub fn everything() -> Self {
        Self { source: BTreeMap::from([("*".to_owned(), vec!["*".to_owned()])]), keys: Vec::new() }
    }

    /// Whether it has no keys, and so matches nothing.
    pub fn is_empty(&self) -> bool {
        self.source.is_empty()
    }

    /// Whether it matches, for a user without traits: templates stand for nothing.
    pub fn matches(&self, labels: &Labels) -> bool {
        let resolved = self.resolve(&Traits::new());
        resolved.matches_some && resolved.keys.iter().all(|key| key.matches(labels.get(key.key)))
    }

    /// The document.
    pub(crate) const fn source(&self) -> &BTreeMap<String, Vec<String>> {
        &self.source
    }

    /// The matcher for a user with these traits.
    pub(crate) fn resolve(&self, traits: &Traits) -> ResolvedMatcher<'_> {
        let resolve = |key: &'_ KeyMatcher| -> Vec<String> {
            key.templates.iter().flat_map(|template| template.expand(traits)).collect()
        };
        let keys = self.keys.iter();
        ResolvedMatcher {
            matches_some: !self.is_empty(),
            keys: keys
                .map(|key| ResolvedKey { key: &key.key, patterns: &key.patterns, texts: resolve(key) })
                .collect(),
        }
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
        #[serde(untagged, expecting = "a value is a text or a list of texts")]
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
            (r#"{"*":"*","env":"prod"}"#, "env=test", false),
            (r#"{"*":"*","env":"prod"}"#, "env=prod", true),
            (r#"{"env":"prod"}"#, "env=prod", true),
            (r#"{"env":"prod"}"#, "env=production", false),
            (r#"{"env":"prod"}"#, "env=Prod", false),
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
            (r#"{"env":"*"}"#, "env=", true),
            (r#"{"env":[]}"#, "env=prod", false),
            (r#"{"env":"{{internal.env}}"}"#, "env=prod", false),
        ] {
            assert_eq!(matches(matcher, labels), expected, "{matcher} against {labels}");
        }
    }

    #[test]
    fn templates_stand_for_the_users_values_and_these_for_themselves() {
        let values = ["dev".to_owned(), "*".to_owned(), "^.$".to_owned()];
        let traits = Traits::from([("teams".to_owned(), values.to_vec())]);
        let matcher: LabelMatcher =
            serde_json::from_str(r#"{"team":["x-{{external.teams}}","all"],"*":"*"}"#).unwrap();
        let resolved = matcher.resolve(&traits);
        let matches = |labels: &str| {
            let labels: Labels = labels.parse().unwrap();
            resolved.keys.iter().all(|key| key.matches(labels.get(key.key)))
        };
        for (labels, expected) in [
            ("team=x-dev", true),
            ("team=all", true),
            ("team=x-*", true),
            ("team=x-ops", false),
            ("team=x-a", false),
            ("", false),
        ] {
            assert_eq!(matches(labels), expected, "{labels}");
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
            r#"{"env":"{{internal.x"}"#,
            r#"{"env":"*-{{internal.x}}"}"#,
            r#"{"env":"^{{internal.x}}$"}"#,
        ] {
            assert!(serde_json::from_str::<LabelMatcher>(bad).is_err(), "{bad}");
        }
        let many = |count| BTreeMap::from([("env".to_owned(), vec!["^a$".to_owned(); count])]);
        assert!(LabelMatcher::new(many(MAX_EXPRESSIONS)).is_ok());
        assert_eq!(LabelMatcher::new(many(MAX_EXPRESSIONS + 1)), Err(InvalidLabel::TooManyExpressions));
    }
}
