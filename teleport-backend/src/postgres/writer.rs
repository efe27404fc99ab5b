//! The one who writes, for all callers of this process.
//!
//! Whatever is queued while a transaction is on its way shares the next one, so many callers cost one sync of the server's disk.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use teleport_core::storage::{Action, Batch, Key, Revision, StorageError};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::Shared;
use super::config::PostgresConfig;
use super::error::{Failure, PostgresError};
use super::link::{Link, Used};
use super::schema;
use super::session::Session;
use super::transaction::{Progress, Transaction, Work};
use crate::shared::closed::Closed;
use crate::shared::described::describe;
use crate::shared::pace::Pace;
use crate::shared::sweep;

/// How much one transaction takes from the queue.
const MAX_GROUP: usize = 64;
const MAX_GROUP_BYTES: usize = 16 << 20;

/// How many revisions are kept for those who catch up, and how far that may be exceeded before something is removed.
const HISTORY: i64 = 10_000;
const SLACK: i64 = 2_000;
const TRIM_STEP: i64 = 500;
/// So that batches do not wait for all of it.
const TRIM_STEPS: usize = 20;
const TRIM_EVERY: Duration = Duration::from_secs(5);

const CLAIM: &str = "select pg_try_advisory_lock($1, (select oid::int from pg_namespace where nspname = $2))";
const EXPIRED: &str = "select key from {}.items where expires <= $1 order by expires limit $2";
/// One step, and how many revisions are kept after it. Nobody can commit meanwhile, so it is a small one.
const TRIM: &str = "with step as ( \
        update {}.meta set floor = least(revision - $1::bigint, floor + $3::bigint) \
        where revision - floor > $1::bigint + $2::bigint returning revision, floor), \
    gone as (delete from {}.changes where revision <= (select floor from step)) \
    select revision - floor from step";

type Reply = oneshot::Sender<Result<Revision, StorageError>>;

/// A batch and who waits for it.
pub(super) struct Submission {
    pub(super) batch: Batch,
    pub(super) reply: Reply,
}

/// Those who wait for a transaction. Should it be given up half way, they hear that nothing is known if that is so.
struct Waiting<'a> {
    replies: Vec<Reply>,
    progress: &'a Progress,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.progress.is_sent() {
            for reply in self.replies.drain(..) {
                let _ = reply.send(Err(PostgresError::UnknownOutcome { source: Closed.into() }.into()));
            }
        }
    }
}

struct Writer {
    shared: Weak<Shared>,
    link: Arc<Link>,
    trimmed: Instant,
    pace: Option<Pace>,
}

/// Writes until the queue is closed.
pub(super) async fn run(shared: Weak<Shared>, link: Arc<Link>, mut queue: mpsc::Receiver<Submission>) {
    let mut writer = Writer { shared, link, trimmed: Instant::now(), pace: None };
    let mut ticks = tokio::time::interval(sweep::INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            first = queue.recv() => match first {
                Some(first) => writer.write(first, &mut queue).await,
                None => return,
            },
            _ = ticks.tick() => {
                match writer.sweep().await {
                    Ok(()) => {}
                    Err(Failure::Postgres(error)) if !error.is_passing() => {
                        tracing::warn!(%error, "what has expired cannot be removed");
                    }
                    Err(error) => tracing::debug!(%error, "sweeping was interrupted"),
                }
            }
        }
    }
}

/// What a failed transaction means for those whose batches were in it.
enum Outcome {
    /// Nothing was written.
    Failed(Failure),
    Unknown(Failure),
}

impl Outcome {
    /// Whether it is about what was to be written, and not about the server or the user.
    fn is_of_the_content(&self) -> bool {
        matches!(
            self,
            Self::Failed(Failure::Postgres(
                PostgresError::Refused { is_passing: false, .. } | PostgresError::Damaged { .. }
            ))
        )
    }

    fn error(&self, link: &Link) -> StorageError {
        match self {
            Self::Failed(Failure::Closed(closed)) => (*closed).into(),
            Self::Failed(Failure::Lost { source }) => StorageError::unavailable(format!(
                "PostgreSQL at {}: the connection was lost: {}",
                link.config,
                describe(&**source)
            )),
            Self::Failed(Failure::Postgres(error)) if error.is_passing() => {
                StorageError::unavailable(error.to_string())
            }
            Self::Failed(Failure::Postgres(error)) => StorageError::driver(error.to_string()),
            Self::Unknown(failure) => {
                PostgresError::UnknownOutcome { source: describe(failure).into() }.into()
            }
        }
    }
}

impl Writer {
    async fn write(&mut self, first: Submission, queue: &mut mpsc::Receiver<Submission>) {
        let mut batches = Vec::new();
        let mut replies = Vec::new();
        let mut size = 0;
        let mut next = Some(first);
        while let Some(Submission { batch, reply }) = next {
            // Nobody waits for it any more, and it was not begun.
            if !reply.is_closed() {
                size += bytes_of(&batch);
                batches.push(batch);
                replies.push(reply);
            }
            next = if batches.len() < MAX_GROUP && size < MAX_GROUP_BYTES {
                queue.try_recv().ok()
            } else {
                None
            };
        }
        if batches.is_empty() {
            return;
        }
        // What one of them contains must not be the fate of all.
        let refused = self.serve(&batches, replies).await;
        for (batch, reply) in batches.iter().zip(refused) {
            self.serve(std::slice::from_ref(batch), vec![reply]).await;
        }
    }

    /// One transaction for all these batches. Returns those who wait for them if the server refused it and there are several.
    async fn serve(&self, batches: &[Batch], replies: Vec<Reply>) -> Vec<Reply> {
        let progress = Progress::default();
        let mut waiting = Waiting { replies, progress: &progress };
        let done = self.transact(Work::Batches(batches), &progress).await;
        let replies = std::mem::take(&mut waiting.replies);
        // The answer does not matter to whoever has gone.
        match done {
            Ok(results) => {
                let newest = results.iter().flatten().max();
                if let (Some(newest), Some(shared)) = (newest, self.shared.upgrade()) {
                    shared.newest.fetch_max(newest.as_u64(), Ordering::AcqRel);
                }
                for (reply, result) in replies.into_iter().zip(results) {
                    let _ = reply.send(result.map_err(|key| StorageError::Conflict { key }));
                }
            }
            Err(outcome) if batches.len() > 1 && outcome.is_of_the_content() => return replies,
            Err(outcome) => {
                for reply in replies {
                    let _ = reply.send(Err(outcome.error(&self.link)));
                }
            }
        }
        Vec::new()
    }

    /// Removes some of what has expired, if that is our part.
    async fn sweep(&mut self) -> Result<(), Failure> {
        let Some(shared) = self.shared.upgrade() else { return Ok(()) };
        let now = shared.clock.now();
        let may_remove = self.pace.get_or_insert_with(|| Pace::new(now)).may_remove(now);
        let (now, link) = (schema::millis(now), &self.link);
        let schema = link.config.schema.as_str();
        let is_time_to_trim = self.trimmed.elapsed() >= TRIM_EVERY;
        if is_time_to_trim {
            // Whether it can be done or not: expiry does not wait for it each time.
            self.trimmed = Instant::now();
        }
        let used = Used::default();
        let look = async {
            let session = link.session().await?;
            used.set(&session);
            let found = async {
                // Ours for as long as this connection lives; to have it twice is no matter.
                let claim = session.statement(&link.config, CLAIM).await?;
                if !session.swept() {
                    if !session
                        .client
                        .query_one(&claim, &[&schema::SWEEP_CLAIM, &schema])
                        .await?
                        .try_get(0)?
                    {
                        return Ok(Vec::new());
                    }
                    session.set_swept();
                }
                if is_time_to_trim {
                    trim(&session, &link.config).await?;
                }
                if !may_remove {
                    return Ok(Vec::new());
                }
                let expired = session.statement(&link.config, EXPIRED).await?;
                let limit = i64::try_from(sweep::MAX_PER_COMMIT).unwrap_or(i64::MAX);
                let rows = session.client.query(&expired, &[&now, &limit]).await?;
                // Whoever reads a damaged one hears of it; the others expire.
                let key = |row: &tokio_postgres::Row| match row.try_get(0) {
                    Ok(key) => schema::key(key).ok().map(Ok),
                    Err(error) => Some(Err(Failure::from(error))),
                };
                rows.iter().filter_map(key).collect::<Result<Vec<_>, Failure>>()
            };
            match found.await {
                Err(Failure::Lost { source }) => {
                    link.lost(&session, describe(&*source)).await;
                    Err(Failure::Lost { source })
                }
                found => found,
            }
        };
        let expired = match tokio::time::timeout(link.config.timeout(), look).await {
            Ok(expired) => expired?,
            Err(_) => return Err(link.late(used.get()).await),
        };
        if expired.is_empty() {
            return Ok(());
        }
        match self.transact(Work::Sweep(expired), &Progress::default()).await {
            Ok(_) => Ok(()),
            Err(Outcome::Failed(failure) | Outcome::Unknown(failure)) => Err(failure),
        }
    }

    /// One transaction. A connection that is lost before anything could be written is replaced, once the time allows it.
    async fn transact(
        &self,
        work: Work<'_>,
        progress: &Progress,
    ) -> Result<Vec<Result<Revision, Key>>, Outcome> {
        let Some(shared) = self.shared.upgrade() else { return Err(Outcome::Failed(Closed.into())) };
        let timeout = self.link.config.timeout();
        let end = Instant::now() + timeout;
        loop {
            let session = match tokio::time::timeout_at(end, self.link.session()).await {
                Ok(session) => session.map_err(Outcome::Failed)?,
                Err(_) => return Err(Outcome::Failed(self.link.late(None).await)),
            };
            progress.restart();
            let transaction =
                Transaction { session: &session, config: &self.link.config, clock: &*shared.clock, progress };
            let attempt = tokio::time::timeout_at(end, transaction.run(&work)).await;
            let is_sent = progress.is_sent();
            let failure = match attempt {
                Ok(Ok(results)) => {
                    self.link.succeeded();
                    return Ok(results);
                }
                Ok(Err(failure)) => failure,
                Err(_) => {
                    // What was sent may still be done, until the server's own deadline for it: that is not known then.
                    let failure = PostgresError::Timeout { timeout }.into();
                    self.link.lost(&session, describe(&failure)).await;
                    return Err(if is_sent { Outcome::Unknown(failure) } else { Outcome::Failed(failure) });
                }
            };
            match failure {
                Failure::Lost { source } => {
                    self.link.lost(&session, describe(&*source)).await;
                    if is_sent {
                        return Err(Outcome::Unknown(Failure::Lost { source }));
                    }
                    if self.link.is_closed() {
                        return Err(Outcome::Failed(Closed.into()));
                    }
                }
                failure => {
                    // The server said no: it has rolled back, or does now.
                    let rollback = session.client.batch_execute("rollback");
                    if progress.is_open()
                        && !matches!(tokio::time::timeout_at(end, rollback).await, Ok(Ok(())))
                    {
                        self.link.lost(&session, describe(&failure)).await;
                    }
                    return Err(Outcome::Failed(failure));
                }
            }
        }
    }
}

/// Removes the oldest changes, in transactions of their own.
async fn trim(session: &Session, config: &PostgresConfig) -> Result<(), Failure> {
    let trim = session.statement(config, TRIM).await?;
    let mut slack = SLACK;
    for _ in 0..TRIM_STEPS {
        match session.client.query_opt(&trim, &[&HISTORY, &slack, &TRIM_STEP]).await? {
            Some(row) if row.try_get::<_, i64>(0)? > HISTORY => slack = 0,
            _ => break,
        }
    }
    Ok(())
}

fn bytes_of(batch: &Batch) -> usize {
    let size = |action: &Action| if let Action::Put { value, .. } = action { value.len() } else { 0 };
    batch.operations().iter().map(|operation| operation.key.as_str().len() + size(&operation.action)).sum()
}
