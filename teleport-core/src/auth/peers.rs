//! The auth services that run: each says so, and where it keeps recordings, which has to be one place for all of them.
//!
//! A recording comes in parts, and each part may come to another service. So the place is a fact of the cluster: the first service
//! writes it down, and one that would keep recordings elsewhere is refused while others run. When it is alone it may move.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{AuthService, Inner};
use crate::api::{ApiError, ApiResult, AuthServerRecord};
use crate::cert::CLOCK_SKEW;
use crate::clock::Timestamp;
use crate::id::{HostId, NodeName, RunId};
use crate::storage::{Action, Batch, Condition, Record, Stored};

/// How long a service counts as running after it was last heard of.
const LEASE: Duration = Duration::from_secs(120);
/// How often whoever runs a service should call [`AuthService::take_part`].
pub const TAKE_PART_EVERY: Duration = Duration::from_secs(30);
/// How often a change is tried again when other services change the same.
const ATTEMPTS: usize = 16;

/// A place for recordings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "programs build it")]
pub struct KeptAt {
    /// What tells it from every other place, whatever it is called: a directory that two hosts share has one.
    pub id: String,
    /// How the service's configuration calls it.
    pub name: String,
}

/// An auth service of a cluster, as it takes part in it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "programs build it")]
pub struct Participant {
    /// Who it is.
    pub host_id: HostId,
    /// Its display name.
    pub name: NodeName,
    /// The version of its software.
    pub version: String,
    /// Where its API is reached: `host:port`.
    pub address: String,
    /// This run of it.
    pub run: RunId,
    /// Where it keeps recordings.
    pub recordings: KeptAt,
}

/// Why a service may not take part.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CannotTakePart {
    /// Other services that run keep recordings elsewhere.
    #[error(
        "recordings of the cluster are kept in {theirs} (by {}, which {} running), and those of this service would be kept in {ours}, which is \
         another place: several auth services need one that all of them reach; set storage.audit_sessions_uri to the same s3://… or \
         shared directory on each",
        Names(others), if others.len() == 1 { "is" } else { "are" }
    )]
    Recordings {
        /// The others.
        others: Vec<NodeName>,
        /// Where they keep them.
        theirs: String,
        /// Where this one would.
        ours: String,
    },
    /// Storage failed.
    #[error("whether other auth services run cannot be known")]
    Storage(#[from] ApiError),
}

struct Names<'a>(&'a [NodeName]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.0.iter().map(NodeName::as_str).collect();
        f.write_str(&names.join(", "))
    }
}

/// What is stored of a service that runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Running {
    host_id: HostId,
    name: NodeName,
    version: String,
    address: String,
    run: RunId,
    recordings: KeptAt,
    until: Timestamp,
}

impl Record for Running {
    const COLLECTION: &'static str = "auth-servers";

    fn key(&self) -> String {
        self.host_id.to_string()
    }

    fn expires(&self) -> Option<Timestamp> {
        Some(self.until)
    }
}

/// Where the cluster keeps recordings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Place {
    kept_at: KeptAt,
}

impl Record for Place {
    const COLLECTION: &'static str = "recording-place";

    fn key(&self) -> String {
        "cluster".to_owned()
    }
}

/// Those that run, as they are listed.
pub(super) async fn all(auth: &Inner, now: Timestamp) -> ApiResult<Vec<AuthServerRecord>> {
    let running = auth.auth_servers.list().await?.into_iter().map(|stored| stored.record);
    Ok(running
        .filter(|running| now < running.until)
        .map(|Running { host_id, name, version, address, until, .. }| AuthServerRecord {
            host_id,
            name,
            version,
            address,
            last_seen: until.saturating_sub(LEASE),
        })
        .collect())
}

impl AuthService {
    /// Says that this service runs, and that it keeps recordings where the cluster does. To be called before it serves, and
    /// every [`TAKE_PART_EVERY`] while it does.
    ///
    /// # Errors
    /// [`CannotTakePart`]: at the start, a reason not to serve.
    pub async fn take_part(&self, me: &Participant) -> Result<(), CannotTakePart> {
        let auth = &*self.0;
        // First: of two that start at once with different places, each sees the other one.
        say(auth, me).await?;
        compare_clocks(auth, me).await?;
        let taken = take_place(auth, me).await;
        if matches!(taken, Err(CannotTakePart::Recordings { .. })) {
            self.leave(me).await?;
        }
        taken
    }

    /// Says that this service has ended.
    ///
    /// # Errors
    /// [`ApiErrorKind::Unavailable`](crate::api::ApiErrorKind::Unavailable); it is believed to run for two minutes more.
    pub async fn leave(&self, me: &Participant) -> ApiResult<()> {
        let auth = &*self.0;
        let name = me.host_id.to_string();
        let Some(stored) = auth.auth_servers.get(&name).await? else { return Ok(()) };
        if stored.record.run != me.run {
            return Ok(());
        }
        let key = auth.auth_servers.key(&name)?;
        let batch = Batch::new().with(key, Condition::Is(stored.revision), Action::Delete);
        match auth.ports.backend.commit(batch).await {
            Err(error) if !error.is_conflict() => Err(error.into()),
            _ => Ok(()),
        }
    }
}

async fn say(auth: &Inner, me: &Participant) -> ApiResult<()> {
    let now = auth.ports.clock.now();
    let Participant { host_id, name, version, address, run, recordings } = me.clone();
    let until = now.saturating_add(LEASE);
    let record = Running { host_id, name, version, address, run, recordings, until };
    auth.auth_servers.write(&record, Condition::Any).await?;
    Ok(())
}

/// Says in the log whose clock is ahead of ours: what that service writes now comes from the future. One that is behind says so of us.
async fn compare_clocks(auth: &Inner, me: &Participant) -> ApiResult<()> {
    let running = auth.auth_servers.list().await?.into_iter().map(|stored| stored.record);
    for (other, ahead) in ahead(running, me.host_id, auth.ports.clock.now()) {
        let seconds = ahead.as_secs();
        tracing::warn!(
            %other,
            seconds,
            "THE CLOCKS OF AUTH SERVICES ARE APART: that of another one is ahead of this one's, so they do not agree about what has expired; set \
             both right"
        );
    }
    Ok(())
}

/// The others that have been heard of in the future, and by how much at least.
fn ahead(
    running: impl Iterator<Item = Running>,
    me: HostId,
    now: Timestamp,
) -> impl Iterator<Item = (NodeName, Duration)> {
    running.filter(move |other| other.host_id != me).filter_map(move |other| {
        let ahead = other.until.saturating_sub(LEASE).saturating_since(now);
        (ahead > CLOCK_SKEW).then_some((other.name, ahead))
    })
}

async fn take_place(auth: &Inner, me: &Participant) -> Result<(), CannotTakePart> {
    let ours = Place { kept_at: me.recordings.clone() };
    for _ in 0..ATTEMPTS {
        let stored = auth.recording_place.get(&ours.key()).await.map_err(ApiError::from)?;
        let written = match stored {
            None => auth.recording_place.create(&ours).await,
            Some(Stored { record, .. }) if record.kept_at.id == me.recordings.id => return Ok(()),
            Some(Stored { record, revision }) => {
                let now = auth.ports.clock.now();
                let running = auth.auth_servers.list().await.map_err(ApiError::from)?;
                let others = running.into_iter().map(|stored| stored.record).filter(|other| {
                    other.host_id != me.host_id
                        && now < other.until
                        && other.recordings.id != me.recordings.id
                });
                let others: Vec<NodeName> = others.map(|other| other.name).collect();
                if !others.is_empty() {
                    let (theirs, ours) = (record.kept_at.name, me.recordings.name.clone());
                    return Err(CannotTakePart::Recordings { others, theirs, ours });
                }
                tracing::warn!(
                    from = record.kept_at.name,
                    to = me.recordings.name,
                    "recordings are kept in another place from now on; what is in the old one is not looked for"
                );
                auth.recording_place.update(&ours, revision).await
            }
        };
        match written {
            Err(error) if error.is_conflict() => {}
            Err(error) => return Err(ApiError::from(error).into()),
            Ok(_) => return Ok(()),
        }
    }
    Err(super::context::contended().into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn clocks_that_are_ahead_are_told_and_those_that_agree_are_not() {
        let now = Timestamp::from_unix_secs(1_700_000_000);
        let said_at = |host: &str, at: Timestamp| Running {
            host_id: host.parse().unwrap(),
            name: NodeName::new("auth-2").unwrap(),
            version: String::new(),
            address: String::new(),
            run: RunId::random(&crate::testing::RepeatableEntropy::new(1)).unwrap(),
            recordings: KeptAt { id: String::new(), name: String::new() },
            until: at.saturating_add(LEASE),
        };
        let (me, other) = ("0f8fad5b-d9cb-469f-a165-70867728950e", "7c9e6679-7425-40de-944b-e07fc1f90ae7");
        let hour = Duration::from_secs(3600);
        for (host, at, expected) in [
            (other, now, None),
            (other, now.saturating_add(CLOCK_SKEW), None),
            (other, now.saturating_add(hour), Some(hour)),
            (other, now.saturating_sub(hour), None),
            (me, now.saturating_add(hour), None),
        ] {
            let told = ahead([said_at(host, at)].into_iter(), me.parse().unwrap(), now).next();
            assert_eq!(told.map(|(_, ahead)| ahead), expected, "{host} {at}");
        }
    }
}
