//! Which of many nodes a user may see: as [`AccessChecker::can_see`], with what was decided for one node remembered for those
//! that have the same labels.

use std::collections::HashMap;

use super::checker::AccessChecker;
use crate::resource::NodeRecord;

/// How many answers are remembered.
const MAX_REMEMBERED: usize = 8192;

/// Decides about many nodes for one user. Made by [`AccessChecker::filter`].
///
/// Nodes have the same few values of the labels that roles ask for. The answer for each combination of them is remembered, so
/// that the cost of a node hardly depends on the number of roles. If a role asks for the node's name, every node is decided
/// by itself.
#[derive(Debug)]
pub struct NodeFilter<'c, 'a> {
    checker: &'c AccessChecker<'a>,
    /// The labels on which the answer depends; `None` if it depends on more.
    keys: Option<Vec<&'c str>>,
    answers: HashMap<Box<str>, bool>,
    /// The values of a node's labels, one after the other.
    values: String,
}

impl<'c, 'a> NodeFilter<'c, 'a> {
    pub(super) fn new(checker: &'c AccessChecker<'a>) -> Self {
        Self { keys: keys(checker), checker, answers: HashMap::new(), values: String::new() }
    }

    /// As [`AccessChecker::can_see`].
    pub fn can_see(&mut self, node: &NodeRecord) -> bool {
        let Some(keys) = &self.keys else { return self.checker.can_see(node) };
        self.values.clear();
        for key in keys {
            // Values have no control characters, so these cannot be taken for one.
            match node.labels.get(key) {
                Some(value) => {
                    self.values.push_str(value);
                    self.values.push('\0');
                }
                None => self.values.push('\x01'),
            }
        }
        if let Some(answer) = self.answers.get(self.values.as_str()) {
            return *answer;
        }
        let answer = self.checker.can_see(node);
        if self.answers.len() < MAX_REMEMBERED {
            self.answers.insert(self.values.as_str().into(), answer);
        }
        answer
    }
}

/// The labels that the roles ask for, each once; `None` if they ask for something else.
fn keys<'c>(checker: &'c AccessChecker<'_>) -> Option<Vec<&'c str>> {
    let mut keys: Vec<&str> = checker.keys.clone();
    for held in &checker.roles {
        for condition in [&held.allowed_nodes, &held.denied_nodes] {
            if let Some(expression) = condition.expression {
                keys.extend(expression.labels()?);
            }
        }
    }
    keys.sort_unstable();
    keys.dedup();
    Some(keys)
}
