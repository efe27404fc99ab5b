//! The user's side: one socket is opened, passed on, and removed in the end.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::{Mode, umask};
use nix::unistd::mkdtemp;

use super::Task;
use super::client::{DONE, FAILED};
use crate::socket_file::SocketFile;
use crate::sys::ids::Ids;
use crate::sys::pass;

/// Where directories for agents are made.
const AGENTS: &str = "/tmp/ssh-XXXXXXXXXX";
/// The socket in them.
const AGENT: &str = "agent";

/// Takes the ids that `arguments` begin with, opens the socket that they ask for, and passes it to whoever has the other end of standard input. Returns when that is
/// let go of, and everything that was made is removed.
///
/// For the process that a node starts for a user; see [`OsSessions`](crate::session::OsSessions).
///
/// # Errors
/// When there is nobody to pass it to.
pub fn serve(arguments: impl IntoIterator<Item = OsString>) -> io::Result<()> {
    let mut arguments = arguments.into_iter();
    // Whoever may attach to this process could pass something else on, or keep a copy of what is.
    Ids::parse(&arguments.next().unwrap_or_default()).ok_or(io::ErrorKind::InvalidInput)?.take()?;
    let arguments: Vec<OsString> = arguments.collect();
    // The daemon's service may be ended by signals to all that it has started. What was made must be removed all the same: standard
    // input ends with the daemon.
    let held: SigSet = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
    held.thread_block()?;
    let mut daemon = io::stdin().lock();
    let task = Task::parse(&arguments).ok_or(io::ErrorKind::InvalidInput)?;
    let (socket, made) = match open(&task) {
        Ok(opened) => opened,
        Err(error) => {
            let code = error.raw_os_error().unwrap_or(libc::EIO).to_be_bytes();
            return pass::send(daemon.as_fd(), &[&[FAILED][..], &code].concat(), None);
        }
    };
    let path = made.as_ref().map(|made| made.file.path().as_os_str().as_bytes()).unwrap_or_default();
    pass::send(daemon.as_fd(), &[&[DONE][..], path].concat(), Some(socket.as_fd()))?;
    if made.is_some() {
        // However it ends.
        while daemon.read(&mut [0; 64]).is_ok_and(|read| read > 0) {}
    }
    // In this order.
    drop(made);
    drop(socket);
    Ok(())
}

fn open(task: &Task) -> io::Result<(OwnedFd, Option<Made>)> {
    match task {
        Task::Agent => {
            umask(Mode::from_bits_truncate(0o077));
            let dir = Directory(mkdtemp(AGENTS)?);
            listen(dir.0.join(AGENT), Some(dir))
        }
        Task::Connect(path) => Ok((UnixStream::connect(path.as_path())?.into(), None)),
        Task::Listen(path) => listen(path.as_path().to_owned(), None),
    }
}

/// What is there already is not replaced.
fn listen(path: PathBuf, dir: Option<Directory>) -> io::Result<(OwnedFd, Option<Made>)> {
    // And not afterwards by the path, at which something else may lie by then.
    umask(Mode::from_bits_truncate(0o177));
    let listener = UnixListener::bind(&path)?;
    Ok((listener.into(), Some(Made { file: SocketFile::at(path)?, _dir: dir })))
}

/// What is removed in the end, in this order.
struct Made {
    file: SocketFile,
    _dir: Option<Directory>,
}

struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}
