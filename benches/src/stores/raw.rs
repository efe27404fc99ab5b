//! What the drivers are made of, without them: one table of keys and values.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use redb::{Database, Durability, ReadableDatabase, TableDefinition};
use teleport_core::task::TaskScope;
use tokio_postgres::{Client, NoTls, Statement};

use super::{CALLERS, Figures, ITEMS, VALUE, rate, time};
use crate::Scale;

const TABLE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("raw");

/// A store as its own client is used.
pub(super) enum Raw {
    Redb(Arc<Database>),
    Postgres(Arc<Postgres>),
}

pub(super) struct Postgres {
    client: Client,
    put: Statement,
    get: Statement,
    range: Statement,
    _connection: TaskScope,
}

impl Raw {
    /// With both phases of a commit synced, as ours are.
    pub(super) fn redb(path: &Path) -> Result<Self> {
        let database = Database::create(path)?;
        put(&database, "first")?;
        Ok(Self::Redb(Arc::new(database)))
    }

    pub(super) async fn postgres(port: u16) -> Result<Self> {
        let config = format!("host=127.0.0.1 port={port} user=bench dbname=teleport");
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        let config: tokio_postgres::Config = config.parse()?;
        let (client, connection) = config.connect_raw(stream, NoTls).await?;
        let scope = TaskScope::new();
        scope.spawn(async move {
            // Its end is seen by the client.
            let _ = connection.await;
        });
        client.batch_execute("create table raw (key text primary key, value bytea not null)").await?;
        let put = "insert into raw values ($1, $2) on conflict (key) do update set value = excluded.value";
        let put = client.prepare(put).await?;
        let get = client.prepare("select value from raw where key = $1").await?;
        let range = "select key, value from raw where key >= 'items/' and key < 'items0' order by key";
        let range = client.prepare(range).await?;
        Ok(Self::Postgres(Arc::new(Postgres { client, put, get, range, _connection: scope })))
    }

    async fn put(&self, key: String) -> Result<()> {
        match self {
            Self::Redb(database) => {
                let database = Arc::clone(database);
                tokio::task::spawn_blocking(move || put(&database, &key)).await?
            }
            Self::Postgres(postgres) => {
                let value = vec![b'x'; VALUE];
                postgres.client.execute(&postgres.put, &[&key, &value]).await?;
                Ok(())
            }
        }
    }

    async fn get(&self, key: &str) -> Result<()> {
        match self {
            Self::Redb(database) => {
                let read = database.begin_read()?.open_table(TABLE)?;
                let value = read.get(key)?.context("an item is missing")?.value().to_vec();
                ensure!(value.len() == VALUE, "another value");
            }
            Self::Postgres(postgres) => {
                let row = postgres.client.query_one(&postgres.get, &[&key]).await?;
                ensure!(row.get::<_, Vec<u8>>(0).len() == VALUE, "another value");
            }
        }
        Ok(())
    }

    async fn range(&self) -> Result<()> {
        let count = match self {
            Self::Redb(database) => {
                let read = database.begin_read()?.open_table(TABLE)?;
                let rows = read.range("items/".."items0")?.map(|row| {
                    let (key, value) = row?;
                    Ok::<_, anyhow::Error>((key.value().to_owned(), value.value().to_vec()))
                });
                rows.collect::<Result<Vec<_>>>()?.len()
            }
            Self::Postgres(postgres) => {
                let rows = postgres.client.query(&postgres.range, &[]).await?;
                let rows = rows.iter().map(|row| (row.get::<_, String>(0), row.get::<_, Vec<u8>>(1)));
                rows.collect::<Vec<_>>().len()
            }
        };
        ensure!(count == ITEMS, "items are missing");
        Ok(())
    }

    pub(super) async fn figures(self, scale: Scale) -> Result<Figures> {
        let raw = Arc::new(self);
        let act = {
            let raw = Arc::clone(&raw);
            move |caller: usize, round: usize| {
                let raw = Arc::clone(&raw);
                async move { raw.put(format!("commits/{caller}/{}", round % 100)).await }
            }
        };
        let alone = rate(1, scale, act.clone()).await?;
        let together = rate(CALLERS, scale, act).await?;
        for item in 0..ITEMS {
            raw.put(format!("items/{item:04}")).await?;
        }
        let get =
            time(scale.of(2000, 10), async |round| raw.get(&format!("items/{:04}", round % ITEMS)).await);
        let get = get.await? * 1e6;
        let range = time(scale.of(50, 2), async |_| raw.range().await).await? * 1e3;
        Ok(Figures { alone, together, get, range })
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
