//! Many nodes at one auth service: each with an identity of its own, a connection of its own, what a node follows and the signs of
//! life that it gives, by the code of the product and at its pace. Proxies' views follow them.
//!
//! ```text
//! teleport-benches nodes                                     a thousand and ten thousand, in redb
//! teleport-benches nodes --nodes 50000 --stores redb         as many as the limit of open files allows
//! teleport-benches nodes --stores redb,etcd,postgres
//! ```

pub(crate) mod node;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use teleport_core::api::{AdminApi, PresenceApi, ProxyAccess, ProxyRecord};
use teleport_core::clock::{Clock, SystemClock};
use teleport_core::entropy::{Entropy, SystemEntropy};
use teleport_core::id::{HostId, HostRole};
use teleport_core::secret::SecretString;
use teleport_core::task::TaskScope;
use teleport_ssh::identity::HostIdentityHandle;
use teleport_ssh::join::{JoinOptions, join};
use teleport_ssh::proxy::{NodeTable, NodeView};
use teleport_ssh::rpc::{AuthClient, ClientIdentity, TcpConnector};
use tokio::time::Instant;

use self::node::Fleet;
use crate::Scale;
use crate::cluster::{AuthOnly, TOKEN};
use crate::process::Server;
use crate::report::{Goal, Row, median};
use crate::servers::StoreServer;

/// How many proxies follow the nodes.
const PROXIES: usize = 2;
/// How long the steady state is looked at: every node gives a sign of life in it.
const WINDOW: Duration = Duration::from_secs(60);
/// How long anything may take to come about.
const PATIENCE: Duration = Duration::from_secs(600);
/// Files that are open for something else than nodes.
const OTHER_FILES: u64 = 1000;

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

/// All that `counts` and `stores` name.
///
/// # Errors
/// What fails.
pub async fn run(scale: Scale, counts: &[usize], stores: &[Store]) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for store in stores {
        for count in counts {
            let count = scale.of(*count, 20);
            rows.extend(
                one(scale, count, *store)
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

/// Each node is an open file here and one at the auth service, which inherits the limit.
pub(crate) fn allow_files(count: usize) -> Result<()> {
    let wanted = u64::try_from(count)? + OTHER_FILES;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if hard < wanted {
        setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted).with_context(|| {
            format!("{count} nodes need {wanted} open files, and the limit is {hard} (ulimit -Hn)")
        })?;
    }
    Ok(())
}

async fn proxy(auth: SocketAddr, admin: &AuthClient, scope: &TaskScope) -> Result<Proxy> {
    let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy::new());
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let host_id = HostId::random(&*entropy)?;
    let name = format!("gate-{}", &host_id.to_string()[..8]);
    let options = JoinOptions {
        servers: vec![auth.to_string()],
        token: SecretString::new(TOKEN),
        pins: admin.status().await?.ca_pins,
        require_pin: true,
        known: None,
        host_id,
        name: name.parse()?,
        role: HostRole::Proxy,
        addresses: Vec::new(),
    };
    let identity =
        ClientIdentity::Host(HostIdentityHandle::new(join(options, Arc::clone(&clock), &*entropy).await?));
    let api = Arc::new(
        AuthClient::builder(Arc::new(TcpConnector::new([auth.to_string()])), identity, clock).build(),
    );
    let record = ProxyRecord {
        host_id,
        name: name.parse()?,
        web_address: format!("{name}.example.com:3080"),
        ssh_address: format!("{name}.example.com:3023"),
        peer_address: None,
        tunnels: 0,
        version: "bench".to_owned(),
    };
    api.announce_proxy(record.clone()).await?;
    let view = NodeView::new();
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

async fn one(scale: Scale, count: usize, store: Store) -> Result<[Row; 14]> {
    allow_files(count)?;
    let (dir, server) = (tempfile::tempdir()?, store.start().await?);
    let storage = match &server {
        Some(server) => format!("  storage:\n    type: {}\n    url: {}\n", store.name(), server.url),
        None => String::new(),
    };
    let auth = AuthOnly::start(dir.path(), &storage)?;
    let admin = auth.admin()?;
    let scope = TaskScope::new();
    let mut proxies = Vec::new();
    for _ in 0..PROXIES {
        proxies.push(proxy(auth.auth, &admin, &scope).await?);
    }

    // As many as possible become members, and begin: the morning after all of them were restarted.
    let first = proxies.first().context("a proxy")?;
    let began = Instant::now();
    let fleet = Fleet::join(count, &first.api).await?;
    let joined = began.elapsed();
    let began = Instant::now();
    let mut fleet = fleet.begin(auth.auth, scope.clone());
    all_seen(&proxies, count).await?;
    let begun = began.elapsed();

    // Steady state.
    fleet.latencies();
    let (window, until) = (scale.of(WINDOW, Duration::from_secs(2)), Instant::now());
    let (cpu, of_store) = (auth.server.cpu()?, cpu_of(server.as_ref())?);
    let mut false_offline = 0;
    while until.elapsed() < window {
        tokio::time::sleep(Duration::from_secs(1)).await;
        false_offline = false_offline.max(offline(&proxies));
        for proxy in proxies.iter().filter(|_| until.elapsed() > window / 2) {
            proxy.api.announce_proxy(proxy.record.clone()).await?;
        }
    }
    let elapsed = until.elapsed().as_secs_f64();
    let cores = auth.server.cpu()?.since(cpu).all / elapsed;
    let of_store = cpu_of(server.as_ref())?.since(of_store).all / elapsed;
    let (beats, middle, slow) = figures(fleet.latencies());

    // Lists and changes, while signs of life go on.
    let mut lists = Vec::new();
    for _ in 0..scale.of(5, 1) {
        let began = Instant::now();
        let nodes = admin.nodes().await?;
        ensure!(nodes.len() == count, "{} of {count} nodes are listed", nodes.len());
        lists.push(began.elapsed().as_secs_f64());
    }
    let mut changes = Vec::new();
    for number in 0..scale.of(50, 2) {
        let (began, id) = (Instant::now(), fleet.rename(number)?);
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
    let resident = auth.server.resident()? / 1e6;

    // All of them lose their connection at once.
    let known = fleet.known();
    let auth = auth.restart()?;
    let began = Instant::now();
    let mut half = None;
    loop {
        let told = fleet.told_since(&known);
        if told * 2 >= count {
            half.get_or_insert_with(|| began.elapsed());
        }
        if told == count {
            break;
        }
        ensure!(began.elapsed() < PATIENCE, "{told} of {count} nodes have come back");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let back = began.elapsed();
    let half = half.unwrap_or(back);
    fleet.end();
    drop(auth);

    let row = |what: &str, unit, value, goal| {
        Row::alone(format!("{count} nodes, {}: {what}", store.name()), unit, value, goal)
    };
    let big = |goal| if count <= 50_000 && !scale.smoke { goal } else { Goal::Free };
    Ok([
        row("joins", "1/s", count as f64 / joined.as_secs_f64(), Goal::Free),
        row("all at once, until all are seen", "s", begun.as_secs_f64(), Goal::Free),
        row("processors of auth", "cores", cores, big(Goal::AtMost(1.0))),
        row("processors of the store", "cores", of_store, Goal::Free),
        row("memory of auth", "MB", resident, Goal::Free),
        row("signs of life", "1/s", beats as f64 / elapsed, Goal::Free),
        row("a sign of life, median", "ms", middle * 1e3, Goal::Free),
        row("a sign of life, 99th percentile", "ms", slow * 1e3, big(Goal::AtMost(500.0))),
        row("taken for offline", "nodes", false_offline as f64, Goal::AtMost(0.0)),
        row("list of all", "s", median(lists), big(Goal::AtMost(1.0))),
        row("a change at every proxy, median", "s", seen, big(Goal::AtMost(2.0))),
        row("a change at every proxy, slowest", "s", seen_late, big(Goal::AtMost(2.0))),
        row("after a restart of auth, half are back", "s", half.as_secs_f64(), big(Goal::AtMost(10.0))),
        row("after a restart of auth, all are back", "s", back.as_secs_f64(), Goal::Free),
    ])
}

fn cpu_of(server: Option<&StoreServer>) -> Result<crate::process::Cpu> {
    server.map_or_else(|| Ok(crate::process::Cpu::default()), |store| Server::cpu(&store.server))
}

/// How many there are, the middle, and the 99th of a hundred.
fn figures(mut seconds: Vec<f64>) -> (usize, f64, f64) {
    seconds.sort_by(f64::total_cmp);
    let at = |part: usize| seconds.get(seconds.len() * part / 100).copied().unwrap_or(f64::NAN);
    (seconds.len(), at(50), at(99))
}
