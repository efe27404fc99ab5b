//! A forwarded connection on its way: told of before its first byte, carried, told of when it has ended.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use russh::Channel;
use russh::server::{ChannelOpenHandle, Msg};
use teleport_core::audit::{AuditEvent, EventKind};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use super::{Channels, Entered, NoForward, Place};
use crate::engine::transport::Link;
use crate::node::Shared;
use crate::node::authorize::chain;
use crate::node::lifetime::{self, Over};
use crate::node::refusals::Refusals;
use crate::splice::{Rules, Spliced, splice};

/// All that something which is forwarded needs of its connection.
#[derive(Clone)]
pub(in crate::node) struct Trip {
    pub(in crate::node) node: Arc<Shared>,
    pub(in crate::node) link: Link,
    pub(in crate::node) ending: watch::Receiver<Option<Over>>,
    pub(in crate::node) refusals: Refusals,
    /// What the audit log is told in any case.
    pub(in crate::node) event: AuditEvent,
}

impl Trip {
    /// Tells the audit log of a refusal, and never waits.
    pub(in crate::node) fn note(&self, why: &NoForward) {
        tracing::debug!(reason = %chain(why), "not forwarded");
        self.refusals.note(self.event.clone().of_kind(EventKind::PortFailure).error(chain(why)));
    }

    /// Refuses a channel.
    pub(in crate::node) async fn refuse(self, why: NoForward, reply: ChannelOpenHandle) {
        self.note(&why);
        reply.reject(why.told()).await;
    }

    /// Resolves when the connection may not go on. Cancel safe.
    pub(super) async fn over(&mut self) -> NoForward {
        NoForward::Ending(lifetime::said(&mut self.ending).await)
    }

    /// Tells the audit log that a connection is forwarded. Its end is told when what is returned is dropped.
    pub(super) async fn announce(&self, address: Option<SocketAddr>) -> Result<Told, NoForward> {
        let mut event = self.event.clone().of_kind(EventKind::Port);
        if let Some(address) = address {
            event = event.field("address", address.to_string());
        }
        let mut told = Told::new(Arc::clone(&self.node), event.clone(), false);
        if self.node.announce(event).await.is_err() {
            told.ended = true;
            return Err(NoForward::Audit);
        }
        Ok(told)
    }

    /// Carries bytes until the end, whichever it is, and closes the channel.
    pub(super) async fn carry<S>(
        mut self,
        channel: Channel<Msg>,
        entered: Entered,
        far: S,
        mut told: Told,
        place: Place,
    ) where
        S: AsyncRead + AsyncWrite + Send + Unpin,
    {
        let (from_client, to_client) = channel.split();
        let link = self.link.clone();
        let carried =
            splice(from_client, &to_client, far, Rules::forward(), &link, &entered.account, &told.moved);
        told.why = tokio::select! {
            // What ends it may end what is carried as well, and is the reason.
            biased;
            why = self.over() => Some(chain(&why)),
            ended = carried => ended.err().map(|error| error.to_string()),
        };
        let _ = to_client.close().await;
        drop((entered, place));
        told.end().await;
    }
}

/// What is known of a forwarded connection when it ends.
pub(super) struct Told {
    node: Arc<Shared>,
    event: AuditEvent,
    moved: Spliced,
    /// Whether it is a listener, over which nothing goes itself.
    listener: bool,
    why: Option<String>,
    ended: bool,
}

impl Told {
    pub(super) fn new(node: Arc<Shared>, event: AuditEvent, listener: bool) -> Self {
        Self { node, event, moved: Spliced::default(), listener, why: None, ended: false }
    }

    /// Says why it ends.
    pub(super) fn because(&mut self, why: String) {
        self.why = Some(why);
    }

    fn event(&self) -> AuditEvent {
        let mut event = self.event.clone().of_kind(EventKind::PortEnd);
        if !self.listener {
            event = event
                .field("bytes_received", self.moved.from_client.load(Ordering::Relaxed))
                .field("bytes_sent", self.moved.to_client.load(Ordering::Relaxed));
        }
        match &self.why {
            Some(why) => event.field("reason", why.as_str()),
            None => event,
        }
    }

    pub(super) async fn end(mut self) {
        self.ended = true;
        self.node.audit.send(self.event()).await;
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        // Listeners end so; of others, those whose connection has gone meanwhile.
        if !self.ended {
            if !self.listener {
                self.why.get_or_insert_with(|| "the client is gone".to_owned());
            }
            self.node.audit.note(self.event());
        }
    }
}

impl Channels {
    /// For a channel that the client opens.
    pub(super) fn of(&self, channel: &Channel<Msg>, link: &Link) -> Entered {
        self.enter(channel.id(), link)
    }
}
