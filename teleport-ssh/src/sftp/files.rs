//! What requests do to files: each function one system call, or the few that the protocol's meaning takes.

use std::ffi::{OsStr, OsString};
use std::fs::{DirBuilder, File, FileTimes, Metadata, OpenOptions};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sys::stat::{FchmodatFlags, Mode, UtimensatFlags, fchmodat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{User, truncate};

use super::wire::{Attributes, OpenFlags};

/// Permissions, without the kind of file.
const PERMISSIONS: u32 = 0o7777;
/// How much of a file is copied on the server at a time, in bytes.
const COPIED_AT_ONCE: usize = 256 << 10;

pub(crate) fn path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

pub(crate) fn attributes(metadata: &Metadata) -> Attributes {
    // The protocol's times end in 2106.
    let seconds = |time: i64| u32::try_from(time.max(0)).unwrap_or(u32::MAX);
    Attributes {
        size: Some(metadata.size()),
        owner: Some((metadata.uid(), metadata.gid())),
        mode: Some(metadata.mode()),
        times: Some((seconds(metadata.atime()), seconds(metadata.mtime()))),
    }
}

pub(super) fn open(path: &Path, flags: OpenFlags, attributes: &Attributes) -> io::Result<File> {
    let (read, write) = (flags.has(OpenFlags::READ), flags.has(OpenFlags::WRITE));
    let create = flags.has(OpenFlags::CREATE);
    OpenOptions::new()
        // A request for neither is one for reading, as the system has it.
        .read(read || !write)
        .write(write)
        .mode(attributes.mode.map_or(0o666, |mode| mode & PERMISSIONS))
        .custom_flags(
            // What has no reader or writer yet would hold up all other requests.
            libc::O_NONBLOCK
                | libc::O_NOCTTY
                | if create { libc::O_CREAT } else { 0 }
                | if create && flags.has(OpenFlags::EXCLUSIVE) { libc::O_EXCL } else { 0 }
                | if flags.has(OpenFlags::TRUNCATE) { libc::O_TRUNC } else { 0 }
                | if flags.has(OpenFlags::APPEND) { libc::O_APPEND } else { 0 },
        )
        .open(path)
}

/// Writes all of it, at the offset, or at the end of a file that was opened for that.
pub(super) fn write(file: &File, offset: u64, data: &[u8]) -> io::Result<()> {
    file.write_all_at(data, offset)
}

/// Sets what is said, in the order of OpenSSH. Tries all, and tells the last failure.
pub(super) fn set(path: &Path, attributes: &Attributes) -> io::Result<()> {
    let size =
        attributes.size.map(|size| Ok(truncate(path, i64::try_from(size).map_err(|_| Errno::EFBIG)?)?));
    let mode = attributes
        .mode
        .map(|mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode & PERMISSIONS)));
    let times = attributes.times.map(|times| set_times(path, times, UtimensatFlags::FollowSymlink));
    let owner = attributes.owner.map(|(user, group)| std::os::unix::fs::chown(path, Some(user), Some(group)));
    last_failure([size, mode, times, owner])
}

/// As [`set`], of a link itself. A link has no size to be set.
pub(super) fn set_link(path: &Path, attributes: &Attributes) -> io::Result<()> {
    let size = attributes.size.map(|_| Err(Errno::EINVAL.into()));
    let mode = attributes.mode.map(|mode| {
        let mode = Mode::from_bits_truncate(mode & PERMISSIONS);
        Ok(fchmodat(AT_FDCWD, path, mode, FchmodatFlags::NoFollowSymlink)?)
    });
    let times = attributes.times.map(|times| set_times(path, times, UtimensatFlags::NoFollowSymlink));
    let owner =
        attributes.owner.map(|(user, group)| std::os::unix::fs::lchown(path, Some(user), Some(group)));
    last_failure([size, mode, times, owner])
}

/// As [`set`], of an open file.
pub(super) fn set_open(file: &File, attributes: &Attributes) -> io::Result<()> {
    let size = attributes.size.map(|size| file.set_len(size));
    let mode =
        attributes.mode.map(|mode| file.set_permissions(PermissionsExt::from_mode(mode & PERMISSIONS)));
    let times = attributes.times.map(|(accessed, modified)| {
        let at = |seconds: u32| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.into());
        file.set_times(FileTimes::new().set_accessed(at(accessed)).set_modified(at(modified)))
    });
    let owner =
        attributes.owner.map(|(user, group)| std::os::unix::fs::fchown(file, Some(user), Some(group)));
    last_failure([size, mode, times, owner])
}

fn set_times(path: &Path, (accessed, modified): (u32, u32), links: UtimensatFlags) -> io::Result<()> {
    let at = |seconds: u32| TimeSpec::new(seconds.into(), 0);
    Ok(utimensat(AT_FDCWD, path, &at(accessed), &at(modified), links)?)
}

fn last_failure(done: [Option<io::Result<()>>; 4]) -> io::Result<()> {
    done.into_iter().flatten().rfind(Result::is_err).unwrap_or(Ok(()))
}

pub(super) fn make_dir(path: &Path, attributes: &Attributes) -> io::Result<()> {
    DirBuilder::new().mode(attributes.mode.map_or(0o777, |mode| mode & PERMISSIONS)).create(path)
}

/// Renames, and never onto what is there.
pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE) {
        // A file system that cannot do it in one step.
        Err(Errno::EINVAL | Errno::ENOSYS) => {
            if to.symlink_metadata().is_ok() {
                return Err(Errno::EEXIST.into());
            }
            std::fs::rename(from, to)
        }
        done => Ok(done?),
    }
}

/// The path without links and dots. Its last part need not exist.
pub(super) fn real_path(path: &Path) -> io::Result<PathBuf> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    match path.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // A link to nowhere, or nothing there: `..` and `.` always are.
            let (Some(Component::Normal(name)), Some(parent)) =
                (path.components().next_back(), path.parent())
            else {
                return Err(error);
            };
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            Ok(parent.canonicalize()?.join(name))
        }
        done => done,
    }
}

/// The path with `~` and `~name` at its beginning replaced by home directories.
pub(super) fn expand(path: &[u8]) -> io::Result<PathBuf> {
    let Some(rest) = path.strip_prefix(b"~") else { return Ok(self::path(path).to_owned()) };
    let end = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
    let (user, rest) = rest.split_at(end);
    let rest =
        rest.iter().position(|byte| *byte != b'/').and_then(|from| rest.get(from..)).unwrap_or_default();
    Ok(home(user)?.join(self::path(rest)))
}

/// The home directory of a user, or of this process's user if the name is empty.
pub(super) fn home(user: &[u8]) -> io::Result<PathBuf> {
    let unknown = || io::Error::from(Errno::ENOENT);
    if user.is_empty() {
        // Of the session, which was set by whoever began it.
        if let Some(home) = std::env::var_os("HOME").filter(|home| !home.is_empty()) {
            return Ok(home.into());
        }
        return Ok(User::from_uid(nix::unistd::getuid())?.ok_or_else(unknown)?.dir);
    }
    let name = std::str::from_utf8(user).map_err(|_| unknown())?;
    Ok(User::from_name(name)?.ok_or_else(unknown)?.dir)
}

/// Copies between two open files: `length` bytes, or to the end if that is zero.
pub(super) fn copy(from: (&File, u64), length: u64, to: (&File, u64)) -> io::Result<()> {
    let ((source, mut from), (target, mut to)) = (from, to);
    let mut left = match (length, source.metadata()?.size()) {
        // As long as it is now: it may be the target too, and grow.
        (0, size @ 1..) => size.saturating_sub(from),
        (0, 0) => u64::MAX,
        (length, _) => length,
    };
    let mut buffer = vec![0; COPIED_AT_ONCE];
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let Some(piece) = buffer.get_mut(..most) else { break };
        let read = source.read_at(piece, from)?;
        let Some(piece) = piece.get(..read).filter(|piece| !piece.is_empty()) else { break };
        target.write_all_at(piece, to)?;
        let read = read as u64;
        (from, to, left) = (from + read, to + read, left - read);
    }
    Ok(())
}

/// Bytes of a path, for the wire.
pub(super) fn bytes(path: PathBuf) -> Vec<u8> {
    OsString::from(path).into_vec()
}

/// The present, in seconds since 1970, for what a listing shows of old files.
#[expect(clippy::disallowed_methods, reason = "compared with the times of files, which the same clock made")]
pub(super) fn now() -> i64 {
    let elapsed = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    i64::try_from(elapsed.as_secs()).unwrap_or(i64::MAX)
}
