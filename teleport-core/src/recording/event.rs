//! What a recording is made of.

use std::time::Duration;

use bytes::Bytes;

/// Which stream of a process output came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OutputStream {
    /// Standard error of a session without a terminal.
    Stderr,
    /// Standard output, or the terminal.
    Stdout,
}

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionEnd {
    /// The connection or the server ended before the process.
    Disconnected,
    /// The process exited with this status.
    Exited(u32),
    /// The process was killed by this signal, named without `SIG`.
    Signaled(String),
}

/// One event of a recording.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecordedEvent {
    /// The session ended.
    End {
        /// Time since the beginning.
        at: Duration,
        /// How.
        end: SessionEnd,
    },
    /// Output was lost here.
    Gap {
        /// Time since the beginning.
        at: Duration,
        /// How many bytes.
        lost: u64,
    },
    /// Output was shown.
    Output {
        /// Time since the beginning.
        at: Duration,
        /// From which stream.
        stream: OutputStream,
        /// The bytes.
        data: Bytes,
    },
    /// The terminal changed its size.
    Resize {
        /// Time since the beginning.
        at: Duration,
        /// Columns.
        columns: u16,
        /// Rows.
        rows: u16,
    },
}

impl RecordedEvent {
    /// Time since the beginning of the session.
    pub const fn at(&self) -> Duration {
        match self {
            Self::End { at, .. }
            | Self::Gap { at, .. }
            | Self::Output { at, .. }
            | Self::Resize { at, .. } => *at,
        }
    }
}
