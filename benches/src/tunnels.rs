//! Nodes that listen nowhere beside nodes that listen: the same client, the same program on the other side, through the proxy that has the
//! tunnel, and through one that has to ask that one. And what many tunnels cost.

mod fleet;
mod many;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::time::Instant;

pub use self::fleet::{Order, live};
use crate::Scale;
use crate::bulk::{Direction, speed};
use crate::cluster::Cluster;
use crate::load::Way;
use crate::process::{Cpu, Server};
use crate::report::{Goal, Row, median};
use crate::sessions::{echoes, once, percentile, stock};

/// How long the proxy may take to hear of the nodes.
const PATIENCE: Duration = Duration::from_secs(60);
/// The node that listens nowhere.
const BEHIND: &str = "bench-behind";

/// Two proxies that ask each other, and a node of each kind, each a process of its own.
struct Stand {
    cluster: Cluster,
    /// The user's key.
    key: PathBuf,
    /// To the node behind a tunnel by the proxy that has it and by the other one, and to the one that listens.
    ways: [Way; 3],
    others: [Server; 3],
    _dirs: [tempfile::TempDir; 4],
}

impl Stand {
    async fn start() -> Result<Self> {
        let dirs = [tempfile::tempdir()?, tempfile::tempdir()?, tempfile::tempdir()?, tempfile::tempdir()?];
        let [base, one, other, gate] = &dirs;
        let cluster = Cluster::start_with(base.path(), "  tunnel_strategy: {type: proxy_peering}\n")?;
        let (listens, address) = cluster.join_node(one.path()).await?;
        // It knows the first proxy alone, and has one tunnel.
        let tunnelled = cluster.join_tunnelled(other.path(), BEHIND).await?;
        let (proxy, second) = cluster.join_proxy(gate.path(), "bench-gate").await?;
        let key = cluster.user().await?.write(base.path())?;
        let stand = Self {
            key,
            ways: [
                Way::named(cluster.proxy, BEHIND),
                Way::named(second, BEHIND),
                Way::through(cluster.proxy, address),
            ],
            cluster,
            others: [listens, tunnelled, proxy],
            _dirs: dirs,
        };
        stand.reached().await?;
        Ok(stand)
    }

    /// The CPU of all servers.
    fn cpu(&self) -> Result<Cpu> {
        let others = self.others.iter().map(Server::cpu);
        others.fold(self.cluster.server.cpu(), |sum, other| Ok(sum?.and(other?)))
    }

    /// Until the proxies lead everywhere.
    async fn reached(&self) -> Result<()> {
        let began = Instant::now();
        for way in &self.ways {
            while let Err(error) = once(&mut stock(&self.key, way, None)?) {
                ensure!(began.elapsed() < PATIENCE, "no way to {}: {error:#}", way.host);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }

    /// The same by all ways, by turns: the medians.
    fn compare<const N: usize>(
        &self,
        runs: usize,
        measure: impl Fn(&Way) -> Result<[f64; N]>,
    ) -> Result<[[f64; 3]; N]> {
        let mut all = std::array::from_fn::<_, N, _>(|_| [Vec::new(), Vec::new(), Vec::new()]);
        for _ in 0..runs {
            for (at, way) in self.ways.iter().enumerate() {
                for (kind, figure) in all.iter_mut().zip(measure(way)?) {
                    kind.get_mut(at).context("a way")?.push(figure);
                }
            }
        }
        Ok(all.map(|ways| ways.map(median)))
    }
}

/// Bytes a second, sessions and keystrokes through a tunnel, and to a node that the proxy connects to; and so many tunnels.
///
/// # Errors
/// What fails.
pub async fn run(scale: Scale, counts: &[usize]) -> Result<Vec<Row>> {
    let mut rows = speeds(scale).await?;
    for count in counts {
        rows.extend(many::run(scale, scale.of(*count, 20)).await?);
        if scale.smoke {
            break;
        }
    }
    Ok(rows)
}

async fn speeds(scale: Scale) -> Result<Vec<Row>> {
    let stand = Stand::start().await?;
    let key = &stand.key;
    let mut rows = Vec::new();
    let mut row = |what: &str, unit, [tunnel, two, listening]: [f64; 3], goal| {
        let mut against = |how: &str, ours, goal| {
            rows.push(Row::against(
                format!("{what}, {how}"),
                unit,
                ours,
                ("listening node", listening),
                goal,
            ));
        };
        against("through a tunnel", tunnel, goal);
        against("through two proxies", two, Goal::Free);
    };
    for direction in [Direction::Down, Direction::Up] {
        let [speeds, cpus] = stand.compare(scale.of(5, 1), |way| {
            let (speed, cpu) = speed(key, way, direction, scale, || stand.cpu())?;
            Ok([speed, cpu])
        })?;
        row(direction.name(), "MB/s", speeds, Goal::AtLeast(0.9));
        row("  CPU of the servers for a GB", "s", cpus, Goal::Free);
    }
    // The same goal of a time: not more than by a tenth longer.
    let longer = Goal::AtMost(1.0 / 0.9);
    let [figures] = stand.compare(scale.of(30, 2), |way| Ok([once(&mut stock(key, way, None)?)?]))?;
    row("stock ssh, connect and run true", "ms", figures, longer);
    let [middle, slow] = stand.compare(scale.of(7, 1), |way| {
        let mut ssh = stock(key, way, None)?;
        ssh.arg("-tt").arg("exec cat >/dev/null");
        let times = echoes(&mut ssh, scale.of(500, 5))?;
        Ok([percentile(&times, 50.0), percentile(&times, 99.0)])
    })?;
    row("keystroke's echo, median", "ms", middle, longer);
    row("keystroke's echo, 99th of 100", "ms", slow, Goal::Free);
    Ok(rows)
}
