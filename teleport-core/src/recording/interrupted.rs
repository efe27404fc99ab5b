//! The end of a recording whose writer was interrupted.

use std::io;
use std::time::Duration;

use super::{Decoder, Encoder, RecordedEvent, SessionEnd};

/// What is appended to a recording that was cut after its last whole frame: an end that says that the server ended before the
/// session. `read` has read everything up to there.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`] if nothing says what the recording is of; when the compressor cannot be made (no memory).
pub fn interrupted_end(read: &Decoder) -> io::Result<Vec<u8>> {
    let meta = read.meta().ok_or(io::ErrorKind::InvalidInput)?;
    let mut encoder = Encoder::new(meta)?;
    encoder.take(true)?;
    // No time has passed since the last event, as far as anybody knows.
    encoder.event(&RecordedEvent::End { at: Duration::ZERO, end: SessionEnd::Disconnected })?;
    encoder.take(true)
}
