//! Users of the cluster.

use serde::{Deserialize, Serialize};

use super::{Resource, Spec};
use crate::cert::Traits;
use crate::id::RoleName;

/// What is known of a user, apart from secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "administrators' tools build it")]
pub struct UserSpec {
    /// The user's roles.
    pub roles: Vec<RoleName>,
    /// The user's traits; `logins` are the logins that `{{internal.logins}}` stands for.
    #[serde(default)]
    pub traits: Traits,
}

impl Spec for UserSpec {
    const KIND: &'static str = "user";
    const VERSION: &'static str = "v1";
    const COLLECTION: &'static str = "users";
}

/// A user. The resource's name is a [`UserName`](crate::id::UserName). When it expires there is no such user any more; no certificate
/// that is issued outlasts it.
pub type User = Resource<UserSpec>;
