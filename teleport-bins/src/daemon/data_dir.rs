//! The data directory: private, and of one daemon at a time.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use teleport_core::entropy::{Entropy, EntropyExt};
use teleport_core::secret::SecretBytes;
use zeroize::Zeroizing;

fn cannot_be_used(path: &Path) -> String {
    format!("the data directory {} cannot be used", path.display())
}

/// Makes the directory if it does not exist (mode 0700).
///
/// # Errors
/// One line; also if it is somebody else's, or others may write to it.
pub(crate) fn prepare(path: &Path) -> Result<()> {
    let what = || cannot_be_used(path);
    DirBuilder::new().recursive(true).mode(0o700).create(path).with_context(what)?;
    let metadata = fs::metadata(path).with_context(what)?;
    let owner = metadata.uid();
    let user = nix::unistd::geteuid().as_raw();
    if owner != user {
        bail!("{}: it belongs to the user id {owner}, and this is {user}; say another --data-dir", what());
    }
    // Whoever can put files in place of ours has the keys of the cluster tomorrow.
    if metadata.mode() & 0o022 != 0 {
        bail!("{}: others may write to it; run `chmod 700 {}`", what(), path.display());
    }
    Ok(())
}

/// A data directory that this process holds.
#[derive(Debug)]
pub(super) struct DataDir {
    path: PathBuf,
    /// Locked for as long as the daemon lives.
    _lock: File,
}

impl DataDir {
    /// Makes the directory if it does not exist (mode 0700) and locks it.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let what = || cannot_be_used(path);
        prepare(path)?;
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join("lock"))
            .with_context(what)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                let _ = lock.read_to_string(&mut pid);
                let who =
                    if pid.trim().is_empty() { String::new() } else { format!(" (process {})", pid.trim()) };
                bail!("{}: another daemon uses it{who}", what());
            }
            Err(TryLockError::Error(error)) => return Err(error).with_context(what),
        }
        lock.set_len(0).with_context(what)?;
        writeln!(lock, "{}", std::process::id()).with_context(what)?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    pub(super) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The name of the file with the key that seals the secrets of the auth service.
    pub(super) const MASTER_KEY: &str = "master.key";

    /// The key that seals the secrets of the auth service; made the first time.
    pub(super) fn master_key(&self, entropy: &dyn Entropy) -> Result<SecretBytes> {
        let path = self.join(Self::MASTER_KEY);
        let what = || format!("the master key {} cannot be used", path.display());
        match fs::read(&path).map(Zeroizing::new) {
            Ok(key) if key.len() == 32 => Ok(SecretBytes::new(key.to_vec())),
            Ok(_) => bail!("{}: it must have 32 bytes; restore it from a backup", what()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let key = Zeroizing::new(entropy.bytes::<32>()?);
                // Whole or not at all: a half-written key would lock the cluster out of its own secrets.
                let unfinished = self.join("master.key.new");
                let _ = fs::remove_file(&unfinished);
                let mut file = OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(&unfinished)
                    .with_context(what)?;
                file.write_all(key.as_slice()).with_context(what)?;
                file.sync_all().with_context(what)?;
                fs::rename(&unfinished, &path).with_context(what)?;
                File::open(&self.path).and_then(|dir| dir.sync_all()).with_context(what)?;
                Ok(SecretBytes::new(key.to_vec()))
            }
            Err(error) => Err(error).with_context(what),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use std::os::unix::fs::PermissionsExt;

    use teleport_core::entropy::SystemEntropy;

    use super::*;

    #[test]
    fn one_daemon_at_a_time_and_one_master_key_for_ever() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("data");
        let data_dir = DataDir::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        let error = DataDir::open(&path).unwrap_err().to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        let key = data_dir.master_key(&SystemEntropy::new()).unwrap();
        assert!(key == data_dir.master_key(&SystemEntropy::new()).unwrap());
        assert_eq!(fs::metadata(path.join("master.key")).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(path.join("master.key"), b"short").unwrap();
        assert!(data_dir.master_key(&SystemEntropy::new()).is_err());
        drop(data_dir);
        DataDir::open(&path).unwrap();
    }

    #[test]
    fn a_directory_that_others_may_write_to_is_refused() {
        let temporary = tempfile::tempdir().unwrap();
        let mode = |mode| fs::set_permissions(temporary.path(), fs::Permissions::from_mode(mode)).unwrap();
        for open in [0o777, 0o1777, 0o770, 0o702] {
            mode(open);
            let error = DataDir::open(temporary.path()).unwrap_err().to_string();
            assert!(error.contains("others may write"), "{open:o}: {error}");
            assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0);
        }
        mode(0o755);
        DataDir::open(temporary.path()).unwrap();
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_said() {
        let error = format!("{:#}", DataDir::open("/proc/none".as_ref()).unwrap_err());
        assert!(error.contains("/proc/none"), "{error}");
    }
}
