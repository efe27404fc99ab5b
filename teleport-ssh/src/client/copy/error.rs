//! Why something was not copied.

use std::fmt;
use std::io;

use nix::errno::Errno;

use super::name::InvalidName;
use crate::sftp::SftpError;

/// Why something was not copied. The texts are for the user.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CopyError {
    /// A directory, and none was to be copied.
    #[error("it is a directory; say -r to copy it with all that is in it")]
    Directory,
    /// A file that has no length, and no end.
    #[error("it has no length and does not end")]
    Endless,
    /// This machine refuses.
    #[error("{}", Said(.0))]
    Local(io::Error),
    /// A name from a server that no file may have here.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// Something is there that is no directory.
    #[error("it is not a directory")]
    NotDirectory,
    /// A device, a pipe or a socket.
    #[error("it is not a regular file")]
    NotRegular,
    /// The server refuses.
    #[error(transparent)]
    Remote(#[from] SftpError),
    /// It ended early.
    #[error("it ended after {read} of {size} bytes")]
    Short {
        /// What came.
        read: u64,
        /// What should have come.
        size: u64,
    },
    /// Directories within each other without end, as links make them.
    #[error("directories are nested too deeply here; a link may lead back")]
    TooDeep,
    /// A directory that does not end.
    #[error("the directory has too many entries")]
    TooMany,
}

/// What the system says, without its number.
struct Said<'a>(&'a io::Error);

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.raw_os_error().map(Errno::from_raw) {
            None | Some(Errno::UnknownErrno) => write!(f, "{}", self.0),
            Some(errno) => f.write_str(errno.desc()),
        }
    }
}

impl From<io::Error> for CopyError {
    fn from(error: io::Error) -> Self {
        Self::Local(error)
    }
}

impl CopyError {
    /// Whether there is nothing of that name.
    pub(super) fn is_missing(&self) -> bool {
        match self {
            Self::Local(error) => error.kind() == io::ErrorKind::NotFound,
            Self::Remote(error) => error.is_missing(),
            _ => false,
        }
    }

    /// Whether nothing else will succeed on this side.
    pub(super) const fn is_final(&self) -> bool {
        matches!(self, Self::Remote(error) if error.is_final())
    }
}

/// What was not copied, and why.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {cause}")]
#[expect(clippy::exhaustive_structs, reason = "two things to say")]
pub struct CopyFailure {
    /// Which file: of a node with the node's name and a colon before it. What a terminal would obey is left out.
    pub path: String,
    /// Why.
    pub cause: CopyError,
}
