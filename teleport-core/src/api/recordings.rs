//! Recordings: their making, their reading, and which of them stay.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;

#[cfg(doc)]
use super::ApiErrorKind;
use super::{ApiResult, RecordingQuery};
use crate::id::SessionId;
use crate::recording::{RecordingInfo, RecordingMeta};

/// Recordings, for the nodes that make them and the users who see them.
#[async_trait]
pub trait RecordingApi: fmt::Debug + Send + Sync + 'static {
    /// Begins a recording of the calling node.
    ///
    /// # Errors
    /// [`ApiErrorKind::Denied`] for another host's session.
    async fn create_recording(&self, meta: RecordingMeta) -> ApiResult<()>;

    /// Stores a part.
    ///
    /// # Errors
    /// [`ApiErrorKind::Denied`] for another host's session.
    async fn put_recording_part(&self, session: SessionId, number: u32, part: Bytes) -> ApiResult<()>;

    /// Stores what follows `position` of a recording whose part there is not whole yet: durable once this is answered. What is
    /// streamed is kept apart until its part is handed in as a whole, and is a part of the recording if that never happens.
    ///
    /// # Errors
    /// [`ApiErrorKind::Denied`] for another host's session, [`ApiErrorKind::Conflict`] if it does not follow what is there, or
    /// other bytes are.
    async fn stream_recording(&self, session: SessionId, position: u64, bytes: Bytes) -> ApiResult<()>;

    /// How many parts are stored: where an interrupted upload goes on.
    ///
    /// # Errors
    /// [`ApiErrorKind::NotFound`], [`ApiErrorKind::Denied`].
    async fn recording_parts(&self, session: SessionId) -> ApiResult<u32>;

    /// Ends a recording.
    ///
    /// # Errors
    /// [`ApiErrorKind::Denied`], [`ApiErrorKind::Conflict`] if a part is missing.
    async fn complete_recording(&self, session: SessionId, parts: u32) -> ApiResult<()>;

    /// Recordings that the caller may see: the own sessions, or all with the right to read sessions. Newest first.
    ///
    /// # Errors
    /// [`ApiErrorKind::Denied`] for hosts.
    async fn recordings(&self, query: RecordingQuery) -> ApiResult<Vec<RecordingInfo>>;

    /// What is known of one recording.
    ///
    /// # Errors
    /// [`ApiErrorKind::NotFound`], also for recordings that the caller may not see.
    async fn recording(&self, session: SessionId) -> ApiResult<RecordingInfo>;

    /// Bytes of a recording from `offset`, at most a few MiB; empty at the end. Reading from 0 is audited.
    ///
    /// # Errors
    /// [`ApiErrorKind::NotFound`], also for recordings that the caller may not see.
    async fn read_recording(&self, session: SessionId, offset: u64) -> ApiResult<Bytes>;
}

/// Which recordings stay and which go. Users need a rule for it, also for their own sessions: who could delete what was
/// recorded of them would not be recorded.
#[async_trait]
pub trait RetentionApi: fmt::Debug + Send + Sync + 'static {
    /// Keeps a recording from being deleted, by whomever, until it is released; a hold that is there already stays. Needs
    /// `update` on sessions.
    ///
    /// # Errors
    /// [`ApiErrorKind::NotFound`], also for recordings that the caller may not see; [`ApiErrorKind::Denied`];
    /// [`ApiErrorKind::Conflict`] if it is being deleted.
    async fn hold_recording(&self, session: SessionId, reason: Option<String>) -> ApiResult<RecordingInfo>;

    /// Ends that. Needs `update` on sessions.
    ///
    /// # Errors
    /// As [`RetentionApi::hold_recording`]; [`ApiErrorKind::Conflict`] if it is not held.
    async fn release_recording(&self, session: SessionId, reason: Option<String>) -> ApiResult<()>;

    /// Deletes a recording for good. Needs `delete` on sessions.
    ///
    /// # Errors
    /// As [`RetentionApi::hold_recording`]; [`ApiErrorKind::Conflict`] if it is held or not complete.
    async fn delete_recording(&self, session: SessionId, reason: Option<String>) -> ApiResult<()>;

    /// Makes an encrypted recording readable for the recipients of today and for nobody else; `false` if it was so. Needs
    /// `update` on sessions.
    ///
    /// # Errors
    /// As [`RetentionApi::hold_recording`]; [`ApiErrorKind::Conflict`] if the auth service cannot read it.
    async fn rewrap_recording(&self, session: SessionId) -> ApiResult<bool>;
}
