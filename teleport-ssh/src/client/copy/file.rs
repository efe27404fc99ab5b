//! One file.

use super::opened::Opened;
use super::side::Side;
use super::{CopyError, CopyFailure, CopyObserver, CopyOptions, permissions};
use crate::sftp::wire::Attributes;

/// Of a file that says it is empty, as those in `/proc` do, so much is read at most, in bytes.
const MAX_UNSIZED: u64 = 64 << 20;
/// So much of the end of what is there is compared before a file is continued, in bytes.
const TAIL: u64 = 64 << 10;

/// A file that is to be copied.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) from: Vec<u8>,
    pub(super) to: Vec<u8>,
    /// As the listing or a look at it has said.
    pub(super) attributes: Attributes,
}

/// Copies a file.
///
/// # Errors
/// What failed, and on which side. What has been written stays.
pub(super) async fn copy(
    from: &Side,
    to: &Side,
    job: &Job,
    options: CopyOptions,
    observer: &dyn CopyObserver,
) -> Result<(), CopyFailure> {
    let of_source = |cause| from.failure(&job.from, cause);
    let of_target = |cause| to.failure(&job.to, cause);
    let mode = permissions(&job.attributes);
    let size = job.attributes.size.filter(|size| *size > 0);
    let mut source = from.open(&job.from).await.map_err(of_source)?;
    // Whatever its permissions will be, it must be possible to write it now.
    let create = to.create(&job.to, mode.unwrap_or(0o666) | 0o200, options.resume);
    let mut target = create.await.map_err(of_target)?;
    let mut there = 0;
    if options.resume {
        there = target.stat().await.map_err(of_target)?.size.unwrap_or_default();
        let continued = there > 0 && size.is_some_and(|size| there <= size);
        if continued {
            let from = there.saturating_sub(TAIL);
            let (ours, theirs);
            (source, ours) = source.read(from, there).await.map_err(of_source)?;
            (target, theirs) = target.read(from, there).await.map_err(of_target)?;
            if ours != theirs {
                there = restart(&target).await.map_err(of_target)?;
            }
        } else if there > 0 {
            there = restart(&target).await.map_err(of_target)?;
        }
    }
    observer.begins(&shown(&job.from), size, there);
    let mut outflow = source.into_outflow(there, size);
    let mut inflow = target.into_inflow(there);
    let mut read = there;
    let why = loop {
        match outflow.next().await {
            Ok(Some(piece)) => {
                let bytes = piece.len() as u64;
                read += bytes;
                if size.is_none() && read > MAX_UNSIZED {
                    break Some(CopyError::Endless);
                }
                inflow.put(piece).await.map_err(of_target)?;
                observer.moved(bytes);
            }
            Ok(None) => match size {
                Some(size) if read < size => break Some(CopyError::Short { read, size }),
                _ => break None,
            },
            Err(why) => break Some(why),
        }
    };
    if let Some(why) = why {
        // What has come stays, to be continued.
        let _ = inflow.finish(None).await;
        return Err(of_source(why));
    }
    let attributes = Attributes { mode, times: job.attributes.times, ..Attributes::default() };
    inflow.finish(options.preserve.then_some(attributes)).await.map_err(of_target)?;
    observer.ends();
    Ok(())
}

/// What is there is not the beginning of what is copied.
async fn restart(target: &Opened) -> Result<u64, CopyError> {
    target.clear().await?;
    Ok(0)
}

/// A file's name for people.
fn shown(path: &[u8]) -> String {
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
    String::from_utf8_lossy(name).chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}
