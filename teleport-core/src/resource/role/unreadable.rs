//! A role whose document exists and cannot be read.

use super::{Role, RoleConditions, RoleOptions, RoleSpec, Rule, Verb};
use crate::label::LabelMatcher;
use crate::resource::Spec;

/// The version of a role that only stands for a document that cannot be read.
const UNREADABLE: &str = "unreadable";

impl Role {
    /// Stands for a role whose document exists and cannot be read. It may hold denials, so it counts as one that denies
    /// everything: whoever holds it is refused, also by servers of other versions that know nothing of it.
    pub fn unreadable(name: impl Into<String>) -> Self {
        let everything = RoleConditions {
            logins: vec!["*".to_owned()],
            node_labels: LabelMatcher::everything(),
            rules: vec![Rule { resources: vec!["*".to_owned()], verbs: vec![Verb::Any], condition: None }],
            ..RoleConditions::default()
        };
        let options = RoleOptions { port_forwarding: false, ..RoleOptions::default() };
        let mut role =
            Self::new(name, RoleSpec { allow: RoleConditions::default(), deny: everything, options });
        UNREADABLE.clone_into(&mut role.version);
        "The stored document cannot be read: whoever holds this role is refused"
            .clone_into(&mut role.metadata.description);
        role
    }

    /// Whether this is a role as this version understands it. One of another version may mean something else by the same
    /// words.
    pub fn is_readable(&self) -> bool {
        self.kind == RoleSpec::KIND && self.version == RoleSpec::VERSION
    }
}
