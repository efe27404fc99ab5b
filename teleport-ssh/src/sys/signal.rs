//! Signals by the names that SSH gives them (RFC 4254, section 6.10).

use std::ffi::c_int;
use std::fmt;

/// A signal number of this operating system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Signal(c_int);

/// The thirteen names of RFC 4254; no other signal can be asked for by a client.
const NAMES: [(&str, c_int); 13] = [
    ("ABRT", libc::SIGABRT),
    ("ALRM", libc::SIGALRM),
    ("FPE", libc::SIGFPE),
    ("HUP", libc::SIGHUP),
    ("ILL", libc::SIGILL),
    ("INT", libc::SIGINT),
    ("KILL", libc::SIGKILL),
    ("PIPE", libc::SIGPIPE),
    ("QUIT", libc::SIGQUIT),
    ("SEGV", libc::SIGSEGV),
    ("TERM", libc::SIGTERM),
    ("USR1", libc::SIGUSR1),
    ("USR2", libc::SIGUSR2),
];

impl Signal {
    /// Hang-up: the terminal or the connection is gone.
    pub const HUP: Self = Self(libc::SIGHUP);
    /// Interrupt, as by Ctrl-C.
    pub const INT: Self = Self(libc::SIGINT);
    /// Kill; cannot be caught.
    pub const KILL: Self = Self(libc::SIGKILL);
    /// Polite request to end.
    pub const TERM: Self = Self(libc::SIGTERM);

    /// Reads a name as it stands in a `signal` request, without the prefix `SIG`.
    ///
    /// `None` for any name that RFC 4254 does not list: a client cannot, for example, stop a process.
    #[must_use]
    pub fn from_ssh_name(name: &str) -> Option<Self> {
        NAMES.iter().find(|(known, _)| *known == name).map(|&(_, number)| Self(number))
    }

    /// The signal with this number; used for what the kernel reports.
    #[must_use]
    pub fn from_number(number: i32) -> Self {
        Self(number)
    }

    /// The number of this operating system.
    #[must_use]
    pub fn number(self) -> i32 {
        self.0
    }

    /// The name for an `exit-signal` message.
    ///
    /// A signal without a name of its own in RFC 4254 is told as OpenSSH tells it, in the form that the
    /// RFC reserves for private names.
    #[must_use]
    pub fn ssh_name(self) -> &'static str {
        NAMES.iter().find(|&&(_, number)| number == self.0).map_or("SIG@openssh.com", |&(name, _)| name)
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|&&(_, number)| number == self.0) {
            Some((name, _)) => write!(f, "SIG{name}"),
            None => write!(f, "signal {}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listed_name_goes_there_and_back() {
        for (name, number) in NAMES {
            let signal = Signal::from_ssh_name(name);
            assert_eq!(signal.map(Signal::number), Some(number));
            assert_eq!(signal.map(Signal::ssh_name), Some(name));
        }
    }

    #[test]
    fn nothing_else_can_be_asked_for() {
        for name in ["", "STOP", "CONT", "SIGHUP", "hup", "9", "WINCH", "HUP ", "KILL\0", "SEGV@openssh.com"]
        {
            assert_eq!(Signal::from_ssh_name(name), None, "{name:?}");
        }
    }

    #[test]
    fn unlisted_signals_keep_a_name() {
        assert_eq!(Signal::from_number(libc::SIGBUS).ssh_name(), "SIG@openssh.com");
        assert_eq!(Signal::from_number(libc::SIGBUS).to_string(), format!("signal {}", libc::SIGBUS));
        assert_eq!(Signal::TERM.to_string(), "SIGTERM");
    }
}
