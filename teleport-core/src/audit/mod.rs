//! The audit log: what happened, by whom, with stable codes.
//!
//! Events are written before the action is acknowledged. Their names and codes are API; see [`EventKind`].

pub mod chain;
mod event;
mod kind;
mod syslog;

use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

pub use self::event::AuditEvent;
pub use self::kind::{EventKind, Reporter, UnknownCode};
pub use self::syslog::syslog_message;
use crate::clock::Timestamp;

/// The most events of one [`AuditPage`].
pub const MAX_EVENTS: usize = 10_000;

/// The audit log was not written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// What was asked cannot be answered, however often it is asked.
    #[error("the audit log cannot be searched for that")]
    Invalid {
        /// What is wrong with it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It cannot be written or read now.
    #[error("the audit log is not available")]
    Unavailable {
        /// The reason.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl AuditQuery {
    /// Whether an event of this name and code is asked for.
    pub fn wants(&self, event: &str, code: &str) -> bool {
        if self.events.is_empty() {
            code != EventKind::AuditCheckpoint.code()
        } else {
            self.events.iter().any(|wanted| wanted == event || wanted == code)
        }
    }
}

impl AuditError {
    /// For implementors: it does not work now.
    pub fn new(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Unavailable { source: source.into() }
    }

    /// For implementors: the query is wrong.
    pub fn invalid(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Invalid { source: source.into() }
    }
}

/// Which events to find. All conditions hold together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "callers build it")]
pub struct AuditQuery {
    /// Not before.
    pub from: Option<Timestamp>,
    /// Before.
    pub to: Option<Timestamp>,
    /// Only these events, by name (`session.start`) or code (`T2000I`); empty is all but checkpoints.
    pub events: Vec<String>,
    /// Only events of this user.
    pub user: Option<String>,
    /// Only events of this session.
    pub session: Option<String>,
    /// Only events that this host reported or that are about it, by id or name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// At most so many; 0 is 500. Never more than [`MAX_EVENTS`].
    pub limit: usize,
    /// Newest first instead of oldest first.
    pub newest_first: bool,
    /// [`AuditPage::next`] of the page before.
    pub after: Option<String>,
}

/// A part of a search's result.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "logs build it")]
pub struct AuditPage {
    /// The events.
    pub events: Vec<AuditEvent>,
    /// Where the next page begins, if there is more.
    pub next: Option<String>,
    /// Why events may be missing that belong here, in a sentence: what could not be read, or who is behind. `None` if none is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incomplete: Option<String>,
}

/// Takes events.
///
/// # Contract
/// When `emit` returns `Ok`, all the events are durable, in their order. On an error some may be. Losing events is
/// dangerous: callers fail the action that they could not record.
#[async_trait]
pub trait AuditSink: fmt::Debug + Send + Sync + 'static {
    /// Appends events.
    ///
    /// # Errors
    /// [`AuditError`].
    async fn emit(&self, events: Vec<AuditEvent>) -> Result<(), AuditError>;
}

/// Passes entries of the log on, to where people or programs watch it.
///
/// # Contract
/// `forward` never blocks: it queues or drops. The log adds up what was dropped and says so in an entry of its own. An entry is
/// forwarded when it is in the log for good, byte for byte as it is there. Dropping the forwarder gives it a moment to pass on
/// what it holds.
pub trait AuditForwarder: fmt::Debug + Send + Sync + 'static {
    /// How the log calls it.
    fn name(&self) -> &str;

    /// Takes a line, without its newline. Returns how many were dropped since the last call, this one included.
    fn forward(&self, line: &[u8]) -> u64;
}

/// An [`AuditSink`] that can be searched.
#[async_trait]
pub trait AuditLog: AuditSink {
    /// Finds events, page by page.
    ///
    /// # Errors
    /// [`AuditError::Invalid`] if [`AuditQuery::after`] is not what an earlier page said, [`AuditError::Unavailable`].
    async fn search(&self, query: AuditQuery) -> Result<AuditPage, AuditError>;
}
