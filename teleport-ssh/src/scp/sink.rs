//! The client sends files (`scp -t`).

use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt};

use super::command::ScpCommand;
use super::record::Record;
use super::serve::{Telling, text};
use super::wire::{Answer, Output, Wire};
use crate::client::copy::{CopyError, FileName, Inflow, Side, is_dir, join, prepared};
use crate::session::FileReporter;
use crate::sftp::FileAction;
use crate::sftp::wire::Attributes;

/// How deep directories may be nested.
const MAX_DEPTH: usize = 256;

/// A directory that has begun.
struct Dir {
    path: Vec<u8>,
    /// What it gets when it ends.
    attributes: Attributes,
}

/// Takes files until the client ends its input.
pub(super) async fn run<R: AsyncBufRead + Unpin + Send, O: Output>(
    wire: &mut Wire<R, O>,
    command: &ScpCommand,
    files: &Side,
    told: &FileReporter,
) -> io::Result<()> {
    let written = command.paths.first().map(Vec::as_slice).unwrap_or_default();
    let target = match prepared(files, written).await {
        Ok(target) => target.literal(),
        Err(error) => return wire.warn(&format!("{}: {error}", text(written))).await,
    };
    let target_is_dir = files.stat(&target).await.is_ok_and(|there| is_dir(&there));
    if command.into_dir && !target_is_dir {
        return wire.warn(&format!("{}: Not a directory", text(&target))).await;
    }
    wire.good().await?;
    let (mut dirs, mut times): (Vec<Dir>, _) = (Vec::new(), None);
    while let Some(line) = wire.line().await? {
        let record = match Record::parse(&line) {
            Ok(record) => record,
            Err(why) => {
                // What follows cannot be understood either.
                wire.warn(&why.to_string()).await?;
                return Err(io::ErrorKind::InvalidData.into());
            }
        };
        let path = |name: &FileName| match dirs.last() {
            Some(dir) => join(&dir.path, name.as_bytes()),
            None if target_is_dir => join(&target, name.as_bytes()),
            None => target.clone(),
        };
        match record {
            Record::Times { modified, accessed } => {
                times = Some((accessed, modified));
                wire.good().await?;
            }
            Record::Warning => wire.failed = true,
            Record::Fatal => return Err(io::ErrorKind::UnexpectedEof.into()),
            Record::End => {
                let Some(Dir { path, attributes }) = dirs.pop() else {
                    wire.warn("protocol error: no directory ends here").await?;
                    return Err(io::ErrorKind::InvalidData.into());
                };
                let set = if command.preserve { files.set(&path, attributes).await } else { Ok(()) };
                done(wire, &path, set).await?;
            }
            Record::Dir { mode, name } => {
                let path = path(&name);
                if !command.recursive || dirs.len() >= MAX_DEPTH {
                    wire.warn(&format!("{}: received directory without -r, or too deep", text(&path)))
                        .await?;
                    return Err(io::ErrorKind::InvalidData.into());
                }
                let telling = Telling::begin(told, FileAction::MakeDir, &path);
                let made = files.make_dir(&path, (mode & 0o777) | 0o700).await;
                let error = made.as_ref().err().map(ToString::to_string);
                telling.end(error.as_deref()).await;
                let times = times.take();
                // What is in one that cannot be made is not sent.
                let is_there = made.is_ok();
                done(wire, &path, made).await?;
                if is_there {
                    let attributes = Attributes { mode: Some(mode & 0o777), times, ..Attributes::default() };
                    dirs.push(Dir { path, attributes });
                }
            }
            Record::File { mode, size, name } => {
                let path = path(&name);
                let attributes =
                    Attributes { mode: Some(mode & 0o7777), times: times.take(), ..Attributes::default() };
                let attributes = command.preserve.then_some(attributes);
                file(wire, files, (&path, mode, size), attributes, told).await?;
            }
        }
    }
    Ok(())
}

/// Takes one file: its bytes in any case once they were asked for.
async fn file<R: AsyncBufRead + Unpin + Send, O: Output>(
    wire: &mut Wire<R, O>,
    files: &Side,
    (path, mode, size): (&[u8], u32, u64),
    attributes: Option<Attributes>,
    told: &FileReporter,
) -> io::Result<()> {
    let mut telling = Telling::begin(told, FileAction::Upload { bytes: 0 }, path);
    let mut inflow = match files.create(path, (mode & 0o777) | 0o200, false).await {
        Ok(opened) => Ok(opened.into_inflow(0)),
        Err(error) => {
            // Not asked for, so not sent.
            let error = error.to_string();
            telling.end(Some(&error)).await;
            return wire.warn(&format!("{}: {error}", text(path))).await;
        }
    };
    wire.good().await?;
    let mut left = size;
    let received = loop {
        if left == 0 {
            break wire.answer().await;
        }
        let here = match wire.input.fill_buf().await {
            Ok([]) => break Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(here) => here,
            Err(error) => break Err(error),
        };
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(here.len());
        let piece = here.get(..most).unwrap_or(here);
        if let Ok(open) = &mut inflow {
            let put: Result<(), CopyError> = open.put(bytes::Bytes::copy_from_slice(piece)).await;
            if let Err(error) = put {
                inflow = Err(error);
            }
        }
        wire.input.consume(most);
        left -= most as u64;
        telling.carried(most as u64);
    };
    let finished = match inflow {
        Ok(open) => Inflow::finish(open, attributes.filter(|_| received.is_ok())).await,
        Err(error) => Err(error),
    };
    let error = match (&finished, &received) {
        (Err(error), _) => Some(error.to_string()),
        (Ok(()), Ok(Answer::Good)) => None,
        (Ok(()), Ok(Answer::Skip)) => Some("the client could not read all of it".to_owned()),
        (Ok(()), Err(_)) => Some("the client ended early".to_owned()),
    };
    telling.end(error.as_deref()).await;
    received?;
    done(wire, path, finished).await
}

/// Says how it went.
async fn done<R: AsyncBufRead + Unpin + Send, O: Output>(
    wire: &mut Wire<R, O>,
    path: &[u8],
    result: Result<(), impl std::fmt::Display>,
) -> io::Result<()> {
    let failed = result.err().map(|error| format!("{}: {error}", text(path)));
    match failed {
        None => wire.good().await,
        Some(failed) => wire.warn(&failed).await,
    }
}
