//! Messages about certificates that administrators have made for others.
#![expect(clippy::exhaustive_structs, reason = "callers build requests, services build answers")]

use serde::{Deserialize, Serialize};

use crate::cert::{IssuedSshCertificate, PublicKey, SubjectKeys, TrustBundle};
use crate::id::UserName;

/// Asks for certificates for a user, who need not be there.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignUser {
    /// The user.
    pub user: UserName,
    /// Fresh public keys, made where the certificates will be used.
    pub keys: SubjectKeys,
    /// How long the certificates should be valid, in seconds; as long as after a login if absent. The user's roles may shorten it.
    #[serde(default)]
    pub ttl: Option<u64>,
}

/// Asks for a certificate for the host key of an SSH server that is no member of the cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignHost {
    /// The names and addresses under which clients reach it. They become the principals as they are.
    pub names: Vec<String>,
    /// The public half of its host key.
    pub key: PublicKey,
    /// How long the certificate should be valid, in seconds; [`MAX_HOST_TTL`](crate::cert::MAX_HOST_TTL) if absent, and at most.
    #[serde(default)]
    pub ttl: Option<u64>,
}

/// A certificate for the host key of an SSH server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedHost {
    /// The certificate.
    pub certificate: IssuedSshCertificate,
    /// Whom to trust.
    pub trust: TrustBundle,
}
