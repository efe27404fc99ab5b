//! Tasks that have an owner, and shutdown in two phases.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Running,
    Draining,
    Aborting,
}

/// A signal to stop, shared by everything that must hear it: first *drain* (accept nothing new, finish what runs), then
/// *abort* (end now). Phases only move forward.
#[derive(Clone, Debug)]
pub struct Shutdown(Arc<watch::Sender<Phase>>);

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

impl Shutdown {
    /// A signal that has not been given.
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(Phase::Running)))
    }

    fn advance(&self, to: Phase) {
        self.0.send_if_modified(|phase| {
            let forward = *phase < to;
            if forward {
                *phase = to;
            }
            forward
        });
    }

    /// Asks everything to finish.
    pub fn drain(&self) {
        self.advance(Phase::Draining);
    }

    /// Asks everything to end at once.
    pub fn abort(&self) {
        self.advance(Phase::Aborting);
    }

    async fn reached(&self, phase: Phase) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.0.subscribe().wait_for(|now| *now >= phase).await;
    }

    /// Resolves once draining (or aborting) has begun. Cancel safe.
    pub async fn draining(&self) {
        self.reached(Phase::Draining).await;
    }

    /// Resolves once aborting has begun. Cancel safe.
    pub async fn aborted(&self) {
        self.reached(Phase::Aborting).await;
    }

    /// Whether draining (or aborting) has begun.
    pub fn is_draining(&self) -> bool {
        *self.0.borrow() >= Phase::Draining
    }

    /// Whether aborting has begun.
    pub fn is_aborted(&self) -> bool {
        *self.0.borrow() >= Phase::Aborting
    }
}

/// Owns tasks: they are aborted when the last clone of the scope is dropped. A panic of a task ends that task alone; it is logged
/// and counted.
#[derive(Clone, Debug, Default)]
pub struct TaskScope(Arc<Tasks>);

#[derive(Debug, Default)]
struct Tasks {
    set: Mutex<JoinSet<()>>,
}

impl TaskScope {
    /// A scope without tasks.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, JoinSet<()>> {
        self.0.set.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a task in this scope. Finished tasks are forgotten as new ones start.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        let mut set = self.lock();
        while let Some(ended) = set.try_join_next() {
            report(ended);
        }
        set.spawn(task)
    }

    /// How many tasks have not ended yet.
    pub fn len(&self) -> usize {
        let mut set = self.lock();
        while let Some(ended) = set.try_join_next() {
            report(ended);
        }
        set.len()
    }

    /// Whether no task is left.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until all tasks have ended, those included that start meanwhile. Cancel safe.
    pub async fn join(&self) {
        loop {
            let ended = std::future::poll_fn(|context| self.lock().poll_join_next(context)).await;
            match ended {
                Some(ended) => report(ended),
                None => return,
            }
        }
    }

    /// Aborts all tasks and waits for them.
    pub async fn abort(&self) {
        self.lock().abort_all();
        self.join().await;
    }
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(error = &error as &dyn std::error::Error, "a task panicked and was ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn phases_only_move_forward() {
        let shutdown = Shutdown::new();
        assert!(!shutdown.is_draining());
        shutdown.abort();
        shutdown.drain();
        assert!(shutdown.is_aborted());
        shutdown.draining().await;
        shutdown.aborted().await;
    }

    #[tokio::test]
    async fn dropping_the_scope_ends_its_tasks() {
        let (alive, mut gone) = tokio::sync::mpsc::channel::<()>(1);
        let scope = TaskScope::new();
        scope.spawn(async move {
            let _alive = alive;
            std::future::pending::<()>().await;
        });
        assert_eq!(scope.len(), 1);
        drop(scope);
        assert!(gone.recv().await.is_none());
    }

    #[tokio::test]
    async fn a_panic_ends_one_task_only() {
        let scope = TaskScope::new();
        #[expect(clippy::panic, reason = "the panic is what is tested")]
        scope.spawn(async { panic!("expected by the test") });
        scope.spawn(async {});
        scope.join().await;
        assert!(scope.is_empty());
    }
}
