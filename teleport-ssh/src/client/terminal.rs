//! The user's own terminal: every key goes to the node while a session runs, and afterwards the terminal is as it was.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// A terminal in raw mode. Dropping it, also while a panic unwinds, restores what was set before.
///
/// A signal that ends the process would skip that: wait for [`Ending`] beside the session and let both end together.
pub struct RawTerminal {
    /// Of our own, so that it outlives whatever the caller does to the original.
    terminal: OwnedFd,
    before: Termios,
}

impl RawTerminal {
    /// Puts the terminal in raw mode.
    ///
    /// # Errors
    /// Those of the system, among them that it is no terminal.
    pub fn enter(terminal: impl AsFd) -> io::Result<Self> {
        let terminal = terminal.as_fd().try_clone_to_owned()?;
        let before = tcgetattr(&terminal)?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(&terminal, SetArg::TCSADRAIN, &raw)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // The terminal may be gone, as when its window was closed; then nothing is left to restore.
        let _ = tcsetattr(&self.terminal, SetArg::TCSADRAIN, &self.before);
    }
}

impl std::fmt::Debug for RawTerminal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RawTerminal")
    }
}

/// Signals that ask this program to end. While it lives they do not end it by themselves. Those that were ignored when the program
/// began, as `nohup` and shells do it for the background, stay ignored.
#[derive(Debug)]
pub struct Ending {
    hangup: Option<Signal>,
    interrupt: Option<Signal>,
    quit: Option<Signal>,
    terminate: Option<Signal>,
}

impl Ending {
    /// Begins to listen.
    ///
    /// # Errors
    /// Those of the system.
    pub fn listen() -> io::Result<Self> {
        let ignored = ignored();
        let listen = |kind: SignalKind| {
            let bit = u32::try_from(kind.as_raw_value() - 1).unwrap_or(u32::MAX);
            let ignored = ignored.checked_shr(bit).unwrap_or(0) & 1 == 1;
            (!ignored).then(|| signal(kind)).transpose()
        };
        Ok(Self {
            hangup: listen(SignalKind::hangup())?,
            interrupt: listen(SignalKind::interrupt())?,
            quit: listen(SignalKind::quit())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    /// The next signal, as the status that a shell reports for a program that it killed. Cancel safe.
    pub async fn next(&mut self) -> u8 {
        tokio::select! {
            () = next(&mut self.hangup) => 129,
            () = next(&mut self.interrupt) => 130,
            () = next(&mut self.quit) => 131,
            () = next(&mut self.terminate) => 143,
        }
    }
}

async fn next(signal: &mut Option<Signal>) {
    let came = match signal {
        Some(signal) => signal.recv().await,
        None => None,
    };
    if came.is_none() {
        std::future::pending::<()>().await;
    }
}

/// The signals that this process ignores, as a set of bits; none where the system does not tell.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let set = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    set.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use nix::sys::termios::LocalFlags;

    use super::*;

    #[test]
    fn raw_mode_ends_with_the_guard_also_after_a_panic() {
        let pty = nix::pty::openpty(None, None).unwrap();
        let echoes = || tcgetattr(&pty.slave).unwrap().local_flags.contains(LocalFlags::ECHO);
        assert!(echoes());
        let guard = RawTerminal::enter(&pty.slave).unwrap();
        assert!(!echoes());
        drop(guard);
        assert!(echoes());
        #[expect(clippy::panic, reason = "the panic is what is tested")]
        let unwound = std::panic::catch_unwind(|| {
            let _guard = RawTerminal::enter(&pty.slave).unwrap();
            assert!(!echoes());
            panic!("expected by the test");
        });
        assert!(unwound.is_err() && echoes());
    }

    #[test]
    fn what_is_no_terminal_is_refused() {
        assert!(RawTerminal::enter(std::fs::File::open("/dev/null").unwrap()).is_err());
    }
}
