//! How far the index is with each log.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use teleport_core::audit::chain::ChainHead;
use teleport_core::clock::Timestamp;
use teleport_core::storage::Record;
use uuid::Uuid;

use crate::audit::file::Place;

/// How often a service says that it is there.
pub(super) const SEEN_EVERY: Duration = Duration::from_secs(30);
/// After which time of silence it may have logged something that is not in the index.
const SILENT_AFTER: Duration = Duration::from_secs(90);
/// After which time it is not waited for any more.
const GONE_AFTER: Duration = Duration::from_secs(7 * 86_400);

/// How far the index is with a log. Written with the blocks, in one commit: what is before [`Indexed::place`] is in the index, once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Indexed {
    pub(super) log: Uuid,
    /// Behind the last line that is in the index, in the files of its service.
    pub(super) place: Place,
    /// The last entry before.
    pub(super) head: Option<ChainHead>,
    /// When its service was last heard of, to [`SEEN_EVERY`].
    pub(super) seen: Timestamp,
    /// Whether more was in the files then.
    pub(super) behind: bool,
    /// Whether its service ended in good order: everything is in the index.
    pub(super) closed: bool,
}

impl Record for Indexed {
    const COLLECTION: &'static str = "audit/index/logs";

    fn key(&self) -> String {
        self.log.to_string()
    }
}

impl Indexed {
    /// Why events of another service may be missing.
    pub(super) fn doubt(&self, now: Timestamp) -> Option<String> {
        let silence = now.saturating_since(self.seen);
        if self.closed || silence > GONE_AFTER {
            None
        } else if silence > SILENT_AFTER {
            Some(format!(
                "nothing was heard since {} of the auth service with the log {}: what it logged last may be in its files only",
                self.seen, self.log
            ))
        } else if self.behind {
            Some(format!(
                "the auth service with the log {} is still adding older events to the index",
                self.log
            ))
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_silent_or_behind_is_told_of() {
        let now = Timestamp::from_unix_secs(1_800_000_000);
        let record = |ago, behind, closed| Indexed {
            log: Uuid::nil(),
            place: Place::default(),
            head: None,
            seen: now.saturating_sub(Duration::from_secs(ago)),
            behind,
            closed,
        };
        assert_eq!(record(0, false, false).doubt(now), None);
        assert_eq!(record(90, false, false).doubt(now), None);
        assert!(record(0, true, false).doubt(now).is_some_and(|text| text.contains("still adding")));
        assert!(record(91, false, false).doubt(now).is_some_and(|text| text.contains("nothing was heard")));
        assert_eq!(record(86_400, true, true).doubt(now), None, "it ended in good order");
        assert_eq!(record(8 * 86_400, true, false).doubt(now), None, "it is not waited for any more");
        // A clock that is ahead is no silence.
        assert_eq!(Indexed { seen: Timestamp::MAX, ..record(0, false, false) }.doubt(now), None);
    }
}
