//! Listening on this machine: `-L` and `-D`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use socket2::{Domain, Socket, Type};
use teleport_core::task::TaskScope;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;

use super::socks::{MAX_REQUEST, SocksEvent, SocksVersion, next_event};
use super::spec::{BindAddress, Destination, Forward, Listen, Target};
use super::splice::splice;
use super::{ForwardError, MAX_CONNECTIONS};
use crate::client::connection::NodeConnection;
use crate::rpc::{BoxedIo, Prefixed};
use crate::socket_file::{self, SocketFile};

/// Connections that wait to be accepted, as OpenSSH has it.
const BACKLOG: i32 = 128;
/// How long a SOCKS client may take to say where it wants to go.
const SOCKS_TIMEOUT: Duration = Duration::from_secs(30);
/// The pause after a connection could not be accepted, as when there are too many files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How is listened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "callers build it")]
pub struct ListenOptions {
    /// Others than this machine may connect to ports of forwards that name no address.
    pub gateway: bool,
    /// A socket that is there is removed first.
    pub unlink: bool,
}

/// A forward that listens on this machine. Dropping it ends that; connections go on.
#[derive(Debug)]
pub struct BoundForward {
    forward: Forward,
    listeners: Vec<Listener>,
}

#[derive(Debug)]
enum Listener {
    Tcp(TcpListener),
    // The file goes first.
    Unix { _file: SocketFile, listener: UnixListener },
}

impl BoundForward {
    /// Begins to listen: at both addresses of loopback, if none is named. Unix sockets are for this user alone.
    ///
    /// # Errors
    /// [`ForwardError::Listen`].
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn bind(forward: Forward, options: ListenOptions) -> Result<Self, ForwardError> {
        let failed = |source| ForwardError::Listen { listen: forward.listen.to_string(), source };
        let listeners = match &forward.listen {
            Listen::Tcp { bind, port } => tcp(bind, *port, options).await.map_err(failed)?,
            Listen::Unix(path) => vec![unix(path, options).map_err(failed)?],
        };
        Ok(Self { forward, listeners })
    }

    /// What is forwarded.
    pub const fn forward(&self) -> &Forward {
        &self.forward
    }

    /// The ports that are listened on.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let tcp = |listener: &Listener| match listener {
            Listener::Tcp(listener) => listener.local_addr().ok(),
            Listener::Unix { .. } => None,
        };
        self.listeners.iter().filter_map(tcp).collect()
    }

    /// Passes connections on, each as a task of `connections`, until it is dropped. One that the node refuses is closed.
    pub async fn serve(self, node: Arc<NodeConnection>, connections: TaskScope) {
        let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let serving = self.listeners.iter().map(|listener| async {
            loop {
                // Whoever comes too many waits in the system's queue.
                let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
                let (socket, from) = match listener.accept().await {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        tracing::warn!(%error, forward = %self.forward, "cannot accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                };
                let (node, target) = (Arc::clone(&node), self.forward.to.clone());
                connections.spawn(async move {
                    let _place = place;
                    if let Err(error) = pass_on(&node, &target, socket, from).await {
                        tracing::debug!(error = &*error, "a forwarded connection ended");
                    }
                });
            }
        });
        futures_util::future::join_all(serving).await;
    }
}

impl Listener {
    async fn accept(&self) -> io::Result<(BoxedIo, Option<SocketAddr>)> {
        match self {
            Self::Tcp(listener) => {
                let (socket, from) = listener.accept().await?;
                socket.set_nodelay(true)?;
                Ok((Box::new(socket), Some(from)))
            }
            Self::Unix { listener, .. } => Ok((Box::new(listener.accept().await?.0), None)),
        }
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn pass_on(
    node: &NodeConnection,
    target: &Target,
    mut socket: BoxedIo,
    from: Option<SocketAddr>,
) -> Result<(), Failure> {
    match target {
        Target::To(to) => {
            let channel = node.direct(to, from).await?;
            splice(channel, socket).await?;
        }
        Target::Dynamic => {
            let asked = tokio::time::timeout(SOCKS_TIMEOUT, socks(&mut socket)).await;
            let (version, to, early) = asked.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            let channel = node.direct(&to, from).await;
            socket.write_all(version.answer(channel.is_ok())).await?;
            socket.flush().await?;
            splice(channel?, Prefixed::new(early.freeze(), socket)).await?;
        }
    }
    Ok(())
}

/// Hears where a SOCKS client wants to go. What came behind that is for whoever is there.
pub(super) async fn socks<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut S,
) -> Result<(SocksVersion, Destination, BytesMut), Failure> {
    let mut input = BytesMut::with_capacity(MAX_REQUEST);
    let mut greeted = false;
    loop {
        match next_event(&input, greeted) {
            Ok(Some((taken, SocksEvent::Connect(version, to)))) => {
                input.advance(taken);
                return Ok((version, to, input));
            }
            Ok(Some((taken, SocksEvent::Greeting))) => {
                input.advance(taken);
                greeted = true;
                socket.write_all(&[5, 0]).await?;
                socket.flush().await?;
            }
            Ok(None) => {
                let mut room = [0; MAX_REQUEST];
                let len = MAX_REQUEST.saturating_sub(input.len());
                let read = socket.read(room.get_mut(..len).unwrap_or_default()).await?;
                if read == 0 {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                }
                input.extend_from_slice(room.get(..read).unwrap_or_default());
            }
            Err(error) => {
                let words = match input.first() {
                    Some(5) => SocksVersion::refusal(greeted),
                    Some(4) => SocksVersion::Four.answer(false),
                    _ => &[],
                };
                let _ = socket.write_all(words).await;
                let _ = socket.flush().await;
                return Err(error.into());
            }
        }
    }
}

async fn tcp(bind: &BindAddress, port: u16, options: ListenOptions) -> io::Result<Vec<Listener>> {
    let all = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
    let addresses: Vec<IpAddr> = match bind {
        BindAddress::All => all.to_vec(),
        BindAddress::Loopback if options.gateway => all.to_vec(),
        BindAddress::Loopback => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
        BindAddress::Host(host) => {
            tokio::net::lookup_host((host.as_str(), port)).await?.map(|address| address.ip()).collect()
        }
    };
    let (mut listeners, mut port, mut failed) = (Vec::new(), port, None);
    for address in addresses {
        match tcp_listener(SocketAddr::new(address, port)) {
            Ok(listener) => {
                // One port for all of them.
                port = listener.local_addr()?.port();
                listeners.push(Listener::Tcp(listener));
            }
            // A machine may have no IPv6, but a port that somebody has is not ours.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
            Err(error) => failed = Some(error),
        }
    }
    match failed {
        Some(error) if listeners.is_empty() => Err(error),
        None if listeners.is_empty() => Err(io::Error::from(io::ErrorKind::AddrNotAvailable)),
        _ => Ok(listeners),
    }
}

fn tcp_listener(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

fn unix(path: &Path, options: ListenOptions) -> io::Result<Listener> {
    if options.unlink && std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
        std::fs::remove_file(path)?;
    }
    let (file, listener) = socket_file::listen(path)?;
    Ok(Listener::Unix { _file: file, listener: UnixListener::from_std(listener)? })
}
