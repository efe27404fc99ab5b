//! What listens on the node for a connection: who comes is led to the client, in a channel of its own.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;

use russh::Channel;
use russh::server::{Handle, Msg};
use socket2::SockRef;
use teleport_core::access::{LoginGrant, NotForwarded};
use teleport_core::audit::EventKind;
use teleport_core::task::TaskScope;
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use super::carry::Told;
use super::room::Places;
use super::{Channels, Forwards, NoForward, Place, Trip};
use crate::node::authorize::{self, Entry, Pass};
use crate::session::{MadeSocket, Sockets as Login};

/// How long nothing is accepted after that has failed: the machine may have no descriptor left.
const PAUSE: Duration = Duration::from_millis(100);

/// What listens.
#[derive(Debug)]
pub(super) enum Sockets {
    /// On one port, perhaps of several addresses.
    Tcp { listeners: Vec<TcpListener>, login: Arc<dyn Login> },
    /// At a path.
    Unix(MadeSocket),
}

/// Who has come.
enum Caller {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

impl Sockets {
    /// Cancel safe.
    async fn accept(&self) -> io::Result<Caller> {
        match self {
            Self::Tcp { listeners, login } => {
                poll_fn(|cx| {
                    for listener in listeners {
                        if let Poll::Ready(come) = login.poll_accept(listener, cx) {
                            return Poll::Ready(come.map(|(stream, from)| Caller::Tcp(stream, from)));
                        }
                    }
                    Poll::Pending
                })
                .await
            }
            Self::Unix(made) => made.listener().accept().await.map(|(stream, _)| Caller::Unix(stream)),
        }
    }
}

/// Where a door leads: what the client is told of who comes through it.
#[derive(Clone, Debug)]
pub(super) enum Leads {
    /// To the user's agent.
    Agent,
    /// To what the client has named so.
    Tcp { address: String, port: u16 },
    /// The same.
    Unix { path: String },
    /// To the user's display; if it is for a single program, then for the first.
    X11 { single: bool },
}

impl Leads {
    const fn kind(&self) -> &'static str {
        match self {
            Self::Agent => "auth-agent",
            Self::Tcp { .. } => "forwarded-tcpip",
            Self::Unix { .. } => "forwarded-streamlocal",
            Self::X11 { .. } => "x11",
        }
    }

    /// Whether it is for programs of a session. That it listens is not told then: every session of a client that is configured so has an
    /// agent, whose use is told, and that a session has a display is told by whoever gives it one.
    const fn is_of_session(&self) -> bool {
        matches!(self, Self::Agent | Self::X11 { .. })
    }

    /// Whether the newest roles still permit it.
    fn permitted(&self, grant: &LoginGrant) -> Result<(), NotForwarded> {
        match self {
            Self::Agent => grant.agent_forwarding().map(drop),
            Self::Tcp { .. } | Self::Unix { .. } => grant.remote_forwarding().map(drop),
            Self::X11 { .. } => grant.x11_forwarding().map(drop),
        }
    }

    /// Asks the client for a channel. Not to be dropped before the client answers, for it may answer later: the SSH library
    /// ends the whole connection if nobody waits for a refusal then.
    async fn open(&self, handle: &Handle, caller: &Caller) -> Result<Channel<Msg>, russh::Error> {
        match self {
            Self::Agent => handle.channel_open_agent().await,
            Self::Unix { path } => handle.channel_open_forwarded_streamlocal(path).await,
            Self::Tcp { address, port } => {
                let (ip, from) = caller.address();
                handle.channel_open_forwarded_tcpip(address, (*port).into(), ip, from.into()).await
            }
            Self::X11 { .. } => {
                let (ip, from) = caller.address();
                handle.channel_open_x11(ip, from.into()).await
            }
        }
    }

    /// Whether whoever has come is the last.
    const fn is_single(&self) -> bool {
        matches!(self, Self::X11 { single: true })
    }
}

impl Caller {
    /// As the client is told.
    fn address(&self) -> (String, u16) {
        match self {
            Self::Tcp(_, from) => (from.ip().to_canonical().to_string(), from.port()),
            Self::Unix(_) => (String::new(), 0),
        }
    }
}

/// A listener of a connection. Dropping it closes it as well, a moment later.
pub(super) struct Door {
    task: AbortHandle,
    closed: oneshot::Receiver<()>,
}

impl Drop for Door {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Door {
    /// Closes it: when this resolves, nothing listens any more. Who has come through it stays.
    pub(super) async fn close(mut self) {
        self.task.abort();
        // The other end only ever goes.
        let _ = (&mut self.closed).await;
    }

    pub(super) fn is_closed(&self) -> bool {
        self.task.is_finished()
    }
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door").finish_non_exhaustive()
    }
}

/// What the task of a door holds; let go of in this order.
struct Open {
    sockets: Sockets,
    _told: Option<Told>,
    _closed: oneshot::Sender<()>,
}

/// What a door needs besides.
#[derive(Clone)]
pub(in crate::node) struct Keys {
    pub(in crate::node) trip: Trip,
    pub(in crate::node) entry: Entry,
    pub(in crate::node) handle: Handle,
}

/// Who stands at a door.
struct Doorkeeper {
    keys: Keys,
    leads: Leads,
}

impl Forwards {
    /// Leads whoever comes to `sockets` to the client, until the door is closed or the connection ends.
    pub(super) fn attend(&self, sockets: Sockets, keys: Keys, leads: Leads) -> Door {
        let (closing, closed) = oneshot::channel();
        let open =
            Open { sockets, _told: (!leads.is_of_session()).then(|| keys.trip.listens()), _closed: closing };
        let keeper = Doorkeeper { keys, leads };
        let (places, channels) = (self.places.clone(), self.channels.clone());
        // Whoever has come stays when the door is closed, so they are tasks of the connection and not of the door's.
        let tasks = Arc::downgrade(&self.tasks);
        let task = self.tasks.spawn(attend(open, Arc::new(keeper), places, channels, tasks));
        Door { task, closed }
    }
}

async fn attend(
    open: Open,
    keeper: Arc<Doorkeeper>,
    places: Places,
    channels: Channels,
    tasks: Weak<TaskScope>,
) {
    loop {
        let caller = match open.sockets.accept().await {
            Ok(caller) => caller,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "nothing is accepted for now");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let admitted = keeper.permitted().and_then(|()| places.take());
        match (admitted, tasks.upgrade()) {
            (Ok(place), Some(tasks)) => {
                tasks.spawn(lead(Arc::clone(&keeper), caller, channels.clone(), place));
                if keeper.leads.is_single() {
                    return;
                }
            }
            (Ok(_), None) => return,
            (Err(why), _) => keeper.trip_of(&caller).note(&why),
        }
    }
}

impl Doorkeeper {
    /// Whether the newest roles still permit what the door is for.
    fn permitted(&self) -> Result<(), NoForward> {
        let node = &self.keys.trip.node;
        // Programs of sessions go on as they are.
        if node.shutdown.is_draining() && !self.leads.is_of_session() {
            return Err(NoForward::Draining);
        }
        let record = node.record.borrow().clone();
        match authorize::again(&self.keys.entry, node.clock.now(), &node.view, &record)? {
            Pass::Login(grant) => Ok(self.leads.permitted(&grant)?),
            Pass::Visit(_) => Err(NoForward::Visitor),
        }
    }

    fn trip_of(&self, caller: &Caller) -> Trip {
        let mut trip = self.keys.trip.clone();
        trip.event = trip.event.field("kind", self.leads.kind());
        match caller {
            Caller::Tcp(_, from) => trip.event = trip.event.field("address", from.to_string()),
            Caller::Unix(_) => {}
        }
        trip
    }
}

/// Leads one caller to the client.
async fn lead(keeper: Arc<Doorkeeper>, caller: Caller, channels: Channels, place: Place) {
    let trip = keeper.trip_of(&caller);
    let mut told = match trip.announce(None).await {
        Ok(told) => told,
        Err(why) => return trip.note(&why),
    };
    match keeper.leads.open(&keeper.keys.handle, &caller).await {
        Ok(channel) => {
            let entered = channels.of(&channel, &trip.link);
            match caller {
                Caller::Tcp(stream, _) => {
                    // As for what is dialled.
                    let _ = (stream.set_nodelay(true), SockRef::from(&stream).set_keepalive(true));
                    trip.carry(channel, entered, stream, told, place).await;
                }
                Caller::Unix(stream) => trip.carry(channel, entered, stream, told, place).await,
            }
        }
        Err(error) => {
            told.because(format!("the client does not take it: {error}"));
            told.end().await;
        }
    }
}

impl Trip {
    /// Tells the audit log that something listens. Its end is told when what is returned is dropped.
    fn listens(&self) -> Told {
        let event = self.event.clone().of_kind(EventKind::Port);
        self.node.audit.note(event.clone());
        Told::new(Arc::clone(&self.node), event, true)
    }
}
