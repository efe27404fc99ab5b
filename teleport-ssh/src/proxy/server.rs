//! A proxy's SSH server: built, bound, served.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use russh::Disconnect;
use ssh_key::Certificate;
use teleport_core::api::ProxyAccess;
use teleport_core::audit::{AuditEvent, EventKind};
use teleport_core::clock::Clock;
use teleport_core::entropy::Entropy;
use teleport_core::task::{Shutdown, TaskScope};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::dial::{Direct, NodeDialer};
use super::entrance::{self, Entered, Entrance, Hall};
use super::handler::Connection;
use super::journal::Journal;
use super::nodes::NodeView;
use super::visitor::Visitor;
use crate::engine;
use crate::engine::transport::{CutOnDrop, Link, Transport};
use crate::identity::{HostIdentityHandle, HostMaterial};
use crate::listener::limits::{Limits, Outcome};
use crate::listener::{self, BindError, Door, Lobby};
use crate::mux::ProxyProtocol;
use crate::node::{OfProxy, StandIns, Standing};
use crate::origin::OriginSigner;
use crate::view::{AccessCache, DEFAULT_MAX_AGE};

/// How long audit events may still take when the server ends.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// How long the ways to nodes of somebody who may not be here any more have to end, and then the connection. Together less than a
/// second.
const WAYS_LIMIT: Duration = Duration::from_millis(600);
const GOODBYE_LIMIT: Duration = Duration::from_millis(200);
/// Where a proxy's SSH server listens by default.
pub const DEFAULT_SSH_PORT: u16 = 3023;

/// What all connections share.
pub(super) struct Shared {
    pub(super) access: AccessCache,
    pub(super) nodes: NodeView,
    pub(super) dialer: Arc<dyn NodeDialer>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) journal: Journal,
    pub(super) origins: OriginSigner,
    /// In the place of registered SSH servers.
    pub(super) standing: Option<Standing>,
    identity: HostIdentityHandle,
    config: Mutex<Option<(Arc<HostMaterial>, Arc<russh::server::Config>)>>,
    login_grace: Duration,
}

/// Builds a proxy's SSH server.
#[derive(Debug)]
pub struct ProxyBuilder {
    identity: HostIdentityHandle,
    access: Arc<dyn ProxyAccess>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    /// Where it listens, if it does.
    address: Option<SocketAddr>,
    protocol: ProxyProtocol,
    dialer: Arc<dyn NodeDialer>,
    limits: Limits,
    nodes: NodeView,
    view: Option<AccessCache>,
    max_age: Duration,
    stand_ins: Option<StandIns>,
}

/// The SSH server of a proxy. See the [module](super).
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ProxyServer;

impl ProxyServer {
    /// Begins with what a proxy cannot be without: who it is, where it asks what is allowed and which nodes there are, the
    /// time and randomness.
    pub fn builder(
        identity: HostIdentityHandle,
        access: Arc<dyn ProxyAccess>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> ProxyBuilder {
        ProxyBuilder {
            identity,
            access,
            clock,
            entropy,
            address: Some((Ipv4Addr::UNSPECIFIED, DEFAULT_SSH_PORT).into()),
            protocol: ProxyProtocol::default(),
            dialer: Arc::new(Direct::new()),
            limits: Limits::default(),
            nodes: NodeView::new(),
            view: None,
            max_age: DEFAULT_MAX_AGE,
            stand_ins: None,
        }
    }
}

impl ProxyBuilder {
    /// Where to listen; port 3023 of every IPv4 address if not said.
    #[must_use]
    pub const fn listen(mut self, address: SocketAddr) -> Self {
        self.address = Some(address);
        self
    }

    /// Opens no port: whoever comes is led in by [`BoundProxy::entrance`].
    #[must_use]
    pub const fn listen_nowhere(mut self) -> Self {
        self.address = None;
        self
    }

    /// Which load balancers stand before the port and say where clients are; none if not said.
    #[must_use]
    pub fn proxy_protocol(mut self, protocol: ProxyProtocol) -> Self {
        self.protocol = protocol;
        self
    }

    /// How nodes are reached; [`Direct`] if not said.
    #[must_use]
    pub fn dialer(mut self, dialer: Arc<dyn NodeDialer>) -> Self {
        self.dialer = dialer;
        self
    }

    /// Stands in for registered SSH servers, which know nothing of roles. Otherwise nobody is led to them.
    #[must_use]
    pub fn stand_ins(mut self, stand_ins: StandIns) -> Self {
        self.stand_ins = Some(stand_ins);
        self
    }

    /// How many strangers may knock.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Fills these, instead of views of its own: for whoever needs them before the server is bound. How long decisions may rest on the first one is
    /// its own matter then.
    #[must_use]
    pub fn views(mut self, access: AccessCache, nodes: NodeView) -> Self {
        (self.view, self.nodes) = (Some(access), nodes);
        self
    }

    /// How long decisions may rest on what the auth service said last, when it is silent; zero is strict.
    #[must_use]
    pub const fn max_age(mut self, max_age: Duration) -> Self {
        self.max_age = max_age;
        self
    }

    /// Opens the port. Clients that connect wait until [`BoundProxy::serve`].
    ///
    /// # Errors
    /// [`BindError`], for instance when the port is in use.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O enabled.
    pub async fn bind(self) -> Result<BoundProxy, BindError> {
        let listener = self.address.map(listener::bind).transpose()?;
        let view = self.view.clone().unwrap_or_else(|| AccessCache::new(self.max_age));
        let door = Door::new(self.limits.clone(), Arc::clone(&self.entropy));
        let lobby = Lobby::new(self.protocol.clone(), Arc::clone(&self.entropy));
        let (entrance, hall) = entrance::new(door.clone());
        Ok(BoundProxy { builder: self, listener, lobby, entrance, hall, view, door })
    }
}

/// A proxy's SSH server whose port is open.
#[derive(Debug)]
pub struct BoundProxy {
    builder: ProxyBuilder,
    listener: Option<TcpListener>,
    lobby: Lobby,
    entrance: Entrance,
    hall: Hall,
    view: AccessCache,
    door: Door,
}

impl BoundProxy {
    /// Where it listens.
    ///
    /// # Errors
    /// [`io::ErrorKind::AddrNotAvailable`] if it listens nowhere.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.listener {
            Some(listener) => listener.local_addr(),
            None => Err(io::ErrorKind::AddrNotAvailable.into()),
        }
    }

    /// The way in for connections that came to another port.
    pub fn entrance(&self) -> Entrance {
        self.entrance.clone()
    }

    /// The nodes as the proxy sees them, for others who need them too.
    pub fn nodes(&self) -> NodeView {
        self.builder.nodes.clone()
    }

    /// Whom the proxy trusts and which roles it knows; also whether it is still a member of the cluster.
    pub fn view(&self) -> AccessCache {
        self.view.clone()
    }

    /// What happens at its port, also while it serves.
    pub fn door(&self) -> Door {
        self.door.clone()
    }

    /// Serves until `shutdown`: when it drains, no more connections are accepted; those there are go on until they end or
    /// it aborts. Dropping the future ends everything at once.
    pub async fn serve(self, shutdown: Shutdown) {
        let ProxyBuilder { identity, access, clock, entropy, dialer, limits, nodes, stand_ins, .. } =
            self.builder;
        // Ends with this future: whatever follows the auth service.
        let followers = TaskScope::new();
        let cache = self.view;
        followers.spawn(cache.follow(Arc::clone(&access), Arc::clone(&entropy), shutdown.clone()));
        followers.spawn({
            let (nodes, access, entropy) = (nodes.clone(), Arc::clone(&access), Arc::clone(&entropy));
            async move { nodes.follow(access, entropy).await }
        });
        let (journal, delivery) = Journal::new(access, Arc::clone(&entropy));
        let journalist = TaskScope::new();
        journalist.spawn(delivery);
        let login_grace = limits.login_grace;
        let (standing, background) = stand_ins
            .map(|stand_ins| {
                stand_ins.start(OfProxy {
                    view: cache.clone(),
                    nodes: nodes.clone(),
                    clock: Arc::clone(&clock),
                    entropy: Arc::clone(&entropy),
                    shutdown: shutdown.clone(),
                })
            })
            .unzip();
        let shared = Arc::new(Shared {
            access: cache,
            nodes,
            dialer,
            origins: OriginSigner::new(identity.clone(), Arc::clone(&clock), Arc::clone(&entropy)),
            clock,
            journal,
            standing,
            identity,
            config: Mutex::default(),
            login_grace,
        });
        let at_its_port = {
            let (shared, shutdown, doors) = (Arc::clone(&shared), shutdown.clone(), (self.lobby, self.door));
            async move {
                let Some(listener) = self.listener else { return };
                listener::serve_behind(listener, doors, shutdown, move |accepted| {
                    handle(accepted.into(), Arc::clone(&shared))
                })
                .await;
            }
        };
        // Kept as long as somebody may be led in: the hall ends with the last entrance, or when it is to.
        let entrance = self.entrance;
        let led_in = self.hall.serve(shutdown, move |entered| handle(entered, Arc::clone(&shared)));
        tokio::join!(at_its_port, led_in);
        drop(entrance);
        if let Some(background) = background {
            background.end().await;
        }
        // The last entrance to the journal is gone with the connections; what is queued is delivered if it can be.
        if tokio::time::timeout(LAST_WORDS, journalist.join()).await.is_err() {
            tracing::error!("the proxy ends with audit events that could not be delivered");
        }
    }
}

/// The host certificate of the identity cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the host certificate cannot be read")]
struct UnusableIdentity(#[source] ssh_key::Error);

impl Shared {
    /// For the newest identity: a renewal needs no restart. Made once for each.
    fn config(&self) -> Result<Arc<russh::server::Config>, UnusableIdentity> {
        let material = self.identity.current();
        let mut cached = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, config)) = &*cached
            && Arc::ptr_eq(of, &material)
        {
            return Ok(Arc::clone(config));
        }
        let certificate = Certificate::from_openssh(&material.ssh_certificate).map_err(UnusableIdentity)?;
        let config = engine::server_config(material.ssh.private().clone(), certificate);
        *cached = Some((material, Arc::clone(&config)));
        Ok(config)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("nodes", &self.nodes).finish_non_exhaustive()
    }
}

/// One connection, from the first byte to the last.
async fn handle(entered: Entered, shared: Arc<Shared>) {
    let Entered { stream, peer, mut admitted } = entered;
    let config = match shared.config() {
        Ok(config) => config,
        Err(error) => {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "the proxy has no usable host certificate"
            );
            admitted.record(Outcome::Unblamed);
            return;
        }
    };
    let link = Link::new();
    // However this future ends, the connection ends with it: the library runs it in a task that we do not own.
    let _cut = CutOnDrop(link.clone());
    let tasks = TaskScope::new();
    let (outcome, mut outcomes) = watch::channel(Outcome::NoAttempt);
    let grace = tokio::time::sleep(shared.login_grace);
    let visitor = Arc::<OnceLock<Arc<Visitor>>>::default();
    let connection = Connection::new(
        Arc::clone(&shared),
        peer,
        link.clone(),
        outcome,
        Arc::clone(&visitor),
        tasks.clone(),
    );
    let running = russh::server::run_stream(config, Transport::new(stream, link.clone()), connection);
    tokio::pin!(grace);
    let session = tokio::select! {
        session = running => session,
        () = &mut grace => {
            admitted.record(Outcome::GraceExceeded);
            return;
        }
    };
    let Ok(mut session) = session else { return };
    let handle = session.handle();
    let unwelcome = async {
        match visitor.get() {
            Some(visitor) => (visitor, shared.unwelcome(visitor, None).await),
            None => std::future::pending().await,
        }
    };
    // Asked for the first time when the visitor is known.
    tokio::pin!(unwelcome);
    let mut authenticated = false;
    loop {
        tokio::select! {
            ended = &mut session => {
                if let Err(error) = ended {
                    tracing::debug!(%peer, error = &error as &dyn std::error::Error, "connection ended");
                }
                break;
            }
            changed = outcomes.changed(), if !authenticated => {
                if changed.is_err() {
                    // The handler is gone: only the library's task is winding up.
                    let _ = (&mut session).await;
                    break;
                }
                let outcome = *outcomes.borrow_and_update();
                authenticated = outcome == Outcome::Authenticated;
                admitted.record(outcome);
            }
            () = &mut grace, if !authenticated => {
                admitted.record(Outcome::GraceExceeded);
                break;
            }
            (visitor, why) = &mut unwelcome, if authenticated => {
                let event = AuditEvent::new(EventKind::ClientDisconnect)
                    .remote(Some(peer))
                    .user(&visitor.identity.user)
                    .field("reason", why.to_string());
                shared.journal.note(event);
                // The nodes tell why in their own words, as long as they are quick.
                let _ = tokio::time::timeout(WAYS_LIMIT, tasks.join()).await;
                let goodbye = handle.disconnect(Disconnect::ByApplication, why.public(), String::new());
                let _ = tokio::time::timeout(GOODBYE_LIMIT, async { (goodbye.await, (&mut session).await) }).await;
                break;
            }
        }
    }
    tasks.abort().await;
}
