//! What the audit log proves, on real files: every way to tamper with them is found.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use teleport_backend::audit::file::{
    Checkpoints, FileAuditConfig, FileAuditLog, FileAuditLogBuilder, Service, SyncPolicy, VerifyError, verify,
};
use teleport_backend::memory::MemoryBackend;
use teleport_backend::wrap::PrefixBackend;
use teleport_core::audit::chain::{
    Chain, ChainHead, CheckpointSigner, Entry, Finding, Flaw, LogOwner, Proven, StoredCheckpoint, Verifier,
};
use teleport_core::audit::{AuditEvent, AuditForwarder, AuditLog, AuditQuery, AuditSink, EventKind};
use teleport_core::clock::{Clock, Timestamp};
use teleport_core::entropy::{Entropy, EntropyError, SystemEntropy};
use teleport_core::id::{ClusterName, HostId};
use teleport_core::storage::{Backend, Prefix, Repo};
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
                service: None,
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
    assert_eq!((proven.first, proven.interrupted), (Some(0), 0));
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
                let found = world.verify_offline().unwrap_err();
                assert!(matches!(found.flaw, Flaw::Foreign { .. }), "{found}");
                assert_eq!(found.line, at as u64 + 1);
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
    drop(world.open().await);
    let (_, begun) = world.files().pop_first().unwrap();
    assert!(String::from_utf8(begun).unwrap().contains("\"lost_log\""), "the new one names what was lost");
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
    let mut chain = Chain::new();
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
    let (path, bytes) = first.first_key_value().unwrap();
    // They need not be of one length: when events share a write, a checkpoint may be saved.
    for (number, line) in lines(second.first_key_value().unwrap().1).into_iter().enumerate() {
        let mut mixed = lines(bytes);
        let Some(place) = mixed.get_mut(number) else { break };
        *place = line;
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
    let mut chain = Chain::after(first);
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

/// Services on one backend, each with a part of it for its checkpoints: one that begins does not take the checkpoints of another one for
/// its own that were cut, and one whose files are gone says so.
#[tokio::test]
async fn services_that_share_a_backend_remember_apart() {
    let shared: Arc<dyn Backend> = World::new().storage;
    let service = |name: &str| {
        let prefix = Prefix::new(&format!("services/{name}")).unwrap();
        World { storage: Arc::new(PrefixBackend::new(Arc::clone(&shared), prefix)), ..World::new() }
    };
    let (one, two) = (service("one"), service("two"));
    one.days(1).await;
    two.days(1).await;
    for world in [&one, &two] {
        let proven = world.verify().await.unwrap();
        assert_eq!(proven.first, Some(0), "{proven:?}");
        assert_eq!(world.stored().await.len(), 1);
        let text = String::from_utf8(world.files().into_values().flatten().collect()).unwrap();
        assert!(!text.contains("lost_log"), "{text}");
    }
    std::fs::remove_file(two.files().keys().next().unwrap()).unwrap();
    drop(two.open().await);
    assert!(matches!(two.verify().await.unwrap_err().flaw, Flaw::OtherLog { .. }));
    one.verify().await.unwrap();
}

/// Lines that somebody has put where a log begins are no part of it.
#[tokio::test]
async fn what_stands_before_the_first_entry_is_accounted_for_and_not_found() {
    let world = World::new();
    let line = |user: &str| serde_json::to_string(&event(user)).unwrap();
    std::fs::write(world.path().join("2026-11-20.jsonl"), format!("{}\n", line("alice"))).unwrap();
    // Today's file, and a crash.
    let today = format!("{}\n{}\n{}", line("bob"), line("carol"), &line("dave")[..30]);
    std::fs::write(world.path().join("2026-11-21.jsonl"), &today).unwrap();
    let log = world.open().await;
    world.emit(&log, &["erin"]).await;
    assert_eq!(found(&log, AuditQuery::default()).await, ["erin"]);
    drop(log);
    let proven = world.verify().await.unwrap();
    assert_eq!((proven.first, proven.interrupted), (Some(0), 1));
    assert_eq!(proven.begins, Some(("2026-11-21.jsonl".to_owned(), 4)));
    // One more of them afterwards.
    let older = world.path().join("2026-11-19.jsonl");
    std::fs::write(older, format!("{}\n", line("mallory"))).unwrap();
    let finding = world.verify_offline().unwrap_err();
    assert!(matches!(finding.flaw, Flaw::Foreign { .. }), "{finding}");
}

fn event(user: &str) -> AuditEvent {
    let mut event = AuditEvent::new(EventKind::UserLogin).user(user);
    event.time = NOON;
    event
}

/// All users of the events that a search finds, page by page.
async fn found(log: &FileAuditLog, mut query: AuditQuery) -> Vec<String> {
    let mut users = Vec::new();
    loop {
        let page = log.search(query.clone()).await.unwrap();
        users.extend(page.events.into_iter().filter_map(|event| event.user));
        query.after = page.next;
        if query.after.is_none() {
            return users;
        }
    }
}

/// Whoever stops the service can write lines behind the log that look like entries. The next start accounts for them, as for those of a
/// crash; nobody may find them.
#[tokio::test]
async fn what_was_accounted_for_is_found_by_no_search() {
    // With a number and a digest, and without; many; and what is no JSON.
    let forged = |index: u64, user: &str| {
        let text = serde_json::to_string(&event(user)).unwrap();
        let digest = "0123456789abcdef".repeat(4);
        format!("{{\"index\":{index},{},\"chain\":\"{digest}\"}}\n", &text[1..text.len() - 1])
    };
    // Behind a checkpoint, an event of each of two, and a checkpoint.
    let behind = 4;
    for junk in [
        forged(behind, "mallory"),
        (0..20).map(|number| forged(behind + number, "mallory")).collect(),
        format!("{}\n{}", serde_json::to_string(&event("mallory")).unwrap(), forged(behind + 7, "mallory")),
        format!("{}\u{0}\u{0}", forged(behind, "mallory")),
    ] {
        let world = World::new();
        let log = world.open().await;
        world.emit(&log, &["alice", "bob"]).await;
        drop(log);
        let path = world.path().join("2026-11-21.jsonl");
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, [&whole[..], junk.as_bytes()].concat()).unwrap();
        let log = world.open().await;
        world.emit(&log, &["carol", "dave"]).await;
        for (newest_first, limit) in [(false, 0), (true, 0), (false, 1), (true, 1), (false, 2), (true, 3)] {
            let query = AuditQuery { newest_first, limit, ..AuditQuery::default() };
            let mut users = found(&log, query).await;
            if newest_first {
                users.reverse();
            }
            assert_eq!(users, ["alice", "bob", "carol", "dave"], "{newest_first} {limit} {junk}");
        }
        drop(log);
        assert_eq!(world.verify().await.unwrap().interrupted, 1);
        // An entry that says it accounts for more than there was hides nothing.
        let honest = std::fs::read_to_string(&path).unwrap();
        let recovered = honest.lines().find(|line| line.contains("TAU02W")).unwrap();
        let (front, back) = recovered.split_once("\"bytes\":").unwrap();
        let (_, back) = back.split_once(',').unwrap();
        let lie = format!("{front}\"bytes\":{},{back}", junk.len() + whole.len());
        std::fs::write(&path, honest.replace(recovered, &lie)).unwrap();
        let log = world.open().await;
        for newest_first in [false, true] {
            let query = AuditQuery { newest_first, ..AuditQuery::default() };
            let users = found(&log, query).await;
            assert!(["alice", "bob"].iter().all(|user| users.contains(&(*user).to_owned())), "{users:?}");
        }
    }
}

#[tokio::test]
async fn checkpoints_come_with_time_and_storage_may_be_late() {
    let world = World::new();
    let log = world.open().await;
    world.emit(&log, &["alice"]).await;
    let path = world.path().join("2026-11-21.jsonl");
    assert_eq!(lines(&std::fs::read(&path).unwrap()).len(), 2, "the first one, and an event");
    world.clock.advance(Duration::from_secs(60));
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        let proven = world.verify_offline().unwrap();
        let stored = world.stored().await;
        if proven.unsigned == 0 && stored.iter().any(|stored| Some(stored.head) == proven.head) {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "no checkpoint came: {proven:?}");
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
    // Nobody can say it afterwards: a line whose digest fits is not signed, whatever it says.
    for code in ["TAU03I", "TAU01I"] {
        let (path, bytes) = world.files().pop_last().unwrap();
        let head = Entry::parse(lines(&bytes).last().unwrap().trim_ascii_end()).unwrap().head();
        let (mut chain, mut forged) = (Chain::after(head), bytes.clone());
        let event = if code == "TAU03I" { "audit.retention" } else { "audit.checkpoint" };
        let body =
            format!(r#"{{"event":"{event}","code":"{code}","time":"2026-11-26T12:00:00Z","first":9999}}"#);
        chain.append(body.as_bytes(), &mut forged).unwrap();
        std::fs::write(&path, forged).unwrap();
        assert!(world.verify_offline().is_err(), "{code}");
        std::fs::write(&path, bytes).unwrap();
    }
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

/// Two services on one storage: neither takes what is remembered of the other for something of its own, however they start, stop and keep.
#[tokio::test]
async fn logs_of_several_services_are_told_apart() {
    let mut world = World::new();
    world.config.retention = Some(DAY);
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let ids =
        [1, 2].map(|number| HostId::from_uuid(uuid::Uuid::from_u64_pair(0x1234_5678_4000_8000, number)));
    let open = async |number: usize, is_new: bool| {
        let owner = LogOwner { service: ids[number], name: format!("auth-{number}").parse().unwrap() };
        FileAuditLog::builder(&directories[number], world.clock.clone(), Arc::new(SystemEntropy::new()))
            .config(world.config)
            .checkpoints(Checkpoints {
                service: Some(Service { owner, is_new }),
                cluster: ClusterName::new("example.com").unwrap(),
                signer: world.signer.clone(),
                storage: Arc::clone(&world.storage),
            })
            .open()
            .await
            .unwrap()
    };
    let verify_own = async |number: usize| {
        let mut verifier = world.verifier();
        for known in world.stored().await {
            if known.owner.as_ref().is_some_and(|owner| owner.service == ids[number]) {
                verifier.expect(Some(known.log), known.head, "signed");
            }
        }
        check(directories[number].path(), verifier)
    };
    // The first one comes from a time when there was one only: what is remembered has no name.
    let log = FileAuditLog::builder(&directories[0], world.clock.clone(), Arc::new(SystemEntropy::new()))
        .checkpoints(Checkpoints {
            service: None,
            cluster: ClusterName::new("example.com").unwrap(),
            signer: world.signer.clone(),
            storage: Arc::clone(&world.storage),
        })
        .open()
        .await
        .unwrap();
    world.emit(&log, &["alice"]).await;
    log.close().await;
    assert!(world.stored().await.iter().all(|known| known.owner.is_none()));
    // One that starts for the first time is not touched by it; the first one takes it over at its next start.
    let second = open(1, true).await;
    world.emit(&second, &["bob"]).await;
    second.close().await;
    let first = open(0, false).await;
    let stored = world.stored().await;
    assert_eq!(stored.len(), 2);
    assert!(stored.iter().all(|known| known.owner.is_some()), "{stored:?}");
    first.close().await;
    for round in 0..3 {
        for number in 0..2 {
            let log = open(number, false).await;
            world.emit(&log, &["carol"]).await;
            log.close().await;
            let proven = verify_own(number).await.unwrap();
            assert!(proven.entries > 0, "{round}");
        }
    }
    // The second one is away for long: retention of the first one forgets nothing of it.
    world.clock.advance(DAY * 5);
    let first = open(0, false).await;
    world.emit(&first, &["dave"]).await;
    first.close().await;
    verify_own(1).await.unwrap();
    assert!(world.stored().await.iter().any(|known| known.owner.as_ref().unwrap().service == ids[1]));
    // What was cut from its files is still noticed, by itself.
    for entry in std::fs::read_dir(&directories[1]).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    assert!(matches!(verify_own(1).await.unwrap_err().flaw, Flaw::Cut { .. } | Flaw::OtherLog { .. }));
    let second = open(1, false).await;
    second.close().await;
    assert!(verify_own(1).await.is_err(), "it does not heal");
    verify_own(0).await.unwrap();
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

#[derive(Debug, Default)]
struct Collect {
    lines: std::sync::Mutex<Vec<Vec<u8>>>,
    full: std::sync::atomic::AtomicBool,
}

impl AuditForwarder for Collect {
    fn name(&self) -> &str {
        "collect"
    }

    fn forward(&self, line: &[u8]) -> u64 {
        if self.full.load(std::sync::atomic::Ordering::SeqCst) {
            return 1;
        }
        self.lines.lock().unwrap().push(line.to_vec());
        0
    }
}

#[tokio::test]
async fn forwarders_get_the_lines_of_the_log_and_what_they_drop_is_in_it() {
    let world = World::new();
    let collect = Arc::new(Collect::default());
    let log = world.builder().forwarder(collect.clone()).open().await.unwrap();
    world.emit(&log, &["alice", "bob"]).await;
    collect.full.store(true, std::sync::atomic::Ordering::SeqCst);
    world.emit(&log, &["carol", "dave"]).await;
    collect.full.store(false, std::sync::atomic::Ordering::SeqCst);
    world.emit(&log, &["erin"]).await;
    log.close().await;
    let (_, bytes) = world.files().pop_first().unwrap();
    let written: Vec<Vec<u8>> =
        lines(&bytes).iter().map(|line| line.strip_suffix(b"\n").unwrap().to_vec()).collect();
    let forwarded = collect.lines.lock().unwrap().clone();
    let missing: Vec<_> = written.iter().filter(|line| !forwarded.contains(line)).collect();
    assert_eq!(missing.len(), 2, "all but the two are there, byte for byte");
    let told: Vec<_> = forwarded
        .iter()
        .filter(|line| String::from_utf8_lossy(line).contains("audit.forward_dropped"))
        .collect();
    let [told] = told.as_slice() else { panic!("one entry, not {told:?}") };
    assert!(String::from_utf8_lossy(told).contains("\"dropped\":2"));
    world.verify().await.unwrap();
}

/// Randomness that fails when it is told to.
#[derive(Debug, Default)]
struct Flaky(std::sync::atomic::AtomicBool);

impl Entropy for Flaky {
    fn fill(&self, out: &mut [u8]) -> Result<(), EntropyError> {
        if self.0.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(EntropyError::new());
        }
        SystemEntropy::new().fill(out)
    }
}

#[tokio::test]
async fn what_was_dropped_is_not_forgotten_when_its_entry_cannot_be_written() {
    let world = World::new();
    let (collect, flaky) = (Arc::new(Collect::default()), Arc::new(Flaky::default()));
    collect.full.store(true, std::sync::atomic::Ordering::SeqCst);
    let log = FileAuditLog::builder(world.path(), world.clock.clone(), flaky.clone());
    let log = log.config(world.config).forwarder(collect.clone()).checkpoints(Checkpoints {
        service: None,
        cluster: ClusterName::new("example.com").unwrap(),
        signer: world.signer.clone(),
        storage: Arc::clone(&world.storage),
    });
    let log = log.open().await.unwrap();
    world.emit(&log, &["a", "b", "c", "d"]).await;
    // The next one needs a checkpoint, and that an entry about what was dropped.
    flaky.0.store(true, std::sync::atomic::Ordering::SeqCst);
    for _ in 0..3 {
        let mut event = AuditEvent::new(EventKind::UserLogin);
        event.time = NOON;
        log.emit(vec![event]).await.unwrap_err();
    }
    flaky.0.store(false, std::sync::atomic::Ordering::SeqCst);
    collect.full.store(false, std::sync::atomic::Ordering::SeqCst);
    world.emit(&log, &["e"]).await;
    log.close().await;
    let (_, bytes) = world.files().pop_first().unwrap();
    let told: Vec<_> = lines(&bytes).into_iter().filter_map(|line| String::from_utf8(line).ok()).collect();
    let told: Vec<_> = told.iter().filter(|line| line.contains("audit.forward_dropped")).collect();
    assert!(matches!(&told[..], [told] if told.contains("\"dropped\":5")), "{told:?}");
    world.verify().await.unwrap();
}

/// Whatever is in the files, the service starts, searches go on, and what it is is told.
#[tokio::test]
async fn a_line_of_any_length_stops_nothing() {
    let mut world = World::new();
    world.config.retention = Some(DAY * 2);
    let log = world.open().await;
    world.emit(&log, &["alice"]).await;
    drop(log);
    let long = vec![b'x'; 5 << 20];
    let path = world.path().join("2026-11-21.jsonl");
    let whole = std::fs::read(&path).unwrap();
    for end in [&b""[..], b"\n", b"\nmore"] {
        std::fs::write(&path, [&whole, &long[..], end].concat()).unwrap();
        let log = world.open().await;
        world.emit(&log, &["bob"]).await;
        for newest_first in [false, true] {
            let query = AuditQuery { newest_first, ..AuditQuery::default() };
            let mut users = found(&log, query).await;
            users.sort();
            assert_eq!(users, ["alice", "bob"]);
        }
        drop(log);
        let proven = world.verify_offline().unwrap();
        assert_eq!(proven.interrupted, 1);
        std::fs::remove_file(&path).unwrap();
        world.storage = Arc::new(MemoryBackend::new(world.clock.clone()));
    }
    // Where nobody accounts for it, it is foreign.
    std::fs::write(&path, [&long[..], b"\n", &whole].concat()).unwrap();
    let finding = world.verify_offline().unwrap_err();
    assert!(matches!(finding.flaw, Flaw::Foreign { bytes } if bytes == long.len() as u64 + 1), "{finding}");

    // A file that begins with one is not where the log may begin, and the log is opened all the same.
    std::fs::write(&path, &whole).unwrap();
    let log = world.open().await;
    for _ in 0..2 {
        world.clock.advance(DAY);
        world.emit(&log, &["carol"]).await;
    }
    drop(log);
    let second = world.path().join("2026-11-22.jsonl");
    let bytes = std::fs::read(&second).unwrap();
    std::fs::write(&second, [&long[..], b"\n", &bytes].concat()).unwrap();
    world.clock.advance(DAY + Duration::from_secs(60));
    let log = world.open().await;
    world.emit(&log, &["dave"]).await;
    drop(log);
    assert!(path.exists(), "what would remain begins with no checkpoint");
}

#[tokio::test]
async fn a_closed_log_takes_nothing_and_is_signed() {
    let world = World::new();
    let log = world.open().await;
    world.emit(&log, &["alice"]).await;
    log.close().await;
    log.emit(vec![AuditEvent::new(EventKind::UserLogin)]).await.unwrap_err();
    assert_eq!(log.search(AuditQuery::default()).await.unwrap().events.len(), 1);
    log.close().await;
    assert_eq!(world.verify().await.unwrap().unsigned, 0);
}

#[tokio::test]
async fn with_an_interval_entries_are_in_the_file_at_once_and_synced_at_the_end() {
    let mut world = World::new();
    world.config.sync = SyncPolicy::Interval(Duration::from_secs(1));
    let log = world.open().await;
    world.emit(&log, &["alice"; 20]).await;
    assert_eq!(world.verify_offline().unwrap().entries - world.verify_offline().unwrap().checkpoints, 20);
    world.clock.advance(DAY);
    world.emit(&log, &["bob"]).await;
    drop(log);
    assert_eq!(world.verify().await.unwrap().unsigned, 0);
}

/// G-24: the disk is full (a limit on the size of files stands for it), then there is room again.
#[test]
fn a_full_disk_fails_what_cannot_be_written_and_damages_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let output = crate::child::command("fill_the_audit_log", directory.path())
        .after("trap '' XFSZ; ulimit -S -f 32")
        .output();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("HEALED"), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
}

/// In a child that may write files of 16 KiB or 32 KiB only.
pub(crate) async fn fill(directory: &Path) {
    let mut world = World::new();
    let log = FileAuditLog::builder(directory, world.clock.clone(), Arc::new(SystemEntropy::new()))
        .checkpoints(Checkpoints {
            service: None,
            cluster: ClusterName::new("example.com").unwrap(),
            signer: world.signer.clone(),
            storage: Arc::clone(&world.storage),
        })
        .config(world.config)
        .open()
        .await
        .unwrap();
    let event = |number: usize| {
        let mut event = AuditEvent::new(EventKind::UserLogin).user(format!("user-{number}"));
        event.time = world.clock.now();
        event
    };
    let mut written = 0;
    while log.emit(vec![event(written), event(written)]).await.is_ok() {
        written += 1;
        assert!(written < 1000, "the limit has no effect");
    }
    assert!(written > 3, "only {written} fitted");
    for _ in 0..20 {
        log.emit(vec![event(999), event(999)]).await.expect_err("there is no room");
    }
    // What was acknowledged is there, and nothing else; also after the service was started again on the full disk.
    let found = log.search(AuditQuery { limit: 10_000, ..AuditQuery::default() }).await.unwrap().events;
    assert_eq!(found.len(), written * 2);
    assert!(found.iter().all(|event| event.user.as_deref() != Some("user-999")));
    check(directory, world.verifier()).unwrap();
    let pid = std::process::id().to_string();
    let more = std::process::Command::new("prlimit").args(["--pid", &pid, "--fsize=unlimited"]).status();
    assert!(more.unwrap().success());
    log.emit(vec![event(written)]).await.expect("with room again, the log goes on without a restart");
    log.close().await;
    let proven = check(directory, world.verifier()).unwrap();
    assert_eq!((proven.interrupted, proven.unsigned), (0, 0), "{proven:?}");
    world.directory = tempfile::tempdir().unwrap();
    println!("\nHEALED");
}

/// H4: numbers are unique and without gap, however many write at the same time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h4_every_entry_has_a_number_of_its_own() {
    let mut world = World::new();
    world.config.checkpoint_entries = 100;
    let log = Arc::new(world.open().await);
    let scope = teleport_core::task::TaskScope::new();
    for caller in 0..16_u32 {
        let log = Arc::clone(&log);
        scope.spawn(async move {
            for number in 0..100 {
                let mut event = AuditEvent::new(EventKind::Exec).user(format!("{caller}/{number}"));
                event.time = NOON;
                log.emit(vec![event]).await.unwrap();
            }
        });
    }
    scope.join().await;
    let found = log.search(AuditQuery { limit: 10_000, ..AuditQuery::default() }).await.unwrap().events;
    let mut users: Vec<_> = found.iter().map(|event| event.user.clone().unwrap()).collect();
    users.sort_unstable();
    users.dedup();
    assert_eq!((found.len(), users.len()), (1600, 1600));
    assert!(found.windows(2).all(|pair| pair[0].index < pair[1].index), "each once, in order");
    log.close().await;
    let proven = world.verify().await.unwrap();
    assert_eq!(proven.entries, 1600 + proven.checkpoints);
}

/// G-23: killed at any moment, over and over: what was acknowledged is there, numbers have no gap, and nothing looks like tampering.
#[test]
fn a_log_that_is_killed_again_and_again_stays_whole() {
    let directory = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    for cycle in 0..12_u32 {
        let mut child = crate::child::command("log_until_killed", directory.path()).spawn();
        let output = std::io::BufReader::new(child.stdout.take().unwrap());
        let mut acks = 0;
        for line in std::io::BufRead::lines(output) {
            acks += u32::from(line.unwrap().starts_with("ACK"));
            // Another moment each time, most of them in the middle of a write.
            if acks == 1 + cycle * 7 {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        acknowledged += acks;
    }
    let verifier = Verifier::new([KnownKeySigner::new(1).key()]);
    let proven = check(directory.path(), verifier).unwrap();
    assert!(proven.entries - proven.checkpoints >= u64::from(acknowledged), "{proven:?} {acknowledged}");
}

/// In a child: writes entries from several tasks and prints each that was acknowledged.
pub(crate) async fn log_until_killed(directory: &Path) {
    let clock = Arc::new(ManualClock::new(NOON));
    let checkpoints = Checkpoints {
        service: None,
        cluster: ClusterName::new("example.com").unwrap(),
        signer: Arc::new(KnownKeySigner::new(1)),
        // Every life begins with an empty one: what it remembered is tested elsewhere.
        storage: Arc::new(MemoryBackend::new(clock.clone())),
    };
    let config = FileAuditConfig { checkpoint_entries: 7, ..FileAuditConfig::default() };
    let log = FileAuditLog::builder(directory, clock, Arc::new(SystemEntropy::new()));
    let log = Arc::new(log.checkpoints(checkpoints).config(config).open().await.unwrap());
    let scope = teleport_core::task::TaskScope::new();
    for _ in 0..4 {
        let log = Arc::clone(&log);
        scope.spawn(async move {
            loop {
                let mut event = AuditEvent::new(EventKind::Exec).field("command", "x".repeat(3000));
                event.time = NOON;
                log.emit(vec![event]).await.unwrap();
                println!("\nACK");
            }
        });
    }
    scope.join().await;
}
