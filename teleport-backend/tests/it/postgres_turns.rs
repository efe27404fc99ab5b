//! What happens between the read and the write of a transaction in PostgreSQL: another service commits, or the connection ends.
//!
//! A request is held back at the moment that is meant. A write is known by the channel that it announces itself on.

use std::sync::Arc;

use bytes::Bytes;
use teleport_backend::open_remote;
use teleport_core::clock::SystemClock;
use teleport_core::storage::{
    Action, Backend, BackendExt, Batch, Condition, Item, Key, Prefix, Revision, StorageError, Watch,
    WatchEvent,
};

use crate::remote::{key, said};
use crate::servers::proxy::{Mode, Proxy};
use crate::servers::{PATIENCE, Postgres, remote};

const WRITE: &[u8] = b"teleport_turns";

/// Two services of one cluster, one of them behind a network that can be stopped.
struct Services {
    direct: Arc<dyn Backend>,
    through: Arc<dyn Backend>,
    proxy: Proxy,
    /// All that is written, as the first one hears it.
    watch: Watch,
    server: Postgres,
}

impl Services {
    /// With an item `a`, whose revision is returned.
    async fn start() -> (Self, Revision) {
        let server = Postgres::start().await;
        let proxy = Proxy::to(server.port).await;
        let at = |port: u16| format!("postgres://tester@127.0.0.1:{port}/state?schema=turns&timeout=60s");
        let open = async |port| open_remote(&at(port), Arc::new(SystemClock::new()), remote()).await.unwrap();
        let (direct, through) = (open(server.port).await, open(proxy.port).await);
        // Whoever is told of a commit listens, and does not ask for that any more.
        let mut heard = through.watch(&Prefix::root()).await.unwrap();
        let mut watch = direct.watch(&Prefix::root()).await.unwrap();
        let created = through.create(&key("a"), text("0"), None).await.unwrap();
        let revision = through.update(&key("a"), created, text("0"), None).await.unwrap();
        for watch in [&mut heard, &mut watch] {
            while next(watch).await.is_none_or(|item| item.revision != revision) {}
        }
        (Self { direct, through, proxy, watch, server }, revision)
    }

    /// What is stored, and that it was told: each revision once, in their order, the last one of each key being what is stored.
    async fn told(mut self, since: Revision) -> Vec<(Key, Bytes)> {
        self.proxy.set(Mode::Pass);
        let end = self.direct.put(&key("end"), Bytes::new(), None).await.unwrap();
        let (mut told, mut newest) = (Vec::new(), since);
        loop {
            let item = next(&mut self.watch).await.expect("nothing but writes");
            assert!(item.revision > newest, "{} after {newest}", item.revision);
            newest = item.revision;
            if item.revision == end {
                break;
            }
            told.push((item.key, item.value));
        }
        for (at, value) in &told {
            let last = told.iter().rev().find(|(key, _)| key == at).unwrap();
            let stored = self.through.get(at).await.unwrap().unwrap();
            assert_eq!(stored.value, last.1, "{at}, {value:?}");
        }
        self.through.close().await;
        self.direct.close().await;
        drop(self.server);
        told
    }
}

/// The next item that is written.
async fn next(watch: &mut Watch) -> Option<Item> {
    match tokio::time::timeout(PATIENCE, watch.next()).await.expect("an event comes in time").unwrap() {
        WatchEvent::Put(item) => Some(item),
        _ => None,
    }
}

fn text(value: &'static str) -> Bytes {
    Bytes::from_static(value.as_bytes())
}

fn unknown(result: &Result<Revision, StorageError>) -> bool {
    matches!(result, Err(StorageError::Unavailable { source }) if said(&**source).contains("not known"))
}

/// Something else is written meanwhile: what was decided still holds, and happens after it.
#[tokio::test(flavor = "multi_thread")]
async fn another_commit_in_between_moves_ours_behind_it() {
    let (services, first) = Services::start().await;
    let at = key("a");
    services.proxy.set(Mode::StallAt(WRITE));
    let ours = services.through.update(&at, first, text("ours"), None);
    let theirs = async {
        services.proxy.until_stalled().await;
        let theirs = services.direct.put(&key("b"), text("theirs"), None).await.unwrap();
        services.proxy.set(Mode::Pass);
        theirs
    };
    let (ours, theirs) = tokio::join!(ours, theirs);
    assert!(ours.unwrap() > theirs && theirs > first);
    assert_eq!(services.told(first).await, [(key("b"), text("theirs")), (key("a"), text("ours"))]);
}

/// What was decided does not hold any more: nothing of the batch happens, and the key is named.
#[tokio::test(flavor = "multi_thread")]
async fn a_condition_that_ceases_to_hold_in_between_is_a_conflict() {
    let (services, first) = Services::start().await;
    let attempts = [
        Batch::new().put(key("c"), Condition::Any, "ours", None).put(
            key("a"),
            Condition::Is(first),
            "ours",
            None,
        ),
        Batch::new().put(key("c"), Condition::Any, "ours", None).put(
            key("new"),
            Condition::Absent,
            "ours",
            None,
        ),
    ];
    for (batch, at) in attempts.into_iter().zip(["a", "new"]) {
        services.proxy.set(Mode::StallAt(WRITE));
        let theirs = async {
            services.proxy.until_stalled().await;
            services.direct.put(&key(at), text("theirs"), None).await.unwrap();
            services.proxy.set(Mode::Pass);
        };
        let (ours, ()) = tokio::join!(services.through.commit(batch), theirs);
        assert!(
            matches!(ours, Err(StorageError::Conflict { key: ref named }) if *named == key(at)),
            "{ours:?}"
        );
    }
    assert!(services.through.get(&key("c")).await.unwrap().is_none());
    assert_eq!(services.told(first).await, [(key("a"), text("theirs")), (key("new"), text("theirs"))]);
}

/// A touch writes the value that is there when it happens, and not the one that it read.
#[tokio::test(flavor = "multi_thread")]
async fn a_touch_keeps_what_was_written_in_between() {
    let (services, first) = Services::start().await;
    services.proxy.set(Mode::StallAt(WRITE));
    let touch = Batch::new().with(key("a"), Condition::Exists, Action::Touch { expires: None });
    let theirs = async {
        services.proxy.until_stalled().await;
        services.direct.put(&key("a"), text("theirs"), None).await.unwrap();
        services.proxy.set(Mode::Pass);
    };
    let (ours, ()) = tokio::join!(services.through.commit(touch), theirs);
    ours.unwrap();
    assert_eq!(services.told(first).await, [(key("a"), text("theirs")), (key("a"), text("theirs"))]);
}

/// The connection ends when the write is on its way: nobody knows, and it is not sent again.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_ends_with_the_write_leaves_it_unknown() {
    let (services, first) = Services::start().await;
    let at = key("a");
    services.proxy.set(Mode::StallAt(WRITE));
    let cut = async {
        services.proxy.until_stalled().await;
        services.proxy.cut();
    };
    let (ours, ()) = tokio::join!(services.through.update(&at, first, text("ours"), None), cut);
    assert!(unknown(&ours), "{ours:?}");
    assert_eq!(services.told(first).await, []);
}

/// The connection ends before anything was decided: on another one all goes well, and is done once.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_ends_with_the_read_is_replaced() {
    let (services, first) = Services::start().await;
    let at = key("read/here");
    services.proxy.set(Mode::StallAt(b"read/here"));
    let cut = async {
        services.proxy.until_stalled().await;
        services.proxy.cut();
        services.proxy.set(Mode::Pass);
    };
    let (ours, ()) = tokio::join!(services.through.create(&at, text("ours"), None), cut);
    assert!(ours.unwrap() > first);
    assert_eq!(services.told(first).await, [(key("read/here"), text("ours"))]);
}

/// Another service was quicker, and of the second attempt the answer is lost: it is done once.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_to_the_second_attempt_is_unknown() {
    let (mut services, first) = Services::start().await;
    let at = key("a");
    services.proxy.set(Mode::StallAt(WRITE));
    let meanwhile = async {
        services.proxy.until_stalled().await;
        services.direct.put(&key("b"), text("theirs"), None).await.unwrap();
        assert_eq!(next(&mut services.watch).await.unwrap().key, key("b"));
        // With its end: it is the whole of a statement.
        services.proxy.set(Mode::StallAnswersTo(b"commit\0"));
        let told = next(&mut services.watch).await.unwrap();
        services.proxy.cut();
        (told.key, told.value)
    };
    let (ours, told) = tokio::join!(services.through.update(&at, first, text("ours"), None), meanwhile);
    assert!(unknown(&ours), "{ours:?}");
    assert_eq!(told, (key("a"), text("ours")));
    assert_eq!(services.told(first).await, []);
}

/// Somebody has emptied the schema: that is said, and nothing is written.
#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_schema_is_told() {
    let (services, _) = Services::start().await;
    services.server.sql("state", "delete from turns.meta");
    let writes = [
        Batch::new().put(key("b"), Condition::Any, "1", None),
        Batch::new().put(key("b"), Condition::Absent, "1", None),
    ];
    for batch in writes {
        let error = services.direct.commit(batch).await.unwrap_err();
        assert!(said(&error).contains("the schema turns was emptied"), "{error:?}");
    }
    assert!(services.direct.get(&key("b")).await.unwrap().is_none());
}

/// Statements stay with the indices, also when they were planned while there was nothing, and nobody has told the server since how much there is.
#[tokio::test(flavor = "multi_thread")]
async fn plans_do_not_depend_on_statistics() {
    let server = Postgres::start().await;
    let url = format!("postgres://tester@127.0.0.1:{}/state?schema=plans&timeout=60s", server.port);
    let backend = open_remote(&url, Arc::new(SystemClock::new()), remote()).await.unwrap();
    server.sql("state", "alter table plans.items set (autovacuum_enabled = off); alter table plans.changes set (autovacuum_enabled = off)");
    let scans = |kind: &str| -> u64 {
        let sum = format!(
            "select coalesce(sum({kind}), 0) from pg_stat_user_tables where schemaname = 'plans' and relname in ('items', 'changes')"
        );
        server.sql("state", &sum).parse().unwrap()
    };
    let rounds = async |of: &str| {
        for round in 0..20 {
            let at = key(&format!("{of}/{round}"));
            backend.create(&at, text("1"), None).await.unwrap();
            backend.put(&at, text("2"), None).await.unwrap();
            backend.touch(&at, None).await.unwrap();
            backend.get(&at).await.unwrap().unwrap();
            backend.range(&Prefix::new(of).unwrap(), None, 10).await.unwrap();
            backend.delete(&at).await.unwrap();
        }
    };
    rounds("small").await;
    server.sql(
        "state",
        "insert into plans.items select 'n/' || n, 'x', null, 1 from generate_series(1, 100000) n",
    );
    rounds("large").await;
    // The server counts with a delay, and what a connection did at the latest when it ends.
    backend.close().await;
    let until = tokio::time::Instant::now() + PATIENCE;
    let ours = "select count(*) from pg_stat_activity where application_name = 'teleport'";
    while server.sql("state", ours) != "0" {
        assert!(tokio::time::Instant::now() < until, "the connections end in time");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert!(scans("idx_scan") > 100, "the indices were used");
    let read = scans("seq_tup_read");
    assert!(read < 100_000, "{read} rows were read one after the other");
}
