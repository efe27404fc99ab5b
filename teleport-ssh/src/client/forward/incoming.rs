//! What a node may open towards this client: what was asked for, and nothing else.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use russh::client::{ChannelOpenHandle, Msg};
use russh::{Channel, ChannelOpenFailure};
use tokio::sync::mpsc;

/// Channels of one forward that wait to be taken care of. Taking care is to start a task, so this is never long.
const WAITING: usize = 128;

/// A channel that the node wants to open, not yet answered. Dropping it refuses.
pub(in super::super) struct Opened {
    pub(super) channel: Channel<Msg>,
    pub(super) reply: ChannelOpenHandle,
}

/// For which forward a channel is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in super::super) enum Purpose {
    Agent,
    /// The address as it was asked for, and the port that the node listens on.
    Tcp(String, u32),
    Unix(String),
    X11,
}

/// The forwards of one connection.
#[derive(Debug, Default)]
pub(in super::super) struct Incoming(Mutex<HashMap<Purpose, mpsc::Sender<Opened>>>);

impl Incoming {
    fn lock(&self) -> MutexGuard<'_, HashMap<Purpose, mpsc::Sender<Opened>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets in what is for this; `None` if somebody has asked for the same and still waits for it.
    pub(super) fn expect(&self, purpose: Purpose) -> Option<mpsc::Receiver<Opened>> {
        let (sender, receiver) = mpsc::channel(WAITING);
        let mut expected = self.lock();
        expected.retain(|_, sender| !sender.is_closed());
        if expected.contains_key(&purpose) {
            return None;
        }
        expected.insert(purpose, sender);
        Some(receiver)
    }

    /// Whoever waits for the one gets the other: a node has chosen the port.
    pub(super) fn rename(&self, from: &Purpose, to: Purpose) {
        let mut expected = self.lock();
        if let Some(sender) = expected.remove(from) {
            expected.insert(to, sender);
        }
    }

    /// Hands a channel to the forward that it is for, or refuses it.
    pub(in super::super) async fn opened(&self, purpose: &Purpose, opened: Opened) {
        let sender = self.lock().get(purpose).cloned();
        let refused = match sender {
            None => opened,
            Some(sender) => match sender.try_send(opened) {
                Ok(()) => return,
                Err(mpsc::error::TrySendError::Full(opened)) => {
                    return opened.reply.reject(ChannelOpenFailure::ResourceShortage).await;
                }
                Err(mpsc::error::TrySendError::Closed(opened)) => opened,
            },
        };
        tracing::debug!(?purpose, "the node opened a channel that nobody asked for");
        refused.reply.reject(ChannelOpenFailure::AdministrativelyProhibited).await;
    }
}

impl Opened {
    pub(in super::super) const fn new(channel: Channel<Msg>, reply: ChannelOpenHandle) -> Self {
        Self { channel, reply }
    }
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened").field("channel", &self.channel.id()).finish_non_exhaustive()
    }
}
