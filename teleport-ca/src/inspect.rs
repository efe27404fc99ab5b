//! Describing SSH certificates for people: `tsh status`, debugging, tests.
//!
//! Nothing here says whether a certificate is to be trusted; that is for [`teleport_core::cert::verify_user`] and
//! [`teleport_core::cert::verify_host`] alone.

use std::fmt;

use ssh_key::certificate::OptionsMap;
use ssh_key::public::KeyData;
use teleport_core::cert::{CertFields, CertKind, CertRejected, KeyAlgorithm, MAX_CERT_LEN, PublicKey};
use teleport_core::clock::Timestamp;

/// The text is not an OpenSSH certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an OpenSSH certificate")]
#[non_exhaustive]
pub struct NotACertificate;

/// What an SSH certificate says. Its `Display` has one line for each field and shows control characters escaped, so that
/// it is safe on a terminal whoever made the certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CertDescription {
    /// The algorithm, such as `ssh-ed25519-cert-v01@openssh.com`.
    pub algorithm: String,
    /// User or host.
    pub kind: CertKind,
    /// The fingerprint of the key that it is about, as OpenSSH prints it.
    pub subject: String,
    /// The fingerprint of the key that signed it.
    pub authority: String,
    /// Whether the signature is the one of that key. It says nothing of whose key that is.
    pub signature_matches: bool,
    /// The serial number.
    pub serial: u64,
    /// The holder: a user, or the id and name of a host.
    pub key_id: String,
    /// The logins of a user, the names of a host.
    pub principals: Vec<String>,
    /// From when it is valid.
    pub valid_after: Timestamp,
    /// When it ends; [`Timestamp::MAX`] is never.
    pub valid_before: Timestamp,
    /// Names and values.
    pub critical_options: Vec<(String, String)>,
    /// Names and values.
    pub extensions: Vec<(String, String)>,
}

/// Reads a certificate in its OpenSSH form: `algorithm base64`, and a comment perhaps.
///
/// # Errors
/// [`NotACertificate`].
pub fn describe(openssh: &str) -> Result<CertDescription, NotACertificate> {
    // The text is a third longer than the bytes, and has a name and a comment.
    if openssh.len() > 2 * MAX_CERT_LEN {
        return Err(NotACertificate);
    }
    let cert = ssh_key::Certificate::from_openssh(openssh.trim()).map_err(|_| NotACertificate)?;
    let fingerprint = |key: &KeyData| key.fingerprint(ssh_key::HashAlg::Sha256).to_string();
    let pairs = |map: &OptionsMap| map.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    Ok(CertDescription {
        algorithm: cert.algorithm().to_certificate_type(),
        kind: if cert.cert_type().is_host() { CertKind::Host } else { CertKind::User },
        subject: fingerprint(cert.public_key()),
        authority: fingerprint(cert.signature_key()),
        signature_matches: !cert.signature_key().is_certificate() && cert.verify_signature().is_ok(),
        serial: cert.serial(),
        key_id: cert.key_id().to_owned(),
        principals: cert.valid_principals().to_vec(),
        valid_after: Timestamp::from_unix_secs(cert.valid_after()),
        valid_before: Timestamp::from_unix_secs(cert.valid_before()),
        critical_options: pairs(cert.critical_options()),
        extensions: pairs(cert.extensions()),
    })
}

/// Reads a certificate in its OpenSSH form whose signature is that of the Ed25519 key that it names: of other keys none is an
/// authority's. Whether it is to be believed is for [`teleport_core::cert::verify_user`] to say.
///
/// # Errors
/// [`CertRejected`].
pub fn fields(openssh: &str) -> Result<CertFields, CertRejected> {
    if openssh.len() > 2 * MAX_CERT_LEN {
        return Err(CertRejected::Malformed);
    }
    let cert = ssh_key::Certificate::from_openssh(openssh.trim()).map_err(|_| CertRejected::Malformed)?;
    verified(&cert)
}

/// The same of a certificate in its wire form.
///
/// # Errors
/// [`CertRejected`].
pub fn fields_from_bytes(bytes: &[u8]) -> Result<CertFields, CertRejected> {
    if bytes.len() > MAX_CERT_LEN {
        return Err(CertRejected::Malformed);
    }
    verified(&ssh_key::Certificate::from_bytes(bytes).map_err(|_| CertRejected::Malformed)?)
}

fn verified(cert: &ssh_key::Certificate) -> Result<CertFields, CertRejected> {
    let key = |data: &KeyData| {
        let bytes = ssh_key::PublicKey::from(data.clone()).to_bytes().map_err(|_| CertRejected::Malformed)?;
        PublicKey::from_wire(&bytes).map_err(|_| CertRejected::Algorithm)
    };
    let (subject, authority) = (key(cert.public_key())?, key(cert.signature_key())?);
    if authority.algorithm() != KeyAlgorithm::Ed25519 {
        return Err(CertRejected::Algorithm);
    }
    cert.verify_signature().map_err(|_| CertRejected::Signature)?;
    let pairs = |map: &OptionsMap| map.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    Ok(CertFields {
        kind: if cert.cert_type().is_host() { CertKind::Host } else { CertKind::User },
        subject,
        authority,
        signature_algorithm: cert.signature().algorithm().to_string(),
        serial: cert.serial(),
        key_id: cert.key_id().to_owned(),
        principals: cert.valid_principals().to_vec(),
        valid_after: cert.valid_after(),
        valid_before: cert.valid_before(),
        critical_options: pairs(cert.critical_options()),
        extensions: pairs(cert.extensions()),
    })
}

impl CertDescription {
    /// Whether it is over at `now`.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        now >= self.valid_before
    }
}

impl fmt::Display for CertDescription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            CertKind::Host => "host",
            _ => "user",
        };
        writeln!(f, "Type:       {} {kind} certificate", self.algorithm)?;
        writeln!(f, "Key:        {}", self.subject)?;
        let matches = if self.signature_matches { "" } else { " (the signature does not match)" };
        writeln!(f, "Signed by:  {}{matches}", self.authority)?;
        writeln!(f, "Key ID:     {}", self.key_id.escape_debug())?;
        writeln!(f, "Serial:     {}", self.serial)?;
        writeln!(f, "Valid:      {} to {}", self.valid_after, self.valid_before)?;
        let mut label = "Principals:";
        for principal in &self.principals {
            writeln!(f, "{label:<11} {}", principal.escape_debug())?;
            label = "";
        }
        for (title, options) in [("Critical:", &self.critical_options), ("Extensions:", &self.extensions)] {
            let mut label = title;
            for (name, value) in options {
                write!(f, "{label:<11} {}", name.escape_debug())?;
                if !value.is_empty() {
                    write!(f, " {}", Plain(value))?;
                }
                writeln!(f)?;
                label = "";
            }
        }
        Ok(())
    }
}

/// A text whose quotes stay as they are, since most values are JSON.
struct Plain<'a>(&'a str);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '"' | '\'' | '\\' => write!(f, "{character}")?,
                other => write!(f, "{}", other.escape_debug())?,
            }
        }
        Ok(())
    }
}
