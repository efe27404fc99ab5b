//! A proxy in the place of a registered SSH server: the server knows nothing of roles, so its users meet this node's handler instead,
//! and what they are allowed is carried to the server over a second connection, in the user's name.
//!
//! ```text
//!  client ═══ SSH, shown the server's names ═══▶ stand-in ═══ SSH, shown a login of some minutes ═══▶ sshd
//!                                                  │ certificate ─▶ locks ─▶ roles ─▶ audit ─▶ recorder, as on a node
//!                                                  ▼
//!                                          auth service: both certificates, and for each login the same decision once more
//! ```
//!
//! Nothing is decided here that a node of ours does not decide in the same way by the same code.

mod attend;
mod far;
mod lease;
mod logins;
mod shown;

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use teleport_core::api::{ConnectionApi, SessionReport, SessionReportApi, StandInAccess, StandInApi};
use teleport_core::clock::Clock;
use teleport_core::entropy::Entropy;
use teleport_core::id::HostId;
use teleport_core::origin::Audience;
use teleport_core::resource::{NodeKind, NodeRecord};
use teleport_core::task::{Shutdown, TaskScope};
use tokio::io::DuplexStream;
use tokio::sync::watch;

pub(super) use self::far::Presented;
use self::far::{Far, OpenSshSessions};
use self::logins::Logins;
pub(crate) use self::shown::NotShown;
use self::shown::Shown;
use super::connection::{self, Blame, ConfigCache};
use super::places::Places;
use super::{AuditPolicy, GatewayPorts, LAST_EVENTS, MAX_SESSIONS, Shared, audit, forward, report};
use crate::listener::limits::Limits;
use crate::origin::OriginVerifier;
use crate::proxy::{DialError, NodeView};
use crate::record::Recorders;
use crate::resume::Table;
use crate::rpc::BoxedIo;
use crate::session::SessionRegistry;
use crate::sys::environment::AllowList;
use crate::view::AccessCache;

/// Bytes on their way between a client's channel and the stand-in, in one direction.
const PIPE: usize = 128 << 10;
/// How long the sessions of a connection that was cut have to end.
const END_LIMIT: Duration = Duration::from_secs(10);

/// What a proxy needs to stand in for registered SSH servers, beside what every proxy has.
#[derive(Debug)]
pub struct StandIns {
    access: Arc<dyn StandInAccess>,
    recorders: Arc<dyn Recorders>,
}

impl StandIns {
    /// `access` gives the certificates and takes what is seen; `recorders` record the sessions, as on a node.
    pub fn new(access: Arc<dyn StandInAccess>, recorders: Arc<dyn Recorders>) -> Self {
        Self { access, recorders }
    }

    /// Begins. What follows the auth service runs until [`Background::end`].
    pub(crate) fn start(self, of_proxy: OfProxy) -> (Standing, Background) {
        let Self { access, recorders } = self;
        let OfProxy { view, nodes, clock, entropy, shutdown } = of_proxy;
        let (audit, worker) = audit::queue();
        let places = Places::new(Arc::clone(&access) as Arc<dyn ConnectionApi>, Arc::clone(&entropy));
        let sessions = SessionRegistry::default();
        let reports = Arc::clone(&access) as Arc<dyn SessionReportApi>;
        let (followers, writing, tasks) = (TaskScope::new(), TaskScope::new(), TaskScope::new());
        let under_way = TaskScope::new();
        followers.spawn({
            let (view, sessions) = (view.clone(), sessions.clone());
            async move { view.for_each(|view| report::obey(view, &sessions)).await }
        });
        followers.spawn(report::run(Arc::clone(&reports), sessions.clone(), SessionReport::MAX_PAGES));
        followers.spawn({
            let places = places.clone();
            async move { places.attend().await }
        });
        let written = Shutdown::new();
        writing.spawn(worker.run(Arc::clone(&access), Arc::clone(&entropy), written.clone()));
        let background = Background {
            followers,
            writing,
            written,
            tasks: tasks.clone(),
            under_way: under_way.clone(),
            places: places.clone(),
            reports,
            shutdown: shutdown.clone(),
        };
        let names = Arc::clone(&access) as Arc<dyn StandInApi>;
        let shown = Shown::new(names, Arc::clone(&clock), Arc::clone(&entropy));
        let inner = Inner {
            access,
            recorders,
            clock,
            entropy,
            view,
            nodes,
            audit,
            places,
            sessions,
            shown,
            logins: Logins::default(),
            forward_room: forward::NodeRoom::of_this_process(),
            tasks,
            under_way,
            shutdown,
        };
        (Standing(Arc::new(inner)), background)
    }
}

/// What a proxy has anyway.
pub(crate) struct OfProxy {
    pub(crate) view: AccessCache,
    pub(crate) nodes: NodeView,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) shutdown: Shutdown,
}

/// Opens a stream to one server, as often as one is needed.
#[async_trait]
pub(crate) trait Reach: fmt::Debug + Send + Sync + 'static {
    /// # Errors
    /// [`DialError`].
    async fn reach(&self) -> Result<BoxedIo, DialError>;
}

/// Stands in for servers. Clones are the same.
#[derive(Clone)]
pub(crate) struct Standing(Arc<Inner>);

struct Inner {
    access: Arc<dyn StandInAccess>,
    recorders: Arc<dyn Recorders>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    view: AccessCache,
    nodes: NodeView,
    audit: audit::AuditQueue,
    places: Places,
    sessions: SessionRegistry,
    shown: Shown,
    logins: Logins,
    forward_room: forward::NodeRoom,
    tasks: TaskScope,
    /// Logins at servers.
    under_way: TaskScope,
    shutdown: Shutdown,
}

impl Standing {
    /// Serves one client in the place of `server`; returns the client's end. What is served ends with that end, or when the server is
    /// not registered any more. Nothing is said to the server before its user is let in and asks for something.
    ///
    /// # Errors
    /// [`NotShown`]: the client cannot be shown who this is.
    pub(crate) async fn open(
        &self,
        server: &NodeRecord,
        client: SocketAddr,
        reach: Arc<dyn Reach>,
    ) -> Result<DuplexStream, NotShown> {
        let inner = &*self.0;
        let usable = inner.view.usable().map_err(|_| NotShown::Trust)?;
        let identity = inner.shown.of(server, &usable.trust).await?;
        let configs = ConfigCache::new(&identity, false).map_err(NotShown::Config)?;
        let far = Arc::new(Far::new(
            (Arc::clone(&inner.access), Arc::clone(&inner.clock), Arc::clone(&inner.entropy)),
            inner.view.clone(),
            (&inner.logins, inner.under_way.clone()),
            server,
            client,
            reach,
        ));
        let shared = Shared {
            identity,
            configs,
            // It lives in the proxy, and no longer than the way to it.
            resumable: Arc::new(Table::new(Duration::ZERO, 0)),
            service: Arc::new(OpenSshSessions::new(Arc::clone(&far))),
            recorders: Arc::clone(&inner.recorders),
            clock: Arc::clone(&inner.clock),
            entropy: Arc::clone(&inner.entropy),
            view: inner.view.clone(),
            origins: OriginVerifier::new(Audience::Node(server.host_id), Arc::clone(&inner.clock)),
            audit: inner.audit.clone(),
            audit_policy: AuditPolicy::Required,
            places: inner.places.clone(),
            record: watch::Sender::new(server.clone()),
            auth_client: None,
            sessions: inner.sessions.clone(),
            tasks: TaskScope::new(),
            max_sessions: MAX_SESSIONS,
            max_forwarded: forward::MAX_FORWARDED,
            forward_room: inner.forward_room.clone(),
            gateway_ports: GatewayPorts::No,
            displays: None,
            login_grace: Limits::default().login_grace,
            env: AllowList::default(),
            presented: Some(far.presented()),
            stands_in_for: Some(server.host_id),
            shutdown: inner.shutdown.clone(),
        };
        let (ours, theirs) = tokio::io::duplex(PIPE);
        // A name has no address here; it is only told of.
        let local = server.address.parse().unwrap_or(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)));
        let (nodes, shutdown) = (inner.nodes.clone(), inner.shutdown.clone());
        self.0.tasks.spawn(async move {
            let node = Arc::new(shared);
            tokio::select! {
                () = connection::serve(Arc::clone(&node), Box::new(ours), (client, local), Blame::nobody()) => {}
                () = removed(&node, &nodes) => {}
                () = shutdown.aborted() => {}
            }
            // They know that the client is gone.
            let ending = tokio::time::timeout(END_LIMIT, node.tasks.join());
            tokio::select! {
                _ = ending => {}
                () = shutdown.aborted() => {}
            }
            node.tasks.abort().await;
            far.close().await;
        });
        Ok(theirs)
    }
}

/// Resolves when the server is not registered as one any more, and takes over what changes until then.
async fn removed(node: &Shared, nodes: &NodeView) {
    let id: HostId = node.record.borrow().host_id;
    loop {
        let known = node.record.borrow().clone();
        nodes.wait_for(|table| table.by_id(id).is_none_or(|now| now.record != known)).await;
        match nodes.read(|table| table.by_id(id)) {
            Some(now) if now.record.sub_kind == NodeKind::OpenSsh => {
                node.record.send_replace(now.record.clone());
            }
            _ => return,
        }
    }
}

/// What runs beside the connections.
pub(crate) struct Background {
    followers: TaskScope,
    writing: TaskScope,
    written: Shutdown,
    tasks: TaskScope,
    under_way: TaskScope,
    places: Places,
    reports: Arc<dyn SessionReportApi>,
    shutdown: Shutdown,
}

impl Background {
    /// Waits for the connections, until `shutdown` aborts, and delivers what is left to tell.
    pub(crate) async fn end(self) {
        let Self { followers, writing, written, tasks, under_way, places, reports, shutdown } = self;
        let all = async {
            tasks.join().await;
            under_way.join().await;
        };
        tokio::select! {
            () = all => {}
            () = shutdown.aborted() => {}
        }
        tasks.abort().await;
        under_way.abort().await;
        followers.abort().await;
        let last = async { tokio::join!(places.give_back(), report::farewell(&*reports)) };
        let _ = tokio::time::timeout(LAST_EVENTS, last).await;
        if tokio::time::timeout(LAST_EVENTS, writing.join()).await.is_err() {
            written.abort();
            writing.join().await;
        }
    }
}
