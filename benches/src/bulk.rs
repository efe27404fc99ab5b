//! Bytes through the stock client: down and up, by two ciphers, directly and through a hop.

use std::io::{Read, Write};
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
                let bytes = scale.of(512_000_000, 4_000_000);
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
    bytes: usize,
    cpu: impl Fn() -> Result<Cpu>,
) -> Result<(f64, f64)> {
    let mut ssh = stock(key, way)?;
    // Before the destination, where options belong, there is no place left: `ssh` takes them after it as well.
    ssh.arg("-c").arg(cipher);
    let before = cpu()?;
    let started = Instant::now();
    match direction {
        Direction::Down => download(ssh.arg(format!("head -c {bytes} /dev/zero")), bytes)?,
        Direction::Up => upload(ssh.arg("cat >/dev/null"), bytes)?,
    }
    let seconds = started.elapsed().as_secs_f64();
    let used = cpu()?.since(before).all;
    let bytes = bytes as f64;
    Ok((bytes / MB / seconds, used / (bytes / 1e9)))
}

fn download(ssh: &mut Command, bytes: usize) -> Result<()> {
    let mut child = ssh.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut output = child.stdout.take().context("stdout is a pipe")?;
    let mut buffer = vec![0; 1 << 18];
    let mut seen = 0;
    loop {
        match output.read(&mut buffer)? {
            0 => break,
            read => seen += read,
        }
    }
    ensure!(child.wait()?.success() && seen == bytes, "{seen} of {bytes} bytes came");
    Ok(())
}

fn upload(ssh: &mut Command, bytes: usize) -> Result<()> {
    let mut child = ssh.stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
    let mut input = child.stdin.take().context("stdin is a pipe")?;
    let piece = vec![0; 1 << 18];
    let mut left = bytes;
    while left > 0 {
        let piece = piece.get(..left.min(piece.len())).unwrap_or_default();
        input.write_all(piece)?;
        left -= piece.len();
    }
    drop(input);
    ensure!(child.wait()?.success(), "the upload failed");
    Ok(())
}
