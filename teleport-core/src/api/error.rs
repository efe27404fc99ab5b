//! Errors with two texts: one for the peer, one for the log.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::lock::Locked;

/// What the caller can do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ApiErrorKind {
    /// It exists already, or was changed meanwhile.
    Conflict,
    /// The caller may not do this, or a credential was refused. Which of them, and why, is in the audit log.
    Denied,
    /// The calling host was removed from the cluster. Nothing is done for it any more; asking again is useless.
    Evicted,
    /// A defect of the service.
    Internal,
    /// The request has a form or content that cannot be.
    Invalid,
    /// There is no such thing, or the caller may not know of it.
    NotFound,
    /// Too many requests; later.
    TooMany,
    /// The service, or something it needs, cannot be reached now.
    Unavailable,
}

impl ApiErrorKind {
    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Conflict => "conflict",
            Self::Denied => "denied",
            Self::Evicted => "evicted",
            Self::Internal => "internal",
            Self::Invalid => "invalid",
            Self::NotFound => "not_found",
            Self::TooMany => "too_many",
            Self::Unavailable => "unavailable",
        }
    }
}

/// Why a call failed. `Display` is the public text; `source` is for the log and never sent.
pub struct ApiError {
    kind: ApiErrorKind,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl ApiError {
    /// An error with a public text.
    pub fn new(kind: ApiErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// Denied, without a reason.
    pub fn denied() -> Self {
        Self::new(ApiErrorKind::Denied, "access denied")
    }

    /// The calling host was removed from the cluster. Says what its operator can do.
    pub fn evicted() -> Self {
        Self::new(
            ApiErrorKind::Evicted,
            "this host was removed from the cluster by an administrator; \
             join again with a new token and a new data directory",
        )
    }

    /// Denied, because the caller is locked. Says so: whoever is told has proved to be the one who is meant.
    pub fn locked(locked: &Locked) -> Self {
        let told = Self::new(ApiErrorKind::Denied, locked.public());
        // What is told in full needs no reason beside it.
        if matches!(locked, Locked::InForce { .. }) { told } else { told.because(locked.clone()) }
    }

    /// Invalid, with the reason.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ApiErrorKind::Invalid, message)
    }

    /// No such thing.
    pub fn not_found(what: impl fmt::Display) -> Self {
        Self::new(ApiErrorKind::NotFound, format!("{what} not found"))
    }

    /// Not available now.
    pub fn unavailable(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::new(ApiErrorKind::Unavailable, "the auth service is not available").because(source)
    }

    /// A defect.
    pub fn internal(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::new(ApiErrorKind::Internal, "the auth service failed").because(source)
    }

    /// Adds the internal reason.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What can be done about it.
    pub const fn kind(&self) -> ApiErrorKind {
        self.kind
    }

    /// The public text.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("ApiError");
        debug.field("kind", &self.kind).field("message", &self.message);
        if let Some(source) = &self.source {
            debug.field("source", source);
        }
        debug.finish()
    }
}

impl std::error::Error for ApiError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

impl From<crate::storage::StorageError> for ApiError {
    fn from(error: crate::storage::StorageError) -> Self {
        if error.is_conflict() {
            Self::new(ApiErrorKind::Conflict, "changed by somebody else meanwhile; try again").because(error)
        } else {
            Self::new(ApiErrorKind::Unavailable, "the auth service cannot use its storage").because(error)
        }
    }
}

impl From<crate::storage::RepoError> for ApiError {
    fn from(error: crate::storage::RepoError) -> Self {
        if error.is_conflict() {
            Self::new(ApiErrorKind::Conflict, "changed by somebody else meanwhile; try again").because(error)
        } else {
            Self::new(ApiErrorKind::Unavailable, "the auth service cannot use its storage").because(error)
        }
    }
}

impl From<crate::audit::AuditError> for ApiError {
    fn from(error: crate::audit::AuditError) -> Self {
        match error {
            crate::audit::AuditError::Invalid { ref source } => {
                Self::invalid(source.to_string()).because(error)
            }
            // Whoever waits for it has to know where to look: nothing is wrong with what was asked, or with the way there.
            error => Self::new(ApiErrorKind::Unavailable, "the auth service cannot use its audit log")
                .because(error),
        }
    }
}

impl From<crate::cert::IssueError> for ApiError {
    fn from(error: crate::cert::IssueError) -> Self {
        match error {
            crate::cert::IssueError::Refused { reason } => Self::invalid(reason),
            error @ crate::cert::IssueError::Unavailable { .. } => Self::unavailable(error),
        }
    }
}

impl From<crate::entropy::EntropyError> for ApiError {
    fn from(error: crate::entropy::EntropyError) -> Self {
        Self::unavailable(error)
    }
}
