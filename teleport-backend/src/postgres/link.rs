//! A connection that is made anew when it is lost.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex as SyncMutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex, Notify};
use tokio::time::Instant;

use super::config::PostgresConfig;
use super::error::{Failure, PostgresError};
use super::session::Session;
use crate::network::Remote;
use crate::shared::backoff;
use crate::shared::closed::Closed;
use crate::shared::described::describe;

/// How long one server may take to be connected before the next is tried.
const CONNECT: Duration = Duration::from_secs(4);

pub(super) struct Link {
    pub(super) config: Arc<PostgresConfig>,
    pub(super) announced: Arc<Notify>,
    remote: Remote,
    closed: Arc<AtomicBool>,
    /// How many attempts in a row did not do what was asked; being connected is not enough.
    failures: AtomicU32,
    state: Mutex<State>,
    trouble: SyncMutex<String>,
}

#[derive(Default)]
struct State {
    session: Option<Arc<Session>>,
    next: usize,
    not_before: Option<Instant>,
}

/// The connection that something is done on, for when there is no answer.
#[derive(Default)]
pub(super) struct Used(SyncMutex<Option<Arc<Session>>>);

impl Used {
    pub(super) fn set(&self, session: &Arc<Session>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(session));
    }

    pub(super) fn get(&self) -> Option<Arc<Session>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Link {
    pub(super) fn new(config: &Arc<PostgresConfig>, remote: &Remote, closed: &Arc<AtomicBool>) -> Self {
        Self {
            config: Arc::clone(config),
            announced: Arc::default(),
            remote: remote.clone(),
            closed: Arc::clone(closed),
            failures: AtomicU32::new(0),
            state: Mutex::default(),
            trouble: SyncMutex::new("no server has answered yet".to_owned()),
        }
    }

    /// Reads, and reads again on another connection if one is lost, until the time is over.
    pub(super) async fn read<T, F: Future<Output = Result<T, Failure>>>(
        &self,
        read: impl Fn(Arc<Session>) -> F,
    ) -> Result<T, Failure> {
        let timeout = self.config.timeout();
        let used = Used::default();
        let attempts = async {
            loop {
                let session = self.session().await?;
                used.set(&session);
                match read(Arc::clone(&session)).await {
                    Err(Failure::Lost { source }) => self.lost(&session, describe(&*source)).await,
                    Err(failure) => return Err(self.told(failure)),
                    done => {
                        self.succeeded();
                        return done;
                    }
                }
            }
        };
        match tokio::time::timeout(timeout, attempts).await {
            Ok(done) => done,
            Err(_) => Err(self.late(used.get()).await),
        }
    }

    /// The time is over: the connection that was used may be dead, so it is not used again.
    pub(super) async fn late(&self, used: Option<Arc<Session>>) -> Failure {
        if self.is_closed() {
            return Closed.into();
        }
        let Some(used) = used else { return self.unreachable() };
        // Whoever holds the lock is making another one.
        if let Ok(mut state) = self.state.try_lock()
            && state.session.as_ref().is_some_and(|current| Arc::ptr_eq(current, &used))
        {
            state.session = None;
            state.next += 1;
        }
        PostgresError::Timeout { timeout: self.config.timeout() }.into()
    }

    /// What was asked was done.
    pub(super) fn succeeded(&self) {
        self.failures.store(0, Ordering::Relaxed);
    }

    pub(super) fn unreachable(&self) -> Failure {
        let reason = self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone();
        PostgresError::Unreachable { servers: self.config.to_string(), reason }.into()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(super) fn wait(&self, failures: u32) -> Duration {
        backoff::wait(self.remote.entropy(), failures)
    }

    /// A server that has become a standby says that it is read-only; another one may have taken its place.
    fn told(&self, failure: Failure) -> Failure {
        if self.is_closed() { Closed.into() } else { failure }
    }

    pub(super) async fn close(&self) {
        self.state.lock().await.session = None;
    }

    /// The connection is not used again.
    pub(super) async fn lost(&self, session: &Arc<Session>, reason: String) {
        let mut state = self.state.lock().await;
        if state.session.as_ref().is_some_and(|current| Arc::ptr_eq(current, session)) {
            state.session = None;
            state.next += 1;
            self.note(&mut state, reason);
        }
    }

    fn note(&self, state: &mut State, reason: String) {
        let failures = self.failures.load(Ordering::Relaxed);
        let wait = self.wait(failures);
        self.failures.store(failures.saturating_add(1), Ordering::Relaxed);
        state.not_before = Some(Instant::now() + wait);
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = reason;
    }

    /// The connection, or a new one. Whoever asks bounds the time.
    pub(super) async fn session(&self) -> Result<Arc<Session>, Failure> {
        let mut state = self.state.lock().await;
        loop {
            if self.is_closed() {
                return Err(Closed.into());
            }
            if let Some(session) = state.session.as_ref().filter(|session| !session.is_over()) {
                return Ok(Arc::clone(session));
            }
            state.session = None;
            if let Some(time) = state.not_before.filter(|time| *time > Instant::now()) {
                tokio::time::sleep_until(time).await;
                continue;
            }
            let hosts = &self.config.server.hosts;
            let Some((host, port)) = hosts.get(state.next % hosts.len().max(1)) else {
                return Err(self.unreachable());
            };
            // If this is given up half way, the next one to come tries the next server.
            state.next += 1;
            let opening = Session::open(&self.config, &self.remote, host, *port, &self.announced);
            let reason = match tokio::time::timeout(CONNECT, opening).await {
                Ok(Ok(session)) => {
                    state.next -= 1;
                    state.not_before = None;
                    let session = Arc::new(session);
                    state.session = Some(Arc::clone(&session));
                    return Ok(session);
                }
                Ok(Err(Failure::Lost { source })) => describe(&*source),
                Ok(Err(Failure::Postgres(error))) if error.is_passing() => error.to_string(),
                Ok(Err(failure)) => {
                    self.note(&mut state, format!("{host}:{port}: {failure}"));
                    return Err(failure);
                }
                Err(_) => format!("no answer within {} s", CONNECT.as_secs()),
            };
            self.note(&mut state, format!("{host}:{port}: {reason}"));
        }
    }
}
