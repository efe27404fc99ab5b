//! The example that authors of drivers start from keeps the contract itself.

#[allow(dead_code, unreachable_pub, reason = "its `main` is for running it by hand")]
#[path = "../../examples/custom_backend.rs"]
mod custom_backend;

#[tokio::test(flavor = "multi_thread")]
async fn custom_backend_conforms() {
    custom_backend::conforms().await;
}
