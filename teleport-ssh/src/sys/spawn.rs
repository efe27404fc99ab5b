//! Starting processes as a user.
//!
//! Everything that takes a lock, allocates or asks a name service happens before the process is made. The
//! child itself makes a short, fixed list of system calls (see [`Step`]) and then becomes the user's program.
//! Which step failed, and why, comes back to the caller as [`SpawnError`].
//!
//! The child is made like `posix_spawn` makes it: it borrows the memory of this process until `execve`,
//! because copying the page tables of a daemon costs many times more than all the rest. `spawn/stage.rs`
//! says why that is safe even while the child drops its rights, and when a copy is made instead. A side
//! effect: after the first process for another user, the kernel holds this process for not dumpable, as
//! [`disable_core_dumps`](super::limits::disable_core_dumps) asks for anyway.

mod plan;
mod stage;
mod steps;

use std::ffi::CString;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::{Gid, Uid, fchown, pipe2};
use tokio::net::unix::pipe;
use tokio::task::JoinHandle;

use super::accounts::{Account, AccountError};
use super::child::{self, Child, Exit};
use super::environment::Environment;
use super::host;
use super::pty::{Pty, PtyMaster};
use super::signal::Signal;
use plan::Plan;
use stage::{Launched, Ticket};

/// The default of [`Command::start_limit`].
const START_LIMIT: Duration = Duration::from_secs(20);

/// What to start, for whom.
#[derive(Debug)]
pub struct Command {
    plan: Plan,
    start_limit: Duration,
}

/// How much standard input and output hold on their way, in bytes; the kernel's default is 64 KiB.
const PIPE_SIZE: i32 = 256 << 10;

/// A process with three pipes.
#[derive(Debug)]
#[non_exhaustive]
pub struct Piped {
    /// The process.
    pub child: Child,
    /// Its standard input; drop it to send the end of input.
    pub stdin: pipe::Sender,
    /// Its standard output.
    pub stdout: pipe::Receiver,
    /// Its standard error.
    pub stderr: pipe::Receiver,
}

/// Three pipes, for a process that is not started yet.
#[derive(Debug)]
pub(crate) struct Pipes {
    pub(crate) theirs: [OwnedFd; 3],
    pub(crate) stdin: pipe::Sender,
    pub(crate) stdout: pipe::Receiver,
    pub(crate) stderr: pipe::Receiver,
}

/// A process that was started without a runtime. Whoever has it waits for its end.
#[derive(Debug)]
pub(crate) struct Waited {
    pid: i32,
    process: OwnedFd,
}

impl Waited {
    /// Its number, which is also that of its process group.
    pub(crate) const fn pid(&self) -> i32 {
        self.pid
    }

    /// How it has ended, if it has.
    pub(crate) fn ended(&self) -> io::Result<Option<Exit>> {
        child::look(&self.process, 0)
    }

    /// Sends a signal to every process of the group, as far as there is one. Not after the end was seen.
    pub(crate) fn signal_group(&self, signal: Signal) {
        let _ = child::kill(-self.pid, signal);
    }
}

impl AsFd for Waited {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.process.as_fd()
    }
}

/// The steps of a child, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[repr(u32)]
pub enum Step {
    /// Nothing done yet.
    Begin = 1,
    /// Lead a new session.
    Session = 2,
    /// Make the terminal the controlling one.
    Terminal = 3,
    /// Put the three standard descriptors in place.
    Descriptors = 4,
    /// Close all others.
    CloseDescriptors = 5,
    /// Signal dispositions and mask as in a fresh process.
    Signals = 6,
    /// Resource limits, umask and memory score as in a fresh process.
    Limits = 7,
    /// The groups of the user.
    Groups = 8,
    /// The user's ids.
    Ids = 9,
    /// Proof that nothing of the old rights is left.
    Proof = 10,
    /// The home directory, or `/`.
    Home = 11,
    /// Become the program.
    Exec = 12,
}

/// Why a process could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// This process may not start processes for the account.
    #[error("the account cannot be served by this process")]
    Account {
        /// Why.
        source: AccountError,
    },
    /// The child could not do one of its steps.
    #[error("the new process failed at the step {step}")]
    Failed {
        /// Which step.
        step: Step,
        /// What the kernel said to it.
        source: io::Error,
    },
    /// The request can be no process: a NUL byte, or a program without an absolute path.
    #[error("the {what} cannot be passed to a process")]
    Invalid {
        /// Which part of the request.
        what: &'static str,
    },
    /// The new process was killed before it became the program.
    #[error("the new process was killed after the step {step}")]
    Killed {
        /// The last step that it had begun.
        step: Step,
    },
    /// This machine has no pipe, process or memory left for it.
    #[error("no {what} for a new process")]
    Resources {
        /// What is missing.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The new process did not become the program in time, and was killed.
    #[error("the new process did not become the program in time")]
    Stalled,
}

impl Command {
    /// The account's login shell: its name starts with `-`, so that it reads the login files.
    ///
    /// # Errors
    /// [`SpawnError::Account`] or [`SpawnError::Invalid`].
    pub fn login_shell(account: &Account, environment: Environment) -> Result<Self, SpawnError> {
        let base = account.shell.file_name().unwrap_or(account.shell.as_os_str());
        let arg0 = [b"-", base.as_bytes()].concat();
        Self::new(account, environment, &account.shell, vec![arg0])
    }

    /// A command line, which the account's shell interprets (`shell -c line`).
    ///
    /// # Errors
    /// [`SpawnError::Account`] or [`SpawnError::Invalid`].
    pub fn shell_command(
        account: &Account,
        environment: Environment,
        line: impl AsRef<[u8]>,
    ) -> Result<Self, SpawnError> {
        let base = account.shell.file_name().unwrap_or(account.shell.as_os_str());
        let arguments = vec![base.as_bytes().to_vec(), b"-c".to_vec(), line.as_ref().to_vec()];
        Self::new(account, environment, &account.shell, arguments)
    }

    /// A program of the server's choice, by its absolute path; `arguments` start with the program's name.
    ///
    /// # Errors
    /// [`SpawnError::Account`] or [`SpawnError::Invalid`].
    pub fn program(
        account: &Account,
        environment: Environment,
        program: &Path,
        arguments: impl IntoIterator<Item = impl Into<Vec<u8>>>,
    ) -> Result<Self, SpawnError> {
        Self::new(account, environment, program, arguments.into_iter().map(Into::into).collect())
    }

    /// A program of the daemon's own, which takes the account's ids by itself ([`Ids::take`](super::ids::Ids::take)), so that no other
    /// process of the account can ever look into it. Until then it is the daemon's user's, with no environment, in `/`.
    pub(crate) fn trusted(
        account: &Account,
        program: &Path,
        arguments: impl IntoIterator<Item = impl Into<Vec<u8>>>,
    ) -> Result<Self, SpawnError> {
        let mut command = Self::program(account, Environment::default(), program, arguments)?;
        command.plan.takes_ids = false;
        command.plan.home = c"/".to_owned();
        Ok(command)
    }

    fn new(
        account: &Account,
        environment: Environment,
        program: &Path,
        arguments: Vec<Vec<u8>>,
    ) -> Result<Self, SpawnError> {
        account.check_startable().map_err(|source| SpawnError::Account { source })?;
        let plan = Plan::new(account, environment, program, arguments)?;
        Ok(Self { plan, start_limit: START_LIMIT })
    }

    /// How long the process may take to become the program; 20 seconds unless set. Only a home directory or
    /// a shell on a network disk that does not answer, or a user who stops the process half-way, takes long.
    #[must_use]
    pub fn start_limit(mut self, limit: Duration) -> Self {
        self.start_limit = limit;
        self
    }

    /// Never lets the new process borrow this process's memory while it drops its rights.
    ///
    /// Borrowing is safe as far as is known (the source says why), and many times faster. Without it the
    /// process gets a copy of the memory, as from `fork`.
    #[must_use]
    pub fn copying_memory(mut self) -> Self {
        self.plan.copies_memory = true;
        self
    }

    /// Lets the new process have this one's limits and umask, instead of those of a fresh one: what modules of PAM have made of them.
    #[must_use]
    pub(crate) fn keeping_limits(mut self) -> Self {
        self.plan.keeps_limits = true;
        self
    }

    /// The program, its arguments and its environment, for another process to start.
    pub(crate) fn into_parts(self) -> (Vec<u8>, Vec<Vec<u8>>, Vec<Vec<u8>>) {
        let bytes = |texts: Vec<CString>| texts.into_iter().map(CString::into_bytes).collect();
        let Plan { program, arguments, environment, .. } = self.plan;
        (program.into_bytes(), bytes(arguments), bytes(environment))
    }

    /// Starts the process without a runtime, with these descriptors: one terminal, or three. The calling thread sleeps until it has
    /// become the program.
    ///
    /// # Errors
    /// Any [`SpawnError`] but [`SpawnError::Account`] and [`SpawnError::Invalid`].
    pub(crate) fn spawn_waited(self, stdio: Vec<OwnedFd>) -> Result<Waited, SpawnError> {
        let resources = |source| SpawnError::Resources { what: "process", source };
        let held = stdio.into_iter().map(above_stdio).collect::<io::Result<Vec<_>>>().map_err(resources)?;
        let numbers = numbers(&held).map_err(resources)?;
        let launched = stage::launch(self.plan, numbers, held.len() == 1, &Ticket::default());
        let (pid, process) = launched.map_err(resources)?.into_parts()?;
        Ok(Waited { pid, process })
    }

    /// Starts the process on a terminal, which becomes its controlling one.
    ///
    /// Cancel safe: a dropped call ends the process, if it was already made.
    ///
    /// # Errors
    /// Any [`SpawnError`] but [`SpawnError::Account`] and [`SpawnError::Invalid`].
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O and time enabled.
    pub async fn spawn_pty(self, pty: Pty) -> Result<(Child, PtyMaster), SpawnError> {
        let (master, slave) = pty.into_parts();
        // Registered before there is a process, so that a full epoll set leaves none behind.
        let master =
            PtyMaster::new(master).map_err(|source| SpawnError::Resources { what: "terminal", source })?;
        let child = start(self, Stdio::Terminal(slave)).await?;
        Ok((child, master))
    }

    /// Starts the process with pipes for its three standard descriptors, in a session of its own.
    ///
    /// Cancel safe: a dropped call ends the process, if it was already made.
    ///
    /// # Errors
    /// Any [`SpawnError`] but [`SpawnError::Account`] and [`SpawnError::Invalid`].
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O and time enabled.
    pub async fn spawn_piped(self) -> Result<Piped, SpawnError> {
        let Pipes { theirs, stdin, stdout, stderr } = self.pipes()?;
        let child = start(self, Stdio::Pipes(theirs)).await?;
        Ok(Piped { child, stdin, stdout, stderr })
    }

    /// Starts the process with these as its three standard descriptors, in a session of its own. Cancel safe as
    /// [`spawn_piped`](Self::spawn_piped).
    ///
    /// # Errors
    /// Any [`SpawnError`] but [`SpawnError::Account`] and [`SpawnError::Invalid`].
    pub(crate) async fn spawn_on(self, stdio: [OwnedFd; 3]) -> Result<Child, SpawnError> {
        start(self, Stdio::Pipes(stdio)).await
    }

    /// Three pipes for the process.
    ///
    /// # Errors
    /// [`SpawnError::Resources`].
    pub(crate) fn pipes(&self) -> Result<Pipes, SpawnError> {
        let no_pipe = |source| SpawnError::Resources { what: "pipe", source };
        let (stdin, to_stdin) = self.pipe().map_err(no_pipe)?;
        let (from_stdout, stdout) = self.pipe().map_err(no_pipe)?;
        let (from_stderr, stderr) = self.pipe().map_err(no_pipe)?;
        for ours in [&to_stdin, &from_stdout, &from_stderr] {
            fcntl(ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(|errno| no_pipe(errno.into()))?;
        }
        for bulk in [&to_stdin, &from_stdout] {
            // Fewer switches between the program and us while much flows. The kernel may refuse: then it is slower.
            let _ = fcntl(bulk, FcntlArg::F_SETPIPE_SZ(PIPE_SIZE));
        }
        let to_stdin = pipe::Sender::from_owned_fd_unchecked(to_stdin).map_err(no_pipe)?;
        let from_stdout = pipe::Receiver::from_owned_fd_unchecked(from_stdout).map_err(no_pipe)?;
        let from_stderr = pipe::Receiver::from_owned_fd_unchecked(from_stderr).map_err(no_pipe)?;
        let theirs = [stdin, stdout, stderr];
        Ok(Pipes { theirs, stdin: to_stdin, stdout: from_stdout, stderr: from_stderr })
    }

    /// Starts the process in a session of its own with this descriptor as its standard input. What it says goes nowhere.
    ///
    /// Cancel safe: a dropped call ends the process, if it was already made.
    ///
    /// # Errors
    /// Any [`SpawnError`] but [`SpawnError::Account`] and [`SpawnError::Invalid`].
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O and time enabled.
    pub async fn spawn_with(self, stdin: OwnedFd) -> Result<Child, SpawnError> {
        let nothing = || std::fs::File::options().write(true).open("/dev/null").map(OwnedFd::from);
        let no_null = |source| SpawnError::Resources { what: "descriptor", source };
        let said = [nothing().map_err(no_null)?, nothing().map_err(no_null)?];
        let [stdout, stderr] = said;
        start(self, Stdio::Pipes([stdin, stdout, stderr])).await
    }

    /// A pipe that belongs to the user: otherwise its programs could not open `/dev/stdout` and the like.
    fn pipe(&self) -> io::Result<(OwnedFd, OwnedFd)> {
        let (reading, writing) = pipe2(OFlag::O_CLOEXEC)?;
        let (uid, gid) = self.plan.owner();
        if host::is_root() && uid != 0 {
            fchown(&reading, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        }
        Ok((reading, writing))
    }
}

impl Step {
    /// The step with this number; what is no number of a step is none.
    fn from_number(number: u32) -> Self {
        const ALL: [Step; 12] = [
            Step::Begin,
            Step::Session,
            Step::Terminal,
            Step::Descriptors,
            Step::CloseDescriptors,
            Step::Signals,
            Step::Limits,
            Step::Groups,
            Step::Ids,
            Step::Proof,
            Step::Home,
            Step::Exec,
        ];
        ALL.into_iter().find(|step| *step as u32 == number).unwrap_or(Self::Begin)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Begin => "begin",
            Self::Session => "new session",
            Self::Terminal => "controlling terminal",
            Self::Descriptors => "standard descriptors",
            Self::CloseDescriptors => "close other descriptors",
            Self::Signals => "reset signals",
            Self::Limits => "reset limits",
            Self::Groups => "set groups",
            Self::Ids => "set ids",
            Self::Proof => "prove that rights are dropped",
            Self::Home => "enter home directory",
            Self::Exec => "execute program",
        })
    }
}

/// What becomes the child's standard descriptors.
enum Stdio {
    Pipes([OwnedFd; 3]),
    Terminal(OwnedFd),
}

/// Makes the process on the blocking pool: the calling thread sleeps until the child has become the program,
/// which must not hold up the runtime.
async fn start(command: Command, stdio: Stdio) -> Result<Child, SpawnError> {
    let Command { plan, start_limit } = command;
    let ticket = Arc::new(Ticket::default());
    let handed = Arc::clone(&ticket);
    let work = tokio::task::spawn_blocking(move || {
        let (held, terminal) = match stdio {
            Stdio::Pipes(pipes) => {
                (pipes.into_iter().map(above_stdio).collect::<io::Result<Vec<_>>>(), false)
            }
            Stdio::Terminal(slave) => (above_stdio(slave).map(|slave| vec![slave]), true),
        };
        let held = held?;
        let numbers = numbers(&held)?;
        stage::launch(plan, numbers, terminal, &handed)
    });
    let mut starting = Starting { work, ticket };
    let mut stalled = false;
    let mut limit = start_limit;
    let ended = loop {
        match tokio::time::timeout(limit, &mut starting.work).await {
            Ok(ended) => break ended,
            Err(_) => {
                stalled = true;
                // Again and again: at the first time the process may only be about to be made.
                starting.end();
                limit = Duration::from_secs(1);
            }
        }
    };
    match ended {
        _ if stalled => Err(SpawnError::Stalled),
        Ok(launched) => {
            launched.map_err(|source| SpawnError::Resources { what: "process", source })?.into_child()
        }
        Err(gone) => Err(SpawnError::Resources { what: "thread", source: io::Error::other(gone) }),
    }
}

/// The descriptors for standard input, output and error.
fn numbers(held: &[OwnedFd]) -> io::Result<[RawFd; 3]> {
    match held {
        [stdin, stdout, stderr] => Ok([stdin, stdout, stderr].map(AsRawFd::as_raw_fd)),
        [slave, ..] => Ok([slave.as_raw_fd(); 3]),
        [] => Err(io::ErrorKind::NotFound.into()),
    }
}

/// A process about to be made on another thread; dropping it ends the attempt.
struct Starting {
    work: JoinHandle<io::Result<Launched>>,
    ticket: Arc<Ticket>,
}

impl Starting {
    fn end(&self) {
        // The pidfd that the ticket names lives in the output of the unfinished work, which only
        // `self.work` can give away. So the number cannot have become another file's.
        if !self.work.is_finished() {
            self.work.abort();
            self.ticket.kill();
        }
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        self.end();
    }
}

/// The child puts its descriptors at 0 to 2 one after the other, so none may lie there already.
fn above_stdio(fd: OwnedFd) -> io::Result<OwnedFd> {
    if fd.as_raw_fd() > 2 {
        return Ok(fd);
    }
    let moved = fcntl(&fd, FcntlArg::F_DUPFD_CLOEXEC(3))?;
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(moved) })
}
