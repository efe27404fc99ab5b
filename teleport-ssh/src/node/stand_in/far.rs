//! The server's side: connections to it in the name of one user, made when they are needed.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use russh::Channel;
use russh::client::Msg;
use teleport_core::access::LoginGrant;
use teleport_core::api::{ApiError, OpenSshLogin, StandInAccess};
use teleport_core::cert::TrustBundle;
use teleport_core::clock::{Clock, Timestamp};
use teleport_core::entropy::Entropy;
use teleport_core::id::{HostId, OsLogin};
use teleport_core::resource::NodeRecord;
use teleport_core::task::TaskScope;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Semaphore, oneshot};

use super::lease::{FarStream, Idle, Leased};
use super::logins::{AtServer, Logins};
use super::{MAX_SESSIONS, Reach, attend};
use crate::client::{ConnectError, Credentials, SshClient};
use crate::engine::transport::{CutOnDrop, Link, Transport};
use crate::keys::{KeyError, SshKeyPair};
use crate::proxy::DialError;
use crate::rpc::BoxedIo;
use crate::session::{ExitStatus, LoginRefused, SessionChannel, SessionService, Sockets};
use crate::view::{AccessCache, NoView};

/// Connections to a server for one connection of a user: as many as it may have sessions.
const MAX_CONNECTIONS: usize = MAX_SESSIONS;
/// How many of them are made at a time, so that one user leaves turns to others.
const AT_A_TIME: usize = 4;
/// How many are kept for what comes next.
const MAX_IDLE: usize = 4;
/// How long a server may take to open a channel. It may have to connect to somewhere first.
const OPEN_LIMIT: Duration = Duration::from_secs(30);
/// How long a server may take to say that it is still there, when it is asked again on a connection that others had.
const ALIVE_LIMIT: Duration = Duration::from_secs(5);
/// The exit status when nothing could be started, as `ssh` has it when it cannot connect.
const NOT_CONNECTED: u32 = 255;

/// The certificate by which the user was let in.
#[derive(Clone, Debug, Default)]
pub(in crate::node) struct Presented(Arc<Mutex<Option<String>>>);

impl Presented {
    /// Remembers it. The last one counts, by which somebody is let in.
    pub(in crate::node) fn set(&self, certificate: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(certificate);
    }

    fn get(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Why there is no connection to the server. The texts are for the user, who was let in.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotConnected {
    #[error("the auth service does not give a certificate for the SSH server of this node")]
    Api(#[source] ApiError),
    #[error("the SSH server of this node cannot be reached")]
    Dial(#[source] DialError),
    #[error("no key can be made")]
    Key(#[from] KeyError),
    #[error("the SSH server of this node opens no further channels")]
    Full,
    #[error("nobody is let in")]
    Nobody,
    #[error("{0}")]
    Refused(&'static str),
    #[error("no connection to the SSH server of this node")]
    Ssh(#[from] ConnectError),
    #[error(transparent)]
    View(#[from] NoView),
}

/// Why the server does not do what it is asked.
const ENDED: NotConnected = NotConnected::Refused("the SSH server of this node has ended the connection");
const SILENT: NotConnected = NotConnected::Refused("the SSH server of this node opens no channel");
const BUSY: NotConnected =
    NotConnected::Refused("too many others log in to the SSH server of this node; try again in a moment");

/// The server as one user's connection sees it.
pub(super) struct Far {
    access: Arc<dyn StandInAccess>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    view: AccessCache,
    node: HostId,
    client: SocketAddr,
    reach: Arc<dyn Reach>,
    presented: Presented,
    places: Arc<Semaphore>,
    connecting: Arc<Semaphore>,
    /// Of everybody, at this server.
    logins: Arc<AtServer>,
    /// Brings logins to their end that were begun.
    under_way: TaskScope,
    /// The connections that wait for the next channel; none after the end.
    idle: Mutex<Option<Vec<Idle>>>,
    /// Says good-bye.
    ending: TaskScope,
}

impl fmt::Debug for Far {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Far").field("node", &self.node).field("client", &self.client).finish_non_exhaustive()
    }
}

type Means = (Arc<dyn StandInAccess>, Arc<dyn Clock>, Arc<dyn Entropy>);

impl Far {
    pub(super) fn new(
        (access, clock, entropy): Means,
        view: AccessCache,
        (logins, under_way): (&Logins, TaskScope),
        server: &NodeRecord,
        client: SocketAddr,
        reach: Arc<dyn Reach>,
    ) -> Self {
        Self {
            access,
            clock,
            entropy,
            view,
            node: server.host_id,
            client,
            reach,
            presented: Presented::default(),
            places: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            connecting: Arc::new(Semaphore::new(AT_A_TIME)),
            logins: logins.at(server.host_id),
            under_way,
            idle: Mutex::new(Some(Vec::new())),
            ending: TaskScope::new(),
        }
    }

    pub(super) fn presented(&self) -> Presented {
        self.presented.clone()
    }

    /// What the server lets the user in by. The auth service decides about it once more.
    async fn credentials(&self, grant: &LoginGrant) -> Result<Credentials, NotConnected> {
        let ssh = SshKeyPair::generate(&*self.entropy)?;
        let request = OpenSshLogin {
            node: self.node,
            login: grant.login.clone(),
            certificate: self.presented.get().ok_or(NotConnected::Nobody)?,
            client_ip: Some(self.client.ip()),
            key: ssh.public(),
        };
        let issued = self.access.openssh_login(request).await.map_err(NotConnected::Api)?;
        let trust = self.view.usable()?.trust.clone();
        // Of one kind are those whose certificates the server takes: here that is ours.
        let trust = TrustBundle { user_ca: trust.openssh_ca.clone(), ..trust };
        Ok(Credentials { user: grant.identity.user.clone(), ssh, certificate: issued.ssh, trust })
    }

    /// Logs in to the server.
    async fn log_in(&self, credentials: Credentials, login: &OsLogin) -> Result<Idle, NotConnected> {
        let client = SshClient::new(credentials, Arc::clone(&self.clock)).for_one_channel();
        let stream = self.reach.reach().await.map_err(NotConnected::Dial)?;
        let link = Link::new();
        // Also of what is still being made: the library's task would wait for a silent server for ever.
        let cut = CutOnDrop(link.clone());
        // The library finds out whether the server is there: it alone knows when nobody listens.
        let stream = Transport::over_lively(stream, link);
        let connection = client.node_over(stream, &self.node.to_string(), login).await?;
        Ok(Idle::new(connection, cut))
    }

    fn idle(&self) -> MutexGuard<'_, Option<Vec<Idle>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a connection that nobody uses.
    fn waiting(&self) -> Option<Idle> {
        let mut idle = self.idle();
        let idle = idle.as_mut()?;
        idle.retain(|idle| !idle.is_closed());
        idle.pop()
    }

    /// Keeps a connection for the next channel, if there is room.
    pub(super) fn keep(&self, connection: Idle) {
        let over = match &mut *self.idle() {
            Some(idle) if idle.len() < MAX_IDLE => {
                idle.push(connection);
                return;
            }
            _ => connection,
        };
        self.end(over);
    }

    /// Ends a connection, in order if the server lets us.
    pub(super) fn end(&self, connection: Idle) {
        self.ending.spawn(connection.end());
    }

    /// A connection for one channel.
    async fn lease(self: &Arc<Self>, grant: &LoginGrant) -> Result<Leased, NotConnected> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| NotConnected::Full)?;
        if let Some(idle) = self.waiting() {
            return Ok(Leased::new(idle, Arc::clone(self), true, place));
        }
        let own = Arc::clone(&self.connecting).acquire_owned().await.map_err(|_| ENDED)?;
        let credentials = self.credentials(grant).await?;
        let turn = self.logins.turn(&grant.login).await.ok_or(BUSY)?;
        let (answer, answered) = oneshot::channel();
        let (far, login) = (Arc::clone(self), grant.login.clone());
        // From here on it is brought to its end, whatever becomes of whoever asked: a server makes an address wait that begins logins and
        // leaves them, and for the server everybody has the same one. It has a limit of its own.
        self.under_way.spawn(async move {
            let outcome = far.log_in(credentials, &login).await;
            match &outcome {
                Ok(_) => turn.taken(),
                Err(NotConnected::Ssh(ConnectError::Denied { .. })) => turn.refused(),
                Err(_) => drop(turn),
            }
            drop(own);
            let outcome = outcome.map(|idle| Leased::new(idle, Arc::clone(&far), false, place));
            if let Err(Ok(unclaimed)) = answer.send(outcome) {
                unclaimed.give_back();
                // Should that have been for nothing, because all of it has ended.
                far.ending.join().await;
            }
        });
        answered.await.map_err(|_| ENDED)?
    }

    /// Whatever is opened on a connection, unless it had been used before and nobody is there any more: then none that waits is good for
    /// anything, and the next is a new one.
    async fn opened<T>(&self, leased: &Leased, opening: impl Future<Output = T>) -> Option<T> {
        let silent = async {
            if let Some(connection) = leased.connection().filter(|_| leased.reused) {
                let alive = tokio::time::timeout(ALIVE_LIMIT, connection.ping()).await;
                if !matches!(alive, Ok(Ok(()))) {
                    return;
                }
            }
            std::future::pending().await
        };
        tokio::select! {
            opened = opening => Some(opened),
            () = silent => {
                let idle = self.idle().as_mut().map(std::mem::take);
                idle.into_iter().flatten().for_each(|idle| self.end(idle));
                None
            }
        }
    }

    /// A channel for a session. It may be dropped half way: then no channel is left with the server.
    pub(super) async fn session(
        self: &Arc<Self>,
        grant: &LoginGrant,
    ) -> Result<(Channel<Msg>, Leased), NotConnected> {
        loop {
            let leased = self.lease(grant).await?;
            let opening = leased.connection().ok_or(ENDED)?.open_session();
            match self.opened(&leased, tokio::time::timeout(OPEN_LIMIT, opening)).await {
                Some(Ok(Ok(channel))) => return Ok((channel, leased)),
                // It may have ended since, or allow one session alone. Each is tried once, for it is not kept.
                _ if leased.reused => {}
                Some(Ok(Err(_))) => return Err(ENDED),
                _ => return Err(SILENT),
            }
        }
    }

    /// A channel by which the server connects to `address`, for the client. It may be dropped half way, too.
    async fn direct(self: &Arc<Self>, grant: &LoginGrant, address: SocketAddr) -> io::Result<FarStream> {
        loop {
            let leased = self.lease(grant).await.map_err(io::Error::other)?;
            let connection = leased.connection().ok_or(ENDED).map_err(io::Error::other)?;
            let opening = connection.open_direct(address, self.client);
            match self.opened(&leased, tokio::time::timeout(OPEN_LIMIT, opening)).await {
                Some(Ok(Ok(channel))) => return Ok(FarStream::new(channel.into_stream(), leased)),
                Some(Ok(Err(_))) if leased.reused && connection.is_closed() => {}
                Some(Ok(Err(why))) => {
                    // It said no, which says nothing against it.
                    leased.give_back();
                    return Err(io::Error::other(why));
                }
                None => {}
                Some(Err(_)) => return Err(io::ErrorKind::TimedOut.into()),
            }
        }
    }

    /// Says good-bye to the server. Nothing is kept from now on.
    pub(super) async fn close(&self) {
        let idle = self.idle().take();
        idle.into_iter().flatten().for_each(|idle| self.end(idle));
        // Each has its own limit.
        self.ending.join().await;
    }
}

/// Sessions on the server.
#[derive(Debug)]
pub(super) struct OpenSshSessions(Arc<Far>);

impl OpenSshSessions {
    pub(super) const fn new(far: Arc<Far>) -> Self {
        Self(far)
    }
}

#[async_trait]
impl SessionService for OpenSshSessions {
    fn offers_sftp(&self) -> bool {
        true
    }

    async fn sockets(
        &self,
        grant: &LoginGrant,
        _now: Timestamp,
    ) -> Result<Option<Arc<dyn Sockets>>, LoginRefused> {
        Ok(Some(Arc::new(FarSockets { far: Arc::clone(&self.0), grant: grant.clone() })))
    }

    async fn run(&self, grant: LoginGrant, channel: SessionChannel) -> ExitStatus {
        let output = channel.output.clone();
        match attend::run(&self.0, &grant, channel).await {
            Ok(status) => status,
            Err(why) => {
                let reason = super::super::authorize::chain(&why);
                tracing::warn!(node = %self.0.node, login = %grant.login, reason, "nothing runs on a registered SSH server");
                let _ = output.stderr(format!("teleport: {}\r\n", told(&why))).await;
                ExitStatus::Code(NOT_CONNECTED)
            }
        }
    }
}

/// For the user: what the auth service thinks, and where the server is, is for administrators.
fn told(why: &NotConnected) -> String {
    match why {
        NotConnected::Ssh(error) => format!("{why}: {error}"),
        why => why.to_string(),
    }
}

/// Connections from the server to elsewhere. It listens for nobody, and its file system is not this machine's.
#[derive(Debug)]
struct FarSockets {
    far: Arc<Far>,
    grant: LoginGrant,
}

#[async_trait]
impl Sockets for FarSockets {
    fn tcp(&self, _address: SocketAddr) -> io::Result<TcpSocket> {
        Err(io::ErrorKind::Unsupported.into())
    }

    async fn connect_tcp(&self, address: SocketAddr) -> io::Result<BoxedIo> {
        Ok(Box::new(self.far.direct(&self.grant, address).await?))
    }

    fn listen_tcp(&self, _address: SocketAddr) -> io::Result<TcpListener> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn is_root(&self) -> bool {
        self.grant.login.as_str() == "root"
    }
}
