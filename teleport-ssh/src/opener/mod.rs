//! Sockets in the file system, opened by a process of the user.
//!
//! Whether a socket may be connected to, made or removed at a path, whose it is then, and who the other side sees (`SO_PEERCRED`) are
//! questions that the kernel answers by the process that asks. So a process of the user asks: the daemon's own program with a hidden
//! command, started without anything of the client's. It begins as the daemon's user and becomes the user's by itself
//! (`sys::ids`), so that no other process of the user can attach to it. It opens one socket, passes the descriptor back over its standard input, and
//!
//! * ends, if it has connected;
//! * stays until the daemon lets go of it, if it listens, and then removes what it has made, as the user. It stays as well when the
//!   daemon dies: then it removes it at once, for its standard input ends.
//!
//! A thread of the daemon with other ids would be faster by a millisecond. Whoever has a thread's real id may signal the whole process,
//! with the file system's id alone the other side would see root, and a mistake of ours in either would be root's. Nothing is ever made by
//! root and given away by its path.

mod client;
mod serve;

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

pub(crate) use self::client::{Keeper, OpenError, open};
pub use self::serve::serve;
use crate::session::SocketPath;

/// What is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// A socket that listens in a new directory, for the user alone.
    Agent,
    /// A connection to a socket.
    Connect(SocketPath),
    /// A socket that listens, for the user alone.
    Listen(SocketPath),
}

impl Task {
    /// The arguments that say so.
    fn arguments(&self) -> Vec<Vec<u8>> {
        let bytes = |path: &SocketPath| path.as_path().as_os_str().as_bytes().to_vec();
        match self {
            Self::Agent => vec![b"agent".to_vec()],
            Self::Connect(path) => vec![b"connect".to_vec(), bytes(path)],
            Self::Listen(path) => vec![b"listen".to_vec(), bytes(path)],
        }
    }

    /// What the arguments say.
    fn parse(arguments: &[OsString]) -> Option<Self> {
        match arguments {
            [what] if what == "agent" => Some(Self::Agent),
            [what, path] if what == "connect" => SocketPath::new(path).ok().map(Self::Connect),
            [what, path] if what == "listen" => SocketPath::new(path).ok().map(Self::Listen),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    #[test]
    fn a_task_is_read_as_it_was_written() {
        let path = SocketPath::new("/tmp/-x y\n").unwrap();
        for task in [Task::Agent, Task::Connect(path.clone()), Task::Listen(path)] {
            let arguments: Vec<_> = task.arguments().into_iter().map(OsString::from_vec).collect();
            assert_eq!(Task::parse(&arguments), Some(task));
        }
        for bad in [&["agent", "/x"][..], &["connect"], &["listen", "x"], &["listen", "/x", "/y"], &[]] {
            assert_eq!(Task::parse(&bad.iter().map(OsString::from).collect::<Vec<_>>()), None, "{bad:?}");
        }
    }
}
