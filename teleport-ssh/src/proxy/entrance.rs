//! A second way into the SSH server of a proxy: for connections that came to another port.

use std::future::Future;
use std::net::SocketAddr;

use futures_util::FutureExt as _;
use teleport_core::task::{Shutdown, TaskScope};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;

use crate::listener::{Accepted, Admitted, Door, REFUSAL};
use crate::rpc::BoxedIo;

/// Connections on their way in. The server takes them at once; this is for the moment before it serves.
const ON_THE_WAY: usize = 64;

/// Leads connections that another port has accepted to the SSH server of a proxy, as if they had come to its own: under the same
/// limits, and with the same audit events. For [`ProxyWebBuilder::ssh`](crate::proxy_web::ProxyWebBuilder::ssh).
#[derive(Clone, Debug)]
pub struct Entrance {
    door: Door,
    sender: mpsc::Sender<Entered>,
}

/// A connection that was let in.
pub(super) struct Entered {
    pub(super) stream: BoxedIo,
    pub(super) peer: SocketAddr,
    pub(super) admitted: Admitted,
}

/// Where the server takes them.
#[derive(Debug)]
pub(super) struct Hall(mpsc::Receiver<Entered>);

pub(super) fn new(door: Door) -> (Entrance, Hall) {
    let (sender, receiver) = mpsc::channel(ON_THE_WAY);
    (Entrance { door, sender }, Hall(receiver))
}

impl Entrance {
    /// Lets a connection in if there is room for it; otherwise it ends. Nobody waits.
    pub(crate) fn enter(&self, mut stream: BoxedIo, peer: SocketAddr) {
        let Some(admitted) = self.door.admit(peer.ip()) else {
            let _ = stream.write_all(REFUSAL).now_or_never();
            return;
        };
        if self.sender.try_send(Entered { stream, peer, admitted }).is_err() {
            tracing::debug!(%peer, "the SSH server takes no connections now");
        }
    }
}

impl Hall {
    /// Serves what comes in until `shutdown` drains, and waits for it until it aborts. Dropping the future ends everything at once.
    pub(super) async fn serve<F>(mut self, shutdown: Shutdown, handler: impl Fn(Entered) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let scope = TaskScope::new();
        loop {
            tokio::select! {
                biased;
                () = shutdown.draining() => break,
                entered = self.0.recv() => match entered {
                    Some(entered) => drop(scope.spawn(handler(entered))),
                    // Nobody leads anybody in any more.
                    None => break,
                },
            }
        }
        drop(self);
        tokio::select! {
            () = scope.join() => {}
            () = shutdown.aborted() => scope.abort().await,
        }
    }
}

impl From<Accepted> for Entered {
    fn from(accepted: Accepted) -> Self {
        let Accepted { stream, peer, admitted, .. } = accepted;
        Self { stream: Box::new(stream), peer, admitted }
    }
}

impl std::fmt::Debug for Entered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entered").field("peer", &self.peer).finish_non_exhaustive()
    }
}
