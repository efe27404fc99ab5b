//! How failures of the system are told.

use std::borrow::Cow;
use std::io;

use nix::errno::Errno;

use super::wire::Code;

/// A failure as the client hears it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) code: Code,
    pub(super) text: Cow<'static, str>,
}

impl Failure {
    pub(super) const EOF: Self = Self::new(Code::Eof, "End of file");
    pub(super) const HANDLE: Self = Self::new(Code::Failure, "no such handle is open");
    pub(super) const UNSUPPORTED: Self = Self::new(Code::Unsupported, "Operation unsupported");
    pub(super) const MALFORMED: Self = Self::new(Code::BadMessage, "Bad message");

    pub(super) const fn new(code: Code, text: &'static str) -> Self {
        Self { code, text: Cow::Borrowed(text) }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let errno = error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw);
        // As OpenSSH's server maps them: clients act on the codes.
        let code = match errno {
            Errno::ENOENT | Errno::ENOTDIR | Errno::EBADF | Errno::ELOOP => Code::NoSuchFile,
            Errno::EPERM | Errno::EACCES | Errno::EFAULT => Code::PermissionDenied,
            Errno::ENAMETOOLONG | Errno::EINVAL => Code::BadMessage,
            Errno::ENOSYS | Errno::EOPNOTSUPP => Code::Unsupported,
            // Such as a name with a zero in it, which never reached the system.
            Errno::UnknownErrno if error.kind() == io::ErrorKind::InvalidInput => Code::BadMessage,
            _ => Code::Failure,
        };
        let text = match errno {
            Errno::UnknownErrno => error.to_string().into(),
            errno => errno.desc().into(),
        };
        Self { code, text }
    }
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        io::Error::from(errno).into()
    }
}
