//! A figure that must not get lost, printed for whoever looks. The bound is far below what an idle machine shows
//! (about ten), so that a busy one passes too.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use teleport_backend::redb::RedbBackend;
use teleport_core::clock::SystemClock;
use teleport_core::storage::{BackendExt, Key};
use teleport_core::task::TaskScope;
use tokio::time::Instant;

const CALLERS: usize = 16;

/// Sixteen callers share fsyncs: one commit each takes far less than sixteen commits one after the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parallel_commits_share_the_disk() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("speed.redb");
    let backend = Arc::new(RedbBackend::open(path, Arc::new(SystemClock::new())).await.unwrap());
    let rate = async |callers: usize, time: Duration| {
        let done = Arc::new(AtomicUsize::new(0));
        let scope = TaskScope::new();
        let start = Instant::now();
        for caller in 0..callers {
            let (backend, done) = (Arc::clone(&backend), Arc::clone(&done));
            scope.spawn(async move {
                let mut round = 0;
                while start.elapsed() < time {
                    let key = Key::new(&format!("speed/{caller}/{}", round % 100)).unwrap();
                    backend.put(&key, vec![b'x'; 300].into(), None).await.unwrap();
                    round += 1;
                }
                done.fetch_add(round, Ordering::Relaxed);
            });
        }
        scope.join().await;
        done.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64()
    };
    // In turns, and the best of each: what else the machine does only slows them down.
    let (mut alone, mut together) = (0.0_f64, 0.0_f64);
    for _ in 0..4 {
        alone = alone.max(rate(1, Duration::from_millis(200)).await);
        together = together.max(rate(CALLERS, Duration::from_millis(300)).await);
    }
    println!("commits per second: {alone:.0} by one caller, {together:.0} by {CALLERS}");
    assert!(together > alone * 2.0, "group commit: {alone:.0}/s alone, {together:.0}/s together");
}
