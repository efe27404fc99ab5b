//! Many tunnels at one proxy: what they cost it and the nodes, and how long they take to come back.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use teleport_core::api::AdminApi;
use tokio::time::Instant;

use super::fleet::{Order, READY};
use crate::Scale;
use crate::cluster::AuthOnly;
use crate::nodes::allow_files;
use crate::process::Server;
use crate::report::{Goal, Row};

/// The most nodes of one process: each has two connections there.
const OF_PROCESS: usize = 8_000;
/// How long anything may take to come about.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long the steady state is looked at.
const WINDOW: Duration = Duration::from_secs(30);

pub(super) async fn run(scale: Scale, count: usize) -> Result<[Row; 6]> {
    let allowed = allow_files(count)?;
    ensure!(count <= allowed, "a process may have {allowed} connections here (ulimit -Hn)");
    let (dir, gate) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let auth = AuthOnly::start(dir.path(), "")?;
    let pin = auth.admin()?.status().await?.ca_pins.pop().context("a cluster has a pin")?;
    // What is refused until there is a proxy.
    let web = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();

    let mut fleets = Vec::new();
    for first in (0..count).step_by(OF_PROCESS) {
        let proxy = SocketAddr::from((Ipv4Addr::LOCALHOST, web));
        let count = OF_PROCESS.min(count - first);
        let order = Order { auth: auth.auth, proxy, pin, count, first };
        let mut fleet =
            Server::start(Command::new(std::env::current_exe()?).arg("--fleet").args(order.words()))?;
        let began = Instant::now();
        while let Err(error) = fleet.wait_for(|line| (line == READY).then_some(())) {
            ensure!(began.elapsed() < PATIENCE, "{error:#}");
        }
        fleets.push(fleet);
    }
    let of_nodes = || fleets.iter().map(Server::resident).sum::<Result<f64>>();
    let before = of_nodes()?;

    // The same process without tunnels.
    let alone = auth.start_proxy(gate.path(), 0).await?;
    let (empty, files) = (alone.resident()?, alone.open_files()?);
    drop(alone);

    let began = Instant::now();
    let proxy = auth.start_proxy(gate.path(), web).await?;
    all_there(&proxy, files + count, began).await?;
    let begun = began.elapsed();
    tokio::time::sleep(scale.of(WINDOW, Duration::from_secs(1))).await;
    let (resident, of_nodes) = (proxy.resident()?, of_nodes()?);
    let (cpu, since) = (proxy.cpu()?, Instant::now());
    tokio::time::sleep(scale.of(WINDOW, Duration::from_secs(1))).await;
    let cores = proxy.cpu()?.since(cpu).own / since.elapsed().as_secs_f64();
    let open = proxy.open_files()?;
    ensure!(open >= files + count, "{} of {count} tunnels stand after a while", open - files.min(open));
    drop(proxy);

    let began = Instant::now();
    let proxy = auth.start_proxy(gate.path(), web).await?;
    let half = all_there(&proxy, files + count / 2, began).await?;
    let back = all_there(&proxy, files + count, began).await?;

    let row =
        |what: &str, unit, value, goal| Row::alone(format!("{count} tunnels: {what}"), unit, value, goal);
    let each = |bytes: f64| bytes / count as f64 / 1024.0;
    let goal = if count >= 1000 { Goal::AtMost(40.0) } else { Goal::Free };
    Ok([
        row("all stand after", "s", begun.as_secs_f64(), Goal::Free),
        row("memory of the proxy for each", "KiB", each(resident - empty), goal),
        row("memory of the node for each", "KiB", each(of_nodes - before), Goal::Free),
        row("processors of the proxy", "cores", cores, Goal::Free),
        row("after a restart of the proxy, half are back", "s", half.as_secs_f64(), Goal::AtMost(10.0)),
        row("after a restart of the proxy, all are back", "s", back.as_secs_f64(), Goal::Free),
    ])
}

/// Until the proxy has so many files open. How long it took since `began`.
async fn all_there(proxy: &Server, files: usize, began: Instant) -> Result<Duration> {
    loop {
        let open = proxy.open_files()?;
        if open >= files {
            return Ok(began.elapsed());
        }
        ensure!(began.elapsed() < PATIENCE, "the proxy has {open} of {files} files open");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
