//! PAM for sessions, in a process of its own for each.
//!
//! ```text
//!  node ── Open: service, account, from where ──▶ helper   root's, with the daemon's program and a hidden command
//!                                                 pam_start, pam_acct_mgmt, pam_setcred, pam_open_session
//!  node ◀── Opened: variables, messages ───────── or Refused: why
//!  node ── Start: program, environment, descriptors ──▶    fork: the session's process, with what modules changed of the
//!  node ◀── Started: its number ───────────────── helper   helper (limits, keyrings, the audit's login id), as the user
//!  node ◀── Ended: how ──────────────────────────          pam_close_session, pam_setcred, pam_end
//! ```
//!
//! Modules are code of the host that may hang, crash or change the process that calls them, so the node loads none of it: it needs no
//! library of PAM unless PAM is configured. The helper ends the session's processes and closes the session as well when the node goes away,
//! however it goes: then its end of the socket is closed.

mod client;
mod serve;
mod wire;

use std::path::{Path, PathBuf};

use teleport_core::access::{InvalidExpression, Template};
use teleport_core::cert::UserIdentity;

pub(crate) use self::client::{Opened, Opening, PamSession, check, open};
pub use self::serve::serve;

/// Where services are described, if nothing else is said: the first that has the service counts.
const DIRECTORIES: [&str; 3] = ["/etc/pam.d", "/usr/local/lib/pam.d", "/usr/lib/pam.d"];
/// The longest name of a service.
const MAX_SERVICE: usize = 64;

/// The name of a service of PAM: of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PamService {
    name: String,
    directory: Option<PathBuf>,
}

/// The text can be no name of a service of PAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a service of PAM is named by 1 to {MAX_SERVICE} lower-case letters, digits, dashes and underscores")]
pub struct InvalidService;

/// What PAM is asked about sessions.
#[derive(Clone, Debug)]
pub struct PamConfig {
    service: PamService,
    variables: Vec<Variable>,
}

#[derive(Clone, Debug)]
struct Variable {
    name: String,
    text: String,
    value: Template,
}

/// A variable for modules cannot be set so.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidVariable {
    /// Names are letters, digits and underscores.
    #[error("a variable is named by letters, digits and underscores, not a digit first")]
    Name,
    /// The value is a template that cannot be read.
    #[error("its value cannot be read")]
    Value(#[source] InvalidExpression),
}

impl PamConfig {
    /// With the modules of `account` and `session` of this service.
    pub const fn new(service: PamService) -> Self {
        Self { service, variables: Vec::new() }
    }

    /// With a variable that modules and sessions see; the value may be a template such as `{{external.team}}`. Of several values there is
    /// a list with commas; a user for whom there is none has no such variable.
    ///
    /// # Errors
    /// [`InvalidVariable`].
    pub fn variable(mut self, name: &str, value: &str) -> Result<Self, InvalidVariable> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if name.is_empty()
            || !name.bytes().all(plain)
            || name.starts_with(|first: char| first.is_ascii_digit())
        {
            return Err(InvalidVariable::Name);
        }
        let template = Template::new(value).map_err(InvalidVariable::Value)?;
        self.variables.push(Variable { name: name.to_owned(), text: value.to_owned(), value: template });
        Ok(self)
    }

    /// The service.
    pub const fn service(&self) -> &PamService {
        &self.service
    }

    /// The variables as they are configured.
    pub fn variables(&self) -> impl Iterator<Item = (&str, &str)> {
        self.variables.iter().map(|variable| (variable.name.as_str(), variable.text.as_str()))
    }

    /// What modules may know of a session of this user.
    pub(crate) fn variables_for(&self, identity: &UserIdentity, login: &str) -> Vec<(String, String)> {
        let mut all: Vec<(String, String)> = Vec::new();
        for Variable { name, value, .. } in &self.variables {
            let values = value.expand(&identity.traits);
            if !values.is_empty() {
                all.push((name.clone(), values.join(",")));
            }
        }
        let roles: Vec<&str> = identity.roles.iter().map(AsRef::as_ref).collect();
        // Behind the others, so that no configuration says otherwise.
        all.push(("TELEPORT_USERNAME".to_owned(), identity.user.to_string()));
        all.push(("TELEPORT_LOGIN".to_owned(), login.to_owned()));
        all.push(("TELEPORT_ROLES".to_owned(), roles.join(" ")));
        all
    }
}

/// Why PAM does not let a session begin, or cannot be used. For the log and the audit event.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PamRefusal {
    /// PAM said no.
    #[error("PAM refuses the session: {reason}")]
    Denied {
        /// What it said.
        reason: String,
        /// What modules have said to the user.
        messages: Vec<String>,
    },
    /// The process that asks has ended, or does not keep to what was agreed.
    #[error("the process that asks PAM has failed")]
    Helper(#[source] std::io::Error),
    /// It could not be started.
    #[error("the process that asks PAM cannot be started")]
    Start(#[from] crate::sys::spawn::SpawnError),
    /// A module hangs.
    #[error("PAM did not answer in time")]
    Timeout,
    /// There is no library, or no such service.
    #[error("PAM cannot be used: {reason}")]
    Unusable {
        /// Why not.
        reason: String,
    },
}

impl PamService {
    /// Reads the name of a service.
    ///
    /// # Errors
    /// [`InvalidService`].
    pub fn new(name: &str) -> Result<Self, InvalidService> {
        // The library makes a path of it, in small letters.
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
        if name.is_empty() || name.len() > MAX_SERVICE || !name.bytes().all(plain) {
            return Err(InvalidService);
        }
        Ok(Self { name: name.to_owned(), directory: None })
    }

    /// Described in a file of this directory, instead of where the host has such files.
    #[must_use]
    pub fn in_directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether there is a description of it. Without one the library would take that of the service `other`.
    fn is_described(&self) -> bool {
        match &self.directory {
            Some(directory) => directory.join(&self.name).is_file(),
            None => DIRECTORIES.iter().any(|directory| Path::new(directory).join(&self.name).is_file()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn a_service_is_a_file_that_is_there() {
        for bad in ["", "../sshd", "a/b", ".", "Sshd", "a b", "a\0", &"x".repeat(65)] {
            assert_eq!(PamService::new(bad), Err(InvalidService), "{bad:?}");
        }
        let dir = tempfile::tempdir().unwrap();
        let service = PamService::new("teleport-1_x").unwrap().in_directory(dir.path());
        assert!(!service.is_described());
        std::fs::write(dir.path().join("teleport-1_x"), "").unwrap();
        assert!(service.is_described());
        assert!(!PamService::new("no-such-service").unwrap().is_described());
    }
}
