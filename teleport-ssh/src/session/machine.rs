//! The order of requests on one session channel: pure. At most one terminal, then exactly one program, then only changes of
//! the window and signals.

use teleport_core::id::SessionId;
use teleport_core::resource::JoinMode;

use crate::scp::ScpCommand;
use crate::session::{SessionKind, Terminal, TerminalSize};
use crate::sys::environment::{AllowList, ClientEnv};

/// The longest command, in bytes.
const MAX_COMMAND: usize = 128 * 1024;
/// The longest name of a terminal type, in bytes.
const MAX_TERM: usize = 256;
/// The longest reason for joining a session, in bytes.
const MAX_REASON: usize = 256;
/// The name of the subsystem for files.
const SFTP: &str = "sftp";
/// A forced command of this name is the SFTP server, as in OpenSSH.
const INTERNAL_SFTP: &str = "internal-sftp";
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
    /// Whether there is an SFTP server.
    pub(crate) sftp: bool,
}

impl SessionPolicy {
    /// What a command line starts: files are served without a shell where that is all it asks for.
    fn kind(&self, line: Vec<u8>) -> SessionKind {
        match ScpCommand::parse(&line).filter(|_| self.sftp) {
            Some(command) => SessionKind::Scp(command),
            None => SessionKind::Exec(line),
        }
    }
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
    /// The session that is to be joined instead of beginning one.
    pub(crate) join: Option<JoinAsked>,
}

/// A session that is to be joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JoinAsked {
    /// `None` for what is no id of a session, and so of none that there is.
    pub(crate) session: Option<SessionId>,
    pub(crate) mode: JoinMode,
    /// Why; may be empty.
    pub(crate) reason: String,
}

/// What clients say about joining, by the variables that the original product has for that.
#[derive(Debug, Default)]
struct Joining {
    session: Option<Option<SessionId>>,
    mode: Option<JoinMode>,
    reason: String,
}

impl Joining {
    /// Takes note of a variable; whether it says something. `None` if it is not about joining.
    fn set(&mut self, name: &str, value: &str) -> Option<bool> {
        match name {
            "TELEPORT_SESSION" => {
                // Whoever mistypes an id must not find themselves in a shell of their own.
                self.session = Some(value.parse().ok());
                Some(true)
            }
            "TELEPORT_SSH_JOIN_MODE" => {
                self.mode = value.parse().ok();
                Some(self.mode.is_some())
            }
            "TELEPORT_SESSION_REASON" => {
                let good = value.len() <= MAX_REASON && !value.chars().any(char::is_control);
                if good {
                    value.clone_into(&mut self.reason);
                }
                Some(good)
            }
            _ => None,
        }
    }

    fn is_asked(&self) -> bool {
        self.session.is_some()
    }

    fn finish(self) -> Option<JoinAsked> {
        let mode = self.mode.unwrap_or(JoinMode::Observer);
        self.session.map(|session| JoinAsked { session, mode, reason: self.reason })
    }
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
    Open { terminal: Option<Terminal>, env: ClientEnv, join: Joining },
    Running { terminal: bool },
}

impl Machine {
    /// For a new channel.
    pub(crate) fn new(policy: SessionPolicy) -> Self {
        let env = ClientEnv::new(policy.env.clone());
        Self { policy, state: State::Open { terminal: None, env, join: Joining::default() }, requests: 0 }
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
            State::Open { terminal, env, join } => {
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
                    Request::Env { name, value } => match join.set(&name, &value) {
                        Some(true) => Verdict::Accept,
                        Some(false) => Verdict::Refuse("the variable says nothing about joining a session"),
                        None => match env.set(&name, &value) {
                            Ok(()) => Verdict::Accept,
                            Err(_) => Verdict::Refuse("the variable may not be set"),
                        },
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
                    Request::Exec(_) if join.is_asked() => {
                        Verdict::Refuse("nothing is started in a session that is joined")
                    }
                    Request::Exec(command) => {
                        let kind = self.policy.kind(command);
                        self.start(kind)
                    }
                    Request::Shell => self.start(SessionKind::Shell),
                    Request::Subsystem(_) if join.is_asked() => {
                        Verdict::Refuse("nothing is started in a session that is joined")
                    }
                    Request::Subsystem(name) if name == SFTP && self.policy.sftp => {
                        self.start(SessionKind::Sftp)
                    }
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
        let State::Open { terminal, env, join } = &mut self.state else {
            return Verdict::Refuse("the session has begun");
        };
        let (terminal, env, join) = (terminal.take(), std::mem::take(env), std::mem::take(join).finish());
        let (kind, original_command) = match &self.policy.force_command {
            None => (asked, None),
            Some(forced) => {
                let kind = if forced == INTERNAL_SFTP && self.policy.sftp {
                    SessionKind::Sftp
                } else {
                    self.policy.kind(forced.clone().into_bytes())
                };
                let original = match asked {
                    SessionKind::Exec(command) => Some(command),
                    SessionKind::Scp(command) => Some(command.line().to_vec()),
                    SessionKind::Sftp => Some(SFTP.as_bytes().to_vec()),
                    SessionKind::Shell => None,
                };
                (kind, original)
            }
        };
        // The protocol's bytes must pass unchanged.
        let terminal = terminal.filter(|_| !matches!(kind, SessionKind::Scp(_) | SessionKind::Sftp));
        self.state = State::Running { terminal: terminal.is_some() };
        Verdict::Start(Box::new(Launch { kind, original_command, terminal, env, join }))
    }
}

#[cfg(test)]
mod tests;
