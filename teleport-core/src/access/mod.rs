//! Who may do what: pure decisions over roles.
//!
//! Default deny. A denial of any role wins. One single role must grant a node **and** the login. Roles are those that the
//! certificate names *and* that exist now: a role that was deleted or changed counts at once. A role that was taken from its
//! user allows nothing any more, and denies what it denies until the certificates that name it have ended. A role that exists and cannot
//! be read is no role that does not exist: whoever holds it is refused.
//!
//! ```text
//!   document ── load_role ──▶ Role ── CompiledRole::new ──▶ RoleSet ── AccessChecker::new(user) ──▶ LoginGrant, RulePermit
//!               refuses what cannot be decided by           views hold it            └── explain_login, explain_rule
//! ```
//!
//! What roles can say stands in the manual, [`roles`](crate::manual::roles).

mod checker;
mod command;
mod compiled;
mod decide;
mod destination;
mod explain;
mod expr;
mod file_copy;
mod filter;
mod forward;
mod join;
mod policy;
mod predicate;
mod recording;
mod room;
mod search;
mod set;
mod standing;
mod template;
mod terms;
#[cfg(test)]
mod tests;
mod transform;

pub use self::checker::AccessChecker;
pub use self::command::Commands;
pub use self::compiled::{CompiledRole, MAX_ENTRIES};
pub use self::destination::{Destination, Destinations};
pub use self::explain::{Explanation, RoleAccount};
pub use self::expr::{InvalidExpression, MAX_EXPRESSION_DEPTH, MAX_EXPRESSION_LEN};
pub use self::filter::NodeFilter;
pub use self::forward::{
    AgentForwarding, Forwarding, LocalForwarding, NotForwarded, PermittedAddress, PermittedSocket,
    RemoteForwarding, X11Forwarding,
};
pub use self::join::{JoinGrant, SessionToJoin};
pub use self::policy::{Merge, OPTION_RULES, OptionRule, SessionPolicy, option_table};
pub use self::predicate::{Facts, Predicate, ResourceFacts, Scope, SessionFacts, Subject};
pub use self::recording::{
    ClusterRecording, InvalidRecordingRules, MAX_RECORDING_RULES, RecordAt, RecordingRule, SessionRecording,
    UnknownRecordAt,
};
pub use self::room::{MAX_EXPRESSIONS_MEMORY, MAX_ROLES_LEN, NoRoom, check_room};
pub use self::search::NodeSearch;
pub use self::set::RoleSet;
pub use self::standing::{Freshness, Unwelcome};
pub use self::template::{MAX_TEMPLATE_LEN, Template};
pub use self::terms::SessionTerms;
use crate::cert::UserIdentity;
use crate::id::{HostId, OsLogin};
use crate::resource::Verb;

/// Why access was denied. For the log and the audit event; the peer hears no reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Denied {
    /// A role denies it.
    #[error("role {role} denies it")]
    DeniedBy {
        /// The role.
        role: String,
    },
    /// No role allows it.
    #[error("no role allows it")]
    NotAllowed,
    /// A role allows the login, but the certificate does not name it.
    #[error("the certificate does not name the login; a new one would")]
    NotInCertificate,
    /// None of the certificate's roles exists.
    #[error("the user has no role that exists")]
    NoRoles,
    /// The certificate permits less than what joining a session needs.
    #[error("the certificate permits no terminal, or one command only")]
    Restricted,
    /// A role exists and cannot be read: what it denies is not known.
    #[error("the document of role {role} cannot be read, and may hold denials")]
    Unreadable {
        /// The role.
        role: String,
    },
}

/// Permission to open a session on one node as one login. Made by [`AccessChecker::check_login`] only.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoginGrant {
    /// Who.
    pub identity: UserIdentity,
    /// As whom.
    pub login: OsLogin,
    /// Where.
    pub node: HostId,
    /// The role that grants it; the first by name, if there are several.
    pub role: String,
    /// What counts in the session.
    pub policy: SessionPolicy,
}

/// Permission to come to one node without a login, to join sessions of others. Made by [`AccessChecker::check_visit`] only.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VisitGrant {
    /// Who.
    pub identity: UserIdentity,
    /// Where.
    pub node: HostId,
    /// What counts for the connection.
    pub policy: SessionPolicy,
}

/// Permission for one verb on one kind of resource. Made by [`AccessChecker::check_rule`] and
/// [`AccessChecker::check_rule_on`] only.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RulePermit {
    /// The kind of resource.
    pub kind: &'static str,
    /// What may be done.
    pub verb: Verb,
}
