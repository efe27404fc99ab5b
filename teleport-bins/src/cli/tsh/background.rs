//! To the background, once everything stands.
//!
//! A process with threads must not fork: what other threads hold would be held for ever in the copy. So the same program is started
//! again with the same arguments, does everything from the beginning, and says through its standard input, which is a socket, when it
//! stands. Until then it is in the foreground's process group and speaks to the same terminal; Ctrl-C ends both.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result};

/// Says to the program that it is in the background. Not a variable: the programs that it starts would have that as well.
const FLAG: &str = "--in-background";
/// What the background says when it stands.
const STANDS: u8 = b'+';

/// The background, seen from within.
#[derive(Debug)]
pub(super) struct Background(UnixStream);

/// This process as the background of another one, if it was started as that.
pub(super) fn within(flag: bool) -> Result<Option<Background>> {
    if !flag {
        return Ok(None);
    }
    let stdin = std::io::stdin().as_fd().try_clone_to_owned()?;
    let foreground = UnixStream::from(stdin);
    foreground.peer_addr().with_context(|| format!("{FLAG} is for tsh itself; leave it out"))?;
    Ok(Some(Background(foreground)))
}

/// Starts this program again and waits until it stands; whatever it prints meanwhile is printed. Returns its process, or the status with
/// which it ended before that.
pub(super) fn start() -> Result<Result<u32, ExitCode>> {
    let (mut ours, theirs) = UnixStream::pair().context("no socket can be made")?;
    let program = std::env::current_exe().context("this program cannot be found")?;
    let mut command = Command::new(program);
    command.arg(FLAG).args(std::env::args_os().skip(1)).stdin(Stdio::from(OwnedFd::from(theirs)));
    let mut child = command.spawn().context("the background cannot be started")?;
    // The command holds the other end as well, and an end is seen only when nobody has it.
    drop(command);
    let mut said = [0];
    match ours.read_exact(&mut said) {
        Ok(()) if said == [STANDS] => Ok(Ok(child.id())),
        _ => {
            let status = child.wait()?;
            Ok(Err(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(255))))
        }
    }
}

impl Background {
    /// Leaves the terminal, and lets the foreground go. `silent` if nothing will be printed any more.
    ///
    /// # Errors
    /// When the foreground is gone: then nobody wants this any more.
    pub(super) fn stands(mut self, silent: bool) -> Result<()> {
        use std::io::Write;
        nix::unistd::setsid().context("the terminal cannot be left")?;
        let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
        nix::unistd::dup2_stdin(&null)?;
        if silent {
            // Whoever reads them to their end would wait for the background's.
            nix::unistd::dup2_stdout(&null)?;
            nix::unistd::dup2_stderr(&null)?;
        }
        self.0.write_all(&[STANDS]).context("whoever started this is gone")
    }
}
