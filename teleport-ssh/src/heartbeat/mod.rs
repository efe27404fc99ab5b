//! Signs of life of a node: announced at once, kept alive, announced again when the cluster has forgotten it.

mod machine;

use std::sync::Arc;

use teleport_core::api::{ApiErrorKind, PresenceApi};
use teleport_core::entropy::{Entropy, EntropyExt};
use teleport_core::resource::NodeRecord;
use teleport_core::task::Shutdown;
use tokio::sync::watch;
use tokio::time::Instant;

use self::machine::{Action, Heartbeat, Outcome};

/// Announces what `record` holds, at once and whenever it changes, and keeps it alive until `shutdown` drains or the host is
/// removed from the cluster. A node does it by itself; this is for those that are no [`NodeServer`](crate::node::NodeServer).
pub async fn run<A: PresenceApi + ?Sized>(
    api: Arc<A>,
    mut record: watch::Receiver<NodeRecord>,
    entropy: Arc<dyn Entropy>,
    shutdown: Shutdown,
) {
    let beating = async {
        let mut machine = Heartbeat::new(Instant::now());
        loop {
            let outcome = match machine.poll(Instant::now()) {
                Action::Announce => {
                    let announced = record.borrow_and_update().clone();
                    api.announce_node(announced).await
                }
                Action::KeepAlive => api.keep_alive().await,
                Action::Wait(until) => {
                    tokio::select! {
                        () = tokio::time::sleep_until(until) => {}
                        Ok(()) = record.changed() => machine.changed(Instant::now()),
                    }
                    continue;
                }
            };
            if let Err(error) = &outcome {
                tracing::warn!(error = error as &dyn std::error::Error, "the sign of life was not taken");
            }
            let outcome = match outcome {
                Ok(()) => Outcome::Done,
                // Nobody listens any more, and every sign of life would be a refusal in the audit log.
                Err(error) if error.kind() == ApiErrorKind::Evicted => return,
                Err(error) if error.kind() == ApiErrorKind::NotFound => Outcome::Forgotten,
                Err(_) => Outcome::Failed,
            };
            let dice = entropy.bytes::<2>().map_or(u16::MAX, u16::from_le_bytes);
            machine.handle(outcome, Instant::now(), dice);
        }
    };
    tokio::select! {
        () = beating => {}
        () = shutdown.draining() => {}
    }
}
