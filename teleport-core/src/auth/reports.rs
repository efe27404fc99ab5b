//! Reports of hosts are written down once by each service, however often they are sent: a host whose answer was lost sends again.
//!
//! A host names each of its events by a number that nobody guesses. What is in the log under it was derived from that number and
//! the host, so that no host can take away or copy the name of another one's event.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use super::Inner;
use crate::api::{ApiError, ApiResult};
use crate::audit::chain::Digest;
use crate::audit::{AuditEvent, AuditQuery};
use crate::id::HostId;

/// How many events are remembered: many times what hosts may have under way.
const MAX_REMEMBERED: usize = 65_536;
/// How many of the newest entries are looked at after a start: what was written, and not answered, when the service ended.
const LOOK_BACK: usize = 4096;

/// Events of hosts that were written lately.
#[derive(Debug, Default)]
pub(super) struct Reports {
    state: Mutex<State>,
    /// Whether those of before the start are known.
    primed: tokio::sync::OnceCell<()>,
}

#[derive(Debug, Default)]
struct State {
    /// Whether it is written, or being written.
    known: HashMap<Uuid, bool>,
    written: VecDeque<Uuid>,
}

impl State {
    fn written(&mut self, uid: Uuid) {
        if self.known.insert(uid, true) == Some(true) {
            return;
        }
        self.written.push_back(uid);
        if self.written.len() > MAX_REMEMBERED
            && let Some(oldest) = self.written.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

/// Events that are being written. Unless it is told that they are, they may be sent again.
#[derive(Debug)]
pub(super) struct Claim<'a> {
    reports: &'a Reports,
    uids: Vec<Uuid>,
}

impl Claim<'_> {
    pub(super) fn written(mut self) {
        let mut state = self.reports.lock();
        for uid in self.uids.drain(..) {
            state.written(uid);
        }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut state = self.reports.lock();
        for uid in &self.uids {
            state.known.remove(uid);
        }
    }
}

impl Reports {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives events of a host the names that they have in the log, and takes away those that are there already.
    ///
    /// # Errors
    /// [`ApiErrorKind::Unavailable`](crate::api::ApiErrorKind::Unavailable) while another call writes one of them, or if it cannot
    /// be known what is there.
    pub(super) async fn claim(
        &self,
        auth: &Inner,
        host: HostId,
        events: &mut Vec<AuditEvent>,
    ) -> ApiResult<Claim<'_>> {
        for event in events.iter_mut().filter(|event| !event.uid.is_nil()) {
            event.uid = own(host, event.uid);
        }
        if events.iter().any(|event| !event.uid.is_nil()) {
            self.primed.get_or_try_init(|| self.look_back(auth)).await?;
        }
        self.begin(events)
    }

    fn begin(&self, events: &mut Vec<AuditEvent>) -> ApiResult<Claim<'_>> {
        let mut claim = Claim { reports: self, uids: Vec::new() };
        let mut state = self.lock();
        if events.iter().any(|event| state.known.get(&event.uid) == Some(&false)) {
            drop(state);
            return Err(ApiError::unavailable("the same report is being written"));
        }
        events.retain(|event| {
            if event.uid.is_nil() {
                return true;
            }
            // Twice in one report is once as well.
            let new = !state.known.contains_key(&event.uid);
            if new {
                state.known.insert(event.uid, false);
                claim.uids.push(event.uid);
            }
            new
        });
        drop(state);
        Ok(claim)
    }

    /// Learns what was written before the service started.
    async fn look_back(&self, auth: &Inner) -> ApiResult<()> {
        let mut newest = Vec::new();
        let mut query = AuditQuery { limit: LOOK_BACK, newest_first: true, ..AuditQuery::default() };
        loop {
            // A page has at most as many as its source gives at once.
            let page = auth.ports.audit.search(query.clone()).await?;
            newest.extend(page.events);
            let left = LOOK_BACK.saturating_sub(newest.len());
            let (Some(next), 1..) = (page.next, left) else { break };
            query = AuditQuery { after: Some(next), limit: left, ..query };
        }
        let mut state = self.lock();
        for event in newest.iter().rev().filter(|event| event.server_id.is_some()) {
            // Not one that is being written: it knows better.
            if !state.known.contains_key(&event.uid) {
                state.written(event.uid);
            }
        }
        Ok(())
    }
}

/// The name in the log of what a host calls by this one.
fn own(host: HostId, uid: Uuid) -> Uuid {
    let digest = Digest::of(&[b"teleport-report-v1\n", host.uuid().as_bytes(), uid.as_bytes()]);
    let mut bytes = [0; 16];
    bytes.iter_mut().zip(digest.as_bytes()).for_each(|(to, from)| *to = *from);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;
    use crate::audit::EventKind;

    fn named(number: u128) -> AuditEvent {
        let mut event = AuditEvent::new(EventKind::Exec);
        event.uid = Uuid::from_u128(number);
        event
    }

    #[test]
    fn what_is_written_or_being_written_is_not_written_again() {
        let reports = Reports::default();
        let mut first = vec![named(1), named(2), named(1), named(0), named(0)];
        let claim = reports.begin(&mut first).unwrap();
        assert_eq!(first, [named(1), named(2), named(0), named(0)], "what has no name is never the same");
        let mut meanwhile = vec![named(3), named(2)];
        assert!(reports.begin(&mut meanwhile).is_err());
        // It failed, or nobody knows: both may come again.
        drop(claim);
        let mut again = vec![named(1), named(2), named(3)];
        let claim = reports.begin(&mut again).unwrap();
        assert_eq!(again.len(), 3, "the refused call has claimed nothing");
        claim.written();
        let mut late = vec![named(2), named(4)];
        reports.begin(&mut late).unwrap().written();
        assert_eq!(late, [named(4)]);
    }

    #[test]
    fn the_memory_is_bounded() {
        let reports = Reports::default();
        for number in 1..=MAX_REMEMBERED as u128 + 10 {
            reports.begin(&mut vec![named(number)]).unwrap().written();
        }
        let state = reports.lock();
        assert_eq!((state.known.len(), state.written.len()), (MAX_REMEMBERED, MAX_REMEMBERED));
        assert!(
            !state.known.contains_key(&Uuid::from_u128(10)) && state.known.contains_key(&Uuid::from_u128(11))
        );
    }

    #[test]
    fn hosts_do_not_share_names() {
        let host = |number| HostId::from_uuid(Uuid::from_u128(number));
        let uid = Uuid::from_u128(7);
        assert_eq!(own(host(1), uid), own(host(1), uid));
        assert_ne!(own(host(1), uid), own(host(2), uid));
        assert_ne!(own(host(1), uid), uid);
    }
}
