//! Audit events travel together, but not at each other's expense: what strangers can make long, or what the auth service does
//! not take, must not cost the events beside it.

use std::time::Duration;

use teleport_core::api::{ApiError, ApiErrorKind, AuditApi};
use teleport_core::audit::AuditEvent;
use teleport_core::entropy::{Entropy, EntropyExt};

use crate::view::jitter;

/// The longest batch, in bytes of JSON: half of what the auth service reads of one request.
const MAX_BYTES: usize = 512 << 10;
/// The first and the longest pause before a batch is sent again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));

/// Batches that wait to be sent, the next one last.
#[derive(Debug)]
pub(crate) struct Batches<T>(Vec<Vec<T>>);

impl<T: AsRef<AuditEvent>> Batches<T> {
    /// In their order, in as many batches as their lengths ask for.
    pub(crate) fn of(events: impl IntoIterator<Item = T>) -> Self {
        let mut batches = Vec::new();
        let mut batch = Vec::new();
        let mut bytes = 0_usize;
        for event in events {
            // What cannot be written is refused later, and then alone.
            let len = serde_json::to_vec(event.as_ref()).map_or(0, |json| json.len());
            if bytes.saturating_add(len) > MAX_BYTES && !batch.is_empty() {
                batches.push(std::mem::take(&mut batch));
                bytes = 0;
            }
            bytes = bytes.saturating_add(len);
            batch.push(event);
        }
        batches.push(batch);
        batches.reverse();
        Self(batches)
    }

    /// The next batch.
    pub(crate) fn next(&mut self) -> Option<Vec<T>> {
        self.0.pop().filter(|batch| !batch.is_empty())
    }

    /// A batch was refused: its halves come next, so that in the end only what is at fault is lost. `Err` is the one event
    /// that is.
    pub(crate) fn refused(&mut self, mut batch: Vec<T>) -> Result<(), Option<T>> {
        if batch.len() < 2 {
            return Err(batch.pop());
        }
        let rest = batch.split_off(batch.len() / 2);
        self.0.push(rest);
        self.0.push(batch);
        Ok(())
    }
}

/// Names events, so that what is sent again, because the answer was lost, is written once.
fn name(events: &mut [AuditEvent], entropy: &dyn Entropy) {
    for event in events {
        // One without a name is written at least once.
        event.uid = entropy.uuid().unwrap_or_default();
    }
}

/// Whether the events were written: again and again until they are taken, or refused for good.
pub(crate) async fn deliver<A: AuditApi + ?Sized>(
    api: &A,
    mut events: Vec<AuditEvent>,
    entropy: &dyn Entropy,
) -> bool {
    name(&mut events, entropy);
    let (mut backoff, longest) = BACKOFF;
    loop {
        match api.emit_events(events.clone()).await {
            Ok(()) => return true,
            Err(error) if is_final(&error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    events = events.len(),
                    "the auth service refuses audit events"
                );
                return false;
            }
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "audit events cannot be written now"
                );
            }
        }
        tokio::time::sleep(jitter(backoff, entropy)).await;
        backoff = (backoff * 2).min(longest);
    }
}

/// Whether asking again would change nothing.
fn is_final(error: &ApiError) -> bool {
    matches!(error.kind(), ApiErrorKind::Denied | ApiErrorKind::Evicted | ApiErrorKind::Invalid)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use teleport_core::audit::EventKind;

    use super::*;

    struct Numbered(usize, AuditEvent);

    impl AsRef<AuditEvent> for Numbered {
        fn as_ref(&self) -> &AuditEvent {
            &self.1
        }
    }

    fn events(count: usize, text: &str) -> impl Iterator<Item = Numbered> {
        let event = AuditEvent::new(EventKind::AuthFailure).user(text).error(text).field("login", text);
        (0..count).map(move |number| Numbered(number, event.clone()))
    }

    #[test]
    fn long_events_travel_in_several_batches_in_order() {
        let mut batches = Batches::of(events(256, &"\0".repeat(100_000)));
        let (mut seen, mut count) = (Vec::new(), 0);
        while let Some(batch) = batches.next() {
            let bytes: usize = batch.iter().map(|event| serde_json::to_vec(&event.1).unwrap().len()).sum();
            assert!(bytes <= MAX_BYTES, "{bytes}");
            seen.extend(batch.iter().map(|event| event.0));
            count += 1;
        }
        assert!(count > 1 && seen.iter().copied().eq(0..256), "{count} {seen:?}");
        let mut short = Batches::of(events(256, "x"));
        assert_eq!(short.next().unwrap().len(), 256);
        assert!(short.next().is_none());
        assert!(Batches::of(events(0, "x")).next().is_none());
    }

    #[test]
    fn one_bad_event_costs_no_other() {
        let mut batches = Batches::of(events(100, "x"));
        let (mut taken, mut lost) = (Vec::new(), Vec::new());
        while let Some(batch) = batches.next() {
            if batch.iter().any(|event| event.0 == 37) {
                if let Err(event) = batches.refused(batch) {
                    lost.push(event.unwrap().0);
                }
            } else {
                taken.extend(batch.iter().map(|event| event.0));
            }
        }
        assert_eq!(lost, [37]);
        assert!(taken.into_iter().eq((0..100).filter(|number| *number != 37)));
    }
}
