//! Which services of this process are still members of the cluster.

use std::future::Future;
use std::sync::Arc;

use teleport_core::api::{ApiError, ApiErrorKind};
use teleport_core::id::HostRole;
use teleport_ssh::view::AccessCache;
use tokio::sync::watch;

/// The services that run. One that is removed from the cluster ends alone: an auth service beside it goes on. When none is left
/// the process has nothing to do.
#[derive(Clone, Debug)]
pub(super) struct Services(Arc<watch::Sender<Counts>>);

#[derive(Debug, Default)]
struct Counts {
    started: usize,
    removed: usize,
}

impl Services {
    pub(super) fn new() -> Self {
        Self(Arc::new(watch::Sender::default()))
    }

    /// A service runs.
    pub(super) fn started(&self) {
        self.0.send_modify(|counts| counts.started += 1);
    }

    /// Runs a service until it ends by itself, or is removed from the cluster: then it ends at once, with its sessions.
    pub(super) async fn serve(self, role: HostRole, view: AccessCache, service: impl Future<Output = ()>) {
        tokio::select! {
            () = service => return,
            () = view.evicted() => {}
        }
        tracing::error!(%role, "the service has stopped: {}", ApiError::evicted());
        self.0.send_modify(|counts| counts.removed += 1);
    }

    /// Resolves when there were services, and all of them were removed from the cluster. Cancel safe.
    pub(super) async fn removed(&self) {
        let all = |counts: &Counts| counts.started > 0 && counts.removed == counts.started;
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.0.subscribe().wait_for(all).await;
    }
}

/// Whether something failed because the host was removed from the cluster.
pub(super) fn is_removal(error: &anyhow::Error) -> bool {
    let api = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<ApiError>().is_some_and(|error| error.kind() == ApiErrorKind::Evicted)
    };
    error.chain().any(api)
}
