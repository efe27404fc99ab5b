//! Private, durable files.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use teleport_core::clock::Timestamp;

/// Makes a directory and those above it with mode 0700; one that exists is left as it is.
pub(crate) fn create_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Makes a directory in one that exists, and its name durable: also that of one that is there, because whoever is making it may
/// not have come so far, or may have died before.
pub(crate) fn create_durable_directory(path: &Path) -> io::Result<()> {
    create_directory(path)?;
    path.parent().map_or(Ok(()), sync_directory)
}

/// Makes the names in a directory durable.
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Options for a file of mode 0600 that is made if it does not exist.
pub(crate) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.create(true).mode(0o600);
    options
}

/// Writes a whole file: after a crash there is either the old one or the new one, never a part.
///
/// Two writers of one file must not meet; the callers hold a lock.
pub(crate) fn replace(
    directory: &Path,
    name: &str,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    let draft = directory.join(format!(".{name}.new"));
    let mut file = private().write(true).truncate(true).open(&draft)?;
    write(&mut file)?;
    file.flush()?;
    file.sync_all()?;
    drop(file);
    std::fs::rename(&draft, directory.join(name))?;
    sync_directory(directory)
}

/// The UTC day of a time, `2026-11-21`: sorts like time, and is a safe file name.
pub(crate) fn day(time: Timestamp) -> String {
    let mut text = time.to_string();
    text.truncate(DAY_LEN);
    text
}

/// The length of a [`day`].
pub(crate) const DAY_LEN: usize = "2026-11-21".len();

/// Whether a file name has the form of a [`day`].
pub(crate) fn is_day(text: &str) -> bool {
    text.len() == DAY_LEN
        && text.bytes().enumerate().all(|(at, byte)| match at {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_told_from_other_names() {
        assert_eq!(day(Timestamp::from_unix_millis(1_795_228_845_123)), "2026-11-21");
        assert!(is_day("2026-11-21"));
        for other in ["", "2026-11-2", "2026-11-21x", "2026/11/21", "lost+found", "..........", "２０２"] {
            assert!(!is_day(other), "{other}");
        }
    }
}
