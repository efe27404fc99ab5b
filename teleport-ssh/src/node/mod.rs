//! The SSH node: lets users with certificates in, and nobody else.
//!
//! ```text
//! TCP -> listener (limits) -> SSH handshake -> certificate -> roles -> SessionService::prepare -> LoginGrant
//!                                                                                |
//!            session channel -> request order -> recorder -> audit session.start -> SessionService::run
//! ```
//!
//! Each refusal is written to the audit log with its reason; the client hears that permission was denied.

mod audit;
mod authorize;
mod connection;
mod files;
mod forward;
mod handler;
mod join_task;
mod lifetime;
mod not_started;
mod opening;
mod places;
mod refusals;
mod report;
mod session_task;
mod stand_in;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use teleport_core::api::{ConnectionApi, NodeAccess, SessionReportApi};
use teleport_core::audit::{AuditEvent, EventKind};
use teleport_core::clock::Clock;
use teleport_core::entropy::Entropy;
use teleport_core::id::HostId;
use teleport_core::label::Labels;
use teleport_core::origin::Audience;
use teleport_core::resource::NodeRecord;
use teleport_core::task::{Shutdown, TaskScope};
use tokio::net::TcpListener;
use tokio::sync::watch;

pub use self::audit::NotAudited;
use self::audit::{AuditQueue, AuditWorker};
pub(crate) use self::authorize::chain;
use self::connection::ConfigCache;
pub use self::forward::{Displays, GatewayPorts, InvalidDisplays, MAX_FORWARDED};
use self::opening::Owner;
use self::places::Places;
pub use self::stand_in::StandIns;
pub(crate) use self::stand_in::{NotShown, OfProxy, Reach, Standing};
pub use crate::engine::ConfigError;
use crate::heartbeat;
use crate::identity::HostIdentityHandle;
use crate::listener::limits::Limits;
use crate::listener::{self, BindError, Counts, Door};
use crate::origin::OriginVerifier;
use crate::record::{NoRecorders, Recorders};
use crate::resume::Table;
use crate::rpc::AuthClient;
use crate::session::{SessionRegistry, SessionService};
use crate::sys::environment::AllowList;
use crate::view::{AccessCache, DEFAULT_MAX_AGE};

/// Sessions of one connection, if nothing else is configured.
const MAX_SESSIONS: usize = 128;
/// How long a connection that was lost is kept for its client, if nothing else is configured.
pub const RESUME_FOR: Duration = Duration::from_secs(600);
/// How many are kept at a time.
const MAX_DETACHED: usize = 1000;
/// How long the last events may take to be written when the node stops.
const LAST_EVENTS: Duration = Duration::from_secs(5);

/// What happens when the audit log cannot be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum AuditPolicy {
    /// Sessions and forwarded connections begin; their events are kept in memory and sent when they can be.
    BestEffort,
    /// A session or forwarded connection begins once its start is durable in the audit log, or not at all.
    #[default]
    Required,
}

/// A node could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The port cannot be opened.
    #[error("the SSH port cannot be opened")]
    Bind {
        /// The reason.
        source: BindError,
    },
    /// The host's identity is not usable.
    #[error("the host's identity cannot be used")]
    Identity {
        /// The reason.
        source: ConfigError,
    },
}

/// The SSH server of a node.
#[derive(Debug)]
#[non_exhaustive]
pub struct NodeServer;

impl NodeServer {
    /// Begins to describe a node. It shows `identity` to clients, asks `access` whom to trust and which roles exist, and
    /// reports to it; `service` runs the sessions.
    pub fn builder(
        identity: HostIdentityHandle,
        access: Arc<dyn NodeAccess>,
        service: Arc<dyn SessionService>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> NodeBuilder {
        NodeBuilder {
            identity,
            access,
            service,
            clock,
            entropy,
            listen: SocketAddr::from(([0, 0, 0, 0], 3022)),
            tunnels: Vec::new(),
            auth_client: None,
            advertise: None,
            labels: Labels::default(),
            recorders: Arc::new(NoRecorders),
            limits: Limits::default(),
            max_sessions: MAX_SESSIONS,
            max_forwarded: MAX_FORWARDED,
            gateway_ports: GatewayPorts::default(),
            displays: None,
            max_view_age: DEFAULT_MAX_AGE,
            audit_policy: AuditPolicy::default(),
            env: AllowList::default(),
            resume_for: RESUME_FOR,
        }
    }
}

/// Options of a node; every one has a default.
#[derive(Debug)]
pub struct NodeBuilder {
    identity: HostIdentityHandle,
    access: Arc<dyn NodeAccess>,
    service: Arc<dyn SessionService>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    listen: SocketAddr,
    tunnels: Vec<String>,
    auth_client: Option<AuthClient>,
    advertise: Option<String>,
    labels: Labels,
    recorders: Arc<dyn Recorders>,
    limits: Limits,
    max_sessions: usize,
    max_forwarded: usize,
    gateway_ports: GatewayPorts,
    displays: Option<Displays>,
    max_view_age: Duration,
    audit_policy: AuditPolicy,
    env: AllowList,
    resume_for: Duration,
}

impl NodeBuilder {
    /// Where to listen; port 0 is any free one. Default: `0.0.0.0:3022`.
    #[must_use]
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.listen = address;
        self
    }

    /// Listens nowhere: the node keeps tunnels to the proxies instead, whose web ports (or whatever stands before them) are at `proxies`, each
    /// `host:port`. See [`Tunnels`](crate::tunnel::Tunnels).
    #[must_use]
    pub fn tunnels(mut self, proxies: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.tunnels = proxies.into_iter().map(Into::into).collect();
        self
    }

    /// The connection of `client`, of which the node's access to the auth service is made, goes the way of the tunnels: when one of these falls
    /// silent, the next call goes by a new connection ([`AuthClient::doubt`]). Default: none does.
    #[must_use]
    pub fn auth_client(mut self, client: AuthClient) -> Self {
        self.auth_client = Some(client);
        self
    }

    /// What the node tells others to be its address, `host:port`. Default: where it listens, or its name if that is every
    /// address.
    #[must_use]
    pub fn advertise(mut self, address: impl Into<String>) -> Self {
        self.advertise = Some(address.into());
        self
    }

    /// The node's labels. Default: none.
    #[must_use]
    pub fn labels(mut self, labels: Labels) -> Self {
        self.labels = labels;
        self
    }

    /// Who records the sessions. Default: nobody.
    #[must_use]
    pub fn recorders(mut self, recorders: Arc<dyn Recorders>) -> Self {
        self.recorders = recorders;
        self
    }

    /// The limits for strangers. The addresses of the proxies that the auth service knows are exempt; those of others, such as
    /// a translated one, belong into [`Limits::exempt`].
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The most sessions of one connection at a time. Default: 10.
    #[must_use]
    pub fn max_sessions(mut self, sessions: usize) -> Self {
        self.max_sessions = sessions;
        self
    }

    /// The most forwarded connections of one connection at a time, in both directions together. Default: 4096.
    #[must_use]
    pub fn max_forwarded(mut self, connections: usize) -> Self {
        self.max_forwarded = connections;
        self
    }

    /// On which addresses the node listens for its users (`ssh -R`). Default: loopback.
    #[must_use]
    pub fn gateway_ports(mut self, ports: GatewayPorts) -> Self {
        self.gateway_ports = ports;
        self
    }

    /// The displays that sessions may have (`ssh -X`), on loopback; `None` for nobody. Roles and certificates have to permit it as
    /// well. Default: nobody.
    #[must_use]
    pub fn displays(mut self, displays: Option<Displays>) -> Self {
        self.displays = displays;
        self
    }

    /// How long the node decides by its last view of trust and roles while the auth service is silent; zero is strict.
    /// Default: 5 minutes.
    #[must_use]
    pub fn max_view_age(mut self, age: Duration) -> Self {
        self.max_view_age = age;
        self
    }

    /// What happens when the audit log cannot be written. Default: no session begins.
    #[must_use]
    pub fn audit_policy(mut self, policy: AuditPolicy) -> Self {
        self.audit_policy = policy;
        self
    }

    /// Environment variables that clients may set. Default: `LANG` and `LC_*`.
    #[must_use]
    pub fn accept_env(mut self, names: AllowList) -> Self {
        self.env = names;
        self
    }

    /// How long a connection of `tsh` that was lost is kept, with all that runs on it, for `tsh` to come back; zero is not at all.
    /// Default: 10 minutes.
    #[must_use]
    pub fn resume_for(mut self, time: Duration) -> Self {
        self.resume_for = time;
        self
    }

    /// Opens the port. Clients that come now wait until [`BoundNode::serve`] runs.
    ///
    /// # Errors
    /// [`NodeError`].
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O enabled.
    // Async, so that a bind that must ask somebody stays possible without another signature.
    pub async fn bind(self) -> Result<BoundNode, NodeError> {
        let resumable = Table::new(self.resume_for, MAX_DETACHED);
        let configs = ConfigCache::new(&self.identity, resumable.offers())
            .map_err(|source| NodeError::Identity { source })?;
        let bind_error = |source| NodeError::Bind { source };
        let way = match self.tunnels {
            proxies if proxies.is_empty() => {
                let listener = listener::bind(self.listen).map_err(bind_error)?;
                let local = listener.local_addr();
                let local = local.map_err(|source| bind_error(BindError { address: self.listen, source }))?;
                Way::Port(listener, local)
            }
            proxies => Way::Tunnels(proxies),
        };
        let material = self.identity.current();
        let address = match &way {
            Way::Tunnels(_) => String::new(),
            Way::Port(_, local) => self.advertise.unwrap_or_else(|| match local.ip().is_unspecified() {
                true => format!("{}:{}", material.name, local.port()),
                false => local.to_string(),
            }),
        };
        let record = NodeRecord {
            host_id: material.host_id,
            name: material.name.clone(),
            address,
            labels: self.labels,
            sub_kind: teleport_core::resource::NodeKind::Teleport,
            proxy_ids: Vec::new(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let (audit, worker) = audit::queue();
        // What the node asks of it besides goes its own ways.
        let api: Arc<dyn ConnectionApi> = Arc::clone(&self.access) as Arc<dyn ConnectionApi>;
        let shared = Shared {
            identity: self.identity,
            configs,
            service: self.service,
            recorders: self.recorders,
            clock: Arc::clone(&self.clock),
            entropy: Arc::clone(&self.entropy),
            view: AccessCache::new(self.max_view_age),
            origins: OriginVerifier::new(Audience::Node(material.host_id), self.clock),
            audit,
            audit_policy: self.audit_policy,
            places: Places::new(api, Arc::clone(&self.entropy)),
            record: watch::Sender::new(record),
            auth_client: self.auth_client,
            sessions: SessionRegistry::default(),
            tasks: TaskScope::new(),
            max_sessions: self.max_sessions,
            max_forwarded: self.max_forwarded,
            forward_room: forward::NodeRoom::of_this_process(),
            gateway_ports: self.gateway_ports,
            displays: self.displays,
            login_grace: self.limits.login_grace,
            env: self.env,
            resumable: Arc::new(resumable),
            presented: None,
            stands_in_for: None,
            // Replaced by the one that `serve` is given.
            shutdown: Shutdown::new(),
        };
        let door = Door::new(self.limits, self.entropy);
        Ok(BoundNode { way, door, worker, access: self.access, shared })
    }
}

/// What the connections of a node share.
pub(crate) struct Shared {
    identity: HostIdentityHandle,
    configs: ConfigCache,
    service: Arc<dyn SessionService>,
    recorders: Arc<dyn Recorders>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    view: AccessCache,
    origins: OriginVerifier,
    audit: AuditQueue,
    audit_policy: AuditPolicy,
    places: Places,
    record: watch::Sender<NodeRecord>,
    auth_client: Option<AuthClient>,
    sessions: SessionRegistry,
    tasks: TaskScope,
    max_sessions: usize,
    max_forwarded: usize,
    forward_room: forward::NodeRoom,
    gateway_ports: GatewayPorts,
    displays: Option<Displays>,
    login_grace: Duration,
    env: AllowList,
    resumable: Arc<Table<Owner>>,
    /// Where a stand-in keeps the certificate by which a user was let in.
    presented: Option<stand_in::Presented>,
    /// The node in whose place this one is.
    stands_in_for: Option<HostId>,
    shutdown: Shutdown,
}

impl Shared {
    /// An event of this node.
    fn event(&self, kind: EventKind) -> AuditEvent {
        let material = self.identity.current();
        AuditEvent::new(kind).server(material.host_id, &material.name)
    }

    /// Tells the audit log that something is about to begin, as far as the policy demands it.
    async fn announce(&self, event: AuditEvent) -> Result<(), NotAudited> {
        match self.audit_policy {
            AuditPolicy::Required => self.audit.send_durably(event).await,
            AuditPolicy::BestEffort => {
                self.audit.send(event).await;
                Ok(())
            }
        }
    }
}

/// How a node is reached.
enum Way {
    Port(TcpListener, SocketAddr),
    /// By the proxies that are reached at these addresses.
    Tunnels(Vec<String>),
}

/// A node whose port is open, or that has none.
pub struct BoundNode {
    way: Way,
    door: Door,
    worker: AuditWorker,
    access: Arc<dyn NodeAccess>,
    shared: Shared,
}

impl fmt::Debug for BoundNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundNode").field("local", &self.local_addr().ok()).finish_non_exhaustive()
    }
}

/// A look into a node that runs.
#[derive(Clone, Debug)]
pub struct NodeStatus {
    door: Door,
    sessions: SessionRegistry,
    view: AccessCache,
}

impl NodeStatus {
    /// What the listener has seen.
    pub fn counts(&self) -> Counts {
        self.door.counts()
    }

    /// The same, as somebody who asks again and again keeps it.
    pub fn door(&self) -> Door {
        self.door.clone()
    }

    /// The sessions that are alive.
    pub fn sessions(&self) -> &SessionRegistry {
        &self.sessions
    }

    /// Whom the node trusts and which roles it knows.
    pub fn view(&self) -> &AccessCache {
        &self.view
    }
}

impl BoundNode {
    /// Where the node listens.
    ///
    /// # Errors
    /// [`AddrNotAvailable`](std::io::ErrorKind::AddrNotAvailable) if it has tunnels instead.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        match &self.way {
            Way::Port(_, local) => Ok(*local),
            Way::Tunnels(_) => Err(std::io::ErrorKind::AddrNotAvailable.into()),
        }
    }

    /// A look into the node, also while it runs.
    pub fn status(&self) -> NodeStatus {
        NodeStatus {
            door: self.door.clone(),
            sessions: self.shared.sessions.clone(),
            view: self.shared.view.clone(),
        }
    }

    /// Serves until `shutdown` drains: then accepts nothing more, ends connections without sessions and forwarded connections, waits for
    /// those, and writes the last audit events. Aborting ends the sessions at once.
    ///
    /// Dropping the future ends everything, without the last events.
    pub async fn serve(self, shutdown: Shutdown) {
        let Self { way, door, worker, access, mut shared } = self;
        shared.shutdown = shutdown.clone();
        let scope = TaskScope::new();
        let entropy = Arc::clone(&shared.entropy);
        scope.spawn(shared.view.follow(Arc::clone(&access), Arc::clone(&entropy), shutdown.clone()));
        scope.spawn(heartbeat::run(
            Arc::clone(&access),
            shared.record.subscribe(),
            Arc::clone(&entropy),
            shutdown.clone(),
        ));
        let (view, gate) = (shared.view.clone(), door.clone());
        scope.spawn(async move { view.for_each(|view| gate.exempt(&view.proxies)).await });
        let (view, sessions) = (shared.view.clone(), shared.sessions.clone());
        scope.spawn(async move { view.for_each(|view| report::obey(view, &sessions)).await });
        let reports = Arc::clone(&access) as Arc<dyn SessionReportApi>;
        scope.spawn(report::run(Arc::clone(&reports), shared.sessions.clone(), 1));
        let places = shared.places.clone();
        scope.spawn({
            let places = places.clone();
            async move { places.attend().await }
        });
        // Of its own, because the last events come after the abort.
        let written = Shutdown::new();
        let writing = TaskScope::new();
        writing.spawn(worker.run(access, entropy, written.clone()));
        let shared = Arc::new(shared);
        let node = Arc::clone(&shared);
        match way {
            Way::Port(listener, _) => {
                listener::serve(listener, door, shutdown.clone(), move |accepted| {
                    connection::run(Arc::clone(&node), accepted)
                })
                .await;
            }
            Way::Tunnels(proxies) => connection::through_tunnels(node, proxies, &shutdown).await,
        }
        tokio::select! {
            () = shared.tasks.join() => {}
            () = shutdown.aborted() => shared.tasks.abort().await,
        }
        scope.abort().await;
        // Those of the last connections: others need not wait until they run out.
        let last = async { tokio::join!(places.give_back(), report::farewell(&*reports)) };
        let _ = tokio::time::timeout(LAST_EVENTS, last).await;
        // The worker ends when the last sender is gone.
        drop(shared);
        if tokio::time::timeout(LAST_EVENTS, writing.join()).await.is_err() {
            written.abort();
            writing.join().await;
        }
    }
}
