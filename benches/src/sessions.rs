//! Whole sessions: connect, run `true`, close; at 16 parallel and one at a time, directly and through a hop.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, ensure};
use tokio::time::Instant;

use crate::Scale;
use crate::cluster::{Cluster, login};
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

/// How long a stock client takes for one session.
///
/// # Errors
/// What fails.
pub async fn latency(scale: Scale) -> Result<Vec<Row>> {
    let both = Both::start().await?;
    let mut rows = Vec::new();
    for (ours, theirs, how) in both.ways() {
        let (mut our_times, mut their_times) = (Vec::new(), Vec::new());
        for _ in 0..scale.of(30, 2) {
            our_times.push(once(&both.key, &ours)?);
            their_times.push(once(&both.key, &theirs)?);
        }
        rows.push(Row::against(
            format!("stock ssh, connect and run true, {how}"),
            "ms",
            median(our_times),
            ("sshd", median(their_times)),
            Goal::Free,
        ));
    }
    Ok(rows)
}

fn once(key: &Path, way: &Way) -> Result<f64> {
    let started = Instant::now();
    let status = stock(key, way, None)?.arg("true").stdin(Stdio::null()).status()?;
    ensure!(status.success(), "ssh ended with {status}");
    Ok(started.elapsed().as_secs_f64() * 1000.0)
}
