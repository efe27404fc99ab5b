//! The roles that exist.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::compiled::CompiledRole;
use crate::resource::Role;

/// What stands for a role of another version: it may hold denials.
fn refusal(role: &Role) -> Role {
    let mut refusal = Role::unreadable(role.metadata.name.clone());
    refusal.metadata.expires = role.metadata.expires;
    refusal
}

/// The roles that exist, compiled once; what views hold and [`AccessChecker`](super::AccessChecker) decides by. Cheap to clone.
///
/// Serialised as the list of the documents. One that cannot be read, as when a newer version wrote it, becomes one that denies
/// everything ([`Role::unreadable`]): it refuses those who hold it, not everybody.
#[derive(Clone, Default)]
pub struct RoleSet(Arc<BTreeMap<String, CompiledRole>>);

impl RoleSet {
    /// Compiles roles. Where one is not understood, it allows nothing and denies everything, and the log says so.
    pub fn new(roles: impl IntoIterator<Item = Role>) -> Self {
        let compile = |role: Role| {
            let role = if role.is_readable() { role } else { refusal(&role) };
            let (compiled, problems) = CompiledRole::compile(role);
            for problem in problems {
                tracing::warn!(role = compiled.name(), %problem, "part of a role is not understood");
            }
            (compiled.name().to_owned(), compiled)
        };
        Self(Arc::new(roles.into_iter().map(compile).collect()))
    }

    /// The role of this name.
    pub fn get(&self, name: &str) -> Option<&CompiledRole> {
        self.0.get(name)
    }

    /// The documents, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &Role> {
        self.0.values().map(CompiledRole::role)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for RoleSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.keys()).finish()
    }
}

impl PartialEq for RoleSet {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.iter().eq(other.iter())
    }
}

impl Eq for RoleSet {}

impl FromIterator<Role> for RoleSet {
    fn from_iter<I: IntoIterator<Item = Role>>(roles: I) -> Self {
        Self::new(roles)
    }
}

impl From<Vec<Role>> for RoleSet {
    fn from(roles: Vec<Role>) -> Self {
        Self::new(roles)
    }
}

impl Serialize for RoleSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for RoleSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let documents = Vec::<serde_json::Value>::deserialize(deserializer)?;
        let role = |document: serde_json::Value| {
            let name = document.pointer("/metadata/name").and_then(|name| name.as_str()).map(str::to_owned);
            serde_json::from_value::<Role>(document).or_else(|error| {
                // Without a name nobody knows whom to refuse.
                let name = name.ok_or_else(|| serde::de::Error::custom("a role without a name"))?;
                let error = &error as &dyn std::error::Error;
                tracing::warn!(role = name, error, "a role cannot be read; whoever holds it is refused");
                Ok(Role::unreadable(name))
            })
        };
        documents.into_iter().map(role).collect()
    }
}
