//! The port to a certificate authority.

use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{
    CertFields, CertRejected, HostGrant, OpenSshGrant, PublicKey, SshServerGrant, TlsPublicKey, TrustBundle,
    UserGrant,
};
use crate::clock::Timestamp;

/// The public keys that one issue is about. The private keys stay where they were made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "callers build it")]
pub struct SubjectKeys {
    /// For the SSH certificate.
    pub ssh: PublicKey,
    /// For the X.509 identity.
    pub tls: TlsPublicKey,
}

/// An SSH certificate and the X.509 identity that mirrors it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "issuers build it")]
pub struct IssuedCertificates {
    /// The OpenSSH certificate: one line, `algorithm base64`.
    pub ssh: String,
    /// The X.509 certificate, DER in base64.
    #[serde(with = "base64_der")]
    pub tls: Vec<u8>,
    /// The serial number of the SSH certificate.
    pub serial: u64,
    /// From when both are valid.
    pub valid_after: Timestamp,
    /// When both end.
    pub valid_before: Timestamp,
}

/// An SSH certificate alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "issuers build it")]
pub struct IssuedSshCertificate {
    /// The OpenSSH certificate: one line, `algorithm base64`.
    pub ssh: String,
    /// Its serial number.
    pub serial: u64,
    /// From when it is valid.
    pub valid_after: Timestamp,
    /// When it ends.
    pub valid_before: Timestamp,
}

mod base64_der {
    use data_encoding::BASE64;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(der: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64.encode(der))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        BASE64.decode(text.as_bytes()).map_err(serde::de::Error::custom)
    }
}

/// Why a certificate was not issued.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IssueError {
    /// The grant or a key has a form that is not issued; `reason` says which.
    #[error("the certificate cannot be issued: {reason}")]
    Refused {
        /// For the caller.
        reason: &'static str,
    },
    /// The authority's keys, randomness or storage cannot be used.
    #[error("the certificate authority cannot sign")]
    Unavailable {
        /// The reason.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A certificate authority.
///
/// # Contract
/// Certificates are as described in the crate's manual: valid from one minute ago, principals never empty, serial numbers
/// random, user and host certificates by different keys. Every call makes a new certificate; dropping a future issues
/// at most one that nobody sees. Failing is safe: no certificate is a denied login.
#[async_trait]
pub trait CertIssuer: fmt::Debug + Send + Sync + 'static {
    /// Certificates for a user.
    ///
    /// # Errors
    /// [`IssueError`].
    async fn issue_user(
        &self,
        grant: UserGrant,
        keys: &SubjectKeys,
    ) -> Result<IssuedCertificates, IssueError>;

    /// Certificates for a host.
    ///
    /// # Errors
    /// [`IssueError`].
    async fn issue_host(
        &self,
        grant: HostGrant,
        keys: &SubjectKeys,
    ) -> Result<IssuedCertificates, IssueError>;

    /// A certificate for the host key of an SSH server that is no member of the cluster. It says nothing by which a member is known.
    ///
    /// # Errors
    /// [`IssueError`].
    async fn issue_ssh_server(
        &self,
        grant: SshServerGrant,
        key: &PublicKey,
    ) -> Result<IssuedSshCertificate, IssueError>;

    /// A certificate by which a proxy logs in to a registered SSH server, by a key that signs nothing else.
    ///
    /// # Errors
    /// [`IssueError`].
    async fn issue_openssh_login(
        &self,
        grant: OpenSshGrant,
        key: &PublicKey,
    ) -> Result<IssuedSshCertificate, IssueError>;

    /// The SSH half of what [`CertIssuer::issue_host`] issues: for whoever shows a node's name to the node's users and may not be the
    /// node anywhere else.
    ///
    /// # Errors
    /// [`IssueError`].
    async fn issue_stand_in(
        &self,
        grant: HostGrant,
        key: &PublicKey,
    ) -> Result<IssuedSshCertificate, IssueError>;

    /// Reads an SSH certificate, one line `algorithm base64`, whose signature is that of the key that it names as its authority.
    /// Whether it is to be believed, [`verify_user`](super::verify_user) says.
    ///
    /// # Errors
    /// [`CertRejected`].
    fn read(&self, certificate: &str) -> Result<CertFields, CertRejected>;

    /// The public keys that the cluster trusts at this moment.
    ///
    /// # Errors
    /// [`IssueError::Unavailable`].
    async fn trust(&self) -> Result<TrustBundle, IssueError>;
}
