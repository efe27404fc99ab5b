//! `tctl events`.

use std::collections::BTreeSet;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use teleport_core::audit::{AuditEvent, AuditQuery, EventKind};
use teleport_core::clock::{Clock, SystemClock, Timestamp};

use super::super::{Format, sanitize, table};
use super::{Context, ttl};
use crate::config::parse_duration;

/// The events that are asked for at a time.
const PAGE: usize = 1000;
/// After which time a search says that it goes on.
const SLOW: Duration = Duration::from_secs(2);

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Search the audit log, newest first
    #[command(alias = "ls")]
    Search(Search),
}

/// A time, or one before now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    At(Timestamp),
    Ago(Duration),
    /// The beginning of a day (UTC): so many days ago.
    Day(u64),
}

impl When {
    /// The time, if it is `now`.
    pub(super) fn at(self, now: Timestamp) -> Timestamp {
        const DAY: u64 = 24 * 3600;
        match self {
            Self::At(time) => time,
            Self::Ago(ago) => now.saturating_sub(ago),
            Self::Day(before) => {
                let today = now.unix_secs() / DAY;
                Timestamp::from_unix_secs(today.saturating_sub(before).saturating_mul(DAY))
            }
        }
    }
}

/// Reads `2026-11-21T08:00:00Z`, `2026-11-21`, `-1h`, `today`, `yesterday`, `now`.
pub(super) fn parse_time(text: &str) -> Result<When, String> {
    let wrong = || {
        format!(
            "{text:?} is not a time; write it like 2026-11-21T08:00:00Z, 2026-11-21, -1h30m, today or yesterday"
        )
    };
    match text {
        "now" => return Ok(When::Ago(Duration::ZERO)),
        "today" => return Ok(When::Day(0)),
        "yesterday" => return Ok(When::Day(1)),
        _ => {}
    }
    if let Some(ago) = text.strip_prefix('-') {
        return parse_duration(ago).map(When::Ago).map_err(|_| wrong());
    }
    let midnight = format!("{text}T00:00:00Z");
    text.parse().or_else(|_| midnight.parse()).map(When::At).map_err(|_| wrong())
}

/// Reads the name or the code of an event.
fn parse_type(text: &str) -> Result<String, String> {
    let known = |kind: &&EventKind| kind.name() == text || kind.code() == text;
    if EventKind::ALL.iter().any(|kind| known(&kind)) {
        return Ok(text.to_owned());
    }
    let names = EventKind::ALL.iter().flat_map(|kind| [kind.name(), kind.code()]);
    let nearest = names.min_by_key(|name| strsim::damerau_levenshtein(text, name)).unwrap_or_default();
    Err(format!("no event has the name or the code {text:?}; did you mean {nearest}?"))
}

#[derive(Debug, Args)]
pub(super) struct Search {
    /// Only events of the last hours or days, such as 24h
    #[arg(long, value_parser = ttl, conflicts_with = "from")]
    last: Option<Duration>,
    /// Not before this time: 2026-11-21T08:00:00Z, 2026-11-21, -1h, today
    #[arg(long, alias = "from-utc", value_name = "TIME", value_parser = parse_time, allow_hyphen_values = true)]
    from: Option<When>,
    /// Before this time
    #[arg(long, alias = "to-utc", value_name = "TIME", value_parser = parse_time, allow_hyphen_values = true)]
    to: Option<When>,
    /// Only these events, by name or code, such as session.start,T1000W
    #[arg(long = "type", value_name = "NAME|CODE", value_delimiter = ',', value_parser = parse_type)]
    events: Vec<String>,
    /// Only events of this user
    #[arg(long)]
    user: Option<String>,
    /// Only events of this session
    #[arg(long)]
    session: Option<String>,
    /// Only events that this host reported, or that are about it: its name or id
    #[arg(long, value_name = "NAME|ID")]
    node: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = 100)]
    limit: usize,
    /// All of them, page by page
    #[arg(long, conflicts_with = "limit")]
    all: bool,
    /// Newest first, as is the default
    #[arg(long, conflicts_with = "oldest")]
    newest: bool,
    /// Oldest first
    #[arg(long, alias = "oldest-first")]
    oldest: bool,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    format: EventFormat,
}

/// How events are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum EventFormat {
    /// A JSON array.
    Json,
    /// An event a line, as in the log; with --all as they come.
    Jsonl,
    /// A table; with --all a line for each, as they come.
    #[default]
    Text,
    /// YAML.
    Yaml,
}

pub(super) async fn run(context: &Context, command: Command) -> Result<()> {
    let Command::Search(search) = command;
    if search.limit == 0 {
        bail!("--limit must be at least 1");
    }
    let now = SystemClock::new().now();
    let from = search.from.map(|from| from.at(now));
    let limit = if search.all { usize::MAX } else { search.limit };
    let mut query = AuditQuery {
        from: from.or(search.last.map(|last| now.saturating_sub(last))),
        to: search.to.map(|to| to.at(now)),
        events: search.events,
        user: search.user,
        session: search.session,
        node: search.node,
        limit: 0,
        newest_first: !search.oldest,
        after: None,
    };
    if let (Some(from), Some(to)) = (query.from, query.to)
        && from >= to
    {
        bail!("--from ({from}) is not before --to ({to})");
    }
    let mut slow = SlowNote::new();
    let mut events = Vec::new();
    let mut count: usize = 0;
    let mut doubts = BTreeSet::new();
    loop {
        query.limit = limit.saturating_sub(count).min(PAGE);
        let page = context.api.search_events(query.clone()).await?;
        count = count.saturating_add(page.events.len());
        doubts.extend(page.incomplete);
        let streams = search.all && matches!(search.format, EventFormat::Jsonl | EventFormat::Text);
        if streams {
            slow.clear();
            if !stream(search.format, &page.events)? {
                return Ok(());
            }
        } else {
            events.extend(page.events);
        }
        match page.next {
            Some(next) if count < limit => query.after = Some(next),
            next => {
                slow.clear();
                if next.is_some() && std::io::stderr().is_terminal() {
                    eprintln!("There are more: say --limit, --all, or a shorter time.");
                }
                break;
            }
        }
        slow.show(count);
    }
    for doubt in doubts {
        eprintln!("warning: events may be missing: {}", sanitize(&doubt));
    }
    match search.format {
        _ if search.all && matches!(search.format, EventFormat::Jsonl | EventFormat::Text) => Ok(()),
        EventFormat::Json => Format::Json.print(&events, String::new),
        EventFormat::Yaml => Format::Yaml.print(&events, String::new),
        EventFormat::Jsonl => stream(EventFormat::Jsonl, &events).map(drop),
        EventFormat::Text => Format::Text.print(&events, || list(&events)),
    }
}

/// Writes events as they come. `false` if nobody reads them.
fn stream(format: EventFormat, events: &[AuditEvent]) -> Result<bool> {
    let mut out = Vec::new();
    for event in events {
        if format == EventFormat::Jsonl {
            serde_json::to_writer(&mut out, event)?;
            out.push(b'\n');
        } else {
            let [time, code, name, user, details] = row(event);
            let line =
                [time, code, name, if user.is_empty() { "-".to_owned() } else { user }, details].join(" ");
            out.extend_from_slice(sanitize(line.trim_end()).as_bytes());
            out.push(b'\n');
        }
    }
    match std::io::stdout().write_all(&out) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        written => Ok(written.map(|()| true)?),
    }
}

/// Says on a terminal that a search goes on.
struct SlowNote {
    since: tokio::time::Instant,
    shown: bool,
}

impl SlowNote {
    fn new() -> Self {
        Self { since: tokio::time::Instant::now(), shown: false }
    }

    fn show(&mut self, found: usize) {
        if self.since.elapsed() >= SLOW && std::io::stderr().is_terminal() {
            self.shown = true;
            let secs = self.since.elapsed().as_secs();
            let _ = write!(std::io::stderr(), "\rsearching for {secs} s, {found} events so far ");
        }
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            let _ = write!(std::io::stderr(), "\r{:60}\r", "");
        }
    }
}

fn row(event: &AuditEvent) -> [String; 5] {
    let mut details = Vec::new();
    let mut add = |name: &str, value: Option<String>| {
        details.extend(value.map(|value| format!("{name}={value}")));
    };
    add("login", event.login.clone());
    add("node", event.server_hostname.as_ref().map(ToString::to_string));
    add("sid", event.sid.map(|session| session.to_string()));
    add("command", event.fields.get("command").map(ToString::to_string));
    add("from", event.remote.map(|address| address.to_string()));
    for name in ["target", "message", "name"].into_iter().filter(|_| event.event.starts_with("lock.")) {
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
}

fn list(events: &[AuditEvent]) -> String {
    if events.is_empty() {
        return "No events".to_owned();
    }
    table(["Time (UTC)", "Code", "Event", "User", "Details"], events.iter().map(row))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn times_are_written_in_several_ways() {
        let now: Timestamp = "2026-11-21T12:34:56Z".parse().unwrap();
        for (text, time) in [
            ("2026-11-20T08:00:00Z", "2026-11-20T08:00:00Z"),
            ("2026-11-20T08:00:00+02:00", "2026-11-20T06:00:00Z"),
            ("2026-11-20", "2026-11-20T00:00:00Z"),
            ("-1h30m", "2026-11-21T11:04:56Z"),
            ("today", "2026-11-21T00:00:00Z"),
            ("yesterday", "2026-11-20T00:00:00Z"),
            ("now", "2026-11-21T12:34:56Z"),
        ] {
            assert_eq!(parse_time(text).unwrap().at(now), time.parse().unwrap(), "{text}");
        }
        for bad in ["", "-", "1h", "tomorrow", "2026-13-01", "21.11.2026", "--1h"] {
            assert!(parse_time(bad).unwrap_err().contains("2026-11-21"), "{bad}");
        }
    }

    #[test]
    fn types_are_names_or_codes() {
        assert_eq!(parse_type("session.start").unwrap(), "session.start");
        assert_eq!(parse_type("T1000W").unwrap(), "T1000W");
        assert!(parse_type("session.strat").unwrap_err().contains("did you mean session.start?"));
    }
}
