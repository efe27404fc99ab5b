//! Roles: which users may log in where, as whom, and may do what with resources.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Resource, Spec};
use crate::label::LabelMatcher;

/// An action on resources, in rules of roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Verb {
    /// Make a new one.
    Create,
    /// Remove one.
    Delete,
    /// See all, without secrets.
    List,
    /// See one.
    Read,
    /// Replace one.
    Update,
    /// Any verb.
    #[serde(rename = "*")]
    Any,
}

impl Verb {
    /// The verbs of which [`Verb::Any`] is the sum.
    pub const EACH: [Self; 5] = [Self::Create, Self::Delete, Self::List, Self::Read, Self::Update];

    /// The name in documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Any => "*",
            Self::Create => "create",
            Self::Delete => "delete",
            Self::List => "list",
            Self::Read => "read",
            Self::Update => "update",
        }
    }
}

/// Verbs on kinds of resources.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "administrators' tools build it")]
pub struct Rule {
    /// Kinds such as `user`; `*` is all.
    pub resources: Vec<String>,
    /// What may be done.
    pub verbs: Vec<Verb>,
}

/// One half of a role: what it allows, or what it denies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "administrators' tools build it")]
pub struct RoleConditions {
    /// Logins, or templates such as `{{internal.logins}}`. `*` is for denial only.
    pub logins: Vec<String>,
    /// Nodes.
    pub node_labels: LabelMatcher,
    /// Resources.
    pub rules: Vec<Rule>,
}

/// How sessions by grace of the role are treated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "administrators' tools build it")]
pub struct RoleOptions {
    /// The longest life of certificates, in seconds. The shortest of all roles counts.
    pub max_session_ttl: u64,
    /// Whether the agent may be forwarded. One role suffices.
    pub forward_agent: bool,
    /// Whether ports may be forwarded. One role suffices.
    pub port_forwarding: bool,
}

impl Default for RoleOptions {
    fn default() -> Self {
        Self { max_session_ttl: 30 * 3600, forward_agent: false, port_forwarding: true }
    }
}

impl RoleOptions {
    /// [`RoleOptions::max_session_ttl`] as a duration.
    pub const fn max_session_ttl(&self) -> Duration {
        Duration::from_secs(self.max_session_ttl)
    }
}

/// What a role allows and denies. Denial wins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "administrators' tools build it")]
pub struct RoleSpec {
    /// What it allows.
    pub allow: RoleConditions,
    /// What it denies, whatever any role allows.
    pub deny: RoleConditions,
    /// How sessions are treated.
    pub options: RoleOptions,
}

impl Spec for RoleSpec {
    const KIND: &'static str = "role";
    const VERSION: &'static str = "v1";
    const COLLECTION: &'static str = "roles";
}

/// A role. The resource's name is a [`RoleName`](crate::id::RoleName).
pub type Role = Resource<RoleSpec>;

/// The version of a role that only stands for a document that cannot be read.
const UNREADABLE: &str = "unreadable";

impl Role {
    /// Stands for a role whose document exists and cannot be read. It may hold denials, so it counts as one that denies
    /// everything: whoever holds it is refused, also by servers of other versions that know nothing of it.
    pub fn unreadable(name: impl Into<String>) -> Self {
        let everything = RoleConditions {
            logins: vec!["*".to_owned()],
            node_labels: LabelMatcher::everything(),
            rules: vec![Rule { resources: vec!["*".to_owned()], verbs: vec![Verb::Any] }],
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

/// The roles that every cluster begins with: `access`, `editor` and `auditor`.
pub fn builtin_roles() -> Vec<Role> {
    use Verb::{Any, List, Read};
    let rule = |resources: &[&str], verbs: &[Verb]| Rule {
        resources: resources.iter().map(|kind| (*kind).to_owned()).collect(),
        verbs: verbs.to_vec(),
    };
    let role = |name: &str, description: &str, allow: RoleConditions| {
        let mut role = Role::new(name, RoleSpec { allow, ..RoleSpec::default() });
        description.clone_into(&mut role.metadata.description);
        role
    };
    let mut access = role(
        "access",
        "Log in to every node as the logins of the user's own list",
        RoleConditions {
            logins: vec!["{{internal.logins}}".to_owned()],
            node_labels: LabelMatcher::everything(),
            rules: Vec::new(),
        },
    );
    access.spec.options.forward_agent = true;
    let editor = role(
        "editor",
        "Administer users, roles, tokens and nodes; no login to nodes",
        RoleConditions {
            rules: vec![
                rule(&["user", "role", "token", "node"], &[Any]),
                rule(&["cert_authority"], &[List, Read]),
            ],
            ..RoleConditions::default()
        },
    );
    let auditor = role(
        "auditor",
        "Read the audit log and all recordings; no login to nodes",
        RoleConditions {
            rules: vec![rule(&["event", "session"], &[List, Read])],
            ..RoleConditions::default()
        },
    );
    vec![access, editor, auditor]
}
