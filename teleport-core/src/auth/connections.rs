//! The connections of users who may have only so many in the cluster: places that nodes take, prolong and give back.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::context::{OpContext, contended};
use super::policy::Permit;
use crate::api::{
    ApiError, ApiResult, CONNECTION_LEASE, ConnectionClaim, HeldConnections, HoldConnections,
    ReleaseConnections,
};
use crate::clock::Timestamp;
use crate::id::{ConnectionId, HostId, RunId, UserName};
use crate::storage::{Action, Backend, Batch, Condition, Record, Repo, Stored};

/// The most places of one user, whatever roles say: all of them are one stored value.
const MAX_PLACES: usize = 2048;
/// How often a change is tried again when other services change the same user's places.
const ATTEMPTS: usize = 64;
/// How many users' places are changed at the same time by this service.
const TURNS: usize = 16;

/// A place that a node has taken for a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Place {
    id: ConnectionId,
    host: HostId,
    run: RunId,
    until: Timestamp,
}

/// The places of one user, on all nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Places {
    user: UserName,
    places: Vec<Place>,
}

impl Record for Places {
    const COLLECTION: &'static str = "user-connections";

    fn key(&self) -> String {
        self.user.to_string()
    }

    fn expires(&self) -> Option<Timestamp> {
        self.places.iter().map(|place| place.until).max()
    }
}

impl Places {
    fn new(user: UserName) -> Self {
        Self { user, places: Vec::new() }
    }

    /// Frees what has run out, and what an earlier run of the host has left behind: its connections ended with it.
    fn sweep(&mut self, host: HostId, run: RunId, now: Timestamp) {
        self.places.retain(|place| place.until > now && (place.host != host || place.run == run));
    }

    /// Prolongs the place of a connection, or takes one if there are less than `most`; whether it has one now.
    fn hold(&mut self, host: HostId, run: RunId, id: ConnectionId, most: u64, now: Timestamp) -> bool {
        let until = now.saturating_add(CONNECTION_LEASE);
        if let Some(place) = self.places.iter_mut().find(|place| place.id == id && place.host == host) {
            // Of two calls at the same time the later one may come first.
            place.until = place.until.max(until);
            return true;
        }
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(MAX_PLACES);
        let free = self.places.len() < most;
        if free {
            self.places.push(Place { id, host, run, until });
        }
        free
    }

    fn release(&mut self, host: HostId, id: ConnectionId) {
        self.places.retain(|place| place.id != id || place.host != host);
    }
}

/// Where places are kept.
#[derive(Debug)]
pub(super) struct Connections {
    stored: Repo<Places>,
    /// Who wants to change the same user's places waits here, and not by losing conditional writes. Other services are not
    /// waited for: the condition is what counts.
    turns: [Mutex<()>; TURNS],
}

impl Connections {
    pub(super) fn new(backend: Arc<dyn Backend>) -> Self {
        Self { stored: Repo::new(backend), turns: std::array::from_fn(|_| Mutex::new(())) }
    }

    fn turn(&self, user: &UserName) -> Option<&Mutex<()>> {
        let mut hasher = DefaultHasher::new();
        user.hash(&mut hasher);
        self.turns.get(usize::try_from(hasher.finish() % TURNS as u64).unwrap_or_default())
    }
}

/// Changes a user's places, all or nothing; the change may be carried out several times on newer states.
async fn change<T>(
    call: &OpContext<'_>,
    user: &UserName,
    mut change: impl FnMut(&mut Places) -> T,
) -> ApiResult<T> {
    let connections = &call.auth.connections;
    let _turn = match connections.turn(user) {
        Some(turn) => Some(turn.lock().await),
        None => None,
    };
    let key = connections.stored.key(user.as_str())?;
    for _ in 0..ATTEMPTS {
        let stored = connections.stored.get(user.as_str()).await?;
        let condition = stored.as_ref().map_or(Condition::Absent, |stored| Condition::Is(stored.revision));
        let before = stored.map_or_else(|| Places::new(user.clone()), |Stored { record, .. }| record);
        let mut places = before.clone();
        let outcome = change(&mut places);
        if places == before {
            return Ok(outcome);
        }
        let batch = if places.places.is_empty() {
            Batch::new().with(key.clone(), condition, Action::Delete)
        } else {
            connections.stored.write_in(Batch::new(), &places, condition)?
        };
        match call.auth.ports.backend.commit(batch).await {
            Err(error) if error.is_conflict() => {}
            written => {
                written?;
                return Ok(outcome);
            }
        }
    }
    Err(contended())
}

/// What belongs to each user, one user after another.
fn by_user<T>(items: Vec<T>, user: impl Fn(&T) -> &UserName) -> ApiResult<Vec<Vec<T>>> {
    if items.len() > HoldConnections::MAX {
        return Err(ApiError::invalid(format!("at most {} connections in one call", HoldConnections::MAX)));
    }
    let mut users: Vec<Vec<T>> = Vec::new();
    for item in items {
        match users.iter_mut().find(|group| group.first().is_some_and(|first| user(first) == user(&item))) {
            Some(group) => group.push(item),
            None => users.push(vec![item]),
        }
    }
    Ok(users)
}

pub(super) async fn hold(
    call: &OpContext<'_>,
    permit: Permit<'_>,
    request: HoldConnections,
) -> ApiResult<HeldConnections> {
    let host = permit.host().ok_or_else(ApiError::denied)?.host_id;
    let run = request.run;
    let mut held = HeldConnections::default();
    for claims in by_user(request.connections, |claim| &claim.user)? {
        let Some(ConnectionClaim { user, .. }) = claims.first() else { continue };
        let refused = change(call, user, |places| {
            places.sweep(host, run, call.now);
            let refused =
                claims.iter().filter(|claim| !places.hold(host, run, claim.id, claim.most, call.now));
            refused.map(|claim| claim.id).collect::<Vec<_>>()
        });
        held.refused.extend(refused.await?);
    }
    Ok(held)
}

pub(super) async fn release(
    call: &OpContext<'_>,
    permit: Permit<'_>,
    request: ReleaseConnections,
) -> ApiResult<()> {
    let host = permit.host().ok_or_else(ApiError::denied)?.host_id;
    for ended in by_user(request.connections, |(user, _)| user)? {
        let Some((user, _)) = ended.first() else { continue };
        change(call, user, |places| ended.iter().for_each(|(_, id)| places.release(host, *id))).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn uuid(number: u64) -> uuid::Uuid {
        uuid::Uuid::from_u64_pair(0x1234_5678_4000_8000, number)
    }

    fn id(number: u64) -> ConnectionId {
        ConnectionId::from_uuid(uuid(number))
    }

    #[derive(Clone, Debug)]
    enum Step {
        Hold { host: u64, run: u64, id: u64, most: u64 },
        Release { host: u64, id: u64 },
        Wait(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0..3_u64, 0..2_u64, 0..8_u64, 0..4_u64)
                .prop_map(|(host, run, id, most)| Step::Hold { host, run, id, most }),
            1 => (0..3_u64, 0..8_u64).prop_map(|(host, id)| Step::Release { host, id }),
            1 => (0..150_u64).prop_map(Step::Wait),
        ];
        proptest::collection::vec(step, 0..60)
    }

    proptest! {
        /// Whatever nodes do: who gets a place is one of at most `most`, a place lasts as long as it says and no longer, and
        /// nobody loses one by what another host does.
        #[test]
        fn nobody_has_more_than_the_most(steps in steps()) {
            let mut now = Timestamp::from_unix_secs(1_800_000_000);
            let mut places = Places::new("alice".parse().unwrap());
            // Host, run, connection, end.
            let mut model: Vec<(u64, u64, u64, Timestamp)> = Vec::new();
            for step in steps {
                match step {
                    Step::Hold { host, run, id: number, most } => {
                        let (host_id, run_id) = (HostId::from_uuid(uuid(host)), RunId::from_uuid(uuid(run)));
                        places.sweep(host_id, run_id, now);
                        let got = places.hold(host_id, run_id, id(number), most, now);
                        model.retain(|(other, its, _, until)| *until > now && (*other != host || *its == run));
                        let known = model.iter().position(|(other, _, its, _)| (*other, *its) == (host, number));
                        let expected = known.is_some() || (model.len() as u64) < most;
                        prop_assert_eq!(got, expected);
                        if got {
                            if let Some(known) = known {
                                model.remove(known);
                            }
                            model.push((host, run, number, now.saturating_add(CONNECTION_LEASE)));
                        }
                    }
                    Step::Release { host, id: number } => {
                        places.release(HostId::from_uuid(uuid(host)), id(number));
                        model.retain(|(other, _, its, _)| (*other, *its) != (host, number));
                    }
                    Step::Wait(seconds) => now = now.saturating_add(Duration::from_secs(seconds)),
                }
                prop_assert_eq!(places.places.len(), model.len());
                prop_assert_eq!(places.expires(), model.iter().map(|(.., until)| *until).max());
            }
        }
    }

    #[test]
    fn there_is_a_most_whatever_roles_say() {
        let now = Timestamp::from_unix_secs(1_800_000_000);
        let mut places = Places::new("alice".parse().unwrap());
        let (host, run) = (HostId::from_uuid(uuid(1)), RunId::from_uuid(uuid(2)));
        let taken =
            (0..MAX_PLACES as u64 + 5).filter(|number| places.hold(host, run, id(*number), u64::MAX, now));
        assert_eq!(taken.count(), MAX_PLACES);
        // All of it is one value, which has a longest length.
        assert!(serde_json::to_vec(&places).unwrap().len() < crate::storage::MAX_VALUE_LEN / 2);
    }
}
