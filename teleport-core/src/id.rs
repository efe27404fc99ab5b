//! Names that cannot be wrong: each type is parsed once, at the edge, and is trusted afterwards.
//!
//! All of them are compared byte by byte. None may contain white space, control characters, `,`, `/` or a
//! leading `-`, so they are safe in principals, certificates, paths of the audit log and generated
//! `ssh_config` blocks.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

/// A text is not a valid name of its kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} must be {rule}")]
#[non_exhaustive]
pub struct InvalidName {
    /// What was expected, such as `user name`.
    pub what: &'static str,
    /// The rule that the text breaks.
    pub rule: &'static str,
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Box<str>);

        impl $name {
            /// Parses a name.
            ///
            /// # Errors
            /// [`InvalidName`] with the rule that the text breaks.
            pub fn new(text: &str) -> Result<Self, InvalidName> {
                let check: fn(&str) -> bool = $check;
                if check(text) { Ok(Self(text.into())) } else { Err(InvalidName { what: $what, rule: $rule }) }
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Self::new(text)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                Self::new(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

fn charset(text: &str, max: usize, first: fn(u8) -> bool, rest: fn(u8) -> bool) -> bool {
    match text.as_bytes() {
        [] => false,
        [head, tail @ ..] => text.len() <= max && first(*head) && tail.iter().all(|byte| rest(*byte)),
    }
}

fn word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

name!(
    /// A user of the cluster (not a login of an operating system), such as `alice` or `alice@example.com`.
    ///
    /// Lower case only: two names never differ by case alone, so a lockout cannot be dodged by spelling.
    UserName,
    "user name",
    "1 to 64 characters: a-z, 0-9, '.', '_', '-', '@', beginning with a letter or digit",
    |text| charset(
        text,
        64,
        |byte| byte.is_ascii_lowercase() || byte.is_ascii_digit(),
        |byte| byte.is_ascii_lowercase()
            || byte.is_ascii_digit()
            || matches!(byte, b'.' | b'_' | b'-' | b'@'),
    )
);

name!(
    /// A login of an operating system, such as `root`. Used as a principal of user certificates.
    OsLogin,
    "login",
    "1 to 64 characters: letters, digits, '.', '_', '-' and a '$' at the end, beginning with a letter, digit or '_'",
    |text| charset(
        text.strip_suffix('$').unwrap_or(text),
        63,
        |byte| byte.is_ascii_alphanumeric() || byte == b'_',
        word
    )
);

name!(
    /// The name of a cluster, such as `example.com`; part of the host names in certificates.
    ClusterName,
    "cluster name",
    "1 to 128 characters: letters, digits, '.', '_', '-', beginning with a letter or digit",
    |text| charset(text, 128, |byte| byte.is_ascii_alphanumeric(), word)
);

name!(
    /// The name of a role, such as `access`.
    RoleName,
    "role name",
    "1 to 64 characters: letters, digits, '.', '_', '-', beginning with a letter or digit",
    |text| charset(text, 64, |byte| byte.is_ascii_alphanumeric(), word)
);

name!(
    /// The display name of a node, usually its host name. Not unique; see [`HostId`].
    NodeName,
    "node name",
    "1 to 253 characters: letters, digits, '.', '_', '-', beginning with a letter or digit",
    |text| charset(text, 253, |byte| byte.is_ascii_alphanumeric(), word)
);

name!(
    /// What a user calls one of the own second factors, such as `phone`.
    DeviceName,
    "device name",
    "1 to 64 characters: letters, digits, '.', '_', '-', beginning with a letter or digit",
    |text| charset(text, 64, |byte| byte.is_ascii_alphanumeric(), word)
);

name!(
    /// What a lock is called: a UUID, unless an administrator chose another name.
    LockName,
    "lock name",
    "1 to 128 characters: letters, digits, '.', '_', '-', beginning with a letter or digit",
    |text| charset(text, 128, |byte| byte.is_ascii_alphanumeric(), word)
);

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// From a UUID.
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// The UUID.
            pub const fn uuid(self) -> Uuid {
                self.0
            }

            /// A new random one.
            ///
            /// # Errors
            /// [`EntropyError`](crate::entropy::EntropyError) when there is no randomness.
            pub fn random(
                entropy: &dyn crate::entropy::Entropy,
            ) -> Result<Self, crate::entropy::EntropyError> {
                crate::entropy::EntropyExt::uuid(entropy).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0.as_hyphenated(), f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                // One spelling only: what is compared as text elsewhere (principals, paths) must be canonical.
                let canonical = text.len() == 36 && !text.bytes().any(|byte| byte.is_ascii_uppercase());
                let uuid = if canonical { Uuid::try_parse(text).ok() } else { None };
                uuid.map(Self).ok_or(InvalidName { what: $what, rule: "a lower-case hyphenated UUID" })
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

uuid_id!(
    /// The identity of a host, made once by the host and bound to its key at join.
    HostId,
    "host id"
);
uuid_id!(
    /// The identity of one second factor of a user. Its name may be changed and used again, this never.
    DeviceId,
    "device id"
);
uuid_id!(
    /// The identity of one SSH session, and of its recording.
    SessionId,
    "session id"
);

uuid_id!(
    /// The identity of one connection of a user to a node, made by the node.
    ConnectionId,
    "connection id"
);
uuid_id!(
    /// The identity of one run of a host's program, made at its start.
    RunId,
    "run id"
);

/// The service that a host's certificate speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum HostRole {
    /// The auth service.
    Auth,
    /// An SSH node.
    Node,
    /// A proxy.
    Proxy,
}

impl HostRole {
    /// All roles, in the order of their names.
    pub const ALL: [Self; 3] = [Self::Auth, Self::Node, Self::Proxy];

    /// The name, as in tokens and certificates.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auth => "auth",
            Self::Node => "node",
            Self::Proxy => "proxy",
        }
    }
}

impl fmt::Display for HostRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for HostRole {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        match text.to_ascii_lowercase().as_str() {
            "auth" => Ok(Self::Auth),
            "node" => Ok(Self::Node),
            "proxy" => Ok(Self::Proxy),
            "app" | "kube" | "db" => Err(InvalidName {
                what: "host role",
                rule: "auth, proxy or node (app, kube and db are known but not part of this product)",
            }),
            _ => Err(InvalidName { what: "host role", rule: "auth, proxy or node" }),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn refuses_what_could_be_mistaken() {
        for bad in ["", "-l", " a", "a ", "a b", "a,b", "a/b", "a\0", "a\n", "*", "é", "a\u{200b}"] {
            assert!(UserName::new(bad).is_err(), "{bad:?}");
            assert!(OsLogin::new(bad).is_err(), "{bad:?}");
            assert!(NodeName::new(bad).is_err(), "{bad:?}");
            assert!(ClusterName::new(bad).is_err(), "{bad:?}");
        }
        assert!(UserName::new("Alice").is_err());
        assert!(UserName::new(&"a".repeat(65)).is_err());
    }

    #[test]
    fn accepts_ordinary_names() {
        assert_eq!(UserName::new("alice@example.com").unwrap().as_str(), "alice@example.com");
        for login in ["root", "_apt", "www-data", "svc$", "Admin.1"] {
            assert!(OsLogin::new(login).is_ok(), "{login}");
        }
    }

    #[test]
    fn a_uuid_has_one_spelling() {
        let text = "0f8fad5b-d9cb-469f-a165-70867728950e";
        assert_eq!(text.parse::<HostId>().unwrap().to_string(), text);
        assert!(text.to_uppercase().parse::<HostId>().is_err());
        assert!(text.replace('-', "").parse::<HostId>().is_err());
    }

    #[test]
    fn later_services_are_refused_with_a_word() {
        assert!("kube".parse::<HostRole>().unwrap_err().to_string().contains("not part of this product"));
        assert_eq!("Node".parse::<HostRole>().unwrap(), HostRole::Node);
    }
}
