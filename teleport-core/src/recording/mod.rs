//! Session recordings: what is recorded, in which form, and where it is kept.

mod asciicast;
mod codec;
mod event;
mod player;

use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use self::asciicast::Asciicast;
pub use self::codec::{DecodeError, Decoder, Encoder};
pub use self::event::{OutputStream, RecordedEvent, SessionEnd};
pub use self::player::{Pace, Timeline};
use crate::clock::Timestamp;
use crate::id::{ClusterName, HostId, NodeName, OsLogin, SessionId, UserName};

/// The longest part of an upload, in bytes.
pub const MAX_PART_LEN: usize = 1 << 20;
/// The most parts of one recording.
pub const MAX_PARTS: u32 = 1_000_000;

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

/// A recording in the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "stores build it")]
pub struct RecordingInfo {
    /// What it is of.
    pub meta: RecordingMeta,
    /// When the last part had arrived; `None` while parts are awaited.
    pub completed: Option<Timestamp>,
    /// Bytes stored so far.
    pub len: u64,
    /// Whether its node was not heard of any more before the end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub abandoned: bool,
}

/// Resolves when everything that a [`Recorder`] was told is kept as its mode demands; `false` if it cannot be. Dropping it changes
/// nothing.
pub type Kept = Pin<Box<dyn Future<Output = bool> + Send>>;

/// Takes what happens in a session, on the byte path: it never waits for storage.
///
/// # Contract
/// Calls come in the order of the session. `at` is the time since its beginning. An implementation may lose data only in the way that its
/// mode allows (best effort: with a gap that says so); [`Recorder::failed`] tells a strict session to end.
pub trait Recorder: fmt::Debug + Send + 'static {
    /// Output on its way to the client. Keeping a clone of `data` costs no copy.
    fn output(&mut self, at: Duration, stream: OutputStream, data: &Bytes);

    /// The terminal has a new size.
    fn resize(&mut self, at: Duration, columns: u16, rows: u16);

    /// What is to be awaited before anything is shown that it was told; `None` if nothing is. A recorder that may not lose
    /// anything makes programs wait by it.
    fn kept(&self) -> Option<Kept> {
        None
    }

    /// The session is over; nothing follows.
    fn finish(&mut self, at: Duration, end: SessionEnd);

    /// Whether something was lost that must not be lost.
    fn failed(&self) -> bool;
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
}

/// Why a store of recordings failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordingError {
    /// It exists already, is complete, or the parts do not fit together.
    #[error("the recording is not in the expected state: {reason}")]
    Conflict {
        /// What is wrong.
        reason: &'static str,
    },
    /// There is no such recording.
    #[error("there is no such recording")]
    NotFound,
    /// The store cannot be used now.
    #[error("the store of recordings is not available")]
    Unavailable {
        /// The reason.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl RecordingError {
    /// For implementors.
    pub fn unavailable(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Unavailable { source: source.into() }
    }
}

/// Where recordings are kept.
///
/// # Contract
/// A recording is the concatenation of its parts, numbered from 0. `put_part` is idempotent: the same part with the same
/// bytes may be sent again, other bytes are a conflict. What was acknowledged is durable. `complete` makes the recording
/// immutable and needs every part. Reading a recording that is not complete gives the parts that are there without a gap.
#[async_trait]
pub trait RecordingStore: fmt::Debug + Send + Sync + 'static {
    /// Begins a recording; beginning it again with the same description is allowed.
    ///
    /// # Errors
    /// [`RecordingError::Conflict`] if another one has this session id.
    async fn create(&self, meta: &RecordingMeta) -> Result<(), RecordingError>;

    /// Stores part `number`, at most [`MAX_PART_LEN`] bytes.
    ///
    /// # Errors
    /// [`RecordingError`].
    async fn put_part(&self, session: SessionId, number: u32, part: Bytes) -> Result<(), RecordingError>;

    /// How many parts are stored without a gap: where an interrupted upload goes on.
    ///
    /// # Errors
    /// [`RecordingError::NotFound`], [`RecordingError::Unavailable`].
    async fn parts(&self, session: SessionId) -> Result<u32, RecordingError>;

    /// Ends a recording of `parts` parts.
    ///
    /// # Errors
    /// [`RecordingError::Conflict`] if a part is missing.
    async fn complete(&self, session: SessionId, parts: u32, at: Timestamp) -> Result<(), RecordingError>;

    /// What is known of one recording.
    ///
    /// # Errors
    /// [`RecordingError::NotFound`], [`RecordingError::Unavailable`].
    async fn info(&self, session: SessionId) -> Result<RecordingInfo, RecordingError>;

    /// Up to `len` bytes from `offset`; empty at the end.
    ///
    /// # Errors
    /// [`RecordingError::NotFound`], [`RecordingError::Unavailable`].
    async fn read(&self, session: SessionId, offset: u64, len: usize) -> Result<Bytes, RecordingError>;

    /// Recordings that began in `from..to`, newest first, at most `limit`.
    ///
    /// # Errors
    /// [`RecordingError::Unavailable`].
    async fn list(
        &self,
        from: Timestamp,
        to: Timestamp,
        limit: usize,
    ) -> Result<Vec<RecordingInfo>, RecordingError>;

    /// The same for the recordings of one user. The work grows with the user's own recordings and not with those of others:
    /// every user may ask.
    ///
    /// # Errors
    /// [`RecordingError::Unavailable`].
    async fn list_of(
        &self,
        user: &UserName,
        from: Timestamp,
        to: Timestamp,
        limit: usize,
    ) -> Result<Vec<RecordingInfo>, RecordingError>;
}
