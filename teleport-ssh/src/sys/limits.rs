//! Limits that the daemon changes for itself and must not hand down to its users' processes.

use std::io;
use std::sync::OnceLock;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// A pair of soft and hard limit.
pub(super) type Limit = (u64, u64);

static OPEN_FILES: OnceLock<Limit> = OnceLock::new();
static CORE_SIZE: OnceLock<Limit> = OnceLock::new();

/// Raises the soft limit of open files to the hard one and answers the limit that now holds.
///
/// A node holds several descriptors per session, and the usual soft limit of 1024 exists only for programs
/// that use `select`. Processes started through [`spawn`](super::spawn) get the original limit back.
///
/// # Errors
/// When the kernel refuses; the old limit then still holds.
pub fn raise_nofile_limit() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let _ = OPEN_FILES.set((soft, hard));
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}

/// How many files this process may have open, if the kernel says so.
pub(crate) fn open_files() -> Option<u64> {
    getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| soft)
}

/// Keeps the memory of this process, and so its private keys, out of core files and away from debuggers of
/// the same user. Processes started through [`spawn`](super::spawn) get the original limit back.
///
/// # Errors
/// When the kernel refuses one of the two steps.
pub fn disable_core_dumps() -> io::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_CORE)?;
    let _ = CORE_SIZE.set((soft, hard));
    // The hard limit stays: an unprivileged daemon could not give it back to its children.
    setrlimit(Resource::RLIMIT_CORE, 0, hard)?;
    #[cfg(target_os = "linux")]
    {
        // SAFETY: this option takes one plain number and touches no memory of ours.
        let answer = unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) };
        if answer != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// What a child must get back: open files, core size. `None` where this process changed nothing.
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux starts processes"))]
pub(super) fn originals() -> (Option<Limit>, Option<Limit>) {
    (OPEN_FILES.get().copied(), CORE_SIZE.get().copied())
}
