//! What a crash left open: cut to what is whole, and given an end that says so.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use teleport_core::recording::{Decoder, Encoder, RecordedEvent};

use super::CUT;

/// How much is read at a time.
const PIECE: usize = 64 << 10;

/// Closes a recording that nobody closed. What was written in part is cut off: it was acknowledged to nobody. What is no recording
/// at all is closed as it is, for the upload to set aside.
pub(super) fn close(path: &Path) -> io::Result<()> {
    if let Err(error) = mend(path) {
        // What is whole in it can be delivered all the same.
        tracing::error!(path = %path.display(), error = &error as &dyn std::error::Error, "an interrupted recording gets no end");
    }
    // Also one that has its end: the node was interrupted in that moment, and perhaps before it told of it.
    fs::rename(path, path.with_extension(CUT))
}

/// Cuts off what is not whole, and adds the end if there is none.
fn mend(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let Some((decoder, intact, ended)) = examine(&file)? else { return Ok(()) };
    if file.metadata()?.len() > intact {
        file.set_len(intact)?;
    }
    if !ended {
        file.write_all_at(&Encoder::interruption(&decoder)?, intact)?;
    }
    file.sync_all()?;
    tracing::info!(path = %path.display(), bytes = intact, "a recording that was interrupted is closed");
    Ok(())
}

/// How many bytes are whole, and whether the last event is an end; `None` if it is no recording.
fn examine(file: &File) -> io::Result<Option<(Decoder, u64, bool)>> {
    let mut decoder = Decoder::new()?;
    let mut bytes = vec![0; PIECE];
    let (mut offset, mut ended, mut intact) = (0, false, 0);
    loop {
        let read = file.read_at(&mut bytes, offset)?;
        if read == 0 {
            break;
        }
        offset += read as u64;
        decoder.feed(bytes.get(..read).unwrap_or_default());
        loop {
            match decoder.next_event() {
                Ok(Some(event)) => {
                    ended = matches!(event, RecordedEvent::End { .. });
                    intact = decoder.intact();
                }
                Ok(None) => break,
                // Zeroes, as after a loss of power, or anything else: what was before it is sound.
                Err(_) => return Ok(decoder.meta().is_some().then_some((decoder, intact, ended))),
            }
        }
        intact = decoder.intact();
    }
    Ok(decoder.meta().is_some().then_some((decoder, intact, ended)))
}
