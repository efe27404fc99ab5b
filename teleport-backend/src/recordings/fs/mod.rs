//! Recordings in a directory.
//!
//! ```text
//! days/2026-11-21/1795228845123-<session>      empty: the list, by the time of the beginning
//! users/<user>/2026-11-21/…                    the same, of one user
//! sessions/<session>/meta.json                 what it is of
//! sessions/<session>/part-00000000             while the upload goes on
//! sessions/<session>/data                      all parts, once it is complete
//! sessions/<session>/lengths                   of the parts, 4 bytes each, little-endian
//! sessions/<session>/complete.json             written last: from then on the recording is immutable
//! ```
//!
//! Directories have mode 0700, files 0600. Names are made from parsed session ids and from numbers only.

mod session;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use teleport_core::clock::Timestamp;
use teleport_core::id::{SessionId, UserName};
use teleport_core::recording::{RecordingError, RecordingInfo, RecordingMeta, RecordingStore};

use self::session::Session;
use crate::shared::files;

/// How many sessions can be written at the same time; more share locks by chance.
const STRIPES: usize = 64;
const DAYS: &str = "days";
const USERS: &str = "users";

/// A [`RecordingStore`] in a directory of a local file system. One process writes to it.
#[derive(Clone, Debug)]
pub struct FsRecordingStore(Arc<Store>);

#[derive(Debug)]
struct Store {
    /// Writes to one session exclude each other.
    locks: [Mutex<()>; STRIPES],
    root: PathBuf,
}

impl FsRecordingStore {
    /// The store in `directory`, which is made if it does not exist.
    ///
    /// # Errors
    /// [`RecordingError::Unavailable`] if it cannot be made.
    pub async fn open(directory: impl AsRef<Path>) -> Result<Self, RecordingError> {
        let root = directory.as_ref().to_owned();
        let store = Self(Arc::new(Store { locks: std::array::from_fn(|_| Mutex::new(())), root }));
        store
            .run(|store| {
                files::create_directory(&store.days())?;
                files::create_directory(&store.root.join("sessions"))?;
                files::sync_directory(&store.root)?;
                store.make_users()
            })
            .await?;
        Ok(store)
    }

    /// Runs file operations on the blocking pool. Dropping the future does not stop them.
    async fn run<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&Store) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, RecordingError> {
        let store = Arc::clone(&self.0);
        match tokio::task::spawn_blocking(move || operation(&store)).await {
            Ok(result) => Ok(result?),
            Err(error) => Err(RecordingError::unavailable(error)),
        }
    }
}

/// What happens below the port.
#[derive(Debug)]
enum Failure {
    Conflict(&'static str),
    Damaged(PathBuf),
    Io(std::io::Error),
    NotFound,
}

/// A file of the store does not have the form that the store wrote.
#[derive(Debug, thiserror::Error)]
#[error("the recording's file {} is damaged", .0.display())]
struct Damaged(PathBuf);

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Failure> for RecordingError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Conflict(reason) => Self::Conflict { reason },
            Failure::Damaged(path) => Self::unavailable(Damaged(path)),
            Failure::Io(error) => Self::unavailable(error),
            Failure::NotFound => Self::NotFound,
        }
    }
}

impl Store {
    fn session(&self, session: SessionId) -> Session {
        Session::new(self.root.join("sessions").join(session.to_string()))
    }

    fn locked<T>(
        &self,
        session: SessionId,
        run: impl FnOnce(Session) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let mut hasher = DefaultHasher::new();
        session.hash(&mut hasher);
        let stripe = usize::try_from(hasher.finish() % (STRIPES as u64)).unwrap_or_default();
        let _guard = self.locks.get(stripe).map(|lock| lock.lock().unwrap_or_else(PoisonError::into_inner));
        run(self.session(session))
    }

    /// The list of all recordings.
    fn days(&self) -> PathBuf {
        self.root.join(DAYS)
    }

    /// The list of a user's recordings. Names of users are safe names of files: none begins with a dot or has a slash.
    fn days_of(&self, user: &UserName) -> PathBuf {
        self.root.join(USERS).join(user.as_str())
    }

    /// Makes the lists of the users, of a store that was made before there were any.
    fn make_users(&self) -> Result<(), Failure> {
        let users = self.root.join(USERS);
        if users.exists() {
            return Ok(());
        }
        // Under another name until it is whole.
        let unfinished = self.root.join("users.new");
        files::create_directory(&unfinished)?;
        for day in names(&self.days())?.iter().filter(|day| files::is_day(day)) {
            for (_, session) in markers(&self.days().join(day))? {
                match self.session(session).info() {
                    Ok(info) => {
                        let own = unfinished.join(info.meta.user.as_str());
                        files::create_directory(&own)?;
                        mark(&own, &info.meta)?;
                    }
                    Err(failure) => left_out(session, failure),
                }
            }
        }
        files::sync_directory(&unfinished)?;
        std::fs::rename(&unfinished, &users)?;
        Ok(files::sync_directory(&self.root)?)
    }

    /// Puts a recording into the lists. Its markers may be there already.
    fn mark(&self, meta: &RecordingMeta) -> Result<(), Failure> {
        let own = self.days_of(&meta.user);
        if !own.exists() {
            files::create_directory(&own)?;
            files::sync_directory(&self.root.join(USERS))?;
        }
        mark(&own, meta)?;
        mark(&self.days(), meta)
    }

    /// The newest recordings of a list.
    fn list(
        &self,
        list: &Path,
        from: Timestamp,
        to: Timestamp,
        limit: usize,
    ) -> Result<Vec<RecordingInfo>, Failure> {
        let (first, last) = (files::day(from), files::day(to));
        let mut days = names(list)?;
        days.retain(|day| files::is_day(day) && (&first..=&last).contains(&day));
        days.sort_unstable_by(|a, b| b.cmp(a));
        let mut found = Vec::new();
        for day in days {
            for (started, session) in markers(&list.join(day))? {
                if found.len() >= limit {
                    return Ok(found);
                }
                if started < from || started >= to {
                    continue;
                }
                match self.session(session).info() {
                    Ok(info) => found.push(info),
                    // One damaged recording must not hide the others.
                    Err(failure) => left_out(session, failure),
                }
            }
        }
        Ok(found)
    }
}

/// Puts a recording into the list `days`, which exists.
fn mark(days: &Path, meta: &RecordingMeta) -> Result<(), Failure> {
    let day = days.join(files::day(meta.started));
    if !day.exists() {
        files::create_directory(&day)?;
        files::sync_directory(days)?;
    }
    // Zeroes in front make names sort like time.
    let name = format!("{:015}-{}", meta.started.unix_millis(), meta.session);
    files::private().write(true).truncate(false).open(day.join(name))?.sync_all()?;
    Ok(files::sync_directory(&day)?)
}

/// The markers of a day, newest first.
fn markers(day: &Path) -> Result<impl Iterator<Item = (Timestamp, SessionId)>, Failure> {
    let mut markers = names(day)?;
    markers.sort_unstable_by(|a, b| b.cmp(a));
    Ok(markers.into_iter().filter_map(|marker| {
        let (millis, session) = marker.split_once('-')?;
        Some((Timestamp::from_unix_millis(millis.parse().ok()?), session.parse().ok()?))
    }))
}

fn left_out(session: SessionId, failure: Failure) {
    let error = RecordingError::from(failure);
    tracing::warn!(%session, error = &error as &dyn std::error::Error, "a recording is left out of the list");
}

fn names(directory: &Path) -> Result<Vec<String>, Failure> {
    match std::fs::read_dir(directory) {
        Ok(entries) => Ok(entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

#[async_trait]
impl RecordingStore for FsRecordingStore {
    async fn create(&self, meta: &RecordingMeta) -> Result<(), RecordingError> {
        let meta = meta.clone();
        self.run(move |store| {
            store.locked(meta.session, |session| session.create(&meta))?;
            // Last, and again if it was begun before: without it the recording would not be listed.
            store.mark(&meta)
        })
        .await
    }

    async fn put_part(&self, session: SessionId, number: u32, part: Bytes) -> Result<(), RecordingError> {
        self.run(move |store| store.locked(session, |session| session.put_part(number, &part))).await
    }

    async fn parts(&self, session: SessionId) -> Result<u32, RecordingError> {
        self.run(move |store| store.session(session).parts()).await
    }

    async fn complete(&self, session: SessionId, parts: u32, at: Timestamp) -> Result<(), RecordingError> {
        self.run(move |store| store.locked(session, |session| session.complete(parts, at))).await
    }

    async fn info(&self, session: SessionId) -> Result<RecordingInfo, RecordingError> {
        self.run(move |store| store.session(session).info()).await
    }

    async fn read(&self, session: SessionId, offset: u64, len: usize) -> Result<Bytes, RecordingError> {
        self.run(move |store| store.session(session).read(offset, len)).await
    }

    async fn list(
        &self,
        from: Timestamp,
        to: Timestamp,
        limit: usize,
    ) -> Result<Vec<RecordingInfo>, RecordingError> {
        self.run(move |store| store.list(&store.days(), from, to, limit)).await
    }

    async fn list_of(
        &self,
        user: &UserName,
        from: Timestamp,
        to: Timestamp,
        limit: usize,
    ) -> Result<Vec<RecordingInfo>, RecordingError> {
        let user = user.clone();
        self.run(move |store| store.list(&store.days_of(&user), from, to, limit)).await
    }
}
