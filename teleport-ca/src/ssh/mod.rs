//! OpenSSH certificates.

mod host;
mod user;
pub(crate) mod wire;

use data_encoding::BASE64;
use teleport_core::cert::{CertKind, IssueError, MAX_CERT_LEN, PublicKey};
use teleport_core::clock::Timestamp;

pub(crate) use self::host::{extensions as host_extensions, key_id as host_key_id};
pub(crate) use self::user::{
    critical_options as user_options, extensions as user_extensions, permits, principals as user_principals,
};
use self::wire::Buffer;
use crate::key::{KeyId, KeyStore};
use crate::policy::Validity;

/// An SSH certificate that was issued.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SshCertificate {
    /// The OpenSSH certificate: one line, `algorithm base64`, without a line feed.
    pub openssh: String,
    /// Its serial number.
    pub serial: u64,
    /// From when it is valid.
    pub valid_after: Timestamp,
    /// When it ends.
    pub valid_before: Timestamp,
}

/// What goes into a certificate. Options and extensions are ordered by name, as `PROTOCOL.certkeys` demands.
pub(crate) struct Content<'a> {
    pub(crate) kind: CertKind,
    pub(crate) subject: &'a PublicKey,
    pub(crate) serial: u64,
    pub(crate) nonce: &'a [u8],
    pub(crate) key_id: &'a str,
    pub(crate) principals: &'a [&'a str],
    pub(crate) validity: Validity,
    pub(crate) critical_options: &'a [(&'static str, String)],
    pub(crate) extensions: &'a [(&'a str, String)],
}

impl Content<'_> {
    /// The signed part and what came before it. The subject's fields are those of its plain form after the name.
    fn to_be_signed(&self, algorithm: &str, authority: &PublicKey) -> Buffer {
        let mut out = Buffer::with_capacity(1024);
        let fields = wire::after_first_string(self.subject.as_wire());
        out.string(algorithm.as_bytes()).string(self.nonce).raw(fields).u64(self.serial);
        // Host and user are 2 and 1; a kind that we do not know is written as one that nobody accepts.
        out.u32(match self.kind {
            CertKind::User => 1,
            CertKind::Host => 2,
            _ => 0,
        });
        out.string(self.key_id.as_bytes());
        out.nested(|list| self.principals.iter().for_each(|name| _ = list.string(name.as_bytes())));
        out.u64(self.validity.after.unix_secs()).u64(self.validity.before.unix_secs());
        for options in [self.critical_options as &[(&str, String)], self.extensions] {
            out.nested(|list| options.iter().for_each(|(name, value)| list.option(name, value)));
        }
        out.string(b"").string(authority.as_wire());
        out
    }

    /// Signs with an Ed25519 key.
    pub(crate) async fn sign(
        self,
        keys: &dyn KeyStore,
        authority: (&KeyId, &PublicKey),
    ) -> Result<SshCertificate, IssueError> {
        let algorithm = format!("{}-cert-v01@openssh.com", self.subject.algorithm().as_str());
        let mut out = self.to_be_signed(&algorithm, authority.1);
        let signature = keys
            .sign(authority.0, out.as_slice())
            .await
            .map_err(|error| IssueError::Unavailable { source: error.into() })?;
        out.nested(|inner| {
            inner.string(authority.1.algorithm().as_str().as_bytes()).string(&signature);
        });
        if out.as_slice().len() > MAX_CERT_LEN {
            return Err(IssueError::Refused { reason: "the certificate would be too large" });
        }
        let mut openssh = algorithm;
        openssh.reserve_exact(1 + BASE64.encode_len(out.as_slice().len()));
        openssh.push(' ');
        BASE64.encode_append(out.as_slice(), &mut openssh);
        Ok(SshCertificate {
            openssh,
            serial: self.serial,
            valid_after: self.validity.after,
            valid_before: self.validity.before,
        })
    }
}
