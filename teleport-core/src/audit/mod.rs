//! The audit log: what happened, by whom, with stable codes.
//!
//! Events are written before the action is acknowledged. Their names and codes are API; see [`EventKind`].

mod event;
mod kind;

use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

pub use self::event::AuditEvent;
pub use self::kind::{EventKind, UnknownCode};
use crate::clock::Timestamp;

/// The most events of one [`AuditPage`].
pub const MAX_EVENTS: usize = 10_000;

/// The audit log cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[error("the audit log is not available")]
#[non_exhaustive]
pub struct AuditError {
    /// The reason.
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

impl AuditError {
    /// For implementors.
    pub fn new(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { source: source.into() }
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
    /// Only these event names, such as `session.start`; empty is all.
    pub events: Vec<String>,
    /// Only events of this user.
    pub user: Option<String>,
    /// Only events of this session.
    pub session: Option<String>,
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

/// An [`AuditSink`] that can be searched.
#[async_trait]
pub trait AuditLog: AuditSink {
    /// Finds events, page by page.
    ///
    /// # Errors
    /// [`AuditError`].
    async fn search(&self, query: AuditQuery) -> Result<AuditPage, AuditError>;
}
