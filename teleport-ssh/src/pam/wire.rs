//! What the node and the process that asks PAM say to each other: each message is JSON behind its length.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::sys::accounts::Account;

/// The longest message: a command line and an environment, byte by byte as numbers.
pub(super) const MAX: usize = 4 << 20;
/// The bytes of its length.
pub(super) const HEADER: usize = 4;

/// From the node.
#[derive(Debug, Deserialize, Serialize)]
pub(super) enum Request {
    /// Whether PAM can be used at all.
    Check { service: Service },
    /// Open a session.
    Open {
        service: Service,
        account: WireAccount,
        remote_host: String,
        remote_user: String,
        terminal: Option<String>,
        variables: Vec<(String, String)>,
    },
    /// A signal to the session's process group.
    Signal(i32),
    /// Start the session's process. Its descriptors follow, each with a byte.
    Start { program: Vec<u8>, arguments: Vec<Vec<u8>>, environment: Vec<Vec<u8>>, terminal: bool },
}

/// To the node.
#[derive(Debug, Deserialize, Serialize)]
pub(super) enum Answer {
    /// How the session's process has ended.
    Ended { code: Option<u8>, signal: i32, core_dumped: bool },
    /// The process is not started.
    NotStarted { reason: String },
    /// The session is open.
    Opened { variables: Vec<Vec<u8>>, messages: Vec<String> },
    /// PAM does not permit it.
    Refused { reason: String, messages: Vec<String> },
    /// The process runs.
    Started { pid: i32 },
    /// PAM cannot be used.
    Unusable { reason: String },
}

#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Service {
    pub(super) name: String,
    pub(super) directory: Option<Vec<u8>>,
}

#[derive(Debug, Deserialize, Serialize)]
pub(super) struct WireAccount {
    name: String,
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    home: Vec<u8>,
    shell: Vec<u8>,
}

impl From<&Account> for WireAccount {
    fn from(account: &Account) -> Self {
        Self {
            name: account.name.clone(),
            uid: account.uid,
            gid: account.gid,
            groups: account.groups.clone(),
            home: account.home.as_os_str().as_bytes().to_vec(),
            shell: account.shell.as_os_str().as_bytes().to_vec(),
        }
    }
}

impl From<WireAccount> for Account {
    fn from(account: WireAccount) -> Self {
        let WireAccount { name, uid, gid, groups, home, shell } = account;
        Self { name, uid, gid, groups, home: path(home), shell: path(shell) }
    }
}

pub(super) fn path(bytes: Vec<u8>) -> PathBuf {
    OsString::from_vec(bytes).into()
}

/// A message with its length.
pub(super) fn frame(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let text = serde_json::to_vec(message)?;
    let length = u32::try_from(text.len()).ok().filter(|_| text.len() <= MAX);
    let length = length.ok_or(io::ErrorKind::InvalidData)?;
    Ok([&length.to_be_bytes()[..], &text].concat())
}

/// The length that a header says.
pub(super) fn length(header: [u8; HEADER]) -> io::Result<usize> {
    let length = usize::try_from(u32::from_be_bytes(header)).map_err(io::Error::other)?;
    if length <= MAX { Ok(length) } else { Err(io::ErrorKind::InvalidData.into()) }
}

pub(super) fn write(to: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    to.write_all(&frame(message)?)
}

/// The next message, and no byte of what follows it; `None` at the end.
pub(super) fn read<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<Option<T>> {
    let mut header = [0; HEADER];
    match from.read_exact(&mut header) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let mut text = vec![0; length(header)?];
    from.read_exact(&mut text)?;
    Ok(Some(serde_json::from_slice(&text)?))
}
