//! Whether an event is asked for, told from its line.

use std::borrow::Cow;

use memchr::memmem::Finder;
use serde::Deserialize;
use teleport_core::audit::{AuditEvent, AuditQuery};
use teleport_core::clock::Timestamp;

/// How many events a page has if the query does not say.
pub(super) const DEFAULT_LIMIT: usize = 500;

/// The most bytes of the events on one page.
pub(super) const MAX_PAGE_BYTES: usize = 8 << 20;

/// What decides whether an event matches; cheaper to read than all of it.
#[derive(Deserialize)]
pub(super) struct Probe<'a> {
    #[serde(borrow)]
    pub(super) code: Cow<'a, str>,
    #[serde(borrow)]
    event: Cow<'a, str>,
    pub(super) time: Timestamp,
    #[serde(borrow, default)]
    user: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    sid: Option<Cow<'a, str>>,
}

impl Probe<'_> {
    pub(super) fn matches(&self, query: &AuditQuery) -> bool {
        query.from.is_none_or(|from| self.time >= from)
            && query.to.is_none_or(|to| self.time < to)
            && query.wants(&self.event, &self.code)
            && query.user.as_ref().is_none_or(|user| self.user.as_deref() == Some(user))
            && query.session.as_ref().is_none_or(|session| self.sid.as_deref() == Some(session))
    }
}

/// A query over many lines: most are told to be none of it by what they do not contain, without reading them as JSON.
#[derive(Debug)]
pub(super) struct Filter {
    query: AuditQuery,
    needles: Vec<Finder<'static>>,
}

impl Filter {
    pub(super) fn new(query: AuditQuery) -> Self {
        let field = |name: &str, value: &Option<String>| {
            // As events are written.
            let value = serde_json::to_string(value.as_ref()?).ok()?;
            Some(Finder::new(&format!("\"{name}\":{value}")).into_owned())
        };
        let needles =
            [field("user", &query.user), field("sid", &query.session)].into_iter().flatten().collect();
        Self { query, needles }
    }

    pub(super) const fn query(&self) -> &AuditQuery {
        &self.query
    }

    /// Whether one of these lines can match.
    pub(super) fn may_match(&self, lines: &[u8]) -> bool {
        self.needles.iter().all(|needle| needle.find(lines).is_some())
    }

    /// When the event happened, if it matches.
    pub(super) fn matches(&self, line: &[u8]) -> Option<Timestamp> {
        if !self.may_match(line) {
            return None;
        }
        let probe: Probe<'_> =
            serde_json::from_slice(line).ok().filter(|probe: &Probe<'_>| probe.matches(&self.query))?;
        if let Some(node) = &self.query.node
            && !serde_json::from_slice::<AuditEvent>(line).is_ok_and(|event| event.is_of_node(node))
        {
            return None;
        }
        Some(probe.time)
    }
}
