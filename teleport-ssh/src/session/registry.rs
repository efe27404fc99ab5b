//! The sessions that are alive on this node.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use teleport_core::clock::Timestamp;
use teleport_core::id::{OsLogin, SessionId, UserName};

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

/// All sessions that are alive; clones share them.
#[derive(Clone, Debug, Default)]
pub struct SessionRegistry(Arc<Mutex<HashMap<SessionId, LiveSession>>>);

impl SessionRegistry {
    fn lock(&self) -> MutexGuard<'_, HashMap<SessionId, LiveSession>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The sessions, the oldest first.
    pub fn list(&self) -> Vec<LiveSession> {
        let mut sessions: Vec<LiveSession> = self.lock().values().cloned().collect();
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

    /// Adds a session until the guard is dropped.
    pub(crate) fn enter(
        &self,
        id: SessionId,
        user: &UserName,
        login: &OsLogin,
        started: Timestamp,
    ) -> Registered {
        self.lock().insert(id, LiveSession { id, user: user.clone(), login: login.clone(), started });
        Registered { registry: self.clone(), id }
    }
}

/// A session is in the registry as long as this lives.
#[derive(Debug)]
pub(crate) struct Registered {
    registry: SessionRegistry,
    id: SessionId,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.registry.lock().remove(&self.id);
    }
}
