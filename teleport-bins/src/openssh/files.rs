//! Files that are changed together, or not at all as far as that can be had.

use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::fcntl::OFlag;
use nix::unistd::geteuid;

/// Whose a file is, and who may read and change it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ownership {
    mode: u32,
    owner: u32,
    group: u32,
}

impl Ownership {
    fn of(metadata: &fs::Metadata) -> Self {
        Self { mode: metadata.mode() & 0o7777, owner: metadata.uid(), group: metadata.gid() }
    }
}

/// A file as it was, if it was.
type Before = Option<(Vec<u8>, Ownership)>;

/// What was there before, the newest last.
#[derive(Debug, Default)]
pub(super) struct Change(Vec<(PathBuf, Before)>);

impl Change {
    fn remember(&mut self, path: &Path) -> Result<()> {
        let before = match fs::read(path) {
            Ok(bytes) => Some((bytes, Ownership::of(&fs::metadata(path)?))),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        self.0.push((path.to_owned(), before));
        Ok(())
    }

    /// Writes a file of ours as a whole.
    pub(super) fn write(&mut self, path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
        self.remember(path)?;
        put(path, bytes, mode, None)
    }

    /// Writes a file of somebody else's as a whole; owner and permissions stay. A symbolic link stays one.
    pub(super) fn replace(&mut self, path: &Path, bytes: &[u8]) -> Result<()> {
        let path = fs::canonicalize(path).with_context(|| format!("cannot find {}", path.display()))?;
        self.remember(&path)?;
        let ownership = Ownership::of(&fs::metadata(&path)?);
        put(&path, bytes, ownership.mode, Some(ownership))
    }

    pub(super) fn remove(&mut self, path: &Path) -> Result<()> {
        self.remember(path)?;
        match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// Makes everything as it was.
    pub(super) fn undo(self) -> Result<()> {
        let mut outcome = Ok(());
        for (path, before) in self.0.into_iter().rev() {
            let undone = match before {
                Some((bytes, ownership)) => put(&path, &bytes, ownership.mode, Some(ownership)),
                None => match fs::remove_file(&path) {
                    Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
                    _ => Ok(()),
                },
            };
            outcome = outcome.and(undone.with_context(|| path.display().to_string()));
        }
        outcome
    }
}

/// By a new file that takes the old one's place: nobody ever reads half of it, nor one that belongs to somebody else for a moment.
fn put(path: &Path, bytes: &[u8], mode: u32, ownership: Option<Ownership>) -> Result<()> {
    let dir = path.parent().context("a file is in a directory")?;
    let write = || {
        let mut unfinished = tempfile::Builder::new().prefix(".teleport-").tempfile_in(dir)?;
        let file = unfinished.as_file_mut();
        file.write_all(bytes)?;
        let new = Ownership::of(&file.metadata()?);
        if let Some(wanted) = ownership
            && (wanted.owner, wanted.group) != (new.owner, new.group)
        {
            fchown(&*file, Some(wanted.owner), Some(wanted.group))?;
        }
        // After the owner, whose change takes bits away.
        file.set_permissions(Permissions::from_mode(mode))?;
        file.sync_all()?;
        unfinished.persist(path)?;
        File::open(dir)?.sync_all()
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// The file that is locked, beside what is changed. Nobody else can open it: whoever can open something can lock it, and keep us out.
const LOCK: &str = ".teleport-join.lock";

/// Nobody else changes what is in some directories, as long as this lives.
#[derive(Debug)]
pub(crate) struct Alone(Vec<(PathBuf, File)>);

impl Alone {
    /// # Errors
    /// One line; somebody else is about to change something there.
    pub(crate) fn in_directory(dir: &Path) -> Result<Self> {
        let mut alone = Self(Vec::new());
        alone.also(fs::canonicalize(dir).with_context(|| format!("cannot find {}", dir.display()))?)?;
        Ok(alone)
    }

    /// Nor in the directory of this file, behind all links.
    ///
    /// # Errors
    /// As [`Self::in_directory`].
    pub(crate) fn also_beside(&mut self, file: &Path) -> Result<()> {
        let real = fs::canonicalize(file).with_context(|| format!("cannot find {}", file.display()))?;
        self.also(real.parent().context("a file is in a directory")?.to_owned())
    }

    fn also(&mut self, dir: PathBuf) -> Result<()> {
        // The second lock would wait for the first.
        if self.0.iter().any(|(known, _)| *known == dir) {
            return Ok(());
        }
        let path = dir.join(LOCK);
        let lock = open_lock(&path).with_context(|| format!("cannot use {}", path.display()))?;
        match lock.try_lock() {
            Ok(()) => self.0.push((dir, lock)),
            Err(TryLockError::WouldBlock) => {
                bail!("another `teleport join openssh` is at work on {}; try again", dir.display())
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
        Ok(())
    }
}

fn open_lock(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let lock = options.custom_flags(OFlag::O_NOFOLLOW.bits()).open(path)?;
    let metadata = lock.metadata()?;
    if !metadata.is_file() || metadata.uid() != geteuid().as_raw() || metadata.mode() & 0o077 != 0 {
        bail!("others may open it; remove it");
    }
    Ok(lock)
}

/// Keeps the configuration as it was before the very first change.
pub(super) fn keep_copy(path: &Path) -> Result<()> {
    let mut name = path.file_name().context("a file has a name")?.to_owned();
    name.push(".before-teleport");
    let copy = path.with_file_name(name);
    // Whatever has the name, also a link to nowhere.
    if fs::symlink_metadata(&copy).is_ok() {
        return Ok(());
    }
    let write = || {
        let mut from = File::open(path)?;
        let wanted = Ownership::of(&from.metadata()?);
        let dir = copy.parent().context("a file is in a directory")?;
        let mut unfinished = tempfile::Builder::new().prefix(".teleport-").tempfile_in(dir)?;
        let file = unfinished.as_file_mut();
        std::io::copy(&mut from, file)?;
        fchown(&*file, Some(wanted.owner), Some(wanted.group))?;
        file.set_permissions(Permissions::from_mode(wanted.mode))?;
        file.sync_all()?;
        unfinished.persist_noclobber(&copy)?;
        anyhow::Ok(())
    };
    write().with_context(|| format!("cannot keep a copy as {}", copy.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use std::os::unix::fs::{chown, symlink};

    use super::*;

    #[test]
    fn a_change_is_taken_back_with_owner_and_mode_and_a_link_stays_one() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link, ours) = (dir.path().join("real"), dir.path().join("link"), dir.path().join("ours"));
        fs::write(&real, b"Port 22 # \xe9\n").unwrap();
        fs::set_permissions(&real, Permissions::from_mode(0o640)).unwrap();
        // Somebody else's, where the test may do that.
        let _ = chown(&real, Some(65_534), Some(65_534));
        let before = Ownership::of(&fs::metadata(&real).unwrap());
        symlink("real", &link).unwrap();

        let mut change = Change::default();
        change.replace(&link, b"new").unwrap();
        change.write(&ours, b"mine", 0o600).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(
            (fs::read(&real).unwrap(), Ownership::of(&fs::metadata(&real).unwrap())),
            (b"new".to_vec(), before)
        );
        change.remove(&real).unwrap();
        change.undo().unwrap();
        assert_eq!(fs::read(&real).unwrap(), b"Port 22 # \xe9\n");
        assert_eq!(Ownership::of(&fs::metadata(&real).unwrap()), before);
        let left: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left.len(), 2, "{left:?}");
    }

    #[test]
    fn two_do_not_work_in_one_directory() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (dir.path().join("one"), dir.path().join("other"));
        fs::write(&one, "").unwrap();
        fs::create_dir(&other).unwrap();
        let mut alone = Alone::in_directory(&other).unwrap();
        alone.also_beside(&one).unwrap();
        // The same directory once more.
        alone.also_beside(&one).unwrap();
        for taken in [dir.path(), &other] {
            let second = Alone::in_directory(taken).unwrap_err();
            assert!(second.to_string().contains("another"), "{second}");
        }
        drop(alone);
        Alone::in_directory(&other).unwrap().also_beside(&one).unwrap();
    }

    #[test]
    fn whoever_can_open_a_directory_keeps_nobody_out_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let open = File::open(dir.path()).unwrap();
        open.lock().unwrap();
        drop(Alone::in_directory(dir.path()).unwrap());
        let lock = dir.path().join(LOCK);
        assert_eq!(fs::metadata(&lock).unwrap().mode() & 0o7777, 0o600);
        // One that others can open is not taken, nor one that is elsewhere.
        fs::set_permissions(&lock, Permissions::from_mode(0o644)).unwrap();
        let refused = Alone::in_directory(dir.path()).unwrap_err();
        assert!(format!("{refused:#}").contains("others may open it"), "{refused:#}");
        fs::remove_file(&lock).unwrap();
        symlink(dir.path().join("elsewhere"), &lock).unwrap();
        assert!(Alone::in_directory(dir.path()).is_err());
        assert!(!dir.path().join("elsewhere").exists());
    }

    #[test]
    fn a_copy_is_kept_once_and_never_written_through_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let (config, copy) = (dir.path().join("config"), dir.path().join("config.before-teleport"));
        fs::write(&config, "first").unwrap();
        fs::set_permissions(&config, Permissions::from_mode(0o640)).unwrap();
        keep_copy(&config).unwrap();
        assert_eq!(fs::metadata(&copy).unwrap().mode() & 0o7777, 0o640);
        fs::write(&config, "second").unwrap();
        keep_copy(&config).unwrap();
        assert_eq!(fs::read(&copy).unwrap(), b"first");
        fs::remove_file(&copy).unwrap();
        symlink(dir.path().join("elsewhere"), &copy).unwrap();
        keep_copy(&config).unwrap();
        assert!(!dir.path().join("elsewhere").exists() && fs::symlink_metadata(&copy).unwrap().is_symlink());
    }
}
