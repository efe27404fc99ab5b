//! Which of the listed nodes somebody looks for.

use std::collections::BTreeMap;

use super::expr::InvalidExpression;
use super::predicate::{Predicate, Scope};
use crate::label::Labels;
use crate::resource::NodeRecord;

/// A search among nodes: by labels, by words and by a [`Predicate`] of the [`Scope::Queries`]. What is not said holds for every
/// node.
#[derive(Clone, Debug, Default)]
pub struct NodeSearch {
    labels: Labels,
    words: Vec<String>,
    query: Option<Predicate>,
}

impl NodeSearch {
    /// For nodes that have all of `labels`, in whose name, address or labels each of `words` occurs, whatever the case of the
    /// letters, and for which `query` holds.
    ///
    /// # Errors
    /// [`InvalidExpression`] about the query.
    pub fn new<S: AsRef<str>>(
        labels: Labels,
        words: &[S],
        query: Option<&str>,
    ) -> Result<Self, InvalidExpression> {
        Ok(Self {
            labels,
            words: words.iter().map(|word| word.as_ref().to_lowercase()).collect(),
            query: query.map(|query| Predicate::new(query, Scope::Queries)).transpose()?,
        })
    }

    /// Whether the node is looked for.
    pub fn matches(&self, node: &NodeRecord) -> bool {
        node.labels.contains(&self.labels)
            && (self.words.is_empty()
                || has_words(&self.words, [node.name.as_str(), &node.address], node.labels.as_map()))
            && self.query.as_ref().is_none_or(|query| query.matches_node(node))
    }
}

/// Whether each of the words, which are in lower case, occurs in one of the texts or labels.
pub(super) fn has_words<'t>(
    words: &[String],
    texts: impl IntoIterator<Item = &'t str>,
    labels: &BTreeMap<String, String>,
) -> bool {
    let labels = labels.iter().map(|(key, value)| format!("{key}={value}").to_lowercase());
    let all: Vec<String> = texts.into_iter().map(str::to_lowercase).chain(labels).collect();
    words.iter().all(|word| all.iter().any(|text| text.contains(word.as_str())))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    fn node() -> NodeRecord {
        NodeRecord {
            host_id: "0f8fad5b-d9cb-469f-a165-70867728950e".parse().unwrap(),
            name: "Web-1".parse().unwrap(),
            address: "192.0.2.7:3022".to_owned(),
            labels: "env=prod,team=Search".parse().unwrap(),
            sub_kind: crate::resource::NodeKind::Teleport,
            proxy_ids: Vec::new(),
            version: "1".to_owned(),
        }
    }

    #[test]
    fn everything_that_is_said_must_hold() {
        for (labels, words, query, expected) in [
            ("", &[][..], None, true),
            ("env=prod", &[], None, true),
            ("env=test", &[], None, false),
            ("", &["web"], None, true),
            ("", &["WEB", "search"], None, true),
            ("", &["192.0.2.7"], None, true),
            ("", &["env=prod"], None, true),
            ("", &["web", "db"], None, false),
            // A word stands within one of them, not across two.
            ("", &["1192"], None, false),
            ("", &[], Some(r#"name == "Web-1""#), true),
            ("", &[], Some(r#"search("web", "PROD")"#), true),
            ("", &[], Some(r#"search("192.0.2.7:3022")"#), true),
            ("", &[], Some(r#"search("web", "test")"#), false),
            ("", &[], Some("search()"), true),
            ("env=prod", &["web"], Some(r#"labels["team"] == "Search""#), true),
            ("env=prod", &["web"], Some(r#"labels["team"] == "search""#), false),
            ("env=prod", &["db"], Some(r#"labels["team"] == "Search""#), false),
            ("env=test", &["web"], Some(r#"labels["team"] == "Search""#), false),
        ] {
            let search = NodeSearch::new(labels.parse().unwrap(), words, query).unwrap();
            assert_eq!(search.matches(&node()), expected, "{labels} {words:?} {query:?}");
        }
    }

    #[test]
    fn mistakes_in_queries_are_told() {
        for (query, says) in [
            (r#"label["env"] == "x""#, "did you mean \"labels\""),
            (r"search(name)", "must be a text"),
            (r#"serach("x")"#, "did you mean \"search\""),
            (r#"labels["env"] = "x""#, "column 15"),
        ] {
            let error = NodeSearch::new(Labels::default(), &[""; 0], Some(query)).unwrap_err().to_string();
            assert!(error.contains(says), "{query}: {error}");
        }
    }
}
