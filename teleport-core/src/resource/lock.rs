//! Locks: users, roles, logins, nodes, second factors and certificates that nothing is done for until the lock is gone.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{DocumentProblem, InvalidDocument, Resource, Spec};
use crate::id::{DeviceId, HostId, InvalidName, LockName, NodeName, OsLogin, RoleName, UserName};

/// The longest message of a lock, in bytes. It is shown on terminals, and as the reason of a disconnection.
pub const MAX_LOCK_MESSAGE: usize = 512;

/// A node as a lock names it: by its id, or by its name, which several nodes may have.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LockedNode {
    /// One node.
    Id(HostId),
    /// Every node of this name.
    Name(NodeName),
}

impl FromStr for LockedNode {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        text.parse().map(Self::Id).or_else(|_| NodeName::new(text).map(Self::Name))
    }
}

impl fmt::Display for LockedNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => fmt::Display::fmt(id, f),
            Self::Name(name) => fmt::Display::fmt(name, f),
        }
    }
}

impl Serialize for LockedNode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for LockedNode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Numbers of certificates are longer than what many programs keep of a number, so documents have them as text.
mod decimal {
    use serde::{Deserialize, Deserializer, Serializer};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Number(u64),
        Text(String),
    }

    #[expect(clippy::ref_option, reason = "serde's signature")]
    pub(super) fn serialize<S: Serializer>(number: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
        match number {
            Some(number) => serializer.collect_str(number),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
        Option::<Written>::deserialize(deserializer)?
            .map(|written| match written {
                Written::Number(number) => Ok(number),
                Written::Text(text) => text.parse().map_err(serde::de::Error::custom),
            })
            .transpose()
    }
}

/// What is locked. What is named must all be so: `user` and `login` together lock that login of that user, and nothing else.
/// Names are exact.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "administrators' tools build it")]
pub struct LockTarget {
    /// A user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<UserName>,
    /// Everybody who holds a role.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<RoleName>,
    /// A login of the nodes' operating systems.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub login: Option<OsLogin>,
    /// A node or a proxy, by id or name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<LockedNode>,
    /// Whatever was given for a code of a second factor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mfa_device: Option<DeviceId>,
    /// A user's certificate, by its serial number; not those that were derived from it.
    #[serde(with = "decimal", skip_serializing_if = "Option::is_none")]
    pub serial: Option<u64>,
}

impl LockTarget {
    /// What is named, with its key.
    fn parts(&self) -> impl Iterator<Item = (&'static str, &dyn fmt::Display)> {
        fn part<T: fmt::Display>(of: Option<&T>) -> Option<&dyn fmt::Display> {
            of.map(|value| value as &dyn fmt::Display)
        }
        [
            ("user", part(self.user.as_ref())),
            ("role", part(self.role.as_ref())),
            ("login", part(self.login.as_ref())),
            ("node", part(self.node.as_ref())),
            ("mfa_device", part(self.mfa_device.as_ref())),
            ("serial", part(self.serial.as_ref())),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some((key, value?)))
    }

    /// Whether nothing is named: such a lock would lock nothing, and is refused.
    pub fn is_empty(&self) -> bool {
        self.parts().next().is_none()
    }
}

/// As messages name it: `user:"alice" login:"root"`.
impl fmt::Display for LockTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (key, value)) in self.parts().enumerate() {
            let gap = if index == 0 { "" } else { " " };
            write!(f, "{gap}{key}:\"{value}\"")?;
        }
        Ok(())
    }
}

/// What is locked, and what those who meet the lock are told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "administrators' tools build it")]
pub struct LockSpec {
    /// What is locked.
    pub target: LockTarget,
    /// For those who are locked; at most [`MAX_LOCK_MESSAGE`] bytes in one line.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

impl Spec for LockSpec {
    const KIND: &'static str = "lock";
    const VERSION: &'static str = "v1";
    const COLLECTION: &'static str = "locks";
}

/// A lock. It is in force as long as it exists; `metadata.expires` ends it.
pub type Lock = Resource<LockSpec>;

/// The version of what stands for a lock that cannot be read.
const UNREADABLE: &str = "unreadable";

impl Lock {
    /// What stands for a lock that exists and cannot be read: it is not known whom it locks.
    pub fn unreadable(name: impl Into<String>) -> Self {
        let mut lock = Self::new(name, LockSpec::default());
        UNREADABLE.clone_into(&mut lock.version);
        lock
    }

    /// Whether it is known whom the lock locks.
    pub fn is_readable(&self) -> bool {
        self.kind == LockSpec::KIND && self.version == LockSpec::VERSION
    }

    /// Checks what a lock must be to be stored.
    ///
    /// # Errors
    /// [`InvalidDocument`], with everything that is wrong.
    pub fn check(&self) -> Result<LockName, InvalidDocument> {
        let mut problems = Vec::new();
        if !self.is_readable() {
            let message = format!(
                "a lock has the kind \"lock\" and the version \"v1\", not {:?} and {:?}",
                self.kind, self.version
            );
            problems.push(DocumentProblem::new("", message));
        }
        let name = LockName::new(&self.metadata.name);
        if let Err(error) = &name {
            problems.push(DocumentProblem::new("metadata.name", error.to_string()));
        }
        if self.spec.target.is_empty() {
            let message =
                "name what is locked: one or more of user, role, login, node, mfa_device and serial";
            problems.push(DocumentProblem::new("spec.target", message));
        }
        let message = &self.spec.message;
        if message.len() > MAX_LOCK_MESSAGE || message.chars().any(char::is_control) {
            let rule = format!("at most {MAX_LOCK_MESSAGE} bytes in one line, without control characters");
            problems.push(DocumentProblem::new("spec.message", rule));
        }
        match name {
            Ok(name) if problems.is_empty() => Ok(name),
            _ => Err(InvalidDocument { problems }),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use serde_json::json;

    use super::*;

    fn target(value: serde_json::Value) -> Result<LockTarget, String> {
        serde_json::from_value(value).map_err(|error: serde_json::Error| error.to_string())
    }

    #[test]
    fn targets_are_read_as_they_are_written() {
        let id = "0f8fad5b-d9cb-469f-a165-70867728950e";
        for (document, text) in [
            (json!({"user": "alice"}), "user:\"alice\"".to_owned()),
            (json!({"user": "alice", "login": "root"}), "user:\"alice\" login:\"root\"".to_owned()),
            (json!({"node": "web-1"}), "node:\"web-1\"".to_owned()),
            (json!({"node": id}), format!("node:\"{id}\"")),
            (json!({"mfa_device": id, "role": "ops"}), format!("role:\"ops\" mfa_device:\"{id}\"")),
            (json!({"serial": "18446744073709551615"}), "serial:\"18446744073709551615\"".to_owned()),
        ] {
            let read = target(document.clone()).unwrap();
            assert_eq!(read.to_string(), text);
            assert_eq!(serde_json::to_value(&read).unwrap(), document);
        }
        assert_eq!(target(json!({"serial": 7})).unwrap().serial, Some(7));
        assert!(matches!(target(json!({"node": id})).unwrap().node, Some(LockedNode::Id(_))));
        for wrong in [
            json!({"user": "Alice"}),
            json!({"user": "al*"}),
            json!({"node": "a b"}),
            json!({"mfa_device": "phone"}),
            json!({"serial": "-1"}),
            json!({"device": "x"}),
        ] {
            assert!(target(wrong.clone()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_would_lock_nothing_or_spoil_a_terminal_is_refused() {
        let lock = |change: fn(&mut Lock)| {
            let mut lock = Lock::new("l-1", LockSpec::default());
            lock.spec.target.user = Some(UserName::new("alice").unwrap());
            change(&mut lock);
            lock.check().map_err(|error| error.to_string())
        };
        assert_eq!(lock(|_| {}).unwrap().as_str(), "l-1");
        assert!(lock(|lock| lock.spec.message = "é".repeat(MAX_LOCK_MESSAGE / 2)).is_ok());
        for (change, part) in [
            ((|lock| lock.spec.target = LockTarget::default()) as fn(&mut Lock), "spec.target"),
            (|lock| lock.metadata.name = "a/b".to_owned(), "metadata.name"),
            (|lock| lock.metadata.name = String::new(), "metadata.name"),
            (|lock| lock.spec.message = "\u{1b}[2J".to_owned(), "spec.message"),
            (|lock| lock.spec.message = "two\nlines".to_owned(), "spec.message"),
            (|lock| lock.spec.message = "x".repeat(MAX_LOCK_MESSAGE + 1), "spec.message"),
            (|lock| lock.version = "v9".to_owned(), "version"),
            (|lock| *lock = Lock::unreadable("l-1"), "version"),
        ] {
            let error = lock(change).unwrap_err();
            assert!(error.contains(part), "{part}: {error}");
        }
    }
}
