//! `tsh recordings` and `tsh play`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use teleport_core::api::{RecordingApi, RecordingQuery};
use teleport_core::clock::Timestamp;
use teleport_core::id::SessionId;
use teleport_core::recording::Pace;

use super::super::{Format, table};
use super::common::Context;
use crate::config::parse_duration;
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
    /// List recordings, newest first
    Ls {
        /// Of the last hours or days
        #[arg(long, default_value = "24h", value_parser = |text: &str| parse_duration(text))]
        last: Duration,
        /// Began not before this time, as 2026-11-21T00:00:00Z
        #[arg(long)]
        from_utc: Option<Timestamp>,
        /// Began before this time
        #[arg(long)]
        to_utc: Option<Timestamp>,
        /// At most so many
        #[arg(long, default_value_t = 50)]
        limit: usize,
        /// How to print
        #[arg(short, long, value_enum, default_value_t)]
        format: Format,
    },
}

pub(super) async fn run(context: &Context, command: Command) -> Result<ExitCode> {
    let Command::Ls { last, from_utc, to_utc, limit, format } = command;
    if !(1..=1000).contains(&limit) {
        bail!("--limit is a number from 1 to 1000");
    }
    let profile = context.profile()?;
    let from = from_utc.unwrap_or_else(|| context.clock.now().saturating_sub(last));
    let query = RecordingQuery { from: Some(from), to: to_utc, limit, ..RecordingQuery::default() };
    let recordings = context.api(&profile).recordings(query).await?;
    format.print(&recordings, || {
        if recordings.is_empty() {
            return "No recordings".to_owned();
        }
        table(
            ["ID", "User", "Login", "Hostname", "Command", "Started (UTC)", "State"],
            recordings.iter().map(|recording| {
                let meta = &recording.meta;
                let command = meta.command.clone().unwrap_or_else(|| "(shell)".to_owned());
                let short: String = command.chars().take(40).collect();
                [
                    meta.session.to_string(),
                    meta.user.to_string(),
                    meta.login.to_string(),
                    meta.host_name.to_string(),
                    short,
                    meta.started.to_string(),
                    match (recording.completed, recording.abandoned) {
                        (_, true) => "node lost",
                        (Some(_), false) => "complete",
                        (None, false) => "uploading",
                    }
                    .to_owned(),
                ]
            }),
        )
    })?;
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
