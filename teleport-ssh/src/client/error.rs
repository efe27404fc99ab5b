//! Why nobody gets to a proxy or a node.

use std::io;
use std::time::Duration;

use teleport_core::cert::CertRejected;

/// Why a host is not believed to be who it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HostRejected {
    /// Its certificate is not accepted.
    #[error("its host certificate is not accepted: {reason}")]
    Certificate {
        /// Why.
        reason: CertRejected,
    },
    /// It has no certificate.
    #[error("it showed a plain key instead of a host certificate of the cluster")]
    PlainKey,
}

/// Why a connection failed. The texts are for the user.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The host let nobody in with this certificate.
    #[error("{peer} denied access")]
    Denied {
        /// The host.
        peer: String,
    },
    /// The proxy cannot be reached.
    #[error("cannot reach the proxy at {address}")]
    Dial {
        /// Its address.
        address: String,
        /// The reason.
        source: io::Error,
    },
    /// The host is not who it should be. Somebody may be in between.
    #[error("cannot verify {peer}: {rejected}")]
    Host {
        /// The host.
        peer: String,
        /// The reason.
        rejected: HostRejected,
    },
    /// A node is selected by labels, so nobody knows whose certificate to expect.
    #[error("labels may match another node tomorrow: find the node first and connect to its name or id")]
    Labels,
    /// The proxy hangs up at once, again and again: too many others are at its door, or too many from this address.
    #[error("the proxy at {address} is overloaded; try again in a moment")]
    Overloaded {
        /// Its address.
        address: String,
    },
    /// The user's own certificate is of no use any more.
    #[error("your certificate is not usable: {reason}; log in again")]
    OwnCertificate {
        /// Why.
        reason: CertRejected,
    },
    /// The proxy refused, in its own words.
    #[error("{message}")]
    Refused {
        /// Its words.
        message: String,
    },
    /// The connection broke or the other side does not follow the protocol.
    #[error("the connection to {peer} failed")]
    Ssh {
        /// The host.
        peer: String,
        /// The reason.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It took too long.
    #[error("{peer} did not answer within {} s", after.as_secs())]
    Timeout {
        /// The host.
        peer: String,
        /// How long it had.
        after: Duration,
    },
}

impl ConnectError {
    pub(super) fn ssh(peer: &str, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Ssh { peer: peer.to_owned(), source: Box::new(source) }
    }
}
