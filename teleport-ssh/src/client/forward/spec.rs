//! What is forwarded where, in the words of `ssh`.
//!
//! ```text
//! -L  [bind:]port:host:hostport   [bind:]port:/socket   /socket:host:hostport   /socket:/socket
//! -R  the same, and [bind:]port alone: a SOCKS proxy at the node
//! -D  [bind:]port
//! ```
//!
//! An IPv6 address stands in brackets, a backslash takes the meaning from what follows it, and what begins with a slash is the path
//! of a unix socket.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The longest text of a forward.
const MAX_LEN: usize = 1024;
/// The longest name of a host.
const MAX_HOST: usize = 255;
/// The longest path of a unix socket that systems take.
const MAX_PATH: usize = 107;

/// A text is not a forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidForward {
    /// A host that is none.
    #[error("a host is a name or an address of 1 to {MAX_HOST} letters; IPv6 addresses stand in brackets")]
    Host,
    /// A path that systems do not take.
    #[error("the path of a socket begins with / and has at most {MAX_PATH} bytes")]
    Path,
    /// A port that is none.
    #[error("a port is a number from 1 to 65535")]
    Port,
    /// The parts are not those of a forward.
    #[error("it is written as [bind_address:]port:host:hostport; /path may stand for address and port")]
    Syntax,
    /// The parts are not those of a dynamic forward.
    #[error("it is written as [bind_address:]port")]
    SyntaxDynamic,
}

/// Where connections of a forward go.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "whoever connects must think of each")]
pub enum Destination {
    /// A port of a host, as whoever connects to it names that.
    Tcp {
        /// Name or address, without brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// A unix socket.
    Unix(PathBuf),
}

/// At which address is listened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "whoever listens must think of each")]
pub enum BindAddress {
    /// At all (`*`, or nothing before the colon).
    All,
    /// At this one.
    Host(String),
    /// At loopback: none was given.
    #[default]
    Loopback,
}

/// Where is listened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "whoever listens must think of each")]
pub enum Listen {
    /// On a port.
    Tcp {
        /// At which address.
        bind: BindAddress,
        /// The port; 0 for one that the listening system chooses.
        port: u16,
    },
    /// On a unix socket.
    Unix(PathBuf),
}

/// Who says where a connection goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "whoever connects must think of each")]
pub enum Target {
    /// Whoever connects, by SOCKS.
    Dynamic,
    /// The forward.
    To(Destination),
}

/// A forward: where is listened, and where each connection goes. On which side is which is up to who uses it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_structs, reason = "callers build it")]
pub struct Forward {
    /// Where is listened.
    pub listen: Listen,
    /// Where connections go.
    pub to: Target,
}

/// A part between colons.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    text: String,
    /// It stood in brackets.
    bracketed: bool,
}

impl Forward {
    /// What `ssh -L` takes.
    ///
    /// # Errors
    /// [`InvalidForward`].
    pub fn local(text: &str) -> Result<Self, InvalidForward> {
        let forward = Self::two_sided(&parts(text)?)?;
        match forward.listen {
            Listen::Tcp { port: 0, .. } => Err(InvalidForward::Port),
            _ => Ok(forward),
        }
    }

    /// What `ssh -R` takes. A port of 0 is one that the node chooses.
    ///
    /// # Errors
    /// [`InvalidForward`].
    pub fn remote(text: &str) -> Result<Self, InvalidForward> {
        let parts = parts(text)?;
        match parts.as_slice() {
            [one] if one.is_path() => Ok(Self { listen: Listen::Unix(one.path()?), to: Target::Dynamic }),
            [port] => Ok(Self { listen: listen(None, port)?, to: Target::Dynamic }),
            [bind, port] if !bind.is_path() && !port.is_path() => {
                Ok(Self { listen: listen(Some(bind), port)?, to: Target::Dynamic })
            }
            several => Self::two_sided(several),
        }
    }

    /// What `ssh -D` takes.
    ///
    /// # Errors
    /// [`InvalidForward`].
    pub fn dynamic(text: &str) -> Result<Self, InvalidForward> {
        let parts = parts(text)?;
        let listen = match parts.as_slice() {
            [port] => listen(None, port)?,
            [bind, port] if !bind.is_path() => listen(Some(bind), port)?,
            _ => return Err(InvalidForward::SyntaxDynamic),
        };
        match listen {
            Listen::Tcp { port: 0, .. } => Err(InvalidForward::Port),
            listen => Ok(Self { listen, to: Target::Dynamic }),
        }
    }

    fn two_sided(parts: &[Part]) -> Result<Self, InvalidForward> {
        let (listen, to) = match parts {
            [socket, to] if socket.is_path() && to.is_path() => {
                (Listen::Unix(socket.path()?), Destination::Unix(to.path()?))
            }
            [port, to] if to.is_path() => (listen(None, port)?, Destination::Unix(to.path()?)),
            [bind, port, to] if to.is_path() && !bind.is_path() => {
                (listen(Some(bind), port)?, Destination::Unix(to.path()?))
            }
            [socket, host, port] if socket.is_path() => (Listen::Unix(socket.path()?), tcp(host, port)?),
            [at, host, port] => (listen(None, at)?, tcp(host, port)?),
            [bind, at, host, port] if !bind.is_path() => (listen(Some(bind), at)?, tcp(host, port)?),
            _ => return Err(InvalidForward::Syntax),
        };
        Ok(Self { listen, to: Target::To(to) })
    }
}

impl Part {
    fn is_path(&self) -> bool {
        !self.bracketed && self.text.starts_with('/')
    }

    fn path(&self) -> Result<PathBuf, InvalidForward> {
        let fits =
            self.text.len() <= MAX_PATH && self.text.len() > 1 && !self.text.contains(char::is_control);
        fits.then(|| PathBuf::from(&self.text)).ok_or(InvalidForward::Path)
    }

    fn port(&self) -> Result<u16, InvalidForward> {
        let digits =
            !self.bracketed && !self.text.is_empty() && self.text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| self.text.parse().ok()).flatten().ok_or(InvalidForward::Port)
    }

    fn host(&self) -> Result<String, InvalidForward> {
        host(&self.text).map(str::to_owned).ok_or(InvalidForward::Host)
    }
}

/// A name or address that can be looked up, and stand in a line of a log.
pub(super) fn host(text: &str) -> Option<&str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:%".contains(&byte);
    let fits = (1..=MAX_HOST).contains(&text.len()) && text.bytes().all(plain) && !text.starts_with('-');
    // Only addresses have colons, and only they can be written in brackets again.
    let is_one = !text.contains(':') || text.parse::<std::net::Ipv6Addr>().is_ok();
    (fits && is_one).then_some(text)
}

fn listen(bind: Option<&Part>, port: &Part) -> Result<Listen, InvalidForward> {
    let bind = match bind {
        None => BindAddress::Loopback,
        Some(bind) if bind.bracketed => BindAddress::Host(bind.host()?),
        Some(bind) => match bind.text.as_str() {
            "" | "*" => BindAddress::All,
            "localhost" => BindAddress::Loopback,
            _ => BindAddress::Host(bind.host()?),
        },
    };
    Ok(Listen::Tcp { bind, port: port.port()? })
}

fn tcp(host: &Part, port: &Part) -> Result<Destination, InvalidForward> {
    match (host.host()?, port.port()?) {
        (_, 0) => Err(InvalidForward::Port),
        (host, port) => Ok(Destination::Tcp { host, port }),
    }
}

fn parts(text: &str) -> Result<Vec<Part>, InvalidForward> {
    if text.len() > MAX_LEN {
        return Err(InvalidForward::Syntax);
    }
    let mut parts = Vec::new();
    let mut letters = text.chars().peekable();
    loop {
        let mut part = Part { text: String::new(), bracketed: false };
        if letters.next_if_eq(&'[').is_some() {
            part.bracketed = true;
            loop {
                match letters.next() {
                    Some(']') => break,
                    Some(letter) => part.text.push(letter),
                    None => return Err(InvalidForward::Syntax),
                }
            }
            if part.text.parse::<std::net::Ipv6Addr>().is_err() {
                return Err(InvalidForward::Host);
            }
        } else {
            while let Some(letter) = letters.next_if(|letter| *letter != ':') {
                match letter {
                    '\\' => part.text.push(letters.next().ok_or(InvalidForward::Syntax)?),
                    letter => part.text.push(letter),
                }
            }
        }
        parts.push(part);
        match letters.next() {
            None => return Ok(parts),
            Some(':') => {}
            Some(_) => return Err(InvalidForward::Syntax),
        }
    }
}

fn in_brackets(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

fn escaped(path: &Path) -> String {
    path.display().to_string().replace('\\', "\\\\").replace(':', "\\:")
}

/// As a forward has it.
impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } => write!(f, "{}:{port}", in_brackets(host)),
            Self::Unix(path) => f.write_str(&escaped(path)),
        }
    }
}

/// As a forward has it.
impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { bind: BindAddress::All, port } => write!(f, "*:{port}"),
            Self::Tcp { bind: BindAddress::Host(host), port } => write!(f, "{}:{port}", in_brackets(host)),
            Self::Tcp { bind: BindAddress::Loopback, port } => write!(f, "{port}"),
            Self::Unix(path) => f.write_str(&escaped(path)),
        }
    }
}

/// As `ssh` has it on its command line.
impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.to {
            Target::Dynamic => write!(f, "{}", self.listen),
            Target::To(to) => write!(f, "{}:{to}", self.listen),
        }
    }
}

/// `host:port`, `[address]:port` or `/path`.
impl FromStr for Destination {
    type Err = InvalidForward;

    fn from_str(text: &str) -> Result<Self, InvalidForward> {
        match parts(text)?.as_slice() {
            [path] if path.is_path() => Ok(Self::Unix(path.path()?)),
            [host, port] => tcp(host, port),
            _ => Err(InvalidForward::Syntax),
        }
    }
}

#[cfg(test)]
mod tests;
