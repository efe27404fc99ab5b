#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use teleport_core::entropy::SystemEntropy;
use teleport_core::id::ClusterName;
use teleport_core::storage::{Backend, Repo};
use teleport_core::testing::{KnownKeySigner, ManualClock};

use super::*;
use crate::audit::file::file_of;
use crate::memory::MemoryBackend;

/// Whether the disk takes nothing.
static BROKEN: AtomicBool = AtomicBool::new(false);
/// When a file was last written, if that was before the disk broke.
const LONG_AGO: SystemTime = SystemTime::UNIX_EPOCH;

/// As a system does it: it says once that the disk did not take what was written, and forgets that it has to be.
fn sync_data(file: &File) -> io::Result<()> {
    if BROKEN.load(Ordering::SeqCst) {
        file.set_modified(LONG_AGO).unwrap();
        return Err(io::ErrorKind::StorageFull.into());
    }
    assert_ne!(file.metadata().unwrap().modified().unwrap(), LONG_AGO, "it was not written again");
    Ok(())
}

fn rendered(number: u32) -> Rendered {
    Rendered {
        day: "2026-11-21".to_owned(),
        json: format!("{{\"event\":\"test\",\"number\":{number}}}").into(),
    }
}

/// What the disk did not take is not called durable because the system said that only once: neither to those who follow the log, nor to
/// storage, which would call the log cut when a loss of power takes it.
#[test]
fn what_the_disk_did_not_take_is_not_durable_until_it_was_written_again() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::default());
    let storage: Arc<dyn Backend> = Arc::new(MemoryBackend::new(clock.clone()));
    let setup = Setup {
        directory: directory.path().into(),
        clock: clock.clone(),
        entropy: Arc::new(SystemEntropy::new()),
        config: FileAuditConfig {
            sync: SyncPolicy::Interval(Duration::ZERO),
            checkpoint_entries: 2,
            ..FileAuditConfig::default()
        },
        checkpoints: Some(Checkpoints {
            service: None,
            cluster: ClusterName::new("example.com").unwrap(),
            signer: Arc::new(KnownKeySigner::new(1)),
            storage: Arc::clone(&storage),
        }),
        forwarders: Vec::new(),
        sync_data,
    };
    let (sender, synced) = watch::channel(None::<Synced>);
    let durable = || synced.borrow().clone().unwrap().end.offset;
    let len = || std::fs::metadata(file_of(directory.path(), "2026-11-21")).unwrap().len();
    let mut ledger = Ledger::new(setup, sender).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let stored = || {
        runtime.block_on(Repo::<StoredCheckpoint>::new(Arc::clone(&storage)).list()).unwrap()[0].record.head
    };
    ledger.start();
    ledger.write([rendered(1)].iter()).unwrap();
    ledger.tick();
    let (begin, before) = (stored(), durable());
    assert_eq!(before, len());

    BROKEN.store(true, Ordering::SeqCst);
    // With a checkpoint behind it.
    ledger.write([rendered(2)].iter()).unwrap();
    for _ in 0..3 {
        ledger.tick();
        assert_eq!((durable(), stored()), (before, begin));
        assert!(len() > before, "it was acknowledged, and is not taken back");
    }
    // Another day cannot begin, as long as this one is not whole.
    let tomorrow = Rendered { day: "2026-11-22".to_owned(), ..rendered(3) };
    ledger.write([tomorrow].iter()).unwrap_err();
    ledger.tick();
    assert_eq!((durable(), stored()), (before, begin));

    BROKEN.store(false, Ordering::SeqCst);
    ledger.tick();
    assert_eq!(durable(), len());
    assert!(stored().index > begin.index, "the checkpoint was not forgotten");
    // And it goes on as ever, over a restart of the log as well.
    BROKEN.store(true, Ordering::SeqCst);
    ledger.write([rendered(4)].iter()).unwrap();
    ledger.tick();
    ledger.tail = None;
    BROKEN.store(false, Ordering::SeqCst);
    ledger.write([rendered(5)].iter()).unwrap();
    ledger.tick();
    assert_eq!(durable(), len());
}
