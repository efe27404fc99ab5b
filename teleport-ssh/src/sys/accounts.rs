//! Accounts of the operating system, as plain data that no later step has to look up again.
//!
//! Everything that may block or take a lock (name service, shadow file) happens here, before any process
//! is started: between `fork` and `execve` nothing of it would be allowed.

mod login_defs;
mod shadow;
#[cfg(test)]
mod tests;

pub use login_defs::LoginDefs;

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::unistd::{User, getgrouplist};

use super::host;
use shadow::Shadow;

/// How much of a `nologin` file is shown to the user, in bytes.
const NOTICE_LIMIT: u64 = 4096;

/// An account of the operating system, with all that is needed to start a process for it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Account {
    /// The login name.
    pub name: String,
    /// The user id.
    pub uid: u32,
    /// The primary group id.
    pub gid: u32,
    /// Every group of the account, the primary one among them; sorted, without repetition.
    pub groups: Vec<u32>,
    /// The home directory; `/` where the database names none. It need not exist.
    pub home: PathBuf,
    /// The login shell; `/bin/sh` where the database names none.
    pub shell: PathBuf,
}

/// Why an account cannot be used.
///
/// The variants are for the log and the audit event. A peer is told no more than that access is denied,
/// except for [`Closed`](Self::Closed), whose text the administrator wrote for it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AccountError {
    /// The administrator closed the system for all but root; the text is what the file says.
    #[error("logins are closed by {}", file.display())]
    Closed {
        /// The file that closes the system.
        file: PathBuf,
        /// Its text, cut after 4 KiB.
        notice: String,
    },
    /// The account's expiry date has come.
    #[error("the account {login:?} has expired")]
    Expired {
        /// The login name.
        login: String,
    },
    /// The account's password is locked, and the rules say that this locks the account.
    #[error("the account {login:?} is locked")]
    Locked {
        /// The login name.
        login: String,
    },
    /// This process is not root and can only serve its own account.
    #[error("this process runs as user id {daemon} and cannot start processes for {login:?} (user id {uid})")]
    NeedsRoot {
        /// The login name.
        login: String,
        /// The user id of the account.
        uid: u32,
        /// The user id of this process.
        daemon: u32,
    },
    /// There is no such account.
    #[error("there is no account {login:?} on this machine")]
    Unknown {
        /// The login name.
        login: String,
    },
    /// The account database cannot be read, or the lookup was ended.
    #[error("the account {login:?} cannot be looked up")]
    Unreadable {
        /// The login name.
        login: String,
        /// What the system said.
        source: io::Error,
    },
}

/// What is demanded of an account beyond its existence.
#[derive(Clone, Debug)]
pub struct LoginRules {
    /// Refuse accounts whose password is locked (`!`). Off by default, as in an sshd that leaves accounts to
    /// PAM: `useradd` makes accounts with a locked password, and `usermod --lock` is documented to lock
    /// the password alone. To close an account, let it expire.
    pub refuse_locked: bool,
    /// Files that close the system to all but root while they exist.
    pub nologin_files: Vec<PathBuf>,
}

impl Default for LoginRules {
    fn default() -> Self {
        Self { refuse_locked: false, nologin_files: vec!["/etc/nologin".into(), "/run/nologin".into()] }
    }
}

/// Looks an account up and checks that it may be used now; runs on the blocking pool.
///
/// `unix_seconds` is the present time. Cancel safe: a dropped call only wastes the lookup.
///
/// # Errors
/// Every variant of [`AccountError`].
pub async fn resolve(login: &str, unix_seconds: i64, rules: &LoginRules) -> Result<Account, AccountError> {
    let (name, rules) = (login.to_owned(), rules.clone());
    let lookup = tokio::task::spawn_blocking(move || {
        let account = Account::lookup(&name)?;
        account.check(unix_seconds, &rules)?;
        Ok(account)
    });
    match lookup.await {
        Ok(answer) => answer,
        Err(ended) => {
            Err(AccountError::Unreadable { login: login.to_owned(), source: io::Error::other(ended) })
        }
    }
}

impl Account {
    /// Reads an account from the system's database. May block on the name service.
    ///
    /// # Errors
    /// [`AccountError::Unknown`] or [`AccountError::Unreadable`].
    pub fn lookup(login: &str) -> Result<Self, AccountError> {
        let unreadable =
            |source| AccountError::Unreadable { login: login.to_owned(), source: io::Error::from(source) };
        let unknown = || AccountError::Unknown { login: login.to_owned() };
        // An interior NUL can be part of no account name.
        let c_name = CString::new(login).map_err(|_| unknown())?;
        let user = User::from_name(login).map_err(unreadable)?.ok_or_else(unknown)?;
        let mut groups: Vec<u32> = getgrouplist(&c_name, user.gid)
            .map_err(unreadable)?
            .into_iter()
            .map(|gid| gid.as_raw())
            .collect();
        groups.sort_unstable();
        groups.dedup();
        Ok(Self {
            name: user.name,
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
            groups,
            home: or_default(user.dir, "/"),
            shell: or_default(user.shell, "/bin/sh"),
        })
    }

    /// Checks that a process may be started for this account at `unix_seconds`.
    ///
    /// A shell such as `/usr/sbin/nologin` is no reason to refuse: it is run and says its own word.
    /// The shadow file is read only where this process is root, as nobody else can.
    ///
    /// # Errors
    /// Any variant but [`AccountError::Unknown`].
    pub fn check(&self, unix_seconds: i64, rules: &LoginRules) -> Result<(), AccountError> {
        self.check_startable()?;
        if self.uid != 0 {
            check_open(&rules.nologin_files)?;
        }
        if !host::is_root() {
            return Ok(());
        }
        let shadow = Shadow::lookup(&self.name)
            .map_err(|source| AccountError::Unreadable { login: self.name.clone(), source })?;
        match shadow {
            Some(shadow) if shadow.is_expired(unix_seconds) => {
                Err(AccountError::Expired { login: self.name.clone() })
            }
            Some(shadow) if rules.refuse_locked && shadow.is_locked => {
                Err(AccountError::Locked { login: self.name.clone() })
            }
            _ => Ok(()),
        }
    }

    /// Checks only that this process has the rights to become this account.
    ///
    /// # Errors
    /// [`AccountError::NeedsRoot`].
    pub fn check_startable(&self) -> Result<(), AccountError> {
        let daemon = host::effective_uid();
        if daemon == 0 || daemon == self.uid {
            return Ok(());
        }
        Err(AccountError::NeedsRoot { login: self.name.clone(), uid: self.uid, daemon })
    }
}

fn check_open(nologin_files: &[PathBuf]) -> Result<(), AccountError> {
    for file in nologin_files {
        match read_notice(file) {
            Ok(notice) => return Err(AccountError::Closed { file: file.clone(), notice }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // It exists, which is what counts; its words are a courtesy.
            Err(_) => return Err(AccountError::Closed { file: file.clone(), notice: String::new() }),
        }
    }
    Ok(())
}

fn read_notice(file: &Path) -> io::Result<String> {
    let mut text = Vec::new();
    File::open(file)?.take(NOTICE_LIMIT).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn or_default(path: PathBuf, default: &str) -> PathBuf {
    if path.as_os_str().as_bytes().is_empty() { PathBuf::from(default) } else { path }
}
