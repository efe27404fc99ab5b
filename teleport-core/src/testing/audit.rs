//! An audit log in memory.

use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use crate::audit::{
    AuditError, AuditEvent, AuditLog, AuditPage, AuditQuery, AuditSink, EventKind, MAX_EVENTS, Reporter,
};

/// An [`AuditLog`] in the memory of this process. It finds what it was told, and can be made to fail.
#[derive(Debug, Default)]
pub struct MemoryAudit(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    events: Vec<AuditEvent>,
    broken: bool,
    page: Option<usize>,
    searched: Vec<AuditQuery>,
}

impl MemoryAudit {
    /// An empty log.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything that was written, oldest first.
    pub fn events(&self) -> Vec<AuditEvent> {
        self.lock().events.clone()
    }

    /// The newest event of this kind.
    pub fn last(&self, kind: EventKind) -> Option<AuditEvent> {
        self.lock().events.iter().rev().find(|event| event.code == kind).cloned()
    }

    /// How many events of this kind were written.
    pub fn count(&self, kind: EventKind) -> usize {
        self.lock().events.iter().filter(|event| event.code == kind).count()
    }

    /// What was searched for, in the order of the calls.
    pub fn searched(&self) -> Vec<AuditQuery> {
        self.lock().searched.clone()
    }

    /// From now on every call fails, or works again.
    pub fn set_broken(&self, broken: bool) {
        self.lock().broken = broken;
    }

    /// From now on a page of a search has at most so many events.
    pub fn set_page(&self, events: usize) {
        self.lock().page = Some(events);
    }

    fn working(&self) -> Result<MutexGuard<'_, State>, AuditError> {
        let state = self.lock();
        if state.broken { Err(AuditError::new("the log was told to fail")) } else { Ok(state) }
    }
}

#[async_trait]
impl AuditSink for MemoryAudit {
    async fn emit(&self, events: Vec<AuditEvent>) -> Result<(), AuditError> {
        let mut state = self.working()?;
        for event in &events {
            // The manual lists the fields of every kind. What a host reports is its own affair.
            let known = |field: &String| event.code.fields().contains(&field.as_str());
            if event.code.reporter() == Reporter::Auth
                && let Some(field) = event.fields.keys().find(|field| !known(field))
            {
                return Err(AuditError::new(format!(
                    "{} has no field {field}: kind.rs lists them",
                    event.code
                )));
            }
        }
        state.events.extend(events);
        Ok(())
    }
}

#[async_trait]
impl AuditLog for MemoryAudit {
    async fn search(&self, query: AuditQuery) -> Result<AuditPage, AuditError> {
        let mut state = self.working()?;
        state.searched.push(query.clone());
        let wanted = |event: &&AuditEvent| {
            query.from.is_none_or(|from| event.time >= from)
                && query.to.is_none_or(|to| event.time < to)
                && query.wants(&event.event, event.code.code())
                && query.node.as_ref().is_none_or(|node| event.is_of_node(node))
                && (query.user.is_none() || query.user == event.user)
                && query
                    .session
                    .as_ref()
                    .is_none_or(|session| event.sid.is_some_and(|sid| sid.to_string() == *session))
        };
        let mut found: Vec<&AuditEvent> = state.events.iter().filter(wanted).collect();
        if query.newest_first {
            found.reverse();
        }
        let limit = if query.limit == 0 { 500 } else { query.limit.min(MAX_EVENTS) };
        let limit = limit.min(state.page.unwrap_or(MAX_EVENTS));
        let start: usize = match &query.after {
            Some(after) => after.parse().map_err(AuditError::invalid)?,
            None => 0,
        };
        let events: Vec<AuditEvent> =
            found.iter().skip(start).take(limit).map(|event| (*event).clone()).collect();
        let end = start.saturating_add(events.len());
        Ok(AuditPage { events, next: (end < found.len()).then(|| end.to_string()), incomplete: None })
    }
}
