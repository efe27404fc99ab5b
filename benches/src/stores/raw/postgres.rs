//! Statements by hand.

use anyhow::Result;
use teleport_core::task::TaskScope;
use tokio_postgres::{Client, NoTls, Statement};

const TABLES: &str = "
    create table items (key text collate \"C\" primary key, value bytea not null, revision bigint not null);
    create table changes (revision bigint primary key, key text collate \"C\" not null, value bytea);
    create table newest (revision bigint not null);
    insert into newest values (0);
    create table plain (key text collate \"C\" primary key, value bytea not null)";

pub(in crate::stores) struct Postgres {
    client: Client,
    lock: Statement,
    put: Statement,
    log: Statement,
    advance: Statement,
    announce: Statement,
    upsert: Statement,
    get: Statement,
    range: Statement,
    _connection: TaskScope,
}

impl Postgres {
    pub(super) async fn connect(port: u16) -> Result<Self> {
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
        client.batch_execute("create schema raw; set search_path = raw").await?;
        client.batch_execute(TABLES).await?;
        let prepare = async |sql| client.prepare(sql).await;
        Ok(Self {
            lock: prepare("select revision from newest for update").await?,
            put: prepare(
                "insert into items values ($1, $2, $3) on conflict (key) do update \
                 set value = excluded.value, revision = excluded.revision",
            )
            .await?,
            log: prepare("insert into changes values ($1, $2, $3)").await?,
            advance: prepare("update newest set revision = $1").await?,
            announce: prepare("select pg_notify('raw', '')").await?,
            upsert: prepare(
                "insert into plain values ($1, $2) on conflict (key) do update set value = excluded.value",
            )
            .await?,
            get: prepare("select value from items where key = $1").await?,
            range: prepare(
                "select key, value from items where key >= 'items/' and key < 'items0' order by key",
            )
            .await?,
            client,
            _connection: scope,
        })
    }

    /// In two round trips: a decision can be made between them, and nobody else commits meanwhile.
    pub(super) async fn put(&self, key: &str, value: &[u8]) -> Result<()> {
        let client = &self.client;
        let (begun, newest) =
            futures_util::join!(client.batch_execute("begin"), client.query_one(&self.lock, &[]));
        begun?;
        let revision = newest?.try_get::<_, i64>(0)? + 1;
        let (put, log): (
            &[&(dyn tokio_postgres::types::ToSql + Sync)],
            &[&(dyn tokio_postgres::types::ToSql + Sync)],
        ) = (&[&key, &value, &revision], &[&revision, &key, &value]);
        let advance: &[&(dyn tokio_postgres::types::ToSql + Sync)] = &[&revision];
        let (put, log, advance, announce, commit) = futures_util::join!(
            client.execute(&self.put, put),
            client.execute(&self.log, log),
            client.execute(&self.advance, advance),
            client.execute(&self.announce, &[]),
            client.batch_execute("commit"),
        );
        put?;
        log?;
        advance?;
        announce?;
        Ok(commit?)
    }

    pub(super) async fn upsert(&self, key: &str, value: &[u8]) -> Result<()> {
        self.client.execute(&self.upsert, &[&key, &value]).await?;
        Ok(())
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
