//! Whole sessions: connect, run `true`, close; at 16 parallel and one at a time, directly and through a hop.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use tokio::time::Instant;

use crate::Scale;
use crate::cluster::{Cluster, login, program};
use crate::files::home;
use crate::load::{Client, Way, rate};
use crate::process::{Cpu, Orphans};
use crate::report::{Goal, Row, median};
use crate::sshd::Sshd;

/// How many at the same time.
const PARALLEL: usize = 16;

/// Our servers and Debian's, with the same user.
pub(crate) struct Both {
    pub(crate) cluster: Cluster,
    pub(crate) client: Client,
    pub(crate) key: std::path::PathBuf,
    pub(crate) sshd: Sshd,
    pub(crate) jump: Sshd,
    orphans: Mutex<Orphans>,
    _dir: tempfile::TempDir,
}

impl Both {
    pub(crate) async fn start() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let cluster = Cluster::start(dir.path())?;
        let user = cluster.user().await?;
        let sshd = Sshd::start(&dir.path().join("sshd"), &user.trust)?;
        let jump = Sshd::start(&dir.path().join("jump"), &user.trust)?;
        let orphans = Mutex::new(Orphans::adopt()?);
        let (client, key) = (Client::new(&user)?, user.write(dir.path())?);
        Ok(Self { cluster, client, key, sshd, jump, orphans, _dir: dir })
    }

    pub(crate) fn ways(&self) -> [(Way, Way, &'static str); 2] {
        [
            (Way::direct(self.cluster.node), Way::direct(self.sshd.address), "direct"),
            (
                Way::through(self.cluster.proxy, self.cluster.node),
                Way::through(self.jump.address, self.sshd.address),
                "through the proxy",
            ),
        ]
    }

    /// The CPU of all servers on the way of Debian's.
    pub(crate) fn sshd_cpu(&self) -> Result<Cpu> {
        self.sshd.server.settle();
        self.jump.server.settle();
        let known = [self.sshd.server.pid(), self.jump.server.pid()];
        let mut orphans = self.orphans.lock().unwrap_or_else(PoisonError::into_inner);
        let orphans = Cpu { own: 0.0, all: orphans.cpu_of("sshd", &known) };
        Ok(self.sshd.server.cpu()?.and(self.jump.server.cpu()?).and(orphans))
    }

    pub(crate) fn our_cpu(&self) -> Result<Cpu> {
        self.cluster.server.settle();
        self.cluster.server.cpu()
    }
}

/// Rate, and CPU for each session.
async fn measure(
    client: &Client,
    way: &Way,
    count: usize,
    cpu: impl Fn() -> Result<Cpu>,
) -> Result<(f64, Cpu)> {
    let (client, way) = (client.clone(), Arc::new(way.clone()));
    let session = move |_| {
        let (client, way) = (client.clone(), Arc::clone(&way));
        async move {
            let connection = client.connect(&way).await?;
            connection.run("true").await?;
            connection.close().await;
            Ok(())
        }
    };
    rate(PARALLEL, PARALLEL, session.clone()).await?;
    let before = cpu()?;
    let rate = rate(PARALLEL, count, session).await?;
    let used = cpu()?.since(before);
    let each = |seconds: f64| seconds * 1000.0 / count as f64;
    Ok((rate, Cpu { own: each(used.own), all: each(used.all) }))
}

/// Sessions a second, and the servers' CPU.
///
/// # Errors
/// What fails.
pub async fn rates(scale: Scale) -> Result<Vec<Row>> {
    let both = Both::start().await?;
    let mut rows = Vec::new();
    for (ours, theirs, how) in both.ways() {
        let (mut rates, mut their_rates, mut cpus, mut own, mut their_cpus) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for _ in 0..scale.of(3, 1) {
            let (rate, cpu) = measure(&both.client, &ours, scale.of(1000, 16), || both.our_cpu()).await?;
            rates.push(rate);
            cpus.push(cpu.all);
            own.push(cpu.own);
            let (rate, cpu) = measure(&both.client, &theirs, scale.of(150, 16), || both.sshd_cpu()).await?;
            their_rates.push(rate);
            their_cpus.push(cpu.all);
        }
        let name = if how == "direct" { "sshd" } else { "sshd+jump" };
        rows.push(Row::against(
            format!("sessions at 16 parallel, audited, {how}"),
            "/s",
            median(rates),
            (name, median(their_rates)),
            Goal::AtLeast(8.0),
        ));
        let baseline = (name, median(their_cpus));
        rows.push(Row::against(
            format!("  server CPU a session with all it started, {how}"),
            "ms",
            median(cpus),
            baseline,
            Goal::AtMost(0.1),
        ));
        rows.push(Row::against(
            format!("  of it in the daemon, {how}"),
            "ms",
            median(own),
            baseline,
            Goal::Free,
        ));
    }
    Ok(rows)
}

/// A stock `ssh` without anything of the user's own. Every hop uses `cipher`, or what `ssh` likes best.
pub(crate) fn stock(key: &Path, way: &Way, cipher: Option<&str>) -> Result<Command> {
    let mut ssh = Command::new("ssh");
    let options = [
        "StrictHostKeyChecking=no",
        "UserKnownHostsFile=/dev/null",
        "GlobalKnownHostsFile=/dev/null",
        "IdentitiesOnly=yes",
        "IdentityAgent=none",
        "BatchMode=yes",
        "LogLevel=ERROR",
    ];
    ssh.args(["-F", "none", "-T"]).arg("-i").arg(key);
    let login = login()?;
    let mut jump = format!("ProxyCommand=ssh -F none -i {} -W %h:%p", key.display());
    for option in options {
        ssh.arg("-o").arg(option);
        jump.push_str(&format!(" -o {option}"));
    }
    if let Some(cipher) = cipher {
        ssh.arg("-c").arg(cipher);
        jump.push_str(&format!(" -c {cipher}"));
    }
    if let Some(hop) = way.hop {
        ssh.arg("-o").arg(format!("{jump} -p {} {login}@{}", hop.port(), hop.ip()));
    }
    ssh.arg("-p").arg(way.port.to_string()).arg(format!("{login}@{}", way.host));
    Ok(ssh)
}

/// The first letters wait for the session.
pub(crate) const UNCOUNTED: usize = 10;

/// Somebody types, and each letter comes back after so many milliseconds.
pub(crate) fn echoes(ssh: &mut Command, letters: usize) -> Result<Vec<f64>> {
    let mut ssh = ssh.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut typed = ssh.stdin.take().context("stdin is a pipe")?;
    let mut shown = ssh.stdout.take().context("stdout is a pipe")?;
    let (mut times, mut byte) = (Vec::new(), [0]);
    for _ in 0..letters + UNCOUNTED {
        let began = Instant::now();
        typed.write_all(b"x")?;
        shown.read_exact(&mut byte)?;
        times.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    // The end of the line and of what is typed, where that is a terminal.
    typed.write_all(b"\x04\x04")?;
    drop(typed);
    ensure!(ssh.wait()?.success(), "ssh ended with an error");
    Ok(times.split_off(UNCOUNTED))
}

/// Less than this are so many of a hundred; not a number without any.
pub(crate) fn percentile(figures: &[f64], percent: f64) -> f64 {
    let mut figures = figures.to_vec();
    figures.sort_by(f64::total_cmp);
    let place = (figures.len().saturating_sub(1) as f64 * percent / 100.0).round();
    figures.get(place as usize).copied().unwrap_or(f64::NAN)
}

/// On a terminal of the node, which sends each letter back itself: through our proxy, recorded, and of `sshd` directly. The stock client
/// needs a second one of its kind for the way through the proxy.
fn keystrokes(both: &Both, home: &Path, scale: Scale) -> Result<Vec<Row>> {
    let through = Way::through(both.cluster.proxy, both.cluster.node);
    let direct = Way::direct(both.sshd.address);
    let (mut by_stock, mut by_tsh, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..scale.of(7, 1) {
        let mut tsh = tsh(home)?;
        tsh.args(["-t", "-t"]).arg(format!("{}@bench", login()?));
        let [mut jumping, mut at_once] =
            [stock(&both.key, &through, None)?, stock(&both.key, &direct, None)?];
        jumping.arg("-tt");
        at_once.arg("-tt");
        for (mut client, times) in [(jumping, &mut by_stock), (tsh, &mut by_tsh), (at_once, &mut theirs)] {
            client.arg("exec cat >/dev/null");
            times.push(percentile(&echoes(&mut client, scale.of(500, 5))?, 99.0));
        }
    }
    let theirs = median(theirs);
    let rows = [("stock ssh", by_stock), ("tsh ssh", by_tsh)].map(|(client, times)| {
        Row::against(
            format!("keystroke's echo, recorded, through the proxy, 99th of 100, {client}"),
            "ms",
            median(times),
            ("ssh to sshd", theirs),
            Goal::AtMost(1.5),
        )
    });
    Ok(rows.into())
}

/// `tsh ssh` of whoever is logged in in this home.
fn tsh(home: &Path) -> Result<Command> {
    let mut tsh = Command::new(program()?.with_file_name("tsh"));
    tsh.env("TELEPORT_HOME", home).arg("ssh");
    Ok(tsh)
}

/// How long a client takes for one session, and a keystroke in one.
///
/// # Errors
/// What fails.
pub async fn latency(scale: Scale) -> Result<Vec<Row>> {
    let both = Both::start().await?;
    let mut rows = Vec::new();
    for (ours, theirs, how) in both.ways() {
        let (mut our_times, mut their_times) = (Vec::new(), Vec::new());
        for _ in 0..scale.of(30, 2) {
            our_times.push(once(&mut stock(&both.key, &ours, None)?)?);
            their_times.push(once(&mut stock(&both.key, &theirs, None)?)?);
        }
        rows.push(Row::against(
            format!("stock ssh, connect and run true, {how}"),
            "ms",
            median(our_times),
            ("sshd", median(their_times)),
            Goal::Free,
        ));
    }
    let dir = tempfile::tempdir()?;
    let home = home(&both.cluster, dir.path()).await?;
    let (mut our_times, mut their_times) = (Vec::new(), Vec::new());
    let [_, (_, jumped, _)] = both.ways();
    for _ in 0..scale.of(30, 2) {
        let mut tsh = tsh(&home)?;
        tsh.arg(format!("{}@bench", login()?));
        our_times.push(once(&mut tsh)?);
        their_times.push(once(&mut stock(&both.key, &jumped, None)?)?);
    }
    rows.push(Row::against(
        "tsh ssh, connect and run true, through the proxy",
        "ms",
        median(our_times),
        ("ssh -J", median(their_times)),
        Goal::AtMost(0.5),
    ));
    rows.extend(keystrokes(&both, &home, scale)?);
    Ok(rows)
}

/// Milliseconds of one session that runs `true`.
pub(crate) fn once(ssh: &mut Command) -> Result<f64> {
    let started = Instant::now();
    let status = ssh.arg("true").stdin(Stdio::null()).status()?;
    ensure!(status.success(), "{ssh:?} ended with {status}");
    Ok(started.elapsed().as_secs_f64() * 1000.0)
}
