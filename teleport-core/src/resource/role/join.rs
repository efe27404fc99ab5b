//! Whose sessions a role lets its holders join, and how.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::InvalidName;

/// How somebody takes part in the session of somebody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum JoinMode {
    /// Watches, and may end the session.
    Moderator,
    /// Watches.
    Observer,
    /// Types as well.
    Peer,
}

impl JoinMode {
    /// All modes, in the order of their names.
    pub const ALL: [Self; 3] = [Self::Moderator, Self::Observer, Self::Peer];

    /// The name, as in roles and requests.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Moderator => "moderator",
            Self::Observer => "observer",
            Self::Peer => "peer",
        }
    }
}

impl fmt::Display for JoinMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for JoinMode {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let rule = "observer, moderator or peer";
        Self::ALL.into_iter().find(|mode| mode.as_str() == text).ok_or(InvalidName { what: "mode", rule })
    }
}

/// Sessions that the holders of a role may join, or, in `deny`, may not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "administrators' tools build it")]
pub struct JoinSessions {
    /// What the entry is called; for its readers.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Sessions of users with one of these roles; `*` is any run of characters, `^…$` a regular expression.
    pub roles: Vec<String>,
    /// Kinds of sessions: `ssh`, or `*`.
    pub kinds: Vec<String>,
    /// Names of [`JoinMode`]s, or `*`.
    pub modes: Vec<String>,
    /// Only sessions that run as a login that the holder may use on that node. In `allow` only.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub with_login: bool,
}
