//! `tctl backend`: the storage of a cluster, while no service uses it.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use teleport_backend::migrate::{Stage, migrate};
use teleport_core::auth::unfinished_restore;

use super::super::recordings::Progress;
use super::super::{print_json, print_text};
use crate::daemon::Os;
use crate::storage;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Copy everything that a cluster stores to another place, and compare both. Stop all auth services first
    ///
    /// The target must be empty. Until all is there and compared it is marked, and no auth service starts on it; after an
    /// interruption run the same command again. The source stays as it is. The master key in the data directory is not part of it, nor
    /// are recordings and the audit log.
    Migrate(Migrate),
}

#[derive(Debug, Args)]
pub(super) struct Migrate {
    /// Where it is: redb:/path/to/file, etcd://host:2379/prefix, postgres://user@host/database
    #[arg(long, value_name = "URL")]
    from: String,
    /// Where it shall be
    #[arg(long, value_name = "URL")]
    to: String,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One JSON object.
    Json,
    /// A sentence.
    #[default]
    Text,
}

#[derive(Serialize)]
struct Done {
    from: String,
    to: String,
    items: u64,
    bytes: u64,
}

pub(super) async fn run(command: Command) -> Result<ExitCode> {
    let Command::Migrate(wanted) = command;
    let os = Os::default();
    let mark = unfinished_restore()?;
    let exists = existing_file(&wanted.from)?;
    anyhow::ensure!(exists, "--from: there is no file {}", wanted.from);
    let source = storage::open(&wanted.from, &os).await.context("--from")?;
    let target = storage::open(&wanted.to, &os).await.context("--to")?;
    let mut progress = Progress::new();
    let moved = migrate(&*source, &*target, &mark, &*os.clock, &mut |stage, done, all| {
        let what = match stage {
            Stage::Copy => "copying",
            Stage::Verify => "comparing",
            // How many there are is not known yet.
            _ => return,
        };
        progress.at(what, done, all);
    })
    .await;
    progress.end();
    let done = moved.map(|moved| Done {
        from: source.to_string(),
        to: target.to_string(),
        items: moved.items,
        bytes: moved.bytes,
    });
    source.close().await;
    target.close().await;
    let done = done?;
    match wanted.format {
        Format::Json => print_json(&done)?,
        Format::Text => print_text(&format!(
            "{} items ({} bytes) were copied from {} to {} and compared.",
            done.items, done.bytes, done.from, done.to
        ))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// A file that is not there would be made, and be found empty.
fn existing_file(url: &str) -> Result<bool> {
    let path = match url.split_once(':') {
        Some(("redb", path)) => path.strip_prefix("//").filter(|path| path.starts_with('/')).unwrap_or(path),
        Some(_) => return Ok(true),
        None => url,
    };
    std::path::Path::new(path).try_exists().with_context(|| format!("--from: {path}"))
}
