//! `tsh recordings` and `tsh play`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use teleport_core::id::SessionId;
use teleport_core::recording::Pace;

use super::super::recordings::{self, Export, Ls, Rm};
use super::common::Context;
use crate::replay::{self, PlayFormat, SKIPPED_IDLE, Source};

#[derive(Debug, Args)]
pub(super) struct Play {
    /// The session's id, or a file
    session: String,
    /// How to show it
    #[arg(short, long, value_enum, default_value_t)]
    format: PlayFormat,
    /// How fast: 0.1x to 16x
    #[arg(long, default_value = "1x", value_parser = |text: &str| replay::parse_speed(text))]
    speed: f64,
    /// Skip silence
    #[arg(long)]
    skip_idle_time: bool,
    /// Begin at this time of the session: 1:30, 1:02:03 or 90s
    #[arg(long, default_value = "0s", value_parser = |text: &str| replay::parse_time(text))]
    from: Duration,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Write recordings into files
    Export(Export),
    /// List recordings, newest first
    Ls(Ls),
    /// Delete recordings, if a role allows it
    Rm(Rm),
}

pub(super) async fn run(context: &Context, command: Command) -> Result<ExitCode> {
    let profile = context.profile()?;
    let api = context.api(&profile);
    match command {
        Command::Export(export) => recordings::export(&api, &export).await?,
        Command::Ls(ls) => recordings::ls(&api, &ls, context.clock.now()).await?,
        Command::Rm(rm) => recordings::rm(&api, &rm).await?,
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn play(context: &Context, play: Play) -> Result<ExitCode> {
    let source = match play.session.parse::<SessionId>() {
        Ok(session) => {
            let profile = context.profile()?;
            Source::api(Arc::new(context.api(&profile)), session).await?
        }
        Err(_) => {
            let path = PathBuf::from(&play.session);
            if !path.exists() {
                bail!(
                    "{:?} is neither a session's id nor a file; `tsh recordings ls` lists sessions",
                    play.session
                );
            }
            Source::file(&path).await?
        }
    };
    let pace = Pace { speed: play.speed, max_idle: play.skip_idle_time.then_some(SKIPPED_IDLE) };
    let options = replay::Options { format: play.format, pace, from: play.from };
    Ok(ExitCode::from(replay::play(source, options).await?))
}
