//! Which of many nodes a user may see: as [`AccessChecker::can_see`], with what was found out for one node remembered for the
//! next.

use std::collections::HashMap;

use super::checker::{AccessChecker, HeldRole, NodeCondition};
use crate::resource::NodeRecord;

/// How many values of one label are remembered; further ones are looked at anew.
const MAX_REMEMBERED: usize = 4096;
const BITS: usize = 64;

/// Decides about many nodes for one user. Made by [`AccessChecker::filter`].
///
/// Nodes have the same few values of the labels that roles ask for. For each value, it is remembered which roles it satisfies,
/// so that the cost of a node hardly depends on the number of roles.
#[derive(Debug)]
pub struct NodeFilter<'c, 'a> {
    checker: &'c AccessChecker<'a>,
    /// How many words hold a bit for each role.
    words: usize,
    /// Which roles may allow (the first words) and deny (the others) by what they say of labels, before any label is looked at.
    all: Vec<u64>,
    /// By the index of the key.
    remembered: Vec<Remembered>,
    /// What is left of `all` for one node.
    left: Vec<u64>,
    /// For values that are not remembered.
    scratch: Vec<u64>,
}

/// Which roles are satisfied by a label that is missing or has a value.
#[derive(Debug, Default)]
struct Remembered {
    missing: Option<Vec<u64>>,
    values: HashMap<String, Vec<u64>>,
}

fn bit(role: usize) -> (usize, u64) {
    (role / BITS, 1 << (role % BITS))
}

fn set(words: &mut [u64], role: usize) {
    let (word, bit) = bit(role);
    if let Some(word) = words.get_mut(word) {
        *word |= bit;
    }
}

/// The roles whose bits are set.
fn roles(words: &[u64]) -> impl Iterator<Item = usize> {
    words.iter().enumerate().flat_map(|(index, word)| {
        (0..BITS).filter(move |bit| word >> bit & 1 == 1).map(move |bit| index * BITS + bit)
    })
}

/// Whether the label at `key` does not stand in the way.
fn satisfied(condition: &NodeCondition<'_>, key: usize, value: Option<&str>) -> bool {
    condition.labels.iter().all(|(index, wanted)| *index != key || wanted.matches(value))
}

impl<'c, 'a> NodeFilter<'c, 'a> {
    pub(super) fn new(checker: &'c AccessChecker<'a>) -> Self {
        let words = checker.roles.len().div_ceil(BITS);
        let mut all = vec![0; 2 * words];
        let (allowing, denying) = all.split_at_mut(words);
        for (index, held) in checker.roles.iter().enumerate() {
            if held.has_login && !held.allowed_nodes.is_empty() {
                set(allowing, index);
            }
            if held.denied_nodes.has_labels {
                set(denying, index);
            }
        }
        Self {
            words,
            left: vec![0; all.len()],
            scratch: vec![0; all.len()],
            remembered: checker.keys.iter().map(|_| Remembered::default()).collect(),
            all,
            checker,
        }
    }

    /// As [`AccessChecker::can_see`].
    pub fn can_see(&mut self, node: &NodeRecord) -> bool {
        self.left.copy_from_slice(&self.all);
        for (index, (key, remembered)) in self.checker.keys.iter().zip(&mut self.remembered).enumerate() {
            let value = node.labels.get(key);
            let fresh = || {
                let mut words = vec![0; self.all.len()];
                find(self.checker, self.words, index, value, &mut words);
                words
            };
            let words: &[u64] = match value {
                None => remembered.missing.get_or_insert_with(fresh),
                Some(text) => {
                    if !remembered.values.contains_key(text) && remembered.values.len() < MAX_REMEMBERED {
                        remembered.values.insert(text.to_owned(), fresh());
                    }
                    match remembered.values.get(text) {
                        Some(words) => words,
                        None => {
                            self.scratch.fill(0);
                            find(self.checker, self.words, index, value, &mut self.scratch);
                            &self.scratch
                        }
                    }
                }
            };
            for (left, word) in self.left.iter_mut().zip(words) {
                *left &= word;
            }
        }
        let (allowing, denying) = self.left.split_at(self.words);
        if denying.iter().any(|word| *word != 0) || self.checker.denied_by_expression(node) {
            return false;
        }
        let holds = |held: &HeldRole<'_>| match held.allowed_nodes.expression {
            Some(expression) => self.checker.holds(expression, node) == Some(true),
            None => true,
        };
        roles(allowing).any(|index| self.checker.roles.get(index).is_some_and(holds))
    }
}

/// Sets the bits of the roles whose conditions a label with this value satisfies.
fn find(checker: &AccessChecker<'_>, words: usize, key: usize, value: Option<&str>, into: &mut [u64]) {
    let (allowing, denying) = into.split_at_mut(words);
    for (index, held) in checker.roles.iter().enumerate() {
        if satisfied(&held.allowed_nodes, key, value) {
            set(allowing, index);
        }
        if satisfied(&held.denied_nodes, key, value) {
            set(denying, index);
        }
    }
}
