//! The port where other proxies ask this one for nodes: open as long as the cluster's proxies do that.

use std::net::SocketAddr;
use std::time::Duration;

use teleport_core::api::ProxyRecord;
use teleport_core::task::{Shutdown, TaskScope};
use teleport_ssh::listener::Door;
use teleport_ssh::tunnel::PeerPort;
use teleport_ssh::view::AccessCache;
use tokio::sync::watch;

/// How soon a port that could not be opened is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// What the port is made of.
pub(super) struct Peering<M, A, T> {
    /// Makes the service.
    pub(super) port: M,
    /// Where it listens.
    pub(super) listen: SocketAddr,
    /// How others reach what listens there.
    pub(super) advertised: A,
    /// Says whether proxies ask each other.
    pub(super) view: AccessCache,
    /// Is told what happens at the port, as long as it is open.
    pub(super) tell: T,
}

impl<M: Fn() -> PeerPort, A: Fn(SocketAddr) -> String, T: Fn(Option<Door>)> Peering<M, A, T> {
    /// Opens the port when proxies begin to ask each other, says so in `record`, and closes it when they do not any more: what was led
    /// through it goes on. Until `shutdown` drains, and then until that has ended or it aborts.
    pub(super) async fn run(self, record: watch::Sender<ProxyRecord>, shutdown: Shutdown) {
        let scope = TaskScope::new();
        tokio::select! {
            () = self.open(&record, &scope) => {}
            () = shutdown.draining() => {}
        }
        tokio::select! {
            () = scope.join() => {}
            () = shutdown.aborted() => scope.abort().await,
        }
    }

    async fn open(&self, record: &watch::Sender<ProxyRecord>, scope: &TaskScope) {
        let mut failing = false;
        while self.view.wait_for(|view| view.peering.is_some()).await.is_some() {
            let opened = (self.port)().bind(self.listen).map_err(anyhow::Error::new);
            let opened = opened.and_then(|port| Ok((port.local_addr()?, port)));
            let (local, port) = match opened {
                Ok(opened) => opened,
                Err(error) => {
                    // Once for each time that it fails. Nodes have a tunnel to this proxy meanwhile, as it cannot be asked.
                    if !std::mem::replace(&mut failing, true) {
                        tracing::error!("proxy_service.peer_listen_addr: {error:#}; it is tried again");
                    }
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            };
            failing = false;
            let address = (self.advertised)(local);
            tracing::info!(%local, %address, "other proxies can ask this one for nodes");
            record.send_modify(|record| record.peer_address = Some(address));
            (self.tell)(Some(port.door()));
            let closing = Shutdown::new();
            // Also when this future is dropped.
            let _close = Close(closing.clone());
            scope.spawn(port.serve(closing));
            self.view.wait_for(|view| view.peering.is_none()).await;
            (self.tell)(None);
            record.send_modify(|record| record.peer_address = None);
        }
    }
}

/// Closes the port when it is dropped.
struct Close(Shutdown);

impl Drop for Close {
    fn drop(&mut self) {
        self.0.drain();
    }
}
