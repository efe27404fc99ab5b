//! The one who writes, for all callers of this process.
//!
//! Whatever is queued while a transaction is on its way shares the next one, so many callers cost one sync of the server's disk. A
//! transaction is two round trips: lock and read, decide here, write and commit.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use teleport_core::storage::{Action, Batch, Key, Revision, StorageError};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::Shared;
use super::apply::Composer;
use super::config::PostgresConfig;
use super::error::{Failure, PostgresError};
use super::link::{Link, Used};
use super::schema::{self, Known, Parameters};
use super::session::Session;
use crate::shared::closed::Closed;
use crate::shared::described::describe;
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

const READ: &str = "select key, case when key = any($2) then value end, expires, revision \
    from {}.items where key = any($1)";
const LOCK: &str = "select revision from {}.meta for update";
const LOG: &str = "insert into {}.changes (revision, position, key, value, expires) \
    select * from unnest($1::bigint[], $2::int[], $3::text[], $4::bytea[], $5::bigint[])";
const PUT: &str = "insert into {}.items (key, value, expires, revision) \
    select c.key, c.value, c.expires, c.revision \
    from unnest($1::bigint[], $2::int[]) as f (revision, position) join {}.changes c using (revision, position) \
    on conflict (key) do update \
    set value = excluded.value, expires = excluded.expires, revision = excluded.revision";
const DELETE: &str = "delete from {}.items where key = any($1)";
const ADVANCE: &str = "update {}.meta set revision = $1";
const ANNOUNCE: &str = "select pg_notify($1, '')";
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
    is_sent: &'a AtomicBool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.is_sent.load(Ordering::Acquire) {
            for reply in self.replies.drain(..) {
                let _ = reply.send(Err(PostgresError::UnknownOutcome { source: Closed.into() }.into()));
            }
        }
    }
}

/// What a transaction does.
enum Work<'a> {
    Batches(&'a [Batch]),
    Sweep(Vec<Key>),
}

impl Work<'_> {
    /// All keys that it is about, and those whose values it needs.
    fn keys(&self) -> (Vec<&str>, Vec<&str>) {
        let mut keys = HashSet::new();
        let mut touched = Vec::new();
        match self {
            Self::Batches(batches) => {
                for operation in batches.iter().flat_map(|batch| batch.operations()) {
                    keys.insert(operation.key.as_str());
                    if matches!(operation.action, Action::Touch { .. }) {
                        touched.push(operation.key.as_str());
                    }
                }
            }
            Self::Sweep(expired) => keys.extend(expired.iter().map(Key::as_str)),
        }
        (keys.into_iter().collect(), touched)
    }

    /// Decides on top of what was read.
    fn compose(&self, composer: &mut Composer) -> Vec<Result<Revision, Key>> {
        match self {
            Self::Batches(batches) => batches.iter().map(|batch| composer.apply(batch)).collect(),
            Self::Sweep(expired) => {
                composer.sweep(expired);
                Vec::new()
            }
        }
    }
}

/// What is written, as columns.
#[derive(Default)]
struct Columns {
    revisions: Vec<i64>,
    positions: Vec<i32>,
    keys: Vec<String>,
    values: Vec<Option<Vec<u8>>>,
    expires: Vec<Option<i64>>,
    /// Which of these changes are what is stored then.
    last_revisions: Vec<i64>,
    last_positions: Vec<i32>,
    deleted: Vec<String>,
}

impl Columns {
    fn of(composed: &Composer) -> Self {
        let mut columns = Self::default();
        for change in &composed.changes {
            columns.revisions.push(schema::number(change.revision));
            columns.positions.push(change.position);
            columns.keys.push(change.key.as_str().to_owned());
            let (value, expires) =
                change.put.as_ref().map(|(value, expires)| (value.to_vec(), *expires)).unzip();
            columns.values.push(value);
            columns.expires.push(expires.flatten().map(schema::millis));
        }
        for change in composed.last.values().filter_map(|place| composed.changes.get(*place)) {
            if change.put.is_some() {
                columns.last_revisions.push(schema::number(change.revision));
                columns.last_positions.push(change.position);
            } else {
                columns.deleted.push(change.key.as_str().to_owned());
            }
        }
        columns
    }
}

struct Writer {
    shared: Weak<Shared>,
    link: Arc<Link>,
    trimmed: Instant,
}

/// Writes until the queue is closed.
pub(super) async fn run(shared: Weak<Shared>, link: Arc<Link>, mut queue: mpsc::Receiver<Submission>) {
    let mut writer = Writer { shared, link, trimmed: Instant::now() };
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
        let is_sent = AtomicBool::new(false);
        let mut waiting = Waiting { replies, is_sent: &is_sent };
        let done = self.transact(Work::Batches(batches), &is_sent).await;
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
        let (now, link) = (schema::millis(shared.clock.now()), &self.link);
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
        match self.transact(Work::Sweep(expired), &AtomicBool::new(false)).await {
            Ok(_) => Ok(()),
            Err(Outcome::Failed(failure) | Outcome::Unknown(failure)) => Err(failure),
        }
    }

    /// One transaction. A connection that is lost before anything could be written is replaced, once the time allows it.
    /// `is_sent` says whether the commit was sent.
    async fn transact(
        &self,
        work: Work<'_>,
        is_sent: &AtomicBool,
    ) -> Result<Vec<Result<Revision, Key>>, Outcome> {
        let timeout = self.link.config.timeout();
        let end = Instant::now() + timeout;
        loop {
            let session = match tokio::time::timeout_at(end, self.link.session()).await {
                Ok(session) => session.map_err(Outcome::Failed)?,
                Err(_) => return Err(Outcome::Failed(self.link.late(None).await)),
            };
            is_sent.store(false, Ordering::Release);
            let attempt = tokio::time::timeout_at(end, self.attempt(&session, &work, is_sent)).await;
            let is_sent = is_sent.load(Ordering::Acquire);
            let failure = match attempt {
                Ok(Ok(results)) => {
                    self.link.succeeded();
                    return Ok(results);
                }
                Ok(Err(failure)) => failure,
                Err(_) => {
                    // What the server is doing for us ends with the connection.
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
                    if !matches!(tokio::time::timeout_at(end, rollback).await, Ok(Ok(()))) {
                        self.link.lost(&session, describe(&failure)).await;
                    }
                    return Err(Outcome::Failed(failure));
                }
            }
        }
    }

    async fn attempt(
        &self,
        session: &Session,
        work: &Work<'_>,
        is_sent: &AtomicBool,
    ) -> Result<Vec<Result<Revision, Key>>, Failure> {
        let Some(shared) = self.shared.upgrade() else { return Err(Closed.into()) };
        let config = &self.link.config;
        let client = &session.client;
        let (keys, touched) = work.keys();
        let lock = session.statement(config, LOCK).await?;
        let read = session.statement(config, READ).await?;
        let wanted: &Parameters<'_> = &[&keys, &touched];
        // In one go: each statement sees what was committed when it began, the second one therefore all before our turn.
        let (began, newest, rows) = futures_util::join!(
            client.batch_execute("begin"),
            client.query_one(&lock, &[]),
            client.query(&read, wanted),
        );
        began?;
        let newest = schema::revision(&newest?, 0)?;
        let mut known = Known::new();
        for row in rows? {
            let item = schema::item(&row)?;
            known.insert(item.key.clone(), Some(item));
        }
        let mut composer = Composer::new(known, newest, shared.clock.now());
        let results = work.compose(&mut composer);
        if composer.newest == newest {
            client.batch_execute("rollback").await?;
        } else {
            let columns = Columns::of(&composer);
            self.finish(session, &columns, composer.newest, is_sent).await?;
        }
        Ok(results)
    }

    /// Writes what was decided and commits.
    async fn finish(
        &self,
        session: &Session,
        columns: &Columns,
        newest: Revision,
        is_sent: &AtomicBool,
    ) -> Result<(), Failure> {
        let (config, client) = (&self.link.config, &session.client);
        let log = session.statement(config, LOG).await?;
        let put = session.statement(config, PUT).await?;
        let delete = session.statement(config, DELETE).await?;
        let advance = session.statement(config, ADVANCE).await?;
        let announce = session.statement(config, ANNOUNCE).await?;
        let newest = schema::number(newest);
        let channel = config.schema.channel();
        let log_values: &Parameters<'_> =
            &[&columns.revisions, &columns.positions, &columns.keys, &columns.values, &columns.expires];
        let put_values: &Parameters<'_> = &[&columns.last_revisions, &columns.last_positions];
        let delete_values: &Parameters<'_> = &[&columns.deleted];
        let (advance_values, announce_values): (&Parameters<'_>, &Parameters<'_>) = (&[&newest], &[&channel]);
        is_sent.store(true, Ordering::Release);
        // In one go. If one of them fails, the transaction has failed, and what follows does nothing; the last rolls back then.
        let (log, put, delete, advance, announce, commit) = futures_util::join!(
            client.execute(&log, log_values),
            client.execute(&put, put_values),
            client.execute(&delete, delete_values),
            client.execute(&advance, advance_values),
            client.execute(&announce, announce_values),
            client.batch_execute("commit"),
        );
        for done in [log, put, delete, advance, announce] {
            // What the server said is that it rolls back; all else may be about the answer.
            done.map_err(
                |error| {
                    if error.as_db_error().is_some() { error.into() } else { Failure::lost(error) }
                },
            )?;
        }
        // Whatever it says then, it may have been done.
        commit.map_err(Failure::lost)
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
