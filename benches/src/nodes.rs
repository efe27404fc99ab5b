//! Many nodes: each with an identity of its own, a connection of its own, what a node follows and the signs of life that it gives, by
//! the code of the product and at its pace. Proxies' views follow them.
//!
//! Each connection is a file that the auth service has open. Where a process may not have enough of them, several auth services share the
//! store and divide the nodes.
//!
//! ```text
//! teleport-benches nodes                                          a thousand and ten thousand, in redb
//! teleport-benches nodes --nodes 50000 --stores etcd,postgres     with as many auth services as it takes
//! teleport-benches nodes --nodes 10000 --window 1800              half an hour of them
//! ```

mod group;
pub(crate) mod node;
mod services;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use teleport_core::api::{AdminApi, PresenceApi, ProxyAccess, ProxyRecord};
use teleport_core::clock::{Clock, SystemClock};
use teleport_core::entropy::{Entropy, SystemEntropy};
use teleport_core::task::TaskScope;
use teleport_ssh::proxy::{NodeTable, NodeView};
use teleport_ssh::rpc::AuthClient;
use tokio::time::Instant;

use self::group::Group;
pub use self::group::{Order, obey};
use self::node::join_proxy;
use self::services::Services;
use crate::Scale;
use crate::cluster::AuthOnly;
use crate::report::{Goal, Row, median};
use crate::servers::StoreServer;

/// How many proxies follow the nodes.
const PROXIES: usize = 2;
/// How long anything may take to come about.
const PATIENCE: Duration = Duration::from_secs(600);
/// Files that are open for something else than nodes, here and at the auth service, which keeps some back.
const OTHER_FILES: usize = 2000;
/// What each auth service has to listen to for so many nodes, if it may.
const OF_PROCESS: usize = 60_000;

/// Where the state is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[expect(clippy::exhaustive_enums, reason = "those that there are")]
pub enum Store {
    /// A cluster of etcd with one member, on this machine.
    Etcd,
    /// A server of PostgreSQL, on this machine.
    Postgres,
    /// In the process of the auth service.
    Redb,
}

impl Store {
    const fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::Postgres => "postgres",
            Self::Redb => "redb",
        }
    }

    /// The server, if it takes one.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start(self) -> Result<Option<StoreServer>> {
        Ok(match self {
            Self::Etcd => Some(StoreServer::etcd().await?),
            Self::Postgres => Some(StoreServer::postgres().await?),
            Self::Redb => None,
        })
    }
}

/// A proxy as the auth service sees it.
struct Proxy {
    api: Arc<AuthClient>,
    record: ProxyRecord,
    view: NodeView,
}

/// All that `counts` and `stores` name; the steady state is looked at for `window`, in which every node gives a sign of life if it is
/// a minute.
///
/// # Errors
/// What fails.
pub async fn run(scale: Scale, counts: &[usize], stores: &[Store], window: Duration) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for store in stores {
        for count in counts {
            let count = scale.of(*count, 20);
            rows.extend(
                one(scale, count, *store, window)
                    .await
                    .with_context(|| format!("{count} nodes, {}", store.name()))?,
            );
            if scale.smoke {
                return Ok(rows);
            }
        }
    }
    Ok(rows)
}

/// How many connections a process may have, if it wants `count`.
pub(crate) fn allow_files(count: usize) -> Result<usize> {
    let wanted = u64::try_from(count + OTHER_FILES)?;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    // Who may not raise the limit has what there is.
    let allowed = if hard < wanted && setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted).is_ok() {
        wanted
    } else {
        hard
    };
    let allowed = usize::try_from(allowed)?.saturating_sub(OTHER_FILES).min(count);
    ensure!(allowed > 0, "the limit of open files is {hard} (ulimit -Hn)");
    Ok(allowed)
}

async fn proxy(auth: &AuthOnly, scope: &TaskScope) -> Result<Proxy> {
    let pin = auth.admin()?.status().await?.ca_pins.pop().context("a cluster has a pin")?;
    let (api, host_id, name) = join_proxy(auth.auth, pin).await?;
    let record = ProxyRecord {
        host_id,
        web_address: format!("{name}.example.com:3080"),
        ssh_address: format!("{name}.example.com:3023"),
        name,
        peer_address: None,
        tunnels: 0,
        version: "bench".to_owned(),
    };
    api.announce_proxy(record.clone()).await?;
    let view = NodeView::new();
    let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy::new());
    let (following, access): (_, Arc<dyn ProxyAccess>) = (view.clone(), Arc::<AuthClient>::clone(&api));
    scope.spawn(async move { following.follow(access, entropy).await });
    Ok(Proxy { api, record, view })
}

/// Until each proxy knows all of them.
async fn all_seen(proxies: &[Proxy], count: usize) -> Result<()> {
    for proxy in proxies {
        tokio::time::timeout(PATIENCE, proxy.view.wait_for(|table| table.len() >= count))
            .await
            .context("a proxy does not hear of all nodes")?;
    }
    Ok(())
}

/// How many nodes a proxy would take for offline now.
fn offline(proxies: &[Proxy]) -> usize {
    let now = SystemClock::new().now();
    let of = |proxy: &Proxy| proxy.view.read(|table| table.filter(|node| !node.is_online(now)).len());
    proxies.iter().map(of).max().unwrap_or_default()
}

async fn one(scale: Scale, count: usize, store: Store, window: Duration) -> Result<[Row; 15]> {
    let of_each = allow_files(count.min(OF_PROCESS))?;
    let mut services = Services::start(count, of_each, store).await?;
    let first = services.auths.first().context("an auth service")?;
    let admin = first.admin()?;
    let scope = TaskScope::new();
    let mut proxies = Vec::new();
    for auth in services.auths.iter().rev().cycle().take(PROXIES) {
        proxies.push(proxy(auth, &scope).await?);
    }

    // As many as possible become members, and begin: the morning after all of them were restarted.
    let pin = admin.status().await?.ca_pins.pop().context("a cluster has a pin")?;
    let addresses: Vec<SocketAddr> = services.auths.iter().map(|auth| auth.auth).collect();
    let began = Instant::now();
    let groups = count.div_ceil(of_each);
    let share = count.div_ceil(groups);
    let order = |first: usize| Order {
        auths: addresses.clone(),
        pin,
        count: share.min(count - first),
        first,
        groups,
    };
    let started = (0..count).step_by(share).map(|first| Group::start(&order(first)));
    let mut groups = started.collect::<Result<Vec<_>>>()?;
    for group in &mut groups {
        group.hear()?;
    }
    let joined = began.elapsed();
    let tell = |what: &str| eprintln!("{count} nodes, {}: {what}", store.name());
    tell("all have joined");
    let began = Instant::now();
    for group in &mut groups {
        group.begin()?;
    }
    all_seen(&proxies, count).await?;
    let begun = began.elapsed();
    tell("all are seen");

    // Steady state.
    let mut latencies = || groups.iter_mut().map(Group::latencies).collect::<Result<Vec<_>>>();
    latencies()?;
    let (window, until) = (scale.of(window, Duration::from_secs(2)), Instant::now());
    let before = services.cpu()?;
    let (mut false_offline, mut announced) = (0, Instant::now());
    while until.elapsed() < window {
        tokio::time::sleep(Duration::from_secs(1)).await;
        false_offline = false_offline.max(offline(&proxies));
        if announced.elapsed() > Duration::from_secs(45) {
            announced = Instant::now();
            for proxy in &proxies {
                proxy.api.announce_proxy(proxy.record.clone()).await?;
            }
        }
    }
    let elapsed = until.elapsed().as_secs_f64();
    let after = services.cpu()?;
    let (cores, of_store) = (after.0.since(before.0).all / elapsed, after.1.since(before.1).all / elapsed);
    let (beats, middle, slow) = figures(latencies()?.concat());

    // Lists and changes, while signs of life go on.
    tell("lists and changes");
    let mut lists = Vec::new();
    for _ in 0..scale.of(5, 1) {
        let began = Instant::now();
        let nodes = admin.nodes().await?;
        ensure!(nodes.len() == count, "{} of {count} nodes are listed", nodes.len());
        lists.push(began.elapsed().as_secs_f64());
    }
    let mut changes = Vec::new();
    for number in 0..scale.of(50, 2) {
        let at = number % groups.len();
        let group = groups.get_mut(at).context("a group")?;
        let (began, id) = (Instant::now(), group.rename(number)?);
        let version = number.to_string();
        for proxy in &proxies {
            let is_there =
                |table: &NodeTable| table.by_id(id).is_some_and(|node| node.record.version == version);
            let seen = proxy.view.wait_for(is_there);
            tokio::time::timeout(PATIENCE, seen).await.context("a change is not seen")?;
        }
        changes.push(began.elapsed().as_secs_f64());
    }
    let (_, seen, seen_late) = figures(changes);
    let resident = services.resident()? / 1e6;

    // All nodes of one auth service lose their connection at once.
    tell("an auth service is started again");
    let known = groups.iter_mut().map(Group::remember).sum::<Result<usize>>()?;
    let auth = services.auths.remove(0).restart()?;
    let began = Instant::now();
    let mut half = None;
    loop {
        let told = groups.iter_mut().map(Group::told).sum::<Result<usize>>()?;
        if told * 2 >= known {
            half.get_or_insert_with(|| began.elapsed());
        }
        if told == known {
            break;
        }
        ensure!(began.elapsed() < PATIENCE, "{told} of {known} nodes have come back");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let back = began.elapsed();
    let half = half.unwrap_or(back);
    let auths = addresses.len();
    drop((groups, auth));

    let row = |what: &str, unit, value, goal| {
        Row::alone(format!("{count} nodes, {}: {what}", store.name()), unit, value, goal)
    };
    let big = |goal| if count <= 50_000 && !scale.smoke { goal } else { Goal::Free };
    Ok([
        row("auth services", "", auths as f64, Goal::Free),
        row("joins", "1/s", count as f64 / joined.as_secs_f64(), Goal::Free),
        row("all at once, until all are seen", "s", begun.as_secs_f64(), Goal::Free),
        row("processors of auth services", "cores", cores, big(Goal::AtMost(1.0))),
        row("processors of the store", "cores", of_store, Goal::Free),
        row("memory of auth services", "MB", resident, Goal::Free),
        row("signs of life", "1/s", beats as f64 / elapsed, Goal::Free),
        row("a sign of life, median", "ms", middle * 1e3, Goal::Free),
        row("a sign of life, 99th percentile", "ms", slow * 1e3, big(Goal::AtMost(500.0))),
        row("taken for offline", "nodes", false_offline as f64, Goal::AtMost(0.0)),
        row("list of all", "s", median(lists), big(Goal::AtMost(1.0))),
        row("a change at every proxy, median", "s", seen, big(Goal::AtMost(2.0))),
        row("a change at every proxy, slowest", "s", seen_late, big(Goal::AtMost(2.0))),
        row(
            "after a restart of an auth service, half of its own are back",
            "s",
            half.as_secs_f64(),
            big(Goal::AtMost(10.0)),
        ),
        row(
            "after a restart of an auth service, all of its own are back",
            "s",
            back.as_secs_f64(),
            Goal::Free,
        ),
    ])
}

/// How many there are, the middle, and the 99th of a hundred.
fn figures(mut seconds: Vec<f64>) -> (usize, f64, f64) {
    seconds.sort_by(f64::total_cmp);
    let at = |part: usize| seconds.get(seconds.len() * part / 100).copied().unwrap_or(f64::NAN);
    (seconds.len(), at(50), at(99))
}
