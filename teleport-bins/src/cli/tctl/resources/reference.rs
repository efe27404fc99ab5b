//! How resources are named: `kind/name`, with the plurals and short forms that people type.

use std::fmt;
use std::str::FromStr;

/// A kind of resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Authority,
    Lock,
    Node,
    Role,
    Token,
    User,
}

impl Kind {
    pub(super) const ALL: [Self; 6] =
        [Self::Role, Self::User, Self::Token, Self::Lock, Self::Node, Self::Authority];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Authority => "cert_authority",
            Self::Lock => "lock",
            Self::Node => "node",
            Self::Role => "role",
            Self::Token => "token",
            Self::User => "user",
        }
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "ca" | "cas" | "cert_authorities" | "cert_authority" => Self::Authority,
            "lock" | "locks" => Self::Lock,
            "node" | "nodes" => Self::Node,
            "role" | "roles" => Self::Role,
            "token" | "tokens" => Self::Token,
            "user" | "users" => Self::User,
            _ => {
                return Err(format!(
                    "there are no resources of the kind {text:?}; there are role, user, token, lock, node and cert_authority"
                ));
            }
        })
    }
}

/// One resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reference {
    pub(super) kind: Kind,
    pub(super) name: String,
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.as_str(), self.name)
    }
}

impl FromStr for Reference {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((kind, name)) if !name.is_empty() => Ok(Self { kind: kind.parse()?, name: name.to_owned() }),
            _ => Err("a resource is named kind/name, such as role/access".to_owned()),
        }
    }
}

/// One resource, all of a kind, or everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Selection {
    All,
    Kind(Kind),
    One(Reference),
}

impl FromStr for Selection {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self::All),
            _ if text.contains('/') => text.parse().map(Self::One),
            _ => text.parse().map(Self::Kind),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn names_are_read() {
        let one = |kind, name: &str| Selection::One(Reference { kind, name: name.to_owned() });
        for (text, selection) in [
            ("all", Selection::All),
            ("roles", Selection::Kind(Kind::Role)),
            ("user/alice", one(Kind::User, "alice")),
            ("nodes/web-1", one(Kind::Node, "web-1")),
        ] {
            assert_eq!(text.parse(), Ok(selection), "{text}");
        }
        for bad in ["", "role/", "/x", "roel", "roel/x", "all/x"] {
            assert!(bad.parse::<Selection>().is_err(), "{bad}");
        }
        for kind in Kind::ALL {
            assert_eq!(kind.as_str().parse(), Ok(kind));
        }
    }
}
