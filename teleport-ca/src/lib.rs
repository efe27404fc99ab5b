//! A certificate authority for identity-aware SSH access.
#![forbid(unsafe_code)]

mod authority;
pub mod danger;
mod error;
pub mod inspect;
pub mod key;
mod policy;
pub mod seal;
mod ssh;
mod store;
mod x509;

pub use self::authority::CertificateAuthority;
pub use self::error::CaError;
pub use self::ssh::SshCertificate;
