//! The node sends files (`scp -f`).

use std::io;

use bytes::Bytes;
use tokio::io::AsyncBufRead;

use super::command::ScpCommand;
use super::record::Record;
use super::serve::{Telling, text};
use super::wire::{Answer, Output, Wire};
use crate::client::copy::{CopyError, FileName, Side, checked_kind, expand, join};
use crate::session::FileReporter;
use crate::sftp::FileAction;
use crate::sftp::wire::Attributes;

/// How deep directories may be nested: links may lead back.
const MAX_DEPTH: usize = 64;
/// What a file that ended early is filled up with.
static ZEROS: [u8; 32 << 10] = [0; 32 << 10];

/// Why a file is not sent that could be.
const NOT_WANTED: &str = "the client does not want it";

/// The most names of one directory that are sent.
const MAX_NAMES: usize = 100_000;

/// What is to be sent next.
enum Next {
    Path { path: Vec<u8>, depth: usize },
    End,
}

/// Sends what was asked for.
pub(super) async fn run<R: AsyncBufRead + Unpin + Send, O: Output>(
    wire: &mut Wire<R, O>,
    command: &ScpCommand,
    files: &Side,
    told: &FileReporter,
) -> io::Result<()> {
    if wire.answer().await? != Answer::Good {
        return Ok(());
    }
    for path in &command.paths {
        let found = match expand(files, path).await {
            Ok(found) => found,
            Err(error) => {
                wire.warn(&format!("{}: {error}", text(path))).await?;
                continue;
            }
        };
        for path in found {
            tree(wire, command, files, path, told).await?;
        }
    }
    Ok(())
}

/// Sends a file, or a directory with all that is in it.
async fn tree<R: AsyncBufRead + Unpin + Send, O: Output>(
    wire: &mut Wire<R, O>,
    command: &ScpCommand,
    files: &Side,
    top: Vec<u8>,
    told: &FileReporter,
) -> io::Result<()> {
    let mut next = vec![Next::Path { path: top, depth: 0 }];
    while let Some(step) = next.pop() {
        let Next::Path { path, depth } = step else {
            wire.send(Record::End.line()).await?;
            wire.answer().await?;
            continue;
        };
        let looked = match files.stat(&path).await {
            Ok(attributes) => checked_kind(&attributes).map(|is_dir| (attributes, is_dir)),
            Err(error) => Err(error),
        };
        let (attributes, name) = (looked, name(&path));
        match (attributes, name) {
            (Ok((attributes, true)), Some(name)) if command.recursive && depth < MAX_DEPTH => {
                let mode = attributes.mode.unwrap_or(0o755) & 0o7777;
                if !times(wire, command, &attributes).await? {
                    continue;
                }
                wire.send(Record::Dir { mode, name }.line()).await?;
                if wire.answer().await? != Answer::Good {
                    continue;
                }
                next.push(Next::End);
                let listed = list(files, &path).await;
                match listed {
                    Ok(names) => next.extend(
                        names
                            .into_iter()
                            .map(|name| Next::Path { path: join(&path, &name), depth: depth + 1 }),
                    ),
                    Err(error) => wire.warn(&format!("{}: {error}", text(&path))).await?,
                }
            }
            (Ok((_, true)), _) => wire.warn(&format!("{}: not a regular file", text(&path))).await?,
            (Ok((attributes, false)), Some(name)) => {
                file(wire, command, files, (&path, name, &attributes), told).await?;
            }
            (Ok(_), None) => wire.warn(&format!("{}: it has no name that can be sent", text(&path))).await?,
            (Err(error), _) => {
                let error = error.to_string();
                Telling::begin(told, FileAction::Download { bytes: 0 }, &path).end(Some(&error)).await;
                wire.warn(&format!("{}: {error}", text(&path))).await?;
            }
        }
    }
    Ok(())
}

/// The last name of a path; of `.` and the like, what stands for it.
fn name(path: &[u8]) -> Option<FileName> {
    let end = path.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
    let name = path.get(..end)?.rsplit(|byte| *byte == b'/').next()?;
    FileName::new(name).ok()
}

async fn list(files: &Side, path: &[u8]) -> Result<Vec<Vec<u8>>, CopyError> {
    let mut listing = files.list(path).await?;
    let mut names: Vec<Vec<u8>> = Vec::new();
    while let Some(entries) = listing.next().await? {
        // This is the daemon's memory, and there are file systems without an end.
        if names.len() > MAX_NAMES {
            return Err(CopyError::TooMany);
        }
        names
            .extend(entries.into_iter().map(|entry| entry.name).filter(|name| name != b"." && name != b".."));
    }
    Ok(names)
}

/// Sends the times of what follows, if they are wanted; whether what follows is.
async fn times<R: AsyncBufRead + Unpin + Send, O: Output>(
    wire: &mut Wire<R, O>,
    command: &ScpCommand,
    attributes: &Attributes,
) -> io::Result<bool> {
    match attributes.times {
        Some((accessed, modified)) if command.preserve => {
            wire.send(Record::Times { modified, accessed }.line()).await?;
            Ok(wire.answer().await? == Answer::Good)
        }
        _ => Ok(true),
    }
}

async fn file<R: AsyncBufRead + Unpin + Send, O: Output>(
    wire: &mut Wire<R, O>,
    command: &ScpCommand,
    files: &Side,
    (path, name, attributes): (&[u8], FileName, &Attributes),
    told: &FileReporter,
) -> io::Result<()> {
    let mut telling = Telling::begin(told, FileAction::Download { bytes: 0 }, path);
    let opened = match files.open(path).await {
        Ok(opened) => opened,
        Err(error) => {
            let error = error.to_string();
            telling.end(Some(&error)).await;
            return wire.warn(&format!("{}: {error}", text(path))).await;
        }
    };
    if !times(wire, command, attributes).await? {
        telling.end(Some(NOT_WANTED)).await;
        return Ok(());
    }
    let (mode, size) = (attributes.mode.unwrap_or(0o644) & 0o7777, attributes.size.unwrap_or_default());
    wire.send(Record::File { mode, size, name }.line()).await?;
    if wire.answer().await? != Answer::Good {
        telling.end(Some(NOT_WANTED)).await;
        return Ok(());
    }
    let mut outflow = opened.into_outflow(0, Some(size));
    let mut left = size;
    let mut error = None;
    let sent = loop {
        if left == 0 {
            break Ok(());
        }
        let piece = match outflow.next().await {
            Ok(Some(piece)) => piece,
            Ok(None) => {
                error = Some(format!("it ended after {} of {size} bytes", size - left));
                break Ok(());
            }
            Err(why) => {
                error = Some(why.to_string());
                break Ok(());
            }
        };
        left = left.saturating_sub(piece.len() as u64);
        telling.carried(piece.len() as u64);
        if let Err(gone) = wire.send(piece).await {
            break Err(gone);
        }
    };
    if sent.is_err() {
        error = Some("the client ended early".to_owned());
    }
    telling.end(error.as_deref()).await;
    sent?;
    // So many bytes were promised.
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(ZEROS.len());
        wire.send(Bytes::from_static(ZEROS.get(..most).unwrap_or(&ZEROS))).await?;
        left -= most as u64;
    }
    match error {
        None => wire.good().await?,
        Some(error) => wire.warn(&format!("{}: {error}", text(path))).await?,
    }
    wire.answer().await.map(drop)
}
