//! The order of requests on one session channel: pure. At most one terminal, then exactly one program, then only changes of
//! the window and signals.

use crate::session::{SessionKind, Terminal, TerminalSize};
use crate::sys::environment::{AllowList, ClientEnv};

/// The longest command, in bytes.
const MAX_COMMAND: usize = 128 * 1024;
/// The longest name of a terminal type, in bytes.
const MAX_TERM: usize = 256;
/// Requests before the program starts.
const MAX_REQUESTS: u32 = 512;

/// What the connection's certificate and roles say about its sessions.
#[derive(Clone, Debug, Default)]
pub(crate) struct SessionPolicy {
    /// Whether terminals are permitted.
    pub(crate) pty: bool,
    /// The only command that may run.
    pub(crate) force_command: Option<String>,
    /// Variables that clients may set.
    pub(crate) env: AllowList,
}

/// A request on a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    Env { name: String, value: String },
    Exec(Vec<u8>),
    Pty(Terminal),
    Shell,
    Signal(String),
    Subsystem(String),
    WindowChange(TerminalSize),
}

/// What to start.
#[derive(Debug)]
pub(crate) struct Launch {
    pub(crate) kind: SessionKind,
    pub(crate) original_command: Option<Vec<u8>>,
    pub(crate) terminal: Option<Terminal>,
    pub(crate) env: ClientEnv,
}

/// What to do about a request, and whether the client hears success.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Success; nothing else to do.
    Accept,
    /// Failure, because the certificate does not permit it: worth an audit event.
    Denied(&'static str),
    /// Failure, for the reason that is logged.
    Refuse(&'static str),
    /// Success; the terminal has a new size.
    Resize(TerminalSize),
    /// Success; pass a signal on.
    Signal(String),
    /// Success; start this.
    Start(Box<Launch>),
    /// Failure; a subsystem that is not offered, worth an audit event.
    UnknownSubsystem(String),
}

/// The state of one channel.
#[derive(Debug)]
pub(crate) struct Machine {
    policy: SessionPolicy,
    state: State,
    requests: u32,
}

#[derive(Debug)]
enum State {
    Open { terminal: Option<Terminal>, env: ClientEnv },
    Running { terminal: bool },
}

impl Machine {
    /// For a new channel.
    pub(crate) fn new(policy: SessionPolicy) -> Self {
        let env = ClientEnv::new(policy.env.clone());
        Self { policy, state: State::Open { terminal: None, env }, requests: 0 }
    }

    /// Whether a program has been started.
    pub(crate) fn is_running(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }

    /// Decides about a request.
    pub(crate) fn handle(&mut self, request: Request) -> Verdict {
        match &mut self.state {
            State::Running { terminal } => match request {
                Request::WindowChange(size) if *terminal => Verdict::Resize(size),
                Request::WindowChange(_) => Verdict::Refuse("the session has no terminal"),
                Request::Signal(name) => Verdict::Signal(name),
                _ => Verdict::Refuse("the session has begun"),
            },
            State::Open { terminal, env } => {
                self.requests = self.requests.saturating_add(1);
                if self.requests > MAX_REQUESTS {
                    return Verdict::Refuse("too many requests");
                }
                match request {
                    Request::Pty(_) if !self.policy.pty => {
                        Verdict::Denied("the certificate permits no terminal")
                    }
                    Request::Pty(_) if terminal.is_some() => Verdict::Refuse("there is a terminal already"),
                    Request::Pty(asked) if asked.kind.len() > MAX_TERM => {
                        Verdict::Refuse("the terminal type is too long")
                    }
                    Request::Pty(asked) => {
                        *terminal = Some(asked);
                        Verdict::Accept
                    }
                    Request::Env { name, value } => match env.set(&name, &value) {
                        Ok(()) => Verdict::Accept,
                        Err(_) => Verdict::Refuse("the variable may not be set"),
                    },
                    Request::WindowChange(size) => match terminal {
                        Some(terminal) => {
                            terminal.size = size;
                            Verdict::Accept
                        }
                        None => Verdict::Refuse("the session has no terminal"),
                    },
                    Request::Signal(_) => Verdict::Refuse("nothing runs yet"),
                    Request::Exec(command) if command.len() > MAX_COMMAND || command.contains(&0) => {
                        Verdict::Refuse("the command is too long or holds a zero byte")
                    }
                    Request::Exec(command) => self.start(SessionKind::Exec(command)),
                    Request::Shell => self.start(SessionKind::Shell),
                    // Whatever is asked for, the forced command is what runs.
                    Request::Subsystem(name) if self.policy.force_command.is_some() => {
                        self.start(SessionKind::Exec(name.into_bytes()))
                    }
                    Request::Subsystem(name) => Verdict::UnknownSubsystem(name),
                }
            }
        }
    }

    fn start(&mut self, asked: SessionKind) -> Verdict {
        let State::Open { terminal, env } = &mut self.state else {
            return Verdict::Refuse("the session has begun");
        };
        let (terminal, env) = (terminal.take(), std::mem::take(env));
        self.state = State::Running { terminal: terminal.is_some() };
        let (kind, original_command) = match (&self.policy.force_command, asked) {
            (None, asked) => (asked, None),
            (Some(forced), SessionKind::Exec(command)) => {
                (SessionKind::Exec(forced.clone().into_bytes()), Some(command))
            }
            (Some(forced), SessionKind::Shell) => (SessionKind::Exec(forced.clone().into_bytes()), None),
        };
        Verdict::Start(Box::new(Launch { kind, original_command, terminal, env }))
    }
}

#[cfg(test)]
mod tests;
