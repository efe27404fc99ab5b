//! What can go wrong with PostgreSQL, by what the caller can do.

use std::time::Duration;

use teleport_core::storage::StorageError;
use tokio_postgres::error::SqlState;

use crate::shared::closed::Closed;
use crate::shared::described::describe;

type Source = Box<dyn std::error::Error + Send + Sync>;

/// Why PostgreSQL did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PostgresError {
    /// No server could be reached in time.
    #[error("PostgreSQL cannot be reached at {servers}: {reason}")]
    Unreachable {
        /// The servers that were tried.
        servers: String,
        /// What the last one did.
        reason: String,
    },
    /// There was no answer in time; nothing was written.
    #[error("PostgreSQL did not answer within {} s", timeout.as_secs())]
    Timeout {
        /// How long was waited.
        timeout: Duration,
    },
    /// A commit was sent, and there is no answer. It is not repeated: it may have been done.
    #[error("the answer of PostgreSQL was lost: whether the write was done is not known")]
    UnknownOutcome {
        /// What happened to the answer.
        source: Source,
    },
    /// The user is not let in.
    #[error("PostgreSQL refuses the user: {reason}")]
    Credentials {
        /// What the server said.
        reason: String,
    },
    /// The server does not take writes.
    #[error("the database is read-only: {reason}")]
    ReadOnly {
        /// What the server said.
        reason: String,
    },
    /// The server refused for another reason.
    #[error("PostgreSQL refused: {reason}")]
    Refused {
        /// What the server said.
        reason: String,
        /// Whether it may do it later.
        is_passing: bool,
    },
    /// The server is too old.
    #[error("the server is PostgreSQL {version}; 13 or newer is needed")]
    TooOld {
        /// Its version.
        version: i32,
    },
    /// The schema is of a newer version of this program, or of something else.
    #[error("the schema {schema} {reason}")]
    Foreign {
        /// The schema.
        schema: String,
        /// What is wrong with it.
        reason: String,
    },
    /// What is stored is not what was written there.
    #[error("the stored item {key:?} is damaged")]
    Damaged {
        /// The item's key.
        key: String,
    },
    /// The file with the password cannot be read.
    #[error("the password of the user cannot be read")]
    Password {
        /// Why.
        source: Source,
    },
}

impl PostgresError {
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Timeout { .. } | Self::UnknownOutcome { .. } => true,
            Self::Refused { is_passing, .. } => *is_passing,
            _ => false,
        }
    }
}

impl From<PostgresError> for StorageError {
    fn from(error: PostgresError) -> Self {
        if error.is_passing() { Self::unavailable(error) } else { Self::driver(error) }
    }
}

/// Why a statement failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Closed(#[from] Closed),
    /// The connection is of no use any more.
    #[error("the connection was lost")]
    Lost { source: Source },
    #[error(transparent)]
    Postgres(#[from] PostgresError),
}

impl Failure {
    pub(super) fn lost(reason: impl Into<Source>) -> Self {
        Self::Lost { source: reason.into() }
    }
}

impl From<Failure> for StorageError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Closed(closed) => closed.into(),
            Failure::Postgres(error) => error.into(),
            lost @ Failure::Lost { .. } => Self::unavailable(lost),
        }
    }
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(said) = error.as_db_error() else { return not_said(error) };
        let reason = format!("{} ({})", said.message(), said.code().code());
        // The classes of the codes, by their first two characters: https://www.postgresql.org/docs/current/errcodes-appendix.html
        let class = said.code().code().get(..2).unwrap_or_default();
        let code = said.code();
        Self::Postgres(if *code == SqlState::READ_ONLY_SQL_TRANSACTION {
            PostgresError::ReadOnly { reason }
        } else if class == "28"
            || *code == SqlState::INSUFFICIENT_PRIVILEGE
            || *code == SqlState::INVALID_CATALOG_NAME
        {
            PostgresError::Credentials { reason }
        } else {
            // Connections, conflicts of transactions, resources (a full disk), locks, operators' interventions, the system.
            let is_passing = ["08", "40", "53", "55", "57", "58"].contains(&class);
            // The server closes what it says so on.
            if matches!(
                *code,
                SqlState::ADMIN_SHUTDOWN
                    | SqlState::CRASH_SHUTDOWN
                    | SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT
            ) {
                return Self::lost(error);
            }
            PostgresError::Refused { reason, is_passing }
        })
    }
}

/// What is wrong without the server having said so.
fn not_said(error: tokio_postgres::Error) -> Failure {
    let is_of_the_network = std::iter::successors(std::error::Error::source(&error), |error| error.source())
        .any(|source| source.is::<std::io::Error>());
    if error.is_closed() || is_of_the_network {
        return Failure::lost(error);
    }
    let reason = describe(&error);
    // The library tells only by its text that the server asks for what we do not have.
    Failure::Postgres(if reason.contains("password missing") {
        PostgresError::Credentials { reason: "it asks for a password, and none is configured".to_owned() }
    } else {
        PostgresError::Refused { reason, is_passing: false }
    })
}
