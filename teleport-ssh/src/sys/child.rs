//! A running process of a user: its end, and signals to it.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::reaper;
use super::signal::Signal;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exit {
    /// It ended by itself, with this code (0 to 255).
    Code(u8),
    /// A signal ended it.
    Signal {
        /// Which.
        signal: Signal,
        /// Whether the kernel wrote a core file.
        core_dumped: bool,
    },
}

/// A process that this program started and must reap, the leader of its own session and process group.
///
/// Dropping it before its end kills its process group at once and leaves the reaping to a thread in the
/// background: no zombie stays, whatever happens to the task that held it. For a polite end use
/// [`terminate`](Self::terminate).
#[derive(Debug)]
pub struct Child {
    pid: i32,
    /// `None` only while being dropped.
    process: Option<AsyncFd<OwnedFd>>,
    exit: Option<Exit>,
}

impl Child {
    /// # Errors
    /// When the runtime cannot watch the process, which is then killed and reaped.
    pub(super) fn new(pid: i32, pidfd: OwnedFd) -> io::Result<Self> {
        // SAFETY: an owned descriptor, which stays in its place until the `AsyncFd` gives it back.
        match unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) } {
            Ok(process) => Ok(Self { pid, process: Some(process), exit: None }),
            Err(error) => {
                let (pidfd, cause) = error.into_parts();
                let _ = kill(-pid, Signal::KILL);
                reaper::adopt(pidfd);
                Err(cause)
            }
        }
    }

    /// The process id, which is also the id of its session and process group. Only for display: the number
    /// may belong to another process once this one has been waited for.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Waits for the end and reaps the process. Cancel safe; later calls answer the same.
    ///
    /// Other processes of the group may live on, as they do under any sshd; see
    /// [`terminate`](Self::terminate).
    ///
    /// # Errors
    /// When the kernel will not tell, because something else in this program has reaped the process.
    pub async fn wait(&mut self) -> io::Result<Exit> {
        self.ended(0).await
    }

    /// Sends a signal to every process of the group. Does nothing once the process has been waited for,
    /// because the number of the group may then be another's.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn signal_group(&self, signal: Signal) -> io::Result<()> {
        if self.exit.is_some() {
            return Ok(());
        }
        kill(-self.pid, signal)
    }

    /// Ends the process group: hang-up, up to `grace` for the process to end, then kill for all that is left
    /// of its group; the process is then reaped.
    ///
    /// Cancel safe in that a dropped call has only done the first part of this. Processes that have moved
    /// to other groups or sessions are not touched; a terminal's hang-up reaches the foreground one of them.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub async fn terminate(&mut self, grace: Duration) -> io::Result<Exit> {
        if let Some(exit) = self.exit {
            return Ok(exit);
        }
        // A daemon that is not root may not signal what has become another user's; the rest still ends.
        let _ = self.signal_group(Signal::HUP);
        // A stopped process would not see the hang-up.
        let _ = self.signal_group(Signal::from_number(libc::SIGCONT));
        // Not reaped yet: as long as its leader is a zombie, the group's number is nobody else's.
        let _ = tokio::time::timeout(grace, self.ended(libc::WNOWAIT)).await;
        let _ = self.signal_group(Signal::KILL);
        self.wait().await
    }

    /// Lets it end by itself, and leaves the reaping to a thread in the background.
    pub(crate) fn let_go(mut self) {
        if let Some(process) = self.process.take() {
            reaper::adopt(process.into_inner());
        }
    }

    async fn ended(&mut self, flags: i32) -> io::Result<Exit> {
        if let Some(exit) = self.exit {
            return Ok(exit);
        }
        let Some(process) = &self.process else { return Err(io::ErrorKind::NotFound.into()) };
        let exit = loop {
            let mut ready = process.readable().await?;
            if let Some(exit) = look(process.get_ref(), flags)? {
                break exit;
            }
            ready.clear_ready();
        };
        if flags & libc::WNOWAIT == 0 {
            self.exit = Some(exit);
        }
        Ok(exit)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let Some(process) = self.process.take() else { return };
        if self.exit.is_none() {
            let _ = kill(-self.pid, Signal::KILL);
            reaper::adopt(process.into_inner());
        }
    }
}

/// Asks for the end without waiting; `None` while the process runs.
pub(super) fn look(process: &OwnedFd, flags: i32) -> io::Result<Option<Exit>> {
    // SAFETY: a zeroed siginfo is valid, and the kernel writes one to where there is room for one.
    let info = unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let id = process.as_raw_fd().unsigned_abs();
        let flags = libc::WEXITED | libc::WNOHANG | flags;
        if libc::waitid(libc::P_PIDFD, id, &raw mut info, flags) != 0 {
            return Err(io::Error::last_os_error());
        }
        info
    };
    // SAFETY: for `waitid` these fields are always filled, with zeros if there is nothing to tell.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    if pid == 0 {
        return Ok(None);
    }
    Ok(Some(match info.si_code {
        libc::CLD_KILLED | libc::CLD_DUMPED => Exit::Signal {
            signal: Signal::from_number(status),
            core_dumped: info.si_code == libc::CLD_DUMPED,
        },
        _ => {
            let [low, ..] = status.to_le_bytes();
            Exit::Code(low)
        }
    }))
}

/// `kill`, where a target that has just ended is no error.
pub(super) fn kill(target: i32, signal: Signal) -> io::Result<()> {
    // SAFETY: takes two numbers.
    if unsafe { libc::kill(target, signal.number()) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::ESRCH) { Ok(()) } else { Err(error) }
}
