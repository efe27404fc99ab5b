//! Making the process: the parent's half.
//!
//! # Sharing memory with a child that drops its rights
//!
//! The child is made with `CLONE_VM | CLONE_VFORK`: it runs on a stack of its own in the memory of this
//! process, while the calling thread sleeps until the child has called `execve` or ended. That is how the C
//! libraries implement `posix_spawn`. It is known to be dangerous for a child that changes its user id,
//! because another process of that user could then reach into our memory through the child. What stands
//! against each way in:
//!
//! * *Debugging the child* (`ptrace`, `/proc/PID/mem`, `process_vm_writev`): with the change of ids the kernel
//!   marks the memory as not dumpable before the new ids count, and from then on only root may look. The
//!   sysctl `fs.suid_dumpable = 1` ("debug, insecure") turns that off; where it is not 0 or 2, the memory is
//!   copied instead.
//! * *Core files*: until `execve`, every signal that would write one ends the child through a handler.
//! * *Signal handlers of this process* running in the child: all signals are blocked over the call, and the
//!   child resets all dispositions, which it does not share, before it lets signals in.
//! * *Stopping the child* (`SIGSTOP`), or a home directory on a dead disk: only the calling thread sleeps,
//!   which belongs to the blocking pool; and the child can be killed through its [`Ticket`] all the while.
//! * *The C library's bookkeeping*: the child calls the kernel directly for ids, since the library's own
//!   functions would change the threads of this process too. Otherwise only `errno` is written, of a thread
//!   that sleeps. Nothing in the child allocates, locks, or unwinds.

use std::cell::RefCell;
use std::ffi::{c_char, c_int, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use super::plan::{Plan, pointers};
use super::{SpawnError, Step, steps};
use crate::sys::child::{self, Child};
use crate::sys::limits;
use crate::sys::reaper;
use crate::sys::signal::Signal;

/// Room for the child's stack, in bytes. It needs a few kilobytes, most of them for the dynamic linker.
const STACK: usize = 64 * 1024;

/// Where the kernel puts the pidfd of the new process before that runs, for others to kill it by.
#[derive(Debug)]
pub(super) struct Ticket(AtomicI32);

/// What the child leaves behind for the parent, in memory that both see.
#[repr(C)]
pub(super) struct Report {
    /// The last step begun, as a number of [`Step`].
    pub(super) step: AtomicU32,
    /// The error of that step; zero for none.
    pub(super) errno: AtomicI32,
}

/// What the child is to do. It only reads, apart from `scratch` and `report`.
pub(super) struct Orders {
    pub(super) plan: *const Plan,
    pub(super) arguments: *const *const c_char,
    pub(super) environment: *const *const c_char,
    pub(super) stdio: [c_int; 3],
    pub(super) terminal: bool,
    pub(super) open_files: Option<libc::rlimit>,
    pub(super) core_size: Option<libc::rlimit>,
    /// Room for one group more than the child must have.
    pub(super) scratch: *mut libc::gid_t,
    pub(super) scratch_len: c_int,
    pub(super) report: *const Report,
}

/// A process that was made, whatever has become of it. Dropping it kills and reaps it.
#[derive(Debug)]
pub(super) struct Launched {
    pid: i32,
    /// `None` only while being dropped or turned into a [`Child`].
    process: Option<OwnedFd>,
    step: Step,
    errno: i32,
    reaped: bool,
}

impl Default for Ticket {
    fn default() -> Self {
        Self(AtomicI32::new(-1))
    }
}

impl Ticket {
    /// Kills the process, if it has been made. The caller guarantees that its pidfd is still open.
    pub(super) fn kill(&self) {
        let pidfd = self.0.load(Ordering::Acquire);
        if pidfd >= 0 {
            // SAFETY: takes numbers, and a null pointer for "no details".
            unsafe {
                let no_details: *const libc::siginfo_t = ptr::null();
                libc::syscall(libc::SYS_pidfd_send_signal, pidfd, libc::SIGKILL, no_details, 0);
            }
        }
    }
}

/// Makes the process and sleeps until it has become the program, or failed.
pub(super) fn launch(plan: Plan, stdio: [c_int; 3], terminal: bool, ticket: &Ticket) -> io::Result<Launched> {
    let arguments = pointers(&plan.arguments);
    let environment = pointers(&plan.environment);
    let mut scratch: Vec<libc::gid_t> = vec![0; plan.groups.len() + 1];
    let (open_files, core_size) = limits::originals();
    let as_rlimit = |(soft, hard)| libc::rlimit { rlim_cur: soft, rlim_max: hard };
    let shares_memory = !plan.copies_memory && (!plan.drops_rights() || memory_stays_closed());
    Stage::with(|stage| {
        let report = stage.report();
        report.step.store(Step::Begin as u32, Ordering::Relaxed);
        report.errno.store(0, Ordering::Relaxed);
        let orders = Orders {
            plan: &raw const plan,
            arguments: arguments.as_ptr(),
            environment: environment.as_ptr(),
            stdio,
            terminal,
            open_files: open_files.map(as_rlimit),
            core_size: core_size.map(as_rlimit),
            scratch_len: c_int::try_from(scratch.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
            scratch: scratch.as_mut_ptr(),
            report: &raw const *report,
        };
        let sharing = if shares_memory { libc::CLONE_VM } else { 0 };
        let flags = libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD | sharing;
        let _blocked = BlockedSignals::all()?;
        // SAFETY: the stack is mapped, its own, and large enough; the function keeps the rules above; all
        // that `orders` points at lives, unchanged by us, until the call returns, and by then, because of
        // CLONE_VFORK, the child no longer uses our memory. The pidfd goes to an integer that outlives it.
        let pid = unsafe {
            let orders = (&raw const orders).cast_mut().cast::<c_void>();
            libc::clone(steps::child, stage.top(), flags, orders, ticket.0.as_ptr())
        };
        if pid < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has made this descriptor for us; nobody else closes it.
        let process = unsafe { OwnedFd::from_raw_fd(ticket.0.load(Ordering::Acquire)) };
        let step = Step::from_number(report.step.load(Ordering::Acquire));
        let errno = report.errno.load(Ordering::Acquire);
        let mut launched = Launched { pid, process: Some(process), step, errno, reaped: false };
        if launched.has_failed() {
            // It is on its way out, so this does not wait for long.
            launched.reap();
        }
        Ok(launched)
    })
}

impl Launched {
    fn has_failed(&self) -> bool {
        self.errno != 0 || self.step != Step::Exec
    }

    fn reap(&mut self) {
        let Some(process) = &self.process else { return };
        // SAFETY: a zeroed siginfo is valid, and the kernel writes one to where there is room for one.
        unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            let id = process.as_raw_fd().unsigned_abs();
            while libc::waitid(libc::P_PIDFD, id, &raw mut info, libc::WEXITED) != 0
                && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
            {}
        }
        self.reaped = true;
    }

    /// The running program; or why there is none. Call within the runtime.
    pub(super) fn into_child(self) -> Result<Child, SpawnError> {
        let (pid, process) = self.into_parts()?;
        Child::new(pid, process).map_err(|source| SpawnError::Resources { what: "watch", source })
    }

    /// Its number and its pidfd; or why there is none.
    pub(super) fn into_parts(mut self) -> Result<(i32, OwnedFd), SpawnError> {
        if self.errno != 0 {
            return Err(SpawnError::Failed {
                step: self.step,
                source: io::Error::from_raw_os_error(self.errno),
            });
        }
        if self.has_failed() {
            return Err(SpawnError::Killed { step: self.step });
        }
        let Some(process) = self.process.take() else { return Err(SpawnError::Killed { step: self.step }) };
        Ok((self.pid, process))
    }
}

impl Drop for Launched {
    fn drop(&mut self) {
        let Some(process) = self.process.take() else { return };
        if !self.reaped {
            let _ = child::kill(-self.pid, Signal::KILL);
            reaper::adopt(process);
        }
    }
}

/// Whether memory is closed to a user from the moment in which the child takes on that user's ids.
fn memory_stays_closed() -> bool {
    let setting = std::fs::read("/proc/sys/fs/suid_dumpable");
    matches!(setting.as_deref().map(<[u8]>::trim_ascii), Ok(b"0" | b"2"))
}

/// The child's stack and report, mapped so that both processes see it even where other memory is copied.
struct Stage {
    base: *mut c_void,
    length: usize,
}

impl Stage {
    /// Runs something with this thread's stage; mapping one for each process would cost more than the stage.
    fn with<T>(use_it: impl FnOnce(&Self) -> io::Result<T>) -> io::Result<T> {
        thread_local!(static STAGE: RefCell<Option<Stage>> = const { RefCell::new(None) });
        STAGE.with_borrow_mut(|kept| {
            let stage = match kept.take() {
                Some(stage) => stage,
                None => Self::map()?,
            };
            use_it(kept.insert(stage))
        })
    }

    fn map() -> io::Result<Self> {
        // SAFETY: takes one number.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) })
            .map_err(|_| io::Error::last_os_error())?;
        let length = page + STACK.next_multiple_of(page);
        let kind = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        // SAFETY: asks for fresh memory wherever there is room.
        let base = unsafe { libc::mmap(ptr::null_mut(), length, libc::PROT_NONE, kind, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let stage = Self { base, length };
        // SAFETY: within the mapping just made; its lowest page stays closed, so that a stack that grows
        // too far ends in a fault.
        let answer =
            unsafe { libc::mprotect(base.byte_add(page), length - page, libc::PROT_READ | libc::PROT_WRITE) };
        if answer != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(stage)
    }

    fn report(&self) -> &Report {
        // SAFETY: the last 64 bytes of the mapping are readable, writable and aligned, belong to the report
        // alone, and any bytes are valid atomics. It lives as long as the stage.
        unsafe { &*self.top().cast::<Report>() }
    }

    /// Where the stack begins, growing down, and the report lies above.
    fn top(&self) -> *mut c_void {
        // SAFETY: within the mapping, which is longer than 64 bytes.
        unsafe { self.base.byte_add(self.length - 64) }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing borrowed from it outlives the stage.
        unsafe { libc::munmap(self.base, self.length) };
    }
}

/// All signals held back from this thread, until dropped.
struct BlockedSignals(libc::sigset_t);

impl BlockedSignals {
    fn all() -> io::Result<Self> {
        let (mut all, mut before) = (MaybeUninit::uninit(), MaybeUninit::uninit());
        // SAFETY: both sets have room for what is written to them, and `all` is filled before it is read.
        let answer = unsafe {
            libc::sigfillset(all.as_mut_ptr());
            libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr())
        };
        if answer != 0 {
            return Err(io::Error::from_raw_os_error(answer));
        }
        // SAFETY: the call has succeeded, so it has filled the set.
        Ok(Self(unsafe { before.assume_init() }))
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        // SAFETY: reads one set that we own.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, ptr::null_mut()) };
    }
}
