//! A node inside a Rust program: its own small console over SSH, for users with certificates, without root, without a
//! terminal device, without processes.
//!
//! ```text
//! cargo run -p teleport-ssh --example embed_node
//! ```
//!
//! prints the `ssh` command that reaches it. Here one program plays all the parts: authority, auth service and node. In a
//! real cluster the node's identity comes from joining, and `access` is the client of the auth service.

#[path = "embed_node/cluster.rs"]
mod cluster;
#[path = "embed_node/console.rs"]
mod console;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use teleport_core::clock::{Clock, SystemClock};
use teleport_core::entropy::{Entropy, SystemEntropy};
use teleport_core::task::Shutdown;
use teleport_ssh::node::NodeServer;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy::new());
    let cluster = cluster::SmallCluster::new(Arc::clone(&clock), Arc::clone(&entropy)).await?;

    let console = Arc::new(console::Console::default());
    let node = NodeServer::builder(cluster.identity.clone(), cluster.access(), console, clock, entropy)
        .listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
        .bind()
        .await?;

    let dir = std::env::temp_dir().join(format!("embed-node-{}", std::process::id()));
    println!("{}", cluster.write_client_files(&dir, node.local_addr()?).await?);
    println!("Ctrl-C ends it.");
    let shutdown = Shutdown::new();
    tokio::select! {
        () = node.serve(shutdown.clone()) => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    std::fs::remove_dir_all(dir)?;
    Ok(())
}
