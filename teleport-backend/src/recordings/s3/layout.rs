//! The names of the objects.

use object_store::path::Path;
use teleport_core::clock::Timestamp;
use teleport_core::id::{SessionId, UserName};
use teleport_core::recording::{MAX_PARTS, Place, RecordingMeta};

/// Later than every time: 15 digits.
const FAR: u64 = 999_999_999_999_999;

pub(super) const META: &str = "meta.json";
pub(super) const COMPLETE: &str = "complete.json";
pub(super) const DELETED: &str = "deleted";

/// The names below one prefix.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    prefix: String,
}

impl Layout {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: if prefix.is_empty() { String::new() } else { format!("{prefix}/") } }
    }

    fn path(&self, rest: impl std::fmt::Display) -> Path {
        Path::from(format!("{}{rest}", self.prefix))
    }

    /// What all objects of a recording are below.
    pub(super) fn session(&self, session: SessionId) -> Path {
        self.path(format_args!("sessions/{session}"))
    }

    pub(super) fn document(&self, session: SessionId, name: &str) -> Path {
        self.path(format_args!("sessions/{session}/{name}"))
    }

    pub(super) fn part(&self, session: SessionId, number: u32) -> Path {
        self.path(format_args!("sessions/{session}/part-{number:08}"))
    }

    /// The number of the part that has this name.
    pub(super) fn part_number(name: &str) -> Option<u32> {
        name.strip_prefix("part-")?.parse().ok().filter(|number| *number < MAX_PARTS)
    }

    /// The list of all recordings, or of one user's.
    pub(super) fn index(&self, user: Option<&UserName>) -> Path {
        self.path(index(user))
    }

    /// A name in a list. Not made of [`Layout::index`]: in a path of this kind the prefix is encoded already, and would be once more.
    fn listed(&self, user: Option<&UserName>, name: impl std::fmt::Display) -> Path {
        self.path(format_args!("{}/{name}", index(user)))
    }

    pub(super) fn marker(&self, user: Option<&UserName>, meta: &RecordingMeta) -> Path {
        self.listed(user, name(Place { started: meta.started, session: meta.session }))
    }

    /// After this name comes what is listed after `place`.
    pub(super) fn after(&self, user: Option<&UserName>, place: Place) -> Path {
        self.listed(user, name(place))
    }

    /// After this name comes what began before `time`.
    pub(super) fn before(&self, user: Option<&UserName>, time: Timestamp) -> Path {
        // Behind all ids, whose digits are less than a letter `z`.
        self.listed(user, format_args!("{}-z", backwards(time)))
    }
}

fn index(user: Option<&UserName>) -> String {
    user.map_or_else(|| "index/all".to_owned(), |user| format!("index/user/{user}"))
}

/// Such that names sort like the list, newest first: object storages list forwards only.
fn name(place: Place) -> String {
    format!("{}-{}", backwards(place.started), place.session)
}

fn backwards(time: Timestamp) -> String {
    format!("{:015}", FAR.saturating_sub(time.unix_millis()))
}

/// The place that the name of a marker says.
pub(super) fn place(marker: &str) -> Option<Place> {
    let (backwards, session) = marker.split_once('-')?;
    let millis = FAR.checked_sub(backwards.parse().ok()?)?;
    Some(Place { started: Timestamp::from_unix_millis(millis), session: session.parse().ok()? })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use teleport_core::testing::recording_meta;

    use super::*;

    /// What is listed is below the list, whatever characters the prefix has.
    #[test]
    fn markers_are_below_the_list_that_is_asked_for() {
        let meta = recording_meta();
        let place = Place { started: meta.started, session: meta.session };
        for prefix in ["", "some/prefix", "team~a", "100%", "a b", "#[x]", "{y}^|*<", "größe/日本"] {
            let layout = Layout::new(prefix);
            for user in [None, Some(&meta.user)] {
                let index = layout.index(user);
                let marker = layout.marker(user, &meta);
                assert!(marker.prefix_matches(&index), "{prefix:?}: {marker} is not below {index}");
                assert_eq!(marker.filename().and_then(super::place), Some(place), "{prefix:?}");
                assert_eq!(layout.after(user, place), marker);
                assert!(layout.before(user, meta.started) > marker, "{prefix:?}");
                assert!(layout.before(user, meta.started).prefix_matches(&index), "{prefix:?}");
            }
        }
    }
}
