//! Nodes that listen nowhere, many in one process: members of the cluster with an identity, a connection to the auth service and tunnels of
//! their own, by the code of the product. No session is run at them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use async_trait::async_trait;
use teleport_core::access::LoginGrant;
use teleport_core::cert::CaPin;
use teleport_core::clock::{Clock, SystemClock};
use teleport_core::entropy::{Entropy, SystemEntropy};
use teleport_core::task::{Shutdown, TaskScope};
use teleport_ssh::identity::HostIdentityHandle;
use teleport_ssh::node::{NodeServer, NodeStatus};
use teleport_ssh::rpc::{AuthClient, ClientIdentity};
use teleport_ssh::session::{ExitStatus, SessionChannel, SessionService};
use tokio::time::Instant;

use crate::nodes::node::{Fleet, FromAddress, join_proxy};

/// How long all of them may take to be told whom to trust.
const PATIENCE: Duration = Duration::from_secs(600);
/// What is written when they wait for nothing but the proxy.
pub(super) const READY: &str = "the nodes are ready";

#[derive(Debug)]
struct NoSessions;

#[async_trait]
impl SessionService for NoSessions {
    async fn run(&self, _: LoginGrant, _: SessionChannel) -> ExitStatus {
        ExitStatus::Code(1)
    }
}

/// What a process with such nodes is told.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Order {
    /// The auth service.
    pub auth: SocketAddr,
    /// Where the proxy will be.
    pub proxy: SocketAddr,
    /// Whom to trust at first.
    pub pin: CaPin,
    /// How many nodes.
    pub count: usize,
    /// The first of the addresses that they come from.
    pub first: usize,
}

impl Order {
    /// From the words of the command line, in the order of the fields.
    ///
    /// # Errors
    /// When they are others.
    pub fn parse(words: &[String]) -> Result<Self> {
        let [auth, proxy, pin, count, first] = words else { anyhow::bail!("five words") };
        Ok(Self {
            auth: auth.parse()?,
            proxy: proxy.parse()?,
            pin: pin.parse()?,
            count: count.parse()?,
            first: first.parse()?,
        })
    }

    /// The words.
    pub(super) fn words(&self) -> [String; 5] {
        let Self { auth, proxy, pin, count, first } = self;
        [auth.to_string(), proxy.to_string(), pin.to_string(), count.to_string(), first.to_string()]
    }
}

/// Lets the nodes live until this process is ended.
///
/// # Errors
/// What fails before they do.
pub async fn live(order: Order) -> Result<()> {
    let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy::new());
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let (api, ..) = join_proxy(order.auth, order.pin).await?;
    let hosts = Fleet::join(order.count, order.first, &api).await?.into_hosts();
    drop(api);

    let scope = TaskScope::new();
    let mut nodes: Vec<NodeStatus> = Vec::new();
    for (number, host) in hosts.into_iter().enumerate() {
        let handle = HostIdentityHandle::new(host);
        let connector = Arc::new(FromAddress::numbered(order.first + number, order.auth));
        let identity = ClientIdentity::Host(handle.clone());
        let access = Arc::new(AuthClient::builder(connector, identity, Arc::clone(&clock)).build());
        let (clock, entropy) = (Arc::clone(&clock), Arc::clone(&entropy));
        let node = NodeServer::builder(handle, access, Arc::new(NoSessions), clock, entropy)
            .tunnels([order.proxy.to_string()])
            .bind()
            .await?;
        nodes.push(node.status());
        scope.spawn(node.serve(Shutdown::new()));
    }
    let began = Instant::now();
    while nodes.iter().any(|node| node.view().current().is_none()) {
        ensure!(began.elapsed() < PATIENCE, "not all nodes hear of the auth service");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    eprintln!("{READY}");
    std::future::pending().await
}
