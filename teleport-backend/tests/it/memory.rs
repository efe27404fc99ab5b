//! The memory driver under the suite.

use std::sync::Arc;

use teleport_backend::conformance;
use teleport_backend::memory::MemoryBackend;
use teleport_core::clock::Clock;
use teleport_core::storage::Backend;

async fn factory(clock: Arc<dyn Clock>) -> Arc<dyn Backend> {
    Arc::new(MemoryBackend::new(clock))
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms() {
    conformance::run_all(&factory).await;
}

#[tokio::test]
async fn conforms_on_one_thread() {
    conformance::run_all(&factory).await;
}
