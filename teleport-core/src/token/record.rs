//! A join token as it is stored.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ForJoin, TokenHash, TokenUse};
use crate::api::{TokenInfo, TokenPurpose};
use crate::clock::Timestamp;
use crate::id::HostRole;
use crate::label::Labels;
use crate::storage::Record;

/// How long the record of a token is kept after its end, so that the audit log can tell a late host from a guess.
pub const TOKEN_MEMORY: Duration = Duration::from_secs(24 * 3600);

/// A join token, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "embedders build tokens of their own")]
pub struct TokenRecord {
    /// Names the token in lists, logs and audit events: random, or the number in the configuration. It has nothing to do with
    /// the secret, so it helps nobody to guess one that somebody chose. Empty in records of before there were names.
    #[serde(default)]
    pub id: String,
    /// The hash of the secret.
    pub hash: TokenHash<ForJoin>,
    /// What hosts may join as.
    pub roles: Vec<HostRole>,
    /// From when on nobody may join; `None` is never.
    pub expires: Option<Timestamp>,
    /// How many more hosts may join; `None` is any number.
    pub uses_left: Option<u32>,
    /// Labels that nodes joined by it always carry.
    pub labels: Labels,
    /// Whether it comes from the configuration and not from storage.
    pub is_static: bool,
}

impl TokenRecord {
    /// Whether hosts can still join by it.
    pub fn is_usable(&self, now: Timestamp) -> bool {
        self.uses_left != Some(0) && self.expires.is_none_or(|expires| now < expires)
    }

    /// What lists show.
    pub fn info(&self) -> TokenInfo {
        TokenInfo {
            id: self.id.clone(),
            purpose: TokenPurpose::Join,
            roles: self.roles.clone(),
            expires: self.expires,
            uses_left: self.uses_left,
            labels: self.labels.clone(),
            is_static: self.is_static,
        }
    }
}

impl Record for TokenRecord {
    const COLLECTION: &'static str = ForJoin::COLLECTION;

    fn key(&self) -> String {
        self.hash.to_hex()
    }

    fn expires(&self) -> Option<Timestamp> {
        self.expires.map(|expires| expires.saturating_add(TOKEN_MEMORY))
    }
}
