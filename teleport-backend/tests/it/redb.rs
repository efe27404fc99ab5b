//! The redb driver under the suite.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use teleport_backend::conformance;
use teleport_backend::redb::RedbBackend;
use teleport_core::clock::Clock;
use teleport_core::storage::{Backend, BackendExt, Key};
use teleport_core::testing::ManualClock;

#[tokio::test(flavor = "multi_thread")]
async fn conforms() {
    let directory = tempfile::tempdir().unwrap();
    let count = std::sync::atomic::AtomicUsize::new(0);
    let factory = async |clock: Arc<dyn Clock>| {
        let number = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = directory.path().join(format!("{number}.redb"));
        Arc::new(RedbBackend::open(path, clock).await.unwrap()) as Arc<dyn Backend>
    };
    conformance::run_all(&factory).await;
}

/// What has expired by a clock that jumps is there again when the clock is right again, whatever was written meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn g2_a_clock_that_jumps_ahead_and_back_removes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::default());
    let right = clock.now();
    let backend = RedbBackend::open(directory.path().join("state"), clock.clone()).await.unwrap();
    let key = |name: &str| Key::new(name).unwrap();
    let expires = Some(right.saturating_add(Duration::from_secs(3000)));
    backend.put(&key("mark"), Bytes::from_static(b"kept"), expires).await.unwrap();
    for hours in [1, 24 * 30] {
        clock.advance(Duration::from_secs(hours * 3600));
        assert!(backend.get(&key("mark")).await.unwrap().is_none(), "it has expired by this clock");
        // Each commit removes what has expired, and so does the sweeper.
        for _ in 0..3 {
            backend.put(&key("other"), Bytes::new(), None).await.unwrap();
        }
        clock.set(right);
        let mark = backend.get(&key("mark")).await.unwrap().expect("it is there again");
        assert_eq!(mark.value, "kept");
    }
    backend.close().await;
}
