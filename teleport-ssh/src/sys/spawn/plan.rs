//! All that a child needs, in the form in which the kernel takes it.

use std::ffi::{CString, c_char};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

use super::SpawnError;
use crate::sys::accounts::Account;
use crate::sys::environment::Environment;
use crate::sys::host;

/// A process to be, computed while computing is still allowed.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) program: CString,
    pub(super) arguments: Vec<CString>,
    pub(super) environment: Vec<CString>,
    pub(super) home: CString,
    /// Printed, with the reason, where the home directory cannot be entered.
    pub(super) homeless: Vec<u8>,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Sorted, as the kernel answers them.
    pub(super) groups: Vec<u32>,
    /// Whether this process is root, and the child takes the account's ids instead of keeping ours.
    pub(super) takes_ids: bool,
    /// Whether the child must not borrow our memory.
    pub(super) copies_memory: bool,
    /// Whether the child's limits and umask are as this process has them.
    pub(super) keeps_limits: bool,
}

impl Plan {
    pub(super) fn new(
        account: &Account,
        environment: Environment,
        program: &Path,
        arguments: Vec<Vec<u8>>,
    ) -> Result<Self, SpawnError> {
        if !program.is_absolute() {
            return Err(SpawnError::Invalid { what: "program without an absolute path" });
        }
        let path = |path: &Path, what| {
            CString::new(path.as_os_str().as_bytes()).map_err(|_| SpawnError::Invalid { what })
        };
        let home = path(&account.home, "home directory")?;
        Ok(Self {
            program: path(program, "path of the program")?,
            arguments: arguments
                .into_iter()
                .map(|argument| CString::new(argument).map_err(|_| SpawnError::Invalid { what: "argument" }))
                .collect::<Result<_, _>>()?,
            environment: environment.into_entries(),
            homeless: [b"Could not chdir to home directory ", home.to_bytes(), b": "].concat(),
            home,
            uid: account.uid,
            gid: account.gid,
            groups: account.groups.clone(),
            takes_ids: host::is_root(),
            copies_memory: false,
            keeps_limits: false,
        })
    }

    /// User and primary group of the process.
    pub(super) fn owner(&self) -> (u32, u32) {
        (self.uid, self.gid)
    }

    /// Whether the child will have fewer rights than this process.
    pub(super) fn drops_rights(&self) -> bool {
        self.takes_ids && self.uid != 0
    }
}

/// The pointers to strings, ended by a null, that `execve` takes. Valid as long as the strings.
pub(super) fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
}
