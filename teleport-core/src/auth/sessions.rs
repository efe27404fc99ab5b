//! Which host has which session, of those that were seen last.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Inner;
use crate::id::{HostId, SessionId, UserName};

/// Remembered sessions, at most. What was forgotten is asked again where it can be asked.
const MAX_REMEMBERED: usize = 16_384;

/// Whose a session is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    /// The host that has it.
    pub(super) host: HostId,
    /// The user, where the recording says it.
    pub(super) user: Option<UserName>,
}

/// Sessions and their owners. When there are too many, the host with the most of them loses its oldest: one that floods pushes
/// out its own.
#[derive(Debug, Default)]
pub(super) struct SessionOwners(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    owners: HashMap<SessionId, Owner>,
    /// The sessions of each host, oldest first.
    by_host: HashMap<HostId, VecDeque<SessionId>>,
}

impl State {
    fn forget(&mut self, session: SessionId) {
        let Some(owner) = self.owners.remove(&session) else { return };
        if let Some(sessions) = self.by_host.get_mut(&owner.host) {
            sessions.retain(|other| *other != session);
            if sessions.is_empty() {
                self.by_host.remove(&owner.host);
            }
        }
    }
}

impl SessionOwners {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn owner(&self, session: SessionId) -> Option<Owner> {
        self.lock().owners.get(&session).cloned()
    }

    pub(super) fn remember(&self, session: SessionId, owner: Owner) {
        let mut state = self.lock();
        if let Some(known) = state.owners.get_mut(&session)
            && known.host == owner.host
        {
            *known = owner;
            return;
        }
        state.forget(session);
        if state.owners.len() >= MAX_REMEMBERED {
            let most = state.by_host.values().max_by_key(|sessions| sessions.len());
            if let Some(oldest) = most.and_then(|sessions| sessions.front().copied()) {
                state.forget(oldest);
            }
        }
        state.by_host.entry(owner.host).or_default().push_back(session);
        state.owners.insert(session, owner);
    }

    pub(super) fn forget(&self, session: SessionId) {
        self.lock().forget(session);
    }
}

/// Whether another host has begun the session, as far as this service knows.
pub(super) fn is_foreign(auth: &Inner, host: HostId, session: SessionId) -> bool {
    let by_recording = auth.session_hosts.owner(session);
    let owner = by_recording.or_else(|| auth.session_reporters.owner(session));
    owner.is_some_and(|owner| owner.host != host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_floods_pushes_out_its_own() {
        let owners = SessionOwners::default();
        let host = |number| HostId::from_uuid(uuid::Uuid::from_u64_pair(0x1234_5678_4000_8000, number));
        let session = |number| SessionId::from_uuid(uuid::Uuid::from_u64_pair(0x1234_5678_4000_8000, number));
        let of = |number| Owner { host: host(number), user: None };
        for number in 0..100 {
            owners.remember(session(number), of(1));
        }
        for number in 1000..1000 + 2 * MAX_REMEMBERED as u64 {
            owners.remember(session(number), of(2));
        }
        for number in 0..100 {
            assert_eq!(owners.owner(session(number)), Some(of(1)), "{number}");
        }
        assert_eq!(owners.lock().owners.len(), MAX_REMEMBERED);
        owners.forget(session(7));
        assert_eq!(owners.owner(session(7)), None);
        let state = owners.lock();
        assert_eq!(state.owners.len(), state.by_host.values().map(VecDeque::len).sum::<usize>());
    }
}
