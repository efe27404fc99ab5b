//! The index of the audit log while its process is killed: what a search finds is what stands in the files, each line once.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use teleport_backend::audit::file::{Checkpoints, FileAuditLog};
use teleport_backend::audit::index::IndexedAuditLog;
use teleport_ca::AuditKey;
use teleport_core::audit::{AuditEvent, AuditLog, AuditQuery, AuditSink, EventKind, MAX_EVENTS};
use teleport_core::clock::{Clock, SystemClock};
use teleport_core::entropy::{EntropyExt, SystemEntropy};
use teleport_core::secret::{Sealer, SecretBytes};
use teleport_core::storage::{Backend, BackendExt, Prefix};

use crate::processes::NONE;
use crate::support::cluster::{CLUSTER, TestCluster};
use crate::support::daemon::{Machine, Services, fixed_port};
use crate::support::wait_for;

/// Each in a second of its own, so that a commit holds few of them and catching up takes many commits.
const BACKLOG: u64 = 12_000;
const KILLS: u64 = 8;

/// The lines of the files by their numbers.
fn lines(directory: &Path) -> BTreeMap<u64, Value> {
    let mut files: Vec<_> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort_unstable();
    let text = files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect::<String>();
    let mut lines = BTreeMap::new();
    // What a kill has left unfinished is no entry, and accounted for by another.
    for line in
        text.split_inclusive('\n').filter(|line| line.ends_with("\"}\n") && line.starts_with("{\"index\":"))
    {
        let mut event: Value = serde_json::from_str(line).unwrap();
        event.as_object_mut().unwrap().remove("chain");
        assert!(lines.insert(event["index"].as_u64().unwrap(), event).is_none());
    }
    lines
}

/// The storage of a service that is stopped, and its sealer.
async fn opened(data: &Path) -> (Arc<dyn Backend>, Arc<dyn Sealer>) {
    let url = format!("redb:{}", data.join("backend.redb").display());
    let backend = teleport_backend::open(&url, Arc::new(SystemClock::new())).await.unwrap();
    let key = SecretBytes::new(std::fs::read(data.join("master.key")).unwrap());
    let sealer = teleport_ca::seal::Sealer::new(&key, Arc::new(SystemEntropy::new())).unwrap();
    (backend, Arc::new(sealer))
}

/// Adds events to the log of a service that is stopped, and nothing to its index.
async fn log_many(data: &Path) {
    let (backend, sealer) = opened(data).await;
    let entropy = Arc::new(SystemEntropy::new());
    let key = AuditKey::open_or_create(Arc::clone(&backend), sealer, entropy.clone()).await.unwrap();
    let log = FileAuditLog::builder(data.join("audit"), Arc::new(SystemClock::new()), entropy.clone())
        .checkpoints(Checkpoints {
            service: None,
            cluster: CLUSTER.parse().unwrap(),
            signer: Arc::new(key),
            storage: Arc::clone(&backend),
        })
        .open()
        .await
        .unwrap();
    let now = SystemClock::new().now();
    for first in (0..BACKLOG).step_by(500) {
        let event = |number| {
            let mut event =
                AuditEvent::new(EventKind::UserLoginFailure).user("mallory").field("method", "local");
            event.time = now.saturating_sub(Duration::from_secs(BACKLOG - number));
            event.uid = entropy.uuid().unwrap();
            event
        };
        log.emit((first..first + 500).map(event).collect()).await.unwrap();
    }
    log.close().await;
    backend.close().await;
}

/// How many bytes of the files the index has, when the service does not run.
async fn progress(data: &Path) -> u64 {
    let (backend, _) = opened(data).await;
    let records = backend.list(&Prefix::new("audit/index/logs").unwrap()).await.unwrap();
    backend.close().await;
    let [record] = &records[..] else { return 0 };
    serde_json::from_slice::<Value>(&record.value).unwrap()["place"]["offset"].as_u64().unwrap()
}

#[test]
fn killing_the_auth_service_costs_the_index_nothing() {
    let machine = Machine::new();
    machine.configure("auth", "", &Services { auth: Some(fixed_port()), ..NONE }.yaml());
    machine.start("auth", &[]).stop();
    let data = machine.path("auth");
    TestCluster::block_on(log_many(&data));
    let kinds: Vec<&str> = EventKind::ALL.iter().map(|kind| kind.code()).collect();
    let kinds = format!("--type={}", kinds.join(","));
    let found = || {
        let search = ["events", "search", "--all", "--oldest", "--format=jsonl", &kinds];
        let printed = machine.tctl("auth", &search);
        assert_eq!(printed.code(), 0, "{printed:?}");
        let events = printed.out().lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let mut found = BTreeMap::new();
        for event in events {
            let number = event["index"].as_u64().unwrap();
            assert!(found.insert(number, event).is_none(), "{number} is there twice");
        }
        found
    };
    let mut reached = Vec::new();
    for round in 0..KILLS {
        let auth = machine.start("auth", &[]);
        // Something new in each life.
        machine.tctl("auth", &["tokens", "add", "--type=node", "--format=json"]).clean();
        if round % 3 == 2 {
            // While it catches up, a search finds everything all the same.
            let before = lines(&data.join("audit"));
            let found = found();
            let after = lines(&data.join("audit"));
            assert!(before.iter().all(|(number, event)| found.get(number) == Some(event)), "round {round}");
            assert!(found.iter().all(|(number, event)| after.get(number) == Some(event)), "round {round}");
        } else {
            std::thread::sleep(Duration::from_millis(round * 61 % 400));
        }
        auth.kill();
        reached.push(TestCluster::block_on(progress(&data)));
    }
    let size = || -> u64 {
        let files = std::fs::read_dir(data.join("audit")).unwrap();
        files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
    };
    assert!(reached.is_sorted(), "it never goes back: {reached:?}");
    let size_then = size();
    assert!(
        reached.iter().any(|offset| (1..size_then * 9 / 10).contains(offset)),
        "in the middle of it: {reached:?} of {size_then}"
    );
    // Stopping adds what it can in its time, and the next life the rest.
    wait_for("everything to be in the index", || {
        machine.start("auth", &[]).stop();
        (TestCluster::block_on(progress(&data)) == size()).then_some(())
    });
    // In the end by the index alone: with the files of another service, which has none.
    TestCluster::block_on(async {
        let (backend, sealer) = opened(&data).await;
        let clock = Arc::new(SystemClock::new());
        let elsewhere = machine.path("elsewhere");
        let files = FileAuditLog::builder(elsewhere, clock.clone(), Arc::new(SystemEntropy::new()));
        let files = Arc::new(files.open().await.unwrap());
        let reader = IndexedAuditLog::start(files, Arc::clone(&backend), sealer, clock);
        let events = EventKind::ALL.iter().map(|kind| kind.code().to_owned()).collect();
        let mut query = AuditQuery { limit: MAX_EVENTS, events, ..AuditQuery::default() };
        let mut found = BTreeMap::new();
        loop {
            let page = reader.search(query.clone()).await.unwrap();
            for event in page.events {
                let event = serde_json::to_value(event).unwrap();
                assert!(found.insert(event["index"].as_u64().unwrap(), event).is_none());
            }
            query.after = page.next;
            if query.after.is_none() {
                break;
            }
        }
        assert!(
            found == lines(&data.join("audit")),
            "{} of {}",
            found.len(),
            lines(&data.join("audit")).len()
        );
        reader.close().await;
        backend.close().await;
    });
}
