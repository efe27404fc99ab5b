//! What administrators and hosts describe: documents of a kind, a version, metadata and a specification.

mod document;
mod lock;
mod node;
mod plain;
mod role;
mod secrets;
mod span;
mod token;
mod user;
mod view;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use self::document::{Document, LoadedDocument, load_document};
pub use self::lock::{Lock, LockSpec, LockTarget, LockedNode, MAX_LOCK_MESSAGE};
pub use self::node::{NODE_ONLINE_FOR, NODE_RETENTION, Node, NodeKind, NodeRecord, OPENSSH_RETENTION};
pub use self::plain::plain_words;
pub use self::role::{
    CertExtension, DocumentProblem, InvalidDocument, JoinMode, JoinSessions, LoadedRole, LockMode,
    NAMED_KINDS, PortForwarding, RULE_KINDS, RecordSession, RecordingMode, Role, RoleConditions, RoleOptions,
    RoleSpec, Rule, Switch, Verb, builtin_roles, load_role,
};
pub use self::secrets::{SealedRecord, Secrets, SecretsSpec};
pub use self::span::{InvalidSpan, MAX_SPAN, format_span, parse_span};
pub use self::token::{Token, TokenSpec};
pub use self::user::{User, UserSpec};
pub use self::view::{AuthorityView, NodeView, authority_views, node_view};
use crate::clock::Timestamp;
use crate::storage::{Record, Revision};

/// The specification part of a [`Resource`].
pub trait Spec: Serialize + serde::de::DeserializeOwned + Send + Sync + 'static {
    /// The kind, in the singular: `role`.
    const KIND: &'static str;
    /// The version of the specification's form: `v1`.
    const VERSION: &'static str;
    /// Where resources of this kind are stored.
    const COLLECTION: &'static str;
}

/// What all resources have in common.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "administrators' tools build it")]
pub struct Metadata {
    /// Unique among the resources of the kind.
    pub name: String,
    /// For humans.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// For humans and queries.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// When the resource disappears.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// The version that was read; a write is refused if the stored one is another. Not stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Revision>,
}

impl Metadata {
    /// Whether the resource has disappeared by now, whether or not the storage has swept it.
    pub fn has_expired(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }
}

/// A resource as it is stored and as it is shown: `kind`, `version`, `metadata`, `spec`. Unknown keys are refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Resource<S> {
    /// The kind.
    pub kind: String,
    /// The version of the form.
    pub version: String,
    /// Name and the like.
    pub metadata: Metadata,
    /// The content.
    pub spec: S,
}

impl<S: Spec> Resource<S> {
    /// A resource of the newest version.
    pub fn new(name: impl Into<String>, spec: S) -> Self {
        Self {
            kind: S::KIND.to_owned(),
            version: S::VERSION.to_owned(),
            metadata: Metadata { name: name.into(), ..Metadata::default() },
            spec,
        }
    }
}

impl<S: Spec> Record for Resource<S> {
    const COLLECTION: &'static str = S::COLLECTION;

    fn key(&self) -> String {
        self.metadata.name.clone()
    }

    fn expires(&self) -> Option<Timestamp> {
        self.metadata.expires
    }
}
