//! Nodes that listen nowhere beside nodes that listen: the same client, the same proxy, the same program on the other side. And what many
//! tunnels cost.

mod fleet;
mod many;

use std::cell::RefCell;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
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

/// A proxy with a node of each kind, each a process of its own.
struct Both {
    cluster: Cluster,
    /// The user's key.
    key: PathBuf,
    listening: Way,
    behind: Way,
    nodes: [Server; 2],
    _dirs: [tempfile::TempDir; 3],
}

impl Both {
    async fn start() -> Result<Self> {
        let dirs = [tempfile::tempdir()?, tempfile::tempdir()?, tempfile::tempdir()?];
        let [base, one, other] = &dirs;
        let cluster = Cluster::start(base.path())?;
        let (listens, address) = cluster.join_node(one.path()).await?;
        let tunnelled = cluster.join_tunnelled(other.path(), BEHIND).await?;
        let key = cluster.user().await?.write(base.path())?;
        let both = Self {
            key,
            listening: Way::through(cluster.proxy, address),
            behind: Way::named(cluster.proxy, BEHIND),
            cluster,
            nodes: [listens, tunnelled],
            _dirs: dirs,
        };
        both.reached().await?;
        Ok(both)
    }

    /// The ways to compare, ours first.
    const fn ways(&self) -> [&Way; 2] {
        [&self.behind, &self.listening]
    }

    /// The CPU of all servers.
    fn cpu(&self) -> Result<Cpu> {
        let nodes = self.nodes.iter().map(Server::cpu);
        nodes.fold(self.cluster.server.cpu(), |sum, node| Ok(sum?.and(node?)))
    }

    /// Until the proxy leads to both.
    async fn reached(&self) -> Result<()> {
        let began = Instant::now();
        for way in self.ways() {
            while let Err(error) = once(&mut stock(&self.key, way, None)?) {
                ensure!(began.elapsed() < PATIENCE, "no way to {}: {error:#}", way.host);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }

    /// The same of both, by turns: the medians, ours first.
    fn compare(&self, runs: usize, measure: impl Fn(&Way) -> Result<f64>) -> Result<[f64; 2]> {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..runs {
            ours.push(measure(&self.behind)?);
            theirs.push(measure(&self.listening)?);
        }
        Ok([median(ours), median(theirs)])
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
    let both = Both::start().await?;
    let mut rows = Vec::new();
    let mut row = |what: String, unit, [ours, theirs]: [f64; 2], goal| {
        rows.push(Row::against(what, unit, ours, ("listening node", theirs), goal));
    };
    for direction in [Direction::Down, Direction::Up] {
        let cpus = RefCell::new([Vec::new(), Vec::new()]);
        let figures = both.compare(scale.of(5, 1), |way| {
            let (speed, cpu) = speed(&both.key, way, direction, scale, || both.cpu())?;
            let [behind, listening] = &mut *cpus.borrow_mut();
            if std::ptr::eq(way, &raw const both.behind) { behind } else { listening }.push(cpu);
            Ok(speed)
        })?;
        row(format!("{} through a tunnel", direction.name()), "MB/s", figures, Goal::AtLeast(0.9));
        row("  CPU of proxy and node for a GB".to_owned(), "s", cpus.into_inner().map(median), Goal::Free);
    }
    let figures = both.compare(scale.of(30, 2), |way| once(&mut stock(&both.key, way, None)?))?;
    // The same goal of a time: not more than by a tenth longer.
    row(
        "stock ssh, connect and run true, through a tunnel".to_owned(),
        "ms",
        figures,
        Goal::AtMost(1.0 / 0.9),
    );
    for percent in [50.0, 99.0] {
        let figures = both.compare(scale.of(7, 1), |way| {
            let mut ssh = stock(&both.key, way, None)?;
            ssh.arg("-tt").arg("exec cat >/dev/null");
            Ok(percentile(&echoes(&mut ssh, scale.of(500, 5))?, percent))
        })?;
        let what = format!("keystroke's echo through a tunnel, {percent}th of 100");
        row(what, "ms", figures, if percent < 99.0 { Goal::AtMost(1.0 / 0.9) } else { Goal::Free });
    }
    Ok(rows)
}
