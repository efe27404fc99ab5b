//! What the drivers are made of, without them: first what the least is that stores an item, then what does the same as ours.
//!
//! * redb: the table alone. Revisions and expiry are ours on top of it.
//! * etcd: its own `Put`; then the same while somebody watches, as ours does.
//! * PostgreSQL: an upsert, which has no revision and tells nobody; then a statement that counts a revision, writes the item and its change, and
//!   announces it, while somebody listens and reads the changes.

mod etcd;
mod postgres;

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use redb::{Database, Durability, ReadableDatabase, TableDefinition};

use self::etcd::Etcd;
use self::postgres::Postgres;
use super::{CALLERS, Commits, Figures, ITEMS, VALUE, rate, time};
use crate::Scale;

const TABLE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("raw");

/// A store as its own client is used.
pub(super) enum Raw {
    Etcd(Etcd),
    Postgres(Postgres),
    Redb(Arc<Database>),
}

impl Raw {
    /// With both phases of a commit synced, as ours are.
    pub(super) fn redb(path: &Path) -> Result<Self> {
        let database = Database::create(path)?;
        put(&database, "first")?;
        Ok(Self::Redb(Arc::new(database)))
    }

    pub(super) async fn etcd(port: u16) -> Result<Self> {
        Ok(Self::Etcd(Etcd::connect(port).await?))
    }

    pub(super) async fn postgres(port: u16) -> Result<Self> {
        Ok(Self::Postgres(Postgres::connect(port).await?))
    }

    async fn put(&self, key: String) -> Result<()> {
        match self {
            Self::Etcd(etcd) => etcd.put(&key, &[b'x'; VALUE]).await,
            Self::Postgres(postgres) => postgres.put(&key, &[b'x'; VALUE]).await,
            Self::Redb(database) => {
                let database = Arc::clone(database);
                tokio::task::spawn_blocking(move || put(&database, &key)).await?
            }
        }
    }

    async fn get(&self, key: &str) -> Result<()> {
        let len = match self {
            Self::Etcd(etcd) => return etcd.get(key).await,
            Self::Postgres(postgres) => postgres.get(key).await?,
            Self::Redb(database) => {
                let read = database.begin_read()?.open_table(TABLE)?;
                read.get(key)?.context("an item is missing")?.value().to_vec().len()
            }
        };
        ensure!(len == VALUE, "another value");
        Ok(())
    }

    async fn range(&self) -> Result<()> {
        let count = match self {
            Self::Etcd(etcd) => return etcd.range().await,
            Self::Postgres(postgres) => postgres.range().await?,
            Self::Redb(database) => {
                let read = database.begin_read()?.open_table(TABLE)?;
                let rows = read.range("items/".."items0")?.map(|row| {
                    let (key, value) = row?;
                    Ok::<_, anyhow::Error>((key.value().to_owned(), value.value().to_vec()))
                });
                rows.collect::<Result<Vec<_>>>()?.len()
            }
        };
        ensure!(count == ITEMS, "items are missing");
        Ok(())
    }

    /// The same commit as ours beside somebody who follows the changes, if that is more than [`put`](Self::put).
    pub(super) async fn told(self: &Arc<Self>, scale: Scale) -> Result<Option<Commits>> {
        let _followed = match &**self {
            Self::Etcd(etcd) => etcd.follow().await?,
            Self::Postgres(postgres) => postgres.follow().await?,
            Self::Redb(_) => return Ok(None),
        };
        let act = {
            let raw = Arc::clone(self);
            move |caller: usize, round: usize| {
                let raw = Arc::clone(&raw);
                async move {
                    let key = format!("commits/{caller}/{}", round % 100);
                    match &*raw {
                        Self::Postgres(postgres) => postgres.put_told(&key, &[b'x'; VALUE]).await,
                        _ => raw.put(key).await,
                    }
                }
            }
        };
        Ok(Some(Commits {
            alone: rate(1, scale, act.clone()).await?,
            together: rate(CALLERS, scale, act).await?,
        }))
    }

    pub(super) async fn figures(self: &Arc<Self>, scale: Scale) -> Result<Figures> {
        let act = {
            let raw = Arc::clone(self);
            move |caller: usize, round: usize| {
                let raw = Arc::clone(&raw);
                async move { raw.put(format!("commits/{caller}/{}", round % 100)).await }
            }
        };
        let alone = rate(1, scale, act.clone()).await?;
        let together = rate(CALLERS, scale, act).await?;
        for item in 0..ITEMS {
            self.put(format!("items/{item:04}")).await?;
        }
        let get =
            time(scale.of(2000, 10), async |round| self.get(&format!("items/{:04}", round % ITEMS)).await);
        let get = get.await? * 1e6;
        let range = time(scale.of(50, 2), async |_| self.range().await).await? * 1e3;
        Ok(Figures { commits: Commits { alone, together }, get, range })
    }
}

fn put(database: &Database, key: &str) -> Result<()> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    transaction.set_two_phase_commit(true);
    transaction.open_table(TABLE)?.insert(key, vec![b'x'; VALUE].as_slice())?;
    transaction.commit()?;
    Ok(())
}
