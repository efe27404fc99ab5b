//! `recordings export`: files that are whole or not there.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use teleport_core::api::{AuthApi, RecordingQuery};
use teleport_core::clock::Timestamp;
use teleport_core::id::SessionId;
use teleport_core::recording::Pace;

use super::{Progress, human_size};
use crate::replay::{self, Options, PlayFormat, Source};

/// What is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum ExportFormat {
    /// For asciinema and its players
    Cast,
    /// As it is recorded, for `tsh play`
    #[default]
    Raw,
    /// The output alone, without control characters
    Text,
}

impl ExportFormat {
    const fn extension(self) -> &'static str {
        match self {
            Self::Cast => "cast",
            Self::Raw => "tprec",
            Self::Text => "txt",
        }
    }
}

/// What to export.
#[derive(Debug, Args)]
pub(in super::super) struct Export {
    /// The sessions' ids
    #[arg(required = true, value_name = "ID")]
    sessions: Vec<SessionId>,
    /// What to write
    #[arg(short, long, value_enum, default_value_t)]
    format: ExportFormat,
    /// The file, or a directory for files that are named after the sessions [default: the current directory]
    #[arg(short, long, value_name = "PATH")]
    out: Option<PathBuf>,
    /// Replace files that exist
    #[arg(long)]
    overwrite: bool,
}

/// Writes recordings into files. What was fetched before an interruption is not fetched again.
pub(in super::super) async fn run(api: &dyn AuthApi, export: &Export) -> Result<()> {
    let out = export.out.clone().unwrap_or_else(|| ".".into());
    let is_directory = out.is_dir();
    if export.sessions.len() > 1 && !is_directory {
        bail!("--out: {} is not a directory, which several recordings need", out.display());
    }
    for session in &export.sessions {
        let path = if is_directory {
            out.join(format!("{session}.{}", export.format.extension()))
        } else {
            out.clone()
        };
        if path.exists() && !export.overwrite {
            bail!("{} exists; say --overwrite to replace it", path.display());
        }
        let fetched = fetch(api, *session, &path).await?;
        let size = match export.format {
            ExportFormat::Raw => replace(&fetched, &path)?,
            ExportFormat::Cast | ExportFormat::Text => {
                let draft = beside(&path, *session, "new")?;
                let format = match export.format {
                    ExportFormat::Cast => PlayFormat::Cast,
                    _ => PlayFormat::Text,
                };
                convert(&fetched, &draft, format).await.with_context(|| format!("recording {session}"))?;
                let size = replace(&draft, &path)?;
                std::fs::remove_file(&fetched)?;
                size
            }
        };
        println!("Recording {session} is in {} ({})", path.display(), human_size(size));
    }
    Ok(())
}

/// A hidden file in the same directory, which a rename can put into the place of `path`.
fn beside(path: &Path, session: SessionId, ending: &str) -> Result<PathBuf> {
    let Some(name) = path.file_name() else { bail!("--out: {} is not the name of a file", path.display()) };
    Ok(path.with_file_name(format!(".{}.{session}.{ending}", name.to_string_lossy())))
}

/// Opens a file that only its owner reads: recordings show what was on somebody's screen.
fn private(path: &Path, appends: bool) -> Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).mode(0o600).append(appends).write(true).truncate(!appends);
    options.open(path).with_context(|| format!("cannot write {}", path.display()))
}

/// Fetches a recording into a file beside `path`, from where it was interrupted before.
async fn fetch(api: &dyn AuthApi, session: SessionId, path: &Path) -> Result<PathBuf> {
    let query =
        RecordingQuery { from: Some(Timestamp::EPOCH), session: Some(session), ..RecordingQuery::default() };
    let Some(info) = api.recordings(query).await?.pop() else {
        bail!("there is no recording {session}, or it is not yours to see; `tsh recordings ls` lists them");
    };
    if info.completed.is_none() {
        eprintln!("Recording {session} is not complete yet: its file ends where the upload is now");
    }
    let part = beside(path, session, "part")?;
    // What came of an upload that went on meanwhile is as it was: parts never change.
    let mut file = private(&part, true)?;
    let mut offset = file.metadata()?.len();
    let mut progress = Progress::new();
    loop {
        progress.at(&session.to_string(), offset, info.len);
        let piece = api.read_recording(session, offset).await?;
        if piece.is_empty() {
            break;
        }
        file.write_all(&piece).with_context(|| format!("cannot write {}", part.display()))?;
        offset += piece.len() as u64;
    }
    file.sync_all()?;
    Ok(part)
}

/// Puts a whole file into its place.
fn replace(draft: &Path, path: &Path) -> Result<u64> {
    let file = File::open(draft)?;
    file.sync_all()?;
    std::fs::rename(draft, path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(file.metadata()?.len())
}

async fn convert(recording: &Path, draft: &Path, format: PlayFormat) -> Result<()> {
    let mut out = BufWriter::new(private(draft, false)?);
    let options = Options { format, pace: Pace::default(), from: Duration::ZERO };
    replay::print(Source::file(recording).await?, options, &mut out).await
}
