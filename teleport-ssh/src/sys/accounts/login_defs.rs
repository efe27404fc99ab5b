//! The search paths that the distribution gives to new logins.

use std::fs::File;
use std::io::Read;
use std::path::Path;

const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/games";
const DEFAULT_SUPERUSER_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// More than this is not read, in bytes; distributions ship about 12 KiB.
const FILE_LIMIT: u64 = 256 * 1024;

/// The values of `/etc/login.defs` that a session needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginDefs {
    path: String,
    superuser_path: String,
}

impl LoginDefs {
    /// Reads `/etc/login.defs`; what is missing or unreadable is the built-in default. Once per daemon is
    /// enough; the file is long and changes with the distribution.
    #[must_use]
    pub fn load() -> Self {
        Self::load_from(Path::new("/etc/login.defs"))
    }

    pub(super) fn load_from(file: &Path) -> Self {
        let mut bytes = Vec::new();
        match File::open(file).and_then(|file| file.take(FILE_LIMIT).read_to_end(&mut bytes)) {
            Ok(_) => Self::parse(&String::from_utf8_lossy(&bytes)),
            Err(_) => Self::default(),
        }
    }

    /// Reads the text of such a file. The last mention of a name counts, as it does for `login`.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut defs = Self::default();
        for line in text.lines() {
            let Some((name, value)) = line.trim_start().split_once([' ', '\t']) else { continue };
            let value = value.trim().trim_matches('"');
            let value = value.strip_prefix("PATH=").unwrap_or(value);
            if value.is_empty() || value.contains(char::is_control) {
                continue;
            }
            match name {
                "ENV_PATH" => value.clone_into(&mut defs.path),
                "ENV_SUPATH" => value.clone_into(&mut defs.superuser_path),
                _ => {}
            }
        }
        defs
    }

    /// The value of `PATH` for a user id.
    #[must_use]
    pub fn path_for(&self, uid: u32) -> &str {
        if uid == 0 { &self.superuser_path } else { &self.path }
    }
}

impl Default for LoginDefs {
    fn default() -> Self {
        Self { path: DEFAULT_PATH.to_owned(), superuser_path: DEFAULT_SUPERUSER_PATH.to_owned() }
    }
}
