//! What `tsh recordings` and `tctl recordings` have in common.

mod export;

use std::io::IsTerminal;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use teleport_core::api::{AuthApi, RecordingQuery};
use teleport_core::clock::Timestamp;
use teleport_core::id::{OsLogin, SessionId, UserName};
use teleport_core::recording::{Encoding, RecordingInfo};

pub(super) use self::export::{Export, run as export};
use super::{Format, table};
use crate::config::parse_duration;

/// The most recordings of one answer of the auth service.
const PAGE: usize = 1000;

/// Which recordings to list.
#[derive(Debug, Args)]
pub(super) struct Ls {
    /// Of the last hours or days
    #[arg(long, default_value = "24h", value_parser = |text: &str| parse_duration(text))]
    last: Duration,
    /// Began not before this time, as 2026-11-21T00:00:00Z
    #[arg(long, value_name = "TIME")]
    from_utc: Option<Timestamp>,
    /// Began before this time
    #[arg(long, value_name = "TIME")]
    to_utc: Option<Timestamp>,
    /// In which this user took part
    #[arg(long)]
    user: Option<UserName>,
    /// With this login
    #[arg(long)]
    login: Option<OsLogin>,
    /// On this node: its name or its id
    #[arg(long)]
    node: Option<String>,
    /// Only those that are held
    #[arg(long)]
    held: bool,
    /// At most so many
    #[arg(long, default_value_t = 50)]
    limit: usize,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    format: Format,
}

/// Which recordings to delete.
#[derive(Debug, Args)]
pub(super) struct Rm {
    /// The sessions' ids
    #[arg(required = true, value_name = "ID")]
    sessions: Vec<SessionId>,
    /// Why, for the audit log
    #[arg(long)]
    reason: Option<String>,
    /// Without being asked
    #[arg(short, long)]
    force: bool,
}

/// The recordings that are asked for, newest first, page by page.
async fn listed(api: &dyn AuthApi, ls: &Ls, now: Timestamp) -> Result<Vec<RecordingInfo>> {
    let mut query = RecordingQuery {
        from: Some(ls.from_utc.unwrap_or_else(|| now.saturating_sub(ls.last))),
        to: ls.to_utc,
        user: ls.user.clone(),
        login: ls.login.clone(),
        node: ls.node.clone(),
        ..RecordingQuery::default()
    };
    let mut listed: Vec<RecordingInfo> = Vec::new();
    while listed.len() < ls.limit {
        // Those that are not held are not told apart by the service.
        query.limit = if ls.held { PAGE } else { PAGE.min(ls.limit - listed.len()) };
        let page = api.recordings(query.clone()).await?;
        let last = page.last().map(RecordingInfo::place);
        let is_end = page.len() < query.limit;
        listed.extend(page.into_iter().filter(|info| !ls.held || info.hold.is_some()));
        query.after = last;
        if is_end {
            break;
        }
    }
    listed.truncate(ls.limit);
    Ok(listed)
}

pub(super) async fn ls(api: &dyn AuthApi, ls: &Ls, now: Timestamp) -> Result<()> {
    if ls.limit == 0 {
        bail!("--limit is a number from 1 on");
    }
    let recordings = listed(api, ls, now).await?;
    ls.format.print(&recordings, || {
        if recordings.is_empty() {
            return "No recordings".to_owned();
        }
        table(
            ["ID", "User", "Login", "Hostname", "Command", "Started (UTC)", "Size", "State"],
            recordings.iter().map(|info| {
                let meta = &info.meta;
                let command = meta.command.clone().unwrap_or_else(|| "(shell)".to_owned());
                let users: Vec<&str> =
                    std::iter::once(&meta.user).chain(&info.participants).map(UserName::as_str).collect();
                [
                    meta.session.to_string(),
                    users.join(","),
                    meta.login.to_string(),
                    meta.host_name.to_string(),
                    command.chars().take(40).collect(),
                    meta.started.to_string(),
                    human_size(info.len),
                    state(info),
                ]
            }),
        )
    })?;
    Ok(())
}

fn state(info: &RecordingInfo) -> String {
    let mut words = vec![match (info.completed, info.abandoned) {
        (None, _) => "uploading",
        (Some(_), true) => "abandoned",
        (Some(_), false) => "complete",
    }];
    if info.hold.is_some() {
        words.push("held");
    }
    if info.encoding == Encoding::Age {
        words.push("encrypted");
    }
    words.join(", ")
}

/// A size as people read it.
pub(super) fn human_size(bytes: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match units.into_iter().find(|(_, bits)| bytes >> bits > 0) {
        Some((unit, bits)) => {
            let tenths = (u128::from(bytes) * 10) >> bits;
            format!("{}.{} {unit}", tenths / 10, tenths % 10)
        }
        None => format!("{bytes} B"),
    }
}

pub(super) async fn rm(api: &dyn AuthApi, rm: &Rm) -> Result<()> {
    let what = match &rm.sessions[..] {
        [one] => format!("recording {one}"),
        many => format!("{} recordings", many.len()),
    };
    if !rm.force && !confirmed(&format!("Delete {what} for good?"))? {
        bail!("nothing was deleted");
    }
    for session in &rm.sessions {
        api.delete_recording(*session, rm.reason.clone()).await?;
        println!("Recording {session} has been deleted");
    }
    Ok(())
}

/// Asks on the terminal.
fn confirmed(question: &str) -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        bail!("{question} There is no terminal to ask on; say --force");
    }
    eprint!("{question} [y/N] ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// How far something is, on one line of the terminal; nothing where there is none.
#[derive(Debug)]
pub(super) struct Progress {
    shows: bool,
    percent: Option<u64>,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self { shows: std::io::stderr().is_terminal(), percent: None }
    }

    pub(super) fn at(&mut self, what: &str, done: u64, all: u64) {
        let percent = done.saturating_mul(100).checked_div(all).unwrap_or(100).min(100);
        if self.shows && self.percent != Some(percent) {
            let filled = usize::try_from(percent / 5).unwrap_or(20);
            eprint!("\r\x1b[K{what} [{:<20}] {percent:>3} %", "#".repeat(filled));
            self.percent = Some(percent);
        }
    }

    /// Takes the line away.
    pub(super) fn end(&mut self) {
        if self.shows && self.percent.take().is_some() {
            eprint!("\r\x1b[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_readable() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1 << 20, "1.0 MiB"),
            ((1 << 20) - 1, "1023.9 KiB"),
            (u64::MAX, "17179869183.9 GiB"),
        ] {
            assert_eq!(human_size(bytes), text);
        }
    }
}
