//! What is particular to PostgreSQL.

use std::sync::Arc;

use bytes::Bytes;
use teleport_backend::conformance::SuiteClock;
use teleport_backend::open_remote;
use teleport_core::clock::{Clock, SystemClock};
use teleport_core::storage::{
    Backend, BackendExt, Batch, Condition, Key, MAX_VALUE_LEN, Prefix, WatchEnd, WatchEvent,
};

use crate::remote::said;
use crate::servers::proxy::{Mode, Proxy};
use crate::servers::{PATIENCE, Postgres, remote};

async fn open(url: &str) -> Result<Arc<dyn Backend>, String> {
    open_remote(url, Arc::new(SystemClock::new()), remote()).await.map_err(|error| said(&error))
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

/// A schema that is not ours, or of a newer version, stays as it is.
#[tokio::test(flavor = "multi_thread")]
async fn other_schemas_are_left_alone() {
    let server = Postgres::start().await;
    let at = |schema: &str| format!("postgres://tester@127.0.0.1:{}/state?schema={schema}", server.port);
    server.sql("state", "create schema theirs; create table theirs.meta (precious text)");
    server.sql("state", "insert into theirs.meta values ('gold')");
    let error = open(&at("theirs")).await.unwrap_err();
    assert!(error.contains("meta") && error.contains("option schema"), "{error}");
    assert_eq!(server.sql("state", "select precious from theirs.meta"), "gold");
    let tables =
        "select count(*) from pg_class where relnamespace = 'theirs'::regnamespace and relkind = 'r'";
    assert_eq!(server.sql("state", tables), "1");

    open(&at("newer")).await.unwrap().close().await;
    server.sql("state", "update newer.meta set format = 2");
    let error = open(&at("newer")).await.unwrap_err();
    assert!(error.contains("newer version"), "{error}");
}

/// Who may log in and who may write.
#[tokio::test(flavor = "multi_thread")]
async fn users_and_passwords() {
    let server = Postgres::start().await;
    let at = |login: &str, option: &str| {
        format!("postgres://{login}@127.0.0.1:{}/state?schema=s&timeout=30s{option}", server.port)
    };
    for login in ["secret", "secret:wrong", "nobody:right"] {
        let error = open(&at(login, "")).await.unwrap_err();
        assert!(!error.contains("wrong") && !error.contains(":right"), "{error}");
        assert!(error.contains("refuses the user") || error.contains("password"), "{login}: {error}");
    }
    let error = open(&at("tester", "").replace("/state", "/none")).await.unwrap_err();
    assert!(error.contains("\"none\" does not exist"), "{error}");
    let error = open(&at("reader", "")).await.unwrap_err();
    assert!(error.contains("permission denied"), "{error}");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "right\n").unwrap();
    let backend = open(&at("secret", &format!("&password-file={}", file.path().display()))).await.unwrap();
    backend.put(&key("a"), Bytes::new(), None).await.unwrap();
    backend.close().await;
    server
        .sql("state", "grant usage on schema s to reader; grant select on all tables in schema s to reader");
    let error = open(&at("reader", "")).await.unwrap_err();
    assert!(error.contains("permission denied"), "{error}");
    server.sql("state", "alter role secret set default_transaction_read_only = on");
    let error = open(&at("secret:right", "")).await.unwrap_err();
    assert!(error.contains("read-only"), "{error}");
}

/// A server that becomes read-only says so, and nothing is half written.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_turns_read_only() {
    let server = Postgres::start().await;
    let url = format!("postgres://tester@127.0.0.1:{}/state?schema=s", server.port);
    let backend = open(&url).await.unwrap();
    backend.put(&key("a"), Bytes::from_static(b"1"), None).await.unwrap();
    server.sql("state", "create function s.refuse() returns trigger language plpgsql as $$ begin raise exception 'no' using errcode = 'read_only_sql_transaction'; end $$");
    server.sql(
        "state",
        "create trigger refuse before update on s.meta for each row execute function s.refuse()",
    );
    let batch =
        Batch::new().put(key("a"), Condition::Any, "2", None).put(key("b"), Condition::Any, "2", None);
    let error = backend.commit(batch).await.unwrap_err();
    assert!(said(&error).contains("read-only"), "{error:?}");
    assert_eq!(backend.get(&key("a")).await.unwrap().unwrap().value, "1");
    assert!(backend.get(&key("b")).await.unwrap().is_none());
    server.sql("state", "drop trigger refuse on s.meta");
    backend.put(&key("b"), Bytes::new(), None).await.unwrap();
    backend.close().await;
}

/// Changes are kept for a while only: a watch that would need older ones ends, and the next one begins anew.
#[tokio::test(flavor = "multi_thread")]
async fn removed_history_ends_the_watches() {
    let server = Postgres::start().await;
    let proxy = Proxy::to(server.port).await;
    let at = |port: u16| format!("postgres://tester@127.0.0.1:{port}/state?schema=s");
    let direct = open(&at(server.port)).await.unwrap();
    let through = open(&at(proxy.port)).await.unwrap();
    let mut watch = through.watch(&Prefix::root()).await.unwrap();
    watch.next().await.unwrap();
    proxy.set(Mode::Refuse);
    proxy.cut();
    for _ in 0..5 {
        direct.put(&key("a"), Bytes::new(), None).await.unwrap();
    }
    server.sql("state", "update s.meta set floor = revision - 1; delete from s.changes where revision <= (select floor from s.meta)");
    proxy.set(Mode::Pass);
    let end = tokio::time::timeout(PATIENCE, watch.next()).await.unwrap();
    assert_eq!(end, Err(WatchEnd::Closed), "and not an event with a gap before it");
    let mut watch = through.watch(&Prefix::root()).await.unwrap();
    assert!(matches!(watch.next().await, Ok(WatchEvent::Ready { .. })));
    let revision = direct.put(&key("b"), Bytes::new(), None).await.unwrap();
    let event = tokio::time::timeout(PATIENCE, watch.next()).await.unwrap();
    assert!(matches!(event, Ok(WatchEvent::Put(item)) if item.revision == revision));
    through.close().await;
    direct.close().await;
}

/// Somebody else's write among ours ends the watches, once: what comes behind it is told to the next ones, and things expire.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_item_does_not_stop_the_others() {
    let server = Postgres::start().await;
    let clock = Arc::new(SuiteClock::new());
    let url = format!("postgres://tester@127.0.0.1:{}/state?schema=s", server.port);
    let backend = open_remote(&url, Arc::clone(&clock) as Arc<dyn Clock>, remote()).await.unwrap();
    let mut watch = backend.watch(&Prefix::root()).await.unwrap();
    watch.next().await.unwrap();
    server.sql(
        "state",
        "insert into s.items select ' ', '', 0, revision + 1 from s.meta; \
         insert into s.changes select revision + 1, 0, ' ', '', 0 from s.meta; update s.meta set revision = revision + 1",
    );
    let end = tokio::time::timeout(PATIENCE, watch.next()).await.unwrap();
    assert_eq!(end, Err(WatchEnd::Closed), "and not silence");
    let mut watch = backend.watch(&Prefix::new("good").unwrap()).await.unwrap();
    watch.next().await.unwrap();
    let expires = clock.after(std::time::Duration::from_secs(60));
    backend.put(&key("good/a"), Bytes::new(), Some(expires)).await.unwrap();
    let event = tokio::time::timeout(PATIENCE, watch.next()).await.unwrap();
    assert!(matches!(event, Ok(WatchEvent::Put(_))), "{event:?}");
    clock.advance(std::time::Duration::from_secs(60));
    let event = tokio::time::timeout(PATIENCE, watch.next()).await.unwrap();
    assert!(matches!(event, Ok(WatchEvent::Deleted { .. })), "{event:?}");
    backend.close().await;
}

/// What nobody needs for catching up is removed.
#[tokio::test(flavor = "multi_thread")]
async fn history_is_bounded() {
    let server = Postgres::start().await;
    let backend = open(&format!("postgres://tester@127.0.0.1:{}/state?schema=s", server.port)).await.unwrap();
    backend.put(&key("a"), Bytes::new(), None).await.unwrap();
    backend.close().await;
    server.sql("state", "insert into s.changes select n, 0, 'a' from generate_series(2, 13000) n; update s.meta set revision = 13000");
    let backend = open(&format!("postgres://tester@127.0.0.1:{}/state?schema=s", server.port)).await.unwrap();
    let until = tokio::time::Instant::now() + PATIENCE;
    while server.sql("state", "select count(*) from s.changes") != "10000" {
        assert!(
            tokio::time::Instant::now() < until,
            "{}",
            server.sql("state", "select count(*) from s.changes")
        );
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert_eq!(server.sql("state", "select floor from s.meta"), "3000");
    backend.close().await;
}

/// The greatest batch there is.
#[tokio::test(flavor = "multi_thread")]
async fn great_batches() {
    let server = Postgres::start().await;
    let backend = open(&format!("postgres://tester@127.0.0.1:{}/state?schema=s&timeout=120", server.port))
        .await
        .unwrap();
    let value = Bytes::from(vec![7; MAX_VALUE_LEN]);
    let batch = (0..20).fold(Batch::new(), |batch, n| {
        batch.put(key(&format!("n/{n}")), Condition::Any, value.clone(), None)
    });
    backend.commit(batch).await.unwrap();
    assert_eq!(backend.list(&Prefix::root()).await.unwrap().len(), 20);
    backend.close().await;
}
