//! `tctl events`.

use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use teleport_core::audit::{AuditEvent, AuditQuery};
use teleport_core::clock::{Clock, SystemClock, Timestamp};

use super::super::{Format, table};
use super::{Context, ttl};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Search the audit log, newest first
    #[command(alias = "ls")]
    Search(Search),
}

#[derive(Debug, Args)]
pub(super) struct Search {
    /// Only events of the last hours or days, such as 24h
    #[arg(long, value_parser = ttl, conflicts_with = "from_utc")]
    last: Option<Duration>,
    /// Not before this time, as 2026-11-21T00:00:00Z
    #[arg(long)]
    from_utc: Option<Timestamp>,
    /// Before this time
    #[arg(long)]
    to_utc: Option<Timestamp>,
    /// Only these events, such as session.start,user.login
    #[arg(long = "type", value_delimiter = ',')]
    events: Vec<String>,
    /// Only events of this user
    #[arg(long)]
    user: Option<String>,
    /// Only events of this session
    #[arg(long)]
    session: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = 100)]
    limit: usize,
    /// Oldest first
    #[arg(long)]
    oldest_first: bool,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    format: Format,
}

pub(super) async fn run(context: &Context, command: Command) -> Result<()> {
    let Command::Search(search) = command;
    if search.limit == 0 {
        bail!("--limit must be at least 1");
    }
    let now = SystemClock::new().now();
    let mut query = AuditQuery {
        from: search.from_utc.or(search.last.map(|last| now.saturating_sub(last))),
        to: search.to_utc,
        events: search.events,
        user: search.user,
        session: search.session,
        limit: search.limit,
        newest_first: !search.oldest_first,
        after: None,
    };
    let mut events = Vec::new();
    loop {
        query.limit = (search.limit - events.len()).min(1000);
        let page = context.api.search_events(query.clone()).await?;
        events.extend(page.events);
        match page.next {
            Some(next) if events.len() < search.limit => query.after = Some(next),
            _ => break,
        }
    }
    search.format.print(&events, || list(&events))
}

fn list(events: &[AuditEvent]) -> String {
    if events.is_empty() {
        return "No events".to_owned();
    }
    table(
        ["Time (UTC)", "Code", "Event", "User", "Details"],
        events.iter().map(|event| {
            let mut details = Vec::new();
            let mut add = |name: &str, value: Option<String>| {
                details.extend(value.map(|value| format!("{name}={value}")));
            };
            add("login", event.login.clone());
            add("node", event.server_hostname.as_ref().map(ToString::to_string));
            add("sid", event.sid.map(|session| session.to_string()));
            add("command", event.fields.get("command").map(ToString::to_string));
            add("from", event.remote.map(|address| address.to_string()));
            for name in ["target", "message", "name"].into_iter().filter(|_| event.event.starts_with("lock."))
            {
                let text = event.fields.get(name).and_then(|value| value.as_str());
                add(name, text.filter(|text| !text.is_empty()).map(str::to_owned));
            }
            add("error", event.error.clone());
            [
                event.time.to_string(),
                event.code.code().to_owned(),
                event.event.clone(),
                event.user.clone().unwrap_or_default(),
                details.join(" "),
            ]
        }),
    )
}
