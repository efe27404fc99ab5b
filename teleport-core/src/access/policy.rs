//! The options of several roles, merged into what counts for one session.

use std::time::Duration;

use super::command::Commands;
use super::destination::Destinations;
use super::file_copy::copies_files;
use crate::resource::{LockMode, RecordingMode, RoleOptions, Switch};

/// How the options of several roles become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Merge {
    /// All are added up.
    Added,
    /// Yes, if one role says yes.
    AnyYes,
    /// Yes, if every role says yes.
    EveryYes,
    /// Yes, if one role says yes and none says no.
    ExplicitNo,
    /// The lowest that is not zero.
    LowestNonZero,
    /// The shortest.
    Shortest,
    /// The shortest that is not zero.
    ShortestNonZero,
    /// The strictest.
    Strictest,
}

impl Merge {
    /// In words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Added => "all are added; of two with the same name, that of the first role by name",
            Self::AnyYes => "one role that says yes suffices",
            Self::EveryYes => "every role must say yes",
            Self::ExplicitNo => "one role that says no suffices; else as `port_forwarding`",
            Self::LowestNonZero => "the lowest; zero is no limit",
            Self::Shortest => "the shortest",
            Self::ShortestNonZero => "the shortest; zero is no limit",
            Self::Strictest => "the strictest",
        }
    }
}

/// One option of roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OptionRule {
    /// The key in documents.
    pub name: &'static str,
    /// What counts if a role does not say.
    pub default: &'static str,
    /// How several roles are merged.
    pub merge: Merge,
    /// When it counts.
    pub counts: &'static str,
}

const fn rule(name: &'static str, default: &'static str, merge: Merge, counts: &'static str) -> OptionRule {
    OptionRule { name, default, merge, counts }
}

const ISSUE: &str = "when a certificate is issued";
const BOTH: &str = "when a certificate is issued, and in sessions";
const SESSION: &str = "in sessions";

/// Every option of roles, in the order of their names, with the rule by which it is merged.
pub const OPTION_RULES: [OptionRule; 14] = [
    rule("cert_extensions", "none", Merge::Added, ISSUE),
    rule("client_idle_timeout", "0s", Merge::ShortestNonZero, SESSION),
    rule("disconnect_expired_cert", "false", Merge::AnyYes, SESSION),
    rule("forward_agent", "false", Merge::AnyYes, BOTH),
    rule("lock", "as the cluster says", Merge::Strictest, SESSION),
    rule("max_connections", "0", Merge::LowestNonZero, SESSION),
    rule("max_session_ttl", "30h", Merge::Shortest, ISSUE),
    rule("max_sessions", "0", Merge::LowestNonZero, SESSION),
    rule("permit_x11_forwarding", "false", Merge::AnyYes, BOTH),
    rule("pin_source_ip", "false", Merge::AnyYes, ISSUE),
    rule("port_forwarding", "true", Merge::AnyYes, BOTH),
    rule("record_session", "best_effort", Merge::Strictest, SESSION),
    rule("ssh_file_copy", "true", Merge::EveryYes, SESSION),
    rule("ssh_port_forwarding", "as `port_forwarding`", Merge::ExplicitNo, BOTH),
];

/// [`OPTION_RULES`] as a table in Markdown; the manual's chapter on roles has it.
pub fn option_table() -> String {
    let mut table =
        "| option | default | of several roles | counts |\n| --- | --- | --- | --- |\n".to_owned();
    for OptionRule { name, default, merge, counts } in OPTION_RULES {
        table.push_str(&format!("| `{name}` | {default} | {} | {counts} |\n", merge.as_str()));
    }
    table
}

/// What counts for one session. Nodes enforce it, as far as the manual's chapter on [`roles`](crate::manual::roles) says.
///
/// The options of **all** the user's roles count, by [`OPTION_RULES`], whichever of them grants the session. Only
/// [`destinations`](Self::destinations) and [`commands`](Self::commands) are those of the roles that grant this login on this
/// node: a role for other nodes does not lift the restrictions of this one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[expect(clippy::struct_excessive_bools, reason = "independent options, named as administrators know them")]
pub struct SessionPolicy {
    /// Whether the agent may be forwarded.
    pub agent_forwarding: bool,
    /// Which commands may be executed.
    pub commands: Commands,
    /// Where forwarded connections may go, if [`local_forwarding`](Self::local_forwarding).
    pub destinations: Destinations,
    /// Whether the connection ends with its certificate.
    pub disconnect_expired_cert: bool,
    /// Whether files may be copied. Never if commands are restricted: who can write files can run what they like.
    pub file_copy: bool,
    /// After how long without input and output the connection ends; `None` is as the cluster says.
    pub idle_timeout: Option<Duration>,
    /// Whether connections may be forwarded from the client's side.
    pub local_forwarding: bool,
    /// What happens when the state of locks is not known for certain; `None` is as the cluster says.
    pub lock_mode: Option<LockMode>,
    /// The most connections of the user to nodes of the cluster; `None` is any number.
    pub max_connections: Option<u64>,
    /// The most sessions of the connection; `None` is any number.
    pub max_sessions: Option<u64>,
    /// Whether sessions are recorded, and what happens to those that cannot be.
    pub recording: RecordingMode,
    /// Whether connections may be forwarded from the node's side.
    pub remote_forwarding: bool,
    /// Whether X11 may be forwarded.
    pub x11_forwarding: bool,
}

impl SessionPolicy {
    /// Merges the options of all roles.
    pub(super) fn merge<'a>(options: impl Iterator<Item = &'a RoleOptions> + Clone) -> Self {
        let any = |says: fn(&RoleOptions) -> bool| options.clone().any(says);
        let lowest = |of: fn(&RoleOptions) -> u64| options.clone().map(of).filter(|limit| *limit > 0).min();
        let forwarding = |direction: fn(&RoleOptions) -> Option<Switch>| {
            let says_no = |options: &RoleOptions| direction(options).is_some_and(|switch| !switch.enabled);
            let says_yes = |options: &RoleOptions| {
                direction(options).map_or(options.port_forwarding, |switch| switch.enabled)
            };
            options.clone().any(says_yes) && !options.clone().any(says_no)
        };
        let idle = options.clone().map(|options| options.client_idle_timeout);
        Self {
            agent_forwarding: any(|options| options.forward_agent),
            commands: Commands::default(),
            destinations: Destinations::default(),
            disconnect_expired_cert: any(|options| options.disconnect_expired_cert),
            file_copy: options.clone().all(|options| options.ssh_file_copy),
            idle_timeout: idle.filter(|timeout| !timeout.is_zero()).min(),
            local_forwarding: forwarding(|options| options.ssh_port_forwarding.local),
            lock_mode: options.clone().filter_map(|options| options.lock).max(),
            max_connections: lowest(|options| options.max_connections),
            max_sessions: lowest(|options| options.max_sessions),
            recording: options
                .clone()
                .map(|options| options.record_session.for_ssh())
                .max()
                .unwrap_or_default(),
            remote_forwarding: forwarding(|options| options.ssh_port_forwarding.remote),
            x11_forwarding: any(|options| options.permit_x11_forwarding),
        }
    }

    /// Whether the options forbid a command because it copies files. Whether it is on the list of commands is another question.
    ///
    /// What clients run to copy files is refused (`scp -t`, `rsync --server`, SFTP servers), by the words of the line. That is no
    /// fence: who has a shell writes files in other ways.
    pub fn forbids_as_copy(&self, line: &str) -> bool {
        !self.file_copy && copies_files(line)
    }

    /// Whether an interactive shell may be started.
    pub const fn shell(&self) -> bool {
        self.commands.is_unrestricted()
    }
}
