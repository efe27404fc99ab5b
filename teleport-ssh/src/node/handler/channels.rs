//! The session channels of a connection, which are counted.

use std::sync::{Arc, Weak};

use russh::server::{ChannelOpenHandle, Msg};
use russh::{Channel, ChannelOpenFailure};
use teleport_core::audit::EventKind;
use teleport_core::lock::Locked;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Connection;
use crate::engine::transport::Account;
use crate::node::authorize::{self, Entry, Refusal, chain};
use crate::node::forward::{AgentSocket, DisplayDoor};
use crate::node::lifetime::Over;
use crate::session::EventSender;
use crate::session::machine::{Machine, SessionPolicy};

/// `SSH_OPEN_ADMINISTRATIVELY_PROHIBITED`
const ADMINISTRATIVELY_PROHIBITED: u32 = 1;

/// `SSH_OPEN_RESOURCE_SHORTAGE`
const RESOURCE_SHORTAGE: u32 = 4;

/// Why a client that was let in may not have one more session now.
#[derive(Debug, thiserror::Error)]
enum NoSession {
    #[error(transparent)]
    Access(#[from] Refusal),
    #[error("the node is shutting down")]
    Draining,
    #[error("the connection is being ended: {0}")]
    Ending(Over),
    #[error("too many sessions on one connection: at most {limit} at a time")]
    TooMany { limit: usize },
}

impl NoSession {
    /// What the client is told.
    fn told(&self) -> ChannelOpenFailure {
        match self {
            Self::Access(why) if why.lock().is_some() => ChannelOpenFailure::Other {
                code: ADMINISTRATIVELY_PROHIBITED,
                reason: why.lock().map(Locked::public).unwrap_or_default(),
            },
            Self::Access(_) => ChannelOpenFailure::AdministrativelyProhibited,
            Self::Draining | Self::Ending(_) => ChannelOpenFailure::ResourceShortage,
            Self::TooMany { .. } => {
                ChannelOpenFailure::Other { code: RESOURCE_SHORTAGE, reason: self.to_string() }
            }
        }
    }
}

/// A session channel.
pub(super) struct Open {
    pub(super) machine: Machine,
    pub(super) account: Account,
    pub(super) closed: CancellationToken,
    /// Until a session takes both.
    pub(super) channel: Option<(Channel<Msg>, Slot)>,
    pub(super) events: Option<EventSender>,
    /// Leads to the user's agent, until a session takes it.
    pub(super) agent: Option<AgentSocket>,
    /// Leads to the user's display, until a session takes it.
    pub(super) display: Option<DisplayDoor>,
    slot: Weak<Taken>,
}

impl Open {
    /// Whether a session has run here and is over.
    fn is_over(&self) -> bool {
        self.slot.strong_count() == 0
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.closed.cancel();
        if self.channel.is_some() {
            self.account.close();
        }
    }
}

/// What a connection is there for.
#[derive(Clone, Debug, Default)]
pub(in crate::node) struct Activity {
    /// Counted from the opening of a channel to the end of what ran on it.
    pub(in crate::node) sessions: Slots,
    /// Connections that it forwards, not what listens for some.
    pub(in crate::node) forwarded: Slots,
}

impl Activity {
    /// Waits until there is none of what cannot begin any more. Cancel safe.
    pub(in crate::node) async fn none(&self) {
        self.sessions.none().await;
        self.forwarded.none().await;
    }
}

/// How many there are of something.
#[derive(Clone, Debug, Default)]
pub(in crate::node) struct Slots(Arc<watch::Sender<usize>>);

impl Slots {
    /// One more.
    pub(in crate::node) fn take(&self) -> Slot {
        self.0.send_modify(|count| *count += 1);
        Slot(Arc::new(Taken(self.clone())))
    }

    /// How many there are now.
    pub(in crate::node) fn count(&self) -> usize {
        *self.0.borrow()
    }

    /// Waits until there is none. Cancel safe.
    pub(in crate::node) async fn none(&self) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.0.subscribe().wait_for(|count| *count == 0).await;
    }
}

/// One of those that are counted.
#[derive(Debug)]
pub(in crate::node) struct Slot(Arc<Taken>);

#[derive(Debug)]
struct Taken(Slots);

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}

impl Connection {
    pub(super) async fn open_session(&mut self, channel: Channel<Msg>, reply: ChannelOpenHandle) {
        let Some(entry) = &self.entry else {
            reply.reject(ChannelOpenFailure::AdministrativelyProhibited).await;
            return;
        };
        if let Err(why) = self.may_open(entry) {
            tracing::info!(peer = %self.peer(), reason = %chain(&why), "session refused");
            let event = self.event(EventKind::SessionRejected).error(chain(&why));
            self.refusals.note(match why {
                NoSession::TooMany { limit } => event.field("reason", "max_sessions").field("max", limit),
                _ => event,
            });
            reply.reject(why.told()).await;
            return;
        }
        let identity = entry.pass.identity();
        let policy = SessionPolicy {
            pty: identity.permits.pty,
            force_command: identity.force_command.clone(),
            env: self.node.env.clone(),
            sftp: self.node.service.offers_sftp(),
        };
        // The library tells of the client's closing only where we have not closed before.
        self.channels.retain(|_, open| !open.is_over());
        let id = channel.id();
        let slot = self.activity.sessions.take();
        let open = Open {
            machine: Machine::new(policy),
            account: self.link.account(),
            closed: CancellationToken::new(),
            events: None,
            agent: None,
            display: None,
            slot: Arc::downgrade(&slot.0),
            channel: Some((channel, slot)),
        };
        self.channels.insert(id, open);
        reply.accept().await;
    }

    /// Whether a client that was let in may have one more session now.
    fn may_open(&self, entry: &Entry) -> Result<(), NoSession> {
        if self.node.shutdown.is_draining() {
            return Err(NoSession::Draining);
        }
        if let Some(over) = self.tether.over() {
            return Err(NoSession::Ending(over));
        }
        let record = self.node.record.borrow().clone();
        let newest = authorize::again(entry, self.node.clock.now(), &self.node.view, &record)?;
        let roles = newest
            .policy()
            .max_sessions
            .map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX));
        let limit = self.node.max_sessions.min(roles);
        if self.activity.sessions.count() >= limit { Err(NoSession::TooMany { limit }) } else { Ok(()) }
    }
}
