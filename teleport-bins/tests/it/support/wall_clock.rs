//! The wall clock of daemons, which a test sets: libfaketime between them and the system. What measures time goes on.

use std::path::PathBuf;
use std::process::Command;

pub(crate) const HOUR: i64 = 3600;
pub(crate) const MONTH: i64 = 30 * 24 * HOUR;

/// A clock. All who see it are off by the same.
#[derive(Debug)]
pub(crate) struct WallClock {
    file: PathBuf,
}

impl WallClock {
    /// One that is right, with its setting in this file.
    pub(crate) fn at(file: PathBuf) -> Self {
        let clock = Self { file };
        clock.set(0);
        clock
    }

    /// From now on it is so many seconds off.
    pub(crate) fn set(&self, seconds: i64) {
        // Nobody reads a half of it.
        let new = self.file.with_extension("new");
        std::fs::write(&new, format!("{seconds:+}\n")).unwrap();
        std::fs::rename(&new, &self.file).unwrap();
    }

    /// A program that is started lives by it.
    pub(crate) fn seen_by(&self, command: &mut Command) {
        command.env("LD_PRELOAD", library()).env("FAKETIME_TIMESTAMP_FILE", &self.file);
        // Each look at the clock reads the file; files have the times that they have.
        for name in ["FAKETIME_NO_CACHE", "FAKETIME_DONT_FAKE_MONOTONIC", "NO_FAKE_STAT"] {
            command.env(name, "1");
        }
    }
}

/// Debian keeps it beside the libraries of the machine's architecture.
fn library() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib").unwrap().flatten().map(|entry| entry.path());
    let mut found =
        folders.map(|folder| folder.join("faketime/libfaketimeMT.so.1")).filter(|file| file.exists());
    found.next().expect("libfaketime: .ci/test installs it")
}
