//! Following the changes, by what the server announces and by looking.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use teleport_core::storage::{Item, Revision, WatchEvent};

use super::Shared;
use super::error::Failure;
use super::link::Link;
use super::schema;
use super::session::Session;

/// How often is looked without an announcement: one may be lost with its connection, or by a proxy that does not pass them on.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// More than one commit can change.
const PAGE: i64 = 512;

/// What is behind is found by the index whatever there is, so the server plans that once: by itself it would plan each time, because a guess at few rows
/// looks cheaper to it, and planning takes longer than looking.
const LISTEN: &str = "listen {}; set plan_cache_mode = force_generic_plan";

/// The newest revision and the changes behind one that was seen, from one snapshot.
const BEHIND: &str = "select m.revision, m.floor, c.revision, c.position, c.key, c.value, c.expires \
    from {}.meta m left join lateral ( \
        select * from {}.changes where revision > $1 order by revision, position limit $2) c on true \
    order by c.revision, c.position";

/// Follows the changes for as long as it is polled, through lost connections.
pub(super) async fn run(shared: Arc<Shared>, link: Arc<Link>) {
    let mut listening: Option<Arc<Session>> = None;
    let mut failures = 0;
    loop {
        let known = listening.take();
        let looked = link.read(|session| look(&shared, session, known.as_ref())).await;
        match looked {
            Ok((session, is_all)) => {
                listening = Some(session);
                failures = 0;
                if is_all {
                    let _ = tokio::time::timeout(LOOK_EVERY, link.announced.notified()).await;
                }
            }
            Err(Failure::Closed(_)) => return,
            Err(error) => {
                if failures == 0 {
                    tracing::warn!(%error, "the changes of PostgreSQL cannot be followed");
                }
                if matches!(&error, Failure::Postgres(error) if !error.is_passing()) {
                    // Nobody waits for what may never come: whoever watches lists again, and hears the reason.
                    shared.hub.restart(shared.hub.revision());
                }
                failures += 1;
                tokio::time::sleep(link.wait(failures)).await;
            }
        }
    }
}

/// Publishes what there is; `true` if that was all.
async fn look(
    shared: &Shared,
    session: Arc<Session>,
    listening: Option<&Arc<Session>>,
) -> Result<(Arc<Session>, bool), Failure> {
    let config = &shared.config;
    if !listening.is_some_and(|known| Arc::ptr_eq(known, &session)) {
        let channel = format!("\"{}\"", config.schema.channel());
        session.client.batch_execute(&LISTEN.replace("{}", &channel)).await?;
    }
    let from = shared.hub.revision();
    let statement = session.statement(config, BEHIND).await?;
    let rows = session.client.query(&statement, &[&schema::number(from), &PAGE]).await?;
    let Some(first) = rows.first() else {
        return Err(Failure::lost("the schema was emptied"));
    };
    let (newest, floor) = (schema::revision(first, 0)?, schema::revision(first, 1)?);
    // What lies between is not kept any more, or the database was restored from a backup.
    if floor > from || newest < from {
        tracing::warn!(%from, %floor, %newest, "changes cannot be followed up; whoever watches lists again");
        restart(shared, newest);
        return Ok((session, true));
    }
    let is_all = rows.len() < usize::try_from(PAGE).unwrap_or(usize::MAX);
    let mut events: Vec<(Revision, WatchEvent)> = Vec::with_capacity(rows.len());
    for row in &rows {
        if row.try_get::<_, Option<i64>>(2)?.is_some() {
            match change(row) {
                Ok(change) => events.push(change),
                // It would be met again and again. Whoever lists hears of it, if it is still there.
                Err(Failure::Postgres(error)) if !error.is_passing() => {
                    tracing::error!(%error, "PostgreSQL holds a change that this program did not write");
                    restart(shared, newest);
                    return Ok((session, true));
                }
                Err(failure) => return Err(failure),
            }
        }
    }
    if !is_all {
        // The last revision may not be whole.
        let last = events.last().map(|(revision, _)| *revision);
        events.retain(|(revision, _)| Some(*revision) != last);
    }
    for commit in events.chunk_by(|(one, _), (other, _)| one == other) {
        let Some((revision, _)) = commit.first() else { continue };
        let events: Vec<_> = commit.iter().map(|(_, event)| event.clone()).collect();
        publish(shared, *revision, &events);
    }
    if is_all {
        // Commits that changed nothing are part of it.
        publish(shared, newest, &[]);
    }
    Ok((session, is_all))
}

/// Changes have happened that nobody can tell: all watches end.
fn restart(shared: &Shared, newest: Revision) {
    shared.hub.restart(newest);
    shared.published.send_replace(newest.as_u64());
}

fn publish(shared: &Shared, revision: Revision, events: &[WatchEvent]) {
    shared.hub.publish(revision, events);
    shared.published.send_replace(revision.as_u64());
}

fn change(row: &tokio_postgres::Row) -> Result<(Revision, WatchEvent), Failure> {
    let revision = schema::revision(row, 2)?;
    let key = schema::key(row.try_get(4)?)?;
    let event = match row.try_get::<_, Option<&[u8]>>(5)? {
        None => WatchEvent::Deleted { key, revision },
        Some(value) => {
            let expires: Option<i64> = row.try_get(6)?;
            let value = Bytes::copy_from_slice(value);
            WatchEvent::Put(Item::new(key, value, expires.map(schema::time), revision))
        }
    };
    Ok((revision, event))
}
