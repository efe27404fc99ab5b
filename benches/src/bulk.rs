//! Bytes through the stock client: down and up, by two ciphers, directly and through a hop.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use tokio::time::Instant;

use crate::Scale;
use crate::load::Way;
use crate::process::Cpu;
use crate::report::{Goal, Row, median};
use crate::sessions::{Both, stock};

const CIPHERS: [(&str, &str); 2] =
    [("AES-256-GCM", "aes256-gcm@openssh.com"), ("chacha20-poly1305", "chacha20-poly1305@openssh.com")];
const MB: f64 = 1_000_000.0;
const PIECE: u64 = 128 << 10;

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Direction {
    Down,
    Up,
}

impl Direction {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Down => "download",
            Self::Up => "upload",
        }
    }
}

/// Megabytes a second, and the servers' CPU for a gigabyte. Output of commands is recorded by our node, uploads are not: it has no
/// switch for that.
///
/// # Errors
/// What fails.
pub async fn run(scale: Scale) -> Result<Vec<Row>> {
    let both = Both::start().await?;
    let mut rows = Vec::new();
    for (ours, theirs, how) in both.ways() {
        for (cipher, cipher_name) in CIPHERS {
            for direction in [Direction::Down, Direction::Up] {
                let bytes = PIECE * scale.of(4096, 32);
                let (mut speeds, mut their_speeds, mut cpus, mut their_cpus) =
                    (Vec::new(), Vec::new(), Vec::new(), Vec::new());
                for _ in 0..scale.of(3, 1) {
                    let (speed, cpu) =
                        measure(&both.key, &ours, cipher_name, direction, bytes, || both.our_cpu())?;
                    speeds.push(speed);
                    cpus.push(cpu);
                    let (speed, cpu) =
                        measure(&both.key, &theirs, cipher_name, direction, bytes, || both.sshd_cpu())?;
                    their_speeds.push(speed);
                    their_cpus.push(cpu);
                }
                let what = direction.name();
                let (name, goal) = if ours.hop.is_none() { ("sshd", 1.4) } else { ("sshd+jump", 1.5) };
                rows.push(Row::against(
                    format!("{what}, {cipher}, {how}"),
                    "MB/s",
                    median(speeds),
                    (name, median(their_speeds)),
                    Goal::AtLeast(goal),
                ));
                rows.push(Row::against(
                    "  server CPU for a GB".to_owned(),
                    "s",
                    median(cpus),
                    (name, median(their_cpus)),
                    if ours.hop.is_none() { Goal::AtMost(0.75) } else { Goal::Free },
                ));
            }
        }
    }
    Ok(rows)
}

/// Megabytes a second, and the seconds of `cpu` for a gigabyte.
pub(crate) fn speed(
    key: &Path,
    way: &Way,
    direction: Direction,
    scale: Scale,
    cpu: impl Fn() -> Result<Cpu>,
) -> Result<(f64, f64)> {
    let [(_, cipher), _] = CIPHERS;
    measure(key, way, cipher, direction, PIECE * scale.of(4096, 32), cpu)
}

/// MB/s and seconds of CPU for a GB.
fn measure(
    key: &Path,
    way: &Way,
    cipher: &str,
    direction: Direction,
    bytes: u64,
    cpu: impl Fn() -> Result<Cpu>,
) -> Result<(f64, f64)> {
    let mut ssh = stock(key, way, Some(cipher))?;
    let before = cpu()?;
    let started = Instant::now();
    let said = match direction {
        // Written in pieces as `cat` of a file writes them.
        Direction::Down => {
            let count = bytes / PIECE;
            download(ssh.arg(format!("dd if=/dev/zero bs={PIECE} count={count} status=none; times >&2")))?
        }
        Direction::Up => upload(ssh.arg("cat >/dev/null; times >&2"), bytes)?,
    };
    let seconds = started.elapsed().as_secs_f64();
    // The program that makes or takes the bytes is the user's, not the server's.
    let used = cpu()?.since(before).all - times(&said).context("the shell's `times` says something else")?;
    let bytes = bytes as f64;
    Ok((bytes / MB / seconds, used / (bytes / 1e9)))
}

/// The output goes nowhere: a reader of ours would take CPU that the servers need. Returns standard error.
fn download(ssh: &mut Command) -> Result<String> {
    finish(ssh.stdin(Stdio::null()))
}

/// From a file without blocks, which costs nobody a disk. Returns standard error.
fn upload(ssh: &mut Command, bytes: u64) -> Result<String> {
    let file = tempfile::tempfile()?;
    file.set_len(bytes)?;
    finish(ssh.stdin(file))
}

fn finish(ssh: &mut Command) -> Result<String> {
    let output = ssh.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "the transfer failed: {said}");
    Ok(said)
}

/// The seconds in the four figures that the shell's `times` prints, such as `0m0.012s`: user and system time of the shell, and
/// of what it ran.
fn times(said: &str) -> Option<f64> {
    let seconds = |text: &str| -> Option<f64> {
        let (minutes, seconds) = text.strip_suffix('s')?.split_once('m')?;
        Some(minutes.parse::<f64>().ok()? * 60.0 + seconds.parse::<f64>().ok()?)
    };
    let figures: Option<Vec<f64>> = said.split_ascii_whitespace().map(seconds).collect();
    figures.filter(|figures| figures.len() == 4).map(|figures| figures.iter().sum())
}
