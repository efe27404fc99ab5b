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
//! deleted/<session>/…                          what is being removed
//! locks/<session>                              empty, and there while somebody writes to it
//! id                                           tells this place from others, see [`FsRecordingStore::id`]
//! ```
//!
//! Several processes may write, on hosts that share the directory: they exclude each other by advisory locks (`flock`).
//!
//! Directories have mode 0700, files 0600. Names are made from parsed session ids and from numbers only.

mod session;

use std::collections::HashMap;
use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use async_trait::async_trait;
use bytes::Bytes;
use teleport_core::clock::Timestamp;
use teleport_core::id::{SessionId, UserName};
use teleport_core::recording::{
    Completion, Form, Listing, PartDigests, Place, RecordingError, RecordingInfo, RecordingMeta,
    RecordingStore, Rewrite,
};
use uuid::Uuid;

use self::session::Session;
use crate::shared::files;

const DAYS: &str = "days";
const USERS: &str = "users";
const SESSIONS: &str = "sessions";
const DELETED: &str = "deleted";
const LOCKS: &str = "locks";
const ID: &str = "id";

/// A [`RecordingStore`] in a directory: of a local file system, or of one that several hosts share and that has locks.
#[derive(Clone, Debug)]
pub struct FsRecordingStore(Arc<Store>);

#[derive(Debug)]
struct Store {
    /// Writes to one session exclude each other, and nobody else's: completing a long one takes long. Of those that are written now.
    locks: Mutex<HashMap<SessionId, Weak<Mutex<()>>>>,
    root: PathBuf,
}

/// A file that exists while somebody writes.
#[derive(Debug)]
struct FileLock {
    path: PathBuf,
    /// Closed after the file is removed, which gives back the lock.
    _file: File,
}

impl Drop for FileLock {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

impl FsRecordingStore {
    /// The store in `directory`, which is made if it does not exist.
    ///
    /// # Errors
    /// [`RecordingError::Unavailable`] if it cannot be made.
    pub async fn open(directory: impl AsRef<Path>) -> Result<Self, RecordingError> {
        let store = Self::existing(directory);
        store
            .run(|store| {
                for name in [DAYS, USERS, SESSIONS, DELETED, LOCKS] {
                    files::create_directory(&store.root.join(name))?;
                }
                Ok(files::sync_directory(&store.root)?)
            })
            .await?;
        Ok(store)
    }

    /// The store in `directory` as it is: nothing is made or written to read from it.
    pub fn existing(directory: impl AsRef<Path>) -> Self {
        Self(Arc::new(Store { locks: Mutex::default(), root: directory.as_ref().to_owned() }))
    }

    /// What tells this directory from every other one, by whatever path it is reached. One that has none gets `new`.
    ///
    /// # Errors
    /// [`RecordingError::Unavailable`].
    pub async fn id(&self, new: Uuid) -> Result<Uuid, RecordingError> {
        self.run(move |store| {
            let path = store.root.join(ID);
            let known = || -> Result<Option<Uuid>, Failure> {
                match std::fs::read_to_string(&path) {
                    Ok(text) => text.trim().parse().map(Some).map_err(|_| Failure::Damaged(path.clone())),
                    Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
                    Err(error) => Err(error.into()),
                }
            };
            if let Some(id) = known()? {
                return Ok(id);
            }
            // Whole, and never in place of another one that was there first.
            let draft = store.root.join(format!(".{ID}.{new}"));
            let mut file = files::private().write(true).truncate(true).open(&draft)?;
            writeln!(file, "{new}")?;
            file.sync_all()?;
            let linked = std::fs::hard_link(&draft, &path);
            std::fs::remove_file(&draft)?;
            match linked {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error.into()),
                _ => files::sync_directory(&store.root)?,
            }
            known()?.ok_or(Failure::NotFound)
        })
        .await
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
    Refused(RecordingError),
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
            Failure::Refused(error) => error,
        }
    }
}

impl Store {
    fn session(&self, session: SessionId) -> Session {
        Session::new(self.root.join(SESSIONS).join(session.to_string()))
    }

    fn locked<T>(
        &self,
        session: SessionId,
        run: impl FnOnce(Session) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let lock = self.lock_of(session);
        let _guard = lock.lock().unwrap_or_else(PoisonError::into_inner);
        let _others = self.lock_against_others(session)?;
        run(self.session(session))
    }

    /// Keeps other processes from writing to a session, until the value is dropped.
    fn lock_against_others(&self, session: SessionId) -> Result<FileLock, Failure> {
        let path = self.root.join(LOCKS).join(session.to_string());
        loop {
            let file = files::private().write(true).truncate(false).open(&path)?;
            match file.lock() {
                // There is nobody else: a file system without locks cannot be shared.
                Err(error) if error.kind() != ErrorKind::Unsupported => return Err(error.into()),
                _ => {}
            }
            // Whoever had it before has removed it, and somebody else may have another one.
            let is_there = std::fs::metadata(&path).map(|there| there.ino());
            if is_there.is_ok_and(|there| file.metadata().is_ok_and(|own| own.ino() == there)) {
                return Ok(FileLock { path, _file: file });
            }
        }
    }

    fn lock_of(&self, session: SessionId) -> Arc<Mutex<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = locks.get(&session).and_then(Weak::upgrade) {
            return lock;
        }
        // As many stay as threads of the blocking pool write.
        locks.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::default();
        locks.insert(session, Arc::downgrade(&lock));
        lock
    }

    /// The list of all recordings.
    fn days(&self) -> PathBuf {
        self.root.join(DAYS)
    }

    /// The list of a user's recordings. Names of users are safe names of files: none begins with a dot or has a slash.
    fn days_of(&self, user: &UserName) -> PathBuf {
        self.root.join(USERS).join(user.as_str())
    }

    /// Puts a recording into the lists. Its markers may be there already.
    fn mark(&self, meta: &RecordingMeta) -> Result<(), Failure> {
        self.mark_for(&meta.user, meta)?;
        mark(&self.days(), meta)
    }

    /// Puts it into the list of one user.
    fn mark_for(&self, user: &UserName, meta: &RecordingMeta) -> Result<(), Failure> {
        let own = self.days_of(user);
        files::create_durable_directory(&own)?;
        mark(&own, meta)
    }

    /// What is listed.
    fn list(&self, listing: &Listing) -> Result<Vec<RecordingInfo>, Failure> {
        let list = listing.user.as_ref().map_or_else(|| self.days(), |user| self.days_of(user));
        let newest = listing.after.map_or(listing.to, |after| after.started.min(listing.to));
        let (first, last) = (files::day(listing.from), files::day(newest));
        let mut days = names(&list)?;
        days.retain(|day| files::is_day(day) && (&first..=&last).contains(&day));
        days.sort_unstable_by(|a, b| b.cmp(a));
        let mut found = Vec::new();
        for day in days {
            for place in places(&list.join(day))? {
                if found.len() >= listing.limit {
                    return Ok(found);
                }
                if !listing.covers(place) {
                    continue;
                }
                match self.session(place.session).info() {
                    Ok(info)
                        if info.place() == place
                            && listing.user.as_ref().is_none_or(|user| info.has_participant(user)) =>
                    {
                        found.push(info);
                    }
                    // The mark of a user who did not take part after all, of another place, or of what was deleted.
                    Ok(_) | Err(Failure::NotFound) => {}
                    // One damaged recording must not hide the others.
                    Err(failure) => left_out(place.session, failure),
                }
            }
        }
        Ok(found)
    }

    /// Moves a recording out of the way, which is one step, and removes it there.
    fn delete(&self, session: SessionId) -> Result<(), Failure> {
        let name = session.to_string();
        let (sessions, deleted) = (self.root.join(SESSIONS), self.root.join(DELETED));
        let trash = deleted.join(&name);
        if sessions.join(&name).exists() {
            // Of a deletion that was interrupted, after which the recording was begun again.
            remove_directory(&trash)?;
            std::fs::rename(sessions.join(&name), &trash)?;
            files::sync_directory(&deleted)?;
            files::sync_directory(&sessions)?;
        }
        let gone = Session::new(trash.clone());
        // Marks of a recording that nobody can read any more are passed over by the list.
        if let Ok(meta) = gone.meta() {
            unmark(&self.days(), &meta)?;
            for user in std::iter::once(&meta.user).chain(&gone.participants()) {
                unmark(&self.days_of(user), &meta)?;
            }
        }
        remove_directory(&trash)
    }
}

fn remove_directory(path: &Path) -> Result<(), Failure> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// The name of a recording's marker. Zeroes in front make names sort like time.
fn marker(meta: &RecordingMeta) -> String {
    format!("{:015}-{}", meta.started.unix_millis(), meta.session)
}

/// Takes a recording out of the list `days`.
fn unmark(days: &Path, meta: &RecordingMeta) -> Result<(), Failure> {
    match std::fs::remove_file(days.join(files::day(meta.started)).join(marker(meta))) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// Puts a recording into the list `days`, which exists.
fn mark(days: &Path, meta: &RecordingMeta) -> Result<(), Failure> {
    let day = days.join(files::day(meta.started));
    files::create_durable_directory(&day)?;
    files::private().write(true).truncate(false).open(day.join(marker(meta)))?.sync_all()?;
    Ok(files::sync_directory(&day)?)
}

/// What is listed for a day, in order.
fn places(day: &Path) -> Result<Vec<Place>, Failure> {
    let mut places: Vec<Place> = names(day)?
        .iter()
        .filter_map(|marker| {
            let (millis, session) = marker.split_once('-')?;
            let started = Timestamp::from_unix_millis(millis.parse().ok()?);
            Some(Place { started, session: session.parse().ok()? })
        })
        .collect();
    places.sort_unstable();
    Ok(places)
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
    async fn create(&self, meta: &RecordingMeta, form: &Form) -> Result<(), RecordingError> {
        let (meta, form) = (meta.clone(), form.clone());
        self.run(move |store| {
            store.locked(meta.session, |session| session.create(&meta, &form))?;
            // Last, and again if it was begun before: without it the recording would not be listed.
            store.mark(&meta)
        })
        .await
    }

    async fn put_part(&self, session: SessionId, number: u32, part: Bytes) -> Result<(), RecordingError> {
        self.run(move |store| store.locked(session, |session| session.put_part(number, &part))).await
    }

    async fn part(&self, session: SessionId, number: u32) -> Result<Option<Bytes>, RecordingError> {
        self.run(move |store| store.session(session).part_bytes(number)).await
    }

    async fn parts(&self, session: SessionId) -> Result<u32, RecordingError> {
        Ok(u32::try_from(self.lengths(session).await?.len()).unwrap_or(u32::MAX))
    }

    async fn lengths(&self, session: SessionId) -> Result<Vec<u32>, RecordingError> {
        self.run(move |store| store.session(session).lengths()).await
    }

    async fn complete(&self, session: SessionId, completion: &Completion) -> Result<(), RecordingError> {
        let completion = completion.clone();
        self.run(move |store| {
            store.locked(session, |session| {
                // First: a recording that is complete is listed for everybody.
                let meta = session.meta()?;
                for user in &completion.participants {
                    store.mark_for(user, &meta)?;
                }
                session.complete(&completion)
            })
        })
        .await
    }

    async fn info(&self, session: SessionId) -> Result<RecordingInfo, RecordingError> {
        self.run(move |store| store.session(session).info()).await
    }

    async fn read(&self, session: SessionId, offset: u64, len: usize) -> Result<Bytes, RecordingError> {
        self.run(move |store| store.session(session).read(offset, len)).await
    }

    async fn list(&self, listing: &Listing) -> Result<Vec<RecordingInfo>, RecordingError> {
        let listing = listing.clone();
        self.run(move |store| store.list(&listing)).await
    }

    async fn delete(&self, session: SessionId) -> Result<(), RecordingError> {
        self.run(move |store| store.locked(session, |_| store.delete(session))).await
    }

    async fn rewrite(&self, session: SessionId, change: Rewrite) -> Result<(), RecordingError> {
        self.run(move |store| store.locked(session, |session| session.rewrite(&change))).await
    }

    async fn part_digests(&self, session: SessionId) -> Result<Option<PartDigests>, RecordingError> {
        self.info(session).await.map(|_| None)
    }

    async fn rewrap(&self, session: SessionId) -> Result<bool, RecordingError> {
        self.info(session).await.map(|_| false)
    }
}
