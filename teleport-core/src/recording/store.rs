//! The port of the stores: where recordings are kept.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::RecordingMeta;
use crate::clock::Timestamp;
use crate::id::{SessionId, UserName};

/// The longest part of an upload, in bytes.
pub const MAX_PART_LEN: usize = 1 << 20;
/// The most parts of one recording.
pub const MAX_PARTS: u32 = 1_000_000;

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
