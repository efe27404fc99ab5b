//! What is forwarded over a connection: asked for in the handler, opened and carried in tasks of the connection.
//!
//! ```text
//!  direct-tcpip ──▶ handler: newest roles ──▶ LocalForwarding ──▶ task: login exists? ─▶ names ─▶ PermittedAddress ─▶ connect
//!                   (never waits)              a place                                                │
//!                                                                audit log ◀── port, before the first byte
//!                                                                client ◀═══ splice ═══▶ socket of the login
//! ```
//!
//! Everything here belongs to one connection and ends with it: what it listens on, nobody else can name. Each forwarded connection
//! takes a place; when there is none, it is refused and leaves nothing behind. What roles and locks say counts when something is asked
//! for; when the connection may not go on, all that it forwards is cut.

mod carry;
mod connect;
mod door;
mod local;
mod refusal;
mod remote;
mod room;
mod x11;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use russh::ChannelId;
use teleport_core::task::TaskScope;
use tokio::sync::Semaphore;

pub(super) use self::carry::Trip;
pub(super) use self::connect::Target;
pub(super) use self::door::Keys;
pub(super) use self::local::Asked;
pub(super) use self::refusal::NoForward;
pub(super) use self::remote::AgentSocket;
use self::remote::Doors;
pub use self::remote::GatewayPorts;
use self::room::Places;
pub(super) use self::room::{NodeRoom, Place};
pub(super) use self::x11::DisplayDoor;
pub use self::x11::{Displays, InvalidDisplays};
use crate::engine::transport::{Account, Link};
use crate::node::handler::Slots;

/// Forwarded connections of one connection at a time, if nothing else is configured.
pub const MAX_FORWARDED: usize = 4096;
/// Names that one connection looks up at a time: each occupies a thread, perhaps for long.
const MAX_LOOKUPS: usize = 8;

/// What one connection forwards. Dropping it ends all of it.
pub(super) struct Forwards {
    channels: Channels,
    places: Places,
    lookups: Arc<Semaphore>,
    doors: Doors,
    displays: Arc<Semaphore>,
    tasks: Arc<TaskScope>,
}

impl fmt::Debug for Forwards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forwards").field("tasks", &self.tasks.len()).finish_non_exhaustive()
    }
}

impl Forwards {
    /// Of a new connection, which may have so many; `carried` counts them.
    pub(super) fn new(limit: usize, node: NodeRoom, carried: Slots) -> Self {
        Self {
            channels: Channels::default(),
            places: Places::new(limit, node, carried),
            lookups: Arc::new(Semaphore::new(MAX_LOOKUPS)),
            doors: Doors::default(),
            displays: Arc::new(Semaphore::new(x11::MAX_DISPLAYS)),
            tasks: Arc::new(TaskScope::new()),
        }
    }

    /// A place for one more.
    ///
    /// # Errors
    /// [`NoForward::TooMany`] and [`NoForward::NodeFull`].
    pub(super) fn place(&self) -> Result<Place, NoForward> {
        self.places.take()
    }

    /// The channel's account, if it is one of a forwarded connection.
    pub(super) fn account(&self, id: ChannelId) -> Option<Account> {
        self.channels.all().get(&id).cloned()
    }
}

/// The accounts of the channels of forwarded connections.
#[derive(Clone, Default)]
struct Channels(Arc<Mutex<HashMap<ChannelId, Account>>>);

impl Channels {
    fn all(&self) -> MutexGuard<'_, HashMap<ChannelId, Account>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts what comes on a channel, as long as what is returned lives.
    fn enter(&self, id: ChannelId, link: &Link) -> Entered {
        let account = self.all().entry(id).or_insert_with(|| link.account()).clone();
        Entered { channels: self.clone(), id, account }
    }
}

/// A channel that is counted.
struct Entered {
    channels: Channels,
    id: ChannelId,
    account: Account,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.account.close();
        self.channels.all().remove(&self.id);
    }
}
