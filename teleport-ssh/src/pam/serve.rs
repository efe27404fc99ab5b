//! The process that asks PAM: one session, from the question whether it may be to its close.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal as Number};
use nix::unistd::{Gid, alarm, dup2_stdin, getgroups, setgroups};

use super::PamService;
use super::wire::{Answer, Request, path, read, write};
use crate::node::chain;
use crate::sys::accounts::Account;
use crate::sys::child::Exit;
use crate::sys::environment::Environment;
use crate::sys::pam::{Item, Library, Transaction};
use crate::sys::pass;
use crate::sys::signal::Signal;
use crate::sys::spawn::{Command, Waited};

/// How long modules may take in all before a session, in seconds; the node has less patience, but may be gone.
const OPEN_LIMIT: u32 = 60;
/// The same for the end of one.
const CLOSE_LIMIT: u32 = 30;
/// How long processes of a session have between the hang-up and the kill, in milliseconds.
const HANG_UP_GRACE: u16 = 5000;

/// Opens and closes one session of PAM for whoever has the other end of standard input, and starts its process. Returns when it is
/// closed.
///
/// For the process that a node starts; see [`OsSessions::with_pam`](crate::session::OsSessions::with_pam).
///
/// # Errors
/// When there is nobody to tell.
pub fn serve() -> io::Result<()> {
    nix::sys::prctl::set_dumpable(false)?;
    // The daemon's service may be ended by signals to all that it has started. The session is closed all the same: the socket ends with
    // the daemon.
    let held: SigSet = [Number::SIGHUP, Number::SIGINT, Number::SIGTERM].into_iter().collect();
    held.thread_block()?;
    let mut node = socket()?;
    let Some(request) = read(&mut node)? else { return Ok(()) };
    let unusable = |reason: String| Answer::Unusable { reason };
    let (service, opening) = match request {
        Request::Check { service } => (service, None),
        Request::Open { service, account, remote_host, remote_user, terminal, variables } => {
            (service, Some((Account::from(account), remote_host, remote_user, terminal, variables)))
        }
        Request::Signal(_) | Request::Start { .. } => return Err(io::ErrorKind::InvalidData.into()),
    };
    let service = PamService { name: service.name, directory: service.directory.map(path) };
    let library = match Library::load() {
        Ok(library) => library,
        Err(error) => return write(&mut node, &unusable(error.to_string())),
    };
    if !service.is_described() {
        let reason = format!("there is no service {:?} (a file in /etc/pam.d)", service.name);
        return write(&mut node, &unusable(reason));
    }
    let Some((mut account, remote_host, remote_user, terminal, variables)) = opening else {
        return write(&mut node, &Answer::Opened { variables: Vec::new(), messages: Vec::new() });
    };
    // Without a handler it ends the process, whatever a module waits for.
    alarm::set(OPEN_LIMIT);
    let started = Transaction::start(library, &service.name, &account.name, service.directory.as_deref());
    let mut pam = match started {
        Ok(pam) => pam,
        Err(error) => return write(&mut node, &unusable(error.to_string())),
    };
    let opened = (|| {
        pam.set(Item::RemoteHost, &remote_host)?;
        pam.set(Item::RemoteUser, &remote_user)?;
        // Some modules do nothing without one; sshd says the same.
        pam.set(Item::Terminal, terminal.as_deref().unwrap_or("ssh"))?;
        for (name, value) in &variables {
            pam.put_variable(name, value)?;
        }
        pam.account()?;
        // Modules may add to the groups of the account.
        let groups: Vec<Gid> = account.groups.iter().copied().map(Gid::from_raw).collect();
        let taken = setgroups(&groups).is_ok();
        // Nobody has shown a password, which some modules take amiss; sshd goes on, too.
        let _ = pam.establish_credentials();
        if taken && let Ok(groups) = getgroups() {
            account.groups = groups.into_iter().map(Gid::as_raw).collect();
            account.groups.sort_unstable();
            account.groups.dedup();
        }
        pam.open()
    })();
    if let Err(error) = opened {
        return write(&mut node, &Answer::Refused { reason: error.to_string(), messages: pam.heard() });
    }
    alarm::cancel();
    let told = write(&mut node, &Answer::Opened { variables: pam.variables(), messages: pam.heard() });
    let ran = told.and_then(|()| run(&mut node, &account));
    alarm::set(CLOSE_LIMIT);
    let _ = pam.close();
    drop(pam);
    ran
}

/// Standard input, from where programs of modules cannot take it.
fn socket() -> io::Result<UnixStream> {
    let node = io::stdin().as_fd().try_clone_to_owned()?;
    dup2_stdin(std::fs::File::open("/dev/null")?)?;
    Ok(node.into())
}

/// Starts the session's process and waits for its end, or ends it when the node is gone.
fn run(node: &mut UnixStream, account: &Account) -> io::Result<()> {
    let Some(Request::Start { program, arguments, environment, terminal }) = read(node)? else {
        return Ok(());
    };
    let mut stdio: Vec<OwnedFd> = Vec::new();
    for _ in 0..if terminal { 1 } else { 3 } {
        let (_, descriptor) = pass::receive(node.as_fd(), &mut [0])?;
        stdio.push(descriptor.ok_or(io::ErrorKind::InvalidData)?);
    }
    let environment = environment.into_iter().map(CString::new).collect::<Result<Vec<_>, _>>();
    let environment = environment.map_err(io::Error::other)?;
    let command =
        Command::program(account, Environment::from_entries(environment), &path(program), arguments);
    let started = command.and_then(|command| command.keeping_limits().spawn_waited(stdio));
    let process = match started {
        Ok(process) => process,
        Err(error) => {
            let reason = chain(&error);
            return write(node, &Answer::NotStarted { reason });
        }
    };
    write(node, &Answer::Started { pid: process.pid() })?;
    let exit = attend(node, &process)?;
    let answer = match exit {
        Exit::Code(code) => Answer::Ended { code: Some(code), signal: 0, core_dumped: false },
        Exit::Signal { signal, core_dumped } => {
            Answer::Ended { code: None, signal: signal.number(), core_dumped }
        }
    };
    // Whoever is gone needs no answer.
    let _ = write(node, &answer);
    Ok(())
}

fn attend(node: &mut UnixStream, process: &Waited) -> io::Result<Exit> {
    // How long it may go on, and whether the node still has a say.
    let (mut patience, mut listens) = (PollTimeout::NONE, true);
    loop {
        if let Some(exit) = process.ended()? {
            return Ok(exit);
        }
        let mut watched = vec![PollFd::new(process.as_fd(), PollFlags::POLLIN)];
        if listens {
            watched.push(PollFd::new(node.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut watched, patience) {
            Ok(0) => {
                process.signal_group(Signal::KILL);
                patience = PollTimeout::NONE;
            }
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let spoke = watched.get(1).and_then(PollFd::any).unwrap_or(false);
        drop(watched);
        if !spoke {
            continue;
        }
        match read(node) {
            Ok(Some(Request::Signal(number))) => process.signal_group(Signal::from_number(number)),
            // The end, or nothing that is agreed.
            _ => {
                process.signal_group(Signal::HUP);
                // A stopped process would not see the hang-up.
                process.signal_group(Signal::from_number(libc::SIGCONT));
                (patience, listens) = (PollTimeout::from(HANG_UP_GRACE), false);
            }
        }
    }
}
