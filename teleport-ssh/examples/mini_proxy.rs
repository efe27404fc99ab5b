//! A proxy with a rule of its own, inside a Rust program: it reaches nodes as always, but says who goes where, and counts.
//!
//! ```text
//! cargo run -p teleport-ssh --example mini_proxy -- IDENTITY-DIRECTORY AUTH-ADDRESS [LISTEN]
//! ```
//!
//! The identity is that of a proxy which has joined the cluster: `teleport start --roles proxy` leaves it in
//! `<data directory>/identity/proxy`. Then `ssh -J anybody@LISTEN login@node.cluster` goes through this program.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use teleport_core::cert::UserIdentity;
use teleport_core::clock::{Clock, SystemClock};
use teleport_core::entropy::{Entropy, SystemEntropy};
use teleport_core::id::HostRole;
use teleport_core::task::Shutdown;
use teleport_ssh::identity::{HostIdentityHandle, IdentityStore};
use teleport_ssh::proxy::route::NodeRoute;
use teleport_ssh::proxy::{BoundProxy, DialError, Direct, NodeDialer, ProxyServer};
use teleport_ssh::rpc::{AuthClient, BoxedIo, ClientIdentity, TcpConnector};

/// Counts, and leaves the rest to [`Direct`].
#[derive(Debug)]
struct Counting {
    direct: Direct,
    dialled: AtomicU64,
}

#[async_trait]
impl NodeDialer for Counting {
    async fn dial(&self, route: &NodeRoute, by: &UserIdentity) -> Result<BoxedIo, DialError> {
        let number = self.dialled.fetch_add(1, Ordering::Relaxed) + 1;
        println!("{number}: {} to {} ({})", by.user, route.name(), route.address());
        self.direct.dial(route, by).await
    }
}

/// A proxy with the identity from a directory.
pub(crate) async fn bind(
    identity: &Path,
    auth: &str,
    listen: SocketAddr,
) -> Result<BoundProxy, Box<dyn std::error::Error>> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy::new());
    let material =
        IdentityStore::open(identity)?.load(HostRole::Proxy)?.ok_or("no proxy has joined from there")?;
    let identity = HostIdentityHandle::new(material);
    let connector = Arc::new(TcpConnector::new([auth]));
    let client = ClientIdentity::Host(identity.clone());
    let access = Arc::new(AuthClient::builder(connector, client, Arc::clone(&clock)).build());
    let proxy = ProxyServer::builder(identity, access, clock, entropy).listen(listen);
    // The nodes of whoever tries this are on the same machine. Without that they could announce whatever listens there.
    let counting = Counting { direct: Direct::new().local_addresses(true), dialled: AtomicU64::new(0) };
    Ok(proxy.dialer(Arc::new(counting)).bind().await?)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(identity), Some(auth)) = (arguments.next(), arguments.next()) else {
        return Err("usage: mini_proxy IDENTITY-DIRECTORY AUTH-ADDRESS [LISTEN]".into());
    };
    let listen: SocketAddr = arguments.next().as_deref().unwrap_or("127.0.0.1:3023").parse()?;
    let proxy = bind(identity.as_ref(), &auth, listen).await?;
    println!("listening on {}; Ctrl-C ends it", proxy.local_addr()?);
    let shutdown = Shutdown::new();
    tokio::select! {
        () = proxy.serve(shutdown.clone()) => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    Ok(())
}
