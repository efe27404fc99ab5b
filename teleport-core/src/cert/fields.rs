//! An SSH certificate as data.

use super::{PublicKey, Traits};

/// The longest SSH certificate in its wire form, in bytes.
pub const MAX_CERT_LEN: usize = 16 * 1024;

/// What an SSH certificate is for (`PROTOCOL.certkeys`, field `type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CertKind {
    /// Identifies a host.
    Host,
    /// Identifies a user.
    User,
}

/// The fields of an SSH certificate whose signature **was checked** with [`CertFields::authority`].
///
/// Whether that authority, or anything else here, is to be believed is for [`verify_user`](super::verify_user) and
/// [`verify_host`](super::verify_host) to say.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "adapters build it; a new field must make them think")]
pub struct CertFields {
    /// User or host.
    pub kind: CertKind,
    /// The key that the certificate is about.
    pub subject: PublicKey,
    /// The key that signed it.
    pub authority: PublicKey,
    /// The algorithm of the signature, as named in it.
    pub signature_algorithm: String,
    /// Chosen by the authority.
    pub serial: u64,
    /// Names the holder, for logs.
    pub key_id: String,
    /// User: logins. Host: names.
    pub principals: Vec<String>,
    /// Seconds since the epoch; valid from then on.
    pub valid_after: u64,
    /// Seconds since the epoch; valid until just before.
    pub valid_before: u64,
    /// In the order of the certificate.
    pub critical_options: Vec<(String, String)>,
    /// In the order of the certificate.
    pub extensions: Vec<(String, String)>,
}

impl CertFields {
    /// The value of the extension `name`.
    pub fn extension(&self, name: &str) -> Option<&str> {
        self.extensions.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn traits(&self) -> Option<Traits> {
        match self.extension(super::X_TRAITS) {
            Some(json) => serde_json::from_str(json).ok(),
            None => Some(Traits::new()),
        }
    }
}
