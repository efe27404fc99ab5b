//! Recording of sessions at the node: a tap on the byte path, a spool on disk, an upload in the background.
//!
//! ```text
//! session --output--> SpoolRecorder --chunks--> spool thread --frames--> <session>.part --closed--> <session>.tprec
//!                                                                                              |
//!                                            auth service <--parts of 1 MiB, resumable-- Uploader
//! ```
//!
//! The byte path copies nothing and never waits for a disk. A program that prints faster than the spool's thread compresses is made to
//! wait for it, in every mode, and for a second at most where something may be lost: what has no place then, or in a full spool,
//! becomes a gap in the recording that says how much was lost.

mod live;
mod room;
mod spool;
mod upload;

use std::path::PathBuf;
use std::{fmt, io};

use teleport_core::access::SessionRecording;
use teleport_core::recording::{NoRecorder, Recorder, RecordingMeta};

pub use self::spool::{Spool, SpoolError, SpoolLimits, TooOld};
pub use self::upload::Uploader;

/// Makes a recorder for each session.
///
/// # Contract
/// `start` is quick and may touch the local disk, never the network; the session begins once [`Recorder::kept`] resolves, and not at
/// all on an error. It is called for sessions that are to be recorded, never with [`SessionRecording::Off`]; of a strict one the
/// recorder says by [`Recorder::failed`] that something was lost, and by [`Recorder::kept`] when programs have to wait. A recording that
/// has ended is delivered once its recorder is dropped: what has to be told before that is told until then.
pub trait Recorders: fmt::Debug + Send + Sync + 'static {
    /// Begins the recording of a session.
    ///
    /// # Errors
    /// [`SpoolError`] when nothing could be recorded.
    fn start(&self, meta: RecordingMeta, mode: SessionRecording) -> Result<Box<dyn Recorder>, SpoolError>;
}

/// Records nothing. Sessions that must be recorded are refused.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "a unit")]
pub struct NoRecorders;

impl Recorders for NoRecorders {
    fn start(&self, _meta: RecordingMeta, mode: SessionRecording) -> Result<Box<dyn Recorder>, SpoolError> {
        if mode.is_strict() {
            let source = io::Error::new(io::ErrorKind::Unsupported, "nothing is recorded on this node");
            return Err(SpoolError { path: PathBuf::new(), source });
        }
        Ok(Box::new(NoRecorder::new()))
    }
}

#[cfg(test)]
mod tests;
