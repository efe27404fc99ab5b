//! The redb driver under the suite.

use std::sync::Arc;

use teleport_backend::conformance;
use teleport_backend::redb::RedbBackend;
use teleport_core::clock::Clock;
use teleport_core::storage::Backend;

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
