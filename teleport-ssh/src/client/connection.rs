//! Connections that stand: to a proxy, and through it to a node.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use russh::client::{Handle, Msg};
use russh::{Channel, ChannelMsg, ChannelOpenFailure};
use teleport_core::cert::HostIdentity;
use teleport_core::target::DialTarget;
use tokio::sync::watch;

use super::connect::within;
use super::error::ConnectError;
use super::forward::{Destination, Incoming};
use super::handler::ClientHandler;
use super::openssh::ProxyAddress;
use super::resume::GOODBYE;
use crate::resume::ClientLane;
use crate::rpc::{BoxedIo, Prefixed};

/// The longest explanation of a refusal that is kept.
const MAX_MESSAGE: usize = 4096;
const STDERR: u32 = 1;
/// How long the last words of a host may take that has ended the connection.
const FAREWELL: Duration = Duration::from_secs(1);

/// An SSH connection to a proxy.
pub struct ProxyConnection {
    pub(super) handle: Handle<ClientHandler>,
    pub(super) farewell: Farewell,
    pub(super) host: HostIdentity,
    pub(super) address: ProxyAddress,
}

/// An SSH connection to a node.
pub struct NodeConnection {
    pub(super) handle: Handle<ClientHandler>,
    /// What the node may open.
    pub(super) incoming: Arc<Incoming>,
    pub(super) farewell: Farewell,
    pub(super) host: HostIdentity,
    /// Lives as long as the connections that run through it.
    pub(super) proxy: Option<Arc<ProxyConnection>>,
    /// What the connection runs over, if it can be resumed.
    pub(super) lane: Option<ClientLane>,
}

impl ProxyConnection {
    /// Who the proxy is.
    pub const fn host(&self) -> &HostIdentity {
        &self.host
    }

    /// A stream of bytes to the SSH server of a node, as `ProxyCommand` needs it.
    ///
    /// # Errors
    /// [`ConnectError::Refused`] with the proxy's words, such as those about an ambiguous name.
    pub async fn open(&self, target: &DialTarget) -> Result<BoxedIo, ConnectError> {
        let peer = "the proxy";
        let mut channel = match self.handle.channel_open_session().await {
            Ok(channel) => channel,
            Err(russh::Error::ChannelOpenFailure(ChannelOpenFailure::Other { reason, .. })) => {
                return Err(ConnectError::Refused { message: printable(&reason) });
            }
            Err(error) => return Err(self.farewell.explain(peer, ConnectError::ssh(peer, error)).await),
        };
        if let Err(error) = channel.request_subsystem(true, target.to_subsystem()).await {
            return Err(self.farewell.explain(peer, ConnectError::ssh(peer, error)).await);
        }
        match within(peer, accepted(&mut channel, peer)).await {
            Ok(greeting) => Ok(Box::new(Prefixed::new(greeting, channel.into_stream()))),
            Err(refused) if self.handle.is_closed() => Err(self.farewell.explain(peer, refused).await),
            Err(refused) => Err(refused),
        }
    }

    /// A round trip to the proxy. Cancel safe.
    ///
    /// # Errors
    /// [`ConnectError::Ssh`] if the connection ended.
    pub async fn ping(&self) -> Result<(), ConnectError> {
        ping(&self.handle, "the proxy").await
    }

    /// Whether it has ended, as far as is known.
    pub(super) fn is_closed(&self) -> bool {
        self.handle.is_closed()
    }

    /// Where it is.
    pub(super) const fn address(&self) -> &ProxyAddress {
        &self.address
    }

    /// Says good-bye, after all that was said before, and waits until that is on its way.
    pub(super) async fn end(mut self, limit: Duration) {
        self.disconnect().await;
        let _ = tokio::time::timeout(limit, &mut self.handle).await;
    }

    /// Says good-bye.
    pub async fn disconnect(&self) {
        // Whether it is heard does not matter.
        let _ = self.handle.disconnect(russh::Disconnect::ByApplication, "", "").await;
    }
}

async fn ping(handle: &Handle<ClientHandler>, peer: &str) -> Result<(), ConnectError> {
    let ping = handle.send_ping().await;
    // What the library says when the connection ended meanwhile is success.
    match ping {
        Ok(()) if handle.is_closed() => Err(ConnectError::ssh(peer, russh::Error::Disconnect)),
        Ok(()) => Ok(()),
        Err(error) => Err(ConnectError::ssh(peer, error)),
    }
}

/// Waits for the first bytes of what is behind a channel: of a node, which speaks first as every SSH server does, or of a server of
/// files. What arrives on standard error instead are the peer's words about a refusal.
pub(super) async fn accepted(channel: &mut Channel<Msg>, peer: &str) -> Result<Bytes, ConnectError> {
    let mut words = Vec::new();
    loop {
        match channel.wait().await {
            Some(ChannelMsg::Data { data }) => return Ok(data),
            Some(ChannelMsg::ExtendedData { data, ext: STDERR }) => {
                let room = MAX_MESSAGE.saturating_sub(words.len());
                words.extend(data.iter().take(room));
            }
            Some(ChannelMsg::Failure | ChannelMsg::Eof | ChannelMsg::Close) | None => {
                // A sentence; what follows is for those who see the whole screen.
                let words = String::from_utf8_lossy(&words);
                let said = words.lines().map(printable).find(|line| !line.is_empty()).unwrap_or_default();
                let message = if said.is_empty() { format!("{peer} refused") } else { said };
                return Err(ConnectError::Refused { message });
            }
            Some(_) => {}
        }
    }
}

/// A peer's words without what a terminal would obey.
pub(super) fn printable(text: &str) -> String {
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    text.trim().chars().take(MAX_MESSAGE).map(clean).collect()
}

/// What the other side says when it ends the connection.
pub(super) struct Farewell(pub(super) watch::Receiver<Option<String>>);

impl Farewell {
    /// Why a connection is no good: in the words of the other side if it ended the connection with some, else what was seen here.
    async fn explain(&self, peer: &str, seen: ConnectError) -> ConnectError {
        // They may still be on their way from the library's task.
        let mut said = self.0.clone();
        let said = tokio::time::timeout(FAREWELL, said.wait_for(Option::is_some)).await;
        match said.ok().and_then(|said| said.ok()?.clone()) {
            Some(words) => ConnectError::Refused { message: format!("{peer} ended the connection: {words}") },
            None => seen,
        }
    }
}

impl NodeConnection {
    /// Who the node is.
    pub const fn host(&self) -> &HostIdentity {
        &self.host
    }

    /// The proxy through which it runs, if it was reached by [`SshClient::node`](super::SshClient::node) and cannot be resumed through another.
    pub fn proxy(&self) -> Option<&ProxyConnection> {
        self.proxy.as_deref()
    }

    /// Whether it has ended.
    pub(crate) fn is_closed(&self) -> bool {
        self.handle.is_closed()
    }

    /// A channel for a session, without a word of explanation.
    pub(crate) async fn open_session(&self) -> Result<Channel<Msg>, russh::Error> {
        self.handle.channel_open_session().await
    }

    /// A channel by which the host connects to `to`, for somebody at `from`.
    pub(crate) async fn open_direct(
        &self,
        to: SocketAddr,
        from: SocketAddr,
    ) -> Result<Channel<Msg>, ConnectError> {
        let destination = Destination::Tcp { host: to.ip().to_string(), port: to.port() };
        self.direct(&destination, Some(from)).await
    }

    /// A channel for a shell or a command.
    pub(super) async fn channel(&self) -> Result<Channel<Msg>, ConnectError> {
        let error = match self.handle.channel_open_session().await {
            Ok(channel) => return Ok(channel),
            Err(error @ russh::Error::ChannelOpenFailure(_)) => {
                return Err(ConnectError::ssh(&self.peer(), error));
            }
            Err(error) => error,
        };
        let peer = self.peer();
        Err(self.farewell.explain(&peer, ConnectError::ssh(&peer, error)).await)
    }

    pub(super) fn peer(&self) -> String {
        format!("node {}", self.host.name)
    }

    /// A channel through which the node connects to somebody else, for whoever came to us from there.
    pub(super) async fn direct(
        &self,
        to: &Destination,
        from: Option<SocketAddr>,
    ) -> Result<Channel<Msg>, ConnectError> {
        let opened = match to {
            Destination::Tcp { host, port } => {
                let (address, origin) = from.map_or(("127.0.0.1".to_owned(), 0), |from| {
                    (from.ip().to_canonical().to_string(), from.port())
                });
                self.handle
                    .channel_open_direct_tcpip(host.as_str(), (*port).into(), address, origin.into())
                    .await
            }
            Destination::Unix(path) => {
                self.handle.channel_open_direct_streamlocal(path.to_string_lossy()).await
            }
        };
        opened.map_err(|error| match error {
            russh::Error::ChannelOpenFailure(ChannelOpenFailure::Other { reason, .. }) => {
                ConnectError::Refused {
                    message: format!("{} did not connect to {to}: {}", self.peer(), printable(&reason)),
                }
            }
            error => ConnectError::ssh(&self.peer(), error),
        })
    }

    /// A round trip to the node, through the proxy. Cancel safe.
    ///
    /// # Errors
    /// [`ConnectError::Ssh`] if the connection ended.
    pub async fn ping(&self) -> Result<(), ConnectError> {
        ping(&self.handle, &self.peer()).await
    }

    /// Waits for the end of the connection; returns the last words of the node. Cancel safe.
    pub async fn closed(&self) -> Option<String> {
        let mut said = self.farewell.0.clone();
        // Whoever may say something lives as long as the connection.
        while said.changed().await.is_ok() {}
        said.borrow_and_update().clone()
    }

    /// Why the connection broke and could not be resumed, if that is so.
    pub fn lost(&self) -> Option<String> {
        self.lane.as_ref()?.failure().map(|why| printable(&why))
    }

    /// Says good-bye to the node, and waits until that is said. Whoever has no patience drops the future.
    pub(crate) async fn end(mut self) {
        self.disconnect().await;
        let _ = (&mut self.handle).await;
    }

    /// Whether nothing carries the connection now: it was lost, and goes on once the node is reached again.
    pub fn is_interrupted(&self) -> bool {
        self.lane.as_ref().is_some_and(ClientLane::is_interrupted)
    }

    /// Says good-bye to the node, and to the proxy if nothing else runs through it.
    pub async fn disconnect(&self) {
        let _ = self.handle.disconnect(russh::Disconnect::ByApplication, "", "").await;
        if let Some(lane) = &self.lane {
            lane.finish(GOODBYE).await;
        }
        if let Some(proxy) = self.proxy.as_ref().filter(|proxy| Arc::strong_count(proxy) == 1) {
            proxy.disconnect().await;
        }
    }
}

impl fmt::Debug for ProxyConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyConnection").field("host", &self.host).finish_non_exhaustive()
    }
}

impl fmt::Debug for NodeConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeConnection").field("host", &self.host).finish_non_exhaustive()
    }
}
