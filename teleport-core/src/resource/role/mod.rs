//! Roles: which users may log in where, as whom, and may do what with resources.

mod builtin;
mod join;
pub(super) mod keys;
mod load;
mod options;
mod original;
mod original_names;
#[cfg(test)]
mod tests;
mod unreadable;

use serde::{Deserialize, Serialize};

pub use self::builtin::builtin_roles;
pub use self::join::{JoinMode, JoinSessions};
pub(super) use self::load::misfits_in;
pub use self::load::{DocumentProblem, InvalidDocument, LoadedRole, load_role};
pub use self::options::{
    CertExtension, LockMode, PortForwarding, RecordSession, RecordingMode, RoleOptions, Switch,
};
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
    /// See one without its secrets. Whoever may [`Read`](Self::Read) may this.
    ReadNoSecrets,
    /// Exchange keys for new ones.
    Rotate,
    /// Replace one.
    Update,
    /// Use one, such as an integration.
    Use,
    /// Any verb.
    #[serde(rename = "*")]
    Any,
}

impl Verb {
    /// The verbs of which [`Verb::Any`] is the sum.
    pub const EACH: [Self; 8] = [
        Self::Create,
        Self::Delete,
        Self::List,
        Self::Read,
        Self::ReadNoSecrets,
        Self::Rotate,
        Self::Update,
        Self::Use,
    ];

    /// The name in documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Any => "*",
            Self::Create => "create",
            Self::Delete => "delete",
            Self::List => "list",
            Self::Read => "read",
            Self::ReadNoSecrets => "readnosecrets",
            Self::Rotate => "rotate",
            Self::Update => "update",
            Self::Use => "use",
        }
    }

    /// Whether permission for `self` is permission for `other`.
    pub fn allows(self, other: Self) -> bool {
        self == Self::Any || self == other || (self == Self::Read && other == Self::ReadNoSecrets)
    }

    /// Whether the denial of `self` is the denial of `other`. Who may not see something without its secrets may not see it
    /// with them either.
    pub fn denies(self, other: Self) -> bool {
        self.allows(other) || (self == Self::ReadNoSecrets && other == Self::Read)
    }
}

/// The kinds of resources that rules can be about; `*` is all, in `allow` but for [`NAMED_KINDS`].
pub const RULE_KINDS: [&str; 22] = [
    "*",
    "auth_server",
    "cert_authority",
    "cluster_auth_preference",
    "cluster_config",
    "cluster_name",
    "cluster_networking_config",
    "event",
    "host_cert",
    "lock",
    "mfa_device",
    "node",
    "proxy",
    "remote_cluster",
    "role",
    "session",
    "session_recording_config",
    "session_tracker",
    "token",
    "trusted_cluster",
    "user",
    "user_cert",
];

/// The kinds that a rule allows only by their names: `*` in `allow` does not mean them. Whoever may make certificates for others
/// is whoever else there is; nobody shall be given that in passing. A denial of `*` denies them like all others.
pub const NAMED_KINDS: [&str; 2] = ["host_cert", "user_cert"];

/// Verbs on kinds of resources.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "administrators' tools build it")]
pub struct Rule {
    /// Kinds such as `user`, of [`RULE_KINDS`]; `*` is all, in `allow` but for [`NAMED_KINDS`].
    pub resources: Vec<String>,
    /// What may be done.
    pub verbs: Vec<Verb>,
    /// A [`Predicate`](crate::access::Predicate): which resources of these kinds, in the document `where`. Without, all.
    #[serde(default, rename = "where", skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
}

/// One half of a role: what it allows, or what it denies.
///
/// The texts are as they were written; [`CompiledRole`](crate::access::CompiledRole) is what they mean.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "administrators' tools build it")]
pub struct RoleConditions {
    /// Logins, or [`Template`](crate::access::Template)s such as `{{internal.logins}}`. `*` is for denial only.
    pub logins: Vec<String>,
    /// Nodes, by their labels.
    pub node_labels: LabelMatcher,
    /// Nodes, by a [`Predicate`](crate::access::Predicate). In `allow` a node must match both this and `node_labels`, if both
    /// are given; in `deny` one suffices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_labels_expression: Option<String>,
    /// Destinations of forwarded connections: `host:port`, where the host may be a name with `*`, an address or a network
    /// (`10.0.0.0/8`, `[2001:db8::]/32`) and the port a number, a range `8000-8999` or `*`. In `allow`, without it: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub permit_open: Option<Vec<String>>,
    /// Commands that may be executed, in `allow` only. Without it: any, and shells. With it: these, and neither shells nor file
    /// transfer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commands: Option<Vec<String>>,
    /// Sessions of others that may be joined.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub join_sessions: Vec<JoinSessions>,
    /// Resources.
    pub rules: Vec<Rule>,
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
