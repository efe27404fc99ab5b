//! The environment of a user's process, built from nothing: no variable of the daemon is handed down.
//!
//! What the client may set is an allow-list, by default `LANG` and `LC_*`. Some names stay refused whatever
//! the list says, because a loader, a shell or an interpreter would run code for them; others because the
//! server tells the truth in them.

mod allow;
#[cfg(test)]
mod tests;

pub use allow::{AllowList, ClientEnv, PatternError, Refused};

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

#[cfg(target_os = "linux")]
use super::accounts::Account;

/// What a terminal is called whose client gave no name.
const DEFAULT_TERM: &str = "xterm";
/// What a terminal is called whose client gave an impossible name: programs then use no escape sequences.
const SAFE_TERM: &str = "dumb";
/// The longest accepted name of a terminal type, in bytes.
const TERM_LIMIT: usize = 64;

/// The complete environment of one process, ready for `execve`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment(Vec<CString>);

/// Everything that an environment is made of. All fields are required, so that none is forgotten.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The login name.
    pub login: &'a str,
    /// The home directory.
    pub home: &'a Path,
    /// The login shell.
    pub shell: &'a Path,
    /// The value of `PATH`.
    pub path: &'a str,
    /// The session's terminal, if it has one.
    pub terminal: Option<Terminal<'a>>,
    /// Both ends of the client's connection, where they are known.
    pub connection: Option<Connection>,
    /// Variables by which the platform tells about the session, such as its id.
    pub platform: &'a [(&'a str, &'a str)],
    /// What the client asked for and may set.
    pub client: &'a ClientEnv,
}

/// The terminal of a session.
#[derive(Clone, Copy, Debug)]
pub struct Terminal<'a> {
    /// The type as the client names it; empty is `xterm`, an impossible one is `dumb`.
    pub kind: &'a str,
    /// The path of the terminal's device.
    pub device: &'a Path,
}

/// Both ends of the client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Where the client comes from.
    pub client: SocketAddr,
    /// Where it reached this server.
    pub server: SocketAddr,
}

/// A variable that cannot be part of an environment.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the environment variable {name:?} has an impossible name or value")]
#[non_exhaustive]
pub struct EnvironmentError {
    /// The name of the variable.
    pub name: String,
}

impl Environment {
    /// Builds the environment. Pure.
    ///
    /// Where the same name comes from several sides, the server's word wins over the platform's, and the
    /// platform's over the client's.
    ///
    /// # Errors
    /// When a value of the server or the platform holds a NUL byte, or a platform name is no plain name.
    pub fn build(source: &Source<'_>) -> Result<Self, EnvironmentError> {
        let mut all: BTreeMap<&[u8], Vec<u8>> = BTreeMap::new();
        for (name, value) in source.client.iter() {
            all.insert(name.as_bytes(), value.into());
        }
        for (name, value) in source.platform {
            if !allow::is_plain_name(name) {
                return Err(EnvironmentError { name: (*name).to_owned() });
            }
            all.insert(name.as_bytes(), (*value).into());
        }
        all.insert(b"USER", source.login.into());
        all.insert(b"LOGNAME", source.login.into());
        all.insert(b"HOME", source.home.as_os_str().as_bytes().to_vec());
        all.insert(b"SHELL", source.shell.as_os_str().as_bytes().to_vec());
        all.insert(b"PATH", source.path.into());
        all.insert(b"MAIL", format!("/var/mail/{}", source.login).into());
        if let Some(terminal) = source.terminal {
            all.insert(b"TERM", term(terminal.kind).into());
            all.insert(b"SSH_TTY", terminal.device.as_os_str().as_bytes().to_vec());
        }
        if let Some(Connection { client, server }) = source.connection {
            let (from, to) = (plain(client.ip()), plain(server.ip()));
            let (from_port, to_port) = (client.port(), server.port());
            all.insert(b"SSH_CLIENT", format!("{from} {from_port} {to_port}").into());
            all.insert(b"SSH_CONNECTION", format!("{from} {from_port} {to} {to_port}").into());
        }
        all.into_iter().map(|(name, value)| entry(name, &value)).collect::<Result<_, _>>().map(Self)
    }

    /// The entries as `execve` takes them, `NAME=value`, sorted by name.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = &CStr> {
        self.0.iter().map(CString::as_c_str)
    }

    /// The value of a variable.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().find_map(|entry| entry.to_bytes().strip_prefix(name.as_bytes())?.strip_prefix(b"="))
    }

    /// Of these entries, `NAME=value`.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux starts processes"))]
    pub(crate) const fn from_entries(entries: Vec<CString>) -> Self {
        Self(entries)
    }

    /// Sets what the host has for sessions. What this server tells of the session and the account stays as it is.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux starts processes"))]
    pub(crate) fn extend(&mut self, entries: impl IntoIterator<Item = CString>) {
        const OURS: [&[u8]; 6] = [b"DISPLAY", b"HOME", b"LOGNAME", b"SHELL", b"TERM", b"USER"];
        for entry in entries {
            let mut parts = entry.to_bytes().splitn(2, |byte| *byte == b'=');
            let (Some(name), Some(_)) = (parts.next(), parts.next()) else { continue };
            if name.is_empty() || name.starts_with(b"SSH_") || OURS.contains(&name) {
                continue;
            }
            let name = [name, b"="].concat();
            self.0.retain(|entry| !entry.to_bytes().starts_with(&name));
            self.0.push(entry);
        }
        self.0.sort();
    }

    /// Takes a variable out.
    pub fn remove(&mut self, name: &str) {
        let is = |entry: &CString| {
            entry.to_bytes().strip_prefix(name.as_bytes()).is_some_and(|rest| rest.starts_with(b"="))
        };
        self.0.retain(|entry| !is(entry));
    }

    #[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux starts processes"))]
    pub(super) fn into_entries(self) -> Vec<CString> {
        self.0
    }
}

#[cfg(target_os = "linux")]
impl<'a> Source<'a> {
    /// The source for an account, without terminal, connection or platform variables.
    #[must_use]
    pub fn new(account: &'a Account, path: &'a str, client: &'a ClientEnv) -> Self {
        Self {
            login: &account.name,
            home: &account.home,
            shell: &account.shell,
            path,
            terminal: None,
            connection: None,
            platform: &[],
            client,
        }
    }
}

fn entry(name: &[u8], value: &[u8]) -> Result<CString, EnvironmentError> {
    let mut text = Vec::with_capacity(name.len() + value.len() + 2);
    text.extend_from_slice(name);
    text.push(b'=');
    text.extend_from_slice(value);
    CString::new(text).map_err(|_| EnvironmentError { name: String::from_utf8_lossy(name).into_owned() })
}

/// A terminal type becomes a part of file names (terminfo), so only plain characters pass.
fn term(kind: &str) -> &str {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"+._-".contains(&byte);
    match kind {
        "" => DEFAULT_TERM,
        kind if kind.len() <= TERM_LIMIT && kind.bytes().all(plain) && !kind.starts_with(['.', '-']) => kind,
        _ => SAFE_TERM,
    }
}

/// IPv4 addresses look like IPv4 even where the listener is a dual-stack one.
fn plain(address: IpAddr) -> IpAddr {
    address.to_canonical()
}
