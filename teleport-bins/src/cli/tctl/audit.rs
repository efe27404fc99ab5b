//! `tctl audit`: proving that the log is whole.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};
use teleport_backend::audit::file::{Observed, VerifyError, verify};
use teleport_backend::recordings::fs::FsRecordingStore;
use teleport_core::audit::EventKind;
use teleport_core::audit::chain::{
    ChainHead, CheckpointKey, Digest, Entry, Finding, Flaw, Hasher, Proven, Verifier,
};
use teleport_core::clock::{Clock, SystemClock};
use teleport_core::id::SessionId;
use teleport_core::recording::{RecordingError, RecordingStore};
use tokio::runtime::Handle;

use super::super::{print_json, print_text};
use super::events::parse_time;
use super::{Options, connect};

/// How much of a recording is read at a time.
const PIECE: usize = 1 << 20;
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
    /// Compare recordings with the digests in the log: those of the auth service of this host, or those in DIR
    #[arg(long, value_name = "DIR", num_args = 0..=1)]
    recordings: Option<Option<PathBuf>>,
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
        None => connect::audit_and_recordings(options)?.0,
    };
    let mut known = Vec::new();
    if keys.is_empty() {
        let context = connect::connect(options).with_context(|| {
            format!("without the auth service say which key signs the log: --key=<file>, {KEY_HINT}")
        })?;
        let anchors = context.api.audit_anchors().await.map_err(|error| context.explain(error.into()))?;
        keys = anchors.keys;
        known = anchors.checkpoints;
    }
    let now = SystemClock::new().now();
    let from = wanted.from.map(|from| from.at(now));
    let mut verifier = Verifier::new(keys);
    for checkpoint in known.iter().filter(|known| from.is_none_or(|from| known.time >= from)) {
        let how = format!("signed at {}, as the storage of the cluster remembers", checkpoint.time);
        verifier.expect(Some(checkpoint.log), checkpoint.head, how);
    }
    for head in wanted.expect {
        verifier.expect(None, head, "said with --expect");
    }
    let recordings = match wanted.recordings {
        None => None,
        Some(dir) => {
            let dir = match dir {
                Some(dir) => dir,
                None => connect::audit_and_recordings(options)?.1,
            };
            Some(Recordings::open(&dir)?)
        }
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
                    })?;
                }
                Format::Text => print_text(&text(&proven, recordings.as_ref(), &dir))?,
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
        print_json(&Report { ok: false, verdict, proven: None, recordings: None, finding })?;
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
}

#[derive(Serialize)]
struct Described<'a> {
    file: &'a str,
    line: u64,
    index: Option<u64>,
    what: String,
}

#[derive(Clone, Copy, Serialize)]
struct Counts {
    whole: u64,
    absent: u64,
    unbound: u64,
}

fn plural(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn text(proven: &Proven, recordings: Option<&Recordings>, dir: &Path) -> String {
    let (Some(first), Some(head)) = (proven.first, proven.head) else {
        return format!("There is no audit log in {}.", dir.display());
    };
    let mut lines = vec![format!(
        "The audit log of {} is whole: {}, from entry {first} to {}, with {}.",
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
        let Counts { whole, absent, unbound } = recordings.counts();
        lines.push(format!(
            "{} as the log says; {absent} no longer stored; {unbound} of which the log has no digest.",
            plural(whole, "recording")
        ));
    }
    lines.push(format!("To prove later that this log was only continued: --expect={head}"));
    lines.join("\n")
}

/// The recordings that the log names.
struct Recordings {
    store: Arc<dyn RecordingStore>,
    counts: Counts,
}

#[derive(Deserialize)]
struct Upload {
    code: String,
    sid: Option<SessionId>,
    sha256: Option<Digest>,
}

impl Recordings {
    fn open(dir: &Path) -> Result<Self> {
        if !dir.is_dir() {
            bail!("--recordings: there are no recordings in {}", dir.display());
        }
        let store = FsRecordingStore::existing(dir);
        Ok(Self { store: Arc::new(store), counts: Counts { whole: 0, absent: 0, unbound: 0 } })
    }

    const fn counts(&self) -> Counts {
        self.counts
    }

    async fn check(&mut self, entry: &Entry<'_>) -> Result<(), Finding> {
        let code = EventKind::SessionUpload.code();
        if !entry.line().windows(code.len()).any(|window| window == code.as_bytes()) {
            return Ok(());
        }
        let Ok(Upload { code: said, sid: Some(session), sha256 }) = serde_json::from_slice(entry.line())
        else {
            return Ok(());
        };
        if said != code {
            return Ok(());
        }
        let Some(expected) = sha256 else {
            self.counts.unbound += 1;
            return Ok(());
        };
        let reason = match self.digest(session).await {
            Ok(digest) if digest == expected => {
                self.counts.whole += 1;
                return Ok(());
            }
            Err(RecordingError::NotFound) => {
                self.counts.absent += 1;
                return Ok(());
            }
            Ok(digest) => format!("its digest is {digest}, and it was stored with {expected}"),
            Err(error) => {
                let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
                format!("{error}{}", source.unwrap_or_default())
            }
        };
        let flaw = Flaw::Recording { session: session.to_string(), reason };
        Err(Finding::of_entry(entry, flaw))
    }

    async fn digest(&self, session: SessionId) -> Result<Digest, RecordingError> {
        let mut hasher = Hasher::new();
        let mut offset = 0;
        loop {
            let piece = self.store.read(session, offset, PIECE).await?;
            if piece.is_empty() {
                return Ok(hasher.finish());
            }
            hasher.update(&piece);
            offset += piece.len() as u64;
        }
    }
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
