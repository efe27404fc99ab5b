//! What recordings cost: bytes for a megabyte of terminal output beside `script` and `asciinema`, memory for ten hours and a
//! gigabyte, and what a recorded session loses beside an unrecorded one.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use teleport_core::clock::Timestamp;
use teleport_core::entropy::SystemEntropy;
use teleport_core::id::{HostId, SessionId};
use teleport_core::recording::{
    Asciicast, CastVersion, Encoder, OutputStream, Reader, RecordedEvent, RecordingMeta, SessionEnd, Step,
};
use tokio::time::Instant;

use crate::process::resident_of;
use crate::report::{Goal, Row, median};
use crate::{Scale, recorded};

pub(crate) const MB: f64 = 1e6;
/// How often the spool of a node writes what there is.
const FLUSH: Duration = Duration::from_millis(500);

/// Ordinary output of programs that are on any host, and one that draws.
const PROGRAMS: [(&str, &str); 6] = [
    ("ls -laR", "ls -laR /usr/share /usr/lib 2>/dev/null | head -c 8000000"),
    ("find", "find /usr /etc -ls 2>/dev/null | head -c 8000000"),
    (
        "a log",
        "for n in $(seq 1 3000); do printf '\\033[1;32m   Compiling\\033[0m crate-%d v0.%d.%d (%s)\\n' $n $((n % 7)) $((n % 31)) \"$(echo $n | md5sum | head -c 8)\"; done",
    ),
    (
        "manual pages",
        "for f in $(ls /usr/share/man/man1/*.gz | head -60); do zcat $f; done 2>/dev/null | head -c 4000000",
    ),
    ("source with colours", "grep -rn --color=always include /usr/include 2>/dev/null | head -c 4000000"),
    ("full screens", "COLUMNS=80 LINES=24 TERM=xterm-256color top -d 0.1 -n 60"),
];

/// Bytes, memory, throughput.
///
/// # Errors
/// What fails.
pub async fn run(scale: Scale) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let dir = tempfile::tempdir()?;
    let (mut all_shown, mut all_stored) = (0, 0);
    for (name, line) in PROGRAMS.into_iter().take(scale.of(PROGRAMS.len(), 1)) {
        let (shown, ours, of_program) = stored(dir.path(), name, line)?;
        (all_shown, all_stored) = (all_shown + shown, all_stored + ours);
        rows.extend(of_program);
    }
    let each = all_stored as f64 / all_shown as f64 * 1000.0;
    rows.push(Row::alone("stored for a MB of output, all of it", "KB", each, Goal::AtMost(200.0)));
    rows.extend(typed()?);
    rows.extend(memory(scale)?);
    rows.extend(recorded::rows(dir.path(), scale).await?);
    Ok(rows)
}

fn meta() -> Result<RecordingMeta> {
    let entropy = SystemEntropy::new();
    Ok(RecordingMeta {
        session: SessionId::random(&entropy)?,
        cluster: "example.com".parse()?,
        host_id: HostId::random(&entropy)?,
        host_name: "web-1".parse()?,
        user: "alice".parse()?,
        login: "root".parse()?,
        started: Timestamp::from_unix_secs(1_800_000_000),
        command: None,
        terminal: Some((80, 24)),
    })
}

/// Records events as a node does: flushed twice a second.
fn record(events: impl Iterator<Item = (Duration, Vec<u8>)>) -> Result<(usize, usize)> {
    let mut encoder = Encoder::new(&meta()?)?;
    let (mut cast, header) = Asciicast::begin(CastVersion::V2, &meta()?);
    let (mut ours, mut theirs, mut flushed, mut last) = (0, header.len(), Duration::ZERO, Duration::ZERO);
    for (at, data) in events {
        if at >= flushed + FLUSH {
            ours += encoder.take(true)?.len();
            flushed = at;
        }
        encoder.output(at, OutputStream::Stdout, &data)?;
        ours += encoder.take(false)?.len();
        let event = RecordedEvent::Output { at, stream: OutputStream::Stdout, data: data.into() };
        theirs += cast.line(&event).map_or(0, |line| line.len());
        last = at;
    }
    encoder.event(&RecordedEvent::End { at: last, end: SessionEnd::Exited(0) })?;
    Ok((ours + encoder.take(true)?.len(), theirs))
}

/// A program in a terminal, recorded by `script`, whose record has every piece of output with its time: how much was shown and stored.
fn stored(dir: &Path, name: &str, line: &str) -> Result<(usize, usize, [Row; 2])> {
    let (typescript, timing) = (dir.join("typescript"), dir.join("timing"));
    let status = Command::new("script")
        .args(["-q", "-e", "-c", line, "--logging-format", "classic", "--log-out"])
        .arg(&typescript)
        .arg("--log-timing")
        .arg(&timing)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .context("script does not run")?;
    ensure!(status.success(), "{name}: script ended with {status}");
    let (data, times) = (std::fs::read(&typescript)?, std::fs::read_to_string(&timing)?);
    // Behind the line that says when it began.
    let begin = data.iter().position(|byte| *byte == b'\n').context("no typescript")? + 1;
    let mut rest = data.get(begin..).unwrap_or_default();
    let (mut at, mut shown, mut events) = (Duration::ZERO, 0, Vec::new());
    for line in times.lines() {
        let (delay, len) = line.split_once(' ').context("no timing")?;
        at += Duration::from_secs_f64(delay.parse()?);
        let (piece, behind) =
            rest.split_at_checked(len.trim().parse()?).context("the typescript is short")?;
        (rest, shown) = (behind, shown + piece.len());
        events.push((at, piece.to_vec()));
    }
    ensure!(shown > 1000, "{name} shows nothing");
    let (ours, cast) = record(events.into_iter())?;
    let each = |bytes: usize| bytes as f64 / shown as f64 * 1000.0;
    let script = ("script", each(data.len() + times.len()));
    let rows = [
        Row::against(format!("stored for a MB of output, {name}"), "KB", each(ours), script, Goal::Free),
        Row::against("  beside asciicast", "KB", each(ours), ("asciicast", each(cast)), Goal::Free),
    ];
    Ok((shown, ours, rows))
}

/// Somebody who types five letters a second, and sees them: hardly any output, each letter an event.
fn typed() -> Result<Vec<Row>> {
    let text = include_str!("storage.rs");
    let events = text
        .bytes()
        .enumerate()
        .map(|(number, byte)| (Duration::from_millis(number as u64 * 200), vec![byte]));
    let (ours, cast) = record(events)?;
    let each = |bytes: usize| bytes as f64 / text.len() as f64;
    Ok(vec![Row::against(
        "stored for a letter that is typed",
        "bytes",
        each(ours),
        ("asciicast", each(cast)),
        Goal::Free,
    )])
}

/// Ten hours and a gigabyte: what writing and reading them adds to this process.
fn memory(scale: Scale) -> Result<Vec<Row>> {
    let mut file = tempfile::tempfile()?;
    let resident = || resident_of(std::process::id());
    let text: Vec<u8> = (0..3_000_u32)
        .flat_map(|line| format!("{line:06} some output of a program\r\n").into_bytes())
        .collect();
    let before = resident()?;
    let mut most = before;
    let mut encoder = Encoder::new(&meta()?)?;
    let began = Instant::now();
    let mut shown = 0_usize;
    for second in 0..scale.of(36_000_u64, 360) {
        let begin = usize::try_from(second % 50)? * 1000;
        let data = text.get(begin..begin + 30_000).context("text")?;
        encoder.output(Duration::from_secs(second), OutputStream::Stdout, data)?;
        file.write_all(&encoder.take(true)?)?;
        shown += data.len();
        if second % 100 == 0 {
            most = most.max(resident()?);
        }
    }
    let end = RecordedEvent::End { at: Duration::from_secs(36_000), end: SessionEnd::Exited(0) };
    encoder.event(&end)?;
    file.write_all(&encoder.take(true)?)?;
    most = most.max(resident()?);
    let (wrote, written) = (most - before, began.elapsed());
    drop(encoder);

    let len = file.metadata()?.len();
    let before = resident()?;
    let mut most = before;
    let mut reader = Reader::new(Some(len))?;
    let began = Instant::now();
    let mut seen = 0;
    let mut steps = 0_usize;
    loop {
        match reader.step()? {
            Step::Read { offset, len } => reader.feed(&piece(&mut file, offset, len)?),
            Step::Event(RecordedEvent::Output { data, .. }) => seen += data.len(),
            Step::End(_) => break,
            _ => {}
        }
        steps += 1;
        if steps.is_multiple_of(1000) {
            most = most.max(resident()?);
        }
    }
    ensure!(seen == shown, "{seen} of {shown} bytes came back");
    let (read, replayed) = (most - before, began.elapsed());
    // From any time: how long until the first event.
    let mut waits = Vec::new();
    for tenth in 0..10 {
        let began = Instant::now();
        let to = Duration::from_secs(3_600 * tenth + 1_800).min(Duration::from_secs(scale.of(36_000, 300)));
        reader.seek(to, 0);
        loop {
            match reader.step()? {
                Step::Read { offset, len } => reader.feed(&piece(&mut file, offset, len)?),
                Step::Event(event) if event.at() >= to => break,
                Step::End(_) => break,
                _ => {}
            }
        }
        waits.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    let speed = |elapsed: Duration| shown as f64 / MB / elapsed.as_secs_f64();
    Ok(vec![
        Row::alone("memory to record ten hours and a GB", "MB", wrote / MB, Goal::AtMost(4.0)),
        Row::alone("memory to replay them", "MB", read / MB, Goal::AtMost(8.0)),
        Row::alone("  recorded", "MB/s", speed(written), Goal::Free),
        Row::alone("  replayed", "MB/s", speed(replayed), Goal::Free),
        Row::alone("  a seek in them", "ms", median(waits), Goal::AtMost(100.0)),
    ])
}

fn piece(file: &mut File, offset: u64, len: usize) -> Result<Vec<u8>> {
    file.seek(SeekFrom::Start(offset))?;
    let mut piece = vec![0; len];
    let read = file.read(&mut piece)?;
    piece.truncate(read);
    Ok(piece)
}
