//! One transaction: what is read for it, what is decided, what is written.
//!
//! A write is one statement, which takes its turn by counting the revision on; all else that it does depends on that. What depends on nothing needs
//! no more: one round trip. What depends on something is read without a lock, together with the newest revision, and the write happens only if that still is
//! the newest; if another service was quicker, it is done once more with the turn taken first, so that nobody starves.

use std::collections::HashSet;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::TryStreamExt;
use teleport_core::clock::Clock;
use teleport_core::storage::{Action, Batch, Condition, Key, Revision};

use super::apply::Composer;
use super::config::PostgresConfig;
use super::error::{Failure, PostgresError};
use super::schema::{self, Known, Parameters};
use super::session::Session;

/// The newest revision, and what is stored at some keys, from one snapshot. There is one row at least.
const READ: &str = "select i.key, case when i.key = any($2) then i.value end, i.expires, i.revision, m.revision \
    from {}.meta m left join {}.items i on i.key = any($1)";
const LOCK: &str = "select from {}.meta for update";

/// Counts the revision on by `$1`, only if it is `$2` unless that is null, and does all the rest if it could.
///
/// Whoever waits for the row of `meta` looks at it again when its turn comes. So while `$2` still is the newest revision, the snapshot of the statement, which is no older
/// than the read that said `$2`, is all that there is; without it only writes happen, which look at no snapshot.
const WRITE: &str = "with turn as ( \
        update {}.meta set revision = revision + $1 where $2::bigint is null or revision = $2 \
        returning revision - $1 as base), \
    change as ( \
        select base + c.step as revision, c.position, c.key, c.value, c.expires, c.is_last from turn, \
        unnest($3::bigint[], $4::int[], $5::text[], $6::bytea[], $7::bigint[], $8::bool[]) \
            as c (step, position, key, value, expires, is_last)), \
    logged as ( \
        insert into {}.changes (revision, position, key, value, expires) \
        select revision, position, key, value, expires from change), \
    stored as ( \
        insert into {}.items (key, value, expires, revision) \
        select key, value, expires, revision from change where is_last and value is not null \
        on conflict (key) do update \
        set value = excluded.value, expires = excluded.expires, revision = excluded.revision), \
    gone as (delete from {}.items using turn where key = any($9)) \
    select base, pg_notify($10, '') from turn";

/// How far a transaction is.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Whether something was sent that commits.
    is_sent: AtomicBool,
    /// Whether the server was told to begin one that has not ended.
    is_open: AtomicBool,
}

impl Progress {
    pub(super) fn is_sent(&self) -> bool {
        self.is_sent.load(Ordering::Acquire)
    }

    pub(super) fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Acquire)
    }

    pub(super) fn restart(&self) {
        self.is_sent.store(false, Ordering::Release);
        self.is_open.store(false, Ordering::Release);
    }
}

/// What a transaction does.
pub(super) enum Work<'a> {
    Batches(&'a [Batch]),
    Sweep(Vec<Key>),
}

impl Work<'_> {
    /// Whether what is written is the same whatever there is.
    fn depends_on_nothing(&self) -> bool {
        let Self::Batches(batches) = self else { return false };
        batches.iter().flat_map(|batch| batch.operations()).all(|operation| {
            operation.condition == Condition::Any
                && matches!(operation.action, Action::Put { .. } | Action::Keep)
        })
    }

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
struct Columns<'a> {
    /// By how much a change's revision is greater than the newest before.
    steps: Vec<i64>,
    positions: Vec<i32>,
    keys: Vec<&'a str>,
    values: Vec<Option<&'a [u8]>>,
    expires: Vec<Option<i64>>,
    /// Whether the change is what is stored then.
    is_last: Vec<bool>,
    deleted: Vec<&'a str>,
}

impl<'a> Columns<'a> {
    fn of(composed: &'a Composer, before: Revision) -> Self {
        let mut columns = Self::default();
        for (place, change) in composed.changes.iter().enumerate() {
            let key = change.key.as_str();
            let is_last = composed.last.get(&change.key) == Some(&place);
            let (value, expires) = change.put.as_ref().map(|(value, expires)| (&value[..], *expires)).unzip();
            columns.steps.push(schema::number(steps(before, change.revision)));
            columns.positions.push(change.position);
            columns.keys.push(key);
            columns.values.push(value);
            columns.expires.push(expires.flatten().map(schema::millis));
            columns.is_last.push(is_last);
            if is_last && value.is_none() {
                columns.deleted.push(key);
            }
        }
        columns
    }
}

/// A transaction on a connection.
pub(super) struct Transaction<'a> {
    pub(super) session: &'a Session,
    pub(super) config: &'a PostgresConfig,
    pub(super) clock: &'a dyn Clock,
    pub(super) progress: &'a Progress,
}

impl Transaction<'_> {
    /// Does it, and says for each batch which revision it has or which key's condition did not hold.
    pub(super) async fn run(&self, work: &Work<'_>) -> Result<Vec<Result<Revision, Key>>, Failure> {
        let (known, newest) =
            if work.depends_on_nothing() { (Known::new(), None) } else { self.read(work).await.map(seen)? };
        if let Some(results) = self.decide(work, known, newest).await? {
            return Ok(results);
        }
        // Another service was quicker, and nothing was written.
        self.progress.restart();
        self.locked(work).await
    }

    /// The same while nobody else can commit.
    async fn locked(&self, work: &Work<'_>) -> Result<Vec<Result<Revision, Key>>, Failure> {
        let client = &self.session.client;
        let lock = self.session.statement(self.config, LOCK).await?;
        self.progress.is_open.store(true, Ordering::Release);
        // In one go: each statement sees what was committed when it began, the last one therefore all before our turn.
        let (began, locked, read) =
            futures_util::join!(client.batch_execute("begin"), client.query(&lock, &[]), self.read(work));
        began?;
        locked?;
        let (known, newest) = seen(read?);
        let Some(results) = self.decide(work, known, newest).await? else {
            return Err(Failure::lost("the newest revision was changed by somebody who does not lock it"));
        };
        Ok(results)
    }

    async fn read(&self, work: &Work<'_>) -> Result<(Known, Revision), Failure> {
        let (keys, touched) = work.keys();
        let read = self.session.statement(self.config, READ).await?;
        let rows = self.session.client.query(&read, &[&keys, &touched]).await?;
        let Some(first) = rows.first() else {
            let schema = self.config.schema.as_str().to_owned();
            return Err(PostgresError::Foreign { schema, reason: "was emptied".to_owned() }.into());
        };
        let newest = schema::revision(first, 4)?;
        let mut known = Known::new();
        for row in &rows {
            if row.try_get::<_, Option<&str>>(0)?.is_some() {
                let item = schema::item(row)?;
                known.insert(item.key.clone(), Some(item));
            }
        }
        Ok((known, newest))
    }

    /// Decides on top of what was read when `newest` was the newest revision, and writes that. `None` if that is not the newest any more.
    async fn decide(
        &self,
        work: &Work<'_>,
        known: Known,
        newest: Option<Revision>,
    ) -> Result<Option<Vec<Result<Revision, Key>>>, Failure> {
        let before = newest.unwrap_or_default();
        let mut composer = Composer::new(known, before, self.clock.now());
        let results = work.compose(&mut composer);
        if composer.newest == before {
            if self.progress.is_open() {
                self.session.client.batch_execute("rollback").await?;
            }
            return Ok(Some(results));
        }
        let Some(base) = self.write(&composer, before, newest).await? else { return Ok(None) };
        let placed =
            |revision| Revision::from_u64(base.as_u64().saturating_add(steps(before, revision).as_u64()));
        Ok(Some(results.into_iter().map(|result| result.map(placed)).collect()))
    }

    /// Writes what was decided, and commits. Returns the newest revision before, or `None` if it is not `newest`; then nothing was written.
    async fn write(
        &self,
        composed: &Composer,
        before: Revision,
        newest: Option<Revision>,
    ) -> Result<Option<Revision>, Failure> {
        let client = &self.session.client;
        let statement = self.session.statement(self.config, WRITE).await?;
        let columns = Columns::of(composed, before);
        let count = schema::number(steps(before, composed.newest));
        let (newest, channel) = (newest.map(schema::number), self.config.schema.channel());
        let values: &Parameters<'_> = &[
            &count,
            &newest,
            &columns.steps,
            &columns.positions,
            &columns.keys,
            &columns.values,
            &columns.expires,
            &columns.is_last,
            &columns.deleted,
            &channel,
        ];
        let write = async {
            let mut rows = pin!(client.query_raw(&statement, values.iter().copied()).await.map_err(refused)?);
            let Some(row) = rows.try_next().await.map_err(refused)? else { return Ok(None) };
            // The row is said when all is written, the end when it is committed: whatever comes instead of it, it may have been done.
            let base = row.try_get::<_, i64>(0).map_err(Failure::lost)?;
            while rows.try_next().await.map_err(Failure::lost)?.is_some() {}
            Ok(Some(Revision::from_u64(base.cast_unsigned())))
        };
        self.progress.is_sent.store(true, Ordering::Release);
        if !self.progress.is_open() {
            return write.await;
        }
        // In one go. If the write fails, the transaction has failed, and its end rolls back.
        let (written, committed) = futures_util::join!(write, client.batch_execute("commit"));
        let written = written?;
        // Whatever it says then, it may have been done.
        committed.map_err(Failure::lost)?;
        Ok(written)
    }
}

/// By how much a revision is greater than the newest one before.
fn steps(before: Revision, revision: Revision) -> Revision {
    Revision::from_u64(revision.as_u64().saturating_sub(before.as_u64()))
}

fn seen((known, newest): (Known, Revision)) -> (Known, Option<Revision>) {
    (known, Some(newest))
}

/// Why a write has failed. What the server said of it is that it rolls back; all else may be about the answer.
fn refused(error: tokio_postgres::Error) -> Failure {
    // The class of connections: said by something between, which does not know what became of it.
    let is_of_the_write = error.as_db_error().is_some_and(|said| !said.code().code().starts_with("08"));
    if is_of_the_write { error.into() } else { Failure::lost(error) }
}
