//! Messages about the sessions that run.
#![expect(clippy::exhaustive_structs, reason = "callers build requests, services build answers")]

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::id::{HostId, NodeName, OsLogin, RoleName, SessionId, UserName};
use crate::resource::JoinMode;

/// How long the sessions of a node are known after it has last told of them: those of one that is gone vanish by then.
pub const SESSION_LEASE: Duration = Duration::from_secs(120);

/// The longest message to those whose session is ended, in bytes.
pub const MAX_END_MESSAGE: usize = 256;

/// Somebody who takes part in the session of somebody else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Participant {
    /// Who.
    pub user: UserName,
    /// How.
    pub mode: JoinMode,
    /// Since when.
    pub since: Timestamp,
}

/// A session that runs, as its node tells of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunningSession {
    /// The session.
    pub id: SessionId,
    /// Where it runs, if that is not the host that tells of it: a registered SSH server that a proxy stands in for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<HostId>,
    /// Whose it is.
    pub user: UserName,
    /// The roles by which it was begun.
    pub roles: Vec<RoleName>,
    /// As whom it runs.
    pub login: OsLogin,
    /// When it began.
    pub started: Timestamp,
    /// What runs, cut where it is long; a shell without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// Columns and rows of its terminal. What has none cannot be joined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal: Option<(u16, u16)>,
    /// Whether it is recorded.
    pub recorded: bool,
    /// Who else takes part, in the order of coming.
    #[serde(default)]
    pub participants: Vec<Participant>,
}

/// All sessions of the calling node, or a page of those of the calling proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionReport {
    /// Which page: below [`SessionReport::MAX_PAGES`] for proxies, which stand in for many servers. Nodes have the first one alone. Each is
    /// replaced and runs out by itself.
    #[serde(default)]
    pub page: u16,
    /// The sessions; at most [`SessionReport::MAX`], and [`SessionReport::MAX_LEN`] bytes of JSON.
    pub sessions: Vec<RunningSession>,
}

impl SessionReport {
    /// All that a node has.
    pub const fn of_node(sessions: Vec<RunningSession>) -> Self {
        Self { page: 0, sessions }
    }

    /// The most sessions of one report. Those beyond the last page are not known to the cluster until others have ended.
    pub const MAX: usize = 1024;
    /// The most pages of a proxy.
    pub const MAX_PAGES: u16 = 16;
    /// The longest report, as JSON in bytes.
    pub const MAX_LEN: usize = 512 << 10;
}

/// A session that runs, as a caller sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActiveSession {
    /// What its node tells of it.
    #[serde(flatten)]
    pub session: RunningSession,
    /// The node that it runs on.
    pub host_id: HostId,
    /// The node's name.
    pub host_name: NodeName,
    /// In which modes the caller may join it.
    #[serde(default)]
    pub join_modes: Vec<JoinMode>,
}

/// Somebody ends a session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EndSession {
    /// Why, for those who take part: at most [`MAX_END_MESSAGE`] bytes in one line.
    pub message: String,
}

/// A session that is to end, as views tell nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndedSession {
    /// The session.
    pub session: SessionId,
    /// Who ends it.
    pub by: String,
    /// Why.
    pub message: String,
}
