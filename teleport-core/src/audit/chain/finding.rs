//! What is found out about a log.

use std::fmt;

use serde::Serialize;
use uuid::Uuid;

use super::{ChainHead, Entry};
use crate::clock::Timestamp;

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Flaw {
    /// The log does not begin at its beginning, and no entry says that retention removed what was before.
    #[error(
        "the log begins with entry {index}; nothing in it says that what was before was removed by retention"
    )]
    Beginning {
        /// Where it begins.
        index: u64,
    },
    /// Its digest does not fit: it was changed, or it belongs to another log.
    #[error("the entry is not the one that was written: it was changed, or it is of another log")]
    Changed,
    /// An entry says it is a checkpoint and does not have the form of one.
    #[error("the entry says that it is a checkpoint and does not have the form of one")]
    CheckpointForm,
    /// A checkpoint does not name the digest before it.
    #[error("the checkpoint is about other entries than those before it")]
    CheckpointHead,
    /// A checkpoint was signed with a key that is not trusted.
    #[error("the checkpoint is signed with the key {key}, which is not one of this cluster's log")]
    CheckpointKey {
        /// The key that it names.
        key: String,
    },
    /// A checkpoint of another cluster or another log.
    #[error("the checkpoint is of another log: {log} of cluster {cluster:?}")]
    CheckpointLog {
        /// The log.
        log: Uuid,
        /// The cluster.
        cluster: String,
    },
    /// A checkpoint's signature is wrong.
    #[error("the signature of the checkpoint is wrong")]
    CheckpointSignature,
    /// Entries are known to have existed and are not there.
    #[error("the log was cut: it ends before entry {index}, which was {known}")]
    Cut {
        /// The newest entry that is known.
        index: u64,
        /// How it is known.
        known: String,
    },
    /// An entry is known to have been another one.
    #[error("entry {index} is not the one that was {known}")]
    Different {
        /// The entry.
        index: u64,
        /// How it is known.
        known: String,
    },
    /// Bytes that are no entries and that no later entry accounts for.
    #[error("{bytes} bytes are no entry of the log, and no entry accounts for them")]
    Foreign {
        /// How many.
        bytes: u64,
    },
    /// Entries are missing.
    #[error("entries {from} to {to} are missing")]
    Missing {
        /// The first.
        from: u64,
        /// The last.
        to: u64,
    },
    /// A log that is known to have existed is not the one that is here.
    #[error("the log {log} is not here; it had at least {} entries", .index.saturating_add(1))]
    OtherLog {
        /// The log.
        log: Uuid,
        /// The newest entry that is known.
        index: u64,
    },
    /// An entry stands where another one belongs.
    #[error("entry {index} stands where entry {expected} belongs")]
    Order {
        /// What stands there.
        index: u64,
        /// What belongs there.
        expected: u64,
    },
    /// A new chain begins behind the old one.
    #[error(
        "a new chain begins here: when the log was opened, entries that storage knows of were lost or had been cut off"
    )]
    Restarted,
    /// A recording is not the one that was stored.
    #[error("the recording of session {session}: {reason}")]
    Recording {
        /// The session.
        session: String,
        /// What is wrong.
        reason: String,
    },
    /// The last line is not whole.
    #[error(
        "the last line is not whole ({bytes} bytes): the writer was interrupted and has not started again, or it was cut"
    )]
    Torn {
        /// How many bytes it has.
        bytes: u64,
    },
    /// There are entries, and no checkpoint among them.
    #[error("nothing in the log is signed: there is no checkpoint")]
    Unsigned,
}

/// The first thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub struct Finding {
    /// The file; empty if it concerns none.
    pub file: String,
    /// The line in it, from 1; 0 if it concerns none.
    pub line: u64,
    /// The entry.
    pub index: Option<u64>,
    /// What is wrong.
    pub flaw: Flaw,
}

impl Finding {
    /// About an entry that was handed out by [`Verifier::line`](super::Verifier::line).
    pub const fn of_entry(entry: &Entry<'_>, flaw: Flaw) -> Self {
        Self { file: String::new(), line: 0, index: Some(entry.index), flaw }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.file.is_empty() {
            f.write_str(&self.file)?;
            if self.line > 0 {
                write!(f, ", line {}", self.line)?;
            }
            if let Some(index) = self.index {
                write!(f, " (entry {index})")?;
            }
            f.write_str(": ")?;
        } else if let Some(index) = self.index {
            write!(f, "entry {index}: ")?;
        }
        self.flaw.fmt(f)
    }
}

/// A place where the writer was interrupted. What it had not finished was never acknowledged; the entry behind it says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Interruption {
    /// The file.
    pub file: String,
    /// The line of the entry that accounts for it.
    pub line: u64,
    /// That entry.
    pub index: u64,
    /// How many bytes are no entries.
    pub bytes: u64,
}

/// What was proven: entries `first` to `signed` are those that were written, all of them, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Proven {
    /// The cluster, as checkpoints say it.
    pub cluster: String,
    /// The log.
    pub log: Option<Uuid>,
    /// How many entries.
    pub entries: u64,
    /// The first one.
    pub first: Option<u64>,
    /// The file and line where the chain begins.
    pub begins: Option<(String, u64)>,
    /// The newest entry.
    pub head: Option<ChainHead>,
    /// How many of them are checkpoints.
    pub checkpoints: u64,
    /// The newest checkpoint: nothing up to there can have been changed without the key.
    pub signed: Option<ChainHead>,
    /// When it was written.
    pub signed_at: Option<Timestamp>,
    /// Entries behind it: that they are in order is shown, that none was cut off behind them, or that they were not all
    /// replaced, is not.
    pub unsigned: u64,
    /// The lines that retention removed, according to the log: entries before this one.
    pub removed_before: u64,
    /// How often the writer was interrupted.
    pub interrupted: u64,
    /// Where; not all if they are many.
    pub interruptions: Vec<Interruption>,
}
