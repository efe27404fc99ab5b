//! `tctl audit`: proving that the log is whole.

mod recordings;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use teleport_backend::audit::file::{Observed, VerifyError, log_of, verify};
use teleport_core::audit::chain::{
    ChainHead, CheckpointKey, Finding, Flaw, LogOwner, Proven, StoredCheckpoint, Verifier,
};
use teleport_core::clock::{Clock, SystemClock};
use teleport_core::id::HostId;
use tokio::runtime::Handle;

use self::recordings::{Counts, Recordings};
use super::super::{print_json, print_text};
use super::events::parse_time;
use super::{Options, connect};

/// The exit status when nothing is wrong as far as it can be known, and nothing is proven.
const NOT_PROVEN: u8 = 3;
/// How a file of keys differs from a key.
const KEY_HINT: &str = "as `tctl auth export --type=audit` prints it";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Prove that nothing was removed from the audit log, put into it, reordered or changed; or tell the first bad entry
    ///
    /// On the auth host it takes the log's files, the keys and the newest checkpoint from there. With --key it needs no auth
    /// service: copy the files anywhere, and say --dir. What was cut off behind the last checkpoint cannot be noticed.
    /// Exits with 0 when the log is proven, with 1 when something is wrong, and with 3 when there is nothing that would prove it.
    Verify(Verify),
}

#[derive(Debug, Args)]
pub(super) struct Verify {
    /// The files of the log [default: those of the auth service of this host]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The key that signs checkpoints: a file, or the base64 itself, as `tctl auth export --type=audit` prints it
    #[arg(long, value_name = "FILE|BASE64")]
    key: Vec<String>,
    /// Begin with the file of this day: what was before is not looked at
    #[arg(long, value_name = "DAY", value_parser = parse_time)]
    from: Option<super::events::When>,
    /// The log has this entry, as an earlier verification printed it
    #[arg(long, value_name = "INDEX:DIGEST")]
    expect: Vec<ChainHead>,
    /// Compare recordings with the digests in the log: those of the auth service of this host, or those of a directory or bucket
    #[arg(long, value_name = "DIR|URI", num_args = 0..=1)]
    recordings: Option<Option<String>>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One JSON object.
    Json,
    /// Sentences.
    #[default]
    Text,
}

pub(super) async fn run(options: &Options, command: Command) -> Result<ExitCode> {
    let Command::Verify(wanted) = command;
    let mut keys = keys(&wanted.key)?;
    let dir = match &wanted.dir {
        Some(dir) => dir.clone(),
        None => connect::audit_dir(options)?,
    };
    let mut known = Known::default();
    if keys.is_empty() {
        let context = connect::connect(options).with_context(|| {
            format!("without the auth service say which key signs the log: --key=<file>, {KEY_HINT}")
        })?;
        let anchors = context.api.audit_anchors().await.map_err(|error| context.explain(error.into()))?;
        keys = anchors.keys;
        let here = wanted.dir.is_none().then(|| connect::auth_host(options)).flatten();
        known = Known::of(anchors.checkpoints, here, &dir)?;
    }
    let now = SystemClock::new().now();
    let from = wanted.from.map(|from| from.at(now));
    let mut verifier = Verifier::new(keys);
    for checkpoint in known.expected.iter().filter(|known| from.is_none_or(|from| known.time >= from)) {
        let how = format!("signed at {}, as the storage of the cluster remembers", checkpoint.time);
        verifier.expect(Some(checkpoint.log), checkpoint.head, how);
    }
    for head in wanted.expect {
        verifier.expect(None, head, "said with --expect");
    }
    let recordings = match wanted.recordings {
        None => None,
        Some(place) => Some(Recordings::open(options, place.as_deref()).await?),
    };
    let progress = Progress::new();
    let handle = Handle::current();
    let path = dir.clone();
    let outcome = tokio::task::spawn_blocking(move || {
        let mut recordings = recordings;
        let mut progress = progress;
        let outcome = verify(&path, verifier, from, &mut |observed| {
            match observed {
                Observed::Entry(entry) => {
                    if let Some(recordings) = &mut recordings {
                        handle.block_on(recordings.check(&entry))?;
                    }
                }
                Observed::Progress(done, total) => progress.show(done, total),
                _ => {}
            }
            Ok(())
        });
        progress.clear();
        (outcome, recordings)
    });
    let (outcome, recordings) = outcome.await?;
    let finding = match outcome {
        Ok(proven) if proven.head.is_some() => {
            match wanted.format {
                Format::Json => {
                    let recordings = recordings.as_ref().map(Recordings::counts);
                    let verdict = Verdict::Whole;
                    print_json(&Report {
                        ok: true,
                        verdict,
                        proven: Some(&proven),
                        recordings,
                        finding: None,
                        service: known.service.as_ref(),
                        others: &known.others,
                    })?;
                }
                Format::Text => print_text(&text(&proven, recordings.as_ref(), &dir, &known))?,
            }
            return Ok(ExitCode::SUCCESS);
        }
        Ok(_) => None,
        Err(VerifyError::Found(finding)) => Some(finding),
        Err(error) => {
            return Err(error)
                .with_context(|| format!("{}: is this the directory of an audit log?", dir.display()));
        }
    };
    let verdict = match &finding {
        None => Verdict::Empty,
        Some(Finding { flaw: Flaw::Unsigned, .. }) => Verdict::Unsigned,
        Some(_) => Verdict::Broken,
    };
    if wanted.format == Format::Json {
        let finding = finding.as_ref().map(|finding| Described {
            file: &finding.file,
            line: finding.line,
            index: finding.index,
            what: finding.flaw.to_string(),
        });
        print_json(&Report {
            ok: false,
            verdict,
            proven: None,
            recordings: None,
            finding,
            service: known.service.as_ref(),
            others: &known.others,
        })?;
    }
    match (verdict, finding) {
        (Verdict::Empty, _) => {
            eprintln!("ERROR: nothing is proven: there is no audit log in {}", dir.display())
        }
        (Verdict::Unsigned, Some(finding)) => eprintln!(
            "ERROR: nothing is proven: {finding}; whoever can write its files could have made all of it anew"
        ),
        (_, Some(finding)) => bail!("the audit log is not whole: {finding}"),
        (_, None) => {}
    }
    Ok(ExitCode::from(NOT_PROVEN))
}

fn keys(said: &[String]) -> Result<Vec<CheckpointKey>> {
    let mut keys = Vec::new();
    for key in said {
        if let Ok(key) = key.parse() {
            keys.push(key);
            continue;
        }
        let text =
            std::fs::read_to_string(key).with_context(|| format!("--key: {key} is no key and no file"))?;
        keys.extend(
            CheckpointKey::all(&text).with_context(|| format!("--key: {key} has no key {KEY_HINT}"))?,
        );
    }
    Ok(keys)
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    /// Something is wrong with it.
    Broken,
    /// There is none.
    Empty,
    /// It is a chain that nobody has signed.
    Unsigned,
    /// It is proven.
    Whole,
}

#[derive(Serialize)]
struct Report<'a> {
    ok: bool,
    verdict: Verdict,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    proven: Option<&'a Proven>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recordings: Option<Counts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finding: Option<Described<'a>>,
    /// Whose log it is, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<&'a LogOwner>,
    /// Logs of the cluster that this says nothing about.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    others: &'a [StoredCheckpoint],
}

/// What the storage of the cluster remembers of its logs.
#[derive(Debug, Default)]
struct Known {
    /// Whose log is looked at.
    service: Option<LogOwner>,
    /// What has to be in it.
    expected: Vec<StoredCheckpoint>,
    /// The newest of each other service.
    others: Vec<StoredCheckpoint>,
}

impl Known {
    /// Each auth service has a log of its own. That in `dir` is of the service `here`, or else of the one that has the log which the files
    /// say they are.
    fn of(all: Vec<StoredCheckpoint>, here: Option<HostId>, dir: &Path) -> Result<Self> {
        let service_of = |known: &StoredCheckpoint| known.owner.as_ref().map(|owner| owner.service);
        let services: BTreeSet<HostId> = all.iter().filter_map(service_of).collect();
        let service = match here {
            _ if services.len() < 2 && here.is_none() => None,
            Some(here) => Some(here),
            None => {
                let log = log_of(dir)
                    .with_context(|| format!("{}: is this the directory of an audit log?", dir.display()))?;
                let own = all.iter().find(|known| Some(known.log) == log).and_then(service_of);
                Some(own.with_context(|| {
                    format!(
                        "the log in {} is of none of the cluster's {} auth services, as its storage remembers them; \
                         to prove what is in the files alone, say --key=<file>, {KEY_HINT}",
                        dir.display(),
                        services.len()
                    )
                })?)
            }
        };
        // What an older release remembered does not say whose it is.
        let is_own = |known: &StoredCheckpoint| {
            service.is_none() || service_of(known).is_none_or(|its| Some(its) == service)
        };
        let (expected, others): (Vec<_>, Vec<_>) = all.into_iter().partition(is_own);
        let mut newest: BTreeMap<Option<HostId>, StoredCheckpoint> = BTreeMap::new();
        for known in others {
            match newest.get(&service_of(&known)) {
                Some(newer) if newer.time >= known.time => {}
                _ => drop(newest.insert(service_of(&known), known)),
            }
        }
        let owner = expected.iter().filter_map(|known| known.owner.clone()).next_back();
        Ok(Self { service: owner, expected, others: newest.into_values().collect() })
    }

    fn text(&self) -> Vec<String> {
        if self.others.is_empty() {
            return Vec::new();
        }
        let mut lines = vec![
            "This says nothing of the logs of the cluster's other auth services, which are proven where they are:"
                .to_owned(),
        ];
        lines.extend(self.others.iter().map(|known| {
            let owner = known.owner.as_ref();
            let name = owner.map_or_else(String::new, |own| format!("{} ({})", own.name, own.service));
            format!("  {name}, signed last at {}", known.time)
        }));
        lines
    }
}

#[derive(Serialize)]
struct Described<'a> {
    file: &'a str,
    line: u64,
    index: Option<u64>,
    what: String,
}

fn plural(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn text(proven: &Proven, recordings: Option<&Recordings>, dir: &Path, known: &Known) -> String {
    let (Some(first), Some(head)) = (proven.first, proven.head) else {
        return format!("There is no audit log in {}.", dir.display());
    };
    // With one service its log is that of the cluster.
    let of = match &known.service {
        Some(owner) if !known.others.is_empty() => format!("{} in ", owner.name),
        _ => String::new(),
    };
    let mut lines = vec![format!(
        "The audit log of {of}{} is whole: {}, from entry {first} to {}, with {}.",
        if proven.cluster.is_empty() { "this cluster" } else { &proven.cluster },
        plural(proven.entries, "entry").replace("entrys", "entries"),
        head.index,
        plural(proven.checkpoints, "checkpoint"),
    )];
    if let (Some(signed), Some(time)) = (proven.signed, proven.signed_at) {
        lines.push(match proven.unsigned {
            0 => format!("All of it is signed, at {time}."),
            unsigned => format!(
                "It is signed up to entry {}, at {time}; the {unsigned} behind are in order, and whether others were cut off behind \
                 them is shown by the next checkpoint.",
                signed.index
            ),
        });
    }
    if first > 0 {
        lines.push(format!("Entries before {first} were removed by retention, or left out by --from."));
    }
    if proven.interrupted > 0 {
        lines.push(format!(
            "The writer was interrupted {}; what it had not acknowledged is accounted for:",
            plural(proven.interrupted, "time")
        ));
        for place in &proven.interruptions {
            lines.push(format!("  {}, line {}: {} bytes", place.file, place.line, place.bytes));
        }
    }
    if let Some(recordings) = recordings {
        lines.push(recordings.text());
    }
    lines.extend(known.text());
    lines.push(format!("To prove later that this log was only continued: --expect={head}"));
    lines.join("\n")
}

/// A bar on the terminal, if there is one.
struct Progress {
    shown: Option<u64>,
    terminal: bool,
}

impl Progress {
    fn new() -> Self {
        Self { shown: None, terminal: std::io::stderr().is_terminal() }
    }

    fn show(&mut self, done: u64, total: u64) {
        let percent = done.saturating_mul(100).checked_div(total).unwrap_or(100);
        if self.terminal && self.shown != Some(percent) {
            self.shown = Some(percent);
            let full = usize::try_from(percent / 4).unwrap_or_default();
            let mib = done >> 20;
            let _ = write!(std::io::stderr(), "\r[{:<25}] {percent:3} % ({mib} MiB)", "#".repeat(full));
        }
    }

    fn clear(&mut self) {
        if self.shown.take().is_some() {
            let _ = write!(std::io::stderr(), "\r{:60}\r", "");
        }
    }
}
