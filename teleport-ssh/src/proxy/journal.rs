//! Events on their way to the audit log.
//!
//! Connections do not wait for the auth service: what they report goes through a bounded queue, from which one task sends
//! batches and tries again while the auth service is away. A queue that is full means that nothing can be recorded any more;
//! then nothing may be done any more either, and connections are refused.

use std::sync::Arc;

use teleport_core::api::ProxyAccess;
use teleport_core::audit::AuditEvent;
use teleport_core::entropy::Entropy;
use tokio::sync::mpsc;

use crate::batch::{Batches, deliver};

/// How many events may wait: some minutes of a busy proxy.
const QUEUE: usize = 4096;
/// How many events travel together.
const BATCH: usize = 100;

/// The queue is full, or the server is ending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the event cannot be recorded")]
pub(super) struct NotRecorded;

/// The entrance of the queue.
#[derive(Clone, Debug)]
pub(super) struct Journal(mpsc::Sender<AuditEvent>);

impl Journal {
    /// A queue, and the future that empties it. The future ends when all entrances are gone and the queue is empty.
    pub(super) fn new(
        access: Arc<dyn ProxyAccess>,
        entropy: Arc<dyn Entropy>,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (Self(sender), empty(receiver, access, entropy))
    }

    /// Queues an event about something that is going to happen.
    ///
    /// # Errors
    /// [`NotRecorded`]: it must not happen.
    pub(super) fn record(&self, event: AuditEvent) -> Result<(), NotRecorded> {
        self.0.try_send(event).map_err(|_| NotRecorded)
    }

    /// Queues an event about something that was refused. If it cannot be recorded, at least the log says so.
    pub(super) fn note(&self, event: AuditEvent) {
        if let Err(error) = self.0.try_send(event) {
            let event = error.into_inner();
            tracing::error!(code = %event.code, user = ?event.user, error = ?event.error, "an audit event was lost");
        }
    }
}

async fn empty(
    mut queue: mpsc::Receiver<AuditEvent>,
    access: Arc<dyn ProxyAccess>,
    entropy: Arc<dyn Entropy>,
) {
    let mut batch = Vec::with_capacity(BATCH);
    while queue.recv_many(&mut batch, BATCH).await > 0 {
        let mut batches = Batches::of(batch.drain(..).map(Queued));
        while let Some(batch) = batches.next() {
            let events = batch.iter().map(|queued| queued.0.clone()).collect();
            if !deliver(&*access, events, &*entropy).await
                && let Err(Some(lost)) = batches.refused(batch)
            {
                tracing::error!(code = %lost.0.code, "an audit event was lost");
            }
        }
    }
}

struct Queued(AuditEvent);

impl AsRef<AuditEvent> for Queued {
    fn as_ref(&self) -> &AuditEvent {
        &self.0
    }
}
