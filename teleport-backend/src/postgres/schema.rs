//! What the schema holds. Format 1:
//!
//! * `meta`: one row: the format, the newest revision, and `floor`: the newest revision whose changes are not kept any more. Commits
//!   count on it, which locks it, so revisions become visible in their order, and those that were rolled back are used by nobody.
//! * `items`: key, value, expiry in milliseconds or null for never, revision
//! * `changes`: what each revision has changed, in order; a deletion has no value

use std::collections::HashMap;

use bytes::Bytes;
use teleport_core::clock::Timestamp;
use teleport_core::storage::{Item, Key, Revision};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::config::PostgresConfig;
use super::error::{Failure, PostgresError};
use super::session::Session;

/// The format that this version writes, and the newest that it reads.
const FORMAT: i64 = 1;

const CREATE: &str = "
    create table {}.meta (
        one boolean primary key default true check (one),
        format bigint not null, revision bigint not null, floor bigint not null);
    create table {}.items (
        key text collate \"C\" primary key, value bytea not null, expires bigint, revision bigint not null);
    create index items_expires on {}.items (expires) where expires is not null;
    create table {}.changes (
        revision bigint, position integer, key text collate \"C\" not null, value bytea, expires bigint,
        primary key (revision, position));
    insert into {}.meta (format, revision, floor) values (1, 0, 0);";

/// What the sweeping of all who share the schema is claimed by, with the number of the schema.
pub(super) const SWEEP_CLAIM: i32 = 0x7465_6c65;

/// Makes sure that the schema is ours, or makes it. Several may do so at the same time. Returns the newest revision.
pub(super) async fn claim(session: &Session, config: &PostgresConfig) -> Result<Revision, Failure> {
    let schema = &config.schema;
    let foreign =
        |reason: String| Failure::from(PostgresError::Foreign { schema: schema.as_str().to_owned(), reason });
    let client = &session.client;
    client.batch_execute("begin").await?;
    // Whoever comes second sees what the first one made.
    client
        .execute("select pg_advisory_xact_lock(hashtext('teleport schema ' || $1))", &[&schema.as_str()])
        .await?;
    let found = client
        .query_one(
            "select exists (select from pg_namespace where nspname = $1),
                 exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace
                     join pg_attribute a on a.attrelid = c.oid
                     where n.nspname = $1 and c.relname = 'meta' and a.attname = 'format' and a.atttypid = 'int8'::regtype),
                 (select min(relname)::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
                     where n.nspname = $1)",
            &[&schema.as_str()],
        )
        .await?;
    let (exists, is_marked, other): (bool, bool, Option<String>) =
        (found.try_get(0)?, found.try_get(1)?, found.try_get(2)?);
    if !is_marked {
        if let Some(other) = other {
            return Err(foreign(format!(
                "holds something else, such as {other:?}; name another one by the option schema"
            )));
        }
        if !exists {
            client.batch_execute(&schema.sql("create schema {}")).await?;
        }
        client.batch_execute(&schema.sql(CREATE)).await?;
    }
    let row = client.query_one(&schema.sql("select format, revision from {}.meta"), &[]).await?;
    let format: i64 = row.try_get(0)?;
    if format != FORMAT {
        return Err(foreign(format!(
            "has the format {format}, made by a newer version; this one knows {FORMAT}"
        )));
    }
    let revision = revision(&row, 1)?;
    // Whether we may write is said now, and not with the first change.
    client.execute(&schema.sql("update {}.meta set revision = revision"), &[]).await?;
    client.batch_execute("commit").await?;
    Ok(revision)
}

pub(super) fn revision(row: &Row, column: usize) -> Result<Revision, Failure> {
    let number: i64 = row.try_get(column)?;
    Ok(Revision::from_u64(number.cast_unsigned()))
}

pub(super) fn number(revision: Revision) -> i64 {
    revision.as_u64().cast_signed()
}

pub(super) fn millis(expires: Timestamp) -> i64 {
    i64::try_from(expires.unix_millis()).unwrap_or(i64::MAX)
}

pub(super) fn time(millis: i64) -> Timestamp {
    Timestamp::from_unix_millis(u64::try_from(millis).unwrap_or(0))
}

pub(super) fn key(text: &str) -> Result<Key, PostgresError> {
    Key::new(text).map_err(|_| PostgresError::Damaged { key: text.to_owned() })
}

/// The columns key, value, expires, revision.
pub(super) fn item(row: &Row) -> Result<Item, Failure> {
    let value: &[u8] = row.try_get::<_, Option<&[u8]>>(1)?.unwrap_or_default();
    let expires: Option<i64> = row.try_get(2)?;
    let key = key(row.try_get(0)?)?;
    Ok(Item::new(key, Bytes::copy_from_slice(value), expires.map(time), revision(row, 3)?))
}

/// What is read before a decision, expired items among it; later what has been decided on top of it.
pub(super) type Known = HashMap<Key, Option<Item>>;

/// One row of `changes`.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) revision: Revision,
    pub(super) position: i32,
    pub(super) key: Key,
    /// The new value and expiry; `None` is a deletion.
    pub(super) put: Option<(Bytes, Option<Timestamp>)>,
}

/// Parameters of a statement.
pub(super) type Parameters<'a> = [&'a (dyn ToSql + Sync)];
