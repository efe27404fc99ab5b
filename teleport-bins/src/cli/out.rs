//! Files of keys and certificates, as `tsh login --out` and `tctl auth sign` write them.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use teleport_ssh::client::{FileFormat, IdentityFile, existing, write_identity};

/// What the command line calls a [`FileFormat`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum OutFormat {
    /// One file with everything: an identity file, for --identity
    File,
    /// For ssh: FILE and FILE-cert.pub
    Openssh,
    /// For programs that speak TLS: FILE.key, FILE.crt and FILE.cas
    Tls,
}

impl From<OutFormat> for FileFormat {
    fn from(format: OutFormat) -> Self {
        match format {
            OutFormat::File => Self::File,
            OutFormat::Openssh => Self::Openssh,
            OutFormat::Tls => Self::Tls,
        }
    }
}

/// Fails if one of the files exists that would be written, unless it shall be replaced.
pub(super) fn refuse_existing(path: &Path, format: OutFormat, overwrite: bool) -> Result<()> {
    if path.file_name().is_none() || path.is_dir() {
        bail!("--out: {} is not the name of a file", path.display());
    }
    let paths = FileFormat::from(format).paths(path);
    match existing(&paths) {
        Some(path) if !overwrite => bail!("{} exists; say --overwrite to replace it", path.display()),
        _ => Ok(()),
    }
}

/// Writes an identity, and says where it is.
pub(super) fn write(identity: &IdentityFile, format: OutFormat, path: &Path, overwrite: bool) -> Result<()> {
    refuse_existing(path, format, overwrite)?;
    let written = write_identity(identity, format.into(), path)?;
    println!(
        "The identity of {} is in {}, valid until {}",
        identity.user,
        listed(&written),
        identity.certificates.valid_before
    );
    Ok(())
}

/// `a, b and c`.
pub(super) fn listed(paths: &[PathBuf]) -> String {
    let names: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    match names.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => names.concat(),
    }
}
