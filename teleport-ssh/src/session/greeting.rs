//! What is shown before a login shell on a terminal.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use bytes::Bytes;

/// The most of one file, in bytes.
const LIMIT: u64 = 64 << 10;
/// Whoever has this file at home wants to see nothing.
const HUSH: &str = ".hushlogin";

/// The messages of the day: those of these files that can be read, with the line ends of a terminal. Blocks.
pub(super) fn messages(files: &[PathBuf], home: &Path) -> Bytes {
    // Not what it leads to: this is root, and nobody learns from it which files there are.
    if home.join(HUSH).symlink_metadata().is_ok() {
        return Bytes::new();
    }
    let mut text = Vec::new();
    for path in files {
        let mut file = Vec::new();
        // Most hosts have none of them, or not all.
        let read = File::open(path).and_then(|opened| opened.take(LIMIT).read_to_end(&mut file));
        if let Err(error) = read
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::debug!(path = %path.display(), error = &error as &dyn std::error::Error, "a message of the day cannot be read");
        }
        for line in file.split_inclusive(|byte| *byte == b'\n') {
            text.extend_from_slice(line.strip_suffix(b"\n").unwrap_or(line));
            text.extend_from_slice(b"\r\n");
        }
    }
    text.into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn messages_are_shown_in_their_order_unless_the_user_wants_none() {
        let home = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = home.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let files =
            [file("dynamic", "up 3 days\n"), home.path().join("none"), file("motd", "\nBe kind.\nno end")];
        assert_eq!(messages(&files, home.path()), "up 3 days\r\n\r\nBe kind.\r\nno end\r\n");
        assert_eq!(messages(&[file("large", &"x".repeat(1 << 20))], home.path()).len() as u64, LIMIT + 2);
        file(HUSH, "");
        assert_eq!(messages(&files, home.path()), "");
    }
}
