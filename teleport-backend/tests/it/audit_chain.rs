//! What the audit log proves, on real files: every way to tamper with them is found.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use teleport_backend::audit::file::{
    Checkpoints, FileAuditConfig, FileAuditLog, FileAuditLogBuilder, VerifyError, verify,
};
use teleport_backend::memory::MemoryBackend;
use teleport_core::audit::chain::{
    ChainHead, CheckpointSigner, Entry, Finding, Flaw, Proven, StoredCheckpoint, Verifier,
};
use teleport_core::audit::{AuditEvent, AuditLog, AuditQuery, AuditSink, EventKind};
use teleport_core::clock::{Clock, Timestamp};
use teleport_core::entropy::SystemEntropy;
use teleport_core::id::ClusterName;
use teleport_core::storage::{Backend, Repo};
use teleport_core::testing::{KnownKeySigner, ManualClock};
use tempfile::TempDir;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// 2026-11-21T12:00:00Z
const NOON: Timestamp = Timestamp::from_unix_millis(1_795_262_400_000);

pub(crate) struct World {
    pub(crate) directory: TempDir,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) signer: Arc<KnownKeySigner>,
    pub(crate) storage: Arc<dyn Backend>,
    config: FileAuditConfig,
}

impl World {
    pub(crate) fn new() -> Self {
        let clock = Arc::new(ManualClock::new(NOON));
        Self {
            directory: tempfile::tempdir().unwrap(),
            storage: Arc::new(MemoryBackend::new(clock.clone())),
            clock,
            signer: Arc::new(KnownKeySigner::new(1)),
            config: FileAuditConfig { checkpoint_entries: 5, ..FileAuditConfig::default() },
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    fn builder(&self) -> FileAuditLogBuilder {
        FileAuditLog::builder(self.path(), self.clock.clone(), Arc::new(SystemEntropy::new()))
            .config(self.config)
            .checkpoints(Checkpoints {
                cluster: ClusterName::new("example.com").unwrap(),
                signer: self.signer.clone(),
                storage: Arc::clone(&self.storage),
            })
    }

    async fn open(&self) -> FileAuditLog {
        self.builder().open().await.unwrap()
    }

    async fn emit(&self, log: &FileAuditLog, users: &[&str]) {
        for user in users {
            let mut event = AuditEvent::new(EventKind::UserLogin).user(user);
            event.time = self.clock.now();
            log.emit(vec![event]).await.unwrap();
        }
    }

    /// A log of some days, closed.
    async fn days(&self, days: u32) {
        let log = self.open().await;
        for _ in 0..days {
            self.emit(&log, &["alice", "bob", "carol"]).await;
            self.clock.advance(DAY);
        }
        drop(log);
        self.clock.set(NOON.saturating_add(DAY * days.saturating_sub(1)));
    }

    fn verifier(&self) -> Verifier {
        Verifier::new([self.signer.key()])
    }

    async fn stored(&self) -> Vec<StoredCheckpoint> {
        let stored = Repo::<StoredCheckpoint>::new(Arc::clone(&self.storage)).list().await.unwrap();
        stored.into_iter().map(|stored| stored.record).collect()
    }

    /// As the auth host does it: with what storage remembers.
    async fn verify(&self) -> Result<Proven, Finding> {
        let mut verifier = self.verifier();
        for known in self.stored().await {
            verifier.expect(Some(known.log), known.head, "signed");
        }
        check(self.path(), verifier)
    }

    fn verify_offline(&self) -> Result<Proven, Finding> {
        check(self.path(), self.verifier())
    }

    fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let entries = std::fs::read_dir(self.path()).unwrap();
        entries
            .map(|entry| entry.unwrap().path())
            .map(|path| (path.clone(), std::fs::read(path).unwrap()))
            .collect()
    }

    fn put_back(&self, files: &BTreeMap<PathBuf, Vec<u8>>) {
        for path in self.files().keys().filter(|path| !files.contains_key(*path)) {
            std::fs::remove_file(path).unwrap();
        }
        for (path, bytes) in files {
            std::fs::write(path, bytes).unwrap();
        }
    }
}

fn check(directory: &Path, verifier: Verifier) -> Result<Proven, Finding> {
    match verify(directory, verifier, None, &mut |_| Ok(())) {
        Ok(proven) => Ok(proven),
        Err(VerifyError::Found(finding)) => Err(finding),
        Err(error) => panic!("{error:?}"),
    }
}

fn lines(bytes: &[u8]) -> Vec<Vec<u8>> {
    bytes.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()
}

#[tokio::test]
async fn a_log_that_nobody_touched_is_proven_to_its_end() {
    let world = World::new();
    world.days(3).await;
    let proven = world.verify().await.unwrap();
    // Of each day a checkpoint and three events; of two, one after five entries; and one at the end.
    let heads: Vec<_> = world.stored().await.iter().map(|stored| stored.head).collect();
    assert_eq!(heads, [proven.head.unwrap()], "the last one is remembered");
    assert_eq!((proven.signed, proven.unsigned), (proven.head, 0), "{proven:?}");
    assert_eq!((proven.first, proven.unchained, proven.interrupted), (Some(0), 0, 0));
    assert_eq!(proven.cluster, "example.com");
    assert_eq!(proven.entries, proven.head.unwrap().index + 1);
    assert_eq!(proven.entries - proven.checkpoints, 9);
    for bytes in world.files().values() {
        let first = lines(bytes).remove(0);
        assert!(String::from_utf8(first).unwrap().contains("audit.checkpoint"), "each file begins with one");
    }
    // Opened and closed again, nothing is added that says nothing.
    drop(world.open().await);
    assert_eq!(world.verify().await.unwrap(), proven);
    let log = world.open().await;
    world.emit(&log, &["dave"]).await;
    let found = log.search(AuditQuery::default()).await.unwrap().events;
    assert_eq!(found.len(), 10, "checkpoints are not found unless they are asked for");
    assert!(found.iter().all(|event| event.index.is_some() && !event.fields.contains_key("chain")));
    let query = AuditQuery { events: vec!["audit.checkpoint".to_owned()], ..AuditQuery::default() };
    assert_eq!(log.search(query).await.unwrap().events.len() as u64, proven.checkpoints);
}

#[tokio::test]
async fn every_flipped_byte_is_found() {
    let world = World::new();
    world.days(2).await;
    let files = world.files();
    assert_eq!(files.len(), 2);
    for (path, bytes) in &files {
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << (at % 8);
            std::fs::write(path, &damaged).unwrap();
            // Without the help of storage as well.
            let found = world.verify_offline();
            assert!(found.is_err(), "{}: byte {at}: {found:?}", path.display());
        }
        std::fs::write(path, bytes).unwrap();
    }
    world.verify_offline().unwrap();
}

#[tokio::test]
async fn every_line_that_is_removed_repeated_or_moved_is_found() {
    let world = World::new();
    world.days(2).await;
    let files = world.files();
    for (path, bytes) in &files {
        let whole = lines(bytes);
        let is_last_file = files.keys().next_back() == Some(path);
        for at in 0..whole.len() {
            let mut removed = whole.clone();
            removed.remove(at);
            std::fs::write(path, removed.concat()).unwrap();
            let found = world.verify().await.unwrap_err();
            if is_last_file && at + 1 == whole.len() {
                assert!(matches!(found.flaw, Flaw::Cut { .. }), "{found}");
                assert!(
                    world.verify_offline().unwrap().unsigned > 0,
                    "offline the end of the log is not known"
                );
            } else {
                let fits = matches!(found.flaw, Flaw::Missing { .. } | Flaw::Beginning { .. });
                assert!(fits, "line {at}: {found}");
                world.verify_offline().unwrap_err();
            }
            for to in 0..=whole.len() {
                let mut repeated = whole.clone();
                repeated.insert(to, whole[at].clone());
                std::fs::write(path, repeated.concat()).unwrap();
                world.verify_offline().unwrap_err();
                if to < whole.len() && to != at {
                    let mut swapped = whole.clone();
                    swapped.swap(at, to);
                    std::fs::write(path, swapped.concat()).unwrap();
                    world.verify_offline().unwrap_err();
                }
            }
            for foreign in ["", "{}", "x", "{\"event\":\"user.login\",\"code\":\"T1000I\"}"] {
                let mut inserted = whole.clone();
                inserted.insert(at, format!("{foreign}\n").into_bytes());
                std::fs::write(path, inserted.concat()).unwrap();
                let first_file = files.keys().next() == Some(path);
                if first_file && at == 0 {
                    // Before the chain begins nothing is known.
                    assert_eq!(world.verify_offline().unwrap().unchained, 1);
                } else {
                    let found = world.verify_offline().unwrap_err();
                    assert!(matches!(found.flaw, Flaw::Foreign { .. }), "{found}");
                    assert_eq!(found.line, at as u64 + 1);
                }
            }
        }
        std::fs::write(path, bytes).unwrap();
    }
}

#[tokio::test]
async fn every_cut_before_the_last_checkpoint_is_found() {
    let world = World::new();
    world.days(2).await;
    let (path, bytes) = world.files().pop_last().unwrap();
    for len in 0..bytes.len() {
        std::fs::write(&path, &bytes[..len]).unwrap();
        let found = world.verify().await.unwrap_err();
        let torn = len > 0 && bytes[len - 1] != b'\n';
        let fits = if torn {
            matches!(found.flaw, Flaw::Torn { .. })
        } else {
            matches!(found.flaw, Flaw::Cut { .. })
        };
        assert!(fits, "{len}: {found}");
    }
    std::fs::remove_file(&path).unwrap();
    let found = world.verify().await.unwrap_err();
    assert!(matches!(found.flaw, Flaw::Cut { .. }), "the whole day: {found}");
    // Known by heart instead of by storage.
    let mut verifier = world.verifier();
    verifier.expect(None, ChainHead { index: 100, digest: "00".repeat(32).parse().unwrap() }, "known");
    assert!(matches!(check(world.path(), verifier).unwrap_err().flaw, Flaw::Cut { index: 100, .. }));
    let mut verifier = world.verifier();
    verifier.expect(None, ChainHead { index: 1, digest: "00".repeat(32).parse().unwrap() }, "known");
    assert!(matches!(check(world.path(), verifier).unwrap_err().flaw, Flaw::Different { index: 1, .. }));
}

#[tokio::test]
async fn days_cannot_be_removed_or_exchanged() {
    let world = World::new();
    world.days(4).await;
    let files = world.files();
    let paths: Vec<_> = files.keys().cloned().collect();
    for (number, path) in paths.iter().enumerate() {
        std::fs::remove_file(path).unwrap();
        let found = world.verify().await.unwrap_err();
        match number {
            0 => assert!(matches!(found.flaw, Flaw::Beginning { .. }), "{found}"),
            3 => assert!(matches!(found.flaw, Flaw::Cut { .. }), "{found}"),
            _ => assert!(matches!(found.flaw, Flaw::Missing { .. }), "{found}"),
        }
        world.put_back(&files);
        for other in &paths[number + 1..] {
            std::fs::write(path, &files[other]).unwrap();
            std::fs::write(other, &files[path]).unwrap();
            world.verify_offline().unwrap_err();
            world.put_back(&files);
        }
    }
    for path in &paths {
        std::fs::remove_file(path).unwrap();
    }
    let found = world.verify().await.unwrap_err();
    assert!(matches!(found.flaw, Flaw::OtherLog { .. }), "all of it: {found}");
}

#[tokio::test]
async fn only_the_key_of_the_cluster_signs() {
    let world = World::new();
    world.days(1).await;
    let verifier = Verifier::new([KnownKeySigner::new(2).key()]);
    let found = check(world.path(), verifier).unwrap_err();
    assert!(matches!(found.flaw, Flaw::CheckpointKey { .. }), "{found}");

    // A log that somebody made anew, whole and in order, with a key of their own: the original's id does not help.
    let mut forged = World::new();
    forged.signer = Arc::new(KnownKeySigner::new(2));
    forged.days(1).await;
    let (path, bytes) = forged.files().pop_first().unwrap();
    let id = |signer: &KnownKeySigner| signer.key().id().to_string();
    let text = String::from_utf8(bytes).unwrap().replace(&id(&forged.signer), &id(&world.signer));
    // The chain is anybody's to make: only the signature remains wrong.
    let mut chain = teleport_core::audit::chain::Chain::new();
    let mut out = Vec::new();
    for line in text.lines() {
        let (_, rest) = line.split_once(',').unwrap();
        let (body, _) = rest.rsplit_once(",\"chain\"").unwrap();
        chain.append(format!("{{{body}}}").as_bytes(), &mut out).unwrap();
    }
    std::fs::write(&path, out).unwrap();
    let found = check(forged.path(), world.verifier()).unwrap_err();
    assert!(matches!(found.flaw, Flaw::CheckpointSignature), "{found}");

    // Without any checkpoint it is nobody's.
    let plain = World::new();
    let log = FileAuditLog::builder(plain.path(), plain.clock.clone(), Arc::new(SystemEntropy::new()));
    plain.emit(&log.open().await.unwrap(), &["alice"]).await;
    assert!(matches!(plain.verify_offline().unwrap_err().flaw, Flaw::Unsigned));
}

#[tokio::test]
async fn two_logs_of_one_cluster_do_not_mix() {
    let (one, two) = (World::new(), World::new());
    one.days(2).await;
    two.days(2).await;
    let (first, second) = (one.files(), two.files());
    let (path, _) = first.last_key_value().unwrap();
    std::fs::write(path, second.last_key_value().unwrap().1).unwrap();
    one.verify_offline().unwrap_err();
    one.put_back(&first);
    for line in 0..lines(second.first_key_value().unwrap().1).len() {
        let (path, bytes) = first.first_key_value().unwrap();
        let mut mixed = lines(bytes);
        mixed[line] = lines(second.first_key_value().unwrap().1)[line].clone();
        std::fs::write(path, mixed.concat()).unwrap();
        one.verify_offline().unwrap_err();
    }
    // The other log, whole: in order by itself, and not the one that storage knows.
    one.put_back(&first);
    for ((path, _), bytes) in first.iter().zip(second.values()) {
        std::fs::write(path, bytes).unwrap();
    }
    one.verify_offline().unwrap();
    assert!(matches!(one.verify().await.unwrap_err().flaw, Flaw::OtherLog { .. }));
}

#[tokio::test]
async fn a_crash_at_any_byte_is_told_from_tampering() {
    let world = World::new();
    world.days(1).await;
    let (path, whole) = world.files().pop_first().unwrap();
    // After the entry that storage remembers nothing is signed: there a crash may have cut.
    let log = world.open().await;
    world.emit(&log, &["dave", "erin"]).await;
    let written = std::fs::read(&path).unwrap();
    drop(log);
    let stored = world.stored().await;
    for cut in whole.len() + 1..written.len() {
        std::fs::write(&path, &written[..cut]).unwrap();
        Repo::<StoredCheckpoint>::new(Arc::clone(&world.storage))
            .write(&stored_before(&whole, &stored), teleport_core::storage::Condition::Any)
            .await
            .unwrap();
        let log = world.open().await;
        world.emit(&log, &["frank"]).await;
        drop(log);
        let proven = world.verify().await.unwrap_or_else(|found| panic!("cut at {cut}: {found}"));
        // Cut behind a line, or only its newline: nothing is torn.
        let clean = written[cut - 1] == b'\n' || written[cut] == b'\n';
        assert_eq!(proven.interrupted, u64::from(!clean), "cut at {cut}");
        let after = std::fs::read(&path).unwrap();
        assert!(after.starts_with(&written[..cut]), "nothing that was written is changed");
        if !clean {
            // What the entry accounts for cannot be changed or removed later.
            let at = proven.interruptions[0].clone();
            let mut changed = after.clone();
            changed[cut - 1] ^= 1;
            std::fs::write(&path, &changed).unwrap();
            world.verify_offline().unwrap_err();
            let mut removed = lines(&after);
            removed.remove(at.line as usize - 2);
            std::fs::write(&path, removed.concat()).unwrap();
            assert!(matches!(world.verify_offline().unwrap_err().flaw, Flaw::Changed));
        }
    }
}

/// What storage remembered when the log ended with `bytes`.
fn stored_before(bytes: &[u8], stored: &[StoredCheckpoint]) -> StoredCheckpoint {
    let last = lines(bytes).pop().unwrap();
    let entry = Entry::parse(last.strip_suffix(b"\n").unwrap()).unwrap();
    StoredCheckpoint::new(stored[0].log, entry.head(), stored[0].time)
}

#[tokio::test]
async fn a_crash_in_the_middle_of_a_recovery_is_recovered_from() {
    let world = World::new();
    world.days(1).await;
    let (path, whole) = world.files().pop_first().unwrap();
    let mut torn = whole.clone();
    torn.extend_from_slice(b"{\"index\":");
    for _ in 0..3 {
        std::fs::write(&path, &torn).unwrap();
        drop(world.open().await);
        world.verify_offline().unwrap();
        // Half of what the recovery wrote.
        let recovered = std::fs::read(&path).unwrap();
        torn = recovered[..torn.len() + 40].to_vec();
        let only = stored_before(&whole, &world.stored().await);
        let records = Repo::<StoredCheckpoint>::new(Arc::clone(&world.storage));
        records.write(&only, teleport_core::storage::Condition::Any).await.unwrap();
    }
    std::fs::write(&path, &torn).unwrap();
    drop(world.open().await);
    assert_eq!(world.verify().await.unwrap().interrupted, 1, "one entry accounts for all of it");
}

#[tokio::test]
async fn a_log_that_was_cut_is_not_continued_as_if_it_were_whole() {
    for cut in [1, 2, 4] {
        let world = World::new();
        world.days(1).await;
        let (path, bytes) = world.files().pop_first().unwrap();
        let mut kept = lines(&bytes);
        kept.truncate(kept.len() - cut);
        std::fs::write(&path, kept.concat()).unwrap();
        let log = world.open().await;
        world.emit(&log, &["mallory"]).await;
        drop(log);
        let found = world.verify_offline().unwrap_err();
        assert!(matches!(found.flaw, Flaw::Restarted), "{found}");
        assert_eq!(found.line, kept.len() as u64 + 1);
        assert!(String::from_utf8(std::fs::read(&path).unwrap()).unwrap().contains("\"lost_log\""));
        assert_eq!(world.stored().await.len(), 2, "the log before is not forgotten");
        world.verify().await.unwrap_err();
    }
    // Forged entries instead of the true ones: as many, in a chain that fits.
    let world = World::new();
    world.days(1).await;
    let (path, bytes) = world.files().pop_first().unwrap();
    let kept = lines(&bytes);
    let first = Entry::parse(kept[0].strip_suffix(b"\n").unwrap()).unwrap().head();
    let mut chain = teleport_core::audit::chain::Chain::after(first);
    let mut forged = kept[0].clone();
    for _ in 0..10 {
        let event = serde_json::to_vec(&AuditEvent::new(EventKind::UserLogin).user("mallory")).unwrap();
        chain.append(&event, &mut forged).unwrap();
    }
    std::fs::write(&path, forged).unwrap();
    drop(world.open().await);
    assert!(matches!(world.verify_offline().unwrap_err().flaw, Flaw::Restarted));
    // All files gone.
    let world = World::new();
    world.days(1).await;
    std::fs::remove_file(world.files().keys().next().unwrap()).unwrap();
    drop(world.open().await);
    assert!(matches!(world.verify().await.unwrap_err().flaw, Flaw::OtherLog { .. }));
}

#[tokio::test]
async fn a_log_of_the_version_before_is_continued_and_says_where_the_chain_begins() {
    let world = World::new();
    let old = |number: u32, user: &str| {
        let mut event = AuditEvent::new(EventKind::UserLogin).user(user);
        event.time = NOON.saturating_sub(DAY * number);
        serde_json::to_string(&event).unwrap()
    };
    std::fs::write(world.path().join("2026-11-20.jsonl"), format!("{}\n", old(1, "alice"))).unwrap();
    // Today's file, and a crash.
    let today = format!("{}\n{}\n{}", old(0, "bob"), old(0, "carol"), &old(0, "dave")[..30]);
    std::fs::write(world.path().join("2026-11-21.jsonl"), &today).unwrap();
    let log = world.open().await;
    world.emit(&log, &["erin"]).await;
    let found = log.search(AuditQuery::default()).await.unwrap().events;
    let found: Vec<_> = found.iter().map(|event| event.user.clone().unwrap()).collect();
    assert_eq!(found, ["alice", "bob", "carol", "erin"]);
    drop(log);
    let proven = world.verify().await.unwrap();
    assert_eq!(proven.unchained, 4);
    assert_eq!(proven.begins, Some(("2026-11-21.jsonl".to_owned(), 4)));
    assert_eq!(proven.first, Some(0));
}

#[tokio::test]
async fn checkpoints_come_with_time_and_storage_may_be_late() {
    let world = World::new();
    let log = world.open().await;
    world.emit(&log, &["alice"]).await;
    let path = world.path().join("2026-11-21.jsonl");
    assert_eq!(lines(&std::fs::read(&path).unwrap()).len(), 2, "the first one, and an event");
    world.clock.advance(Duration::from_secs(60));
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    loop {
        let proven = world.verify_offline().unwrap();
        let stored = world.stored().await;
        if proven.unsigned == 0 && stored.iter().any(|stored| Some(stored.head) == proven.head) {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "no checkpoint came: {proven:?}");
        tokio::task::yield_now().await;
    }
    // A key that does not sign stops nothing.
    world.signer.set_broken(true);
    world.emit(&log, &["a", "b", "c", "d", "e", "f", "g", "h"]).await;
    assert_eq!(world.verify_offline().unwrap().unsigned, 8);
    world.signer.set_broken(false);
    world.emit(&log, &["a", "b", "c", "d", "e", "f"]).await;
    assert!(world.verify_offline().unwrap().unsigned < 8);
    drop(log);
    assert_eq!(world.verify().await.unwrap().unsigned, 0);
}

#[tokio::test]
async fn retention_removes_whole_days_and_what_remains_is_proven() {
    let mut world = World::new();
    world.days(5).await;
    let everything = world.files();
    world.config.retention = Some(DAY * 2);
    let log = world.open().await;
    let names: Vec<_> = world.files().keys().map(|path| path.file_name().unwrap().to_owned()).collect();
    assert_eq!(names, ["2026-11-23.jsonl", "2026-11-24.jsonl", "2026-11-25.jsonl"]);
    world.clock.advance(DAY);
    world.emit(&log, &["dave"]).await;
    drop(log);
    assert_eq!(world.files().len(), 3, "a new day removes the oldest");
    let proven = world.verify().await.unwrap();
    assert!(proven.first.is_some_and(|first| first > 0 && first == proven.removed_before), "{proven:?}");
    // More was removed than retention did.
    let files = world.files();
    std::fs::remove_file(files.keys().next().unwrap()).unwrap();
    assert!(matches!(world.verify().await.unwrap_err().flaw, Flaw::Beginning { .. }));
    // Whoever knows it may begin there.
    let from = NOON.saturating_add(DAY * 4);
    verify(world.path(), world.verifier(), Some(from), &mut |_| Ok(())).unwrap();
    // Put back what was removed, and it is a log as well.
    world.put_back(&files);
    for (path, bytes) in &everything {
        if !path.exists() {
            std::fs::write(path, bytes).unwrap();
        }
    }
    assert_eq!(world.verify().await.unwrap().first, Some(0));
}

#[tokio::test]
async fn without_being_asked_nothing_is_removed() {
    let world = World::new();
    world.days(3).await;
    world.clock.advance(DAY * 1000);
    let log = world.open().await;
    world.emit(&log, &["alice"]).await;
    drop(log);
    assert_eq!(world.files().len(), 4);
}

#[tokio::test]
async fn the_log_does_not_go_back_with_the_clock() {
    let world = World::new();
    let log = world.open().await;
    world.emit(&log, &["alice"]).await;
    world.clock.advance(DAY);
    world.emit(&log, &["bob"]).await;
    world.clock.set(NOON);
    world.emit(&log, &["carol"]).await;
    let to = NOON.saturating_add(Duration::from_secs(1));
    let query = AuditQuery { from: Some(NOON), to: Some(to), ..AuditQuery::default() };
    let found = log.search(query).await.unwrap().events;
    let found: Vec<_> = found.iter().map(|event| event.user.clone().unwrap()).collect();
    assert_eq!(found, ["alice", "carol"], "found by its time, although it stands in the next file");
    drop(log);
    world.verify().await.unwrap();
    drop(world.open().await);
    world.verify().await.unwrap();
}

#[tokio::test]
async fn an_event_cannot_bring_the_fields_of_the_chain() {
    let world = World::new();
    let log = world.open().await;
    for field in ["chain", "index"] {
        let event = AuditEvent::new(EventKind::UserLogin).field(field, "forged");
        log.emit(vec![event]).await.unwrap_err();
    }
    let mut event = AuditEvent::new(EventKind::UserLogin);
    (event.index, event.time) = (Some(7), NOON);
    log.emit(vec![event]).await.unwrap();
    assert_eq!(log.search(AuditQuery::default()).await.unwrap().events[0].index, Some(1));
}
