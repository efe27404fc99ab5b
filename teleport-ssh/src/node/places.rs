//! The places of users whose roles allow only so many connections in the cluster: taken when somebody was let in, prolonged while
//! the connection lives, given back when it ends.
//!
//! Who may have only so many is refused, and in the end sent away, while nobody can say how many there are.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use teleport_core::api::{
    CONNECTION_LEASE, ConnectionApi, ConnectionClaim, HeldConnections, HoldConnections, ReleaseConnections,
};
use teleport_core::entropy::Entropy;
use teleport_core::id::{ConnectionId, RunId, UserName};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// How old a lease is when it is prolonged.
const PROLONG: Duration = Duration::from_secs(CONNECTION_LEASE.as_secs() / 3);
/// How soon it is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// How long an answer is waited for.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Why a connection has no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoPlace {
    #[error("{most} connections to nodes of the cluster are open, the most that the roles allow")]
    TooMany {
        /// The most.
        most: u64,
    },
    #[error("how many connections are open is not known: the auth service cannot be asked")]
    Unknown,
}

/// How a place stands.
#[derive(Clone, Copy, Debug)]
enum Standing {
    /// Until then, if nothing is heard.
    Held(Instant),
    /// It had run out, and somebody else has taken it.
    Lost,
}

#[derive(Debug)]
struct Held {
    claim: ConnectionClaim,
    /// When it was last asked for with success.
    asked: Instant,
    standing: watch::Sender<Standing>,
}

#[derive(Debug, Default)]
struct State {
    held: HashMap<ConnectionId, Held>,
    ended: Vec<(UserName, ConnectionId)>,
}

/// The places of a node. Clones share them.
#[derive(Clone)]
pub(super) struct Places(Arc<Inner>);

struct Inner {
    api: Arc<dyn ConnectionApi>,
    entropy: Arc<dyn Entropy>,
    run: OnceLock<RunId>,
    state: Mutex<State>,
    changed: Notify,
}

impl fmt::Debug for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Places").field("held", &self.state().held.len()).finish_non_exhaustive()
    }
}

/// A connection's place. Given back when it is dropped, if not before.
#[derive(Debug)]
pub(super) struct Place {
    places: Places,
    id: ConnectionId,
    user: UserName,
    most: u64,
    standing: watch::Receiver<Standing>,
    given_back: AtomicBool,
}

impl Places {
    /// None are held yet.
    pub(super) fn new(api: Arc<dyn ConnectionApi>, entropy: Arc<dyn Entropy>) -> Self {
        let (state, changed) = (Mutex::default(), Notify::new());
        Self(Arc::new(Inner { api, entropy, run: OnceLock::new(), state, changed }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run_id(&self) -> Result<RunId, NoPlace> {
        if let Some(run) = self.0.run.get() {
            return Ok(*run);
        }
        let run = RunId::random(&*self.0.entropy).map_err(|_| NoPlace::Unknown)?;
        Ok(*self.0.run.get_or_init(|| run))
    }

    /// Takes a place for a connection of `user`, who may have `most`. Dropping the future gives back what may have been taken.
    ///
    /// # Errors
    /// [`NoPlace`], at the latest after [`ANSWER_LIMIT`].
    pub(super) async fn take(&self, user: &UserName, most: u64) -> Result<Place, NoPlace> {
        let id = ConnectionId::random(&*self.0.entropy).map_err(|_| NoPlace::Unknown)?;
        let claim = ConnectionClaim { id, user: user.clone(), most };
        let asked = Instant::now();
        let (standing, receiver) = watch::channel(Standing::Held(asked + CONNECTION_LEASE));
        let place = Place {
            places: self.clone(),
            id,
            user: user.clone(),
            most,
            standing: receiver,
            given_back: AtomicBool::new(false),
        };
        if self.ask(vec![claim.clone()]).await?.refused.contains(&id) {
            // There is nothing to give back.
            place.given_back.store(true, Ordering::Relaxed);
            return Err(NoPlace::TooMany { most });
        }
        self.state().held.insert(id, Held { claim, asked, standing });
        self.0.changed.notify_one();
        Ok(place)
    }

    async fn ask(&self, connections: Vec<ConnectionClaim>) -> Result<HeldConnections, NoPlace> {
        let asking = self.0.api.hold_connections(HoldConnections { run: self.run_id()?, connections });
        match tokio::time::timeout(ANSWER_LIMIT, asking).await {
            Ok(Ok(held)) => Ok(held),
            Ok(Err(error)) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "the auth service does not say how many connections there are");
                Err(NoPlace::Unknown)
            }
            Err(_) => {
                tracing::warn!("the auth service does not say in time how many connections there are");
                Err(NoPlace::Unknown)
            }
        }
    }

    /// Prolongs places before they run out and gives those back that have ended, for ever. Dropping the future ends it.
    pub(super) async fn attend(&self) {
        loop {
            self.give_back().await;
            let next = self.prolong().await;
            let changed = self.0.changed.notified();
            match next {
                Some(next) => {
                    let _ = tokio::time::timeout_at(next, changed).await;
                }
                None => changed.await,
            }
        }
    }

    /// Prolongs the places for which it is time. Says when to look again; `None` while there are none.
    async fn prolong(&self) -> Option<Instant> {
        let due: Vec<ConnectionClaim> = {
            let (state, now) = (self.state(), Instant::now());
            let due = state.held.values().filter(|held| held.asked + PROLONG <= now);
            due.map(|held| held.claim.clone()).collect()
        };
        let mut again = None;
        for claims in due.chunks(HoldConnections::MAX) {
            let asked = Instant::now();
            let Ok(answer) = self.ask(claims.to_vec()).await else {
                again = Some(Instant::now() + RETRY);
                break;
            };
            let mut state = self.state();
            for claim in claims {
                let Some(held) = state.held.get_mut(&claim.id) else { continue };
                if answer.refused.contains(&claim.id) {
                    held.standing.send_replace(Standing::Lost);
                    state.held.remove(&claim.id);
                } else {
                    held.asked = asked;
                    held.standing.send_replace(Standing::Held(asked + CONNECTION_LEASE));
                }
            }
        }
        again.or_else(|| self.state().held.values().map(|held| held.asked + PROLONG).min())
    }

    /// Gives back the places of connections that have ended. What the auth service does not take runs out by itself.
    pub(super) async fn give_back(&self) {
        let ended = std::mem::take(&mut self.state().ended);
        for connections in ended.chunks(HoldConnections::MAX) {
            let request = ReleaseConnections { connections: connections.to_vec() };
            let released = tokio::time::timeout(ANSWER_LIMIT, self.0.api.release_connections(request)).await;
            if !matches!(released, Ok(Ok(()))) {
                tracing::debug!(
                    "places of connections that have ended could not be given back; they run out"
                );
                return;
            }
        }
    }
}

impl Place {
    /// Resolves when the connection has its place no more, and says why. Cancel safe.
    pub(super) async fn lost(&self) -> NoPlace {
        let mut standing = self.standing.clone();
        loop {
            let until = match *standing.borrow_and_update() {
                Standing::Held(until) => until,
                Standing::Lost => return NoPlace::TooMany { most: self.most },
            };
            if Instant::now() >= until {
                return NoPlace::Unknown;
            }
            tokio::select! {
                () = tokio::time::sleep_until(until) => {}
                // The sender goes when the place is given back: then there is nothing to be told of.
                Ok(()) = standing.changed() => {}
            }
        }
    }

    /// The connection has ended.
    pub(super) fn give_back(&self) {
        if !self.given_back.swap(true, Ordering::Relaxed) {
            let mut state = self.places.state();
            state.held.remove(&self.id);
            state.ended.push((self.user.clone(), self.id));
            drop(state);
            self.places.0.changed.notify_one();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.give_back();
    }
}

#[cfg(test)]
mod tests;
