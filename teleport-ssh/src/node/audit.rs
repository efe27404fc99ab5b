//! Audit events on their way to the auth service: batched, in order, bounded.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use teleport_core::api::AuditApi;
use teleport_core::audit::AuditEvent;
use teleport_core::entropy::Entropy;
use teleport_core::recording::Recorder;
use teleport_core::task::Shutdown;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::batch::{Batches, deliver};

/// Events that may wait.
const QUEUE: usize = 4096;
/// Events of one call.
const BATCH: usize = 256;
/// How long events gather that nobody waits for. A client that copies many small files causes thousands a second, and each batch is a
/// request and a write to disk.
const GATHER: Duration = Duration::from_millis(20);
/// How long a session waits for its start to be written before it is refused.
pub(super) const DURABLE_LIMIT: Duration = Duration::from_secs(10);

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

    fn is_awaited(&self) -> bool {
        self.written.is_some()
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
    /// Events that were taken from the queue and of which nothing is known yet.
    under_way: usize,
}

pub(super) fn queue() -> (AuditQueue, AuditWorker) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let lost = Arc::new(AtomicU64::new(0));
    (
        AuditQueue { entries: sender, lost: Arc::clone(&lost) },
        AuditWorker { entries: receiver, lost, under_way: 0 },
    )
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
    /// What waits now.
    #[cfg(test)]
    pub(super) fn waiting(&mut self) -> Vec<AuditEvent> {
        std::iter::from_fn(|| self.entries.try_recv().ok().map(|entry| entry.event)).collect()
    }

    /// Sends what is queued to `api`, in order, again and again until it is taken; ends when every sender is gone and the
    /// queue is empty, or when `shutdown` aborts.
    pub(super) async fn run<A: AuditApi + ?Sized>(
        mut self,
        api: Arc<A>,
        entropy: Arc<dyn Entropy>,
        shutdown: Shutdown,
    ) {
        let left = self.forward_until(&*api, &*entropy, &shutdown).await;
        if left > 0 {
            tracing::error!(events = left, "audit events were not written before the end");
        }
    }

    /// Says of how many events it is not known whether they were written.
    async fn forward_until<A: AuditApi + ?Sized>(
        &mut self,
        api: &A,
        entropy: &dyn Entropy,
        shutdown: &Shutdown,
    ) -> usize {
        tokio::select! {
            () = self.forward(api, entropy) => {}
            () = shutdown.aborted() => {}
        }
        self.entries.len().saturating_add(self.under_way)
    }

    /// Lets a batch grow for a moment, unless somebody waits for it.
    async fn gather(&mut self, batch: &mut Vec<Entry>) {
        self.under_way = batch.len();
        let until = Instant::now() + GATHER;
        let mut seen = 0;
        while batch.len() < BATCH
            && !batch.iter().skip(std::mem::replace(&mut seen, batch.len())).any(Entry::is_awaited)
        {
            let more = self.entries.recv_many(batch, BATCH - batch.len());
            // At the end of the queue nothing more comes.
            if !matches!(tokio::time::timeout_at(until, more).await, Ok(1..)) {
                return;
            }
            self.under_way = batch.len();
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
            self.gather(&mut batch).await;
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
                let (taken, count) = (deliver(api, events, entropy).await, batch.len());
                if taken {
                    self.under_way = self.under_way.saturating_sub(count);
                    for Entry { written, recorder, .. } in batch {
                        // Whoever asked may have given up.
                        let _ = written.map(|written| written.send(()));
                        drop(recorder);
                    }
                } else if let Err(Some(lost)) = batches.refused(batch) {
                    self.under_way = self.under_way.saturating_sub(1);
                    tracing::error!(code = %lost.event.code, "an audit event was lost");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use std::sync::Mutex;

    use async_trait::async_trait;
    use teleport_core::api::{ApiError, ApiResult};
    use teleport_core::audit::{AuditPage, AuditQuery, EventKind};
    use teleport_core::task::TaskScope;
    use teleport_core::testing::RepeatableEntropy;

    use super::*;

    /// How many events came at a time, and when.
    #[derive(Debug)]
    struct Log {
        began: Instant,
        calls: Mutex<Vec<(usize, Duration)>>,
    }

    #[async_trait]
    impl AuditApi for Log {
        async fn emit_events(&self, events: Vec<AuditEvent>) -> ApiResult<()> {
            self.calls.lock().unwrap().push((events.len(), self.began.elapsed()));
            Ok(())
        }

        async fn search_events(&self, _query: AuditQuery) -> ApiResult<AuditPage> {
            Err(ApiError::denied())
        }
    }

    fn event() -> AuditEvent {
        AuditEvent::new(EventKind::SessionStart)
    }

    #[tokio::test(start_paused = true)]
    async fn events_gather_unless_somebody_waits() {
        let (queue, worker) = queue();
        let log = Arc::new(Log { began: Instant::now(), calls: Mutex::default() });
        let tasks = TaskScope::new();
        let entropy: Arc<dyn Entropy> = Arc::new(RepeatableEntropy::new(1));
        tasks.spawn(worker.run(Arc::clone(&log), entropy, Shutdown::new()));
        let calls = || std::mem::take(&mut *log.calls.lock().unwrap());

        for _ in 0..15 {
            queue.send(event()).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(GATHER).await;
        assert_eq!(calls(), [(15, GATHER)], "one write for all");
        // The start of a session takes along what is there.
        queue.send(event()).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        let began = log.began.elapsed();
        queue.send_durably(event()).await.unwrap();
        assert_eq!(calls(), [(2, began)]);
        // As many as one call has room for wait for no more.
        let began = log.began.elapsed();
        for _ in 0..BATCH {
            queue.send(event()).await;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(calls(), [(BATCH, began)]);
        // Nor does the end.
        queue.send(event()).await;
        drop(queue);
        tasks.join().await;
        assert_eq!(calls(), [(1, log.began.elapsed())]);
    }

    /// Does not answer.
    #[derive(Debug)]
    struct Silent;

    #[async_trait]
    impl AuditApi for Silent {
        async fn emit_events(&self, _events: Vec<AuditEvent>) -> ApiResult<()> {
            std::future::pending().await
        }

        async fn search_events(&self, _query: AuditQuery) -> ApiResult<AuditPage> {
            Err(ApiError::denied())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_under_way_at_the_end_is_counted_as_not_written() {
        let entropy = RepeatableEntropy::new(1);
        // While they gather, and while they are sent.
        for (passes, sent) in [(Duration::from_millis(1), 0), (GATHER * 2, 2)] {
            let (queue, mut worker) = queue();
            let shutdown = Shutdown::new();
            for _ in 0..3 {
                queue.send(event()).await;
            }
            let ending = async {
                tokio::time::sleep(passes).await;
                for _ in 0..sent {
                    queue.send(event()).await;
                }
                shutdown.abort();
            };
            let (left, ()) = tokio::join!(worker.forward_until(&Silent, &entropy, &shutdown), ending);
            assert_eq!(left, 3 + sent);
        }
        // What was written is not.
        let (queue, mut worker) = queue();
        let log = Log { began: Instant::now(), calls: Mutex::default() };
        queue.send(event()).await;
        drop(queue);
        assert_eq!(worker.forward_until(&log, &entropy, &Shutdown::new()).await, 0);
    }
}
