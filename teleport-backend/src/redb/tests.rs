//! Power loss: a disk that forgets what was not synced.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use ::redb::StorageBackend;
use teleport_core::clock::Timestamp;
use teleport_core::storage::{BackendExt, Condition};

use super::*;

#[derive(Debug)]
struct Midnight;

impl Clock for Midnight {
    fn now(&self) -> Timestamp {
        Timestamp::EPOCH
    }
}

/// What a crash leaves behind, and how many batches were acknowledged before it.
struct Crash {
    acknowledged: usize,
    image: Vec<u8>,
}

/// A disk in memory. What was written since the last sync may reach the medium or not, write by write, in any order.
#[derive(Clone, Debug, Default)]
struct Disk(Arc<Mutex<Medium>>);

#[derive(Default)]
struct Medium {
    acknowledged: Arc<AtomicUsize>,
    content: Vec<u8>,
    crashes: Vec<Crash>,
    durable: Vec<u8>,
    failing: bool,
    pending: Vec<(usize, Vec<u8>)>,
    random: u64,
    writes: usize,
}

impl fmt::Debug for Medium {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Medium").field("len", &self.content.len()).finish_non_exhaustive()
    }
}

impl Medium {
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        self.random >> 33
    }

    /// Records what a crash at this moment would leave.
    fn crash(&mut self) {
        // The count first: whatever is acknowledged later need not be in the image.
        let acknowledged = self.acknowledged.load(Ordering::SeqCst);
        let mut image = self.durable.clone();
        // A grown file may or may not have its new length yet.
        if self.random().is_multiple_of(2) {
            image.resize(self.content.len(), 0);
        }
        for number in 0..self.pending.len() {
            if !self.random().is_multiple_of(2) {
                continue;
            }
            let (offset, data) = &self.pending[number];
            if let Some(place) = image.get_mut(*offset..*offset + data.len()) {
                place.copy_from_slice(data);
            }
        }
        self.crashes.push(Crash { acknowledged, image });
    }

    fn check(&self) -> io::Result<()> {
        if self.failing {
            Err(io::Error::new(io::ErrorKind::StorageFull, "the disk is full"))
        } else {
            Ok(())
        }
    }
}

impl Disk {
    fn with(content: Vec<u8>) -> Self {
        let medium = Medium { durable: content.clone(), content, random: 7, ..Medium::default() };
        Self(Arc::new(Mutex::new(medium)))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Medium> {
        self.0.lock().unwrap()
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.lock().content.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let offset = offset as usize;
        let medium = self.lock();
        out.copy_from_slice(
            medium.content.get(offset..offset + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?,
        );
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.lock().content.resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut medium = self.lock();
        medium.check()?;
        medium.crash();
        medium.durable = medium.content.clone();
        medium.pending.clear();
        medium.crash();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let offset = offset as usize;
        let mut medium = self.lock();
        medium.check()?;
        medium.content[offset..offset + data.len()].copy_from_slice(data);
        medium.pending.push((offset, data.to_vec()));
        medium.writes += 1;
        if medium.writes.is_multiple_of(7) {
            medium.crash();
        }
        Ok(())
    }
}

fn backend(disk: &Disk) -> RedbBackend {
    let database = Database::builder().create_with_backend(disk.clone()).unwrap();
    if schema::revision(&database).is_err() {
        open::initialise(&database).unwrap();
    }
    RedbBackend::start(database, PathBuf::from("/nowhere/test.redb"), Arc::new(Midnight)).unwrap()
}

fn batch(number: usize) -> Batch {
    (0..3).fold(Batch::new(), |batch, part| {
        let key = Key::new(&format!("n/{number}/{part}")).unwrap();
        batch.put(key, Condition::Absent, vec![b'v'; (number * 61) % 300], None)
    })
}

#[tokio::test]
async fn i1_acknowledged_batches_survive_the_loss_of_everything_unsynced() {
    let disk = Disk::with(Vec::new());
    let backend = backend(&disk);
    disk.lock().crashes.clear();
    let acknowledged = Arc::clone(&disk.lock().acknowledged);
    // Three at a time, so that transactions hold several batches. The n-th answer is for the n-th batch.
    for number in (0..60).step_by(3) {
        let (a, b, c) = tokio::join!(
            backend.commit(batch(number)),
            backend.commit(batch(number + 1)),
            backend.commit(batch(number + 2))
        );
        assert!(a.is_ok() && b.is_ok() && c.is_ok());
        acknowledged.fetch_add(3, Ordering::SeqCst);
    }
    backend.close().await;
    let crashes = std::mem::take(&mut disk.lock().crashes);
    assert!(crashes.len() > 100, "{} crashes", crashes.len());
    for (number, Crash { acknowledged, image }) in crashes.into_iter().enumerate() {
        let disk = Disk::with(image);
        verify(&disk, acknowledged).await;
        // The power fails again while the file is repaired, or just after.
        if number.is_multiple_of(8) {
            let again = std::mem::take(&mut disk.lock().crashes);
            assert!(!again.is_empty(), "opening syncs");
            for Crash { image, .. } in again {
                verify(&Disk::with(image), acknowledged).await;
            }
        }
    }
}

/// Opens what a crash left, looks for what was acknowledged, and closes it.
async fn verify(disk: &Disk, acknowledged: usize) {
    let backend = backend(disk);
    let items = backend.list(&Prefix::root()).await.unwrap();
    let parts = |number: usize| {
        let prefix = Prefix::new(&format!("n/{number}")).unwrap();
        items.iter().filter(|item| prefix.contains(&item.key)).count()
    };
    for number in 0..60 {
        let whole = parts(number) == 3;
        assert!(whole || parts(number) == 0, "batch {number} is torn");
        assert!(whole || number >= acknowledged, "batch {number} of {acknowledged} is lost");
    }
    backend.put(&Key::new("later").unwrap(), "1".into(), None).await.expect("the file can be written again");
    backend.close().await;
}

#[tokio::test]
async fn a_failing_disk_is_reported_to_all_and_nothing_is_half_written() {
    let disk = Disk::with(Vec::new());
    let backend = backend(&disk);
    backend.commit(batch(0)).await.unwrap();
    let mut watch = backend.watch(&Prefix::root()).await.unwrap();
    watch.next().await.unwrap();
    disk.lock().failing = true;
    let (one, two) = tokio::join!(backend.commit(batch(1)), backend.commit(batch(2)));
    for result in [one, two] {
        let error = result.unwrap_err();
        assert!(matches!(error, StorageError::Unavailable { .. }), "{error:?}");
        let mut chain = Vec::new();
        let mut cause: Option<&dyn std::error::Error> = Some(&error);
        while let Some(error) = cause {
            chain.push(error.to_string());
            cause = error.source();
        }
        // Whether they shared the transaction is a matter of time.
        let reasons = ["the database failed", "the database is not open after an earlier failure"];
        assert!(chain[0] == "storage is not available" && reasons.contains(&&*chain[1]), "{chain:?}");
    }
    // A path that does not exist cannot be opened again: everything is refused from here on, and says so.
    let refused = backend.commit(batch(3)).await.unwrap_err();
    assert!(matches!(refused, StorageError::Unavailable { .. }), "{refused:?}");
    backend.close().await;
    assert_eq!(watch.next().await, Err(teleport_core::storage::WatchEnd::Closed), "nothing was announced");
}
