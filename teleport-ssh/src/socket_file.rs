//! Sockets in the file system, which go with whoever has made them.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

/// Connections that wait to be accepted, as OpenSSH has it.
const BACKLOG: i32 = 128;

/// The file of a socket. Dropping it removes it, unless something else lies there by then. To be dropped before the socket itself: as
/// long as that is open, no other file has its number.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    /// Of its device, and its own.
    number: (u64, u64),
}

impl SocketFile {
    /// Of a socket that was bound to `path` a moment ago.
    ///
    /// # Errors
    /// When it is gone.
    pub(crate) fn at(path: PathBuf) -> io::Result<Self> {
        let number = number(&path)?;
        Ok(Self { path, number })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if number(&self.path).is_ok_and(|there| there == self.number) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn number(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = path.symlink_metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Listens at `path`, where nothing is, for this user alone; without waiting.
///
/// # Errors
/// The system's, among them that something is there.
pub(crate) fn listen(path: &Path) -> io::Result<(SocketFile, UnixListener)> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let file = SocketFile::at(path.to_owned())?;
    // Before anybody can connect.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok((file, UnixListener::from(OwnedFd::from(socket))))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn what_was_made_goes_and_what_others_put_there_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let (file, _listener) = listen(&path).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        assert!(listen(&path).is_err(), "what is there is not replaced");
        assert!(path.exists(), "nor removed");
        drop(file);
        assert!(!path.exists());
        let (first, _listens) = listen(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let (second, _too) = listen(&path).unwrap();
        drop(first);
        assert!(path.exists(), "another one's");
        drop(second);
        assert!(!path.exists());
    }
}
