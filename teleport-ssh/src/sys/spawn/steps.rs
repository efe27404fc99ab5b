//! The child's half: a fixed list of system calls, from `clone` to `execve`.
//!
//! Everything here must be async-signal-safe and may run in the memory of the parent: no allocation, no lock,
//! no panic, no writing but to the report and the scratch room. See [`stage`](super::stage).

use std::ffi::{c_int, c_void};
use std::mem::{MaybeUninit, zeroed};
use std::ptr;
use std::sync::atomic::Ordering;

use super::Step;
use super::plan::Plan;
use super::stage::{Orders, Report};

#[cfg(not(any(target_arch = "arm", target_arch = "x86")))]
use libc::{
    SYS_getgroups as SYS_GETGROUPS, SYS_getresgid as SYS_GETRESGID, SYS_getresuid as SYS_GETRESUID,
    SYS_setgroups as SYS_SETGROUPS, SYS_setresgid as SYS_SETRESGID, SYS_setresuid as SYS_SETRESUID,
};
#[cfg(any(target_arch = "arm", target_arch = "x86"))]
use libc::{
    SYS_getgroups32 as SYS_GETGROUPS, SYS_getresgid32 as SYS_GETRESGID, SYS_getresuid32 as SYS_GETRESUID,
    SYS_setgroups32 as SYS_SETGROUPS, SYS_setresgid32 as SYS_SETRESGID, SYS_setresuid32 as SYS_SETRESUID,
};

/// The signals whose default is a core file.
const DUMPING: [c_int; 10] = [
    libc::SIGABRT,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGQUIT,
    libc::SIGSEGV,
    libc::SIGSYS,
    libc::SIGTRAP,
    libc::SIGXCPU,
    libc::SIGXFSZ,
];
/// The highest signal number of any Linux architecture that the standard library supports.
const LAST_SIGNAL: c_int = 64;
/// The size of a signal set as the kernel, not the C library, counts it.
const SIGNAL_SET_BYTES: usize = 8;
const NOTHING: *mut c_void = ptr::null_mut();

type Outcome = Result<(), c_int>;

/// The new process begins here and does not return.
pub(super) extern "C" fn child(orders: *mut c_void) -> c_int {
    // SAFETY: the parent passes its orders and sleeps, so that they live unchanged while this process uses
    // its memory.
    let (orders, plan, report) = unsafe {
        let orders = &*orders.cast::<Orders>();
        (orders, &*orders.plan, &*orders.report)
    };
    // SAFETY: this is the new process, alone on its stack, with all signals blocked.
    if let Err(errno) = unsafe { become_program(orders, plan, report) } {
        report.errno.store(errno, Ordering::Release);
    }
    // SAFETY: ends this process at once, running nothing that the parent has registered.
    unsafe { libc::_exit(127) }
}

/// # Safety
/// Only in a new process made by `stage::launch`.
unsafe fn become_program(orders: &Orders, plan: &Plan, report: &Report) -> Outcome {
    let begin = |step: Step| report.step.store(step as u32, Ordering::Release);
    let [stdin, stdout, stderr] = orders.stdio;
    // SAFETY: plain system calls on this process alone; what they read and write is said at each function.
    unsafe {
        begin(Step::Session);
        check(libc::setsid())?;
        if orders.terminal {
            begin(Step::Terminal);
            check(libc::ioctl(stdin, libc::TIOCSCTTY, 0))?;
        }
        begin(Step::Descriptors);
        check(libc::dup2(stdin, 0))?;
        check(libc::dup2(stdout, 1))?;
        check(libc::dup2(stderr, 2))?;
        begin(Step::CloseDescriptors);
        check_long(libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0))?;
        begin(Step::Signals);
        reset_signals()?;
        begin(Step::Limits);
        if !plan.keeps_limits {
            reset_limits(orders)?;
        }
        if plan.takes_ids {
            begin(Step::Groups);
            check_long(libc::syscall(SYS_SETGROUPS, plan.groups.len(), plan.groups.as_ptr()))?;
            begin(Step::Ids);
            check_long(libc::syscall(SYS_SETRESGID, plan.gid, plan.gid, plan.gid))?;
            check_long(libc::syscall(SYS_SETRESUID, plan.uid, plan.uid, plan.uid))?;
            begin(Step::Proof);
            prove_rights_dropped(orders, plan)?;
        }
        begin(Step::Home);
        enter_home(plan)?;
        begin(Step::Exec);
        libc::execve(plan.program.as_ptr(), orders.arguments, orders.environment);
        Err(errno())
    }
}

/// No disposition and no mask of the parent survives.
unsafe fn reset_signals() -> Outcome {
    // SAFETY: a zeroed action is valid, says "default" and blocks nothing; each call reads one action or
    // set that lives on this stack.
    unsafe {
        // Directly from the kernel, because the C library keeps two signals to itself, one of which its own
        // `posix_spawn` has perhaps left ignored in us. Zeros are "default" in every layout of this structure.
        let default = [0_u64; 8];
        for signal in 1..=LAST_SIGNAL {
            // Fails for the two that nobody can change.
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), NOTHING, SIGNAL_SET_BYTES);
        }
        // `execve` turns a handler into the default again.
        let mut ending: libc::sigaction = zeroed();
        let handler: extern "C" fn(c_int) = end_without_core;
        ending.sa_sigaction = handler as libc::sighandler_t;
        for signal in DUMPING {
            check(libc::sigaction(signal, &raw const ending, ptr::null_mut()))?;
        }
        let mut none = MaybeUninit::uninit();
        libc::sigemptyset(none.as_mut_ptr());
        match libc::pthread_sigmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut()) {
            0 => Ok(()),
            error => Err(error),
        }
    }
}

extern "C" fn end_without_core(_: c_int) {
    // SAFETY: ends this process at once; allowed in a signal handler.
    unsafe { libc::_exit(127) }
}

unsafe fn reset_limits(orders: &Orders) -> Outcome {
    // SAFETY: each call reads a structure or string that lives across it.
    unsafe {
        if let Some(limit) = &orders.open_files {
            check(libc::setrlimit(libc::RLIMIT_NOFILE, limit))?;
        }
        if let Some(limit) = &orders.core_size {
            check(libc::setrlimit(libc::RLIMIT_CORE, limit))?;
        }
        libc::umask(0o022);
        // A daemon protected from the out-of-memory killer must not protect its users' programs. Not worth a
        // refused login where it cannot be: without /proc, or for a daemon that may not lower it.
        let score = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if score >= 0 {
            libc::write(score, c"0".as_ptr().cast(), 1);
            libc::close(score);
        }
    }
    Ok(())
}

/// Believes nothing: asks the kernel for all ids, and tries to become root again.
unsafe fn prove_rights_dropped(orders: &Orders, plan: &Plan) -> Outcome {
    let (mut uids, mut gids) = ([u32::MAX; 3], [u32::MAX; 3]);
    // SAFETY: each pointer has room for one id; the scratch room has the length that is told.
    unsafe {
        let [real, effective, saved] = uids.each_mut().map(ptr::from_mut);
        check_long(libc::syscall(SYS_GETRESUID, real, effective, saved))?;
        let [real, effective, saved] = gids.each_mut().map(ptr::from_mut);
        check_long(libc::syscall(SYS_GETRESGID, real, effective, saved))?;
        if uids != [plan.uid; 3] || gids != [plan.gid; 3] {
            return Err(libc::EPERM);
        }
        let count = libc::syscall(SYS_GETGROUPS, orders.scratch_len, orders.scratch);
        check_long(count)?;
        // Not by slices: a comparison that can panic has no place here.
        if usize::try_from(count) != Ok(plan.groups.len()) {
            return Err(libc::EPERM);
        }
        let mut held = orders.scratch.cast_const();
        for group in &plan.groups {
            if held.read() != *group {
                return Err(libc::EPERM);
            }
            held = held.add(1);
        }
        if plan.uid != 0 && libc::syscall(SYS_SETRESUID, u32::MAX, 0, u32::MAX) == 0 {
            return Err(libc::EPERM);
        }
    }
    Ok(())
}

/// As sshd does: a missing home directory is told to the user, who then starts in `/`.
unsafe fn enter_home(plan: &Plan) -> Outcome {
    // SAFETY: each string ends in NUL, each length is that of the bytes it comes with.
    unsafe {
        if libc::chdir(plan.home.as_ptr()) == 0 {
            return Ok(());
        }
        let reason: &[u8] = match errno() {
            libc::EACCES => b"Permission denied\n",
            libc::ENOENT => b"No such file or directory\n",
            libc::ENOTDIR => b"Not a directory\n",
            _ => b"Cannot be entered\n",
        };
        libc::write(2, plan.homeless.as_ptr().cast(), plan.homeless.len());
        libc::write(2, reason.as_ptr().cast(), reason.len());
        check(libc::chdir(c"/".as_ptr()))
    }
}

unsafe fn check(answer: c_int) -> Outcome {
    // SAFETY: as the caller's.
    if answer < 0 { Err(unsafe { errno() }) } else { Ok(()) }
}

unsafe fn check_long(answer: libc::c_long) -> Outcome {
    // SAFETY: as the caller's.
    if answer < 0 { Err(unsafe { errno() }) } else { Ok(()) }
}

/// The error of the last call. The thread whose `errno` this is sleeps in the parent.
unsafe fn errno() -> c_int {
    // SAFETY: always a valid pointer.
    unsafe { *libc::__errno_location() }
}
