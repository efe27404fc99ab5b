//! What the streams of views share: one task that waits for changes and makes each view once, however many nodes follow.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::watch;

use super::Inner;
use super::follow::change;
use super::trust::{AUTHORITIES, Told, view};
use crate::api::{AccessView, ApiError, ApiErrorKind, ApiResult};
use crate::clock::{Clock, Timestamp};
use crate::storage::{Prefix, RepoError, Revision, Watch, WatchEnd, WatchEvent};
use crate::task::TaskScope;

/// Starts the task when somebody first follows, and again when it had to end; it ends with the service.
///
/// A task and not whoever asks, as in [`Cache`](super::Cache): a stream whose reader takes nothing is not run, and nobody may be able to
/// keep news from others.
#[derive(Debug, Default)]
pub(super) struct Views {
    scope: TaskScope,
    run: Mutex<Option<Following>>,
}

/// The ends of the channels to the task.
#[derive(Clone, Debug)]
pub(super) struct Following {
    /// Counts those who want to know what is at this moment, and up to whom they were answered.
    asked: Arc<watch::Sender<u64>>,
    answered: watch::Receiver<u64>,
    newest: watch::Receiver<Newest>,
    /// Grows when a host may have been removed, before any view is told that is newer than that.
    evictions: watch::Receiver<u64>,
}

#[derive(Clone, Debug)]
enum Newest {
    /// Nobody was told anything yet.
    None,
    View(Arc<AccessView>),
    /// Why the task has ended.
    Ended(ApiErrorKind, String),
}

impl Views {
    /// The task that runs.
    pub(super) fn follow(&self, auth: &Arc<Inner>) -> Following {
        let mut run = self.run.lock().unwrap_or_else(PoisonError::into_inner);
        // Its end of the channel is gone when it is.
        if let Some(run) = run.as_ref().filter(|run| run.newest.has_changed().is_ok()) {
            return run.clone();
        }
        let (asked, asked_of) = watch::channel(0);
        let (answers, answered) = watch::channel(0);
        let (told, newest) = watch::channel(Newest::None);
        let (evicted, evictions) = watch::channel(0);
        let task = Task {
            auth: Arc::downgrade(auth),
            clock: Arc::clone(&auth.ports.clock),
            refresh: auth.config.trust_refresh,
            asked: asked_of,
            answers,
            newest: told,
            evictions: evicted,
        };
        self.scope.spawn(task.run());
        run.insert(Following { asked: Arc::new(asked), answered, newest, evictions }).clone()
    }
}

impl Following {
    /// A view of what is at this moment: all that was acknowledged before is in it.
    pub(super) async fn fresh(&mut self) -> ApiResult<Arc<AccessView>> {
        let mut place = 0;
        self.asked.send_modify(|asked| {
            *asked = asked.wrapping_add(1);
            place = *asked;
        });
        if self.answered.wait_for(|answered| *answered >= place).await.is_err() {
            return Err(self.end());
        }
        self.current()
    }

    /// The next view. Several changes may be one. Cancel safe.
    pub(super) async fn next(&mut self) -> ApiResult<Arc<AccessView>> {
        if self.newest.changed().await.is_err() {
            return Err(self.end());
        }
        self.current()
    }

    /// Resolves when a host may have been removed. Cancel safe.
    pub(super) async fn eviction(&mut self) -> ApiResult<()> {
        self.evictions.changed().await.map_err(|_| self.end())
    }

    fn current(&mut self) -> ApiResult<Arc<AccessView>> {
        match &*self.newest.borrow_and_update() {
            Newest::View(view) => return Ok(Arc::clone(view)),
            Newest::None | Newest::Ended(..) => {}
        }
        Err(self.end())
    }

    fn end(&self) -> ApiError {
        match &*self.newest.borrow() {
            Newest::Ended(kind, message) => ApiError::new(*kind, message.clone()),
            _ => ApiError::unavailable("nobody looks for changes any more"),
        }
    }
}

/// What a view is made of: roles, authorities, proxies, locks, what was withdrawn from users, removed hosts, sessions that are to
/// end.
struct Sources {
    roles: Watch,
    authorities: Watch,
    proxies: Watch,
    locks: Watch,
    withdrawn: Watch,
    ended: Watch,
    evicted: Watch,
}

impl Sources {
    async fn open(auth: &Inner) -> ApiResult<Self> {
        let authorities = Prefix::new(AUTHORITIES).map_err(RepoError::from)?;
        Ok(Self {
            roles: auth.roles.watch().await?,
            authorities: auth.ports.backend.watch(&authorities).await?,
            proxies: auth.proxy_sources.watch().await?,
            locks: auth.locks.watch().await?,
            withdrawn: auth.withdrawn.watch().await?,
            ended: auth.ended_sessions.watch().await?,
            evicted: auth.evicted.watch().await?,
        })
    }
}

struct Task {
    /// The service ends the task, and not the other way round.
    auth: Weak<Inner>,
    clock: Arc<dyn Clock>,
    refresh: Duration,
    asked: watch::Receiver<u64>,
    answers: watch::Sender<u64>,
    newest: watch::Sender<Newest>,
    evictions: watch::Sender<u64>,
}

impl Task {
    async fn run(mut self) {
        if let Err(error) = self.drive().await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "changes cannot be looked for; those who follow them have to come again"
            );
            // Before the channels close.
            self.newest.send_replace(Newest::Ended(error.kind(), error.message().to_owned()));
        }
    }

    /// Until the service is gone, or the storage says nothing any more.
    async fn drive(&mut self) -> ApiResult<()> {
        let mut told = Told { roles: Revision::ZERO, locks: Revision::ZERO };
        let mut last: Option<Arc<AccessView>> = None;
        let mut sources = None;
        loop {
            let Some(auth) = self.auth.upgrade() else { return Ok(()) };
            let open = match &mut sources {
                Some(open) => open,
                // Watched first and asked then, so that nothing falls between.
                none => {
                    let opened = none.insert(Sources::open(&auth).await?);
                    self.evicted();
                    opened
                }
            };
            let asked = *self.asked.borrow_and_update();
            let (view, changes) = view(&auth, told).await?;
            drop(auth);
            // Who was removed hears of that before it hears of anything that came later.
            let mut goes_on = self.take_evictions(&mut open.evicted)?;
            if last.as_deref() != Some(&view) {
                let view = Arc::new(view);
                last = Some(Arc::clone(&view));
                self.newest.send_replace(Newest::View(view));
            }
            self.answers.send_replace(asked);
            if goes_on {
                goes_on = self.changed(open, &mut told, changes).await?;
            }
            if !goes_on {
                // What was missed is in what is read now.
                sources = None;
            }
        }
    }

    fn evicted(&self) {
        self.evictions.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Tells of what the watch has queued; `false` if it was cut.
    fn take_evictions(&self, watch: &mut Watch) -> ApiResult<bool> {
        while let Some(event) = tokio::task::unconstrained(watch.next()).now_or_never() {
            if !self.of_eviction(event)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn of_eviction(&self, event: Result<WatchEvent, WatchEnd>) -> ApiResult<bool> {
        match event {
            Ok(WatchEvent::Ready { .. }) => {}
            Ok(_) => self.evicted(),
            Err(WatchEnd::Lagged) => return Ok(false),
            Err(end @ WatchEnd::Closed) => return Err(ApiError::unavailable(end)),
        }
        Ok(true)
    }

    /// Waits until something may have changed, or somebody wants to know; `false` if a watch was cut.
    async fn changed(
        &mut self,
        open: &mut Sources,
        told: &mut Told,
        changes: Option<Timestamp>,
    ) -> ApiResult<bool> {
        let by_itself = changes.map(|at| at.saturating_since(self.clock.now()));
        let refresh = by_itself.map_or(self.refresh, |rest| rest.min(self.refresh));
        let refresh = tokio::time::sleep(refresh);
        tokio::pin!(refresh);
        loop {
            let Sources { roles, authorities, proxies, locks, withdrawn, ended, evicted } = &mut *open;
            let event = tokio::select! {
                biased;
                event = evicted.next() => {
                    if !self.of_eviction(event.clone())? {
                        return Ok(false);
                    }
                    event
                }
                event = roles.next() => {
                    told.roles = event.as_ref().map_or(Revision::ZERO, change).max(told.roles);
                    event
                }
                event = locks.next() => {
                    told.locks = event.as_ref().map_or(Revision::ZERO, change).max(told.locks);
                    event
                }
                event = authorities.next() => event,
                event = proxies.next() => event,
                event = withdrawn.next() => event,
                event = ended.next() => event,
                asked = self.asked.changed() => {
                    // Its other end is gone with the service.
                    return asked.map(|()| true).map_err(ApiError::unavailable);
                }
                () = &mut refresh => return Ok(true),
            };
            match event {
                Ok(WatchEvent::Ready { .. }) => {}
                Ok(_) => return Ok(true),
                Err(WatchEnd::Lagged) => return Ok(false),
                Err(end @ WatchEnd::Closed) => return Err(ApiError::unavailable(end)),
            }
        }
    }
}
