//! What a backup needs beside the documents that administrators write.

use std::fmt;

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use super::{Metadata, Resource};
use crate::clock::Timestamp;
use crate::id::ClusterName;

/// One stored record as it is. The kind that holds it knows what it means.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "backups are made of it")]
pub struct SealedRecord {
    /// Where it is stored.
    pub key: String,
    /// The bytes, in base64.
    pub value: String,
    /// When it disappears.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
}

/// Hashes of passwords and tokens can be guessed from.
impl fmt::Debug for SealedRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealedRecord({})", self.key.split('/').next().unwrap_or_default())
    }
}

impl SealedRecord {
    /// A record of these bytes.
    pub fn new(key: impl fmt::Display, value: &[u8], expires: Option<Timestamp>) -> Self {
        Self { key: key.to_string(), value: BASE64.encode(value), expires }
    }

    /// The bytes; `None` if the text is not base64.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        BASE64.decode(self.value.as_bytes()).ok()
    }
}

/// Password hashes, second factors, tokens, the cluster's authorities and the bindings of its hosts, as they are stored: private
/// keys and seeds are sealed with the master key of the auth service, which is not among them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "backups are made of it")]
pub struct SecretsSpec {
    /// Whose they are.
    pub cluster: ClusterName,
    /// Something sealed with the same master key, in base64: shows before anything is restored whether it is there.
    pub check: String,
    /// The records.
    pub records: Vec<SealedRecord>,
}

/// The secrets of a cluster, a part of its backup. The resource's name is `secrets`. Never stored as it is.
pub type Secrets = Resource<SecretsSpec>;

impl Secrets {
    /// The kind in documents.
    pub const KIND: &'static str = "secrets";
    /// The version of the form.
    pub const VERSION: &'static str = "v1";

    /// The secrets of a cluster.
    pub fn of(spec: SecretsSpec) -> Self {
        let metadata = Metadata { name: Self::KIND.to_owned(), ..Metadata::default() };
        Self { kind: Self::KIND.to_owned(), version: Self::VERSION.to_owned(), metadata, spec }
    }
}
