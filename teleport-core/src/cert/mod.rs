//! Certificates without their crypto: keys as bytes, fields as data, and the two functions that accept them.
//!
//! * An adapter parses a certificate, checks its signature and hands over neutral [`CertFields`].
//! * [`verify_user`], [`verify_host`] and [`verify_tls`] are the only acceptance functions; every listener and our client
//!   call them. They are pure.
//! * [`CertIssuer`] is the port to a certificate authority; it takes grants that only a check can make.

pub mod danger;
mod extension;
mod fields;
mod grant;
mod identity;
mod issuer;
mod key;
mod rejected;
mod tls;
mod trust;
mod verify;

pub use self::extension::{
    PROXY_NAME, ROUTE_TO_CLUSTER, SERVICE_DNS_NAME, Subject, TLS_SUBJECT_OID, X_CLUSTER, X_HOST_ROLE,
    X_LOGIN_IP, X_MFA_DEVICE, X_ROLES, X_TRAITS, is_free_extension, is_local, proxy_principal,
};
pub use self::fields::{CertFields, CertKind, MAX_CERT_LEN};
pub use self::grant::{HostGrant, OpenSshGrant, SshServerGrant, UserGrant};
pub use self::identity::{HostIdentity, Identity, Permits, UserIdentity};
pub use self::issuer::{CertIssuer, IssueError, IssuedCertificates, IssuedSshCertificate, SubjectKeys};
pub use self::key::{InvalidKey, KeyAlgorithm, PublicKey, TlsPublicKey};
pub use self::rejected::CertRejected;
pub use self::tls::{TlsAuthority, TlsFields, verify_tls};
pub use self::trust::{CaPin, InvalidCaPin, TrustBundle, X509Authority};
pub use self::verify::{
    CLOCK_SKEW, HostCheck, MAX_HOST_TTL, MAX_OPENSSH_LOGIN_TTL, MAX_PRINCIPALS, MAX_USER_TTL, MIN_USER_TTL,
    NO_LOGIN, UserCheck, verify_host, verify_user,
};

/// Names and values of a principal-free map, as roles and certificates carry them: trait name to values.
pub type Traits = std::collections::BTreeMap<String, Vec<String>>;
