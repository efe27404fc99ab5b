//! Keys and certificates as files for programs.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::identity_file::IdentityFile;
use crate::identity::file::write_private;
use crate::keys::SshKeyPair;
use crate::pem;

/// How keys and certificates are laid out in files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileFormat {
    /// One file with everything: an [`IdentityFile`].
    File,
    /// For `ssh`: the private key, and beside it the certificate in `<path>-cert.pub`.
    Openssh,
    /// For programs that speak TLS: `<path>.key`, `<path>.crt`, and the authorities of hosts in `<path>.cas`.
    Tls,
}

impl FileFormat {
    /// The files that will be written, the private key first.
    pub fn paths(self, path: &Path) -> Vec<PathBuf> {
        let with = |suffix: &str| {
            let mut name = OsString::from(path);
            name.push(suffix);
            PathBuf::from(name)
        };
        match self {
            Self::File => vec![path.to_owned()],
            Self::Openssh => vec![path.to_owned(), with("-cert.pub")],
            Self::Tls => vec![with(".key"), with(".crt"), with(".cas")],
        }
    }
}

/// A file cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}", path.display())]
#[non_exhaustive]
pub struct NotWritten {
    /// The file.
    pub path: PathBuf,
    /// The reason.
    pub source: io::Error,
}

/// The first of these files that exists, also as a link that leads nowhere.
pub fn existing(paths: &[PathBuf]) -> Option<&PathBuf> {
    paths.iter().find(|path| fs::symlink_metadata(path).is_ok())
}

/// Writes an identity as this format has it; each file whole and of mode 0600. Existing files are replaced.
///
/// # Errors
/// [`NotWritten`]; files before the one that it names were written.
pub fn write_identity(
    identity: &IdentityFile,
    format: FileFormat,
    path: &Path,
) -> Result<Vec<PathBuf>, NotWritten> {
    let contents = match format {
        FileFormat::File => vec![identity.to_text()],
        FileFormat::Openssh => {
            return write_openssh(&identity.ssh, &identity.certificates.ssh, identity.user.as_str(), path);
        }
        FileFormat::Tls => {
            let authorities = identity.trust.host_tls_ca.iter();
            let authorities: Vec<_> =
                authorities.map(|authority| pem::encode("CERTIFICATE", authority.as_der())).collect();
            vec![
                Zeroizing::new(identity.tls.to_pem().expose().to_owned()),
                pem::encode("CERTIFICATE", &identity.certificates.tls),
                Zeroizing::new(authorities.iter().map(|pem| pem.as_str()).collect()),
            ]
        }
    };
    write(format.paths(path), &contents)
}

/// Writes an SSH key and its certificate as [`FileFormat::Openssh`] has them.
///
/// # Errors
/// As [`write_identity`].
pub fn write_openssh(
    key: &SshKeyPair,
    certificate: &str,
    comment: &str,
    path: &Path,
) -> Result<Vec<PathBuf>, NotWritten> {
    let key = Zeroizing::new(key.to_openssh().expose().to_owned());
    let certificate = Zeroizing::new(format!("{} {comment}\n", certificate.trim_end()));
    write(FileFormat::Openssh.paths(path), &[key, certificate])
}

fn write(paths: Vec<PathBuf>, contents: &[Zeroizing<String>]) -> Result<Vec<PathBuf>, NotWritten> {
    for (path, content) in paths.iter().zip(contents) {
        let absolute = std::path::absolute(path);
        absolute
            .and_then(|absolute| write_private(&absolute, content.as_bytes()))
            .map_err(|source| NotWritten { path: path.clone(), source })?;
    }
    Ok(paths)
}
