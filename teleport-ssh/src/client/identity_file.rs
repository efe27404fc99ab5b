//! Everything that a program needs to be a user of a cluster, in one file.
//!
//! ```text
//! -----BEGIN OPENSSH PRIVATE KEY-----     for SSH; `ssh -i` reads it from the same file
//! -----BEGIN PRIVATE KEY-----             for TLS
//! ssh-ed25519-cert-v01@openssh.com …      the SSH certificate
//! -----BEGIN CERTIFICATE-----             the X.509 identity
//! -----BEGIN CERTIFICATE-----             authorities of hosts' X.509 identities
//! @proxy web:3080 ssh:3023                where the cluster's proxy is, if that was known
//! cert-authority ssh-ed25519 …            authorities of users, as `authorized_keys` has them
//! @cert-authority *.example.com,… …       authorities of hosts, as `known_hosts` has them
//! ```
//!
//! Blank lines and those that begin with `#` are skipped. Only the order of the certificates matters: the first is the user's.

mod parse;

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use teleport_core::api::LoginResponse;
use teleport_core::cert::{CertRejected, IssuedCertificates, TrustBundle};
use teleport_core::clock::Timestamp;
use teleport_core::id::{OsLogin, RoleName, UserName};
use zeroize::Zeroizing;

use super::openssh::{ProxyAddress, known_hosts};
use super::profile::Profile;
use crate::keys::{SshKeyPair, TlsKeyPair};
use crate::pem;

/// No identity file is longer; a longer file is not one.
const MAX_LEN: u64 = 1 << 20;
const TLS_KEY: &str = "PRIVATE KEY";
const SSH_KEY: &str = "OPENSSH PRIVATE KEY";
const CERTIFICATE: &str = "CERTIFICATE";

/// Why a file is not the identity of anybody.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityFileError {
    /// The SSH certificate is not one of a user by the authority in the file.
    #[error("its SSH certificate is not usable: {reason}")]
    Certificate {
        /// Why.
        reason: CertRejected,
    },
    /// It cannot be read, or may not be: others can read it as well.
    #[error(transparent)]
    File(io::Error),
    /// Its parts are those of different identities.
    #[error("its parts are of different users or clusters")]
    Different,
    /// The line is none that such a file has.
    #[error("line {line} is none of an identity file, which `tsh login --out` and `tctl auth sign` write")]
    Line {
        /// Counted from 1.
        line: usize,
    },
    /// A part cannot be read.
    #[error("{part} is damaged (line {line})")]
    Malformed {
        /// What.
        part: &'static str,
        /// Where it begins, counted from 1.
        line: usize,
    },
    /// A certificate is for other keys.
    #[error("{part} is not for the private key in it")]
    Mismatch {
        /// Which certificate.
        part: &'static str,
    },
    /// A part is there twice.
    #[error("{part} is there twice (line {line})")]
    Twice {
        /// What.
        part: &'static str,
        /// Where the second begins, counted from 1.
        line: usize,
    },
    /// A part is not there, or not whole.
    #[error("{part} is missing: the file is not an identity file, or was cut off")]
    Truncated {
        /// What.
        part: &'static str,
    },
}

/// A file that is not the identity of anybody.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the identity file {}", path.display())]
#[non_exhaustive]
pub struct UnusableIdentityFile {
    /// The file.
    pub path: PathBuf,
    /// The reason.
    pub source: IdentityFileError,
}

/// Where a proxy is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "whoever knows it builds it")]
pub struct ProxyAddresses {
    /// Its HTTPS.
    pub web: ProxyAddress,
    /// Its SSH.
    pub ssh: ProxyAddress,
}

/// A user's keys and certificates, and whom to trust.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "whoever has keys certified builds it")]
pub struct IdentityFile {
    /// The user.
    pub user: UserName,
    /// The user's roles when the certificates were made.
    pub roles: Vec<RoleName>,
    /// The logins in the certificate.
    pub logins: Vec<OsLogin>,
    /// The SSH key.
    pub ssh: SshKeyPair,
    /// The TLS key.
    pub tls: TlsKeyPair,
    /// The certificates for both.
    pub certificates: IssuedCertificates,
    /// Whom to trust. A file has no authorities of users' X.509 identities: only servers need them.
    pub trust: TrustBundle,
    /// A proxy of the cluster, if one is known.
    pub proxy: Option<ProxyAddresses>,
}

impl IdentityFile {
    /// Reads a file. As OpenSSH does with private keys, it refuses one of our own that others can read.
    ///
    /// # Errors
    /// [`UnusableIdentityFile`]. Whether the certificates are over is not looked at: see [`IdentityFile::is_valid`].
    pub fn read(path: &Path) -> Result<Self, UnusableIdentityFile> {
        let text = read_text(path).map_err(IdentityFileError::File);
        text.and_then(|text| Self::parse(&text))
            .map_err(|source| UnusableIdentityFile { path: path.to_owned(), source })
    }

    /// Reads the content of a file.
    ///
    /// # Errors
    /// [`IdentityFileError`].
    pub fn parse(text: &str) -> Result<Self, IdentityFileError> {
        parse::parse(text)
    }

    /// From the answer of the auth service for these keys.
    ///
    /// # Errors
    /// [`IdentityFileError`] for an answer that would make a file that is refused.
    pub fn issued(
        response: LoginResponse,
        ssh: SshKeyPair,
        tls: TlsKeyPair,
        proxy: Option<ProxyAddresses>,
    ) -> Result<Self, IdentityFileError> {
        let LoginResponse { user, roles, logins, certificates, trust } = response;
        let identity = Self { user, roles, logins, ssh, tls, certificates, trust, proxy };
        Self::parse(&identity.to_text())
    }

    /// The content of the file.
    pub fn to_text(&self) -> Zeroizing<String> {
        let ssh = self.ssh.to_openssh();
        let tls = self.tls.to_pem();
        let mut rest = format!("{}\n", self.certificates.ssh.trim());
        rest.push_str(&pem::encode(CERTIFICATE, &self.certificates.tls));
        for authority in &self.trust.host_tls_ca {
            rest.push_str(&pem::encode(CERTIFICATE, authority.as_der()));
        }
        if let Some(ProxyAddresses { web, ssh }) = &self.proxy {
            let _ = writeln!(rest, "@proxy {} {}", web.to_authority(), ssh.to_authority());
        }
        for authority in &self.trust.user_ca {
            let _ = writeln!(rest, "cert-authority {authority}");
        }
        // Last, because half a key is none: a file that was cut off is noticed.
        rest.push_str(&known_hosts(&self.trust));
        let parts = [ssh.expose(), tls.expose(), &rest];
        let mut text = Zeroizing::new(String::with_capacity(parts.iter().map(|part| part.len()).sum()));
        text.extend(parts);
        text
    }

    /// Whether the certificates are still valid.
    pub fn is_valid(&self, now: Timestamp) -> bool {
        now < self.certificates.valid_before
    }

    /// The same as a login at a proxy.
    pub fn into_profile(self, proxy: ProxyAddresses) -> Profile {
        let Self { user, roles, logins, ssh, tls, certificates, trust, .. } = self;
        Profile {
            web_address: proxy.web,
            ssh_address: proxy.ssh,
            user,
            roles,
            logins,
            ssh,
            tls,
            certificates,
            trust,
        }
    }
}

impl From<&Profile> for IdentityFile {
    fn from(profile: &Profile) -> Self {
        let Profile { web_address, ssh_address, user, roles, logins, ssh, tls, certificates, trust } =
            profile.clone();
        let proxy = Some(ProxyAddresses { web: web_address, ssh: ssh_address });
        Self { user, roles, logins, ssh, tls, certificates, trust, proxy }
    }
}

fn read_text(path: &Path) -> io::Result<Zeroizing<String>> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    // Whose file is somebody else's has not left it open by mistake of ours: a group that deploys it may read it.
    if metadata.uid() == nix::unistd::geteuid().as_raw() && metadata.mode() & 0o077 != 0 {
        let text = format!(
            "others can read it (mode {:03o}), so it is no secret any more; `chmod 600` it if you know better",
            metadata.mode() & 0o777
        );
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    let mut text = Zeroizing::new(String::new());
    if file.take(MAX_LEN).read_to_string(&mut text)? as u64 == MAX_LEN {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is too long to be one"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
