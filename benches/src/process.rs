//! Processes that are measured: their CPU and their memory, with all that they started.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, SysconfVar, sysconf};
use tokio::time::Instant;

/// A server that is ended when this is dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

/// CPU time of a process, in seconds.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "two figures")]
pub struct Cpu {
    /// Of the process itself.
    pub own: f64,
    /// Of the process and of all that it started, whether they live or not.
    pub all: f64,
}

impl Cpu {
    /// What was used since `before`.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self { own: self.own - before.own, all: self.all - before.all }
    }

    /// Of two servers together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { own: self.own + other.own, all: self.all + other.all }
    }
}

impl Server {
    /// Starts it; what it writes to stderr is kept.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        let stderr = child.stderr.take().context("stderr is a pipe")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            let mut reader = BufReader::new(stderr);
            let mut line = String::new();
            while reader.read_line(&mut line).is_ok_and(|read| read > 0) {
                // Nobody may be interested any more; the pipe is emptied all the same.
                let _ = sender.send(line.trim_end().to_owned());
                line.clear();
            }
            let _ = reader.read_to_end(&mut Vec::new());
        });
        Ok(Self { child, lines, seen: Vec::new() })
    }

    /// Waits for the first line for which `wanted` gives something.
    ///
    /// # Errors
    /// What it wrote instead, if it ended or takes more than half a minute.
    pub fn wait_for<T>(&mut self, wanted: impl Fn(&str) -> Option<T>) -> Result<T> {
        if let Some(found) = self.seen.iter().find_map(|line| wanted(line)) {
            return Ok(found);
        }
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    let found = wanted(&line);
                    self.seen.push(line);
                    if let Some(found) = found {
                        return Ok(found);
                    }
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    bail!("the server did not start:\n{}", self.seen.join("\n"))
                }
            }
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its CPU time until now.
    ///
    /// # Errors
    /// When it is gone.
    pub fn cpu(&self) -> Result<Cpu> {
        let mut total = cpu_of(self.pid())?;
        for child in descendants(self.pid()) {
            total.all += cpu_of(child).map_or(0.0, |cpu| cpu.all);
        }
        Ok(total)
    }

    /// Waits until all that it had started is gone, so that its CPU time is complete.
    pub fn settle(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !descendants(self.pid()).is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Memory that only it uses or that it shares with others, in bytes.
    ///
    /// # Errors
    /// When it is gone.
    pub fn resident(&self) -> Result<f64> {
        resident_of(self.pid())
    }

    /// How many files and connections it has open.
    ///
    /// # Errors
    /// When it is gone.
    pub fn open_files(&self) -> Result<usize> {
        let files = std::fs::read_dir(format!("/proc/{}/fd", self.pid()));
        Ok(files.context("the process is gone")?.count())
    }

    /// The processes that it started and that live.
    pub fn descendants(&self) -> Vec<u32> {
        descendants(self.pid())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The daemon would wait for sessions; nobody is interested in them any more.
        for _ in 0..2 {
            let _ = kill(Pid::from_raw(self.pid().cast_signed()), Signal::SIGTERM);
        }
        let deadline = Instant::now() + Duration::from_secs(2);
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The fields of `/proc/<pid>/stat` after the name, which may hold spaces: the state comes first.
fn stat(pid: u32) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("the process is gone")?;
    let (_, fields) = text.rsplit_once(')').context("a line of another form")?;
    Ok(fields.split_ascii_whitespace().map(str::to_owned).collect())
}

fn cpu_of(pid: u32) -> Result<Cpu> {
    let fields = stat(pid)?;
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    let per_second = sysconf(SysconfVar::CLK_TCK)?.context("clock ticks")? as f64;
    // utime, stime, cutime, cstime are fields 14 to 17 of proc(5), which counts from 1 and has two before the state.
    let own = (ticks(11) + ticks(12)) / per_second;
    Ok(Cpu { own, all: own + (ticks(13) + ticks(14)) / per_second })
}

fn children(pid: u32) -> Vec<u32> {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let of_thread = |thread: std::io::Result<std::fs::DirEntry>| {
        let children = std::fs::read_to_string(thread.ok()?.path().join("children")).ok()?;
        Some(children.split_ascii_whitespace().filter_map(|child| child.parse().ok()).collect::<Vec<u32>>())
    };
    threads.filter_map(of_thread).flatten().collect()
}

fn descendants(pid: u32) -> Vec<u32> {
    let children = children(pid);
    let below: Vec<u32> = children.iter().flat_map(|child| descendants(*child)).collect();
    [children, below].concat()
}

/// What became of servers' processes whose parent did not wait for them.
///
/// The monitor of an `sshd` may end before its child does, and then nobody is charged for the child. So this process makes itself
/// the one that such children come to, and reads what they used before it lets them go.
#[derive(Debug, Default)]
pub struct Orphans {
    used: f64,
}

impl Orphans {
    /// From now on, orphans come to this process.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn adopt() -> Result<Self> {
        nix::sys::prctl::set_child_subreaper(true)?;
        Ok(Self::default())
    }

    /// What all orphans called `name` that are not among `known` have used until now. Waits until those that live have ended.
    pub fn cpu_of(&mut self, name: &str, known: &[u32]) -> f64 {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let mut living = false;
            for pid in children(std::process::id()).into_iter().filter(|pid| !known.contains(pid)) {
                let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                if comm.trim_end() != name {
                    continue;
                }
                match stat(pid).ok().and_then(|fields| fields.first().cloned()).as_deref() {
                    Some("Z") => {
                        self.used += cpu_of(pid).map_or(0.0, |cpu| cpu.all);
                        let _ = nix::sys::wait::waitpid(Pid::from_raw(pid.cast_signed()), None);
                    }
                    Some(_) => living = true,
                    None => {}
                }
            }
            if !living || Instant::now() > deadline {
                return self.used;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Resident memory of a process in bytes.
///
/// # Errors
/// When it is gone.
pub fn resident_of(pid: u32) -> Result<f64> {
    value_of(pid, "status", "VmRSS:")
}

/// A process's share of memory in bytes: what several use counts in parts.
///
/// # Errors
/// When it is gone.
pub fn share_of(pid: u32) -> Result<f64> {
    value_of(pid, "smaps_rollup", "Pss:")
}

fn value_of(pid: u32, file: &str, key: &str) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/{file}")).context("the process is gone")?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)).context("no such value")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").trim().parse()?;
    Ok(kib * 1024.0)
}
