//! Audit events on their way to the auth service: batched, in order, bounded.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use teleport_core::api::{ApiError, ApiErrorKind, AuditApi};
use teleport_core::audit::AuditEvent;
use teleport_core::entropy::Entropy;
use teleport_core::recording::Recorder;
use teleport_core::task::Shutdown;
use tokio::sync::{mpsc, oneshot};

use crate::batch::{Batches, name};
use crate::view::jitter;

/// Events that may wait.
const QUEUE: usize = 4096;
/// Events of one call.
const BATCH: usize = 256;
/// How long a session waits for its start to be written before it is refused.
pub(super) const DURABLE_LIMIT: Duration = Duration::from_secs(10);
const FIRST_BACKOFF: Duration = Duration::from_millis(250);
const MAX_BACKOFF: Duration = Duration::from_secs(15);

/// An event could not be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the audit log did not take the event")]
#[non_exhaustive]
pub struct NotAudited;

#[derive(Debug)]
struct Entry {
    event: AuditEvent,
    /// Told once the event is durable.
    written: Option<oneshot::Sender<()>>,
    /// Let go of once the event is durable, or lost: the recording whose end it tells is delivered after it. Else a node that is killed
    /// between the two has nothing left that reminds it of the end.
    recorder: Option<Box<dyn Recorder>>,
}

impl Entry {
    fn new(event: AuditEvent) -> Self {
        Self { event, written: None, recorder: None }
    }
}

impl AsRef<AuditEvent> for Entry {
    fn as_ref(&self) -> &AuditEvent {
        &self.event
    }
}

/// Where connections and sessions put their events.
#[derive(Clone, Debug)]
pub(super) struct AuditQueue {
    entries: mpsc::Sender<Entry>,
    lost: Arc<AtomicU64>,
}

/// The other end of the queue.
#[derive(Debug)]
pub(super) struct AuditWorker {
    entries: mpsc::Receiver<Entry>,
    lost: Arc<AtomicU64>,
}

pub(super) fn queue() -> (AuditQueue, AuditWorker) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let lost = Arc::new(AtomicU64::new(0));
    (AuditQueue { entries: sender, lost: Arc::clone(&lost) }, AuditWorker { entries: receiver, lost })
}

impl AuditQueue {
    /// Queues an event and never waits: for what strangers cause. When the queue is full the event is lost, which is logged.
    pub(super) fn note(&self, event: AuditEvent) {
        self.try_enter(Entry::new(event));
    }

    /// The same, and lets go of a recording afterwards.
    pub(super) fn note_before(&self, event: AuditEvent, recorder: Box<dyn Recorder>) {
        self.try_enter(Entry { recorder: Some(recorder), ..Entry::new(event) });
    }

    fn try_enter(&self, entry: Entry) {
        if self.entries.try_send(entry).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Queues an event, waiting for room.
    pub(super) async fn send(&self, event: AuditEvent) {
        self.enter(Entry::new(event)).await;
    }

    /// The same, and lets go of a recording once the event is durable.
    pub(super) async fn send_before(&self, event: AuditEvent, recorder: Box<dyn Recorder>) {
        self.enter(Entry { recorder: Some(recorder), ..Entry::new(event) }).await;
    }

    async fn enter(&self, entry: Entry) {
        if self.entries.send(entry).await.is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Queues an event and waits until it is durable, at most [`DURABLE_LIMIT`].
    pub(super) async fn send_durably(&self, event: AuditEvent) -> Result<(), NotAudited> {
        let (written, told) = oneshot::channel();
        let wait = async {
            self.entries
                .send(Entry { written: Some(written), ..Entry::new(event) })
                .await
                .map_err(|_| NotAudited)?;
            told.await.map_err(|_| NotAudited)
        };
        tokio::time::timeout(DURABLE_LIMIT, wait).await.map_err(|_| NotAudited)?
    }
}

impl AuditWorker {
    /// Sends what is queued to `api`, in order, again and again until it is taken; ends when every sender is gone and the
    /// queue is empty, or when `shutdown` aborts.
    pub(super) async fn run<A: AuditApi + ?Sized>(
        mut self,
        api: Arc<A>,
        entropy: Arc<dyn Entropy>,
        shutdown: Shutdown,
    ) {
        tokio::select! {
            () = self.forward(&*api, &*entropy) => {}
            () = shutdown.aborted() => {}
        }
        let left = self.entries.len();
        if left > 0 {
            tracing::error!(events = left, "audit events were not written before the end");
        }
    }

    async fn forward<A: AuditApi + ?Sized>(&mut self, api: &A, entropy: &dyn Entropy) {
        let mut batch = Vec::new();
        loop {
            batch.clear();
            // What has gathered while the last batch was written goes together: many sessions share one write.
            if self.entries.recv_many(&mut batch, BATCH).await == 0 {
                return;
            }
            let lost = self.lost.swap(0, Ordering::Relaxed);
            if lost > 0 {
                tracing::error!(
                    events = lost,
                    "audit events were lost: they came faster than they can be written"
                );
            }
            let mut batches = Batches::of(batch.drain(..));
            while let Some(batch) = batches.next() {
                let events = batch.iter().map(|entry| entry.event.clone()).collect();
                if deliver(api, events, entropy).await {
                    for Entry { written, recorder, .. } in batch {
                        // Whoever asked may have given up.
                        let _ = written.map(|written| written.send(()));
                        drop(recorder);
                    }
                } else if let Err(Some(lost)) = batches.refused(batch) {
                    tracing::error!(code = %lost.event.code, "an audit event was lost");
                }
            }
        }
    }
}

/// Whether the events were written.
async fn deliver<A: AuditApi + ?Sized>(api: &A, mut events: Vec<AuditEvent>, entropy: &dyn Entropy) -> bool {
    name(&mut events, entropy);
    let mut backoff = FIRST_BACKOFF;
    loop {
        match api.emit_events(events.clone()).await {
            Ok(()) => return true,
            Err(error) if is_final(&error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    events = events.len(),
                    "the auth service refuses audit events"
                );
                return false;
            }
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "audit events cannot be written now"
                );
            }
        }
        tokio::time::sleep(jitter(backoff, entropy)).await;
        backoff = (backoff * 2).min(MAX_BACKOFF);
    }
}

/// Whether asking again would change nothing.
fn is_final(error: &ApiError) -> bool {
    matches!(error.kind(), ApiErrorKind::Denied | ApiErrorKind::Evicted | ApiErrorKind::Invalid)
}
