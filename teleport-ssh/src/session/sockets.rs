//! What a login connects with.

use std::any::Any;
use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::task::{Context, Poll};

use async_trait::async_trait;
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};

/// The longest path of a socket, in bytes: what the kernel takes, with a zero byte behind it.
const MAX_PATH: usize = 107;

/// The path of a socket in the file system, as a client may ask for it: absolute, and short enough for the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SocketPath(PathBuf);

/// No socket can have the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidPath {
    /// It is empty or too long.
    #[error("the path of a socket is 1 to {MAX_PATH} bytes long")]
    Length,
    /// It depends on where somebody is, or is none.
    #[error("the path of a socket begins with a slash and has no zero byte")]
    Form,
}

impl SocketPath {
    /// Reads a path.
    ///
    /// # Errors
    /// [`InvalidPath`].
    pub fn new(path: impl AsRef<OsStr>) -> Result<Self, InvalidPath> {
        let bytes = path.as_ref().as_bytes();
        if bytes.is_empty() || bytes.len() > MAX_PATH {
            return Err(InvalidPath::Length);
        }
        if !bytes.starts_with(b"/") || bytes.contains(&0) {
            return Err(InvalidPath::Form);
        }
        Ok(Self(PathBuf::from(path.as_ref())))
    }

    /// It.
    pub fn as_path(&self) -> &Path {
        &self.0
    }
}

use crate::rpc::BoxedIo;

/// Opens sockets on this machine that are a login's own, as if a program of the login had opened them.
///
/// Those in the file system are optional: what is not there is [`Unsupported`](io::ErrorKind::Unsupported), and clients hear that it is
/// not offered.
#[async_trait]
pub trait Sockets: fmt::Debug + Send + Sync + 'static {
    /// A TCP socket of the family of `address`, neither bound nor connected.
    ///
    /// # Errors
    /// The system's.
    fn tcp(&self, address: SocketAddr) -> io::Result<TcpSocket>;

    /// Connects to `address`. Dropping the future leaves nothing behind.
    ///
    /// # Errors
    /// The system's.
    async fn connect_tcp(&self, address: SocketAddr) -> io::Result<BoxedIo> {
        let socket = self.tcp(address)?;
        // Keystrokes are small, and who is gone without a word should not hold a place for ever.
        socket.set_nodelay(true)?;
        socket.set_keepalive(true)?;
        Ok(Box::new(socket.connect(address).await?))
    }

    /// Listens on `address`, whose port may be 0 for any. An address of IPv6 stands for itself alone.
    ///
    /// # Errors
    /// The system's.
    fn listen_tcp(&self, address: SocketAddr) -> io::Result<TcpListener>;

    /// Accepts who comes to what [`listen_tcp`](Self::listen_tcp) gave. The connection is the login's as well.
    ///
    /// # Errors
    /// The system's.
    fn poll_accept(
        &self,
        listener: &TcpListener,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        listener.poll_accept(cx)
    }

    /// Whether the login is the one that may take the ports of the host's own services.
    fn is_root(&self) -> bool;

    /// Connects to the socket at `path`, as the login may. Dropping the future leaves nothing behind.
    ///
    /// # Errors
    /// The system's.
    async fn connect_unix(&self, path: &SocketPath) -> io::Result<UnixStream> {
        let _ = path;
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Makes a socket at `path`, where nothing is, for the login alone. Dropping the future leaves nothing behind.
    ///
    /// # Errors
    /// The system's.
    async fn listen_unix(&self, path: &SocketPath) -> io::Result<MadeSocket> {
        let _ = path;
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Makes a socket in a new directory of the login's own. Dropping the future leaves nothing behind.
    ///
    /// # Errors
    /// The system's.
    async fn listen_agent(&self) -> io::Result<MadeSocket> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// A socket in the file system that listens. What was made is removed when this is dropped.
pub struct MadeSocket {
    listener: UnixListener,
    path: PathBuf,
    _keeper: Box<dyn Any + Send + Sync>,
}

impl MadeSocket {
    /// `keeper` removes the socket when it is dropped.
    pub fn new(listener: UnixListener, path: PathBuf, keeper: impl Send + Sync + 'static) -> Self {
        Self { listener, path, _keeper: Box::new(keeper) }
    }

    /// The socket.
    pub const fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl fmt::Debug for MadeSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MadeSocket").field("path", &self.path).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn paths_are_what_the_kernel_takes() {
        let longest = format!("/{}", "x".repeat(MAX_PATH - 1));
        assert_eq!(SocketPath::new(&longest).unwrap().as_path(), Path::new(&longest));
        for bad in [&format!("{longest}x"), ""] {
            assert_eq!(SocketPath::new(bad), Err(InvalidPath::Length));
        }
        for bad in ["x", "./x", "~/x", "@x", "/x\0", "\0x"] {
            assert_eq!(SocketPath::new(bad), Err(InvalidPath::Form), "{bad:?}");
        }
    }
}
