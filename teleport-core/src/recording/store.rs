//! The port of the stores: where recordings are kept.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{PartDigests, RecordingMeta};
use crate::clock::Timestamp;
use crate::id::{SessionId, UserName};

/// The longest part of an upload, in bytes.
pub const MAX_PART_LEN: usize = 1 << 20;
/// The longest part that stores take: stores that wrap others add to it, as encryption does.
pub const MAX_STORED_PART_LEN: usize = MAX_PART_LEN + (16 << 10);
/// The most parts of one recording.
pub const MAX_PARTS: u32 = 1_000_000;

/// In which form the parts of a recording are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Encoding {
    /// As they came.
    #[default]
    Plain,
    /// Each part is a file in the `age` format.
    Age,
}

impl Encoding {
    const fn is_plain(&self) -> bool {
        matches!(self, Self::Plain)
    }
}

/// In which form a recording is stored, and the proof of who said so. A store keeps both as they came.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "what wraps a store builds it")]
pub struct Form {
    /// The form.
    pub encoding: Encoding,
    /// What whoever encrypts has sealed of the form and the description, as text. Without it anybody who writes to the store
    /// could have said it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seal: Option<String>,
}

impl Form {
    /// As the parts come, and nobody has sealed that.
    pub const PLAIN: Self = Self { encoding: Encoding::Plain, seal: None };
}

/// How a recording ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "who completes a recording builds it")]
pub struct Completion {
    /// How many parts it has.
    pub parts: u32,
    /// When the last one had arrived.
    pub at: Timestamp,
    /// Whether its node was not heard of any more, so that its end is missing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub abandoned: bool,
    /// Who took part beside the user who began it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub participants: Vec<UserName>,
    /// What whoever encrypts has sealed of the two above, as text; a store keeps it as it came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seal: Option<String>,
}

impl Completion {
    /// That of an upload that came to its end.
    pub const fn new(parts: u32, at: Timestamp) -> Self {
        Self { parts, at, abandoned: false, participants: Vec::new(), seal: None }
    }
}

/// A recording in the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "stores build it")]
pub struct RecordingInfo {
    /// What it is of.
    pub meta: RecordingMeta,
    /// When the last part had arrived; `None` while parts are awaited.
    pub completed: Option<Timestamp>,
    /// Bytes that it occupies in the store so far.
    pub len: u64,
    /// In which form.
    #[serde(default, skip_serializing_if = "Encoding::is_plain")]
    pub encoding: Encoding,
    /// The [`Form::seal`] beside it: for what wraps the store, and not told to clients.
    #[serde(skip)]
    pub seal: Option<String>,
    /// The [`Completion::seal`] in the same way.
    #[serde(skip)]
    pub completion_seal: Option<String>,
    /// Whether its node was not heard of any more before the end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub abandoned: bool,
    /// Who took part beside the user who began it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub participants: Vec<UserName>,
    /// Why it must not be deleted. Not known to stores, but to the auth service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<RecordingHold>,
}

impl RecordingInfo {
    /// For stores.
    pub fn new(meta: RecordingMeta, form: Form, len: u64, completion: Option<Completion>) -> Self {
        let Form { encoding, seal } = form;
        let (completed, abandoned, participants, completion_seal) = match completion {
            Some(Completion { at, abandoned, participants, seal, .. }) => {
                (Some(at), abandoned, participants, seal)
            }
            None => (None, false, Vec::new(), None),
        };
        let hold = None;
        Self { meta, completed, len, encoding, seal, completion_seal, abandoned, participants, hold }
    }

    /// Whether a user took part in the session.
    pub fn has_participant(&self, user: &UserName) -> bool {
        self.meta.user == *user || self.participants.contains(user)
    }

    /// Where it stands in the list.
    pub const fn place(&self) -> Place {
        Place { started: self.meta.started, session: self.meta.session }
    }
}

/// That a recording must not be deleted, whatever its age.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "the auth service builds it")]
pub struct RecordingHold {
    /// Who said so.
    pub by: String,
    /// When.
    pub since: Timestamp,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A place in the list of recordings: newest first, those of one millisecond by their id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "who pages through the list builds it")]
pub struct Place {
    /// When the recording there began.
    pub started: Timestamp,
    /// Its session.
    pub session: SessionId,
}

impl Ord for Place {
    /// What is listed first is less.
    fn cmp(&self, other: &Self) -> Ordering {
        other.started.cmp(&self.started).then_with(|| self.session.cmp(&other.session))
    }
}

impl PartialOrd for Place {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Which recordings to list.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "who lists builds it")]
pub struct Listing {
    /// In which this user took part.
    pub user: Option<UserName>,
    /// Began not before.
    pub from: Timestamp,
    /// Began before.
    pub to: Timestamp,
    /// Only what is listed after this place.
    pub after: Option<Place>,
    /// At most so many.
    pub limit: usize,
}

impl Listing {
    /// Those that began in `from..to`, of all users.
    pub const fn span(from: Timestamp, to: Timestamp, limit: usize) -> Self {
        Self { user: None, from, to, after: None, limit }
    }

    /// The same of one user.
    #[must_use]
    pub fn of(self, user: &UserName) -> Self {
        Self { user: Some(user.clone()), ..self }
    }

    /// The next ones.
    #[must_use]
    pub fn after(self, place: Place) -> Self {
        Self { after: Some(place), ..self }
    }

    /// Whether a recording that stands at `place` is asked for, whoever took part.
    pub fn covers(&self, place: Place) -> bool {
        (self.from..self.to).contains(&place.started) && self.after.is_none_or(|after| place > after)
    }
}

/// Gives other bytes for the bytes of a part.
pub type Rewrite = Arc<dyn Fn(u32, Bytes) -> Result<Bytes, RecordingError> + Send + Sync>;

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
    /// It is encrypted, and no identity is here that opens it; or no recipient is known for whom to encrypt the rest of it.
    #[error(
        "the recording is encrypted, and the auth service has no key for it: see auth_service.session_recording_encryption"
    )]
    Encrypted,
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
/// immutable and needs every part; of two that complete it differently one has a conflict. One that is abandoned may have parts
/// behind a gap: they are dropped. Reading a recording that is not
/// complete gives the parts that are there without a gap. A deleted recording is as one that never was.
#[async_trait]
pub trait RecordingStore: fmt::Debug + Send + Sync + 'static {
    /// Begins a recording; beginning it again with the same description is allowed and leaves its form as it is.
    ///
    /// # Errors
    /// [`RecordingError::Conflict`] if another one has this session id.
    async fn create(&self, meta: &RecordingMeta, form: &Form) -> Result<(), RecordingError>;

    /// Stores part `number`, at most [`MAX_PART_LEN`] bytes; what wraps a store may give [`MAX_STORED_PART_LEN`].
    ///
    /// # Errors
    /// [`RecordingError`].
    async fn put_part(&self, session: SessionId, number: u32, part: Bytes) -> Result<(), RecordingError>;

    /// One part as it was put, also behind a gap; `None` if it is not there.
    ///
    /// # Errors
    /// [`RecordingError`].
    async fn part(&self, session: SessionId, number: u32) -> Result<Option<Bytes>, RecordingError>;

    /// How many parts are stored without a gap: where an interrupted upload goes on.
    ///
    /// # Errors
    /// [`RecordingError::NotFound`], [`RecordingError::Unavailable`].
    async fn parts(&self, session: SessionId) -> Result<u32, RecordingError>;

    /// The lengths of these parts.
    ///
    /// # Errors
    /// [`RecordingError::NotFound`], [`RecordingError::Unavailable`].
    async fn lengths(&self, session: SessionId) -> Result<Vec<u32>, RecordingError>;

    /// Ends a recording, and lists it for all who took part. Doing it again with the same number of parts changes nothing.
    ///
    /// # Errors
    /// [`RecordingError::Conflict`] if a part is missing.
    async fn complete(&self, session: SessionId, completion: &Completion) -> Result<(), RecordingError>;

    /// What is known of one recording.
    ///
    /// # Errors
    /// [`RecordingError::NotFound`], [`RecordingError::Unavailable`].
    async fn info(&self, session: SessionId) -> Result<RecordingInfo, RecordingError>;

    /// Up to `len` bytes from `offset`, perhaps fewer; empty at the end.
    ///
    /// # Errors
    /// [`RecordingError::NotFound`], [`RecordingError::Unavailable`].
    async fn read(&self, session: SessionId, offset: u64, len: usize) -> Result<Bytes, RecordingError>;

    /// Recordings, newest first. The work grows with what is listed and passed over on the way to it: of one user, with the
    /// user's own recordings and not with those of others, because every user may ask.
    ///
    /// # Errors
    /// [`RecordingError::Unavailable`].
    async fn list(&self, listing: &Listing) -> Result<Vec<RecordingInfo>, RecordingError>;

    /// Removes a recording, complete or not, at once for everybody who asks for it. Removing what is not there changes
    /// nothing: a removal that was interrupted is finished by doing it again.
    ///
    /// # Errors
    /// [`RecordingError::Unavailable`].
    async fn delete(&self, session: SessionId) -> Result<(), RecordingError>;

    /// The digests of the parts' content, if the store encrypts it; `None` if what it keeps is the content.
    ///
    /// # Errors
    /// [`RecordingError::NotFound`], [`RecordingError::Unavailable`], also if a part is not what was handed in. A store that cannot
    /// decrypt knows them all the same.
    async fn part_digests(&self, session: SessionId) -> Result<Option<PartDigests>, RecordingError>;

    /// Replaces the parts of a complete recording by others of the same length, as new recipients of its encryption need it.
    /// If it is interrupted, each part is the old one or the new one.
    ///
    /// # Errors
    /// [`RecordingError::Conflict`] if the recording is not complete or a length changes; those of `change`.
    async fn rewrite(&self, session: SessionId, change: Rewrite) -> Result<(), RecordingError>;

    /// Makes a complete recording that is encrypted readable for those of today, and only those; `false` if there was nothing to
    /// change.
    ///
    /// # Errors
    /// [`RecordingError::Encrypted`] if it cannot be read here.
    async fn rewrap(&self, session: SessionId) -> Result<bool, RecordingError>;
}
