//! Sockets of the operating system's users.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::task::{Context, Poll};

use async_trait::async_trait;
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};

use super::Program;
use crate::opener::{self, Keeper, OpenError, Task};
use crate::session::{MadeSocket, SocketPath, Sockets};
use crate::sys::accounts::Account;
use crate::sys::ids::Ids;
use crate::sys::owner;
use crate::sys::spawn::Command;

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 128;

/// Sockets of an account.
#[derive(Debug)]
pub(super) struct OsSockets {
    account: Account,
    opener: Option<Program>,
}

impl OsSockets {
    pub(super) const fn new(account: Account, opener: Option<Program>) -> Self {
        Self { account, opener }
    }

    /// Has a process of the account open a socket.
    async fn open(&self, task: Task) -> io::Result<(OwnedFd, PathBuf, Keeper)> {
        let (program, arguments) = self.opener.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        let start = |task: Vec<Vec<u8>>| {
            let ids = Ids::of(&self.account).to_argument();
            Command::trusted(&self.account, program, arguments.iter().cloned().chain([ids]).chain(task))
        };
        opener::open(&task, start).await.map_err(|error| match error {
            OpenError::System(error) => error,
            other => io::Error::other(other),
        })
    }

    async fn listen(&self, task: Task) -> io::Result<MadeSocket> {
        let (socket, path, keeper) = self.open(task).await?;
        let listener = std::os::unix::net::UnixListener::from(socket);
        listener.set_nonblocking(true)?;
        Ok(MadeSocket::new(UnixListener::from_std(listener)?, path, keeper))
    }
}

#[async_trait]
impl Sockets for OsSockets {
    fn tcp(&self, address: SocketAddr) -> io::Result<TcpSocket> {
        owner::of(&self.account, || match address {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        })
    }

    fn listen_tcp(&self, address: SocketAddr) -> io::Result<TcpListener> {
        let socket = self.tcp(address)?;
        // What has just ended on the port does not stand against it; what listens there does.
        socket.set_reuseaddr(true)?;
        if address.is_ipv6() {
            nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::Ipv6V6Only, &true)?;
        }
        socket.bind(address)?;
        socket.listen(BACKLOG)
    }

    fn poll_accept(
        &self,
        listener: &TcpListener,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        owner::of(&self.account, || listener.poll_accept(cx))
    }

    fn is_root(&self) -> bool {
        self.account.uid == 0
    }

    async fn connect_unix(&self, path: &SocketPath) -> io::Result<UnixStream> {
        let (socket, _, _ended) = self.open(Task::Connect(path.clone())).await?;
        let stream = std::os::unix::net::UnixStream::from(socket);
        stream.set_nonblocking(true)?;
        UnixStream::from_std(stream)
    }

    async fn listen_unix(&self, path: &SocketPath) -> io::Result<MadeSocket> {
        self.listen(Task::Listen(path.clone())).await
    }

    async fn listen_agent(&self) -> io::Result<MadeSocket> {
        self.listen(Task::Agent).await
    }
}
