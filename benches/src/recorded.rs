//! What a recorded session loses beside an unrecorded one: as fast as it goes, over a link of 1 Gbit/s, at a keystroke.
//!
//! All parts of the cluster and the client share one machine here. As fast as it goes, whatever is spent on recording is missing
//! elsewhere once every processor is busy; so the processor's time is in the table as well.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use teleport_core::recording::{Decoder, RecordedEvent};
use tokio::time::Instant;

use crate::Scale;
use crate::cluster::Cluster;
use crate::load::Way;
use crate::report::{Goal, Row, median};
use crate::sessions::{UNCOUNTED, echoes, stock};
use crate::storage::MB;

/// Less than this of what an unrecorded session does is too little.
const GOAL: f64 = 0.97;
/// What a link of 1 Gbit/s carries, in bytes a second: 1,448 of 1,538 are payload.
const LINK: f64 = 117.7e6;

/// A cluster that records, or does not.
struct Side {
    cluster: Cluster,
    key: PathBuf,
    dir: PathBuf,
    /// Of sessions as fast as they go.
    speeds: Vec<f64>,
    /// Of those whose client is at the end of a link.
    linked: Vec<f64>,
    /// Seconds for a GB, with all that is delivered afterwards.
    cpu: Vec<f64>,
    /// Of a keystroke, in milliseconds.
    echoes: Vec<f64>,
    /// What was printed, in bytes.
    printed: u64,
}

impl Side {
    async fn start(dir: PathBuf, mode: &str) -> Result<Self> {
        std::fs::create_dir(&dir)?;
        let cluster = Cluster::start_with(&dir, &format!("  session_recording: \"{mode}\"\n"))?;
        let key = cluster.user().await?.write(&dir)?;
        let (speeds, linked, cpu, echoes) = Default::default();
        Ok(Self { cluster, key, dir, speeds, linked, cpu, echoes, printed: 0 })
    }

    fn ssh(&self) -> Result<Command> {
        stock(&self.key, &Way::direct(self.cluster.node), None)
    }

    /// MB/s of a command that prints so many bytes.
    fn prints(&mut self, line: &str, bytes: u64) -> Result<f64> {
        let began = Instant::now();
        let status = self.ssh()?.arg(line).stdin(Stdio::null()).stdout(Stdio::null()).status()?;
        ensure!(status.success(), "ssh ended with {status}");
        self.printed += bytes;
        Ok(bytes as f64 / MB / began.elapsed().as_secs_f64())
    }

    /// The same for a client that takes no more than a link carries.
    fn prints_over_a_link(&mut self, line: &str, bytes: u64) -> Result<f64> {
        let began = Instant::now();
        let mut ssh = self.ssh()?.arg(line).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let mut shown = ssh.stdout.take().context("stdout is a pipe")?;
        let mut piece = vec![0; 64 << 10];
        let (mut taken, mut free_at) = (0, began);
        loop {
            let read = shown.read(&mut piece)?;
            if read == 0 {
                break;
            }
            taken += read as u64;
            // What a link has not carried because nothing came is not made up for.
            let now = Instant::now();
            free_at = free_at.max(now) + Duration::from_secs_f64(read as f64 / LINK);
            std::thread::sleep(free_at - now);
        }
        ensure!(ssh.wait()?.success() && taken == bytes, "ssh ended with an error, or too early");
        self.printed += bytes;
        Ok(bytes as f64 / MB / began.elapsed().as_secs_f64())
    }

    /// Waits until everything is delivered: what is left over would be paid for by whoever is measured next.
    async fn delivered(&self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(120);
        let spool = self.dir.join("data/spool");
        while std::fs::read_dir(&spool).is_ok_and(|mut files| files.next().is_some()) {
            ensure!(Instant::now() < deadline, "what was recorded is not delivered");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.cluster.server.settle();
        Ok(())
    }

    /// Somebody types, and each letter comes back.
    fn types(&mut self, letters: usize) -> Result<()> {
        self.echoes.extend(echoes(self.ssh()?.arg("exec cat"), letters)?);
        self.printed += (letters + UNCOUNTED + 2) as u64;
        Ok(())
    }

    /// How much of what was printed is in the recordings, in bytes.
    fn recorded(&self) -> Result<u64> {
        let mut recorded = 0;
        for session in std::fs::read_dir(self.dir.join("data/recordings/sessions"))? {
            let mut file = File::open(session?.path().join("data"))?;
            let mut decoder = Decoder::new()?;
            let mut piece = vec![0; 1 << 20];
            loop {
                let read = file.read(&mut piece)?;
                if read == 0 {
                    break;
                }
                decoder.feed(piece.get(..read).unwrap_or_default());
                while let Some(event) = decoder.next_event()? {
                    if let RecordedEvent::Output { data, .. } = event {
                        recorded += data.len() as u64;
                    }
                }
            }
        }
        Ok(recorded)
    }
}

/// Output of commands through the stock client, of a node that records and of one that does not.
///
/// # Errors
/// What fails.
pub async fn rows(dir: &Path, scale: Scale) -> Result<Vec<Row>> {
    let output = dir.join("output");
    let mut file = File::create(&output)?;
    let listing = Command::new("sh").args(["-c", "ls -laR /usr | head -c 16000000"]).output()?.stdout;
    ensure!(!listing.is_empty(), "there is nothing to print");
    for _ in 0..scale.of(16, 1) {
        file.write_all(&listing)?;
    }
    let bytes = file.metadata()?.len();
    drop(file);
    let all = format!("cat {}", output.display());
    let mut sides = Vec::new();
    for mode in ["node", "off"] {
        sides.push(Side::start(dir.join(mode), mode).await?);
    }
    // By turns, so that what else happens on the machine happens to both.
    for _ in 0..scale.of(7, 1) {
        for side in &mut sides {
            let before = side.cluster.server.cpu()?;
            let speed = side.prints(&all, bytes)?;
            side.speeds.push(speed);
            side.delivered().await?;
            side.cpu.push(side.cluster.server.cpu()?.since(before).all / (bytes as f64 / 1e9));
            let speed = side.prints_over_a_link(&all, bytes)?;
            side.linked.push(speed);
            side.delivered().await?;
            side.types(scale.of(200, 5))?;
            side.delivered().await?;
        }
    }
    let [on, off] = &mut sides[..] else { anyhow::bail!("two of them") };
    let lost = on.printed as f64 - on.recorded()? as f64;
    let mut row = |what: &str, unit, of: fn(&mut Side) -> &mut Vec<f64>, goal| {
        let value = |side| median(std::mem::take(of(side)));
        Row::against(what, unit, value(on), ("unrecorded", value(off)), goal)
    };
    Ok(vec![
        row("a recorded session, as fast as it goes", "MB/s", |side| &mut side.speeds, Goal::AtLeast(GOAL)),
        row("  the cluster's CPU for a GB", "s", |side| &mut side.cpu, Goal::Free),
        row("  over a link of 1 Gbit/s", "MB/s", |side| &mut side.linked, Goal::AtLeast(GOAL)),
        row("  a keystroke and its echo", "ms", |side| &mut side.echoes, Goal::AtMost(1.0 / GOAL)),
        Row::alone("  of all that, not in the recordings", "bytes", lost, Goal::AtMost(0.0)),
    ])
}
