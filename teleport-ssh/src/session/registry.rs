//! The sessions that are alive on this node.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use teleport_core::api::RunningSession;
use teleport_core::clock::Timestamp;
use teleport_core::id::{HostId, OsLogin, RoleName, SessionId, UserName};
use tokio::sync::{Notify, watch};

use super::share::Party;

/// The longest command that the cluster is told, in bytes.
const MAX_COMMAND: usize = 256;

/// A session that is alive.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LiveSession {
    /// The session.
    pub id: SessionId,
    /// The user.
    pub user: UserName,
    /// The login.
    pub login: OsLogin,
    /// When it began.
    pub started: Timestamp,
}

/// Who ends a session that is not the own one, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EndedBy {
    pub(crate) by: String,
    /// May be empty.
    pub(crate) message: String,
}

/// All that others can ask about a session that is alive, and do to it.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) live: LiveSession,
    /// The node that it runs on, if that is not the host which tells of it.
    pub(crate) node: Option<HostId>,
    /// By which it was begun.
    pub(crate) roles: Vec<RoleName>,
    pub(crate) command: Option<String>,
    pub(crate) recorded: bool,
    /// Of one with a terminal.
    pub(crate) party: Option<Arc<Party>>,
    ended: watch::Sender<Option<EndedBy>>,
}

impl Running {
    pub(crate) fn new(
        live: LiveSession,
        roles: Vec<RoleName>,
        command: Option<String>,
        recorded: bool,
        party: Option<Arc<Party>>,
    ) -> Self {
        Self { live, node: None, roles, command, recorded, party, ended: watch::Sender::new(None) }
    }

    /// Says that it runs on this node, which does not tell of it itself.
    pub(crate) fn on(self, node: Option<HostId>) -> Self {
        Self { node, ..self }
    }

    /// Ends it. The first who does counts.
    pub(crate) fn end(&self, ended: EndedBy) {
        self.ended.send_if_modified(|known| known.is_none().then(|| *known = Some(ended)).is_some());
    }

    /// Resolves when somebody ends it. Cancel safe.
    pub(crate) async fn ended(&self) -> EndedBy {
        let mut ended = self.ended.subscribe();
        match ended.wait_for(Option::is_some).await.map(|ended| ended.clone()) {
            Ok(Some(ended)) => ended,
            // The sender lives in `self`.
            _ => std::future::pending().await,
        }
    }

    /// What the cluster is told of it.
    fn report(&self) -> RunningSession {
        let mut command = self.command.clone();
        if let Some(text) = &mut command
            && text.len() > MAX_COMMAND
        {
            let end = (0..=MAX_COMMAND).rev().find(|at| text.is_char_boundary(*at));
            text.truncate(end.unwrap_or_default());
            text.push('…');
        }
        RunningSession {
            id: self.live.id,
            node: self.node,
            user: self.live.user.clone(),
            roles: self.roles.clone(),
            login: self.live.login.clone(),
            started: self.live.started,
            command,
            terminal: self.party.as_ref().map(|party| party.size().cells()),
            recorded: self.recorded,
            participants: self.party.as_ref().map(|party| party.participants()).unwrap_or_default(),
        }
    }
}

/// All sessions that are alive; clones share them.
#[derive(Clone, Debug, Default)]
pub struct SessionRegistry(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    sessions: Mutex<HashMap<SessionId, Arc<Running>>>,
    changed: Notify,
}

impl SessionRegistry {
    fn lock(&self) -> MutexGuard<'_, HashMap<SessionId, Arc<Running>>> {
        self.0.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The sessions, the oldest first.
    pub fn list(&self) -> Vec<LiveSession> {
        let mut sessions: Vec<LiveSession> =
            self.lock().values().map(|running| running.live.clone()).collect();
        sessions.sort_by_key(|session| (session.started, session.id));
        sessions
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A session that is alive.
    pub(crate) fn find(&self, id: SessionId) -> Option<Arc<Running>> {
        self.lock().get(&id).cloned()
    }

    /// What the cluster is told of each, the oldest first.
    pub(crate) fn report(&self) -> Vec<RunningSession> {
        let running: Vec<Arc<Running>> = self.lock().values().cloned().collect();
        let mut sessions: Vec<RunningSession> = running.iter().map(|running| running.report()).collect();
        sessions.sort_by_key(|session| (session.started, session.id));
        sessions
    }

    /// Resolves when something is to be told that was not told before: to one who waits. Cancel safe.
    pub(crate) async fn changed(&self) {
        self.0.changed.notified().await;
    }

    /// Something about a session is to be told.
    pub(crate) fn change(&self) {
        self.0.changed.notify_one();
    }

    /// Adds a session until the guard is dropped.
    pub(crate) fn enter(&self, running: Running) -> Registered {
        let (id, running) = (running.live.id, Arc::new(running));
        self.lock().insert(id, Arc::clone(&running));
        self.change();
        Registered { registry: self.clone(), running }
    }
}

/// A session is in the registry as long as this lives.
#[derive(Debug)]
pub(crate) struct Registered {
    registry: SessionRegistry,
    pub(crate) running: Arc<Running>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.registry.lock().remove(&self.running.live.id);
        self.registry.change();
    }
}
