//! Statements by hand.

use std::sync::Arc;

use anyhow::{Context, Result};
use teleport_core::task::TaskScope;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_postgres::{AsyncMessage, Client, NoTls, Statement};

const TABLES: &str = "
    create table plain (key text collate \"C\" primary key, value bytea not null);
    create table items (key text collate \"C\" primary key, value bytea not null, revision bigint not null);
    create table changes (revision bigint primary key, key text collate \"C\" not null, value bytea);
    create table newest (revision bigint not null);
    insert into newest values (0)";

/// In one statement, which commits by itself: a revision more, the item, its change, and an announcement.
const TOLD: &str = "with turn as (update newest set revision = revision + 1 returning revision), \
    stored as ( \
        insert into items select $1, $2, revision from turn \
        on conflict (key) do update set value = excluded.value, revision = excluded.revision), \
    logged as (insert into changes select revision, $1, $2 from turn) \
    select revision, pg_notify('raw', '') from turn";

pub(in crate::stores) struct Postgres {
    client: Client,
    upsert: Statement,
    told: Statement,
    get: Statement,
    range: Statement,
    port: u16,
    _connection: TaskScope,
}

/// A connection, and what is told whenever something is announced on it.
async fn connect(port: u16) -> Result<(Client, Arc<Notify>, TaskScope)> {
    let config = format!("host=127.0.0.1 port={port} user=bench dbname=teleport");
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    let config: tokio_postgres::Config = config.parse()?;
    let (client, mut connection) = config.connect_raw(stream, NoTls).await?;
    let (scope, announced) = (TaskScope::new(), Arc::new(Notify::new()));
    let announce = Arc::clone(&announced);
    scope.spawn(async move {
        // Its end is seen by the client.
        while let Some(Ok(message)) = std::future::poll_fn(|context| connection.poll_message(context)).await {
            if matches!(message, AsyncMessage::Notification(_)) {
                announce.notify_one();
            }
        }
    });
    client.batch_execute("create schema if not exists raw; set search_path = raw").await?;
    Ok((client, announced, scope))
}

impl Postgres {
    pub(super) async fn connect(port: u16) -> Result<Self> {
        let (client, _, scope) = connect(port).await?;
        client.batch_execute(TABLES).await?;
        let prepare = async |sql| client.prepare(sql).await;
        Ok(Self {
            upsert: prepare(
                "insert into plain values ($1, $2) on conflict (key) do update set value = excluded.value",
            )
            .await?,
            told: prepare(TOLD).await?,
            get: prepare("select value from plain where key = $1").await?,
            range: prepare(
                "select key, value from plain where key >= 'items/' and key < 'items0' order by key",
            )
            .await?,
            client,
            port,
            _connection: scope,
        })
    }

    pub(super) async fn put(&self, key: &str, value: &[u8]) -> Result<()> {
        self.client.execute(&self.upsert, &[&key, &value]).await?;
        Ok(())
    }

    /// The same for whoever follows the changes.
    pub(super) async fn put_told(&self, key: &str, value: &[u8]) -> Result<()> {
        self.client.query_one(&self.told, &[&key, &value]).await?;
        Ok(())
    }

    /// Reads all that is changed from now on, over a connection of its own, whenever something is announced.
    pub(super) async fn follow(&self) -> Result<TaskScope> {
        let (client, announced, connection) = connect(self.port).await?;
        let behind =
            client.prepare("select * from changes where revision > $1 order by revision limit 512").await?;
        client.batch_execute("listen raw").await?;
        let mut seen: i64 = client.query_one("select revision from newest", &[]).await?.try_get(0)?;
        let scope = TaskScope::new();
        scope.spawn(async move {
            let _connection = connection;
            let followed: Result<()> = async {
                loop {
                    announced.notified().await;
                    loop {
                        let rows = client.query(&behind, &[&seen]).await?;
                        let Some(last) = rows.last() else { break };
                        seen = last.try_get(0)?;
                        let values = rows.iter().map(|row| row.try_get::<_, &[u8]>(2).map(<[u8]>::to_vec));
                        values.collect::<Result<Vec<_>, _>>().context("a change without a value")?;
                    }
                }
            }
            .await;
            // The server has gone, or the bench ends.
            drop(followed);
        });
        Ok(scope)
    }

    /// How long the value is.
    pub(super) async fn get(&self, key: &str) -> Result<usize> {
        let row = self.client.query_one(&self.get, &[&key]).await?;
        Ok(row.get::<_, Vec<u8>>(0).len())
    }

    /// How many there are.
    pub(super) async fn range(&self) -> Result<usize> {
        let rows = self.client.query(&self.range, &[]).await?;
        let rows = rows.iter().map(|row| (row.get::<_, String>(0), row.get::<_, Vec<u8>>(1)));
        Ok(rows.collect::<Vec<_>>().len())
    }
}
