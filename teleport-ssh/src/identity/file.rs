//! Private files: whole or not at all, for nobody else's eyes.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use zeroize::Zeroizing;

/// No file of ours is longer; a longer one is not ours.
const MAX_LEN: u64 = 4 << 20;

/// Makes `dir` a directory that only its owner can enter. An existing one of ours is tightened; somebody else's is refused.
pub(crate) fn private_dir(dir: &Path) -> io::Result<()> {
    match DirBuilder::new().recursive(true).mode(0o700).create(dir) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    let metadata = fs::metadata(dir)?;
    if !metadata.is_dir() {
        return Err(io::Error::new(io::ErrorKind::NotADirectory, "it is not a directory"));
    }
    own(&metadata)?;
    // The umask can only have removed bits; what it removed is given back, what was too much is taken.
    if metadata.mode() & 0o7777 != 0o700 {
        fs::set_permissions(dir, Permissions::from_mode(0o700))?;
    }
    Ok(())
}

fn own(metadata: &fs::Metadata) -> io::Result<()> {
    let me = nix::unistd::geteuid().as_raw();
    if metadata.uid() == me {
        Ok(())
    } else {
        let text = format!("it belongs to user id {}, this process runs as {me}", metadata.uid());
        Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
    }
}

/// Replaces `path` by `content`: after a crash the old or the new content is there. Mode 0600 from the first moment.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
    let temporary = dir.join(format!(".{name}.{}.new", std::process::id()));
    // What an interrupted write of a process with our id left behind.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let written = write_new(&temporary, content).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // The error that is returned is the one that matters.
        let _ = fs::remove_file(&temporary);
    }
    written?;
    File::open(dir)?.sync_all()
}

fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)?;
    // A strange umask may have removed the owner's bits.
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(content)?;
    file.sync_all()
}

/// Reads a file that only its owner may read; `None` if there is none.
pub(crate) fn read_private(path: &Path) -> io::Result<Option<Zeroizing<String>>> {
    let file = match OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let metadata = file.metadata()?;
    own(&metadata)?;
    if metadata.mode() & 0o077 != 0 {
        let text = format!(
            "others can read it (mode {:03o}): it may be stolen; remove it, so that another is made (a host then joins again), or `chmod 600` it if you know better",
            metadata.mode() & 0o777
        );
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    let mut text = Zeroizing::new(String::new());
    if file.take(MAX_LEN).read_to_string(&mut text)? as u64 == MAX_LEN {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is too long"));
    }
    Ok(Some(text))
}
