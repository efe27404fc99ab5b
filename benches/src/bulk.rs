//! Bytes through the stock client: down and up, by two ciphers, directly and through a hop.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};
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
enum Direction {
    Down,
    Up,
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
                let what = if direction == Direction::Down { "download" } else { "upload" };
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

/// MB/s and seconds of CPU for a GB.
fn measure(
    key: &Path,
    way: &Way,
    cipher: &str,
    direction: Direction,
    bytes: u64,
    cpu: impl Fn() -> Result<Cpu>,
) -> Result<(f64, f64)> {
    let mut ssh = stock(key, way)?;
    // Before the destination, where options belong, there is no place left: `ssh` takes them after it as well.
    ssh.arg("-c").arg(cipher);
    let before = cpu()?;
    let started = Instant::now();
    match direction {
        // Written in pieces as `cat` of a file writes them.
        Direction::Down => {
            let count = bytes / PIECE;
            download(ssh.arg(format!("exec dd if=/dev/zero bs={PIECE} count={count} status=none")))?;
        }
        Direction::Up => upload(ssh.arg("exec cat >/dev/null"), bytes)?,
    }
    let seconds = started.elapsed().as_secs_f64();
    let used = cpu()?.since(before).all;
    let bytes = bytes as f64;
    Ok((bytes / MB / seconds, used / (bytes / 1e9)))
}

/// The output goes nowhere: a reader of ours would take CPU that the servers need.
fn download(ssh: &mut Command) -> Result<()> {
    let status = ssh.stdin(Stdio::null()).stdout(Stdio::null()).status()?;
    ensure!(status.success(), "the download failed");
    Ok(())
}

/// From a file without blocks, which costs nobody a disk.
fn upload(ssh: &mut Command, bytes: u64) -> Result<()> {
    let file = tempfile::tempfile()?;
    file.set_len(bytes)?;
    let status = ssh.stdin(file).stdout(Stdio::null()).status()?;
    ensure!(status.success(), "the upload failed");
    Ok(())
}
