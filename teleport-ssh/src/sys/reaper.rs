//! Reaps processes whose [`Child`](super::child::Child) was dropped before their end.
//!
//! Such a process has been sent `SIGKILL`, so it ends soon, but not always at once (it may sit in an
//! uninterruptible read of a dead network disk). Waiting in a destructor would block a runtime thread, and a
//! task could not be spawned while the runtime itself is shutting down. So one thread of its own, started at
//! the first need, waits for all of them in one `poll`.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// What the destructors and the thread share.
struct Orphans {
    /// Handed over, not yet seen by the thread.
    waiting: Vec<OwnedFd>,
    /// Wakes the thread; `None` until it runs.
    wake: Option<UnixStream>,
}

static ORPHANS: Mutex<Orphans> = Mutex::new(Orphans { waiting: Vec::new(), wake: None });

/// Takes over the duty to reap the process behind this pidfd. Does not block, unless not even a thread can be
/// started, in which case waiting here is what remains.
pub(super) fn adopt(process: OwnedFd) {
    if reap(&process, libc::WNOHANG) {
        return;
    }
    let mut orphans = ORPHANS.lock().unwrap_or_else(PoisonError::into_inner);
    if orphans.wake.is_none() {
        orphans.wake = start().ok();
    }
    let Orphans { waiting, wake } = &mut *orphans;
    if let Some(wake) = wake {
        waiting.push(process);
        // A full buffer means that the thread has been woken already.
        let _ = wake.write(&[0]);
    } else {
        drop(orphans);
        reap(&process, 0);
    }
}

fn start() -> io::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    theirs.set_nonblocking(true)?;
    std::thread::Builder::new().name("reaper".to_owned()).stack_size(64 * 1024).spawn(move || run(theirs))?;
    Ok(ours)
}

fn run(mut woken: UnixStream) {
    let mut processes: Vec<OwnedFd> = Vec::new();
    loop {
        let mut watched: Vec<PollFd<'_>> = vec![PollFd::new(woken.as_fd(), PollFlags::POLLIN)];
        watched.extend(processes.iter().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)));
        // A signal may interrupt it; then the round below finds nothing to do.
        let _ = poll(&mut watched, PollTimeout::NONE);
        while matches!(woken.read(&mut [0; 256]), Ok(count) if count > 0) {}
        processes.append(&mut ORPHANS.lock().unwrap_or_else(PoisonError::into_inner).waiting);
        processes.retain(|process| !reap(process, libc::WNOHANG));
    }
}

/// Whether nothing is left to reap.
fn reap(process: &OwnedFd, flags: i32) -> bool {
    loop {
        // SAFETY: a zeroed siginfo is valid, and the kernel writes one to where there is room for one.
        let (answer, pid) = unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            // A pidfd is never negative.
            let id = process.as_raw_fd().unsigned_abs();
            (libc::waitid(libc::P_PIDFD, id, &raw mut info, libc::WEXITED | flags), info.si_pid())
        };
        if answer == 0 {
            return pid != 0;
        }
        // Any other error says that it is no longer our child.
        if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return true;
        }
    }
}
