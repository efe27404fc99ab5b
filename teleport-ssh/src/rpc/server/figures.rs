//! What was asked of an auth server: counts and times of its calls, by operation.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use teleport_core::api::ApiErrorKind;

/// The upper bounds of the buckets of times; what takes longer is in one more at the end.
pub const CALL_BOUNDS: [Duration; 8] = [
    Duration::from_millis(1),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(5),
];

/// What a server has been asked since its start. Clones share it.
#[derive(Clone, Default)]
pub struct ApiFigures(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    calls: BTreeMap<&'static str, CallFigures>,
    watches: BTreeMap<&'static str, u64>,
}

/// The calls of one operation that have come to their end. A watch has when it begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CallFigures {
    /// How many went well.
    pub done: u64,
    /// How many failed, by what the caller can do about it.
    pub failed: BTreeMap<&'static str, u64>,
    /// How many took at most the [bound](CALL_BOUNDS) of the same index and more than the one before.
    pub times: [u64; CALL_BOUNDS.len() + 1],
    /// The sum of all times.
    pub total: Duration,
}

impl ApiFigures {
    /// Of each operation that was called.
    pub fn calls(&self) -> BTreeMap<&'static str, CallFigures> {
        self.state(|state| state.calls.clone())
    }

    /// How many watch now, by operation.
    pub fn watches(&self) -> BTreeMap<&'static str, u64> {
        self.state(|state| state.watches.clone())
    }

    fn state<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Counts a call that has ended.
    pub(super) fn count(&self, operation: &'static str, took: Duration, failure: Option<ApiErrorKind>) {
        self.state(|state| {
            let call = state.calls.entry(operation).or_default();
            match failure {
                None => call.done += 1,
                Some(kind) => *call.failed.entry(kind.as_str()).or_default() += 1,
            }
            let bucket = CALL_BOUNDS.partition_point(|bound| *bound < took);
            if let Some(count) = call.times.get_mut(bucket) {
                *count += 1;
            }
            call.total = call.total.saturating_add(took);
        });
    }

    /// Counts a watch for as long as what is returned lives.
    pub(super) fn watch(&self, operation: &'static str) -> Watching {
        self.state(|state| *state.watches.entry(operation).or_default() += 1);
        Watching { figures: self.clone(), operation }
    }
}

impl fmt::Debug for ApiFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiFigures").finish_non_exhaustive()
    }
}

/// One watch.
pub(super) struct Watching {
    figures: ApiFigures,
    operation: &'static str,
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.figures.state(|state| {
            if let Some(count) = state.watches.get_mut(self.operation) {
                *count = count.saturating_sub(1);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn calls_are_counted_by_operation_and_end() {
        let figures = ApiFigures::default();
        figures.count("ping", Duration::from_millis(1), None);
        figures.count("ping", Duration::from_secs(3600), None);
        figures.count("ping", Duration::ZERO, Some(ApiErrorKind::Denied));
        let calls = figures.calls();
        let ping = &calls["ping"];
        assert_eq!((ping.done, ping.failed["denied"], calls.len()), (2, 1, 1));
        assert_eq!(ping.times, [2, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(ping.total, Duration::from_millis(3_600_001));
    }

    #[test]
    fn a_watch_counts_while_it_lives() {
        let figures = ApiFigures::default();
        let (one, other) = (figures.watch("watch_nodes"), figures.watch("watch_nodes"));
        assert_eq!(figures.watches()["watch_nodes"], 2);
        drop((one, other));
        assert_eq!(figures.watches()["watch_nodes"], 0);
    }
}
