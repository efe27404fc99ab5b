//! The authority as it is stored: which keys it has. The private halves are with the key store.

use serde::{Deserialize, Serialize};
use teleport_core::cert::{PublicKey, X509Authority};
use teleport_core::clock::Timestamp;
use teleport_core::id::ClusterName;
use teleport_core::storage::Record;

use crate::key::KeyId;

/// The record of a cluster's authority. There is one, so that two processes that create it at once agree on one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AuthorityRecord {
    pub(crate) version: Version,
    pub(crate) cluster: ClusterName,
    pub(crate) created: Timestamp,
    pub(crate) host: Side,
    pub(crate) user: Side,
}

/// The name of [`AuthorityRecord`] below its collection.
pub(crate) const LOCAL: &str = "local";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Version {
    #[serde(rename = "v1")]
    V1,
}

/// The keys for hosts, or those for users.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Side {
    pub(crate) ssh: Keys<SshKey>,
    pub(crate) tls: Keys<TlsKey>,
}

/// One key signs; others are trusted beside it while keys are being replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Keys<K> {
    pub(crate) active: K,
    pub(crate) additional: Vec<K>,
}

impl<K> Keys<K> {
    pub(crate) const fn new(active: K) -> Self {
        Self { active, additional: Vec::new() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SshKey {
    pub(crate) key: KeyId,
    pub(crate) public: PublicKey,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TlsKey {
    pub(crate) key: KeyId,
    pub(crate) certificate: X509Authority,
}

impl Record for AuthorityRecord {
    const COLLECTION: &'static str = "ca/authority";

    fn key(&self) -> String {
        LOCAL.to_owned()
    }
}
