//! What is refused on one connection, as the audit log is told: each of the first ones, then some, with how many there were between.
//!
//! Whoever was let in may ask for what is refused as often as the network allows, and must not fill the audit log by that. Nothing is
//! passed over in silence: events and what they say of others (`more_before`) are together as many as there were refusals.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use teleport_core::audit::{AuditEvent, EventKind};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::audit::AuditQueue;

/// So many of a kind are told one by one.
const FIRST: u32 = 100;
/// Then one of a kind in so long a time.
const PACE: Duration = Duration::from_secs(10);

/// The refusals of a connection. Clones share them; with the last of them the audit log is told of the rest.
#[derive(Clone)]
pub(super) struct Refusals(Arc<Inner>);

struct Inner {
    audit: AuditQueue,
    /// By kind: what is refused often says nothing of what is refused seldom.
    states: Mutex<HashMap<EventKind, State>>,
    /// Something is held back.
    held: Notify,
}

#[derive(Default)]
struct State {
    told: u32,
    /// When the next one is told, once the first were.
    next: Option<Instant>,
    /// How many were not told.
    more: u64,
    /// The last of them.
    last: Option<AuditEvent>,
}

impl State {
    /// What the audit log is to be told now that this was refused.
    fn tell(&mut self, event: AuditEvent, now: Instant) -> Option<AuditEvent> {
        if self.told < FIRST {
            self.told += 1;
            self.next = Some(now + PACE);
            return Some(event);
        }
        if self.next.is_some_and(|next| now < next) {
            self.more = self.more.saturating_add(1);
            self.last = Some(event);
            return None;
        }
        self.next = Some(now + PACE);
        self.last = None;
        Some(with(event, std::mem::take(&mut self.more)))
    }

    /// When what is held back is to be told, if anything is.
    fn due(&self) -> Option<Instant> {
        self.last.as_ref().and(self.next)
    }

    /// What is held back: the last of it stands for all.
    fn rest(&mut self) -> Option<AuditEvent> {
        let last = self.last.take()?;
        Some(with(last, std::mem::take(&mut self.more).saturating_sub(1)))
    }
}

fn with(event: AuditEvent, more: u64) -> AuditEvent {
    if more == 0 { event } else { event.field("more_before", more) }
}

impl Inner {
    fn states(&self) -> MutexGuard<'_, HashMap<EventKind, State>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Refusals {
    pub(super) fn new(audit: AuditQueue) -> Self {
        Self(Arc::new(Inner { audit, states: Mutex::default(), held: Notify::new() }))
    }

    /// Something was refused. Never waits.
    pub(super) fn note(&self, event: AuditEvent) {
        let kind = event.code;
        let told = self.0.states().entry(kind).or_default().tell(event, Instant::now());
        match told {
            Some(event) => self.0.audit.note(event),
            None => self.0.held.notify_one(),
        }
    }

    /// Tells of what is held back when its time has come, so that the last of it is as young as all others in the audit log. To be
    /// polled as long as the connection lives; what is left when this is dropped is told by the end.
    pub(super) async fn attend(&self) -> Infallible {
        loop {
            let due = self.0.states().values().filter_map(State::due).min();
            let come = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = come => self.flush(Instant::now()),
                // Perhaps it has to be told sooner.
                () = self.0.held.notified() => {}
            }
        }
    }

    fn flush(&self, now: Instant) {
        for state in self.0.states().values_mut().filter(|state| state.due().is_some_and(|due| due <= now)) {
            if let Some(event) = state.rest() {
                state.next = Some(now + PACE);
                self.0.audit.note(event);
            }
        }
    }
}

impl fmt::Debug for Refusals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refusals").finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let states = self.states.get_mut().unwrap_or_else(PoisonError::into_inner);
        states.values_mut().filter_map(State::rest).for_each(|event| self.audit.note(event));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
    use super::super::audit;
    use super::*;

    fn refused(number: u64) -> AuditEvent {
        AuditEvent::new(EventKind::PortFailure).field("addr", number)
    }

    /// Which refusals the audit log is told of, and of how many others with each.
    fn told(events: Vec<AuditEvent>) -> Vec<(u64, u64)> {
        let number = |event: &AuditEvent, name| event.fields.get(name).map_or(0, |n| n.as_u64().unwrap());
        events.iter().map(|event| (number(event, "addr"), number(event, "more_before"))).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn many_are_told_by_few_and_all_are_counted() {
        let (queue, mut worker) = audit::queue();
        let refusals = Refusals::new(queue);
        let first = u64::from(FIRST);
        (0..first).for_each(|number| refusals.note(refused(number)));
        assert_eq!(told(worker.waiting()), (0..first).map(|number| (number, 0)).collect::<Vec<_>>());
        (first..10_000).for_each(|number| refusals.note(refused(number)));
        assert!(worker.waiting().is_empty(), "they are too many");
        tokio::time::advance(PACE - Duration::from_millis(1)).await;
        refusals.note(refused(10_000));
        assert!(worker.waiting().is_empty());
        tokio::time::advance(Duration::from_millis(1)).await;
        refusals.note(refused(10_001));
        assert_eq!(told(worker.waiting()), [(10_001, 10_001 - first)]);
        // At this pace each is told by itself.
        tokio::time::advance(PACE).await;
        refusals.note(refused(10_002));
        assert_eq!(told(worker.waiting()), [(10_002, 0)]);
        // The end of the connection tells of the rest, once nobody can add to it.
        (10_003..10_010).for_each(|number| refusals.note(refused(number)));
        let last = refusals.clone();
        drop(refusals);
        assert!(worker.waiting().is_empty());
        drop(last);
        assert_eq!(told(worker.waiting()), [(10_009, 6)]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_refused_little_leaves_nothing_to_be_told() {
        let (queue, mut worker) = audit::queue();
        let refusals = Refusals::new(queue);
        refusals.note(refused(1));
        drop(refusals);
        assert_eq!(told(worker.waiting()), [(1, 0)]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_refused_often_does_not_hide_what_is_refused_seldom() {
        let (queue, mut worker) = audit::queue();
        let refusals = Refusals::new(queue);
        (0..10_000).for_each(|number| refusals.note(refused(number)));
        let _ = worker.waiting();
        let other = AuditEvent::new(EventKind::SubsystemFailure);
        refusals.note(other);
        let codes: Vec<_> = worker.waiting().iter().map(|event| event.code).collect();
        assert_eq!(codes, [EventKind::SubsystemFailure]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_held_back_is_told_when_its_time_has_come() {
        let (queue, mut worker) = audit::queue();
        let refusals = Refusals::new(queue);
        let mut attending = Box::pin(refusals.attend());
        let first = u64::from(FIRST);
        (0..first + 5).for_each(|number| refusals.note(refused(number)));
        assert_eq!(worker.waiting().len(), FIRST as usize);
        // It is polled, as beside a connection that does nothing more.
        assert!(tokio::time::timeout(PACE - Duration::from_millis(1), &mut attending).await.is_err());
        assert!(worker.waiting().is_empty());
        assert!(tokio::time::timeout(Duration::from_millis(2), &mut attending).await.is_err());
        assert_eq!(told(worker.waiting()), [(first + 4, 4)]);
        // Nothing is told twice, and the pace holds.
        refusals.note(refused(7));
        assert!(tokio::time::timeout(PACE - Duration::from_millis(2), &mut attending).await.is_err());
        assert!(worker.waiting().is_empty());
        assert!(tokio::time::timeout(PACE, &mut attending).await.is_err());
        assert_eq!(told(worker.waiting()), [(7, 0)]);
        drop(attending);
        drop(refusals);
        assert!(worker.waiting().is_empty());
    }
}
