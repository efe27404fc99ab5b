//! Join tokens as documents.

use serde::{Deserialize, Serialize};

use super::{Metadata, Resource};
use crate::id::HostRole;
use crate::label::Labels;
use crate::secret::{SecretString, optional_wire};

/// What is known of a join token. When it ends is in the metadata.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "administrators' tools build it")]
pub struct TokenSpec {
    /// What hosts may join as.
    pub roles: Vec<HostRole>,
    /// How many more hosts may join; any number if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uses: Option<u32>,
    /// Labels of nodes joined by it.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// The secret, when the token is made. The cluster keeps its hash only, so a document that was read has none.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "optional_wire")]
    pub secret: Option<SecretString>,
}

/// A join token. The resource's name is the token's id, which says nothing of its secret. It is no record of storage: that is
/// [`TokenRecord`](crate::token::TokenRecord).
pub type Token = Resource<TokenSpec>;

impl Token {
    /// The kind in documents.
    pub const KIND: &'static str = "token";
    /// The version of the form.
    pub const VERSION: &'static str = "v1";

    /// A token's document.
    pub fn described(metadata: Metadata, spec: TokenSpec) -> Self {
        Self { kind: Self::KIND.to_owned(), version: Self::VERSION.to_owned(), metadata, spec }
    }
}
