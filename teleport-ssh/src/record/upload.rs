//! The upload: recordings from the spool to the auth service, in parts, resumed where they were interrupted. Whole parts of a
//! recording that is still being made are delivered as well, and of one that is streamed every byte.

mod file;
mod jobs;
mod stream;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use teleport_core::api::{ApiErrorKind, AuditApi, RecordingApi};
use teleport_core::audit::{AuditEvent, EventKind};
use teleport_core::clock::Clock;
use teleport_core::entropy::Entropy;
use teleport_core::recording::MAX_PART_LEN;
use teleport_core::task::Shutdown;
use tokio::time::Instant;

pub(super) use self::file::meta_of;
use self::file::{Source, UploadError};
use self::jobs::{Job, Jobs};
use super::room::REFUSED;
use super::{Spool, TooOld};
use crate::batch::deliver;

/// How many recordings are delivered at the same time, beside those that are streamed.
const PARALLEL: usize = 4;
/// How long a drain waits for a store that takes nothing. Nothing is lost by leaving: the spool is on disk.
const STUCK: Duration = Duration::from_secs(3);

/// Uploads what a [`Spool`] has.
#[derive(Clone, Debug)]
pub struct Uploader {
    spool: Spool,
    store: Arc<dyn RecordingApi>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    audit: Option<Arc<dyn AuditApi>>,
    /// How many calls the store has answered well.
    answered: Arc<AtomicU64>,
}

impl Uploader {
    /// From this spool to this store. The clock tells how old recordings are, randomness spreads what is tried again.
    pub fn new(
        spool: Spool,
        store: Arc<dyn RecordingApi>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Self {
        Self { spool, store, clock, entropy, audit: None, answered: Arc::default() }
    }

    /// Reports to this audit log when the spool is full, its disk fails, or what is in it is too old. Without it nothing is deleted
    /// for its age.
    #[must_use]
    pub fn audit(mut self, audit: Arc<dyn AuditApi>) -> Self {
        self.audit = Some(audit);
        self
    }

    /// Reports what the spool has to say. Never ends.
    async fn report(&self) {
        loop {
            let text = self.spool.room().news().await;
            let Some(audit) = &self.audit else { continue };
            let event = AuditEvent::new(EventKind::SessionUploadFailure).error(text);
            // Until it is taken: the spool fills when the auth service is away.
            deliver(&**audit, vec![event], &*self.entropy).await;
        }
    }

    /// Uploads until shutdown: what waits now, and whatever comes. During a drain it finishes what is closed, and leaves, with a line
    /// in the log, once the store has taken nothing for some seconds. What it cannot deliver stays in the spool for the next start.
    /// Dropping the future is safe at any moment.
    pub async fn run(self, shutdown: Shutdown) {
        tokio::select! {
            () = self.deliver(&shutdown) => {}
            () = self.report() => {}
            () = self.stream_all() => {}
            () = self.stuck(&shutdown) => {
                let recordings = self.spool.waiting().map_or(0, |waiting| waiting.len());
                tracing::warn!(
                    recordings,
                    "the auth service takes no recordings now: they stay in the spool and are delivered after the next start"
                );
            }
        }
    }

    /// Streams whatever is to be streamed. Never ends.
    async fn stream_all(&self) {
        let mut streams = FuturesUnordered::new();
        loop {
            tokio::select! {
                begun = self.spool.sessions().streams() => {
                    streams.extend(begun.into_iter().map(|live| stream::run(self, live)));
                }
                Some(()) = streams.next() => {}
            }
        }
    }

    /// Resolves when a drain makes no progress.
    async fn stuck(&self, shutdown: &Shutdown) {
        shutdown.draining().await;
        let recordings = self.spool.waiting().map_or(0, |waiting| waiting.len());
        if recordings > 0 {
            tracing::info!(recordings, "recordings are delivered before the end");
        }
        loop {
            let before = self.answered.load(Ordering::Relaxed);
            tokio::time::sleep(STUCK).await;
            if self.answered.load(Ordering::Relaxed) == before {
                return;
            }
        }
    }

    /// Several at a time: one that is not taken does not hold up the others.
    async fn deliver(&self, shutdown: &Shutdown) {
        let mut jobs = Jobs::default();
        let mut running = FuturesUnordered::new();
        loop {
            let now = Instant::now();
            let is_held = |name: &str| self.spool.sessions().is_held(name);
            let owner = |name: &str| self.spool.room().owner(name.parse().ok()?);
            let mut listed = false;
            while running.len() < PARALLEL {
                if let Some(job) = jobs.due(is_held, owner, now) {
                    running.push(self.attempt(job));
                } else if listed {
                    break;
                } else {
                    // Only when what was seen is used up: a thousand that wait are not looked through for each that goes.
                    jobs.see(self.sources());
                    listed = true;
                }
            }
            if running.is_empty() && shutdown.is_draining() && jobs.is_done() {
                return;
            }
            let again = async {
                match jobs.next(now) {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(attempted) = running.next() => self.after(&mut jobs, attempted),
                () = again => {}
                () = self.spool.news() => {}
                // One more round: sessions may have ended in the last moment.
                () = shutdown.draining(), if !shutdown.is_draining() => {}
                () = shutdown.aborted() => return,
            }
        }
    }

    /// What there is to deliver: the oldest of what is closed first, then whole parts of what is not.
    fn sources(&self) -> Vec<Source> {
        let closed = self.spool.waiting().unwrap_or_else(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "the spool cannot be read");
            Vec::new()
        });
        let closed = closed.into_iter().map(Source::Closed);
        let live = self.spool.sessions().all().into_iter().filter(|live| {
            // Those that are streamed are on their way.
            let progress = live.now();
            !live.is_streamed() && progress.synced >= MAX_PART_LEN as u64
        });
        closed.chain(live.map(Source::Live)).collect()
    }

    async fn attempt(&self, job: Job) -> Attempted {
        let outcome = self.upload(&job.source).await;
        let aged = match (&outcome, &job.source) {
            (Err(error), Source::Closed(path)) if !error.is_final() => {
                self.consider_age(path, job.told, error).await
            }
            _ => Aged::Nothing,
        };
        Attempted { job, outcome, aged }
    }

    /// What becomes of a recording after an attempt to deliver it.
    fn after(&self, jobs: &mut Jobs, Attempted { job, outcome, aged }: Attempted) {
        let error = match (outcome, &job.source) {
            (Ok(_), Source::Closed(path)) => {
                return match std::fs::remove_file(path) {
                    Ok(()) => jobs.done(&job),
                    Err(error) => {
                        tracing::error!(path = %path.display(), error = &error as &dyn std::error::Error, "an uploaded recording cannot be removed");
                        jobs.failed(&job, Instant::now(), &*self.entropy);
                    }
                };
            }
            (Ok(parts), Source::Live(_)) => return jobs.came_to(&job, parts),
            (Err(error), _) => error,
        };
        match (&error, &job.source) {
            (error, Source::Closed(path)) if error.is_final() => {
                self.set_aside(path, error);
                return jobs.done(&job);
            }
            (UploadError::Store(refusal), _) if refusal.kind() == ApiErrorKind::TooMany => {
                tracing::error!(
                    user = job.user.as_ref().map(tracing::field::display),
                    spool = %self.spool.dir().display(),
                    error = refusal as &dyn std::error::Error,
                    "the auth service takes no more recordings of this user or host today; they stay in the spool"
                );
                // Asking for each would be of no use.
                jobs.hold(job.user.clone(), Instant::now(), &*self.entropy);
            }
            (UploadError::Store(refusal), _) if refusal.kind() == ApiErrorKind::Evicted => {
                tracing::error!(
                    spool = %self.spool.dir().display(),
                    error = refusal as &dyn std::error::Error,
                    "the auth service takes no more recordings of this host; they stay in the spool"
                );
                jobs.hold(None, Instant::now(), &*self.entropy);
            }
            (error, source) => {
                tracing::warn!(path = %source.path(&self.spool).display(), error = error as &dyn std::error::Error, "a recording waits for its upload");
            }
        }
        jobs.failed(&job, Instant::now(), &*self.entropy);
        match aged {
            Aged::Deleted => jobs.done(&job),
            Aged::Told => jobs.told(&job),
            Aged::Nothing => {}
        }
    }

    /// A recording that has waited for too long is told of once, and deleted if that is configured and the audit log knows of it.
    async fn consider_age(&self, path: &Path, told: bool, error: &UploadError) -> Aged {
        let limits = self.spool.limits();
        let age = age(path, &*self.clock).unwrap_or_default();
        let deletes = limits.too_old == TooOld::Delete && self.audit.is_some();
        if age <= limits.max_age || (told && !deletes) {
            return Aged::Nothing;
        }
        let what = if deletes { "it is deleted" } else { "it stays in the spool" };
        let days = age.as_secs() / 86_400;
        let text = format!("the recording could not be delivered for {days} days ({}); {what}", chain(error));
        tracing::error!(path = %path.display(), "{text}");
        let Some(audit) = &self.audit else { return Aged::Told };
        let mut event = AuditEvent::new(EventKind::SessionUploadFailure).error(text);
        if let Some(meta) = meta_of(path) {
            event = event.session(meta.session).user(&meta.user).login(&meta.login);
        }
        if let Err(error) = audit.emit_events(vec![event]).await {
            // Nothing goes that the audit log does not know of.
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "the age of a recording could not be audited"
            );
            return Aged::Nothing;
        }
        if !deletes {
            return Aged::Told;
        }
        match std::fs::remove_file(path) {
            Ok(()) => Aged::Deleted,
            Err(error) => {
                tracing::error!(path = %path.display(), error = &error as &dyn std::error::Error, "a recording cannot be removed");
                Aged::Nothing
            }
        }
    }

    /// Keeps a recording that nobody takes, under a name that is not tried again: an operator may look at it.
    fn set_aside(&self, path: &Path, error: &UploadError) {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if let Err(error) = std::fs::rename(path, path.with_extension(REFUSED)) {
            tracing::error!(path = %path.display(), error = &error as &dyn std::error::Error, "a refused recording cannot be set aside");
        }
        self.spool
            .room()
            .tell(format!("the recording of session {name} was refused and is set aside: {}", chain(error)));
        self.spool.room().trim_refused();
    }
}

/// An attempt to deliver a recording, and how it went.
struct Attempted {
    job: Job,
    outcome: Result<u64, UploadError>,
    aged: Aged,
}

/// What became of a recording for its age.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Aged {
    Deleted,
    Nothing,
    Told,
}

/// How long a closed recording has waited.
fn age(path: &Path, clock: &dyn Clock) -> Option<Duration> {
    let modified = std::fs::metadata(path).and_then(|data| data.modified()).ok()?;
    let closed = modified.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Duration::from_millis(clock.now().unix_millis()).checked_sub(closed)
}

/// The text of an error and of what caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
