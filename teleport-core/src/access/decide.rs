//! The one decision, by which access is enforced and explained alike.

use super::checker::{AccessChecker, HeldRole, NodeCondition};
use super::predicate::{Facts, Predicate, ResourceFacts, Subject};
use crate::id::OsLogin;
use crate::resource::{NodeRecord, Verb};

/// How many labels are looked up in advance; for further keys each role looks by itself.
const CACHED: usize = 16;

/// A node, with the labels that the roles ask for at hand.
pub(super) struct NodeFacts<'n> {
    pub(super) node: &'n NodeRecord,
    values: [Option<&'n str>; CACHED],
}

impl<'n> NodeFacts<'n> {
    pub(super) fn new(checker: &AccessChecker<'_>, node: &'n NodeRecord) -> Self {
        let mut values = [None; CACHED];
        for (value, key) in values.iter_mut().zip(&checker.keys) {
            *value = node.labels.get(key);
        }
        Self { node, values }
    }

    fn label(&self, index: usize, key: &str) -> Option<&'n str> {
        self.values.get(index).copied().unwrap_or_else(|| self.node.labels.get(key))
    }
}

/// What was decided about a login. The numbers are indices of roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NodeVerdict {
    /// By this role alone.
    Allowed { role: usize },
    /// A role denies the login, on every node.
    LoginDeniedBy { role: usize },
    /// A role denies the node, for every login.
    NodeDeniedBy { role: usize },
    /// The user has no role that exists.
    NoRoles,
    /// No role allows both node and login.
    NotAllowed,
    /// A role allows it, but the certificate does not name the login.
    NotInCertificate { role: usize },
    /// A role cannot be read.
    Unreadable { role: usize },
}

/// What was decided about a verb on a resource. The numbers are indices of roles and of their rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RuleVerdict {
    Allowed { role: usize, rule: usize },
    DeniedBy { role: usize, rule: usize },
    NoRoles,
    NotAllowed,
    Unreadable { role: usize },
}

impl AccessChecker<'_> {
    /// Decides about a login. Without the logins of a certificate, for one that would be issued now.
    pub(super) fn decide_login(
        &self,
        facts: &NodeFacts<'_>,
        login: &OsLogin,
        certified: Option<&[OsLogin]>,
    ) -> NodeVerdict {
        if self.roles.is_empty() {
            return NodeVerdict::NoRoles;
        }
        if let Some(role) = self.unreadable {
            return NodeVerdict::Unreadable { role };
        }
        if let Some(role) = self.login_denied_by(login) {
            return NodeVerdict::LoginDeniedBy { role };
        }
        if let Some(role) = self.node_denied_by(facts) {
            return NodeVerdict::NodeDeniedBy { role };
        }
        let Some(role) = self.roles.iter().position(|held| self.grants(held, facts, login)) else {
            return NodeVerdict::NotAllowed;
        };
        // The principals bind as well: a login that roles gave later needs a new certificate.
        if certified.is_some_and(|logins| !logins.contains(login)) {
            return NodeVerdict::NotInCertificate { role };
        }
        NodeVerdict::Allowed { role }
    }

    /// Whether the role allows the node **and** the login.
    pub(super) fn grants(&self, held: &HeldRole<'_>, facts: &NodeFacts<'_>, login: &OsLogin) -> bool {
        held.allowed_logins.binary_search(login).is_ok() && self.allows_node(held, facts)
    }

    /// Whether the role allows the node: by its labels and by its expression, as far as it has them, and it has one.
    pub(super) fn allows_node(&self, held: &HeldRole<'_>, facts: &NodeFacts<'_>) -> bool {
        let condition = &held.allowed_nodes;
        match (condition.has_labels, condition.expression) {
            (true, None) => labels_match(condition, facts),
            (false, Some(expression)) => self.holds(expression, self.subject, facts.node) == Some(true),
            (true, Some(expression)) => {
                labels_match(condition, facts)
                    && self.holds(expression, self.subject, facts.node) == Some(true)
            }
            (false, None) => false,
        }
    }

    /// Whether the role denies the node: by its labels or by its expression.
    pub(super) fn denies_node(&self, held: &HeldRole<'_>, facts: &NodeFacts<'_>) -> bool {
        let condition = &held.denied_nodes;
        (condition.has_labels && labels_match(condition, facts))
            || condition.expression.is_some_and(|expression| {
                self.holds(expression, self.subject.with_taken(), facts.node) != Some(false)
            })
    }

    pub(super) fn node_denied_by(&self, facts: &NodeFacts<'_>) -> Option<usize> {
        let denies = |index: &usize| self.roles.get(*index).is_some_and(|held| self.denies_node(held, facts));
        self.denying_nodes.iter().copied().find(denies)
    }

    fn holds(&self, expression: &Predicate, subject: Subject<'_>, node: &NodeRecord) -> Option<bool> {
        let resource = ResourceFacts {
            name: Some(node.name.as_str()),
            address: Some(&node.address),
            labels: Some(node.labels.as_map()),
            session: None,
        };
        expression.evaluate(&Facts { subject, resource })
    }

    pub(super) fn facts<'f>(&'f self, resource: ResourceFacts<'f>) -> Facts<'f> {
        Facts { subject: self.subject, resource }
    }

    /// Decides about a verb on a resource. What depends on a fact that is not given is denied, and not allowed.
    pub(super) fn decide_rule(&self, kind: &str, verb: Verb, resource: ResourceFacts<'_>) -> RuleVerdict {
        if let Some(role) = self.unreadable {
            return RuleVerdict::Unreadable { role };
        }
        let facts = self.facts(resource);
        let denying = Facts { subject: self.subject.with_taken(), resource };
        let holds = |condition: Option<&Predicate>, facts: &Facts<'_>, unknown: bool| {
            condition.is_none_or(|condition| condition.evaluate(facts).unwrap_or(unknown))
        };
        for (role, held) in self.roles.iter().enumerate() {
            let mut rules = held.role.deny.rules.iter();
            if let Some(rule) = rules
                .position(|rule| rule.denies(kind, verb) && holds(rule.condition.as_ref(), &denying, true))
            {
                return RuleVerdict::DeniedBy { role, rule };
            }
        }
        for (role, held) in self.roles.iter().enumerate() {
            let mut rules = held.allow.rules.iter();
            if let Some(rule) = rules
                .position(|rule| rule.allows(kind, verb) && holds(rule.condition.as_ref(), &facts, false))
            {
                return RuleVerdict::Allowed { role, rule };
            }
        }
        if self.roles.is_empty() { RuleVerdict::NoRoles } else { RuleVerdict::NotAllowed }
    }
}

/// Whether all labels are as they must be.
pub(super) fn labels_match(condition: &NodeCondition<'_>, facts: &NodeFacts<'_>) -> bool {
    condition.labels.iter().all(|(index, key)| key.matches(facts.label(*index, key.key)))
}
