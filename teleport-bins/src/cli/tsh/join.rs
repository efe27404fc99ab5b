//! `tsh sessions` and `tsh join`.

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use teleport_core::api::{ActiveSessionApi, ApiErrorKind};
use teleport_core::id::SessionId;
use teleport_core::resource::JoinMode;
use teleport_core::target::DialTarget;

use super::super::{Format, session_list};
use super::common::{Context, Resume};
use super::session;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the sessions that run: your own, and those that you may see or join
    Ls {
        /// How to print
        #[arg(short, long, value_enum, default_value_t)]
        format: Format,
    },
}

#[derive(Debug, Args)]
pub(super) struct Join {
    /// As observer, moderator (who may end the session) or peer (who types as well)
    #[arg(short, long, default_value_t = JoinMode::Observer)]
    mode: JoinMode,
    /// Why, for the audit log
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    #[command(flatten)]
    resume: Resume,
    /// The session's id, as `tsh sessions ls` shows it
    session: SessionId,
}

pub(super) async fn sessions(context: &Context, command: Command) -> Result<ExitCode> {
    let Command::Ls { format } = command;
    let profile = context.profile()?;
    session_list::print(&context.api(&profile).active_sessions().await?, format, true)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn run(context: &Context, join: Join) -> Result<ExitCode> {
    let profile = context.profile()?;
    let found = match context.api(&profile).active_session(join.session).await {
        Ok(found) => found,
        Err(error) if error.kind() == ApiErrorKind::NotFound => {
            bail!("no such session runs, or it is not yours to join; `tsh sessions ls` lists those that are")
        }
        Err(error) => return Err(error.into()),
    };
    let (session, modes) = (&found.session, &found.join_modes);
    if session.terminal.is_none() {
        bail!("session {} has no terminal that could be shared", session.id);
    }
    if !modes.contains(&join.mode) {
        let modes: Vec<&str> = modes.iter().map(|mode| mode.as_str()).collect();
        match modes.as_slice() {
            [] => bail!("your roles do not let you join session {}", session.id),
            modes => bail!("your roles let you join session {} as {} only", session.id, modes.join(" or ")),
        }
    }
    let target: DialTarget = found.host_id.to_string().parse()?;
    let client = context.ssh(&profile, &join.resume);
    let proxy = client.proxy(&profile.ssh_address).await?;
    let node = client.visit(proxy, &target).await.context(format!("node {}", found.host_name))?;
    let keys = match join.mode {
        JoinMode::Peer => "what you type goes into it; leave with ~. at the beginning of a line",
        JoinMode::Moderator => "Ctrl-C leaves, t ends the session for all",
        _ => "Ctrl-C leaves",
    };
    eprintln!("Joining the session of {} on {}: {keys}.", session.user, found.host_name);
    let code = session::join(&node, session.id, join.mode, &join.reason).await?;
    node.disconnect().await;
    Ok(ExitCode::from(code))
}
