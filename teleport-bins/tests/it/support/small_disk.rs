//! A disk that a test fills: a file system of its own where one can be mounted, else a library before libc that says what a full
//! disk says. `TELEPORT_NO_MOUNT=1` asks for the second.

use std::fs::{DirBuilder, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use tempfile::TempDir;

/// A directory whose disk is small. It goes with the value.
#[derive(Debug)]
pub(crate) struct SmallDisk {
    at: PathBuf,
    is_mounted: bool,
}

impl SmallDisk {
    /// Makes the directory, with what leads there.
    pub(crate) fn at(at: &Path) -> Self {
        DirBuilder::new().recursive(true).mode(0o700).create(at).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=24m,mode=0700", "tmpfs"]).arg(at).stderr(Stdio::null());
        let is_mounted = std::env::var_os("TELEPORT_NO_MOUNT").is_none()
            && mount.status().is_ok_and(|status| status.success());
        if !is_mounted {
            eprintln!("no file system can be mounted here: the full disk is that of a library");
        }
        Self { at: at.to_owned(), is_mounted }
    }

    /// A daemon that is started sees that its disk is full.
    pub(crate) fn seen_by(&self, command: &mut Command) {
        if !self.is_mounted {
            command.env("LD_PRELOAD", library()).env("FULL_DISK", &self.at);
        }
    }

    fn ballast(&self) -> PathBuf {
        self.at.join(".full")
    }

    /// Takes all of the room that is left.
    pub(crate) fn fill(&self) {
        let mut ballast = File::create(self.ballast()).unwrap();
        if self.is_mounted {
            let full = loop {
                if let Err(error) = ballast.write_all(&[0; 4096]) {
                    break error;
                }
            };
            assert_eq!(full.kind(), ErrorKind::StorageFull, "{full}");
        }
    }

    pub(crate) fn make_room(&self) {
        std::fs::remove_file(self.ballast()).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if self.is_mounted {
            let _ = Command::new("umount").arg("-l").arg(&self.at).status();
        }
    }
}

/// Made once, by the compiler that builds ring and zstd as well.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = LIBRARY.get_or_init(|| {
        let dir = TempDir::with_prefix("tp-").unwrap();
        let path = dir.path().join("full_disk.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support/full_disk.c");
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"]).arg(&path).arg(source).arg("-ldl");
        assert!(cc.status().expect("a C compiler").success());
        (dir, path)
    });
    path
}
