//! How much room the spool has, and who takes it.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use std::{fs, io};

use teleport_core::id::{SessionId, UserName};
use tokio::sync::Notify;
use tokio::time::Instant;

/// Recordings that nobody takes, kept for an operator to look at.
pub(super) const REFUSED: &str = "refused";
/// One user's recordings have this part of the spool, so that nobody fills it for all.
const USER_SHARE: u64 = 2;
/// Refused recordings have this part of what the spool may hold, beside it; beyond it the oldest are removed.
const REFUSED_SHARE: u64 = 2;
/// The most that waits to be told; of more, the newest.
const MAX_NEWS: usize = 64;
/// How often it is told that there is no room.
const TOLD_EVERY: Duration = Duration::from_secs(3600);

/// The room of a spool.
#[derive(Debug)]
pub(super) struct Room {
    dir: PathBuf,
    max: u64,
    state: Mutex<State>,
    /// How many recordings the disk does not take.
    failing: AtomicUsize,
    /// What is to be told of the spool that is full.
    news: Notify,
}

#[derive(Debug, Default)]
struct State {
    total: u64,
    /// Never less than what is there: uploads take away without saying so, until it is counted anew.
    by_user: HashMap<UserName, u64>,
    owners: HashMap<SessionId, UserName>,
    told: Option<Instant>,
    told_of_disk: Option<Instant>,
    news: VecDeque<String>,
}

impl State {
    fn add(&mut self, session: SessionId, bytes: u64) {
        self.total = self.total.saturating_add(bytes);
        if let Some(user) = self.owners.get(&session) {
            let used = self.by_user.entry(user.clone()).or_default();
            *used = used.saturating_add(bytes);
        }
    }
}

impl Room {
    pub(super) fn new(dir: PathBuf, max: u64) -> Self {
        Self { dir, max, state: Mutex::default(), failing: AtomicUsize::new(0), news: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session's recording is of this user.
    pub(super) fn own(&self, session: SessionId, user: UserName) {
        self.lock().owners.insert(session, user);
    }

    /// Whose recording a session's is, if it is in the spool.
    pub(super) fn owner(&self, session: SessionId) -> Option<UserName> {
        self.lock().owners.get(&session).cloned()
    }

    /// So much was written.
    pub(super) fn add(&self, session: SessionId, bytes: u64) {
        self.lock().add(session, bytes);
    }

    /// Whether there is no room for more of this session, as far as it was counted.
    pub(super) fn is_full_for(&self, session: SessionId) -> bool {
        let state = self.lock();
        let user = state.owners.get(&session).and_then(|user| state.by_user.get(user));
        state.total >= self.max || user.is_some_and(|used| *used >= self.max / USER_SHARE)
    }

    /// Looks at every file. Refused recordings are no part of it.
    pub(super) fn count(&self) -> io::Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == REFUSED) {
                continue;
            }
            // One that was uploaded meanwhile takes no room.
            let Ok(data) = entry.metadata() else { continue };
            let session = path.file_stem().and_then(|stem| stem.to_str()?.parse::<SessionId>().ok());
            files.push((session, data.len()));
        }
        let mut state = self.lock();
        (state.total, state.by_user) = (0, HashMap::new());
        let owners = std::mem::take(&mut state.owners);
        for (session, len) in files {
            match session {
                Some(session) => {
                    if let Some(user) = owners.get(&session) {
                        state.owners.insert(session, user.clone());
                    }
                    state.add(session, len);
                }
                None => state.total = state.total.saturating_add(len),
            }
        }
        Ok(())
    }

    /// Says that something was left out, in the log and to who waits for [`Room::news`], at most once an hour.
    pub(super) fn tell_full(&self, session: SessionId) {
        let mut state = self.lock();
        let now = Instant::now();
        if state.told.is_some_and(|told| now < told + TOLD_EVERY) {
            return;
        }
        state.told = Some(now);
        let text = match state.owners.get(&session) {
            Some(user) if state.total < self.max => format!(
                "the recordings of {user} have filled one user's share of the spool, {} bytes",
                self.max / USER_SHARE
            ),
            _ => format!("the spool of recordings is full, {} bytes", self.max),
        };
        let text =
            format!("{text}: recordings get gaps, and new sessions are refused until some are delivered");
        drop(state);
        self.tell(text);
    }

    /// The disk does not take what was recorded.
    pub(super) fn disk_failed(&self, session: SessionId, error: &io::Error) {
        self.failing.fetch_add(1, Ordering::Relaxed);
        tracing::error!(%session, error = error as &dyn std::error::Error, "the disk does not take a recording");
        if !self.is_time_to_tell_of_the_disk() {
            return;
        }
        self.tell(format!(
            "the disk does not take recordings ({error}): they get gaps, sessions that must be recorded wait and then end, and new \
             sessions are refused until it does"
        ));
    }

    /// The disk says late that it has not taken everything; nobody knows what.
    pub(super) fn disk_lost(&self, session: SessionId, error: &io::Error) {
        if self.is_time_to_tell_of_the_disk() {
            self.tell(format!(
                "the disk may have lost a part of recordings, of session {session} at first ({error})"
            ));
        }
    }

    fn is_time_to_tell_of_the_disk(&self) -> bool {
        let mut state = self.lock();
        let now = Instant::now();
        if state.told_of_disk.is_some_and(|told| now < told + TOLD_EVERY) {
            return false;
        }
        state.told_of_disk = Some(now);
        true
    }

    /// The disk takes what it did not take before.
    pub(super) fn disk_works(&self) {
        self.failing.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether the disk does not take what was recorded.
    pub(super) fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed) > 0
    }

    /// Puts something into the log, and before who waits for [`Room::news`].
    pub(super) fn tell(&self, text: String) {
        tracing::error!(spool = %self.dir.display(), "{text}");
        let mut state = self.lock();
        if state.news.len() >= MAX_NEWS {
            state.news.pop_front();
        }
        state.news.push_back(text);
        drop(state);
        self.news.notify_one();
    }

    /// What is to be told to the audit log. Cancel safe.
    pub(super) async fn news(&self) -> String {
        loop {
            if let Some(text) = self.lock().news.pop_front() {
                return text;
            }
            self.news.notified().await;
        }
    }

    /// Removes the oldest refused recordings when there are too many bytes of them.
    pub(super) fn trim_refused(&self) {
        if let Err(error) = self.try_trim() {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "refused recordings cannot be looked through"
            );
        }
    }

    fn try_trim(&self) -> io::Result<()> {
        let mut refused: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == REFUSED) {
                let data = entry.metadata()?;
                refused.push((data.modified()?, data.len(), path));
            }
        }
        refused.sort();
        let mut total: u64 = refused.iter().map(|(_, len, _)| len).sum();
        for (_, len, path) in refused {
            if total <= self.max / REFUSED_SHARE {
                break;
            }
            fs::remove_file(&path)?;
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            self.tell(format!("the recording of session {name}, which the auth service refused, was removed: there are too many"));
            total -= len;
        }
        Ok(())
    }
}
