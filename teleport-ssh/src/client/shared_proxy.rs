//! One connection to a proxy for connections to many nodes.

use std::sync::Arc;

use teleport_core::id::OsLogin;
use teleport_core::target::DialTarget;
use tokio::sync::Mutex;

use super::connect::SshClient;
use super::connection::{NodeConnection, ProxyConnection};
use super::error::ConnectError;
use super::openssh::ProxyAddress;

/// A connection to a proxy through which connections to many nodes run. When it is lost, the first of them that is resumed makes another
/// one, which the others take as well. Clones share it.
#[derive(Clone, Debug)]
pub struct SharedProxy {
    address: ProxyAddress,
    /// Whoever makes another one has all others wait for it.
    current: Arc<Mutex<Arc<ProxyConnection>>>,
}

impl SharedProxy {
    /// The connection that counts now; another one than `lost`, on which nothing comes any more, whatever the SSH library has noticed
    /// of that. Cancel safe.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub(super) async fn open(
        &self,
        lost: Option<&Arc<ProxyConnection>>,
        client: &SshClient,
    ) -> Result<Arc<ProxyConnection>, ConnectError> {
        let mut current = self.current.lock().await;
        if current.is_closed() || lost.is_some_and(|lost| Arc::ptr_eq(&current, lost)) {
            *current = Arc::new(client.proxy(&self.address).await?);
        }
        Ok(Arc::clone(&current))
    }

    /// Says good-bye to the proxy. What still runs through it ends.
    pub async fn disconnect(&self) {
        self.current.lock().await.disconnect().await;
    }
}

impl SshClient {
    /// Connects to a proxy that is to lead to many nodes, as [`SshClient::proxy`].
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn shared_proxy(&self, address: &ProxyAddress) -> Result<SharedProxy, ConnectError> {
        let proxy = Arc::new(self.proxy(address).await?);
        Ok(SharedProxy { address: address.clone(), current: Arc::new(Mutex::new(proxy)) })
    }

    /// Connects to a node through a proxy that others use as well. `shown` is how the node is called when its connection is lost.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn node_by(
        &self,
        proxy: &SharedProxy,
        target: &DialTarget,
        login: &OsLogin,
        shown: &str,
    ) -> Result<NodeConnection, ConnectError> {
        self.node_through(proxy.clone().into(), target, login.as_str(), Some(shown)).await
    }
}
