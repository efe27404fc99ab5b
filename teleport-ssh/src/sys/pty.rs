//! Pseudo-terminals.

use std::ffi::{c_int, c_uint};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context, Poll, ready};

use nix::sys::stat::{Mode, fchmod, fstat};
use nix::unistd::{Gid, Group, Uid, fchown};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::accounts::Account;
use super::host;
use super::modes::TerminalModes;

/// A read of fewer bytes than this has emptied the terminal, as far as guessing is worth it.
const FULL_READ: usize = 1024;

/// The size of a terminal's window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WindowSize {
    /// Width in characters.
    pub columns: u16,
    /// Height in characters.
    pub rows: u16,
    /// Width in pixels; zero if unknown.
    pub width: u16,
    /// Height in pixels; zero if unknown.
    pub height: u16,
}

impl WindowSize {
    /// A size from what a client sends: columns, rows, and pixels, each cut to what a terminal can hold.
    /// Without columns or rows, the usual 80 by 25.
    #[must_use]
    pub fn from_client(columns: u32, rows: u32, width: u32, height: u32) -> Self {
        let cut = |value: u32| u16::try_from(value).unwrap_or(u16::MAX);
        let or = |value: u32, default| if value == 0 { default } else { cut(value) };
        Self { columns: or(columns, 80), rows: or(rows, 25), width: cut(width), height: cut(height) }
    }

    fn to_kernel(self) -> libc::winsize {
        libc::winsize {
            ws_row: self.rows,
            ws_col: self.columns,
            ws_xpixel: self.width,
            ws_ypixel: self.height,
        }
    }
}

impl Default for WindowSize {
    /// 80 by 25, pixels unknown.
    fn default() -> Self {
        Self::from_client(0, 0, 0, 0)
    }
}

/// Both sides of a new pseudo-terminal, before a process is started on it.
#[derive(Debug)]
pub struct Pty {
    master: OwnedFd,
    slave: OwnedFd,
    device: PathBuf,
}

/// The server's side of a terminal with a process on it.
///
/// Reading gives what the process prints and ends when the last process has closed the terminal; writing is
/// typing. Closing it (dropping it, or both halves) hangs up.
#[derive(Debug)]
pub struct PtyMaster {
    fd: Arc<AsyncFd<OwnedFd>>,
}

/// A handle to change a terminal's size from elsewhere; it does not keep the terminal open.
#[derive(Clone, Debug)]
pub struct PtyControl(Weak<AsyncFd<OwnedFd>>);

/// The half of a [`PtyMaster`] that reads what the processes print. Reads are cancel safe.
#[derive(Debug)]
pub struct PtyReader(PtyMaster);

/// The half of a [`PtyMaster`] that types. Single writes are cancel safe.
#[derive(Debug)]
pub struct PtyWriter(PtyMaster);

impl Pty {
    /// Makes a pseudo-terminal that belongs to the account: owner the user, group `tty`, mode 0620.
    ///
    /// All changes are made through descriptors, never by path, so that nobody can put something else in
    /// their way. Does not block, except that the first call may read the group database.
    ///
    /// # Errors
    /// When the system has no terminal left, or ownership cannot be set.
    pub fn open(account: &Account, size: WindowSize, modes: &TerminalModes) -> io::Result<Self> {
        // SAFETY: takes flags only; the answer is checked before it becomes an owned descriptor.
        let master = unsafe {
            owned(libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC | libc::O_NONBLOCK))?
        };
        let (unlock, mut number): (c_int, c_uint) = (0, 0);
        // SAFETY: the request reads one int, which lives across the call.
        check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlock) })?;
        // SAFETY: the request writes one unsigned int, which lives across the call.
        check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTN, &raw mut number) })?;
        // SAFETY: the request takes flags and answers with a new descriptor that nobody else owns. Opening
        // the peer of this very master, not a path, is safe in any mount namespace.
        let slave = unsafe {
            let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
            owned(libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags))?
        };
        give_to(slave.as_fd(), account)?;
        change_settings(slave.as_fd(), modes)?;
        resize(master.as_fd(), size)?;
        Ok(Self { master, slave, device: PathBuf::from(format!("/dev/pts/{number}")) })
    }

    /// The path of the terminal's device, for `SSH_TTY`.
    #[must_use]
    pub fn device(&self) -> &Path {
        &self.device
    }

    /// The two sides: the server's, and the one for the process.
    pub(crate) fn into_parts(self) -> (OwnedFd, OwnedFd) {
        (self.master, self.slave)
    }
}

impl PtyMaster {
    /// Registers the master with the runtime; it is non-blocking already.
    pub(crate) fn new(master: OwnedFd) -> io::Result<Self> {
        // SAFETY: an owned descriptor, which stays in its place until the `AsyncFd` closes it.
        Ok(Self { fd: Arc::new(unsafe { AsyncFd::register(master)? }) })
    }

    /// Tells the terminal its new size; its foreground processes get `SIGWINCH`.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn resize(&self, size: WindowSize) -> io::Result<()> {
        resize(self.fd.get_ref().as_fd(), size)
    }

    /// A handle to change the size, once the halves have gone their ways.
    #[must_use]
    pub fn control(&self) -> PtyControl {
        PtyControl(Arc::downgrade(&self.fd))
    }

    /// Two halves for two tasks.
    #[must_use]
    pub fn into_split(self) -> (PtyReader, PtyWriter) {
        (PtyReader(Self { fd: Arc::clone(&self.fd) }), PtyWriter(self))
    }

    /// Fills as much of the buffer as there is output for: the kernel hands out at most 4 KiB at a time, and
    /// what is read together can be encrypted and sent together.
    fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.fd.poll_read_ready(cx))?;
            match ready.try_io(|fd| read_into(fd.as_raw_fd(), buffer)) {
                Ok(Ok(mut count)) => {
                    // Not by way of the readiness, which the runtime may deny for fairness when bytes have
                    // been taken already. What ends this is still so at the next call.
                    while count >= FULL_READ && buffer.remaining() > 0 {
                        count = read_into(self.fd.as_raw_fd(), buffer).unwrap_or(0);
                    }
                    return Poll::Ready(Ok(()));
                }
                // So the kernel says that the last process has closed the terminal.
                Ok(Err(error)) if error.raw_os_error() == Some(libc::EIO) => return Poll::Ready(Ok(())),
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.fd.poll_write_ready(cx))?;
            match ready.try_io(|fd| nix::unistd::write(fd, bytes).map_err(io::Error::from)) {
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(answer) => return Poll::Ready(answer),
                Err(_would_block) => {}
            }
        }
    }
}

impl PtyControl {
    /// Tells the terminal its new size; its foreground processes get `SIGWINCH`.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn resize(&self, size: WindowSize) -> io::Result<()> {
        let fd = self.0.upgrade().ok_or(io::ErrorKind::NotConnected)?;
        resize(fd.get_ref().as_fd(), size)
    }
}

impl AsyncRead for PtyReader {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.0.poll_read(cx, buffer)
    }
}

impl AsyncWrite for PtyWriter {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// A terminal has no half-close; the end of input is typed (`VEOF`). Does nothing.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Owner, group and mode of the process's side. Members of `tty` may write to it (`write`, `wall`); where
/// the group does not exist or cannot be set, nobody else may.
fn give_to(slave: BorrowedFd<'_>, account: &Account) -> io::Result<()> {
    let now = fstat(slave)?;
    let (uid, gid) = (account.uid, tty_group().unwrap_or(account.gid));
    let mut group_is_tty = tty_group().is_some();
    if now.st_uid != uid || now.st_gid != gid {
        match fchown(slave, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))) {
            Ok(()) => {}
            // A daemon that is not root owns the terminal already, and may not choose its group.
            Err(_) if !host::is_root() && now.st_uid == uid => group_is_tty = false,
            Err(error) => return Err(error.into()),
        }
    }
    let mode = if group_is_tty { 0o620 } else { 0o600 };
    if now.st_mode & 0o7777 != mode {
        fchmod(slave, Mode::from_bits_truncate(mode))?;
    }
    Ok(())
}

fn tty_group() -> Option<u32> {
    static TTY: OnceLock<Option<u32>> = OnceLock::new();
    *TTY.get_or_init(|| Group::from_name("tty").ok().flatten().map(|group| group.gid.as_raw()))
}

fn change_settings(slave: BorrowedFd<'_>, modes: &TerminalModes) -> io::Result<()> {
    let mut settings = MaybeUninit::<libc::termios>::uninit();
    // SAFETY: writes one termios to where there is room for one.
    check(unsafe { libc::tcgetattr(slave.as_raw_fd(), settings.as_mut_ptr()) })?;
    // SAFETY: the call has succeeded, so it has filled the structure.
    let mut settings = unsafe { settings.assume_init() };
    modes.apply(&mut settings);
    // SAFETY: reads one termios that we own.
    check(unsafe { libc::tcsetattr(slave.as_raw_fd(), libc::TCSANOW, &raw const settings) })?;
    Ok(())
}

fn resize(master: BorrowedFd<'_>, size: WindowSize) -> io::Result<()> {
    let size = size.to_kernel();
    // SAFETY: the request reads one winsize, which lives across the call.
    check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) })?;
    Ok(())
}

fn read_into(fd: c_int, buffer: &mut ReadBuf<'_>) -> io::Result<usize> {
    // SAFETY: the slice is only handed to `read`, which writes into it and never takes from it.
    let room = unsafe { buffer.unfilled_mut() };
    // SAFETY: the pointer and the length describe memory that is ours to write.
    let count = unsafe { libc::read(fd, room.as_mut_ptr().cast(), room.len()) };
    let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
    // SAFETY: `read` has initialised the first `count` bytes.
    unsafe { buffer.assume_init(count) };
    buffer.advance(count);
    Ok(count)
}

fn check(answer: c_int) -> io::Result<c_int> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

/// # Safety
/// The number is a negative error answer, or a descriptor that nobody else owns.
unsafe fn owned(answer: c_int) -> io::Result<OwnedFd> {
    let answer = check(answer)?;
    // SAFETY: not negative, and by the caller's promise ours alone.
    Ok(unsafe { OwnedFd::from_raw_fd(answer) })
}
