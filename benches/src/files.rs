//! Files: one large and many small ones, by stock clients at our node and at `sshd`; and `tsh scp` through the proxy beside `scp -J`
//! through a jump host.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Result, ensure};
use teleport_core::api::AdminApi;
use teleport_core::clock::{Clock, SystemClock};
use teleport_core::entropy::SystemEntropy;
use teleport_ssh::client::openssh::ProxyAddress;
use teleport_ssh::client::{LoginInput, ProfileStore, login as log_in};
use teleport_ssh::proxy_web::{WebClient, WebTrust};
use tokio::time::Instant;

use crate::Scale;
use crate::cluster::{Cluster, login, program};
use crate::load::Way;
use crate::report::{Goal, Row, median};
use crate::sessions::{Both, stock};

const MB: f64 = 1_000_000.0;
/// The length of a small file, in bytes.
const SMALL: usize = 4096;

/// Where files are taken from and brought to: in memory where there is a file system of that kind, for no disk is measured here.
fn scratch() -> Result<tempfile::TempDir> {
    Ok(match Path::new("/dev/shm") {
        memory if memory.is_dir() => tempfile::tempdir_in(memory)?,
        _ => tempfile::tempdir()?,
    })
}

/// What is copied.
struct Files {
    dir: tempfile::TempDir,
    bytes: u64,
    count: u64,
}

impl Files {
    fn make(scale: Scale) -> Result<Self> {
        let dir = scratch()?;
        let (bytes, count) = (scale.of(1_000_000_000, 10_000_000), scale.of(10_000, 100));
        let block: Vec<u8> = (0..1_000_000_u32).map(|index| (index / 3 % 251) as u8).collect();
        let small: Vec<u8> = block.iter().copied().take(SMALL).collect();
        let mut large = std::fs::File::create(dir.path().join("large"))?;
        for _ in 0..bytes / 1_000_000 {
            std::io::Write::write_all(&mut large, &block)?;
        }
        for number in 0..count {
            let sub = dir.path().join("many").join((number % 100).to_string());
            std::fs::create_dir_all(&sub)?;
            std::fs::write(sub.join(number.to_string()), &small)?;
        }
        Ok(Self { dir, bytes, count })
    }

    fn source(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Where the next copy goes; nothing is there.
    fn target(&self) -> Result<PathBuf> {
        let target = self.dir.path().join("target");
        if target.exists() {
            std::fs::remove_dir_all(&target)?;
        }
        std::fs::create_dir(&target)?;
        Ok(target)
    }
}

/// One way to copy: makes the command that copies the first path to the second, up or down.
type Copier<'a> = dyn Fn(&Path, &Path, bool) -> Result<Command> + 'a;

fn seconds(mut command: Command) -> Result<f64> {
    let started = Instant::now();
    let output = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the copy failed: {}: {command:?}", said.trim());
    Ok(started.elapsed().as_secs_f64())
}

/// The medians of both, taken in turns.
fn compare(
    files: &Files,
    name: &str,
    up: bool,
    runs: usize,
    ours: &Copier<'_>,
    theirs: &Copier<'_>,
) -> Result<(f64, f64)> {
    let (mut our_times, mut their_times) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        for (copier, times) in [(ours, &mut our_times), (theirs, &mut their_times)] {
            let target = files.target()?;
            times.push(seconds(copier(&files.source(name), &target, up)?)?);
            let whole = match name {
                "large" => target.join("large").metadata()?.len() == files.bytes,
                _ => target.join("many").read_dir()?.count() as u64 == files.count.min(100),
            };
            ensure!(whole, "not everything was copied");
        }
    }
    Ok((median(our_times), median(their_times)))
}

/// A stock client's command with the options of every bench: `scp` or `sftp`, to be completed by `rest`.
fn with_options(program: &str, key: &Path, way: &Way) -> Result<Command> {
    let ssh = stock(key, way, None)?;
    let mut command = Command::new(program);
    command.arg("-q").arg("-P").arg(way.port.to_string());
    // The options that `ssh` got, without what only it knows.
    let mut arguments = ssh.get_args();
    while let Some(argument) = arguments.next() {
        if matches!(argument.to_str(), Some("-F" | "-i" | "-o" | "-c")) {
            command.arg(argument).args(arguments.next());
        }
    }
    Ok(command)
}

fn far(way: &Way, path: &Path) -> Result<String> {
    Ok(format!("{}@{}:{}", login()?, way.host, path.display()))
}

fn stock_scp(key: &Path, way: &Way, from: &Path, to: &Path, up: bool) -> Result<Command> {
    let mut scp = with_options("scp", key, way)?;
    scp.arg("-r");
    match up {
        true => scp.arg(from).arg(far(way, to)?),
        false => scp.arg(far(way, from)?).arg(to),
    };
    Ok(scp)
}

fn stock_sftp(key: &Path, way: &Way, from: &Path, to: &Path, up: bool) -> Result<Command> {
    let mut sftp = with_options("sftp", key, way)?;
    let batch = to.with_extension("batch");
    std::fs::write(
        &batch,
        format!("{} {} {}/\n", if up { "put" } else { "get" }, from.display(), to.display()),
    )?;
    sftp.arg("-b").arg(batch).arg(format!("{}@{}", login()?, way.host));
    Ok(sftp)
}

/// A home of `tsh` where somebody is logged in.
pub(crate) async fn home(cluster: &Cluster, dir: &Path) -> Result<PathBuf> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let person = cluster.person("carol").await?;
    let pins = cluster.admin()?.status().await?.ca_pins;
    let web = WebClient::new(cluster.web.to_string(), WebTrust::pins(pins), Arc::clone(&clock));
    let input = LoginInput {
        user: person.name.clone(),
        password: person.password.clone(),
        code: person.code(clock.now())?,
        ttl: None,
    };
    let proxy = ProxyAddress::parse(&cluster.web.to_string())?;
    let profile = log_in(&web, proxy, input, &*clock, &SystemEntropy::new()).await?;
    let home = dir.join("tsh");
    ProfileStore::at(&home).save(&profile)?;
    Ok(home)
}

fn tsh_scp(home: &Path, from: &Path, to: &Path, up: bool) -> Result<Command> {
    let mut tsh = Command::new(program()?.with_file_name("tsh"));
    tsh.env("TELEPORT_HOME", home).args(["scp", "-q", "-r"]);
    let far = |path: &Path| anyhow::Ok(format!("{}@bench:{}", login()?, path.display()));
    match up {
        true => tsh.arg(from).arg(far(to)?),
        false => tsh.arg(far(from)?).arg(to),
    };
    Ok(tsh)
}

/// Megabytes and files a second. Both sides are on this machine, and everybody's clients and servers share its processors.
///
/// # Errors
/// What fails.
pub async fn run(scale: Scale) -> Result<Vec<Row>> {
    let both = Both::start().await?;
    let files = Files::make(scale)?;
    let dir = tempfile::tempdir()?;
    let home = home(&both.cluster, dir.path()).await?;
    let (key, runs) = (both.key.as_path(), scale.of(3, 1));
    let mut rows = Vec::new();
    let mut row = |what: String, name: &str, times: (f64, f64), baseline: &'static str, goal: f64| {
        let (unit, amount) = match name {
            "large" => ("MB/s", files.bytes as f64 / MB),
            _ => ("files/s", files.count as f64),
        };
        let (ours, theirs) = times;
        rows.push(Row::against(what, unit, amount / ours, (baseline, amount / theirs), Goal::AtLeast(goal)));
    };
    let [(ours, theirs, _), (_, jumped, _)] = both.ways();
    for up in [false, true] {
        let direction = if up { "put" } else { "get" };
        let (at_ours, at_theirs): (&Copier<'_>, &Copier<'_>) =
            (&|from, to, up| stock_sftp(key, &ours, from, to, up), &|from, to, up| {
                stock_sftp(key, &theirs, from, to, up)
            });
        let times = compare(&files, "large", up, runs, at_ours, at_theirs)?;
        row(format!("stock sftp, {direction} one large file"), "large", times, "sshd", 1.0);
        for name in ["large", "many"] {
            let (at_ours, at_theirs): (&Copier<'_>, &Copier<'_>) =
                (&|from, to, up| stock_scp(key, &ours, from, to, up), &|from, to, up| {
                    stock_scp(key, &theirs, from, to, up)
                });
            let times = compare(&files, name, up, runs, at_ours, at_theirs)?;
            row(format!("stock scp, {direction} {name}"), name, times, "sshd", 1.0);
            let (by_tsh, by_jump): (&Copier<'_>, &Copier<'_>) =
                (&|from, to, up| tsh_scp(&home, from, to, up), &|from, to, up| {
                    stock_scp(key, &jumped, from, to, up)
                });
            let times = compare(&files, name, up, runs, by_tsh, by_jump)?;
            row(format!("tsh scp through the proxy, {direction} {name}"), name, times, "scp -J", 1.2);
        }
    }
    Ok(rows)
}
