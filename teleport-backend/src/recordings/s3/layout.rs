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
        match user {
            None => self.path("index/all"),
            Some(user) => self.path(format_args!("index/user/{user}")),
        }
    }

    pub(super) fn marker(&self, user: Option<&UserName>, meta: &RecordingMeta) -> Path {
        let name = name(Place { started: meta.started, session: meta.session });
        Path::from(format!("{}/{name}", self.index(user)))
    }

    /// After this name comes what is listed after `place`.
    pub(super) fn after(&self, user: Option<&UserName>, place: Place) -> Path {
        Path::from(format!("{}/{}", self.index(user), name(place)))
    }

    /// After this name comes what began before `time`.
    pub(super) fn before(&self, user: Option<&UserName>, time: Timestamp) -> Path {
        // Behind all ids, whose digits are less than a letter `z`.
        Path::from(format!("{}/{}-z", self.index(user), backwards(time)))
    }
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
