//! Session recordings: what is recorded, in which form, and where it is kept.

mod asciicast;
mod content;
mod decoder;
mod encoder;
mod event;
mod filter;
mod index;
mod layout;
mod player;
mod reader;
mod store;
#[cfg(test)]
mod testing;
mod utf8;

use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use self::asciicast::{Asciicast, CastVersion};
pub use self::content::{ContentDigest, PartDigests};
pub use self::decoder::{DecodeError, Decoder};
pub use self::encoder::Encoder;
pub use self::event::{OutputStream, RecordedEvent, SessionEnd};
pub use self::filter::TerminalFilter;
pub use self::index::Index;
pub use self::player::{Pace, Timeline};
pub use self::reader::{Ending, Missing, Reader, Step};
pub use self::store::{
    Completion, Encoding, Form, Listing, MAX_PART_LEN, MAX_PARTS, MAX_STORED_PART_LEN, Place, RecordingError,
    RecordingHold, RecordingInfo, RecordingStore, Rewrite,
};
pub use self::utf8::Utf8;
use crate::clock::Timestamp;
use crate::id::{ClusterName, HostId, NodeName, OsLogin, SessionId, UserName};

/// What a recording is of: its header, and its row in the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "recorders build it")]
pub struct RecordingMeta {
    /// The session.
    pub session: SessionId,
    /// The cluster.
    pub cluster: ClusterName,
    /// The node that recorded it.
    pub host_id: HostId,
    /// Its name.
    pub host_name: NodeName,
    /// The user.
    pub user: UserName,
    /// The login.
    pub login: OsLogin,
    /// When it began.
    pub started: Timestamp,
    /// The command of a session without a shell.
    pub command: Option<String>,
    /// Columns and rows of the terminal at the beginning; `None` without a terminal.
    pub terminal: Option<(u16, u16)>,
}

/// The longest command in a recording's description, in bytes: of longer ones this much, and how much more there was.
const MAX_COMMAND: usize = 16 * 1024;
/// What says how much more there was is not longer, in bytes.
const MAX_MORE: usize = 64;

impl RecordingMeta {
    /// Whether the command is not too long for a description; see [`RecordingMeta::shortened`].
    pub fn is_short(&self) -> bool {
        self.command.as_ref().is_none_or(|command| command.len() <= MAX_COMMAND + MAX_MORE)
    }

    /// With a command that is cut, and says so, if it is too long. Recorders do this first: everybody has to describe a recording
    /// in the same way.
    #[must_use]
    pub fn shortened(mut self) -> Self {
        if !self.is_short()
            && let Some(command) = &mut self.command
        {
            let cut = (0..=MAX_COMMAND).rfind(|at| command.is_char_boundary(*at)).unwrap_or(0);
            let more = format!("… ({} more bytes)", command.len() - cut);
            command.truncate(cut);
            command.push_str(&more);
        }
        self
    }
}

/// Resolves when everything that a [`Recorder`] was told is kept as its mode demands; `false` if it cannot be. Dropping it changes
/// nothing.
pub type Kept = Pin<Box<dyn Future<Output = bool> + Send>>;

/// Resolves when a [`Recorder`] cannot go on, and its session must not either.
pub type Failure = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Takes what happens in a session, on the byte path: its calls never wait, and [`Recorder::kept`] says when the session has to.
///
/// # Contract
/// Calls come in the order of the session. `at` is the time since its beginning. An implementation may lose data only in the way that its
/// mode allows (best effort: with a gap that says so); [`Recorder::failed`] tells a strict session to end.
pub trait Recorder: fmt::Debug + Send + 'static {
    /// Output on its way to the client. Keeping a clone of `data` costs no copy.
    fn output(&mut self, at: Duration, stream: OutputStream, data: &Bytes);

    /// The terminal has a new size.
    fn resize(&mut self, at: Duration, columns: u16, rows: u16);

    /// What is to be awaited before anything is shown that it was told; `None` if nothing is. A recorder makes programs wait by it
    /// that print faster than it records: one that may lose something for a moment, the others until everything is kept.
    fn kept(&self) -> Option<Kept> {
        None
    }

    /// The session is over; nothing follows.
    fn finish(&mut self, at: Duration, end: SessionEnd);

    /// Whether something was lost that must not be lost.
    fn failed(&self) -> bool;

    /// Resolves when [`Recorder::failed`] has become true, for sessions that show nothing just then; `None` if it never does.
    /// Dropping it changes nothing.
    fn failure(&self) -> Option<Failure>;
}

/// A [`Recorder`] that keeps nothing: for sessions that are not recorded.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct NoRecorder;

impl NoRecorder {
    /// Keeps nothing.
    pub const fn new() -> Self {
        Self
    }
}

impl Recorder for NoRecorder {
    fn output(&mut self, _at: Duration, _stream: OutputStream, _data: &Bytes) {}
    fn resize(&mut self, _at: Duration, _columns: u16, _rows: u16) {}
    fn finish(&mut self, _at: Duration, _end: SessionEnd) {}
    fn failed(&self) -> bool {
        false
    }
    fn failure(&self) -> Option<Failure> {
        None
    }
}
