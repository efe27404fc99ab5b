//! Small facts about this machine and this process.

use std::io;

use nix::unistd::{Uid, User, geteuid, gethostname};

/// The host name that the kernel holds, as text.
///
/// # Errors
/// When the kernel does not tell it, or it is no UTF-8.
pub fn hostname() -> io::Result<String> {
    gethostname()?
        .into_string()
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "the host name is not valid UTF-8"))
}

/// Whether this process may start processes for other accounts.
#[must_use]
pub fn is_root() -> bool {
    geteuid().is_root()
}

/// The effective user id of this process.
#[must_use]
pub fn effective_uid() -> u32 {
    geteuid().as_raw()
}

/// The login name that belongs to the effective user id of this process.
///
/// May block on the system's name service.
///
/// # Errors
/// When the account database cannot be read, or knows no name for the id.
pub fn current_login() -> io::Result<String> {
    let uid = Uid::effective();
    User::from_uid(uid)?.map(|user| user.name).ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, format!("no account has the user id {}", uid.as_raw()))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn agrees_with_the_tools_of_the_system() {
        let said = |program: &str, args: &[&str]| {
            let output = std::process::Command::new(program).args(args).output().unwrap();
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        };
        assert_eq!(hostname().unwrap(), said("uname", &["-n"]));
        assert_eq!(current_login().unwrap(), said("id", &["-un"]));
        assert_eq!(effective_uid().to_string(), said("id", &["-u"]));
        assert_eq!(is_root(), effective_uid() == 0);
    }
}
