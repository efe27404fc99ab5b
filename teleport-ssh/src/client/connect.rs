//! To a proxy, and through it to a node: two SSH connections, one inside the other, each proved by a host certificate.
//!
//! There is no trust on first use and no way to switch the checks off. The authority of the user's own cluster must have
//! signed for exactly the name that was asked for: the proxy's for the one that all proxies of the cluster have and nobody else
//! ([`proxy_principal`]), the node's for the name or id of the node; both whatever path led there.

use std::fmt;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use russh::ChannelMsg;
use russh::client::{DisconnectReason, Handle, Msg, Session};
use russh::keys::PublicKeyOrCertificate;
use russh::{Channel, ChannelOpenFailure};
use ssh_key::Certificate;
use teleport_core::cert::{CertRejected, HostCheck, HostIdentity, TrustBundle, UserCheck, proxy_principal};
use teleport_core::clock::Clock;
use teleport_core::id::{HostRole, OsLogin, UserName};
use teleport_core::target::{DialTarget, TargetHost};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::openssh::ProxyAddress;
use crate::authn;
use crate::engine;
use crate::keys::SshKeyPair;
use crate::rpc::{BoxedIo, Prefixed};
use crate::session::JOIN_LOGIN;

/// How long the dialling of a proxy may take, and each handshake.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest explanation of a refusal that is kept.
const MAX_MESSAGE: usize = 4096;
const STDERR: u32 = 1;
/// How often a proxy is asked that hangs up at once because too many others are at its door.
const ATTEMPTS: u32 = 4;
/// The pause after the first of these attempts, at most; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// How long the last words of a host may take that has ended the connection.
const FAREWELL: Duration = Duration::from_secs(1);

/// Why a host is not believed to be who it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HostRejected {
    /// Its certificate is not accepted.
    #[error("its host certificate is not accepted: {reason}")]
    Certificate {
        /// Why.
        reason: CertRejected,
    },
    /// It has no certificate.
    #[error("it showed a plain key instead of a host certificate of the cluster")]
    PlainKey,
}

/// Why a connection failed. The texts are for the user.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The host let nobody in with this certificate.
    #[error("{peer} denied access")]
    Denied {
        /// The host.
        peer: String,
    },
    /// The proxy cannot be reached.
    #[error("cannot reach the proxy at {address}")]
    Dial {
        /// Its address.
        address: String,
        /// The reason.
        source: io::Error,
    },
    /// The host is not who it should be. Somebody may be in between.
    #[error("cannot verify {peer}: {rejected}")]
    Host {
        /// The host.
        peer: String,
        /// The reason.
        rejected: HostRejected,
    },
    /// A node is selected by labels, so nobody knows whose certificate to expect.
    #[error("labels may match another node tomorrow: find the node first and connect to its name or id")]
    Labels,
    /// The proxy hangs up at once, again and again: too many others are at its door, or too many from this address.
    #[error("the proxy at {address} is overloaded; try again in a moment")]
    Overloaded {
        /// Its address.
        address: String,
    },
    /// The user's own certificate is of no use any more.
    #[error("your certificate is not usable: {reason}; log in again")]
    OwnCertificate {
        /// Why.
        reason: CertRejected,
    },
    /// The proxy refused, in its own words.
    #[error("{message}")]
    Refused {
        /// Its words.
        message: String,
    },
    /// The connection broke or the other side does not follow the protocol.
    #[error("the connection to {peer} failed")]
    Ssh {
        /// The host.
        peer: String,
        /// The reason.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It took too long.
    #[error("{peer} did not answer within {} s", CONNECT_TIMEOUT.as_secs())]
    Timeout {
        /// The host.
        peer: String,
    },
}

impl ConnectError {
    fn ssh(peer: &str, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Ssh { peer: peer.to_owned(), source: Box::new(source) }
    }
}

/// What a user connects with.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "callers with keys of their own build it")]
pub struct Credentials {
    /// The user; named as the login at the proxy, where it does not matter.
    pub user: UserName,
    /// The private key.
    pub ssh: SshKeyPair,
    /// The certificate for it: one line, `algorithm base64`.
    pub certificate: String,
    /// Whom the user trusts.
    pub trust: TrustBundle,
}

/// Connects to proxies and nodes.
#[derive(Clone, Debug)]
pub struct SshClient {
    credentials: Arc<Credentials>,
    clock: Arc<dyn Clock>,
}

/// An SSH connection to a proxy.
pub struct ProxyConnection {
    handle: Handle<HostKeyCheck>,
    farewell: Farewell,
    host: HostIdentity,
}

/// An SSH connection to a node.
pub struct NodeConnection {
    handle: Handle<HostKeyCheck>,
    farewell: Farewell,
    host: HostIdentity,
    /// Lives as long as the connection that runs through it.
    proxy: Option<ProxyConnection>,
}

impl SshClient {
    /// With these credentials.
    pub fn new(credentials: Credentials, clock: Arc<dyn Clock>) -> Self {
        Self { credentials: Arc::new(credentials), clock }
    }

    /// Connects to a proxy's SSH port. A proxy that hangs up at once, as servers do that have too many strangers at the door, is
    /// asked a few times within some seconds. Dropping the future ends the attempt.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn proxy(&self, address: &ProxyAddress) -> Result<ProxyConnection, ConnectError> {
        let peer = format!("proxy {}", address.to_authority());
        let mut attempt = 1;
        loop {
            let stream = within(&peer, dial(address)).await?;
            // The port is chosen by the operating system, at random enough for this.
            let dice = stream.local_addr().map_or(0, |local| local.port().reverse_bits());
            match within(&peer, self.greet(stream, &peer, address)).await {
                Err(ConnectError::Overloaded { .. }) if attempt < ATTEMPTS => {
                    tracing::debug!(%peer, attempt, "the proxy hangs up at once");
                    // Between half and all of it: those who were refused together do not come back together.
                    let pause = FIRST_PAUSE.saturating_mul(1 << (attempt - 1)) / 2;
                    tokio::time::sleep(pause + pause / u32::from(u16::MAX) * u32::from(dice)).await;
                    attempt += 1;
                }
                outcome => return outcome,
            }
        }
    }

    async fn greet(
        &self,
        stream: TcpStream,
        peer: &str,
        address: &ProxyAddress,
    ) -> Result<ProxyConnection, ConnectError> {
        let (login, name) =
            (self.credentials.user.as_str(), proxy_principal(&self.credentials.trust.cluster));
        match self.handshake(stream, peer, &name, HostRole::Proxy, login).await {
            Ok((handle, host, farewell)) => Ok(ProxyConnection { handle, farewell, host }),
            Err(Failed::HungUp(_)) => Err(ConnectError::Overloaded { address: address.to_authority() }),
            Err(Failed::Otherwise(error)) => Err(error),
        }
    }

    /// Connects to a node through a proxy.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn node(
        &self,
        proxy: ProxyConnection,
        target: &DialTarget,
        login: &OsLogin,
    ) -> Result<NodeConnection, ConnectError> {
        let name = expected_name(&target.host)?;
        let stream = proxy.open(target).await?;
        let mut node = self.node_over(stream, &name, login).await?;
        node.proxy = Some(proxy);
        Ok(node)
    }

    /// Connects to a node through a proxy, as no login of it: to join sessions of others there.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn visit(
        &self,
        proxy: ProxyConnection,
        target: &DialTarget,
    ) -> Result<NodeConnection, ConnectError> {
        let name = expected_name(&target.host)?;
        let stream = proxy.open(target).await?;
        let mut node = self.node_as(stream, &name, JOIN_LOGIN).await?;
        node.proxy = Some(proxy);
        Ok(node)
    }

    /// Connects to the node `name` (a name or id in its certificate) over a stream that leads there.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn node_over(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        name: &str,
        login: &OsLogin,
    ) -> Result<NodeConnection, ConnectError> {
        self.node_as(stream, name, login.as_str()).await
    }

    async fn node_as(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        name: &str,
        login: &str,
    ) -> Result<NodeConnection, ConnectError> {
        let peer = format!("node {name}");
        let handshake = self.handshake(stream, &peer, name, HostRole::Node, login);
        let (handle, host, farewell) = within(&peer, async { Ok(handshake.await?) }).await?;
        Ok(NodeConnection { handle, farewell, host, proxy: None })
    }

    async fn handshake(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        peer: &str,
        name: &str,
        role: HostRole,
        login: &str,
    ) -> Result<(Handle<HostKeyCheck>, HostIdentity, Farewell), Failed> {
        let certificate = self.own_certificate()?;
        let verdict = Arc::new(OnceLock::new());
        let (farewell, said) = watch::channel(None);
        let check = HostKeyCheck {
            farewell,
            credentials: Arc::clone(&self.credentials),
            clock: Arc::clone(&self.clock),
            name: name.to_owned(),
            role,
            verdict: Arc::clone(&verdict),
        };
        let connected = russh::client::connect_stream(engine::client_config(), stream, check).await;
        let host = match verdict.get() {
            Some(Ok(host)) => host.clone(),
            Some(Err(rejected)) => {
                return Err(ConnectError::Host { peer: peer.to_owned(), rejected: *rejected }.into());
            }
            // A server that offers no certificate shares no host key algorithm with us.
            None => match connected {
                Err(russh::Error::NoCommonAlgo { .. }) => {
                    return Err(ConnectError::Host {
                        peer: peer.to_owned(),
                        rejected: HostRejected::PlainKey,
                    }
                    .into());
                }
                Err(error) if is_hang_up(&error) => {
                    return Err(Failed::HungUp(ConnectError::ssh(peer, error)));
                }
                Err(error) => return Err(ConnectError::ssh(peer, error).into()),
                Ok(_) => return Err(ConnectError::ssh(peer, russh::Error::UnknownKey).into()),
            },
        };
        let mut handle = connected.map_err(|error| ConnectError::ssh(peer, error))?;
        let key = Arc::new(self.credentials.ssh.private().clone());
        let authenticated = handle.authenticate_openssh_cert(login, key, certificate).await;
        match authenticated {
            Ok(result) if result.success() => Ok((handle, host, Farewell(said))),
            // A server that cuts the connection after too many failures has denied as well.
            Ok(_) | Err(russh::Error::Disconnect) => {
                Err(ConnectError::Denied { peer: peer.to_owned() }.into())
            }
            Err(error) => Err(ConnectError::ssh(peer, error).into()),
        }
    }

    /// An expired certificate is better found here than refused without a reason there.
    fn own_certificate(&self) -> Result<Certificate, ConnectError> {
        let own = |reason| ConnectError::OwnCertificate { reason };
        let certificate = Certificate::from_openssh(&self.credentials.certificate)
            .map_err(|_| own(CertRejected::Malformed))?;
        let check = UserCheck { login: None, peer: None, now: self.clock.now() };
        match authn::user(&certificate, &self.credentials.trust, check) {
            // Which of our addresses the server will see is not known here.
            Ok(_) | Err(CertRejected::SourceAddress) => Ok(certificate),
            Err(reason) => Err(own(reason)),
        }
    }
}

async fn dial(address: &ProxyAddress) -> Result<TcpStream, ConnectError> {
    let stream = TcpStream::connect((address.host.as_str(), address.port)).await;
    let stream = stream.and_then(|stream| stream.set_nodelay(true).map(|()| stream));
    stream.map_err(|source| ConnectError::Dial { address: address.to_authority(), source })
}

/// Why a handshake failed.
enum Failed {
    /// The other side ended the connection before it showed its key, as one does that has too many strangers at the door.
    HungUp(ConnectError),
    Otherwise(ConnectError),
}

impl From<ConnectError> for Failed {
    fn from(error: ConnectError) -> Self {
        Self::Otherwise(error)
    }
}

impl From<Failed> for ConnectError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::HungUp(error) | Failed::Otherwise(error) => error,
        }
    }
}

fn is_hang_up(error: &russh::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    match error {
        russh::Error::Disconnect | russh::Error::HUP => true,
        russh::Error::IO(error) => matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof),
        _ => false,
    }
}

/// The name that must stand in a node's certificate.
fn expected_name(host: &TargetHost) -> Result<String, ConnectError> {
    match host {
        TargetHost::Address(address) => Ok(address.to_string()),
        TargetHost::Id(id) => Ok(id.to_string()),
        TargetHost::Labels(_) => Err(ConnectError::Labels),
        TargetHost::Name(name) => Ok(name.to_string()),
    }
}

async fn within<T>(
    peer: &str,
    work: impl Future<Output = Result<T, ConnectError>>,
) -> Result<T, ConnectError> {
    let late = |_| ConnectError::Timeout { peer: peer.to_owned() };
    tokio::time::timeout(CONNECT_TIMEOUT, work).await.map_err(late)?
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
        match within(peer, accepted(&mut channel)).await {
            Ok(greeting) => Ok(Box::new(Prefixed::new(greeting, channel.into_stream()))),
            Err(refused) if self.handle.is_closed() => Err(self.farewell.explain(peer, refused).await),
            Err(refused) => Err(refused),
        }
    }

    /// Says good-bye.
    pub async fn disconnect(self) {
        // Whether it is heard does not matter.
        let _ = self.handle.disconnect(russh::Disconnect::ByApplication, "", "").await;
    }
}

/// Waits for the first bytes of the node, which speaks first as every SSH server does. What arrives on standard error
/// instead are the proxy's words about a refusal.
async fn accepted(channel: &mut Channel<Msg>) -> Result<Bytes, ConnectError> {
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
                let message = if said.is_empty() { "the proxy refused".to_owned() } else { said };
                return Err(ConnectError::Refused { message });
            }
            Some(_) => {}
        }
    }
}

/// A peer's words without what a terminal would obey.
fn printable(text: &str) -> String {
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    text.trim().chars().take(MAX_MESSAGE).map(clean).collect()
}

/// What the other side says when it ends the connection.
struct Farewell(watch::Receiver<Option<String>>);

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

    /// Says good-bye to the node and to the proxy.
    pub async fn disconnect(self) {
        let _ = self.handle.disconnect(russh::Disconnect::ByApplication, "", "").await;
        if let Some(proxy) = self.proxy {
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

/// Decides about the host's certificate, once, and remembers the verdict for the caller: the library's own error says only
/// that it was no.
struct HostKeyCheck {
    /// Takes the other side's last words.
    farewell: watch::Sender<Option<String>>,
    credentials: Arc<Credentials>,
    clock: Arc<dyn Clock>,
    name: String,
    role: HostRole,
    verdict: Arc<OnceLock<Result<HostIdentity, HostRejected>>>,
}

impl russh::client::Handler for HostKeyCheck {
    type Error = russh::Error;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        let verdict = match shown {
            PublicKeyOrCertificate::Certificate(certificate) => {
                let check = HostCheck { name: &self.name, role: self.role, now: self.clock.now() };
                authn::host(certificate, &self.credentials.trust, check)
                    .map_err(|reason| HostRejected::Certificate { reason })
            }
            PublicKeyOrCertificate::PublicKey { .. } => Err(HostRejected::PlainKey),
        };
        let accepted = verdict.is_ok();
        // The library asks once; a second verdict could not replace the first.
        let first = self.verdict.set(verdict).is_ok();
        Ok(first && accepted)
    }

    async fn disconnected(&mut self, reason: DisconnectReason<Self::Error>) -> Result<(), Self::Error> {
        match reason {
            DisconnectReason::ReceivedDisconnect(said) => {
                let words = printable(&said.message);
                if !words.is_empty() {
                    self.farewell.send_replace(Some(words));
                }
                Ok(())
            }
            DisconnectReason::Error(error) => Err(error),
        }
    }

    async fn auth_banner(&mut self, banner: &str, _session: &mut Session) -> Result<(), Self::Error> {
        tracing::info!(banner = printable(banner), "the server says");
        Ok(())
    }
}
