//! The daemon's side: a process of the user is started and gives a socket back.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::socket::{SockType, UnixAddr, getsockname, getsockopt, sockopt};
use tokio::io::Interest;
use tokio::net::UnixStream;

use super::Task;
use crate::sys::child::Child;
use crate::sys::pass;
use crate::sys::spawn::{Command, SpawnError};

/// The answer's first byte: a descriptor comes with it, and the path of what was made follows.
pub(super) const DONE: u8 = 0;
/// The answer's first byte: the number of an error follows.
pub(super) const FAILED: u8 = 1;

/// How long the user's process may take. A file system that does not answer holds it up.
const LIMIT: Duration = Duration::from_secs(10);
/// The longest answer.
const MAX_ANSWER: usize = 256;

/// Why no socket was opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("the process that opens it cannot be started")]
    Start(#[from] SpawnError),
    #[error(transparent)]
    System(#[from] io::Error),
}

/// Keeps what was made. It is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Keeper {
    child: Option<Child>,
    _control: UnixStream,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // It ends by itself now, and removes what it has made.
        if let Some(child) = self.child.take() {
            child.let_go();
        }
    }
}

/// Opens a socket by the process that `start` makes of these arguments. Gives the descriptor, the path if something was made, and what
/// keeps it. Dropping the future leaves nothing behind.
pub(crate) async fn open(
    task: &Task,
    start: impl FnOnce(Vec<Vec<u8>>) -> Result<Command, SpawnError>,
) -> Result<(OwnedFd, PathBuf, Keeper), OpenError> {
    let (control, theirs) = UnixStream::pair()?;
    let theirs = theirs.into_std()?;
    theirs.set_nonblocking(false)?;
    let child = start(task.arguments())?.spawn_with(theirs.into()).await?;
    let mut keeper = Keeper { child: Some(child), _control: control };
    let mut answer = [0; MAX_ANSWER];
    let control = &keeper._control;
    let receiving = control.async_io(Interest::READABLE, || pass::receive(control, &mut answer));
    let received = match tokio::time::timeout(LIMIT, receiving).await {
        Ok(received) => received?,
        Err(_) => {
            // Dropped, and so killed.
            keeper.child = None;
            return Err(io::Error::from(io::ErrorKind::TimedOut).into());
        }
    };
    let broken = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let (length, descriptor) = received;
    match answer.get(..length) {
        Some([DONE, path @ ..]) => {
            let path = std::ffi::OsString::from_vec(path.to_vec()).into();
            let socket = descriptor.ok_or_else(broken)?;
            // It comes from a process of the user: nothing else may get among the descriptors that the daemon waits for.
            match is_socket(&socket, !matches!(task, Task::Connect(_))) {
                Ok(true) => Ok((socket, path, keeper)),
                _ => Err(broken().into()),
            }
        }
        Some([FAILED, code @ ..]) => {
            let code = code.try_into().map_err(|_| broken())?;
            Err(io::Error::from_raw_os_error(i32::from_be_bytes(code)).into())
        }
        _ => Err(broken().into()),
    }
}

/// Whether it is a stream socket of the file system's family, and listens or does not.
fn is_socket(descriptor: &OwnedFd, listens: bool) -> nix::Result<bool> {
    let is_stream = getsockopt(descriptor, sockopt::SockType)? == SockType::Stream;
    // Fails for other families.
    let _: UnixAddr = getsockname(descriptor.as_raw_fd())?;
    Ok(is_stream && getsockopt(descriptor, sockopt::AcceptConn)? == listens)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use std::net::TcpListener;
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

    use super::is_socket;

    #[test]
    fn only_what_was_asked_for_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("socket")).unwrap().into();
        let stream = UnixStream::pair().unwrap().0.into();
        for (descriptor, listens) in [(&listener, true), (&stream, false)] {
            assert_eq!(is_socket(descriptor, listens), Ok(true));
            assert_eq!(is_socket(descriptor, !listens), Ok(false));
        }
        let file = tempfile::tempfile().unwrap();
        for other in [
            file.into(),
            TcpListener::bind("127.0.0.1:0").unwrap().into(),
            UnixDatagram::unbound().unwrap().into(),
        ] {
            for listens in [true, false] {
                assert!(!is_socket(&other, listens).is_ok_and(|is_one| is_one));
            }
        }
    }
}
