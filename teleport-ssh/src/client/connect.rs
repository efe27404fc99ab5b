//! To a proxy, and through it to a node: two SSH connections, one inside the other, each proved by a host certificate.
//!
//! There is no trust on first use and no way to switch the checks off. The authority of the user's own cluster must have
//! signed for exactly the name that was asked for: the proxy's for the one that all proxies of the cluster have and nobody else
//! ([`proxy_principal`]), the node's for the name or id of the node; both whatever path led there.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use russh::client::Handle;
use ssh_key::Certificate;
use teleport_core::cert::{CertRejected, HostIdentity, TrustBundle, UserCheck, proxy_principal};
use teleport_core::clock::Clock;
use teleport_core::id::{HostRole, OsLogin, UserName};
use teleport_core::target::{DialTarget, TargetHost};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::connection::{Farewell, NodeConnection, ProxyConnection};
use super::error::{ConnectError, HostRejected};
use super::forward::Incoming;
use super::handler::ClientHandler;
use super::openssh::ProxyAddress;
use super::resume::{Resumption, Through, Wire};
use crate::authn;
use crate::engine::{self, Cipher};
use crate::keys::SshKeyPair;
use crate::outgoing;
use crate::rpc::BoxedIo;
use crate::session::JOIN_LOGIN;

/// How long the dialling of a proxy may take, and each handshake.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a proxy is asked that hangs up at once because too many others are at its door.
const ATTEMPTS: u32 = 4;
/// The pause after the first of these attempts, at most; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

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
    cipher: Option<Cipher>,
    resumption: Option<Resumption>,
    /// How many messages may wait in a channel.
    messages: usize,
}

impl SshClient {
    /// With these credentials.
    pub fn new(credentials: Credentials, clock: Arc<dyn Clock>) -> Self {
        Self {
            credentials: Arc::new(credentials),
            clock,
            cipher: None,
            resumption: None,
            messages: engine::CLIENT_MESSAGES,
        }
    }

    /// With this cipher and no other, on every connection. Default: the fastest that both sides have.
    #[must_use]
    pub const fn with_cipher(mut self, cipher: Cipher) -> Self {
        self.cipher = Some(cipher);
        self
    }

    /// Connections to nodes are resumed when they break, if the node offers it. Default: they are not.
    #[must_use]
    pub fn with_resumption(mut self, resumption: Resumption) -> Self {
        self.resumption = Some(resumption);
        self
    }

    /// For connections that have one channel at a time: what nobody takes stays with the server.
    pub(crate) const fn for_one_channel(mut self) -> Self {
        self.messages = engine::ONE_CHANNELS_MESSAGES;
        self
    }

    /// The same, over connections that end when they break.
    pub(super) fn once(&self) -> Self {
        Self { resumption: None, ..self.clone() }
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
        // A proxy has nothing to open here.
        let incoming = Arc::new(Incoming::default());
        let config = engine::client_config(self.cipher, true, self.messages);
        match self.handshake(config, stream, peer, &name, HostRole::Proxy, login, incoming).await {
            Ok((handle, host, farewell)) => {
                Ok(ProxyConnection { handle, farewell, host, address: address.clone() })
            }
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
        self.node_through(proxy.into(), target, login.as_str(), None).await
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
        self.node_through(proxy.into(), target, JOIN_LOGIN, None).await
    }

    pub(super) async fn node_through(
        &self,
        by: Through,
        target: &DialTarget,
        login: &str,
        shown: Option<&str>,
    ) -> Result<NodeConnection, ConnectError> {
        let name = expected_name(&target.host)?;
        let (proxy, again) = by.begin(self).await?;
        let io = proxy.open(target).await?;
        let Some(resumption) = &self.resumption else {
            let node = self.node_as(io, &name, login, true).await?;
            return Ok(NodeConnection { proxy: Some(proxy), ..node });
        };
        let way = again.way(self, target);
        let (stream, way) = resumption.begin(Wire { io, proxy }, way, &name, shown.unwrap_or(&name)).await?;
        let node = self.node_as(stream, &name, login, way.is_err()).await?;
        Ok(match way {
            Ok(lane) => {
                lane.keep();
                NodeConnection { lane: Some(lane), ..node }
            }
            Err(proxy) => NodeConnection { proxy: Some(proxy), ..node },
        })
    }

    /// A stream of bytes to the SSH server of a node through a proxy, as `ProxyCommand` needs it; one that can be resumed, if that is
    /// wanted and the node offers it. Whoever ends it says so by [`Resumption::finish`].
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn stream(&self, proxy: ProxyConnection, target: &DialTarget) -> Result<BoxedIo, ConnectError> {
        let (proxy, again) = Through::from(proxy).begin(self).await?;
        let io = proxy.open(target).await?;
        let Some(resumption) = &self.resumption else { return Ok(Box::new(Wire { io, proxy })) };
        let name = target.host.to_string();
        let way = again.way(self, target);
        let (stream, way) = resumption.begin(Wire { io, proxy }, way, &name, &name).await?;
        Ok(match way {
            // When the other program is let in is not seen here. Until then the node has nothing to resume, and says so.
            Ok(lane) => {
                lane.keep();
                stream
            }
            Err(proxy) => Box::new(Wire { io: stream, proxy }),
        })
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
        self.node_as(stream, name, login.as_str(), true).await
    }

    async fn node_as(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        name: &str,
        login: &str,
        keepalive: bool,
    ) -> Result<NodeConnection, ConnectError> {
        let peer = format!("node {name}");
        let incoming = Arc::new(Incoming::default());
        let config = engine::client_config(self.cipher, keepalive, self.messages);
        let handshake =
            self.handshake(config, stream, &peer, name, HostRole::Node, login, Arc::clone(&incoming));
        let (handle, host, farewell) = within(&peer, async { Ok(handshake.await?) }).await?;
        Ok(NodeConnection { handle, incoming, farewell, host, proxy: None, lane: None })
    }

    #[expect(clippy::too_many_arguments, reason = "each is another fact")]
    async fn handshake(
        &self,
        config: Arc<russh::client::Config>,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        peer: &str,
        name: &str,
        role: HostRole,
        login: &str,
        incoming: Arc<Incoming>,
    ) -> Result<(Handle<ClientHandler>, HostIdentity, Farewell), Failed> {
        let certificate = self.own_certificate()?;
        let verdict = Arc::new(OnceLock::new());
        let (farewell, said) = watch::channel(None);
        let check = ClientHandler {
            farewell,
            credentials: Arc::clone(&self.credentials),
            clock: Arc::clone(&self.clock),
            name: name.to_owned(),
            role,
            verdict: Arc::clone(&verdict),
            incoming,
        };
        let connected = russh::client::connect_stream(config, stream, check).await;
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
    let stream = outgoing::open(&address.host, address.port, CONNECT_TIMEOUT).await;
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

pub(super) async fn within<T>(
    peer: &str,
    work: impl Future<Output = Result<T, ConnectError>>,
) -> Result<T, ConnectError> {
    let late = |_| ConnectError::Timeout { peer: peer.to_owned(), after: CONNECT_TIMEOUT };
    tokio::time::timeout(CONNECT_TIMEOUT, work).await.map_err(late)?
}
