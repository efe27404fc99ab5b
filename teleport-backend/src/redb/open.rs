//! Opening and creating the file.

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ::redb::{Builder, Database, DatabaseError, ReadableDatabase, TableError};

use super::holder;
use super::schema::{CURRENT_FORMAT, EXPIRIES, FORMAT, Failure, ITEMS, META, REVISION};

/// The first bytes of every redb file.
const MAGIC: [u8; 9] = *b"redb\x1A\x0A\xA9\x0D\x0A";

/// Pages kept in memory. The operating system caches the file as well, so this only saves system calls.
const CACHE_BYTES: usize = 16 << 20;

/// Why a database file cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The file is a database of this program, and its content is not in order.
    #[error("the database {} is damaged; restore it from a backup", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Another process has the file open, or this one, twice.
    #[error("the data directory of {} is in use by another process{}", path.display(), Pid(*pid))]
    InUse {
        /// The file.
        path: PathBuf,
        /// The process that holds it, if the system tells.
        pid: Option<u32>,
    },
    /// The system refused: no permission, a read-only file system, no space.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A newer version of this program wrote the file.
    #[error("{} has format {found}, written by a newer version; this version reads up to {CURRENT_FORMAT}", path.display())]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u64,
    },
    /// The file is something else. It was not changed.
    #[error("{} is not a database of this program; it was left as it is", path.display())]
    NotADatabase {
        /// The file.
        path: PathBuf,
    },
}

struct Pid(Option<u32>);

impl std::fmt::Display for Pid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(pid) => write!(f, " (pid {pid})"),
            None => Ok(()),
        }
    }
}

impl OpenError {
    pub(super) fn io(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }

    fn damaged(path: &Path, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Damaged { path: path.to_owned(), source: source.into() }
    }
}

/// Opens the database at `path`, or creates it.
pub(super) fn open(path: &Path) -> Result<Database, OpenError> {
    if !is_present(path)? {
        create(path)?;
    }
    existing(path)
}

/// Whether there is something to open. An empty file is as good as none.
fn is_present(path: &Path) -> Result<bool, OpenError> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => {
            let source = std::io::Error::new(ErrorKind::IsADirectory, "it is a directory; name a file in it");
            Err(OpenError::io("open the database", path, source))
        }
        Ok(metadata) => Ok(metadata.len() > 0),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(OpenError::io("look for the database", path, error)),
    }
}

/// Makes a new database beside `path` and moves it there when it is complete, so that a crash at any moment leaves
/// either nothing or a database that can be opened.
fn create(path: &Path) -> Result<(), OpenError> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let name = path.file_name().ok_or_else(|| {
        OpenError::io(
            "create the database",
            path,
            std::io::Error::new(ErrorKind::InvalidInput, "no file name"),
        )
    })?;
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|error| OpenError::io("create the directory", directory, error))?;

    // Two processes that start at once must not build the same file.
    let lock =
        File::open(directory).map_err(|error| OpenError::io("open the directory", directory, error))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(OpenError::InUse { path: path.to_owned(), pid: holder::pid(&lock) });
        }
        Err(TryLockError::Error(error)) => return Err(OpenError::io("lock the directory", directory, error)),
    }
    if is_present(path)? {
        return Ok(());
    }
    let mut draft_name = std::ffi::OsString::from(".");
    draft_name.push(name);
    draft_name.push(".new");
    let draft = directory.join(draft_name);
    match std::fs::remove_file(&draft) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(OpenError::io("remove the unfinished database", &draft, error));
        }
        _ => {}
    }
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&draft)
        .map_err(|error| OpenError::io("create the database", path, error))?;
    let database = builder().create_file(file).map_err(|error| opening(path, None, error))?;
    initialise(&database).map_err(|failure| OpenError::damaged(path, failure))?;
    drop(database);
    std::fs::rename(&draft, path).map_err(|error| OpenError::io("create the database", path, error))?;
    lock.sync_all().map_err(|error| OpenError::io("sync the directory", directory, error))
}

/// Opens a database that exists.
pub(super) fn existing(path: &Path) -> Result<Database, OpenError> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map_err(|error| OpenError::io("open the database", path, error))?;
    let mut magic = [0; MAGIC.len()];
    match file.read_exact(&mut magic) {
        Ok(()) if magic == MAGIC => {}
        Ok(()) => return Err(OpenError::NotADatabase { path: path.to_owned() }),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
            return Err(OpenError::NotADatabase { path: path.to_owned() });
        }
        Err(error) => return Err(OpenError::io("read the database", path, error)),
    }
    keep_private(&file, path)?;
    let probe = file.try_clone().ok();
    let database = builder().create_file(file).map_err(|error| opening(path, probe.as_ref(), error))?;
    // A duplicate of the descriptor would keep the lock after closing.
    drop(probe);
    match format(&database).map_err(|failure| OpenError::damaged(path, failure))? {
        Some(CURRENT_FORMAT) => Ok(database),
        Some(found) if found > CURRENT_FORMAT => Err(OpenError::NewerFormat { path: path.to_owned(), found }),
        _ => Err(OpenError::NotADatabase { path: path.to_owned() }),
    }
}

fn builder() -> Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

/// A file that was restored from a backup may be readable to others; secrets of the cluster are in it.
fn keep_private(file: &File, path: &Path) -> Result<(), OpenError> {
    let mode = file
        .metadata()
        .map_err(|error| OpenError::io("inspect the database", path, error))?
        .permissions()
        .mode();
    if mode & 0o077 == 0 {
        return Ok(());
    }
    tracing::warn!(path = %path.display(), mode = format!("{:o}", mode & 0o7777), "the database was open to other users; its mode is now 0600");
    file.set_permissions(Permissions::from_mode(0o600))
        .map_err(|error| OpenError::io("make private the database", path, error))
}

fn opening(path: &Path, probe: Option<&File>, error: DatabaseError) -> OpenError {
    match error {
        DatabaseError::DatabaseAlreadyOpen => {
            OpenError::InUse { path: path.to_owned(), pid: probe.and_then(holder::pid) }
        }
        DatabaseError::Storage(::redb::StorageError::Io(error)) => {
            OpenError::io("open the database", path, error)
        }
        error => OpenError::damaged(path, error),
    }
}

/// The tables of an empty database.
pub(super) fn initialise(database: &Database) -> Result<(), Failure> {
    let mut transaction = database.begin_write()?;
    transaction.set_two_phase_commit(true);
    {
        transaction.open_table(ITEMS)?;
        transaction.open_table(EXPIRIES)?;
        let mut meta = transaction.open_table(META)?;
        meta.insert(FORMAT, CURRENT_FORMAT)?;
        meta.insert(REVISION, 0)?;
    }
    transaction.commit()?;
    Ok(())
}

/// The format of the file; `None` if this program did not write it.
fn format(database: &Database) -> Result<Option<u64>, Failure> {
    match database.begin_read()?.open_table(META) {
        Ok(meta) => Ok(meta.get(FORMAT)?.map(|format| format.value())),
        Err(
            TableError::TableDoesNotExist(_)
            | TableError::TableTypeMismatch { .. }
            | TableError::TableIsMultimap(_),
        ) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
