//! Simulated nodes: what a node does for being known, without the port for users.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use async_trait::async_trait;
use futures_util::stream::{self, BoxStream, StreamExt, TryStreamExt};
use teleport_core::api::{
    AccessView, ApiResult, JoinRequest, NodeEvent, PresenceApi, ProxyRecord, PublicApi,
};
use teleport_core::cert::{CaPin, SubjectKeys};
use teleport_core::clock::{Clock, SystemClock};
use teleport_core::entropy::{Entropy, SystemEntropy};
use teleport_core::id::{HostId, HostRole, NodeName};
use teleport_core::label::Labels;
use teleport_core::resource::{Node, NodeKind, NodeRecord};
use teleport_core::secret::SecretString;
use teleport_core::task::{Shutdown, TaskScope};
use teleport_ssh::heartbeat;
use teleport_ssh::identity::{HostIdentityHandle, HostMaterial, HostName};
use teleport_ssh::join::{JoinOptions, join};
use teleport_ssh::rpc::{AuthClient, BoxedIo, ClientIdentity, Connector, TcpConnector};
use teleport_ssh::view::{AccessCache, DEFAULT_MAX_AGE};
use tokio::net::TcpSocket;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::cluster::TOKEN;

/// How many join at a time.
const JOINING: usize = 32;
/// How many begin a second: every connection begins with TLS, on the processors that the auth service needs as well.
const BEGINNING: f64 = 1000.0;
/// The first node comes from here, and each of the others from the next address: limits are for each address.
const FIRST_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 1, 0, 1);

/// How long each sign of life took.
type Latencies = Arc<Mutex<Vec<f64>>>;

/// From an address of its own, as nodes do.
#[derive(Debug)]
pub(crate) struct FromAddress {
    own: Ipv4Addr,
    auth: SocketAddr,
}

impl FromAddress {
    /// The one of this number.
    pub(crate) fn numbered(number: usize, auth: SocketAddr) -> Self {
        let own = FIRST_ADDRESS.to_bits().wrapping_add(u32::try_from(number).unwrap_or_default());
        Self { own: own.into(), auth }
    }
}

#[async_trait]
impl Connector for FromAddress {
    async fn connect(&self) -> io::Result<BoxedIo> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((self.own, 0).into())?;
        let stream = socket.connect(self.auth).await?;
        stream.set_nodelay(true)?;
        Ok(Box::new(stream))
    }
}

/// The API of a node, with a clock.
#[derive(Debug)]
struct Timed {
    api: Arc<AuthClient>,
    latencies: Latencies,
}

impl Timed {
    async fn time<T>(&self, call: impl Future<Output = ApiResult<T>>) -> ApiResult<T> {
        let began = Instant::now();
        let outcome = call.await?;
        let took = began.elapsed().as_secs_f64();
        self.latencies.lock().unwrap_or_else(PoisonError::into_inner).push(took);
        Ok(outcome)
    }
}

#[async_trait]
impl PresenceApi for Timed {
    async fn announce_node(&self, node: NodeRecord) -> ApiResult<()> {
        self.time(self.api.announce_node(node)).await
    }

    async fn keep_alive(&self) -> ApiResult<()> {
        self.time(self.api.keep_alive()).await
    }

    async fn announce_proxy(&self, proxy: ProxyRecord) -> ApiResult<()> {
        self.api.announce_proxy(proxy).await
    }

    async fn nodes(&self) -> ApiResult<Vec<Node>> {
        self.api.nodes().await
    }

    async fn watch_nodes(&self) -> ApiResult<BoxStream<'static, ApiResult<NodeEvent>>> {
        self.api.watch_nodes().await
    }
}

/// A proxy becomes a member: its calls, its id and its name.
pub(crate) async fn join_proxy(auth: SocketAddr, pin: CaPin) -> Result<(Arc<AuthClient>, HostId, NodeName)> {
    let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy::new());
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let host_id = HostId::random(&*entropy)?;
    let name: NodeName = format!("gate-{}", &host_id.to_string()[..8]).parse()?;
    let options = JoinOptions {
        servers: vec![auth.to_string()],
        token: SecretString::new(TOKEN),
        pins: vec![pin],
        require_pin: true,
        known: None,
        host_id,
        name: name.clone(),
        role: HostRole::Proxy,
        addresses: Vec::new(),
    };
    let member = join(options, Arc::clone(&clock), &*entropy).await?;
    let identity = ClientIdentity::Host(HostIdentityHandle::new(member));
    let connector = Arc::new(TcpConnector::new([auth.to_string()]));
    Ok((Arc::new(AuthClient::builder(connector, identity, clock).build()), host_id, name))
}

/// Hosts that are members and have not begun.
pub(crate) struct Fleet(Vec<HostMaterial>);

/// Nodes that live until this is dropped.
pub(super) struct Running {
    records: Vec<watch::Sender<NodeRecord>>,
    views: Vec<AccessCache>,
    latencies: Latencies,
    scope: TaskScope,
}

impl Fleet {
    /// Each joins by itself, over the connection of a proxy, as behind a load balancer.
    /// The first has the number `first`.
    pub(crate) async fn join(count: usize, first: usize, proxy: &Arc<AuthClient>) -> Result<Self> {
        let hosts = stream::iter(first..first + count).map(|number| {
            let proxy = Arc::clone(proxy);
            async move {
                let entropy = SystemEntropy::new();
                let host_id = HostId::random(&entropy)?;
                let name =
                    HostName { host_id, name: format!("node-{number}").parse()?, role: HostRole::Node };
                let keys = HostMaterial::generate_keys(&entropy)?;
                let request = JoinRequest {
                    token: SecretString::new(TOKEN),
                    host_id,
                    name: name.name.clone(),
                    role: name.role,
                    keys: SubjectKeys { ssh: keys.0.public(), tls: keys.1.public() },
                    addresses: Vec::new(),
                    client_ip: None,
                };
                let credentials = proxy.join(request).await.context("a node cannot join")?;
                Ok::<_, anyhow::Error>(HostMaterial::from_credentials(name, keys, credentials)?)
            }
        });
        Ok(Self(hosts.buffer_unordered(JOINING).try_collect().await?))
    }

    /// Their identities.
    pub(crate) fn into_hosts(self) -> Vec<HostMaterial> {
        self.0
    }

    /// All of them begin, each at the next of these auth services. The first has the number `first`; `groups` processes with as many
    /// nodes begin at the same time.
    pub(super) fn begin(self, auths: &[SocketAddr], first: usize, groups: usize) -> Running {
        let mut running = Running {
            records: Vec::new(),
            views: Vec::new(),
            latencies: Latencies::default(),
            scope: TaskScope::new(),
        };
        for ((place, host), auth) in self.0.into_iter().enumerate().zip(auths.iter().cycle()) {
            let wait = Duration::from_secs_f64((place * groups) as f64 / BEGINNING);
            running.start(first + place, host, *auth, wait);
        }
        running
    }
}

impl Running {
    fn start(&mut self, number: usize, host: HostMaterial, auth: SocketAddr, wait: Duration) {
        let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy::new());
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let record = NodeRecord {
            host_id: host.host_id,
            sub_kind: NodeKind::Teleport,
            name: host.name.clone(),
            address: format!("node-{number}.example.com:3022"),
            labels: labels(number),
            proxy_ids: Vec::new(),
            version: "bench".to_owned(),
        };
        let (sender, record) = watch::channel(record);
        self.records.push(sender);
        let connector = Arc::new(FromAddress::numbered(number, auth));
        let identity = ClientIdentity::Host(HostIdentityHandle::new(host));
        let api = Arc::new(AuthClient::builder(connector, identity, clock).build());
        let timed = Arc::new(Timed { api: Arc::clone(&api), latencies: Arc::clone(&self.latencies) });
        let view = AccessCache::new(DEFAULT_MAX_AGE);
        self.views.push(view.clone());
        self.scope.spawn(async move {
            tokio::time::sleep(wait).await;
            let shutdown = Shutdown::new();
            let following = view.follow(api, Arc::clone(&entropy), shutdown.clone());
            tokio::join!(following, heartbeat::run(timed, record, entropy, shutdown));
        });
    }

    /// How long each sign of life took since the last time that it was asked for, in seconds.
    pub(super) fn latencies(&mut self) -> Vec<f64> {
        std::mem::take(&mut self.latencies.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What each node at the first of so many auth services knows now.
    pub(super) fn known(&self, auths: usize) -> Vec<Option<Arc<AccessView>>> {
        self.views.iter().step_by(auths).map(AccessCache::current).collect()
    }

    /// How many of them have been told again since `before`, and are followed.
    pub(super) fn told_since(&self, before: &[Option<Arc<AccessView>>], auths: usize) -> usize {
        let is_new = |(view, before): &(&AccessCache, &Option<Arc<AccessView>>)| {
            let same = match (view.current(), before) {
                (Some(now), Some(before)) => Arc::ptr_eq(&now, before),
                (now, _) => now.is_none(),
            };
            !same && view.age().is_zero()
        };
        self.views.iter().step_by(auths).zip(before).filter(is_new).count()
    }

    /// A node says something new of itself: a version that is `number`.
    pub(super) fn rename(&self, number: usize) -> Result<HostId> {
        let record = self.records.get(number % self.records.len().max(1)).context("a node")?;
        record.send_modify(|record| record.version = number.to_string());
        Ok(record.borrow().host_id)
    }
}

/// As many as people give.
fn labels(number: usize) -> Labels {
    let stage = if number.is_multiple_of(3) { "prod" } else { "dev" };
    let pairs = [("env", stage), ("team", "platform")];
    let pairs = pairs.map(|(key, value)| (key.to_owned(), value.to_owned()));
    Labels::new(pairs).unwrap_or_default()
}
