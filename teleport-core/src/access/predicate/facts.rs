//! What conditions are evaluated against.

use std::collections::{BTreeMap, BTreeSet};

use crate::cert::{Traits, UserIdentity};
use crate::id::RoleName;
use crate::resource::User;

/// The user who is decided about.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "callers build it; a new property must make them think")]
pub struct Subject<'a> {
    /// The user's name.
    pub name: &'a str,
    /// The user's roles.
    pub roles: &'a [RoleName],
    /// Those of the roles that were taken from the user since: what they deny and restrict counts on, what they allow does not.
    pub taken: &'a BTreeSet<RoleName>,
    /// The user's traits.
    pub traits: &'a Traits,
}

impl<'a> Subject<'a> {
    /// A user from whom nothing was taken.
    pub const fn new(name: &'a str, roles: &'a [RoleName], traits: &'a Traits) -> Self {
        Self { name, roles, taken: Self::NONE_TAKEN, traits }
    }

    /// Of whom nothing was taken.
    pub const NONE_TAKEN: &'static BTreeSet<RoleName> = &BTreeSet::new();

    /// As what denies sees the user: with every role of the certificate.
    pub(in crate::access) const fn with_taken(self) -> Self {
        Self { taken: Self::NONE_TAKEN, ..self }
    }

    /// The roles that the user still has.
    pub(super) fn held(self) -> impl Iterator<Item = &'a RoleName> {
        self.roles.iter().filter(move |role| !self.taken.contains(*role))
    }
}

impl<'a> From<&'a UserIdentity> for Subject<'a> {
    fn from(identity: &'a UserIdentity) -> Self {
        Self::new(identity.user.as_str(), &identity.roles, &identity.traits)
    }
}

impl<'a> From<&'a User> for Subject<'a> {
    fn from(user: &'a User) -> Self {
        Self::new(&user.metadata.name, &user.spec.roles, &user.spec.traits)
    }
}

/// A session or its recording, as far as it is known.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "callers build it")]
pub struct SessionFacts<'a> {
    /// The users who took part.
    pub participants: &'a [&'a str],
    /// The login on the node.
    pub login: &'a str,
    /// The node's host id.
    pub server_id: &'a str,
    /// The node's name.
    pub server_hostname: &'a str,
}

/// A resource, as far as it is known. What is `None` makes conditions about it undecided.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "callers build it")]
pub struct ResourceFacts<'a> {
    /// Its name.
    pub name: Option<&'a str>,
    /// The address of a node.
    pub address: Option<&'a str>,
    /// Its labels.
    pub labels: Option<&'a BTreeMap<String, String>>,
    /// The session that it is.
    pub session: Option<SessionFacts<'a>>,
}

/// Everything that a condition can ask about.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "callers build it")]
pub struct Facts<'a> {
    /// Who.
    pub subject: Subject<'a>,
    /// What.
    pub resource: ResourceFacts<'a>,
}
