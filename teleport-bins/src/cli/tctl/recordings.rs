//! `tctl recordings`.

use anyhow::{Result, bail};
use clap::Subcommand;
use teleport_core::api::{ApiErrorKind, AuthApi, RecordingQuery};
use teleport_core::clock::{Clock, SystemClock, Timestamp};
use teleport_core::id::SessionId;
use teleport_core::recording::{Encoding, RecordingInfo};

use super::super::recordings::{self, Export, Ls, Progress, Rm};
use super::Context;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Write recordings into files
    Export(Export),
    /// Keep a recording from being deleted, by anybody and by retention, until it is released
    Hold {
        /// The session's id
        session: SessionId,
        /// Why, for the audit log and for whoever wants to delete it
        #[arg(long)]
        reason: Option<String>,
    },
    /// List recordings, newest first
    Ls(Ls),
    /// Let a recording that was held be deleted again
    Release {
        /// The session's id
        session: SessionId,
        /// Why, for the audit log
        #[arg(long)]
        reason: Option<String>,
    },
    /// Make encrypted recordings readable for the recipients of the configuration, and for nobody else
    Rewrap {
        /// The sessions' ids [default: all]
        #[arg(value_name = "ID")]
        sessions: Vec<SessionId>,
    },
    /// Delete recordings
    Rm(Rm),
}

pub(super) async fn run(context: &Context, command: Command) -> Result<()> {
    let api = &*context.api;
    match command {
        Command::Export(export) => return recordings::export(api, &export).await,
        Command::Ls(ls) => return recordings::ls(api, &ls, SystemClock::new().now()).await,
        Command::Rm(rm) => return recordings::rm(api, &rm).await,
        Command::Hold { session, reason } => {
            let asked = reason.clone();
            let hold = api.hold_recording(session, reason).await?.hold;
            match hold {
                Some(hold) if hold.reason != asked => println!(
                    "Recording {session} was held before, by {} since {}; nothing has changed",
                    hold.by, hold.since
                ),
                _ => println!("Recording {session} is held; `tctl recordings release {session}` ends that"),
            }
        }
        Command::Release { session, reason } => {
            api.release_recording(session, reason).await?;
            println!("Recording {session} is not held any more");
        }
        Command::Rewrap { sessions } => return rewrap(api, sessions).await,
    }
    Ok(())
}

/// Every complete encrypted recording.
async fn encrypted(api: &dyn AuthApi) -> Result<Vec<SessionId>> {
    let mut query = RecordingQuery { from: Some(Timestamp::EPOCH), limit: 1000, ..RecordingQuery::default() };
    let mut found = Vec::new();
    loop {
        let page = api.recordings(query.clone()).await?;
        let Some(last) = page.last().map(RecordingInfo::place) else { return Ok(found) };
        query.after = Some(last);
        let wanted = page.iter().filter(|info| info.encoding == Encoding::Age && info.completed.is_some());
        found.extend(wanted.map(|info| info.meta.session));
    }
}

async fn rewrap(api: &dyn AuthApi, sessions: Vec<SessionId>) -> Result<()> {
    let sessions = if sessions.is_empty() { encrypted(api).await? } else { sessions };
    let (mut changed, mut failed) = (0, 0);
    let mut progress = Progress::new();
    for (done, session) in (0..).zip(&sessions) {
        progress.at("recordings", done, sessions.len() as u64);
        match api.rewrap_recording(*session).await {
            Ok(is_new) => changed += usize::from(is_new),
            // One that cannot be read, or is gone meanwhile, must not keep the others from it.
            Err(error) if matches!(error.kind(), ApiErrorKind::Conflict | ApiErrorKind::NotFound) => {
                progress.end();
                eprintln!("Recording {session} stays as it is: {error}");
                failed += 1;
            }
            Err(error) => return Err(error.into()),
        }
    }
    progress.end();
    println!("{changed} of {} encrypted recordings have new recipients", sessions.len());
    if failed > 0 {
        bail!("{failed} recordings have the recipients that they had");
    }
    Ok(())
}
